//! The lock file: which bytes each plugin is, so that a tag that moves is known for one that moved.
//!
//! larder's own shape is JSON, sorted, `{"larder-lock": 1, "plugins": [{name, version, reference, manifest, module}]}`. Two
//! others are read as they are: Higress Console's `plugin-snapshot.lock.json`, which has manifests alone, and the plugin
//! server's `snapshot-inventory.json`, which has no references. What is locked is looked for by reference, which is all that
//! a fetch knows, and by name and version, which is what a request has. Where the module is known its bytes decide, and a
//! manifest that was written anew around the same bytes is no other plugin.

mod read;

use crate::catalog::{Catalog, Why, version_of};
use crate::oci::{Digest, Reference};
use crate::plugin::{PluginName, Request, Version};
use crate::record::Present;
use serde::de::{Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// The code of other bytes than those that are locked.
pub const LOCK_MISMATCH: &str = "lock_mismatch";
/// The code of what is not locked, where nothing else is served.
pub const NOT_LOCKED: &str = "not_locked";

/// The format of larder's own shape.
const FORMAT: u64 = 1;

/// Settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The file.
    pub file: Option<PathBuf>,
    /// What follows from it.
    pub mode: Mode,
    /// What it does not name.
    pub unlisted: Unlisted,
}

impl Config {
    /// The file, where it is made use of.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| self.mode != Mode::Off)
    }

    /// What makes no sense, each with its key.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let is_missing = self.mode != Mode::Off && self.file.is_none();
        is_missing
            .then_some(("lock.mode", "is for a lock file, and lock.file names none"))
            .into_iter()
            .collect()
    }

    /// What works and is probably not meant, each with its key.
    pub fn doubts(&self) -> Vec<(&'static str, &'static str)> {
        let mut out = Vec::new();
        if self.mode == Mode::Off && self.file.is_some() {
            out.push(("lock.file", "is not read: lock.mode is off"));
        }
        if self.mode != Mode::Enforce && self.unlisted == Unlisted::Deny {
            out.push(("lock.unlisted", "denies nothing: lock.mode is not enforce"));
        }
        out
    }
}

/// What follows from other bytes than those that are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: no file is read.
    Off,
    /// They are served, once they are verified; it is told and counted.
    Record,
    /// They are refused, and what is right is served on.
    Enforce,
}

/// What becomes of plugins that the lock file does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlisted {
    /// They are served.
    Allow,
    /// They are refused.
    Deny,
}

/// One plugin of a lock file. It has at least one of the digests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name in URLs.
    pub name: PluginName,
    /// Its version in URLs.
    pub version: Version,
    /// What it was served from.
    pub reference: Option<Reference>,
    /// Digest of what that pointed to, a manifest or an index.
    pub manifest: Option<Digest>,
    /// SHA-256 of the wasm bytes.
    pub module: Option<Digest>,
}

/// What a lock file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    entries: Vec<Entry>,
    names: HashMap<PluginName, BTreeMap<Version, usize>>,
    references: HashMap<Reference, usize>,
}

/// A lock, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    /// What is locked.
    pub lock: Lock,
    /// What follows from other bytes.
    pub mode: Mode,
    /// What becomes of what it does not name, where it is enforced.
    pub unlisted: Unlisted,
}

/// What a lock says of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They are those.
    Same,
    /// Nothing: it names neither the plugin nor the reference.
    Unlisted,
    /// They are others.
    Other(Other),
}

/// Bytes that are not those of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The plugin's name and version.
    plugin: String,
    /// What is compared.
    what: &'static str,
    locked: Digest,
    found: Digest,
}

/// Why a text is no lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// From 1, in bytes; 0 where the line ends.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
}

