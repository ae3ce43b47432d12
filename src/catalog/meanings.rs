//! The way back: from a reference to the names and versions that it stands for.

use super::{Catalog, version_of};
use crate::oci::Reference;
use crate::oci::reference::Repository;
use crate::plugin::{PluginName, Version};
use std::collections::HashMap;

/// What lies where, of listed names.
#[derive(Debug, Default)]
pub(super) struct Meanings {
    names: HashMap<Repository, Vec<PluginName>>,
    lines: HashMap<Reference, Vec<(PluginName, Version)>>,
}

impl Meanings {
    fn of(catalog: &Catalog) -> Self {
        let mut meanings = Self::default();
        for (name, entry) in &catalog.plugins {
            for place in catalog.places(name) {
                let names = meanings.names.entry(place).or_default();
                if names.last() != Some(name) {
                    names.push(name.clone());
                }
            }
            for (version, line) in &entry.lines {
                meanings.lines.entry(line.clone()).or_default().push((name.clone(), version.clone()));
            }
        }
        meanings
    }
}

impl Catalog {
    /// The names whose versions lie in `repository`.
    pub fn names_of(&self, repository: &Repository) -> Vec<PluginName> {
        let meanings = self.meanings.get_or_init(|| Meanings::of(self));
        let mut names = meanings.names.get(repository).cloned().unwrap_or_default();
        let by_template = self.template.as_ref().and_then(|template| template.name_of(repository));
        names.extend(by_template.filter(|name| !self.plugins.contains_key(name)));
        names
    }

    /// All that `reference` stands for, as plans have it.
    pub fn meanings(&self, reference: &Reference) -> Vec<(PluginName, Version)> {
        let names = self.names_of(&reference.repository()).into_iter();
        let meanings = self.meanings.get_or_init(|| Meanings::of(self));
        let lines = meanings.lines.get(reference).into_iter().flatten().cloned();
        names.map(|name| (name, version_of(reference))).chain(lines).collect()
    }
}
