//! The directory: commit, open, evict. Everything here blocks; `tiered` keeps it off the reactor.

use super::entry::{Checks, Damage, Draft, ModuleFile, Sealed};
use super::error::StoreError;
use super::evict::{self, Held};
use super::layout::Layout;
use super::recover::{self, quarantine};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

/// Absences that are kept. Which names and versions do not exist is for clients to invent, so their number has a limit;
/// a forgotten one costs a question to the registry.
const MOST_ABSENCES: usize = 4096;

/// Modules and records of one directory.
pub struct Disk {
    layout: Layout,
    limit: u64,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    index: Mutex<Index>,
    /// Held while names on disk change together with the index, so that an eviction cannot take away what is being
    /// admitted again. Bytes are written and synced before it is taken.
    commit: Mutex<()>,
    /// Held as long as the directory is ours.
    _lock: File,
}

#[derive(Default)]
struct Index {
    modules: HashMap<Digest, Entry>,
    records: HashMap<Reference, Arc<Record>>,
    bytes: u64,
}

struct Entry {
    size: u64,
    last_used: Timestamp,
    /// Used since its file's time was last set.
    touched: bool,
    checks: Option<Arc<Checks>>,
}

impl Disk {
    /// Takes `dir`, making it if needed, and recovers what is there. At most `limit` bytes of modules are kept.
    ///
    /// # Errors
    /// `Locked` when another process has it; `Io` when it cannot be made or read.
    pub fn open(
        dir: &Path,
        limit: u64,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::new(dir);
        for folder in
            [layout.root().into(), layout.tmp(), layout.quarantine(), layout.records(), layout.modules()]
        {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|e| StoreError::io("creating", &folder, e))?;
        }
        let lock = lock(&layout)?;
        let found = recover::recover(&layout)?;
        tracing::info!(
            dir = %dir.display(), modules = found.modules.len(), records = found.records.len(),
            removed_drafts = found.removed_drafts, quarantined = found.quarantined, "cache opened"
        );
        metrics.quarantined.inc_by(found.quarantined);
        let bytes = found.modules.values().map(|(size, _)| size).sum();
        let entry = |(size, last_used)| Entry { size, last_used, touched: false, checks: None };
        let modules = found.modules.into_iter().map(|(digest, facts)| (digest, entry(facts))).collect();
        let index = Mutex::new(Index { modules, records: found.records, bytes });
        Ok(Self { layout, limit, clock, metrics, index, commit: Mutex::default(), _lock: lock })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of `reference`.
    pub fn record(&self, reference: &Reference) -> Option<Arc<Record>> {
        self.index().records.get(reference).cloned()
    }

