//! Memory over disk: the store that the cache sees.

use super::disk::Disk;
use super::entry::{Body, Damage, Draft, ModuleFile, Sealed};
use super::memory::Memory;
use super::overlay::{self, Overlay};
use super::{Config, Store, StoreError, Tier, Usage};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use async_trait::async_trait;
use std::path::Path;
use std::sync::Arc;

/// Loads into memory that run at once for different modules; one module is loaded once.
const STRIPES: usize = 64;

/// See the module's text.
pub struct Tiered {
    disk: Arc<Disk>,
    memory: Arc<Memory>,
    overlay: Arc<Overlay>,
    loading: [tokio::sync::Mutex<()>; STRIPES],
}

impl Tiered {
    /// Opens the directory. Blocks.
    pub fn open(
        dir: &Path,
        config: &Config,
        overlay: Arc<Overlay>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let disk = Disk::open(dir, config.disk.as_u64(), clock, metrics)?;
        Ok(Self {
            disk: Arc::new(disk),
            memory: Arc::new(Memory::new(config.memory.as_u64())),
            overlay,
            loading: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || work(&disk)).await.map_err(|_| StoreError::Lost)
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

    async fn put_record(&self, record: Record) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.put_record(record)).await?
    }

    async fn draft(&self) -> Result<Draft, StoreError> {
        self.blocking(Disk::draft).await?
    }

    async fn admit(&self, sealed: Sealed) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.admit(sealed)).await?
    }

    fn holds(&self, module: &Module) -> bool {
        self.disk.holds(module)
    }

    async fn module(&self, module: &Module) -> Result<Option<(Body, Tier)>, StoreError> {
        let digest = module.digest;
        self.disk.touch(&digest);
        let (module, size) = (module.clone(), module.size);
        let lost = move |disk: &Disk, file: &ModuleFile, error| {
            disk.lose(&digest, &Damage::Unreadable(error), Some(file.inode()));
        };
        self.through_memory(digest, size, move |disk| disk.open_module(&module), lost).await
    }

    async fn make_room(&self, bytes: u64) -> bool {
        self.blocking(move |disk| disk.make_room(bytes)).await.unwrap_or(false)
    }

    async fn damaged(&self, digest: &Digest, file: &ModuleFile, problem: std::io::Error) {
        let (digest, inode, overlay) = (*digest, file.inode(), self.overlay.clone());
        let is_local = overlay.dirs().iter().any(|dir| file.path().starts_with(dir));
        let put_aside = move |disk: &Disk| match is_local {
            true => overlay.refresh(),
            false => disk.lose(&digest, &Damage::Unreadable(problem), Some(inode)),
        };
        // A lost worker leaves the file where it is; the next reader finds the same.
        let _ = self.blocking(put_aside).await;
    }

    fn overlay(&self) -> Arc<overlay::Index> {
        self.overlay.index()
    }

    async fn overlay_module(&self, entry: Arc<overlay::Entry>) -> Result<Option<Body>, StoreError> {
        let Some((module, file)) = entry.opened() else { return Ok(None) };
        let lost = |_: &Disk, _: &ModuleFile, error| tracing::warn!(%error, "a local plugin cannot be read");
        let found = self.through_memory(module.digest, module.size, move |_| Ok(Some(file)), lost).await?;
        if found.is_none() {
            // It is another file by now: the next look need not wait for the poll.
            let overlay = self.overlay.clone();
            tokio::task::spawn_blocking(move || overlay.refresh()).await.map_err(|_| StoreError::Lost)?;
        }
        Ok(found.map(|(body, _)| body))
    }

    async fn maintain(&self) {
        // A lost worker costs a worse choice at the next eviction, no more.
        let _ = self.blocking(Disk::write_last_uses).await;
    }

    fn usage(&self) -> Usage {
        let (disk_entries, disk_bytes) = self.disk.usage();
        let (memory_entries, memory_bytes) = self.memory.usage();
        Usage { disk_entries, disk_bytes, memory_entries, memory_bytes }
    }
}
