//! The directory: what it holds, and what it would not take. Everything here blocks; `tiered` keeps it off the reactor.
//!
//! [`commit`] writes, [`leave`] takes away, [`settle`] does what can wait, [`ground`] takes the directory itself. A
//! module that cannot be written is held in memory, known by the same index, until it can be or until others need the
//! memory more.

mod commit;
mod ground;
mod index;
mod leave;
mod settle;

use super::draft::{Backing, Draft, Sealed};
use super::entry::{Body, ModuleFile, OpenError};
use super::error::StoreError;
use super::health::Health;
use super::layout::Layout;
use super::recover::{self, Found};
use super::room::{Room, Taken};
use crate::clock::Clock;
use crate::lock::{Mutex, MutexGuard};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use bytes::Bytes;
use ground::Ground;
use index::Index;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

pub use ground::known_format;
pub use settle::Lost;

/// Of the memory for fetches, the part that what the disk would not take may stay in.
const HELD_PART: u64 = 2;

/// How much to keep, and how often to try a disk that fails.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Most bytes of modules.
    pub limit: u64,
    /// Time between two tries.
    pub retry: Duration,
}

/// Modules and records of one directory.
pub struct Disk {
    layout: Layout,
    limit: u64,
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
    settled: Mutex<settle::Due>,
}

impl Disk {
    /// Takes `dir`, making it if needed, and recovers what is there. A directory that cannot be made, written or read is tried again later; what is new is held in `room` meanwhile.
    ///
    /// # Errors
    /// When the directory must not be used: another process has it, it is of an unknown format, or open to everybody.
    pub fn open(
        dir: &Path,
        Keep { limit, retry }: Keep,
        room: Room,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::new(dir);
        let disk = Self {
            health: Health::new(layout.root().into(), retry, clock.clone(), metrics.clone()),
            layout,
            limit,
            room,
            index: Mutex::default(),
            commit: Mutex::default(),
            ground: Mutex::default(),
            settled: Mutex::new(settle::Due::after(clock.now())),
            clock,
            metrics,
        };
        match disk.take() {
            Err(error) if error.forbids_a_start() => return Err(error),
            Err(error) => disk.health.failed(&error, 0),
            Ok(()) => {}
        }
        Ok(disk)
    }

    /// Takes the directory and what is in it.
    fn take(&self) -> Result<(), StoreError> {
        let mut ground = ground::take(&self.layout)?;
        let found = recover::recover(&self.layout)?;
        let Found { modules, records, removed_drafts, quarantined } = found;
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

    /// Memory for what it does not take.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    /// True when it is worth trying to write.
    pub(super) fn may_write(&self) -> bool {
        self.is_ours() && self.health.may_try()
    }

    /// The disk took something. It is well when it has all that it missed.
    fn worked(&self) {
        if self.index().is_all_written() {
            self.health.worked();
        }
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

    /// Entries and bytes on disk.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.index();
        let on_disk = index.modules.values().filter(|entry| entry.held.is_none()).count();
        (on_disk as u64, index.bytes)
    }

    /// Entries and bytes in memory that the disk would not take.
    pub fn held_usage(&self) -> (u64, u64) {
        let index = self.index();
        let held = index.modules.values().filter(|entry| entry.held.is_some());
        held.fold((0, 0), |(number, bytes), entry| (number + 1, bytes + entry.size))
    }

    /// A module that the disk would not take, and why, as `Cache-Status` has it.
    pub fn held(&self, digest: &Digest) -> Option<(Bytes, &'static str)> {
        let held = self.index().modules.get(digest)?.held.clone()?;
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
                    let taken = self.room.try_take(module.size);
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
        let limit = self.room.limit() / HELD_PART;
        if module.size > limit {
            return Err(StoreError::NoRoom { bytes: module.size });
        }
        let _committing = self.committing();
        let leaving = self.index().held_beyond(limit - module.size, &module.digest);
        for digest in leaving {
            tracing::info!(%digest, "left memory for another that the disk does not take");
            self.let_go(&digest);
        }
        let why = self.health.why().map_or("uncached-disk_error", |(why, _)| why);
        tracing::warn!(digest = %module.digest, bytes = module.size, why, "held in memory only");
        self.index().hold(module, taken.hold(bytes), why, self.clock.now());
        Ok(())
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
                self.index().verified(digest, &file, self.clock.now());
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
        }
    }

    /// A module's bytes, wherever they are.
    pub fn body(&self, module: &Module) -> Result<Option<Body>, StoreError> {
        match self.held(&module.digest) {
            Some((bytes, _)) => Ok(Some(Body::Memory(bytes))),
            None => Ok(self.open_module(module)?.map(Body::File)),
        }
    }

    /// Notes a use that did not open the file.
    pub fn touch(&self, digest: &Digest) {
        self.index().touch(digest, self.clock.now());
    }
}

#[cfg(all(test, feature = "interleave"))]
mod interleave;
#[cfg(test)]
mod tests;
