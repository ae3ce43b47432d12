//! What an operator changes: entries that are asked about again or taken away, and all modules read again.

use super::entries::{Entry, MOST, State, glob, unknown};
use super::{Administration, Kind, Refused};
use crate::cache::asked::Asked;
use crate::failures::Failure;
use crate::oci::{Digest, Reference};
use crate::record::Record;
use crate::store::Purge;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Which entries. Exactly one of the members is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// Keys of entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
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
    /// There was no answer yet: it is still being asked, or was not asked for want of time.
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

/// Longest time that an answer waits for registries.
const WAIT: Duration = Duration::from_secs(30);
/// Entries that are asked about at once.
const AT_ONCE: usize = 8;

impl Administration {
    /// Takes entries away, and the modules that nothing else leads to. Local files are not ours to take.
    ///
    /// # Errors
    /// No such entry, a selector that says nothing or too much, or a disk that would not.
    pub async fn purge(&self, which: &Selector) -> Result<Purged, Refused> {
        let chosen = self.choose(which)?;
        let references: HashSet<Reference> = chosen.iter().filter_map(|key| key.parse().ok()).collect();
        let store = self.cache.store();
        let (leaving, staying): (Vec<_>, Vec<_>) =
            store.records().into_iter().partition(|record| references.contains(&record.reference));
        let module = |record: &Arc<Record>| record.present().map(|p| (p.module.digest, p.module.size));
        let modules: HashSet<_> = leaving.iter().filter_map(module).collect();
        if which.dry_run {
            let staying: HashSet<_> = staying.iter().filter_map(module).collect();
            let unused: Vec<_> = modules.difference(&staying).collect();
            let mut would = Purged { purged: chosen, modules: unused.len() as u64, ..Purged::default() };
            would.bytes = unused.iter().map(|(_, size)| size).sum();
            if which.all {
                // Those too that no record leads to.
                let usage = store.usage();
                would.modules = would.modules.max(usage.disk_entries);
                would.bytes = would.bytes.max(usage.disk_bytes);
            }
            return Ok(Purged { dry_run: true, ..would });
        }
        references.iter().for_each(|reference| self.cache.forget_failure(reference));
        // Those that another reference leads to stay; the store looks when it takes away.
        let modules = modules.into_iter().map(|(digest, _)| digest).collect();
        let left = store
            .purge(Purge { references: references.into_iter().collect(), modules, unused: which.all })
            .await
            .map_err(|error| {
                let hint = "look at the disk; what is listed is still held";
                Refused::new(Kind::Failed, "not_purged", error.to_string(), hint)
            })?;
        Ok(Purged { purged: chosen, modules: left.modules, bytes: left.bytes, dry_run: false })
    }

    /// Asks the registries about entries now, whatever their age.
    ///
    /// # Errors
    /// As [`Self::purge`].
    pub async fn revalidate(&self, which: &Selector) -> Result<Revalidated, Refused> {
        if which.dry_run {
            let detail = "there is no dry run of asking a registry";
            return Err(Refused::new(Kind::Bad, "bad_selector", detail, "leave dry_run out"));
        }
        let chosen = self.choose(which)?;
        let end = tokio::time::Instant::now() + WAIT;
        let asked = chosen.into_iter().map(|key| async move {
            let Ok(reference) = key.parse::<Reference>() else {
                return Confirmed { key, result: Verdict::Failed, error: None };
            };
            // When the wait is over nothing more is begun.
            if tokio::time::Instant::now() >= end {
                return Confirmed { key, result: Verdict::Pending, error: None };
            }
            let cache = self.cache.clone();
            self.cache.forget_failure(&reference);
            // A task of its own: it goes on when the wait is over.
            let task = self.cache.runtime().spawn(async move { cache.ask_again(&reference).await });
            let result = match tokio::time::timeout_at(end, task).await {
                Ok(Ok(Asked::Unchanged)) => Verdict::Unchanged,
                Ok(Ok(Asked::Updated)) => Verdict::Updated,
                Ok(Ok(Asked::Absent)) => Verdict::Absent,
                Ok(Ok(Asked::Failed(_)) | Err(_)) => Verdict::Failed,
                Err(_) => Verdict::Pending,
            };
            let error = self.failures.of(&key).filter(|_| result == Verdict::Failed);
            Confirmed { key, result, error }
        });
        let results = futures_util::stream::iter(asked).buffered(AT_ONCE).collect().await;
        Ok(Revalidated { results })
    }

