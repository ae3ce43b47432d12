//! The folder of parts beside an export's output: what was gathered so far, each file under its digest.
//!
//! A file has its name only once its bytes are known to be right, so that an export that was broken off goes on from
//! what it has. What is there already is read once by each export before it is believed.

use super::BundleError;
use crate::oci::{Digest, Hasher};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

/// Files are read and written in pieces of this size, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// How a file begins that is being written.
const DRAFT: &str = ".draft-";

/// See the module's text.
pub struct Parts {
    folder: PathBuf,
    /// Held as long as it is used.
    _lock: File,
    /// What is known to be right, and how large it is.
    known: Mutex<HashMap<Digest, u64>>,
}

/// A part that is being written.
pub struct Part {
    file: NamedTempFile,
    hasher: Hasher,
    /// Bytes written so far.
    pub size: u64,
}

impl Parts {
    /// Those beside `output`, in a folder of its name and `.parts`. Blocks.
    ///
    /// # Errors
    /// The folder cannot be made, or another export uses it.
    pub fn beside(output: &Path) -> Result<Self, BundleError> {
        let mut folder = OsString::from(output);
        folder.push(".parts");
        let folder = PathBuf::from(folder);
        let failed = |e: io::Error| BundleError::io(&folder.display().to_string(), &e);
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = File::open(&folder).map_err(failed)?;
        if matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            let detail = format!("{} is used by another export", folder.display());
            return Err(BundleError::new("parts_in_use", detail));
        }
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DRAFT)) {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(Self { folder, _lock: lock, known: Mutex::default() })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The size of a part that is there and right. Blocks.
    pub fn has(&self, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.known().get(digest) {
            return Some(*size);
        }
        let mut file = File::open(self.path(digest)).ok()?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; PIECE_BYTES];
        let mut size = 0;
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                n => {
                    hasher.update(&buffer[..n]);
                    size += n as u64;
                }
            }
        }
        (hasher.finish() == *digest).then(|| {
            self.known().insert(*digest, size);
            size
        })
    }

    /// A part's bytes.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// An empty part. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(&self) -> io::Result<Part> {
        let file = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.folder)?;
        Ok(Part { file, hasher: Hasher::new(), size: 0 })
    }

    /// An empty file for what is made of the parts, on the same file system as the output. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn draft(&self) -> io::Result<NamedTempFile> {
        let readable = fs::Permissions::from_mode(0o644);
        tempfile::Builder::new().prefix(DRAFT).permissions(readable).tempfile_in(&self.folder)
    }

    /// Keeps a part under `digest`, if that is what it is; tells what it is otherwise. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, part: Part, digest: &Digest) -> io::Result<Result<(), Digest>> {
        let Part { file, hasher, size } = part;
        let found = hasher.finish();
        if found != *digest {
            return Ok(Err(found));
        }
        // A name that outlives a power cut without its bytes would be found out when it is read again.
        file.persist(self.path(digest)).map_err(|e| e.error)?;
        self.known().insert(*digest, size);
        Ok(Ok(()))
    }

    /// Takes the folder away. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }
}

impl Part {
    /// Adds bytes. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}
