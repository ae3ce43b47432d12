//! What is known and held, an entry for each reference and each local file.

use super::{Administration, Kind, Refused};
use crate::catalog::{Catalog, version_of};
use crate::clock::Timestamp;
use crate::failures::{Failure, What};
use crate::oci::Reference;
use crate::plugin::{PluginName, Version};
use crate::record::{Module, Present};
use crate::signature::Verdict;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::HashMap;

/// Entries of a page unless it is said otherwise, and at most.
const PAGE: usize = 100;
/// See [`PAGE`].
pub const MOST: usize = 1000;

/// One reference, or one local file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is known by: the reference, or the local file's path.
    pub key: String,
    /// The plugin's name.
    pub plugin: String,
    /// The version, as in a URL.
    pub version: String,
    /// How it stands.
    pub state: State,
    /// The registry's host; none for a local file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Digest of the manifest or index that the reference points to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Digest of the layer that the module was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Digest of the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of the module in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The Proxy-Wasm ABI version that the module exports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abi: Option<String>,
    /// Where the bytes are: `memory` (and on disk), `disk`, `held` (in memory alone), `local`, or `missing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// When it was first fetched, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_used_at: Option<String>,
    /// When the module was last asked for, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// Since when the reference has pointed to this module, as far as we saw; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// When the registry last confirmed it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<String>,
    /// When it is past its lifetime, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// While it is being fetched: bytes received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// While it is being fetched: bytes expected; 0 until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// Who signed it, where the policy asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signed>,
    /// What last failed of it, if nothing went well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What is known of an artifact's signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// `verified`, `unsigned` or `signature_invalid`; `unknown` where a registry has to be asked to know.
    pub result: String,
    /// By which key, or why not.
    pub detail: String,
    /// The fingerprint of the key that signed it: SHA-256 of its SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When the registry was asked, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// How an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Held, within its lifetime.
    Fresh,
    /// Held, past its lifetime: served, and confirmed behind the next request.
    Stale,
    /// The registry does not have it.
    Absent,
    /// Not held, and the last fetch failed.
    Failed,
    /// Not held, and being fetched.
    Fetching,
    /// A file on this machine.
    Local,
}

/// Which entries, in which order, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// A text within key, plugin, version or digest.
    pub text: Option<String>,
    /// A plugin's name; `*` is any text.
    pub plugin: Option<String>,
    /// A state.
    pub state: Option<State>,
    /// By what they are sorted.
    pub sort: Sort,
    /// From the last to the first.
    pub descending: bool,
    /// Most entries of the page, 1 to [`MOST`]; `None` for 100.
    pub limit: Option<usize>,
    /// Entries before the page.
    pub skip: usize,
}

/// By what entries are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Sort {
    #[default]
    Plugin,
    State,
    Size,
    LastUsed,
    CheckedAt,
}

