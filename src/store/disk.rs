//! The directory: what it holds, and what it would not take. Everything here blocks; `tiered` keeps it off the reactor.
//!
//! [`commit`] writes, [`leave`] takes away, [`settle`] does what can wait, [`ground`] takes the directory itself. A
//! module that cannot be written is held in memory, known by the same index, until it can be or until others need the
//! memory more.

mod commit;
mod ground;
mod index;
mod leave;
mod marks;
mod purge;
mod settle;

use super::Standing;
use super::draft::{Backing, Draft, Sealed};
use super::entry::{Body, ModuleFile, OpenError};
use super::error::StoreError;
use super::health::Health;
use super::layout::Layout;
use super::recover::{self, Found};
use super::room::{Room, Taken};
use super::spool::Spool;
use crate::clock::Clock;
use crate::lock::{Mutex, MutexGuard};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use arc_swap::ArcSwap;
use bytes::Bytes;
use ground::Ground;
use index::Index;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use ground::known_format;
pub use settle::Lost;

/// Of the memory for fetches, the part that what the disk would not take may stay in.
const HELD_PART: u64 = 2;

/// How much to keep, and how often to try a disk that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Most bytes of modules.
    pub limit: u64,
    /// Time between two tries.
    pub retry: Duration,
}

/// Modules and records of one directory.
pub struct Disk {
    layout: Layout,
    keep: Arc<ArcSwap<Keep>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Health,
    /// Memory for drafts and modules that the disk would not take.
    room: Room,
    index: Mutex<Index>,
    /// Held while names on disk change together with the index, so that an eviction cannot take away what is being
    /// admitted again. Bytes are written and synced before it is taken.
    commit: Mutex<()>,
    /// Held as long as the directory is ours; `None` while it cannot be had.
    ground: Mutex<Option<Ground>>,
    /// The device that it was on when it was taken first.
    device: Mutex<Option<u64>>,
    settled: Mutex<settle::Due>,
    /// What the file system had left at the last look.
    free: AtomicU64,
}

impl Disk {
    /// Takes `dir`, making it if needed, and recovers what is there. A directory that cannot be made, written or read is tried again later; what is new is held in `room` meanwhile.
    ///
    /// # Errors
    /// When the directory must not be used: another process has it, it is of an unknown format, or open to everybody.
    pub fn open(
        dir: &Path,
        keep: Keep,
        room: Room,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::new(dir);
        let keep = Arc::new(ArcSwap::from_pointee(keep));
        let disk = Self {
            health: Health::new(layout.root().into(), keep.clone(), clock.clone(), metrics.clone()),
            layout,
            keep,
            room,
            index: Mutex::default(),
            commit: Mutex::default(),
            ground: Mutex::default(),
            device: Mutex::default(),
            settled: Mutex::new(settle::Due::after(clock.now())),
            free: AtomicU64::new(0),
            clock,
            metrics,
        };
        match disk.take() {
            Err(error) if error.forbids_a_start() => return Err(error),
            Err(error) => disk.health.failed(&error, 0),
            Ok(()) => {}
        }
        disk.look_at_free();
        Ok(disk)
    }

    /// Takes the directory and what is in it.
    fn take(&self) -> Result<(), StoreError> {
        // Before anything is made there: what we know is on another one, which may come back.
        let known = *self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() && known != device_of(self.layout.root()) {
            let other =
                std::io::Error::new(std::io::ErrorKind::NotFound, "another file system is seen there");
            return Err(StoreError::io("taking", self.layout.root(), other));
        }
        let mut ground = ground::take(&self.layout)?;
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = device_of(self.layout.root());
        let found = recover::recover(&self.layout, ground.lock.is_some())?;
        let Found { modules, records, removed_drafts, quarantined, .. } = found;
        // Without a lock it is looked at again and again.
        if ground.lock.is_some() || self.health.is_well() {
            tracing::info!(
                dir = %self.layout.root().display(), modules = modules.len(), records = records.len(),
                removed_drafts, quarantined, "cache opened"
            );
        }
        self.metrics.quarantined.inc_by(quarantined);
        self.index().take_in(modules, records);
        if let Some(trouble) = ground.trouble.take() {
            self.health.failed(&trouble, 0);
        }
        // Without a lock it is taken again, and with it by then, before anything is written.
        if ground.lock.is_some() {
            *self.ground.lock().unwrap_or_else(PoisonError::into_inner) = Some(ground);
        }
        Ok(())
    }

