//! Memory over disk: the store that the cache sees.

use super::disk::Disk;
use super::disk::{Keep, Lost};
use super::draft::{Draft, Sealed};
use super::entry::{self, Body, Damage, ModuleFile};
use super::memory::Memory;
use super::overlay;
use super::spool::Spool;
use super::{Config, Purge, Purged, Room, Standing, Store, StoreError, Tier, Usage, Verified};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Loads into memory that run at once for different modules; one module is loaded once.
const STRIPES: usize = 64;

/// See the module's text.
pub struct Tiered {
    disk: Arc<Disk>,
    memory: Arc<Memory>,
    overlay: overlay::Live,
    scrub: ArcSwap<Duration>,
    loading: [tokio::sync::Mutex<()>; STRIPES],
}

impl Tiered {
    /// Opens the directory. Blocks. What the disk does not take is held in `room`.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn open(
        dir: &Path,
        config: &Config,
        room: Room,
        overlay: overlay::Live,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let disk = Disk::open(dir, keep(config), room, clock, metrics)?;
        Ok(Self {
            disk: Arc::new(disk),
            memory: Arc::new(Memory::new(config.memory.as_u64())),
            overlay,
            scrub: ArcSwap::from_pointee(config.scrub),
            loading: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        })
    }

    /// Keeps as much, and looks as often, as `config` says from now on; its directory is not heeded. What is beyond the
    /// new limits leaves. Blocks.
    pub fn change(&self, config: &Config) {
        self.disk.resize(keep(config));
        self.memory.resize(config.memory.as_u64());
        self.scrub.store(Arc::new(config.scrub));
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || work(&disk)).await.map_err(|_| StoreError::Lost)
    }

    /// Keeps a module, and a copy of it in memory where there is room.
    async fn commit(&self, sealed: Sealed) -> Result<(), StoreError> {
        let module = sealed.module.clone();
        let opening = tokio::task::spawn_blocking(move || (sealed.reader(), sealed));
        let (reader, sealed) = opening.await.map_err(|_| StoreError::Lost)?;
        let copying = match reader {
            Ok(None) => return self.blocking(move |disk| disk.admit(sealed)).await?,
            // Meanwhile, for whoever waits for it: the disk takes its time to make it last.
            Ok(Some(file)) => {
                let (memory, digest) = (self.memory.clone(), module.digest);
                Ok(tokio::task::spawn_blocking(move || copy(&memory, digest, &file)))
            }
            Err(error) => Err(error),
        };
        let admitted = self.blocking(move |disk| disk.admit(sealed)).await;
        let copied = match copying {
            Ok(copying) => copying.await.map_err(|_| StoreError::Lost)?,
            Err(error) => Err(error),
        };
        admitted??;
        match copied {
            Ok(()) => Ok(()),
            Err(error) => self.blocking(move |disk| look_again(disk, &module, &error)).await?,
        }
    }

    /// Bytes of a file that `open` finds, by way of memory where they fit. `lost` is told when they cannot be read.
    async fn through_memory(
        &self,
        digest: Digest,
        size: u64,
        open: impl FnOnce(&Disk) -> Result<Option<ModuleFile>, StoreError> + Send + 'static,
        lost: impl FnOnce(&Disk, &ModuleFile, std::io::Error) + Send + 'static,
    ) -> Result<Option<(Body, Tier)>, StoreError> {
        let in_memory = || self.memory.get(&digest).map(|bytes| (Body::Memory(bytes), Tier::Memory));
        if let Some(found) = in_memory() {
            return Ok(Some(found));
        }
        // One loads it, the others find it loaded. What is sent from disk anyway need not queue.
        let _one = match self.memory.fits(size) {
            true => Some(self.loading[usize::from(digest.bytes()[0]) % STRIPES].lock().await),
            false => None,
        };
        if let Some(found) = in_memory() {
            return Ok(Some(found));
        }
        let memory = self.memory.clone();
        self.blocking(move |disk| {
            let Some(file) = open(disk)? else { return Ok(None) };
            match memory.load(digest, file.size, || file.read()) {
                Ok(Some(bytes)) => Ok(Some((Body::Memory(bytes), Tier::Disk))),
                Ok(None) => Ok(Some((Body::File(file), Tier::Disk))),
                Err(error) => {
                    lost(disk, &file, error);
                    Ok(None)
                }
            }
        })
        .await?
    }
}

