//! Is it well: one look at everything that an operator asks first.

use super::change::Scrub;
use super::prefetch::Job;
use crate::failures::Failure;
use serde::{Deserialize, Serialize};

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// larder's version.
    pub version: String,
    /// When the process began, RFC 3339.
    pub started_at: String,
    /// Now, RFC 3339.
    pub now: String,
    /// Whether requests are wanted, as `/readyz` says.
    pub ready: bool,
    /// What is not as it should be, a sentence each.
    pub warnings: Vec<String>,
    /// What is held.
    pub store: Store,
    /// Each registry that was asked, or that the catalog names.
    pub registries: Vec<Registry>,
    /// What is being fetched now.
    pub fetching: Vec<Fetching>,
    /// The plugins of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<Job>,
    /// The last reading of all modules that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<Scrub>,
    /// The settings in use.
    pub settings: Settings,
    /// Certificates, the first to run out first.
    pub certificates: Vec<Certificate>,
}

/// What is held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Modules on disk.
    pub disk_entries: u64,
    /// Their bytes.
    pub disk_bytes: u64,
    /// Most bytes of them.
    pub disk_limit_bytes: u64,
    /// What the file system has left, in bytes.
    pub disk_free_bytes: u64,
    /// Modules in memory, copies of those on disk.
    pub memory_entries: u64,
    /// Their bytes.
    pub memory_bytes: u64,
    /// Most bytes of them.
    pub memory_limit_bytes: u64,
    /// Modules in memory alone, because the disk takes nothing.
    pub held_entries: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Local files.
    pub local_entries: u64,
    /// The disk takes nothing just now.
    pub degraded: bool,
}

/// A registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// Its host, as references write it.
    pub name: String,
    /// `closed`: asked freely; `open`: left alone for a while; `half_open`: asked by one at a time; `unasked`.
    pub state: String,
    /// What last failed there, if nothing went well since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// A fetch in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    /// The reference.
    pub reference: String,
    /// Bytes received.
    pub received: u64,
    /// Bytes expected; 0 until that is known.
    pub expected: u64,
}

/// The settings in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// When they were read, RFC 3339.
    pub loaded_at: String,
    /// Why newer ones are not in use, if there are newer ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Keys that have changed and take effect at the next start.
    pub needs_restart: Vec<String>,
    /// The least important log line that is written.
    pub log_level: String,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// What it is for: `server`, `client` or `ca`.
    pub role: String,
    /// The file that it is in.
    pub file: String,
    /// When it runs out, RFC 3339.
    pub not_after: String,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys of settings, and files, that have changed.
    pub changed: Vec<String>,
    /// Of these, keys that take effect at the next start.
    pub needs_restart: Vec<String>,
    /// What works and is probably not meant.
    pub warnings: Vec<String>,
}
