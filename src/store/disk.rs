//! The directory: commit, open, evict. Everything here blocks; `tiered` keeps it off the reactor.

mod index;

use super::entry::{Damage, Draft, ModuleFile, OpenError, Sealed};
use super::error::StoreError;
use super::evict;
use super::layout::Layout;
use super::recover::{self, quarantine};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use index::Index;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Time between two times that modules leave for want of space below the limit.
const BETWEEN_MAKING_ROOM: Duration = Duration::from_secs(60);

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
        make_folders(&layout)?;
        let lock = lock(&layout)?;
        let found = recover::recover(&layout)?;
        tracing::info!(
            dir = %dir.display(), modules = found.modules.len(), records = found.records.len(),
            removed_drafts = found.removed_drafts, quarantined = found.quarantined, "cache opened"
        );
        metrics.quarantined.inc_by(found.quarantined);
        let index = Mutex::new(Index::new(found.modules, found.records));
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
    /// kept: a visible record always resolves.
    pub fn put_record(&self, record: Record) -> Result<(), StoreError> {
        let path = self.layout.record(&record.reference);
        let written = self.write_record(&record, &path);
        let _committing = self.committing();
        let gone = {
            let mut index = self.index();
            match record.present() {
                Some(present) if !index.modules.contains_key(&present.module.digest) => return Ok(()),
                // An absence that was overtaken by what is held now.
                None if index.resolves(&record.reference) => return Ok(()),
                _ => index.keep(record),
            }
        };
        self.remove_records(&gone)?;
        written?.persist(&path).map_err(|e| StoreError::io("writing", &path, e.error))?;
        sync_folder(&self.layout.records())
    }

    /// The record's bytes in a synced file without its name yet.
    fn write_record(&self, record: &Record, path: &Path) -> Result<NamedTempFile, StoreError> {
        let wrong = |e| StoreError::io("writing", path, e);
        let tmp = self.layout.tmp();
        if !tmp.exists() || !self.layout.records().exists() {
            make_folders(&self.layout)?;
        }
        let mut file = NamedTempFile::new_in(&tmp).map_err(wrong)?;
        file.write_all(&record.encode()).map_err(wrong)?;
        file.as_file().sync_all().map_err(wrong)?;
        Ok(file)
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
            make_folder(folder)?;
            sync_folder(&self.layout.modules())?;
        }
        // What lies there under this name was not in the index or was found damaged: ours is known to be right.
        file.persist(&path).map_err(|e| wrong(e.error))?;
        sync_folder(folder)?;
        let leaving = {
            let mut index = self.index();
            index.admit(&module, checks, self.clock.now());
            evict::choose(index.held(), self.limit, Some(&module.digest))
        };
        self.evict(&leaving);
        Ok(())
    }

    /// Makes room for `bytes` on a disk that is full before the limit is reached. True when something left.
    ///
    /// Nothing leaves when that would not be enough, and not again within a minute: on a disk that somebody else keeps
    /// full, everything would be gone soon and nothing be won.
    pub fn make_room(&self, bytes: u64) -> bool {
        let _committing = self.committing();
        let free = rustix::fs::statvfs(self.layout.root()).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
        let now = self.clock.now();
        let leaving = {
            let mut index = self.index();
            let lately = index.made_room.is_some_and(|then| now.since(then) < BETWEEN_MAKING_ROOM);
            let missing = bytes.saturating_sub(free);
            if lately || missing == 0 || missing > index.bytes {
                return false;
            }
            index.made_room = Some(now);
            evict::down_to(index.held(), index.bytes - missing, None)
        };
        self.evict(&leaving);
        !leaving.is_empty()
    }

    /// Removes modules, within a commit. What cannot be removed is out of the index all the same.
    fn evict(&self, leaving: &[Digest]) {
        for digest in leaving {
            self.metrics.evictions.inc();
            tracing::info!(%digest, "evicted to make room");
            if let Err(error) = self.remove(digest) {
                self.metrics.store_errors.inc();
                tracing::warn!(%digest, %error, "an evicted module could not be removed");
            }
        }
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
        let gone = self.index().forget(digest);
        self.remove_records(&gone)?;
        if gone.is_empty() { Ok(()) } else { sync_folder(&self.layout.records()) }
    }

    /// Opens a module. `None` when it is not there or was found damaged; then it and its records are out of the way.
    ///
    /// # Errors
    /// What keeps us from opening it and says nothing of it, such as too many open files.
    pub fn open_module(&self, module: &Module) -> Result<Option<ModuleFile>, StoreError> {
        let digest = &module.digest;
        let checks = {
            let mut index = self.index();
            let Some(entry) = index.touch(digest, self.clock.now()) else { return Ok(None) };
            entry.checks.clone()
        };
        let path = self.layout.module(digest);
        match ModuleFile::open(&path, digest, module.size, checks) {
            Ok(file) => {
                if let Some(entry) = self.index().modules.get_mut(digest) {
                    entry.checks = Some(file.checks());
                }
                Ok(Some(file))
            }
            Err(OpenError::Damaged(damage, inode)) => {
                self.lose(digest, &damage, inode);
                Ok(None)
            }
            Err(OpenError::Refused(error)) => Err(StoreError::io("opening", &path, error)),
        }
    }

    /// Puts aside a module whose bytes are not what they were. With `inode`, only if its name still leads to that file:
    /// who read slowly may hold one that was replaced since.
    pub fn lose(&self, digest: &Digest, damage: &Damage, inode: Option<(u64, u64)>) {
        let path = self.layout.module(digest);
        let _committing = self.committing();
        let now = fs::symlink_metadata(&path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if inode.is_some() && inode != now {
            return;
        }
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
        self.index().touch(digest, self.clock.now());
    }

    /// Writes last uses into the files' times, so that a restart evicts in the right order.
    pub fn write_last_uses(&self) {
        let touched = self.index().take_touched();
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
        make_folder(&folder)?;
    }
    Ok(())
}

/// Makes a folder and those above it, for our own user alone.
fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| StoreError::io("creating", folder, e))
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