/// YAML has `off` for false, unless it is quoted.
impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Mode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of off, record, enforce")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Mode, E> {
                if on { Err(E::invalid_value(Unexpected::Bool(on), &self)) } else { Ok(Mode::Off) }
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Mode, E> {
                let mut modes = [Mode::Off, Mode::Record, Mode::Enforce].into_iter();
                let found = modes.find(|mode| mode.as_str() == word);
                found.ok_or_else(|| E::invalid_value(Unexpected::Str(word), &self))
            }
        }
        deserializer.deserialize_any(Word)
    }
}

impl Mode {
    /// The word of the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Record => "record",
            Self::Enforce => "enforce",
        }
    }
}

impl Locked {
    /// True when requests are judged by it.
    pub fn is_enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// How what `reference` leads to differs from what is locked.
    pub fn differs(
        &self,
        asked: Option<(&PluginName, &Version)>,
        reference: &Reference,
        present: &Present,
    ) -> Option<Other> {
        match self.lock.judge(asked, reference, &present.manifest, &present.module.digest) {
            Verdict::Other(other) => Some(other),
            Verdict::Same | Verdict::Unlisted => None,
        }
    }

    /// True when it may not be served because nothing is locked of it.
    pub fn misses(&self, asked: Option<(&PluginName, &Version)>, reference: &Reference) -> bool {
        self.is_enforced() && self.unlisted == Unlisted::Deny && !self.lock.lists(asked, reference)
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, what, locked, found } = self;
        write!(f, "the lock file has {plugin} with {what} {locked}, and this is {found}")
    }
}

impl Entry {
    fn plugin(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// How the bytes differ from these.
    fn differs(&self, manifest: &Digest, module: &Digest) -> Option<Other> {
        let (what, locked, found) = match (&self.module, &self.manifest) {
            (Some(locked), _) => ("module", locked, module),
            (None, Some(locked)) => ("manifest", locked, manifest),
            (None, None) => return None,
        };
        (locked != found).then(|| Other { plugin: self.plugin(), what, locked: *locked, found: *found })
    }

    /// True when no bytes can be both.
    fn contradicts(&self, other: &Self) -> bool {
        let differ = |one: Option<Digest>, other: Option<Digest>| matches!((one, other), (Some(one), Some(other)) if one != other);
        differ(self.module, other.module) || differ(self.manifest, other.manifest)
    }
}

impl Lock {
    /// Reads a lock file of any of the three shapes.
    ///
    /// # Errors
    /// The first fault of it, with its place.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        read::read(bytes)
    }

