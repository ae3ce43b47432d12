//! New settings, catalogs, certificates, credentials and rules for clients, while larder goes on serving.
//!
//! Files are looked at once a second; what has changed and then looked the same for a second is read. SIGHUP and the
//! administration ask for it at once. Everything is read and checked first, and looked at again afterwards: what changed
//! while it was read is read once more, so that what belongs together is used together. What can be used takes the place
//! of what was; what cannot is told and changes nothing. Requests that are under way end with what they began with.

use super::{Options, assemble, certificates, machine, serve};
use crate::admin::status::{Reloaded, Settings};
use crate::catalog::Names;
use crate::config::watch::Watched;
use crate::config::{self, Config, Fault, Loaded};
use crate::policy::KeyFiles;
use crate::policy::lock::Locked;
use crate::registry::trace::Trace;
use crate::registry::{Hosts, Surroundings};
use crate::server::{self, admin::Unusable};
use crate::store::Room;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::sync::{Mutex, watch};

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);
/// How often files are read that change while they are read.
const TRIES: usize = 4;
/// Files that are named when they have changed.
const NAMED: usize = 100;

/// What another part of the house takes from the settings.
pub struct Part {
    /// The files and folders that it reads, by these settings.
    pub files: fn(&Config) -> Vec<PathBuf>,
    /// Reads and checks them. What it returns puts them to use, and cannot fail.
    pub read: Box<Read>,
}

/// Reads and checks.
pub type Read = dyn Fn(&Loaded) -> Result<Apply, Vec<Fault>> + Send + Sync;

/// Puts to use what was read, with the names that were read with it.
pub type Apply = Box<dyn FnOnce(&Arc<Names>) + Send>;

/// What is reloaded, and into what.
pub struct Reload {
    /// Where the settings are from.
    pub options: Options,
    /// The settings that larder was started with.
    pub started: Loaded,
    /// The settings in use: as they were read last, but for what only another start can follow.
    pub current: watch::Sender<Arc<Loaded>>,
    /// What takes them.
    pub parts: assemble::Assembled,
    /// How connections are treated.
    pub server: server::Live,
    /// Of each port, the memory for what is on its way.
    pub sending: [Room; 2],
    /// What else takes them.
    pub others: Vec<Part>,
    /// What was read.
    pub seen: ArcSwap<Seen>,
    /// Held by whoever reads.
    pub turn: Arc<Mutex<()>>,
}

/// What was read.
#[derive(Clone)]
pub struct Seen {
    /// The settings in use as they were written.
    loaded: Arc<Loaded>,
    /// The files, as they were when they were used.
    used: Watched,
    /// The files, as they were when they were last read, used or not.
    watched: Watched,
    /// What was found without being named, and is in use.
    found: Vec<PathBuf>,
}

/// What the settings name, read and checked.
struct Ready {
    /// The settings as they are written.
    written: Loaded,
    /// As they are used until the next start.
    loaded: Loaded,
    names: Names,
    lock: Option<Locked>,
    keys: KeyFiles,
    hosts: Hosts,
    others: Vec<Apply>,
}

/// Who asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Files,
    Signal,
    Administration,
}

impl Seen {
    /// What a start read: `hosts` by the settings in `loaded`. Blocks.
    pub fn at_start(loaded: &Loaded, hosts: &Hosts, options: &Options, others: &[Part]) -> Self {
        let used = Watched::of(files(&loaded.config, Some(hosts), options, others));
        Self { loaded: Arc::new(loaded.clone()), watched: used.clone(), used, found: hosts.used() }
    }
}

/// All files and folders that settings name.
fn files(config: &Config, hosts: Option<&Hosts>, options: &Options, others: &[Part]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = options.file().into_iter().collect();
    files.extend(config.catalog.files.iter().cloned());
    files.extend(config.lock.file().map(Into::into));
    files.extend(config.policy.key_files().into_iter().cloned());
    files.extend(config.registry.files(&Surroundings::of_process()));
    files.extend(hosts.into_iter().flat_map(Hosts::files));
    files.extend(others.iter().flat_map(|part| (part.files)(config)));
    files
}