    fn is_ours(&self) -> bool {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committing(&self) -> MutexGuard<'_, ()> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes what is written.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Notes that `needed` bytes could not be written.
    pub fn failed(&self, error: &StoreError, needed: u64) {
        self.health.failed(error, needed);
    }

    /// Memory for what it does not take.
    #[cfg(test)]
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// True when it is worth trying to write.
    pub(super) fn may_write(&self) -> bool {
        self.is_ours() && self.health.may_try()
    }

    /// The disk took something. It is well when it has all that it missed, and room for what did not fit.
    fn worked(&self) {
        let needed = self.health.why().map(|(_, needed)| needed);
        if needed.is_some_and(|needed| self.index().is_all_written() && self.free_bytes() >= needed) {
            self.index().may_read_again();
            self.health.worked();
        }
    }

    /// True when what we locked is still what lies there: a file system may go away, and another one be seen in its place.
    fn is_there(&self) -> bool {
        let ground = self.ground.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lock) = ground.as_ref().and_then(|ground| ground.lock.as_ref()) else { return false };
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        matches!((lock.metadata(), fs::metadata(self.layout.lock())), (Ok(a), Ok(b)) if same(&a, &b))
    }

    /// Notes that a module cannot be read for a reason that says nothing of it. It is fetched into memory if it is asked
    /// for, and its file and records stay.
    fn cannot_read(&self, digest: &Digest, error: &StoreError) {
        self.health.failed(error, 0);
        self.index().cannot_read(digest);
        if !self.is_there() {
            // To be taken again, when it is back.
            *self.ground.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// What is known of `reference`.
    pub fn record(&self, reference: &Reference) -> Option<Arc<Record>> {
        self.index().record(reference).cloned()
    }

    /// Everything known.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.index().records().cloned().collect()
    }

    /// A record that leads from a manifest to a module.
    pub fn record_of(&self, manifest: &Digest) -> Option<Arc<Record>> {
        self.index().of_manifest(manifest).cloned()
    }

    /// True when a module is here, as far as the index knows.
    pub fn holds(&self, module: &Module) -> bool {
        self.index().holds(module)
    }

    /// Most bytes of modules.
    pub fn limit(&self) -> u64 {
        self.keep.load().limit
    }

    /// What the file system had left at the last look, in bytes.
    pub fn free_at_last_look(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Most bytes of what is held in memory in its place, fetches in progress included.
    pub fn held_limit(&self) -> u64 {
        self.room.limit()
    }

    /// Looks at what the file system has left, and tells it to whoever watches.
    pub fn look_at_free(&self) {
        let known = rustix::fs::statvfs(self.layout.root()).ok();
        let known = known.map(|fs| (fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize));
        self.free.store(known.map_or(0, |(free, _)| free), Ordering::Relaxed);
        self.metrics.set_disk(known);
    }

    /// How a module is held, as far as the index knows.
    pub fn standing(&self, module: &Module) -> Option<Standing> {
        self.index().standing(module)
    }

    /// Entries and bytes on disk.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.index();
        (index.files, index.bytes)
    }

    /// Entries and bytes in memory that the disk would not take.
    pub fn held_usage(&self) -> (u64, u64) {
        let index = self.index();
        (index.held.len() as u64, index.held.values().map(|held| held.module.size).sum())
    }

    /// A module that the disk would not take, and why, as `Cache-Status` has it.
    pub fn held(&self, digest: &Digest) -> Option<(Bytes, &'static str)> {
        let held = self.index().held.get(digest)?.clone();
        Some((held.bytes, held.why))
    }

    /// A new draft for `expected` bytes, as far as that is known.
    pub fn draft(self: &Arc<Self>, expected: u64) -> Result<Draft, StoreError> {
        let tmp = self.layout.tmp();
        if self.may_write() && !tmp.exists() {
            // Somebody emptied the directory. If it cannot be made again the draft will tell.
            let _ = ground::make_folders(&self.layout);
        }
        Draft::new(self.clone(), &tmp, expected)
    }

    /// A new spool.
    ///
    /// # Errors
    /// The disk takes nothing.
    pub fn spool(&self) -> Result<Spool, StoreError> {
        if !self.is_ours() {
            return Err(StoreError::Lost);
        }
        ground::make_folders(&self.layout)?;
        Spool::new(&self.layout.tmp(), self.limit())
    }

    /// Keeps a module: on disk, or in memory while the disk takes nothing.
    ///
    /// # Errors
    /// When there is room for it in neither.
    pub fn admit(&self, sealed: Sealed) -> Result<(), StoreError> {
        let Sealed { backing, checks, module } = sealed;
        let (bytes, taken) = match backing {
            Backing::File(file) => match self.commit_file(file, &checks, &module) {
                Ok(()) => return Ok(()),
                Err(refused) => {
                    self.health.failed(&refused.error, module.size);
                    // Before its bytes are.
                    let taken = self.take_room(module.size).filter(|_| module.size <= self.most_held());
                    let taken = taken.ok_or(StoreError::NoRoom { bytes: module.size })?;
                    (refused.read_back(&module)?, taken)
                }
            },
            Backing::Memory(mut bytes, mut taken) => {
                bytes.shrink_to_fit();
                taken.shrink(bytes.len() as u64);
                if self.may_write() {
                    match self.commit_bytes(&bytes, &checks, &module) {
                        Ok(()) => return Ok(()),
                        Err(error) => self.health.failed(&error, module.size),
                    }
                }
                (bytes, taken)
            }
        };
        self.hold(bytes, taken, &module)
    }

    /// Holds a module in memory. Others that are held there leave for it, those not used for longest first.
    fn hold(&self, bytes: Vec<u8>, taken: Taken, module: &Module) -> Result<(), StoreError> {
        let limit = self.most_held();
        if module.size > limit {
            return Err(StoreError::NoRoom { bytes: module.size });
        }
        let _committing = self.committing();
        self.hold_no_more_than(limit - module.size, &module.digest);
        let why = self.health.why().map_or("uncached-disk_error", |(why, _)| why);
        tracing::warn!(digest = %module.digest, bytes = module.size, why, "held in memory only");
        self.index().hold(module, taken.hold(bytes), why, self.clock.now());
        Ok(())
    }

    /// True when a module has a file that can be read, as far as is known: another reference's, and the same bytes.
    pub(super) fn is_on_disk(&self, digest: &Digest) -> bool {
        self.index().modules.get(digest).is_some_and(|entry| entry.on_disk && !entry.unreadable)
    }

    /// Most bytes of modules in memory alone.
    fn most_held(&self) -> u64 {
        self.room.limit() / HELD_PART
    }

    /// Lets modules in memory alone go until they are `bytes` at most, but not `but`; within a commit.
    fn hold_no_more_than(&self, bytes: u64, but: &Digest) {
        let leaving = self.index().held_beyond(bytes, but);
        for digest in leaving {
            tracing::info!(%digest, "left memory for another that the disk does not take");
            self.let_go(&digest);
        }
    }

    /// Takes memory for what the disk does not take. Those that are held there longest unused leave for it.
    pub(super) fn take_room(&self, bytes: u64) -> Option<Taken> {
        self.room.try_take(bytes).or_else(|| {
            let (_, held) = self.held_usage();
            let missing = bytes.saturating_sub(self.room.free());
            let _committing = self.committing();
            self.hold_no_more_than(held.saturating_sub(missing), &Digest::of(b""));
            self.room.try_take(bytes)
        })
    }

    /// Holds a copy of a module whose file proved damaged and cannot be written again.
    pub fn hold_copy(&self, bytes: &[u8], module: &Module) -> Result<(), StoreError> {
        let taken = self.take_room(module.size).ok_or(StoreError::NoRoom { bytes: module.size })?;
        self.hold(bytes.to_vec(), taken, module)
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
            if entry.unreadable {
                return Ok(None);
            }
            entry.checks.clone()
        };
        let is_first = checks.is_none();
        let path = self.layout.module(digest);
        match ModuleFile::open(&path, digest, module.size, checks) {
            Ok(file) => {
                if is_first {
                    self.index().looked_at(digest, Some(&file), self.clock.now());
                }
                Ok(Some(file))
            }
            Err(OpenError::Damaged(damage, inode)) => {
                self.lose(digest, &damage, inode);
                Ok(None)
            }
            Err(OpenError::Refused(error)) => {
                let error = StoreError::io("opening", &path, error);
                self.health.count(&error);
                Err(error)
            }
            Err(OpenError::Unreadable(error)) => {
                self.cannot_read(digest, &StoreError::io("reading", &path, error));
                Ok(None)
            }
        }
    }

    /// A module's bytes, wherever they are.
    pub fn body(&self, module: &Module) -> Result<Option<Body>, StoreError> {
        match self.held(&module.digest) {
            Some((bytes, _)) => Ok(Some(Body::Memory(bytes))),
            None => Ok(self.open_module(module)?.map(Body::File)),
        }
    }

    /// Notes a use that did not open the file. The module's bytes, and why, where the disk would not take it.
    pub fn used(&self, digest: &Digest) -> Option<(Bytes, &'static str)> {
        let now = self.clock.now();
        let mut index = self.index();
        index.touch(digest, now)?;
        let held = index.held.get(digest)?;
        Some((held.bytes.clone(), held.why))
    }
}

/// The device of `path`, or of what it would be made in.
fn device_of(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|found| found.dev())
}

#[cfg(all(test, feature = "interleave"))]
mod interleave;
#[cfg(test)]
mod tests;