/// A page of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// How many there are on all pages.
    pub total: usize,
    /// Those of this page.
    pub entries: Vec<Entry>,
    /// `cursor` of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Administration {
    /// What is known and held.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn entries(&self, query: &Query) -> Result<Page, Refused> {
        let limit = query.limit.unwrap_or(PAGE).clamp(1, MOST);
        let plugin = query.plugin.as_deref().map(glob).transpose()?;
        let text = query.text.as_ref().map(|text| text.to_ascii_lowercase());
        let fits = |entry: &Entry| {
            let texts = [Some(&entry.key), Some(&entry.plugin), Some(&entry.version), entry.digest.as_ref()];
            let has = |text: &String| texts.iter().flatten().any(|t| t.to_ascii_lowercase().contains(text));
            plugin.as_ref().is_none_or(|plugin| plugin.matches(&entry.plugin))
                && query.state.is_none_or(|state| state == entry.state)
                && text.as_ref().is_none_or(has)
        };
        let mut all: Vec<Entry> = self.all_entries().into_iter().filter(fits).collect();
        all.sort_by(|a, b| query.sort.compare(a, b).then_with(|| Sort::Plugin.compare(a, b)));
        if query.descending {
            all.reverse();
        }
        let total = all.len();
        let entries: Vec<_> = all.into_iter().skip(query.skip).take(limit).collect();
        let end = query.skip.saturating_add(entries.len());
        Ok(Page { total, entries, next: (end < total).then(|| end.to_string()) })
    }

    /// One entry, by its reference or path.
    ///
    /// # Errors
    /// Nothing is known of it.
    pub fn entry(&self, key: &str) -> Result<Entry, Refused> {
        self.all_entries().into_iter().find(|entry| entry.key == key).ok_or_else(|| unknown(key))
    }

    /// Which plugin and version a reference is of.
    pub(super) fn entry_of(&self, reference: &Reference) -> Entry {
        Named::new(&self.names.load().catalog).entry(reference, State::Absent)
    }

    /// Who signed what a reference points to, by the keys of now.
    fn signed(&self, reference: &Reference, present: &Present) -> Option<Signed> {
        let (is_asked, verdict) = self.cache.signed(reference, present);
        if !is_asked && verdict.is_none() {
            return None;
        }
        let (result, detail) = match &verdict {
            Some(verdict) => (verdict.code().unwrap_or("verified"), verdict.to_string()),
            None => ("unknown", "nobody was asked yet who signed it".into()),
        };
        let at =
            present.signatures.as_ref().filter(|_| verdict.is_some()).map(|judged| judged.at.to_string());
        let key = match &verdict {
            Some(Verdict::Verified(proof)) => Some(proof.key.to_string()),
            _ => None,
        };
        Some(Signed { result: result.into(), detail, key, at })
    }

    /// Everything: records, local files, what is being fetched, and what failed without ever having been held.
    pub(super) fn all_entries(&self) -> Vec<Entry> {
        let store = self.cache.store();
        let names = self.names.load();
        let mut named = Named::new(&names.catalog);
        let mut fetching: HashMap<Reference, (u64, u64)> =
            self.cache.in_flight().into_iter().map(|(reference, r, e)| (reference, (r, e))).collect();
        let mut failed: HashMap<String, Failure> = HashMap::new();
        // The last one first, and it stays.
        for failure in self.failures.list().into_iter().filter(|failure| failure.what == What::Fetch) {
            failed.entry(failure.subject.clone()).or_insert(failure);
        }
        let mut all = Vec::new();
        for record in store.records() {
            let mut entry = named.entry(&record.reference, State::Absent);
            // What a bundle brought was never confirmed, and has no lifetime until it is.
            let is_confirmed = record.checked_at > Timestamp::EPOCH;
            entry.checked_at = is_confirmed.then(|| record.checked_at.to_string());
            let (fresh, expires) = self.cache.lifetime(&record);
            entry.expires_at = expires.filter(|_| is_confirmed).map(|at| at.to_string());
            if let Some(present) = record.present() {
                let standing = store.standing(&present.module);
                entry.state = match standing {
                    Some(_) if fresh => State::Fresh,
                    Some(_) => State::Stale,
                    None => State::Failed,
                };
                entry.manifest = Some(present.manifest.to_string());
                entry.layer = Some(present.layer.to_string());
                entry.first_used_at = present.first.map(|at| at.to_string());
                entry.since = Some(present.since.to_string());
                entry.tier = Some(standing.map_or("missing", |standing| standing.tier).into());
                entry.last_used_at = standing.map(|standing| standing.last_used.to_string());
                entry.describe(&present.module);
                entry.signature = self.signed(&record.reference, present);
            }
            if let Some((received, expected)) = fetching.remove(&record.reference) {
                (entry.received, entry.expected) = (Some(received), Some(expected));
            }
            entry.error = failed.remove(&entry.key);
            all.push(entry);
        }
        for (reference, (received, expected)) in fetching {
            let mut entry = named.entry(&reference, State::Fetching);
            (entry.received, entry.expected) = (Some(received), Some(expected));
            entry.error = failed.remove(&entry.key);
            all.push(entry);
        }
        for (subject, failure) in failed {
            let Ok(reference) = subject.parse::<Reference>() else { continue };
            all.push(Entry { error: Some(failure), ..named.entry(&reference, State::Failed) });
        }
        for ((name, version), local) in store.overlay().iter() {
            let mut entry = Entry::new(local.path.display().to_string(), name, version, State::Local);
            entry.tier = Some("local".into());
            entry.since = Some(local.modified.to_string());
            if let Ok(module) = &local.module {
                entry.describe(module);
            }
            all.push(entry);
        }
        all
    }
}

