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
    /// What was broken at the start and is known to be.
    pub broken: Vec<String>,
}

impl Reload {
    /// Looks for as long as larder runs; SIGHUP reads everything at once. `used` is what was read at the start.
    pub async fn run(mut self, mut used: Fingerprint) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            tracing::error!("signals cannot be waited for; changed files are not read");
            return;
        };
        let mut files = files(&self.started, &self.options);
        let mut last = used.clone();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                _ = hangup.recv() => true,
            };
            let now = look(files.clone()).await;
            let settled = now == last;
            last = now.clone();
            if !asked && (now == used || !settled) {
                continue;
            }
            let changed: Vec<_> =
                now.changed(&used).iter().map(|path| path.display().to_string()).take(10).collect();
            used = now;
            let changed = if asked { "SIGHUP".into() } else { changed.join(", ") };
            let (mut reload, told) = (self, changed.clone());
            let read = tokio::task::spawn_blocking(move || {
                let read = reload.read(&told);
                (reload, read)
            });
            let Ok((same, read)) = read.await else { return };
            self = same;
            self.metrics.reloads.with_label_values(&[if read.is_some() { "ok" } else { "error" }]).inc();
            if let Some(loaded) = read {
                let named = self::files(&loaded, &self.options);
                if named != files {
                    files = named;
                    used = look(files.clone()).await;
                    last = used.clone();
                }
            }
        }
    }

    /// Reads everything, and uses it if it is sound. Blocks.
    fn read(&mut self, changed: &str) -> Option<Arc<Loaded>> {
        let loaded = match self.options.sources().and_then(|sources| config::load(&sources)) {
            Ok(loaded) => loaded,
            Err(faults) => return self.refuse(changed, faults.iter().map(ToString::to_string)),
        };
        let hosts = match assemble::hosts(&loaded, self.breakers.clone(), Trace::default()) {
            Ok(hosts) => hosts,
            Err(faults) => return self.refuse(changed, faults.iter().map(ToString::to_string)),
        };
        let broken: Vec<_> =
            hosts.broken.iter().filter(|fault| !self.broken.contains(fault)).cloned().collect();
        if !broken.is_empty() {
            return self.refuse(changed, broken.into_iter());
        }
        for warning in &hosts.warnings {
            tracing::warn!("{warning}");
        }
        self.broken.clone_from(&hosts.broken);
        self.client.replace(hosts);
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
        let loaded = Arc::new(self.started.with_registry(loaded));
        self.current.store(loaded.clone());
        Some(loaded)
    }

    fn refuse(&self, changed: &str, faults: impl Iterator<Item = String>) -> Option<Arc<Loaded>> {
        let faults = faults.collect::<Vec<_>>().join("; ");
        tracing::error!(changed, error = faults, "settings_refused; those of before go on");
        None
    }
}

/// What is looked at.
pub fn files(loaded: &Loaded, options: &Options) -> Vec<PathBuf> {
    options.file().into_iter().chain(loaded.config.registry.files(&Surroundings::of_process())).collect()
}

async fn look(files: Vec<PathBuf>) -> Fingerprint {
    tokio::task::spawn_blocking(move || Fingerprint::of(&files)).await.unwrap_or_default()
}
