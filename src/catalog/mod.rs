//! The catalog: which references may answer for a plugin's name and version, and in which order.
//!
//! A URL's version is not an OCI tag and a plugin's name is not a repository; both were learned from gateways that
//! did not start. So a request becomes a list of [`Candidate`]s:
//!
//! 1. **exact**: a line `name@version=reference`, else the asked version as the tag in each repository of the name;
//! 2. **alias**: what the operator says the version means, for this plugin or for all;
//! 3. **fallback**: the catalog's own reference for the name, where that is switched on.
//!
//! A later step is asked only when the registry said of every candidate before it that there is no such thing; an
//! unreachable registry proves nothing (`cache` holds that rule). A name's repositories are those configured for it,
//! else the repository of its line in a properties file, else what the template makes of it. Without any of these the
//! name never reaches a registry.

mod meanings;
pub mod patterns;
pub mod properties;
pub mod template;

use crate::oci::Reference;
use crate::oci::reference::Repository;
use crate::plugin::{PluginName, Request, Version};
use arc_swap::ArcSwap;
use meanings::Meanings;
use patterns::Pattern;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use template::Template;

/// The catalog that is built in: what Higress Console has built in, and where it lies upstream.
pub const BUILTIN: &str = include_str!("../../conf/higress-plugins.properties");

/// Settings of the catalog.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether [`BUILTIN`] is read before `files`.
    pub builtin: bool,
    /// Properties files; lines of later ones win.
    pub files: Vec<std::path::PathBuf>,
    /// Reference for names without a line, with `{name}` and `{version}`; `null` allows listed names only.
    pub template: Option<String>,
    /// Whether the catalog's tag answers for a version that the registry says does not exist.
    pub fallback: bool,
    /// Versions that mean another version, for every plugin.
    pub aliases: BTreeMap<String, String>,
    /// Rules for single plugins.
    pub plugins: BTreeMap<String, PluginConfig>,
}

/// Settings of one plugin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginConfig {
    /// `host/path` in the order in which they are asked.
    pub repositories: Vec<String>,
    /// Versions that mean another version; they win over the global ones.
    pub aliases: BTreeMap<String, String>,
}

/// Something wrong in a catalog: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `file:line`, or the configuration key.
    pub place: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// Which step of the search a candidate belongs to, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// What was asked for.
    Exact,
    /// What an alias says it means.
    Alias,
    /// The catalog's own reference for the name.
    Fallback,
}

impl Why {
    /// The word for answers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Alias => "alias",
            Self::Fallback => "fallback",
        }
    }
}

/// A reference that may answer a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Where to look.
    pub reference: Reference,
    /// The version that it stands for: its tag or digest, or what the line says that names it.
    pub version: Version,
    /// Why there.
    pub why: Why,
}

/// What a request may be answered from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Versions under which a local overlay may hold it, in order, with the step each belongs to.
    pub versions: Vec<(Version, Why)>,
    /// References, in order; steps never go backwards.
    pub candidates: Vec<Candidate>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The reference of the name's last line.
    reference: Option<Reference>,
    /// `name@version` lines.
    lines: BTreeMap<Version, Reference>,
    repositories: Vec<Repository>,
    aliases: BTreeMap<Version, Version>,
}

/// Everything that says what a URL means. Replaced as a whole when the settings change.
pub struct Names {
    /// Names and versions.
    pub catalog: Arc<Catalog>,
    /// URLs.
    pub patterns: Vec<Pattern>,
}

/// The names in use.
pub type Live = Arc<ArcSwap<Names>>;

/// See the module's text.
#[derive(Debug)]
pub struct Catalog {
    plugins: BTreeMap<PluginName, Entry>,
    template: Option<Template>,
    fallback: bool,
    aliases: BTreeMap<Version, Version>,
    /// What references stand for, once somebody asks.
    meanings: OnceLock<Meanings>,
}