    /// Everything known.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.index().records.values().cloned().collect()
    }

    /// True when a module is here, as far as the index knows.
    pub fn holds(&self, module: &Module) -> bool {
        self.index().modules.get(&module.digest).is_some_and(|entry| entry.size == module.size)
    }

    /// Entries and bytes.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.index();
        (index.modules.len() as u64, index.bytes)
    }

    /// A new draft.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        let tmp = self.layout.tmp();
        Draft::new(&tmp).or_else(|e| {
            if tmp.exists() { Err(e) } else { make_folders(&self.layout).and_then(|()| Draft::new(&tmp)) }
        })
    }

    fn committing(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a record. It is known from now on, even when writing it fails. One whose module is gone by now is not
    /// written: a visible record always resolves.
    pub fn put_record(&self, record: Record) -> Result<(), StoreError> {
        let module = record.present().map(|present| present.module.digest);
        let path = self.layout.record(&record.reference);
        let bytes = record.encode();
        self.index().records.insert(record.reference.clone(), Arc::new(record));
        let tmp = self.layout.tmp();
        let wrong = |e| StoreError::io("writing", &path, e);
        if !tmp.exists() || !self.layout.records().exists() {
            make_folders(&self.layout)?;
        }
        let mut file = NamedTempFile::new_in(&tmp).map_err(wrong)?;
        file.write_all(&bytes).map_err(wrong)?;
        file.as_file().sync_all().map_err(wrong)?;
        let _committing = self.committing();
        if module.is_some_and(|digest| !self.index().modules.contains_key(&digest)) {
            return Ok(());
        }
        file.persist(&path).map_err(|e| wrong(e.error))?;
        if module.is_none() {
            self.forget_old_absences()?;
        }
        sync_folder(&self.layout.records())
    }

    /// Keeps the number of absences below its limit, within a commit. The oldest leave, some at a time.
    fn forget_old_absences(&self) -> Result<(), StoreError> {
        let gone: Vec<Reference> = {
            let mut index = self.index();
            let absences = index.records.values().filter(|record| record.present().is_none());
            let mut absences: Vec<_> =
                absences.map(|record| (record.checked_at, record.reference.clone())).collect();
            if absences.len() <= MOST_ABSENCES {
                return Ok(());
            }
            absences.sort();
            absences.truncate(absences.len() - MOST_ABSENCES / 10 * 9);
            for (_, reference) in &absences {
                index.records.remove(reference);
            }
            absences.into_iter().map(|(_, reference)| reference).collect()
        };
        self.remove_records(&gone)
    }

    fn remove_records(&self, references: &[Reference]) -> Result<(), StoreError> {
        for reference in references {
            let path = self.layout.record(reference);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("removing", &path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Commits a module and makes room for it.
    pub fn admit(&self, sealed: Sealed) -> Result<(), StoreError> {
        let Sealed { file, checks, module } = sealed;
        let path = self.layout.module(&module.digest);
        let wrong = |e| StoreError::io("writing", &path, e);
        file.as_file().sync_all().map_err(wrong)?;
        let _committing = self.committing();
        let folder = path.parent().unwrap_or(self.layout.root());
        if !folder.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(wrong)?;
            sync_folder(&self.layout.modules())?;
        }
        // What lies there under this name was not in the index or was found damaged: ours is known to be right.
        file.persist(&path).map_err(|e| wrong(e.error))?;
        sync_folder(folder)?;
        let leaving = {
            let mut index = self.index();
            let entry =
                Entry { size: module.size, last_used: self.clock.now(), touched: true, checks: Some(checks) };
            index.bytes += module.size;
            if let Some(old) = index.modules.insert(module.digest, entry) {
                index.bytes -= old.size;
            }
            let held = index.modules.iter();
            let held = held
                .map(|(digest, e)| Held { digest: *digest, size: e.size, last_used: e.last_used })
                .collect();
            evict::choose(held, self.limit, &module.digest)
        };
        for digest in leaving {
            self.metrics.evictions.inc();
            tracing::info!(%digest, "evicted to make room");
            self.remove(&digest)?;
        }
        Ok(())
    }

    /// Removes a module, within a commit: its records first, so that none ever points to nothing.
    fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        self.forget(digest)?;
        let path = self.layout.module(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("removing", &path, e)),
            _ => Ok(()),
        }
    }

    /// Takes a module out of the index, and its records out of index and disk.
    fn forget(&self, digest: &Digest) -> Result<(), StoreError> {
        let gone: Vec<Reference> = {
            let mut index = self.index();
            if let Some(entry) = index.modules.remove(digest) {
                index.bytes -= entry.size;
            }
            let points =
                |record: &Record| record.present().is_some_and(|present| present.module.digest == *digest);
            let gone: Vec<_> =
                index.records.values().filter(|r| points(r)).map(|r| r.reference.clone()).collect();
            for reference in &gone {
                index.records.remove(reference);
            }
            gone
        };
        self.remove_records(&gone)?;
        if gone.is_empty() { Ok(()) } else { sync_folder(&self.layout.records()) }
    }

    /// Opens a module. `None` when it is not there or was found damaged; then it and its records are out of the way.
    pub fn open_module(&self, module: &Module) -> Option<ModuleFile> {
        let digest = &module.digest;
        let checks = {
            let mut index = self.index();
            let entry = index.modules.get_mut(digest)?;
            entry.last_used = self.clock.now();
            entry.touched = true;
            entry.checks.clone()
        };
        let path = self.layout.module(digest);
        match ModuleFile::open(&path, digest, module.size, checks) {
            Ok(file) => {
                if let Some(entry) = self.index().modules.get_mut(digest) {
                    entry.checks = Some(file.checks());
                }
                Some(file)
            }
            Err(damage) => {
                self.lose(digest, &damage);
                None
            }
        }
    }

    /// Puts aside a module whose bytes are not what they were.
    pub fn lose(&self, digest: &Digest, damage: &Damage) {
        let path = self.layout.module(digest);
        let _committing = self.committing();
        if let Err(error) = self.forget(digest) {
            self.metrics.store_errors.inc();
            tracing::warn!(%digest, %error, "the record of a lost module could not be removed");
        }
        let why = match damage {
            Damage::Missing => {
                tracing::warn!(path = %path.display(), "a module is gone from the disk; it will be fetched again");
                return;
            }
            Damage::Shape(text) => text.clone(),
            Damage::Digest(found) => format!("its bytes are {found}"),
            Damage::Unreadable(error) => error.to_string(),
        };
        self.metrics.quarantined.inc();
        quarantine(&self.layout, &path, &why);
    }

    /// Notes a use that did not open the file.
    pub fn touch(&self, digest: &Digest) {
        if let Some(entry) = self.index().modules.get_mut(digest) {
            entry.last_used = self.clock.now();
            entry.touched = true;
        }
    }

    /// Writes last uses into the files' times, so that a restart evicts in the right order.
    pub fn write_last_uses(&self) {
        let touched: Vec<(Digest, Timestamp)> = {
            let mut index = self.index();
            let touched = index.modules.iter_mut().map(|(digest, entry)| {
                std::mem::take(&mut entry.touched).then_some((*digest, entry.last_used))
            });
            touched.flatten().collect()
        };
        for (digest, used) in touched {
            // Best effort: a lost time costs a worse choice at an eviction, no more.
            let _ = File::open(self.layout.module(&digest)).and_then(|file| file.set_modified(used.system()));
        }
    }
}

/// Makes what is missing: at the start, and again if somebody emptied the directory under us.
fn make_folders(layout: &Layout) -> Result<(), StoreError> {
    for folder in
        [layout.root().into(), layout.tmp(), layout.quarantine(), layout.records(), layout.modules()]
    {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| StoreError::io("creating", &folder, e))?;
    }
    Ok(())
}

fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let wrong = |e| StoreError::io("locking", &path, e);
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let parent = layout.root().parent().unwrap_or(layout.root());
            return Err(StoreError::Locked { path: parent.into(), holder: holder.trim().into() });
        }
        Err(fs::TryLockError::Error(e)) => return Err(wrong(e)),
    }
    file.set_len(0).map_err(wrong)?;
    write!(file, "{}", std::process::id()).map_err(wrong)?;
    Ok(file)
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| StoreError::io("syncing", folder, e))
}

#[cfg(test)]
mod tests;