    /// Takes one more in.
    ///
    /// # Errors
    /// It is there already, or says something else than another one.
    fn add(&mut self, entry: Entry) -> Result<(), String> {
        let known = |at: &usize| self.entries.get(*at);
        if self.names.get(&entry.name).is_some_and(|versions| versions.contains_key(&entry.version)) {
            return Err(format!("{} stands there twice", entry.plugin()));
        }
        if let Some(reference) = &entry.reference {
            let written = reference.digest().zip(entry.manifest.as_ref());
            if let Some((written, _)) = written.filter(|(written, manifest)| written != manifest) {
                return Err(format!("{} has another manifest than {written}", entry.plugin()));
            }
            let other = self.references.get(reference).and_then(known);
            if let Some(other) = other.filter(|other| other.contradicts(&entry)) {
                let (one, other) = (entry.plugin(), other.plugin());
                return Err(format!("{one} and {other} have the reference {reference} and other digests"));
            }
        }
        let at = self.entries.len();
        self.names.entry(entry.name.clone()).or_default().insert(entry.version.clone(), at);
        if let Some(reference) = &entry.reference {
            self.references.entry(reference.clone()).or_insert(at);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The same, and each plugin is known by the references too that the catalog has for its name and version.
    pub fn placed(mut self, catalog: &Catalog) -> Self {
        for (at, entry) in self.entries.iter().enumerate() {
            let request = Request { name: entry.name.clone(), version: Some(entry.version.clone()) };
            let candidates = catalog.plan(&request).candidates;
            for candidate in candidates.into_iter().filter(|candidate| candidate.why == Why::Exact) {
                self.references.entry(candidate.reference).or_insert(at);
            }
        }
        self
    }

    /// Digests of the modules, or of the manifests where those are not known.
    pub fn digests(&self) -> HashSet<Digest> {
        self.entries.iter().filter_map(|entry| entry.module.or(entry.manifest)).collect()
    }

    /// What is locked, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn of_name(&self, name: &PluginName, version: &Version) -> Option<&Entry> {
        self.names.get(name)?.get(version).and_then(|at| self.entries.get(*at))
    }

    fn of_reference(&self, reference: &Reference) -> Option<&Entry> {
        self.references.get(reference).and_then(|at| self.entries.get(*at))
    }

    /// The manifest that a reference is locked to, where that is known and is another place than the reference itself.
    pub fn manifest_of(&self, reference: &Reference) -> Option<Digest> {
        self.of_reference(reference)?.manifest.filter(|manifest| reference.digest() != Some(manifest))
    }

    /// True when a reference that does not exist is no surprise: another version answered for it when the lock was written.
    pub fn is_answered_elsewhere(&self, reference: &Reference) -> bool {
        let own = self.of_reference(reference).and_then(|entry| entry.reference.as_ref());
        own.is_some_and(|own| version_of(own) != version_of(reference))
    }

    /// How a manifest that `reference` points to differs, where no module is known that would decide.
    pub fn differs_already(&self, reference: &Reference, manifest: &Digest) -> Option<Other> {
        let entry = self.of_reference(reference).filter(|entry| entry.module.is_none())?;
        entry.differs(manifest, manifest)
    }

    /// Whether the plugin that is asked for, or the reference, is locked; a digest is, when it is that of a locked manifest.
    pub fn lists(&self, asked: Option<(&PluginName, &Version)>, reference: &Reference) -> bool {
        let is_locked = |digest| self.entries.iter().any(|entry| entry.manifest == Some(digest));
        self.of_reference(reference).is_some()
            || asked.is_some_and(|(name, version)| self.of_name(name, version).is_some())
            || reference.digest().copied().is_some_and(is_locked)
    }

    /// What it says of the bytes of `module`, by `manifest`, that `reference` leads to: both by that, and by what is asked
    /// for where that is known.
    pub fn judge(
        &self,
        asked: Option<(&PluginName, &Version)>,
        reference: &Reference,
        manifest: &Digest,
        module: &Digest,
    ) -> Verdict {
        let by_name = asked.and_then(|(name, version)| self.of_name(name, version));
        let mut found = self.of_reference(reference).into_iter().chain(by_name).peekable();
        if found.peek().is_none() {
            return Verdict::Unlisted;
        }
        found.find_map(|entry| entry.differs(manifest, module)).map_or(Verdict::Same, Verdict::Other)
    }
}

/// A plugin as larder writes it.
#[derive(Serialize)]
struct Written<'e> {
    name: &'e str,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'e Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<Digest>,
}

/// The bytes of a lock file in larder's own shape, the same for the same entries.
pub fn encode(mut entries: Vec<Entry>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Whole<'e> {
        #[serde(rename = "larder-lock")]
        format: u64,
        plugins: Vec<Written<'e>>,
    }
    entries.sort();
    entries.dedup();
    let written = |entry| {
        let Entry { name, version, reference, manifest, module }: &Entry = entry;
        Written {
            name: name.as_str(),
            version: version.to_string(),
            reference: reference.as_ref(),
            manifest: *manifest,
            module: *module,
        }
    };
    let whole = Whole { format: FORMAT, plugins: entries.iter().map(written).collect() };
    let text = serde_json::to_string_pretty(&whole).unwrap_or_else(|e| unreachable!("plain fields: {e}"));
    (text + "\n").into_bytes()
}

#[cfg(test)]
mod tests;
