//! What can go wrong on the disk.

use std::io;
use std::path::{Path, PathBuf};

/// A failed operation on the store's files.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused; what was tried, and where.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process uses the directory.
    #[error("{} is used by another larder (process {holder}); give this one its own --cache-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock file says.
        holder: String,
    },
    /// The directory is not ours to read.
    #[error("{} says '{found}', which this larder does not know; nothing was touched. Start the larder that wrote it, or give this one another --cache-dir", path.display())]
    Format {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Everybody may write into the directory.
    #[error("{} can be written to by every user of this machine (mode {mode:o}), so that nothing in it can be trusted: chmod o-w it, or give another --cache-dir", path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The disk takes nothing, and the memory for such times is taken too.
    #[error("{bytes} bytes can be held neither on disk nor in memory")]
    NoRoom {
        /// How many were to be held.
        bytes: u64,
    },
    /// A worker thread was lost.
    #[error("a worker of the store ended early")]
    Lost,
}

impl StoreError {
    /// An I/O error with its place.
    pub fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }

    /// What went wrong with a draft, of which I/O errors alone are told.
    pub fn of_draft(doing: &'static str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(source) => Self::io(doing, Path::new("a draft"), source),
        }
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// True when room on the disk would mend it.
    pub fn is_full(&self) -> bool {
        matches!(self.kind(), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// True when the directory as such is the trouble, and a start must not go on with it.
    pub fn forbids_a_start(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Format { .. } | Self::Exposed { .. })
    }

    /// What `Cache-Status` says of a module that is held in memory because of it.
    pub fn uncached(&self) -> &'static str {
        match self.kind() {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => "uncached-disk_full",
            Some(io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
                "uncached-disk_read_only"
            }
            _ => "uncached-disk_error",
        }
    }

    /// What an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self.kind() {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                "the disk is full: free space, or lower cache.disk so that larder makes room in time"
            }
            Some(io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
                "the cache directory must be writable: --cache-dir or cache.dir"
            }
            Some(_) => "look at the disk and the kernel's log",
            None if matches!(self, Self::NoRoom { .. }) => {
                "mend the disk, or raise fill.memory; it is tried again in a few seconds"
            }
            None => "",
        }
    }
}
