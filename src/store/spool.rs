//! A spool: bytes of somebody else's, such as a packed bundle's, in a file of the directory's while they are worked on.
//!
//! Unlike a draft it takes nothing from anybody: nothing leaves the cache for it, it never goes on in memory, and it is no
//! larger than half of what the file system had left, nor than the cache itself may be.

use super::error::StoreError;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use tempfile::NamedTempFile;

/// See the module's text. Dropped, it is gone.
pub struct Spool {
    file: NamedTempFile,
    limit: u64,
    /// Bytes written so far.
    pub size: u64,
}

impl Spool {
    /// An empty file of mode 0600 in `folder` for at most `limit` bytes.
    pub(super) fn new(folder: &Path, limit: u64) -> Result<Self, StoreError> {
        let failed = |e| StoreError::io("creating", folder, e);
        let file = NamedTempFile::new_in(folder).map_err(failed)?;
        let fs = rustix::fs::fstatvfs(file.as_file()).map_err(|e| failed(e.into()))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        Ok(Self { file, limit: limit.min(free / 2), size: 0 })
    }

    /// Most bytes that it takes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Its bytes, from the beginning; nobody else finds them.
    ///
    /// # Errors
    /// The disk's.
    pub fn into_file(self) -> io::Result<File> {
        let mut file = self.file.into_file();
        file.rewind()?;
        Ok(file)
    }
}

impl Write for Spool {
    /// # Errors
    /// The disk's; `FileTooLarge` beyond the limit.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size + bytes.len() as u64 > self.limit {
            let text =
                format!("more than {} bytes, which is what cache.disk and the file system leave", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
