//! The store: records by reference and modules by digest, in memory and on disk. The only folder that writes files.
//!
//! ```text
//! <dir>/v1/lock                              held while a process uses the directory
//!          modules/sha256/ab/<64 hex>        wasm bytes; the name is their SHA-256
//!          records/<sha256 of reference>.json  what we know of a reference; see `record`
//!          tmp/                              drafts; emptied at every start
//!          quarantine/                       what did not match its name, kept to be looked at
//! ```
//!
//! **Commit.** A draft is written in `tmp` while it is hashed, synced, renamed to its name, and the folder is synced;
//! the record goes the same way, last. So a visible record always has its module, a module without a record is merely
//! unused, and nothing is ever changed in place. A draft whose sync failed is dropped and never synced again.
//!
//! **Trust.** A file is believed only after its SHA-256 was computed by this process. That pass also notes a checksum
//! for every piece, and each later read of a piece is compared with it before it leaves ([`entry`]). What does not
//! match goes to `quarantine` and counts as not there, so it is fetched again.
//!
//! **Space.** Modules beyond the limit leave by last use, their records first. Files that are being sent stay readable
//! until they are closed.

pub mod disk;
pub mod entry;
pub mod error;
pub mod evict;
pub mod layout;
pub mod memory;
pub mod overlay;
pub mod recover;
pub mod tiered;

use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use async_trait::async_trait;
use bytesize::ByteSize;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;

pub use entry::{Body, Draft, ModuleFile, Sealed};
pub use error::StoreError;
pub use tiered::Tiered;

/// Settings of the store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The directory; `None` for `/var/lib/larder` in a container and the user's cache directory elsewhere.
    pub dir: Option<PathBuf>,
    /// Most bytes of modules on disk.
    pub disk: ByteSize,
    /// Most bytes of modules in memory, those included that are still being sent.
    pub memory: ByteSize,
}

/// What is held, for listings and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Modules on disk.
    pub disk_entries: u64,
    /// Their bytes.
    pub disk_bytes: u64,
    /// Modules in memory.
    pub memory_entries: u64,
    /// Their bytes.
    pub memory_bytes: u64,
}

/// Where bytes were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// They were in memory.
    Memory,
    /// They were read from the disk.
    Disk,
}

impl Tier {
    /// The word for answers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// Keeping, as the cache needs it. Methods that may touch a disk are async and never block the caller's thread.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What is known of `reference`. Never waits.
    fn record(&self, reference: &Reference) -> Option<Arc<Record>>;

    /// Everything known. Never waits.
    fn records(&self) -> Vec<Arc<Record>>;

    /// Keeps `record`, instead of an older one. It is known at once; the error is that it could not be made to last.
    async fn put_record(&self, record: Record) -> Result<(), StoreError>;

    /// An empty file to write to.
    async fn draft(&self) -> Result<Draft, StoreError>;

    /// Makes a sealed draft last under its digest.
    async fn admit(&self, sealed: Sealed) -> Result<(), StoreError>;

    /// True when a module is here, as far as is known without reading it. Never waits.
    fn holds(&self, module: &Module) -> bool;

    /// The verified bytes of a module and where they were, or `None` when they are not here (any more).
    async fn module(&self, module: &Module) -> Result<Option<(Body, Tier)>, StoreError>;

    /// Takes a module out that proved damaged while it was read.
    async fn damaged(&self, digest: &Digest, file: &ModuleFile, problem: std::io::Error);

    /// Lets modules leave until `bytes` are free, on a disk that is full before its limit. True when any left.
    async fn make_room(&self, bytes: u64) -> bool;

    /// What the local folders held at the last look. Never waits.
    fn overlay(&self) -> Arc<overlay::Index>;

    /// The bytes of a local file, or `None` when it is another by now, or no module; then the folders were
    /// looked through again.
    async fn overlay_module(&self, entry: Arc<overlay::Entry>) -> Result<Option<Body>, StoreError>;

    /// Writes down what may be lost, at leisure and before the end.
    async fn maintain(&self);

    /// What is held. Never waits.
    fn usage(&self) -> Usage;
}

/// The facts of a digest's bytes that a reader needs.
pub(crate) fn is_digest_name(name: &str) -> Option<Digest> {
    Digest::from_hex(name).ok()
}