impl Catalog {
    /// Builds the catalog from its settings and the texts of `config.files`, each with its name for messages.
    ///
    /// # Errors
    /// All faults at once, each with its place.
    pub fn build(config: &Config, files: &[(String, String)]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut plugins: BTreeMap<PluginName, Entry> = BTreeMap::new();
        let builtin = config.builtin.then_some(("built-in catalog", BUILTIN));
        for (source, text) in builtin.into_iter().chain(files.iter().map(|(n, t)| (n.as_str(), t.as_str()))) {
            let lines = properties::parse(source, text, &mut faults);
            // Who names a plugin anew takes it over: an earlier file's line for one version must not lead elsewhere.
            for line in lines.iter().filter(|line| line.version.is_none()) {
                plugins.remove(&line.name);
            }
            for line in lines {
                let entry = plugins.entry(line.name).or_default();
                match line.version {
                    Some(version) => drop(entry.lines.insert(version, line.reference)),
                    None => entry.reference = Some(line.reference),
                }
            }
        }
        for (name, rules) in &config.plugins {
            let place = format!("catalog.plugins.{name}");
            let mut fault = |problem: String| faults.push(Fault { place: place.clone(), problem });
            let Ok(name) = name.parse::<PluginName>().map_err(|e| fault(e.to_string())) else {
                continue;
            };
            let entry = plugins.entry(name).or_default();
            for repository in &rules.repositories {
                match repository.parse() {
                    Ok(repository) => entry.repositories.push(repository),
                    Err(e) => fault(format!("repositories: {e}")),
                }
            }
            entry.aliases = aliases(&rules.aliases, &place, &mut faults);
        }
        let template = config.template.as_deref().filter(|t| !t.is_empty()).and_then(|text| {
            let fault = |problem| Fault { place: "catalog.template".into(), problem };
            text.parse().map_err(|problem| faults.push(fault(problem))).ok()
        });
        let global = aliases(&config.aliases, "catalog", &mut faults);
        if faults.is_empty() {
            let meanings = OnceLock::new();
            Ok(Self { plugins, template, fallback: config.fallback, aliases: global, meanings })
        } else {
            Err(faults)
        }
    }

    /// True when the name has a line or a rule of its own.
    pub fn lists(&self, name: &str) -> bool {
        name.parse::<PluginName>().is_ok_and(|name| self.plugins.contains_key(&name))
    }

    /// The names that have a line or a rule, in order.
    pub fn names(&self) -> impl Iterator<Item = &PluginName> {
        self.plugins.keys()
    }

    /// True when names that are not listed may be asked for, by the template.
    pub fn is_open(&self) -> bool {
        self.template.is_some()
    }

    /// The version that a URL without one means: the tag or digest of the name's line.
    pub fn default_version(&self, name: &PluginName) -> Option<Version> {
        self.plugins.get(name)?.reference.as_ref().map(version_of)
    }

    /// The versions that the catalog itself names: the line's, and those of `name@version` lines.
    pub fn versions(&self, name: &PluginName) -> BTreeSet<Version> {
        let entry = self.plugins.get(name);
        let lines = entry.into_iter().flat_map(|entry| entry.lines.keys().cloned());
        lines.chain(self.default_version(name)).collect()
    }

    /// The name's lines for single versions.
    pub fn lines(&self, name: &PluginName) -> impl Iterator<Item = (&Version, &Reference)> {
        self.plugins.get(name).into_iter().flat_map(|entry| &entry.lines)
    }

    /// What may answer `request`; no candidates when no rule allows the name, or when it has no version and the catalog
    /// names none.
    pub fn plan(&self, request: &Request) -> Plan {
        let entry = self.plugins.get(&request.name);
        let own = entry.and_then(|entry| entry.reference.as_ref());
        let repositories = self.repositories(&request.name);
        let mut plan = Plan { versions: Vec::new(), candidates: Vec::new() };
        let asked = request.version.clone().or_else(|| own.map(version_of));
        if let Some(asked) = &asked {
            match entry.and_then(|entry| entry.lines.get(asked)) {
                Some(line) => plan.add(asked, [line.clone()], Why::Exact),
                None => plan.add(asked, at(&repositories, asked), Why::Exact),
            }
            let alias = entry.and_then(|entry| entry.aliases.get(asked)).or_else(|| self.aliases.get(asked));
            if let Some(meant) = alias {
                match entry.and_then(|entry| entry.lines.get(meant)) {
                    Some(line) => plan.add(meant, [line.clone()], Why::Alias),
                    None => plan.add(meant, at(&repositories, meant), Why::Alias),
                }
            }
        }
        // A digest names bytes: nothing else may answer for it. A URL without a version means the line itself.
        let replaceable = !matches!(request.version, Some(Version::Digest(_)));
        if let Some(own) = own.filter(|_| replaceable && (self.fallback || request.version.is_none())) {
            plan.add(&version_of(own), [own.clone()], Why::Fallback);
        }
        plan
    }