    /// Reads all modules on disk again and compares them with their names.
    ///
    /// # Errors
    /// It is being done.
    pub fn start_scrub(self: &Arc<Self>) -> Result<Scrub, Refused> {
        let began = self.clock.now();
        let scrub = Scrub {
            started_at: began.to_string(),
            finished_at: None,
            total: self.cache.store().usage().disk_entries,
            done: 0,
            damaged: 0,
        };
        {
            let mut running = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
            if running.as_ref().is_some_and(|running| running.finished_at.is_none()) {
                let detail = "all modules are being read again already";
                return Err(Refused::new(Kind::Busy, "scrubbing", detail, "ask how far it is"));
            }
            *running = Some(scrub.clone());
        }
        let this = self.clone();
        self.cache.runtime().spawn(async move {
            let note = |change: &dyn Fn(&mut Scrub)| {
                let mut scrub = this.scrub.lock().unwrap_or_else(PoisonError::into_inner);
                scrub.iter_mut().for_each(change);
            };
            while let Some(damaged) = this.cache.verify_next(began).await {
                note(&|scrub| {
                    scrub.done += 1;
                    scrub.damaged += u64::from(damaged);
                });
            }
            let ended = this.clock.now().to_string();
            note(&|scrub| scrub.finished_at = Some(ended.clone()));
        });
        Ok(scrub)
    }

    /// How far the last reading of all modules is that was asked for.
    pub fn scrub(&self) -> Option<Scrub> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys that a selector means.
    fn choose(&self, which: &Selector) -> Result<Vec<String>, Refused> {
        let bad = |detail: &str| {
            let hint = "one of keys, plugin (and version), digest, all";
            Err(Refused::new(Kind::Bad, "bad_selector", detail, hint))
        };
        let given = [!which.keys.is_empty(), which.plugin.is_some(), which.digest.is_some(), which.all];
        match given.iter().filter(|given| **given).count() {
            0 => return bad("nothing is selected"),
            1 => {}
            _ => return bad("more than one thing is selected"),
        }
        if which.version.is_some() && which.plugin.is_none() {
            return bad("a version is selected without a plugin");
        }
        if which.keys.len() > MOST {
            let detail = format!("more than {MOST} entries are named");
            return Err(Refused::new(
                Kind::TooMany,
                "too_many",
                detail,
                "select them by a pattern, or in parts",
            ));
        }
        if let Some(digest) = which.digest.as_deref().filter(|digest| digest.parse::<Digest>().is_err()) {
            let detail = format!("'{}' is no digest", crate::oci::error_code::bounded(digest, 100));
            let hint = "sha256: and 64 lower-case hexadecimal digits";
            return Err(Refused::new(Kind::Bad, "bad_digest", detail, hint));
        }
        if which.plugin.as_deref().is_some_and(|plugin| !plugin.contains(|c| c != '*')) {
            return bad("a pattern that has every plugin is not taken; say all");
        }
        let plugin = which.plugin.as_deref().map(glob).transpose()?;
        let version = which.version.as_deref().map(glob).transpose()?;
        let keys: HashSet<&String> = which.keys.iter().collect();
        let fits = |entry: &Entry| {
            which.all
                || keys.contains(&entry.key)
                || which.digest.as_ref().is_some_and(|digest| entry.digest.as_ref() == Some(digest))
                || plugin.as_ref().is_some_and(|plugin| {
                    plugin.matches(&entry.plugin)
                        && version.as_ref().is_none_or(|v| v.matches(&entry.version))
                })
        };
        let all = self.all_entries();
        let missing = |key: &&String| !all.iter().any(|entry| entry.key == **key);
        if let Some(missing) = which.keys.iter().find(missing) {
            return Err(unknown(missing));
        }
        let (local, ours): (Vec<&Entry>, Vec<&Entry>) =
            all.iter().filter(|entry| fits(entry)).partition(|entry| entry.state == State::Local);
        if let Some(file) = local.iter().find(|entry| which.keys.contains(&entry.key)) {
            let detail = format!("'{}' is a local file", file.key);
            let hint = "larder does not change local files: remove or replace it where it lies";
            return Err(Refused::new(Kind::Bad, "local_file", detail, hint));
        }
        if ours.is_empty() && !which.all {
            let what = which.digest.as_deref().or(which.plugin.as_deref()).unwrap_or_default();
            return Err(unknown(what));
        }
        let mut keys: Vec<_> = ours.into_iter().map(|entry| entry.key.clone()).collect();
        keys.sort();
        Ok(keys)
    }
}