#[async_trait]
impl Store for Tiered {
    fn record(&self, reference: &Reference) -> Option<Arc<Record>> {
        self.disk.record(reference)
    }

    fn records(&self) -> Vec<Arc<Record>> {
        self.disk.records()
    }

    fn record_of(&self, manifest: &Digest) -> Option<Arc<Record>> {
        self.disk.record_of(manifest)
    }

    async fn put_record(&self, record: Record) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.put_record(record)).await?
    }

    async fn draft(&self, expected: u64) -> Result<Draft, StoreError> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.draft(expected)).await.map_err(|_| StoreError::Lost)?
    }

    async fn spool(&self) -> Result<Spool, StoreError> {
        self.blocking(Disk::spool).await?
    }

    fn imported(&self) -> Vec<Digest> {
        self.disk.imported()
    }

    async fn note_imported(&self, bundle: Digest) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.note_imported(&bundle)).await?
    }

    async fn admit(&self, sealed: Sealed) -> Result<Module, StoreError> {
        let module = sealed.module.clone();
        let admitted = self.commit(sealed).await;
        // The copy may have come after the module was taken away, or of one that was not kept.
        if !self.disk.holds(&module) {
            self.memory.remove(&module.digest);
        }
        admitted.map(|()| module)
    }

    fn holds(&self, module: &Module) -> bool {
        self.disk.holds(module)
    }

    async fn module(&self, module: &Module) -> Result<Option<(Body, Tier)>, StoreError> {
        let digest = module.digest;
        if let Some((bytes, why)) = self.disk.used(&digest) {
            return Ok(Some((Body::Memory(bytes), Tier::Held(why))));
        }
        if let Some(bytes) = self.memory.get(&digest) {
            return Ok(Some((Body::Memory(bytes), Tier::Memory)));
        }
        let (module, size) = (module.clone(), module.size);
        let lost = move |disk: &Disk, file: &ModuleFile, error| {
            disk.lose(&digest, &Damage::Unreadable(error), Some(file.inode()));
        };
        self.through_memory(digest, size, move |disk| disk.open_module(&module), lost).await
    }

    fn uncached(&self, module: &Module) -> Option<&'static str> {
        self.disk.held(&module.digest).map(|(_, why)| why)
    }

    async fn damaged(&self, digest: &Digest, file: &ModuleFile, problem: std::io::Error) {
        let (digest, inode, overlay) = (*digest, file.inode(), self.overlay.load_full());
        let is_local = overlay.dirs().iter().any(|dir| file.path().starts_with(dir));
        let put_aside = move |disk: &Disk| match is_local {
            true => overlay.refresh(),
            false => drop(disk.lose(&digest, &Damage::Unreadable(problem), Some(inode))),
        };
        // A lost worker leaves the file where it is; the next reader finds the same.
        let _ = self.blocking(put_aside).await;
    }

    fn overlay(&self) -> Arc<overlay::Index> {
        self.overlay.load().index()
    }

    async fn overlay_module(&self, entry: Arc<overlay::Entry>) -> Result<Option<Body>, StoreError> {
        let Some((module, file)) = entry.opened() else { return Ok(None) };
        let lost = |_: &Disk, _: &ModuleFile, error| tracing::warn!(%error, "a local plugin cannot be read");
        let found = self.through_memory(module.digest, module.size, move |_| Ok(Some(file)), lost).await?;
        if found.is_none() {
            // It is another file by now: the next look need not wait for the poll.
            let overlay = self.overlay.load_full();
            tokio::task::spawn_blocking(move || overlay.refresh()).await.map_err(|_| StoreError::Lost)?;
        }
        Ok(found.map(|(body, _)| body))
    }

    async fn maintain(&self) -> Vec<Reference> {
        let (memory, scrub) = (self.memory.clone(), **self.scrub.load());
        let work = move |disk: &Disk| {
            disk.settle();
            disk.write_last_uses(false);
            let lost = disk.scrub(scrub);
            lost.into_iter().flat_map(|lost| put_back(disk, &memory, lost)).collect()
        };
        // A lost worker leaves everything for the next time.
        self.blocking(work).await.unwrap_or_default()
    }

    fn standing(&self, module: &Module) -> Option<Standing> {
        let standing = self.disk.standing(module)?;
        let copied = standing.tier == Tier::Disk.as_str() && self.memory.get(&module.digest).is_some();
        Some(if copied { Standing { tier: Tier::Memory.as_str(), ..standing } } else { standing })
    }

    async fn purge(&self, what: Purge) -> Result<Purged, StoreError> {
        let memory = self.memory.clone();
        self.blocking(move |disk| {
            let (gone, result) = disk.purge(&what);
            gone.iter().for_each(|digest| memory.remove(digest));
            result
        })
        .await?
    }

    async fn verify_next(&self, since: Timestamp) -> Option<Verified> {
        let memory = self.memory.clone();
        let work = move |disk: &Disk| {
            let lost = disk.verify_next(since)?;
            let damaged = lost.is_some();
            Some(Verified {
                damaged,
                lost: lost.map(|lost| put_back(disk, &memory, lost)).unwrap_or_default(),
            })
        };
        // A lost worker ends the reading; what is left has its turn in the background.
        self.blocking(work).await.ok().flatten()
    }

    async fn close(&self) {
        // A lost worker costs a worse choice at the next eviction, no more.
        let _ = self.blocking(|disk| disk.write_last_uses(true)).await;
    }

    fn pin(&self, digests: HashSet<Digest>) {
        self.disk.pin(digests);
    }

    fn usage(&self) -> Usage {
        let (disk_entries, disk_bytes) = self.disk.usage();
        let (memory_entries, memory_bytes) = self.memory.usage();
        let (held_entries, held_bytes) = self.disk.held_usage();
        Usage {
            disk_entries,
            disk_bytes,
            memory_entries,
            memory_bytes,
            held_entries,
            held_bytes,
            disk_limit: self.disk.limit(),
            memory_limit: self.memory.limit(),
            held_limit: self.disk.held_limit(),
            disk_free: self.disk.free_at_last_look(),
        }
    }
}

