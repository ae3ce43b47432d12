//! Is it well: one look at everything that an operator asks first.

use super::Administration;
use super::change::Scrub;
use super::prefetch::Job;
use crate::clock::Timestamp;
use crate::failures::{Failure, What, Whose};
use crate::policy::lock::LOCK_MISMATCH;
use crate::registry::breaker;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long before its end a certificate is told of.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a registry's last failure is told of, if it is asked nothing since.
const LATELY: Duration = Duration::from_secs(5 * 60);

/// Plugins that are told of as other ones than the lock file has.
const MOST_UNLIKE: usize = 10;

/// One look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// larder's version.
    pub version: String,
    /// The process, by its number in its own system: a cache directory's lock says the same one.
    pub process: u32,
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
    /// Keys of settings, and files, that have changed since they were last used.
    pub changed: Vec<String>,
    /// Keys that have changed since the start and take effect at the next one.
    pub needs_restart: Vec<String>,
    /// What works and is probably not meant.
    pub warnings: Vec<String>,
}

impl Registry {
    /// What is not as it should be there. A single failure counts if it was seen after `lately`, RFC 3339.
    fn warning(&self, lately: &str) -> Option<String> {
        let name = &self.name;
        let stands = match self.state.as_str() {
            "open" => "is left alone for a while",
            "half_open" => "is asked by one at a time",
            _ => {
                // What is wrong with one artifact says nothing of the registry.
                let of_registry = |error: &&Failure| error.whose() == Whose::Registry;
                let error = self.error.as_ref().filter(of_registry)?;
                let is_new = error.last_at.as_str() > lately;
                return is_new.then(|| format!("the last question to {name} failed: {}", error.detail));
            }
        };
        let Some(error) = &self.error else { return Some(format!("{name} {stands}")) };
        Some(match error.detail.strip_prefix(name.as_str()) {
            // It is about the registry as such, and says its name itself.
            Some(told) if told.contains(stands) => error.detail.clone(),
            Some(told) => format!("{name} {stands}:{told}"),
            None => format!("{name} {stands}: {}", error.detail),
        })
    }
}

impl Administration {
    /// One look; `is_draining` says that the process is about to leave.
    pub fn status(&self, is_draining: bool) -> Status {
        let usage = self.cache.store().usage();
        let degraded = self.metrics.store_degraded.get() > 0;
        let registries = self.registries();
        let settings = Settings::clone(&self.settings.load());
        let fetching = self.cache.in_flight().into_iter();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            process: std::process::id(),
            started_at: self.started.to_string(),
            now: self.clock.now().to_string(),
            ready: !is_draining && self.is_warm(),
            warnings: Vec::new(),
            store: Store {
                disk_entries: usage.disk_entries,
                disk_bytes: usage.disk_bytes,
                disk_limit_bytes: usage.disk_limit,
                disk_free_bytes: usage.disk_free,
                memory_entries: usage.memory_entries,
                memory_bytes: usage.memory_bytes,
                memory_limit_bytes: usage.memory_limit,
                held_entries: usage.held_entries,
                held_bytes: usage.held_bytes,
                local_entries: self.cache.store().overlay().len() as u64,
                degraded,
            },
            registries,
            fetching: fetching
                .map(|(reference, received, expected)| Fetching {
                    reference: reference.to_string(),
                    received,
                    expected,
                })
                .collect(),
            warm_up: self.warm_up_job(),
            scrub: self.scrub(),
            settings,
            certificates: self.certificates(),
        };
        status.warnings = self.warnings(&status, is_draining);
        status
    }

    /// What is held, or was offered, and is not what the lock file has; each once.
    fn unlike_locked(&self) -> Vec<String> {
        let held = self.cache.mismatches();
        let held = held.iter().map(|mismatch| format!("{}: {}", mismatch.reference, mismatch.other));
        let offered = self.failures.list().into_iter().filter(|failure| failure.code == LOCK_MISMATCH);
        let all: BTreeSet<_> = held.chain(offered.map(|failure| failure.detail)).collect();
        let more = all.len().saturating_sub(MOST_UNLIKE);
        let more = (more > 0).then(|| format!("{more} more are not what the lock file has"));
        all.into_iter().take(MOST_UNLIKE).chain(more).collect()
    }

    fn certificates(&self) -> Vec<Certificate> {
        let mut known = self.metrics.certificates();
        known.sort_by_key(|(_, _, until)| *until);
        let shown = |(role, file, until): (&str, _, _)| Certificate {
            role: role.into(),
            file,
            not_after: Timestamp::from_unix(until).to_string(),
        };
        known.into_iter().map(shown).collect()
    }

    fn registries(&self) -> Vec<Registry> {
        let mut names: BTreeSet<String> = self.names.load().catalog.registries();
        let breakers: BTreeMap<_, _> = self.client.breakers().into_iter().collect();
        names.extend(breakers.keys().cloned());
        let failures = self.failures.list();
        let registry = |name: String| {
            let state = match breakers.get(&name) {
                None => "unasked",
                Some(breaker::State::Closed) => "closed",
                Some(breaker::State::Open) => "open",
                Some(breaker::State::HalfOpen) => "half_open",
            };
            let is_there = |failure: &&Failure| {
                let reference = failure.reference.as_deref().unwrap_or_default();
                failure.what == What::Fetch && reference.split('/').next() == Some(&name)
            };
            let error = failures.iter().find(is_there).cloned();
            Registry { name, state: state.into(), error }
        };
        names.into_iter().map(registry).collect()
    }

    /// What is not as it should be.
    fn warnings(&self, status: &Status, is_draining: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if is_draining {
            warnings.push("this larder is about to leave".to_owned());
        }
        if status.store.degraded {
            let text = "the cache directory takes nothing; what is new is held in memory";
            warnings.push(text.to_owned());
        }
        let lately = self.clock.now().minus(LATELY).to_string();
        warnings.extend(status.registries.iter().filter_map(|registry| registry.warning(&lately)));
        for name in self.client.unverified() {
            warnings.push(format!("certificates of {name} are not verified (insecure_skip_verify)"));
        }
        let soon = self.clock.now().plus(SOON).to_string();
        for certificate in status.certificates.iter().filter(|certificate| certificate.not_after < soon) {
            let Certificate { role, file, not_after } = certificate;
            warnings.push(format!("the certificate in {file} ({role}) ends at {not_after}"));
        }
        if let Some(refused) = &status.settings.refused {
            warnings.push(format!("changed settings are not in use: {refused}"));
        }
        if !status.settings.needs_restart.is_empty() {
            let keys = status.settings.needs_restart.join(", ");
            warnings.push(format!("changed settings that need a restart: {keys}"));
        }
        warnings.extend(self.unlike_locked());
        if let Some(job) = status.warm_up.as_ref().filter(|job| job.failed > 0) {
            warnings
                .push(format!("{} of {} plugins of the start could not be fetched", job.failed, job.total));
        }
        warnings
    }
}
