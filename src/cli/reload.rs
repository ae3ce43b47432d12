//! New settings for registries, certificates and credentials, while larder goes on serving.
//!
//! Files are looked at once a second; what has changed and then looked the same for a second is read. What can be used
//! takes the place of what was; what cannot is told and changes nothing. Requests that are under way end with what they
//! began with.

use super::{Options, assemble};
use crate::cache::Cache;
use crate::config::watch::Fingerprint;
use crate::config::{self, Loaded};
use crate::metrics::Metrics;
use crate::registry::breaker::Breakers;
use crate::registry::trace::Trace;
use crate::registry::{Client, Surroundings};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// What is reloaded, and into what.
pub struct Reload {
    /// Where the settings are from.
    pub options: Options,
    /// The settings that larder was started with: what is not about registries stays as it is in them.
    pub started: Loaded,
    /// The settings in use.
    pub current: Arc<ArcSwap<Loaded>>,
    /// What asks registries.
    pub client: Arc<Client>,
    /// Which registries are left alone.
    pub breakers: Arc<Breakers>,
    /// What remembers failures.
    pub cache: Arc<Cache>,
    /// What counts.
    pub metrics: Arc<Metrics>,
    /// What was found without being named, and is in use.
    pub found: Vec<PathBuf>,
}

impl Reload {
    /// Looks for as long as larder runs; SIGHUP reads everything at once. `watched` is what was read at the start.
    pub async fn run(mut self, mut watched: Watched) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            tracing::error!("signals cannot be waited for; changed files are not read");
            return;
        };
        let mut last = watched.looked.clone();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                _ = hangup.recv() => true,
            };
            let files = watched.files.clone();
            let look = tokio::task::spawn_blocking(move || Fingerprint::of(&files));
            let Ok(now) = look.await else { return };
            let settled = now == last;
            last = now.clone();
            if !asked && (now == watched.looked || !settled) {
                continue;
            }
            let changed: Vec<_> =
                now.changed(&watched.looked).iter().map(|path| path.display().to_string()).take(10).collect();
            let changed = if asked { "SIGHUP".into() } else { changed.join(", ") };
            let (mut reload, before) = (self, Watched { looked: now, ..watched });
            let read = tokio::task::spawn_blocking(move || {
                let read = reload.read(&changed, before);
                (reload, read)
            });
            let Ok((same, (used, now))) = read.await else { return };
            (self, watched) = (same, now);
            last = watched.looked.clone();
            self.metrics.reloads.with_label_values(&[if used { "ok" } else { "error" }]).inc();
        }
    }

    /// Reads everything, and uses it if it is sound; whether it was, and what is to be looked at from now on. Blocks.
    fn read(&mut self, changed: &str, before: Watched) -> (bool, Watched) {
        let loaded = match self.options.sources().and_then(|sources| config::load(&sources)) {
            Ok(loaded) => loaded,
            Err(faults) => {
                self.refuse(changed, faults.iter().map(ToString::to_string));
                return (false, before);
            }
        };
        // Before they are read: what changes meanwhile is seen at the next look.
        let named = Watched::named(&loaded, &self.options);
        let hosts = match assemble::hosts(&loaded, self.breakers.clone(), Trace::default()) {
            Ok(hosts) => hosts,
            Err(faults) => {
                self.refuse(changed, faults.iter().map(ToString::to_string));
                // What the new settings name may come later, and then they can be used.
                return (false, before.and(named));
            }
        };
        // What was good is not given up for what is broken; what never was is no reason to stay as we are.
        let lost: Vec<_> = hosts.broken.iter().filter(|broken| self.found.contains(&broken.path)).collect();
        if !lost.is_empty() {
            self.refuse(changed, lost.iter().map(|broken| broken.fault.clone()));
            return (false, before.and(named));
        }
        let watched = named.and(Watched::of(hosts.files()));
        for warning in hosts.told() {
            tracing::warn!("{warning}");
        }
        self.found = hosts.used();
        self.client.replace(hosts, assemble::retry(&self.started.config, &loaded.config));
        self.cache.doubt();
        let others = loaded
            .differences(&self.started)
            .into_iter()
            .filter(|part| part != "registry")
            .collect::<Vec<_>>();
        if others.is_empty() {
            tracing::info!(changed, "settings_reloaded");
        } else {
            let others = others.join(", ");
            tracing::warn!(changed, others, "settings_reloaded; a change of these others needs a restart");
        }
        self.current.store(Arc::new(self.started.with_registry(loaded)));
        (true, watched)
    }

    fn refuse(&self, changed: &str, faults: impl Iterator<Item = String>) {
        let faults = faults.collect::<Vec<_>>().join("; ");
        tracing::error!(changed, error = faults, "settings_refused; those of before go on");
    }
}

/// Files, and what they looked like when they were last read.
pub struct Watched {
    files: Vec<PathBuf>,
    looked: Fingerprint,
}

impl Watched {
    /// These files as they are now. Blocks.
    pub fn of(files: Vec<PathBuf>) -> Self {
        let looked = Fingerprint::of(&files);
        Self { files, looked }
    }

    /// The file with the settings and those that it names.
    pub fn named(loaded: &Loaded, options: &Options) -> Self {
        let named = loaded.config.registry.files(&Surroundings::of_process());
        Self::of(options.file().into_iter().chain(named).collect())
    }

    /// Both; where a file is in both, as the other saw it.
    pub fn and(mut self, other: Self) -> Self {
        let new: Vec<_> = other.files.into_iter().filter(|file| !self.files.contains(file)).collect();
        self.files.extend(new);
        self.looked.extend(other.looked);
        self
    }
}
