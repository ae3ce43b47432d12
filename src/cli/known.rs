//! What a larder says that it holds, read as a gateway would be answered.

use super::check_policy;
use crate::admin::entries::{Entry, State};
use crate::bundle::{Plugin, Signatures};
use crate::catalog::{Catalog, Why, version_of};
use crate::oci::{Digest, Reference};
use crate::plugin::{PluginName, Request};
use crate::policy::{Gate, Refusal};
use std::collections::{BTreeMap, BTreeSet};

/// What a larder knows.
pub struct Known(pub Vec<Entry>);

/// What is held and may not be served, by its reference, and why.
pub type Withheld = BTreeMap<Reference, Refusal>;

impl Known {
    /// What of `entries` `gate` does not withhold under all names that it stands for; and what it does, which is as if it
    /// were not held.
    pub fn judged(mut entries: Vec<Entry>, gate: &Gate) -> (Self, Withheld) {
        let mut withheld = Withheld::new();
        entries.retain(|entry| {
            let verdicts = check_policy::verdicts(gate, entry);
            if !Self::is_held(entry) || verdicts.is_empty() || verdicts.iter().any(|v| v.verdict.is_ok()) {
                return true;
            }
            let refusal = verdicts.into_iter().find_map(|judged| judged.verdict.err());
            withheld.extend(entry.key.parse().ok().zip(refusal));
            false
        });
        (Self(entries), withheld)
    }

    /// Whether its bytes are here.
    pub fn is_held(entry: &Entry) -> bool {
        matches!(entry.state, State::Fresh | State::Stale)
    }

    /// What resolves to bytes that are here.
    pub fn references(&self) -> impl Iterator<Item = Reference> {
        self.0.iter().filter(|entry| Self::is_held(entry)).filter_map(|entry| entry.key.parse().ok())
    }

    /// The entry of a reference.
    pub fn of(&self, reference: &Reference) -> Option<&Entry> {
        let key = reference.to_string();
        self.0.iter().find(|entry| entry.key == key)
    }

    fn is_absent(&self, reference: &Reference) -> bool {
        self.of(reference).is_some_and(|entry| entry.state == State::Absent)
    }

    /// What a gateway would get of what is held. A step is left only when all of it is known not to exist.
    pub fn held(&self, catalog: &Catalog, request: &Request) -> Option<Reference> {
        let plan = catalog.plan(request);
        let mut step = Why::Exact;
        let mut unknown = false;
        for candidate in plan.candidates {
            if candidate.why != step && unknown {
                return None;
            }
            step = candidate.why;
            match self.of(&candidate.reference) {
                Some(entry) if Self::is_held(entry) => return Some(candidate.reference),
                Some(entry) if entry.state == State::Absent => {}
                _ => unknown = true,
            }
        }
        None
    }

    /// What the list says of a reference that is held.
    pub fn plugin(&self, catalog: &Catalog, reference: &Reference) -> Option<Plugin> {
        let entry = self.of(reference).filter(|entry| Self::is_held(entry))?;
        let (aliases, absent) = self.aliases(catalog, &entry.plugin, reference);
        Some(Plugin {
            name: entry.plugin.clone(),
            version: version_of(reference).to_string(),
            reference: reference.clone(),
            manifest: entry.manifest.as_ref()?.parse::<Digest>().ok()?,
            module: entry.digest.as_ref()?.parse::<Digest>().ok()?,
            size: entry.size?,
            aliases,
            absent,
            signatures: Signatures::new(),
        })
    }

    /// Versions that are known not to exist and that a reference answers for, and the references of those.
    fn aliases(&self, catalog: &Catalog, name: &str, reference: &Reference) -> (Vec<String>, Vec<Reference>) {
        let Ok(name) = name.parse::<PluginName>() else { return Default::default() };
        let places = catalog.places(&name);
        let absent = self.0.iter().filter(|entry| entry.state == State::Absent);
        let absent = absent.filter_map(|entry| entry.key.parse::<Reference>().ok());
        let versions: BTreeSet<_> = absent
            .filter(|absent| places.iter().any(|place| place.holds(absent)))
            .map(|absent| version_of(&absent))
            .collect();
        let (mut aliases, mut references) = (Vec::new(), BTreeSet::new());
        for version in versions {
            let request = Request { name: name.clone(), version: Some(version.clone()) };
            let before: Vec<_> =
                catalog.plan(&request).candidates.into_iter().map(|candidate| candidate.reference).collect();
            let Some(at) = before.iter().position(|candidate| candidate == reference) else { continue };
            if before[..at].iter().all(|before| self.is_absent(before)) && at > 0 {
                aliases.push(version.to_string());
                references.extend(before[..at].iter().cloned());
            }
        }
        (aliases, references.into_iter().collect())
    }
}
