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
    /// A worker thread was lost.
    #[error("a worker of the store ended early")]
    Lost,
}

impl StoreError {
    /// An I/O error with its place.
    pub fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }

    /// True when room on the disk would mend it.
    pub fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// What an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "the disk is full: free space, or lower cache.disk so that larder makes room in time"
                }
                io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                    "the cache directory must be writable: --cache-dir or cache.dir"
                }
                _ => "look at the disk and the kernel's log",
            },
            Self::Locked { .. } => "",
            Self::Lost => "",
        }
    }
}