    /// Where the name's versions lie: the repositories configured for it, else its line's, else the template's.
    pub fn repositories(&self, name: &PluginName) -> Vec<Repository> {
        let entry = self.plugins.get(name);
        if let Some(entry) = entry.filter(|entry| !entry.repositories.is_empty()) {
            return entry.repositories.clone();
        }
        if let Some(reference) = entry.and_then(|entry| entry.reference.as_ref()) {
            return vec![reference.repository()];
        }
        self.template.iter().filter_map(|template| template.repository(name)).collect()
    }

    /// Where versions of the name may be held: its repositories, and that of its line.
    pub fn places(&self, name: &PluginName) -> Vec<Repository> {
        let mut places = self.repositories(name);
        let own =
            self.plugins.get(name).and_then(|entry| entry.reference.as_ref()).map(Reference::repository);
        places.extend(own.filter(|own| !places.contains(own)).into_iter().collect::<Vec<_>>());
        places
    }

    /// Up to three listed names that look most like `name`, best first.
    pub fn nearest(&self, name: &str) -> Vec<&PluginName> {
        /// Chosen so that `ai-prxy` finds `ai-proxy` and `foo` finds nothing.
        const ALIKE: f64 = 0.85;
        let score = |listed: &&PluginName| strsim::jaro_winkler(name, listed.as_str());
        let mut scored: Vec<_> =
            self.names().map(|listed| (score(&listed), listed)).filter(|(s, _)| *s >= ALIKE).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        scored.into_iter().take(3).map(|(_, listed)| listed).collect()
    }

    /// The registries that it may ask, as written.
    pub fn registries(&self) -> BTreeSet<String> {
        let entries = self.plugins.values().flat_map(|entry| {
            let references =
                entry.reference.iter().chain(entry.lines.values()).map(|r| r.registry().to_owned());
            references.chain(entry.repositories.iter().map(|r| r.registry().to_owned()))
        });
        entries.chain(self.template.iter().map(|t| t.registry().to_owned())).collect()
    }
}

impl Plan {
    fn add(&mut self, version: &Version, references: impl IntoIterator<Item = Reference>, why: Why) {
        if !self.versions.iter().any(|(known, _)| known == version) {
            self.versions.push((version.clone(), why));
        }
        for reference in references {
            if !self.candidates.iter().any(|known| known.reference == reference) {
                self.candidates.push(Candidate { reference, version: version.clone(), why });
            }
        }
    }
}

fn at(repositories: &[Repository], version: &Version) -> Vec<Reference> {
    let point = |repository: &Repository| match version {
        Version::Tag(tag) => Reference::tagged(repository, tag).ok(),
        Version::Digest(digest) => Some(Reference::digested(repository, *digest)),
    };
    repositories.iter().filter_map(point).collect()
}

/// The version that a reference stands for: its tag, else its digest.
pub fn version_of(reference: &Reference) -> Version {
    match (reference.tag(), reference.digest()) {
        (Some(tag), _) => Version::Tag(tag.into()),
        (None, Some(digest)) => Version::Digest(*digest),
        (None, None) => unreachable!("a reference is made with a tag or a digest"),
    }
}

fn aliases(
    from: &BTreeMap<String, String>,
    place: &str,
    faults: &mut Vec<Fault>,
) -> BTreeMap<Version, Version> {
    let mut out = BTreeMap::new();
    for (asked, meant) in from {
        match (asked.parse::<Version>(), meant.parse::<Version>()) {
            (Ok(asked), Ok(meant)) => drop(out.insert(asked, meant)),
            (Err(e), _) | (_, Err(e)) => {
                faults.push(Fault { place: format!("{place}.aliases"), problem: e.to_string() });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests;
