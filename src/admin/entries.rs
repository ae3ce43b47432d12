//! What is known and held, an entry for each reference and each local file.

use super::{Administration, Kind, Refused};
use crate::failures::Failure;
use serde::{Deserialize, Serialize};

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
    /// What last failed of it, if nothing went well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
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
    pub fn entries(&self, query: &Query) -> Page {
        let limit = query.limit.unwrap_or(PAGE).clamp(1, MOST);
        let all: Vec<Entry> = Vec::new();
        let total = all.len();
        let entries: Vec<_> = all.into_iter().skip(query.skip).take(limit).collect();
        let end = query.skip + entries.len();
        Page { total, entries, next: (end < total).then(|| end.to_string()) }
    }

    /// One entry, by its reference or path.
    ///
    /// # Errors
    /// Nothing is known of it.
    pub fn entry(&self, key: &str) -> Result<Entry, Refused> {
        let all = self.entries(&Query { limit: Some(MOST), ..Query::default() }).entries;
        all.into_iter().find(|entry| entry.key == key).ok_or_else(|| {
            let detail = format!("nothing is known of '{}'", crate::oci::error_code::bounded(key, 300));
            Refused::new(Kind::NotFound, "unknown_entry", detail, "/api/v1/entries lists what there is")
        })
    }
}