/// Which plugin a reference is of, worked out once for each repository.
struct Named<'c> {
    catalog: &'c Catalog,
    lines: HashMap<&'c Reference, (&'c PluginName, &'c Version)>,
    repositories: HashMap<String, String>,
}

impl<'c> Named<'c> {
    fn new(catalog: &'c Catalog) -> Self {
        let line = |name| catalog.lines(name).map(move |(version, reference)| (reference, (name, version)));
        Self { catalog, lines: catalog.names().flat_map(line).collect(), repositories: HashMap::new() }
    }

    fn entry(&mut self, reference: &Reference, state: State) -> Entry {
        let key = reference.to_string();
        let mut entry = match self.lines.get(reference) {
            Some((name, version)) => Entry::new(key, name, version, state),
            None => {
                let path = reference.repository_path();
                let at = format!("{}/{path}", reference.registry());
                let catalog = self.catalog;
                let name = self.repositories.entry(at).or_insert_with(|| {
                    let named = catalog.names_of(&reference.repository()).into_iter().next();
                    let last = || path.rsplit('/').next().unwrap_or_default().to_owned();
                    named.map_or_else(last, |name| name.to_string())
                });
                Entry::new(key, name, version_of(reference), state)
            }
        };
        entry.registry = Some(reference.registry().into());
        entry
    }
}

impl Entry {
    fn new(key: String, plugin: impl ToString, version: impl ToString, state: State) -> Self {
        Self {
            key,
            plugin: plugin.to_string(),
            version: version.to_string(),
            state,
            registry: None,
            manifest: None,
            layer: None,
            digest: None,
            size: None,
            abi: None,
            tier: None,
            first_used_at: None,
            last_used_at: None,
            since: None,
            checked_at: None,
            expires_at: None,
            received: None,
            expected: None,
            signature: None,
            error: None,
        }
    }

    fn describe(&mut self, module: &Module) {
        self.digest = Some(module.digest.to_string());
        self.size = Some(module.size);
        self.abi = module.abi.clone();
    }
}

impl Sort {
    fn compare(self, a: &Entry, b: &Entry) -> Ordering {
        match self {
            Self::Plugin => (&a.plugin, &a.version, &a.key).cmp(&(&b.plugin, &b.version, &b.key)),
            Self::State => a.state.cmp(&b.state),
            Self::Size => a.size.cmp(&b.size),
            // RFC 3339 in UTC, all of one length: as texts they are in order.
            Self::LastUsed => a.last_used_at.cmp(&b.last_used_at),
            Self::CheckedAt => a.checked_at.cmp(&b.checked_at),
        }
    }
}

/// A name with `*` for any text.
pub(super) fn glob(text: &str) -> Result<glob::Pattern, Refused> {
    let is_plain = !text.contains(['?', '[', ']', '!']);
    glob::Pattern::new(text).ok().filter(|_| is_plain).ok_or_else(|| {
        let detail = format!("'{}' is no pattern", crate::oci::error_code::shown(text));
        Refused::new(Kind::Bad, "bad_pattern", detail, "a name, with * for any text")
    })
}

/// Nothing is known of `key`.
pub(super) fn unknown(key: &str) -> Refused {
    let detail = format!("nothing is known of '{}'", crate::oci::error_code::bounded(key, 300));
    Refused::new(Kind::NotFound, "unknown_entry", detail, "the list of entries has what there is")
}