impl Reload {
    /// Looks for as long as larder runs; `hangup` reads everything at once.
    pub async fn run(self: Arc<Self>, mut hangup: Signal) {
        let mut last = self.seen.load().watched.clone();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                _ = hangup.recv() => true,
            };
            if asked {
                let turn = self.turn.clone().lock_owned().await;
                let _ = self.clone().read_behind(By::Signal, turn, &Handle::current()).await;
                continue;
            }
            let before = self.seen.load_full();
            let watched = before.watched.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || watched.again()).await else { continue };
            let settled = now == last;
            last = now.clone();
            if now == before.watched || !settled {
                continue;
            }
            let turn = self.turn.clone().lock_owned().await;
            // Unless somebody asked for it meanwhile.
            if Arc::ptr_eq(&before, &self.seen.load()) {
                let _ = self.clone().read_behind(By::Files, turn, &Handle::current()).await;
            }
        }
    }

    /// What the administration asks for: everything is read at once, on `runtime`.
    pub fn asked(self: &Arc<Self>, runtime: Handle) -> server::admin::Reload {
        let reload = self.clone();
        Arc::new(move || {
            let (reload, runtime) = (reload.clone(), runtime.clone());
            Box::pin(async move {
                let Ok(turn) = reload.turn.clone().try_lock_owned() else {
                    return Err(Unusable { busy: true, faults: Vec::new() });
                };
                reload.read_behind(By::Administration, turn, &runtime).await
            })
        })
    }

    /// Reads to the end, though whoever asked leaves.
    fn read_behind(
        self: Arc<Self>,
        by: By,
        turn: tokio::sync::OwnedMutexGuard<()>,
        runtime: &Handle,
    ) -> impl Future<Output = Result<Reloaded, Unusable>> + Send + 'static {
        let work = runtime.spawn_blocking(move || {
            let _turn = turn;
            self.read(by)
        });
        async move {
            let ended_early = |error| {
                tracing::error!(%error, "settings_refused: the reload ended by a defect of larder; those of before go on");
                Err(vec!["the reload ended by a defect of larder".into()])
            };
            work.await.unwrap_or_else(ended_early).map_err(|faults| Unusable { busy: false, faults })
        }
    }

    /// Reads everything, and uses it if it is sound. Blocks.
    fn read(&self, by: By) -> Result<Reloaded, Vec<String>> {
        let before = self.seen.load_full();
        let mut looked = before.watched.again();
        let changed = looked.changed(&before.used);
        let changed: Vec<_> = changed.iter().take(NAMED).map(|path| path.display().to_string()).collect();
        for tries_left in (0..TRIES).rev() {
            let (read, mut files) = self.try_read(&before);
            if read.is_err() {
                // What is in use goes on, and is looked at.
                files.extend_from_slice(before.used.files());
            }
            // Whatever differs from what we looked at before may not be what we read.
            let is_whole = looked.again() == looked && looked.is_of(&files);
            if !is_whole && tries_left > 0 {
                looked = Watched::of(files);
                continue;
            }
            return match read {
                Ok(ready) if is_whole => Ok(self.take(ready, by, &before, looked, changed)),
                Ok(_) => Err(self.refuse(
                    by,
                    &before,
                    looked,
                    &changed,
                    vec!["files change while they are read".into()],
                )),
                Err(faults) => Err(self.refuse(by, &before, looked, &changed, faults)),
            };
        }
        unreachable!("the last try returns")
    }

    /// Reads everything, or tells all faults; and which files that is in, as far as they are known.
    fn try_read(&self, before: &Seen) -> (Result<Ready, Vec<String>>, Vec<PathBuf>) {
        let read = self.options.sources().and_then(|sources| config::load(&sources));
        let written = match read {
            Ok(written) => written,
            Err(found) => return (Err(all(&found)), self.options.file().into_iter().collect()),
        };
        let loaded = written.in_use(&self.started);
        let mut faults = Vec::new();
        let names = assemble::names(&loaded).map_err(|found| faults.extend(all(&found))).ok();
        let lock = assemble::lock(&loaded).map_err(|found| faults.extend(all(&found))).unwrap_or_default();
        let hosts = assemble::hosts(&loaded, self.parts.breakers.clone(), Trace::default());
        let hosts = hosts.map_err(|found| faults.extend(all(&found))).ok();
        // What was good is not given up for what is broken; what never was is no reason to stay as we are.
        let broken = hosts.iter().flat_map(|hosts| &hosts.broken);
        faults.extend(broken.filter(|b| before.found.contains(&b.path)).map(|b| b.fault.clone()));
        let keys = assemble::keys(&loaded).map_err(|found| faults.extend(all(&found))).ok();
        let mut others = Vec::new();
        for part in &self.others {
            match (part.read)(&loaded) {
                Ok(apply) => others.push(apply),
                Err(found) => faults.extend(all(&found)),
            }
        }
        let files = files(&loaded.config, hosts.as_ref(), &self.options, &self.others);
        match (names, keys, hosts) {
            (Some(names), Some(keys), Some(hosts)) if faults.is_empty() => {
                (Ok(Ready { written, loaded, names, lock, keys, hosts, others }), files)
            }
            _ => (Err(faults), files),
        }
    }

    /// Uses what was read.
    fn take(&self, ready: Ready, by: By, before: &Seen, watched: Watched, files: Vec<String>) -> Reloaded {
        let Ready { written, loaded, names, lock, keys, hosts, others } = ready;
        let (config, parts) = (&loaded.config, &self.parts);
        let mut reloaded = Reloaded {
            changed: written.differences(&before.loaded),
            needs_restart: written.needs_restart(&self.started),
            warnings: all(&written.warnings),
        };
        // What the settings' own file says is told by key.
        let own = self.options.file().map(|path| path.display().to_string());
        reloaded.changed.extend(files.into_iter().filter(|path| Some(path) != own.as_ref()));
        reloaded.warnings.extend(all(&machine::doubts(&loaded)));
        reloaded.warnings.extend(hosts.told().cloned());
        let lock_file = config.lock.file().map(|file| file.display().to_string());
        let key_files: Vec<_> = keys.keys().map(|file| file.display().to_string()).collect();
        let is_of_policy = |key: &&String| {
            key.starts_with("policy.")
                || key.starts_with("lock.")
                || lock_file.as_ref() == Some(*key)
                || key_files.contains(*key)
        };
        let of_policy: Vec<_> = reloaded.changed.iter().filter(is_of_policy).cloned().collect();
        let seen = Seen { loaded: Arc::new(written), used: watched.clone(), watched, found: hosts.used() };
        // Looked through before it is used: it may take a moment.
        let dirs = parts.overlay.load_full();
        let same = dirs.is_of(&config.overlay.dirs, config.limits.module.as_u64());
        let dirs = if same { dirs } else { Arc::new(assemble::overlay(config)) };
        serve::raise_descriptor_limit(config.server.connections);

        assemble::expect(&parts.metrics, &hosts, &names);
        certificates::count(&parts.metrics, &hosts.expiries);
        parts.breakers.go_offline(config.policy.is_offline());
        parts.client.replace(hosts, assemble::retry(config));
        let names = Arc::new(names);
        parts.names.store(names.clone());
        parts.overlay.store(dirs);
        parts.cache.change(assemble::rules(config, &keys, &names.catalog, lock));
        if !of_policy.is_empty() {
            parts.cache.policy_changed(&of_policy);
        }
        self.sending.iter().for_each(|room| room.resize(config.server.send_memory.as_u64()));
        self.server.store(Arc::new(config.server));
        others.into_iter().for_each(|apply| apply(&names));
        // Behind everything else: what leaves the disk takes a while.
        parts.store.change(&config.cache);
        parts.cache.doubt();
        self.current.send_replace(Arc::new(loaded));
        self.seen.store(Arc::new(seen));
        self.tell_used(by, &reloaded);
        reloaded
    }

    fn tell_used(&self, by: By, reloaded: &Reloaded) {
        let now = self.parts.clock.now();
        let told = &self.parts.administration.settings;
        told.store(Arc::new(Settings {
            loaded_at: now.to_string(),
            refused: None,
            needs_restart: reloaded.needs_restart.clone(),
            ..Settings::clone(&told.load())
        }));
        self.parts.metrics.settings_loaded.set((now.millis() / 1000) as i64);
        self.parts.metrics.settings_refused.set(0);
        self.parts.metrics.reloads.with_label_values(&["ok"]).inc();
        for warning in &reloaded.warnings {
            tracing::warn!("{warning}");
        }
        certificates::tell(&self.parts.metrics);
        let (by, changed) = (by.as_str(), reloaded.changed.join(", "));
        let needs_restart = reloaded.needs_restart.join(", ");
        match needs_restart.as_str() {
            "" => tracing::info!(by, changed, "settings_reloaded"),
            _ => {
                tracing::warn!(by, changed, needs_restart, "settings_reloaded; some of it at the next start")
            }
        }
    }

    /// Keeps what was before.
    fn refuse(
        &self,
        by: By,
        before: &Seen,
        watched: Watched,
        changed: &[String],
        faults: Vec<String>,
    ) -> Vec<String> {
        let (by, changed, error) = (by.as_str(), changed.join(", "), faults.join("; "));
        tracing::error!(by, changed, error, "settings_refused; those of before go on");
        self.parts.metrics.settings_refused.set(1);
        self.parts.metrics.reloads.with_label_values(&["error"]).inc();
        let told = &self.parts.administration.settings;
        told.store(Arc::new(Settings { refused: Some(error), ..Settings::clone(&told.load()) }));
        self.seen.store(Arc::new(Seen { watched, ..before.clone() }));
        faults
    }
}

/// Faults as lines, each with its place.
fn all(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Signal => "SIGHUP",
            Self::Administration => "administration",
        }
    }
}

#[cfg(test)]
mod tests;
