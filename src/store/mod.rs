//! The store: records by reference and modules by digest, in memory and on disk. The only folder that writes files.
//!
//! ```text
//! <dir>/v1/lock                              held while a process uses the directory
//!          format                            which format this is; another one is left alone
//!          modules/sha256/ab/<64 hex>        wasm bytes; the name is their SHA-256
//!          records/<sha256 of reference>.json  what we know of a reference; see `record`
//!          imported                          which bundles were taken in, a digest a line
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
//!
//! **Trouble.** A disk that is full, read-only, failing or gone costs no answer: what is new is held in memory, within a
//! budget, and known by the same index; the disk is tried again every few seconds and given what it missed ([`health`],
//! `disk/settle`).
//!
//! **Looking.** All modules are read once in a while though nobody asks for them ([`Config::scrub`]), and [`fsck`] checks
//! the whole directory from outside.

mod beside;
pub mod disk;
pub mod draft;
pub mod entry;
pub mod error;
pub mod evict;
pub mod fsck;
pub mod health;
pub mod layout;
pub mod memory;
pub mod overlay;
pub mod recover;
pub mod room;
pub mod spool;
pub mod tiered;
pub mod unkept;

use crate::clock::Timestamp;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use async_trait::async_trait;
use bytesize::ByteSize;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use draft::{Draft, Sealed};
pub use entry::{Body, ModuleFile};
pub use error::StoreError;
pub use room::Room;
pub use spool::Spool;
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
    /// Time between two tries of a disk that fails.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// Time in which every module on disk is read and compared with its name, though nobody asks for it; zero never does.
    #[serde(with = "humantime_serde")]
    pub scrub: Duration,
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
    /// Modules that the disk would not take, in memory beside those.
    pub held_entries: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Most bytes of modules on disk.
    pub disk_limit: u64,
    /// Most bytes of modules in memory.
    pub memory_limit: u64,
    /// Most bytes of those that the disk would not take, and of fetches in progress.
    pub held_limit: u64,
    /// What the file system had left at the last look, in bytes.
    pub disk_free: u64,
}

/// How a module is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// `memory` (a copy of what is on disk), `disk`, or `held` (in memory alone).
    pub tier: &'static str,
    /// When it was last asked for, or came.
    pub last_used: Timestamp,
}

/// What an operator takes away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    /// Records.
    pub references: Vec<Reference>,
    /// Modules; they stay as long as another record leads to them.
    pub modules: Vec<Digest>,
    /// All modules that no record leads to.
    pub unused: bool,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Modules.
    pub modules: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A module that was read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Its bytes were not what they should be, and it is gone.
    pub damaged: bool,
    /// What has to be fetched again.
    pub lost: Vec<Reference>,
}

/// Where bytes were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// They were in memory.
    Memory,
    /// They were read from the disk.
    Disk,
    /// They are in memory alone, and why, as `Cache-Status` has it.
    Held(&'static str),
}

impl Tier {
    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory | Self::Held(_) => "memory",
            Self::Disk => "disk",
        }
    }

    /// The word for answers.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Held(why) => why,
            other => other.as_str(),
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

    /// A record that leads from a manifest to a module, if one does. Never waits.
    fn record_of(&self, manifest: &Digest) -> Option<Arc<Record>>;

    /// Keeps `record`, instead of an older one. It is known at once; the error is that it could not be made to last.
    async fn put_record(&self, record: Record) -> Result<(), StoreError>;

    /// An empty draft to write to, for `expected` bytes as far as that is known.
    async fn draft(&self, expected: u64) -> Result<Draft, StoreError>;

    /// An empty spool, for no more bytes than may be on disk.
    async fn spool(&self) -> Result<Spool, StoreError>;

    /// The bundles that were taken in, by what they say of themselves. Blocks, for a moment.
    fn imported(&self) -> Vec<Digest>;

    /// Notes that a bundle was taken in.
    async fn note_imported(&self, bundle: Digest) -> Result<(), StoreError>;

    /// Makes a sealed draft last under its digest, or holds it in memory while the disk takes nothing. Tells all of the
    /// module's facts.
    async fn admit(&self, sealed: Sealed) -> Result<Module, StoreError>;

    /// True when a module is here, as far as is known without reading it. Never waits.
    fn holds(&self, module: &Module) -> bool;

    /// The verified bytes of a module and where they were, or `None` when they are not here (any more).
    async fn module(&self, module: &Module) -> Result<Option<(Body, Tier)>, StoreError>;

    /// Takes a module out that proved damaged while it was read.
    async fn damaged(&self, digest: &Digest, file: &ModuleFile, problem: std::io::Error);

    /// Why a module is in memory alone, as `Cache-Status` has it; `None` when it is not. Never waits.
    fn uncached(&self, module: &Module) -> Option<&'static str>;

    /// What the local folders held at the last look. Never waits.
    fn overlay(&self) -> Arc<overlay::Index>;

    /// The bytes of a local file, or `None` when it is another by now, or no module; then the folders were
    /// looked through again.
    async fn overlay_module(&self, entry: Arc<overlay::Entry>) -> Result<Option<Body>, StoreError>;

    /// Does what can wait; to be called every few seconds. Tells the references whose modules proved damaged.
    async fn maintain(&self) -> Vec<Reference>;

    /// From now on others leave before modules of these digests, or of manifests with them.
    fn pin(&self, digests: HashSet<Digest>);

    /// How a module is held; `None` when it is not. Never waits.
    fn standing(&self, module: &Module) -> Option<Standing>;

    /// Takes away records, and modules that nothing else leads to. What is being sent is sent to its end.
    ///
    /// The error is that the disk would not; what was taken away until then is gone.
    async fn purge(&self, what: Purge) -> Result<Purged, StoreError>;

    /// Reads the module again that was not compared with its name for longest. `None` when all were since `since`.
    async fn verify_next(&self, since: Timestamp) -> Option<Verified>;

    /// Writes down what would be lost, before the end.
    async fn close(&self);

    /// What is held. Never waits.
    fn usage(&self) -> Usage;
}

/// The facts of a digest's bytes that a reader needs.
pub(crate) fn is_digest_name(name: &str) -> Option<Digest> {
    Digest::from_hex(name).ok()
}