/// Reads a draft once more, to memory where there is room for it: what is there for others need not leave for what nobody
/// may want. Blocks.
fn copy(memory: &Memory, digest: Digest, file: &ModuleFile) -> std::io::Result<()> {
    match memory.has_room(file.size) && memory.load(digest, file.size, || file.read())?.is_some() {
        true => Ok(()),
        false => file.verify(),
    }
}

/// Reads a module that was admitted from where it is kept, after its draft could not be read for `error`. Bytes that are not
/// what was written are put aside. Blocks.
fn look_again(disk: &Disk, module: &Module, error: &std::io::Error) -> Result<(), StoreError> {
    let told = |error: &std::io::Error| StoreError::io("reading", Path::new("a draft"), entry::again(error));
    // So that whoever tries it once more does not write to the same disk.
    disk.health().failed_if_io(&told(error), module.size);
    match disk.body(module)? {
        Some(Body::Memory(_)) => Ok(()),
        Some(Body::File(file)) => file.verify().map_err(|error| {
            let told = told(&error);
            disk.lose(&module.digest, &Damage::Unreadable(error), Some(file.inode()));
            told
        }),
        None => Err(told(error)),
    }
}

/// What of `config` is about the disk.
fn keep(config: &Config) -> Keep {
    Keep { limit: config.disk.as_u64(), retry: config.retry }
}

/// Writes a damaged module again from memory, if it is there. Tells what has to be fetched again if not.
fn put_back(disk: &Disk, memory: &Memory, lost: Lost) -> Vec<Reference> {
    let references = lost.records.iter().map(|record| record.reference.clone()).collect();
    let Some(bytes) = memory.get(&lost.digest) else { return references };
    let module =
        lost.records.iter().find_map(|record| record.present()).map(|present| present.module.clone());
    let Some(module) = module else { return references };
    if let Err(error) = disk.write_again(&bytes, &module) {
        tracing::warn!(digest = %lost.digest, %error, "a damaged module could not be written again from memory");
        disk.failed(&error, module.size);
        if disk.hold_copy(&bytes, &module).is_err() {
            return references;
        }
    }
    for record in lost.records {
        // What cannot be written is known all the same.
        let _ = disk.put_record(Record::clone(&record));
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
