//! Modules as files: written while they are hashed, read piece by piece and never without a check.

use super::error::StoreError;
use crate::artifact::extract::Sink;
use crate::oci::{Digest, Hasher};
use crate::record::Module;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Pieces in which a module is checked and sent. Smaller ones cost a server more (measured: 64 KiB +50 % CPU), larger
/// ones more memory for each slow client.
pub const PIECE_BYTES: usize = 256 << 10;

/// CRC-32 of every piece, noted while the whole was verified by SHA-256 in this process.
///
/// It guards against what disks do to bytes between that moment and now, not against someone with write access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks(Vec<u32>);

/// Computes [`Checks`] over pieces of any size.
#[derive(Default)]
struct Checker {
    done: Vec<u32>,
    current: crc32fast::Hasher,
    filled: usize,
}

impl Checker {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = bytes.len().min(PIECE_BYTES - self.filled);
            self.current.update(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == PIECE_BYTES {
                self.done.push(std::mem::take(&mut self.current).finalize());
                self.filled = 0;
            }
        }
    }

    fn finish(mut self) -> Checks {
        if self.filled > 0 {
            self.done.push(self.current.finalize());
        }
        Checks(self.done)
    }
}

/// A file that is being written, of which nobody knows yet. Dropped, it is gone.
pub struct Draft {
    file: NamedTempFile,
    sha256: Hasher,
    md5: Md5,
    checks: Checker,
    size: u64,
}

/// A draft that is complete: its facts are computed from the bytes that were written.
pub struct Sealed {
    pub(super) file: NamedTempFile,
    pub(super) checks: Arc<Checks>,
    /// What the bytes are.
    pub module: Module,
}

impl Draft {
    /// A new file of mode 0600 in `folder`, made exclusively.
    pub(super) fn new(folder: &Path) -> Result<Self, StoreError> {
        let file =
            NamedTempFile::new_in(folder).map_err(|e| StoreError::io("creating a file in", folder, e))?;
        Ok(Self { file, sha256: Hasher::new(), md5: Md5::new(), checks: Checker::default(), size: 0 })
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of what was written, and the bytes from their beginning.
    pub fn into_reader(self) -> io::Result<(Digest, File)> {
        let mut file = self.file.into_file();
        file.rewind()?;
        Ok((self.sha256.finish(), file))
    }

    /// Completes a module: reads its ABI and computes its facts.
    pub fn seal(mut self) -> io::Result<Sealed> {
        let abi = crate::artifact::inspect::abi(self.file.as_file_mut())?;
        let md5 = self.md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let module = Module { digest: self.sha256.finish(), size: self.size, md5, abi };
        Ok(Sealed { file: self.file, checks: Arc::new(self.checks.finish()), module })
    }
}

impl Sink for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.sha256.update(bytes);
        self.md5.update(bytes);
        self.checks.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.file.as_file().set_len(0)?;
        self.file.rewind()?;
        self.sha256 = Hasher::new();
        self.md5 = Md5::new();
        self.checks = Checker::default();
        self.size = 0;
        Ok(())
    }
}

/// The bytes of a module, ready to be sent.
#[derive(Clone, Debug)]
pub enum Body {
    /// All of them.
    Memory(Bytes),
    /// An open file.
    File(ModuleFile),
}

impl Body {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.size,
        }
    }
}

/// An open, verified module. Unlinking it does not take it away from who holds it.
#[derive(Clone, Debug)]
pub struct ModuleFile {
    file: Arc<File>,
    path: Arc<PathBuf>,
    /// Size in bytes.
    pub size: u64,
    checks: Arc<Checks>,
}

/// Why a file is not what it should be.
#[derive(Debug)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// No regular file, or of another size.
    Shape(String),
    /// Other bytes.
    Digest(Digest),
    /// It cannot be read.
    Unreadable(io::Error),
}

impl ModuleFile {
    /// Opens `path` without following a link in its last component and checks that it is a regular file of `size`
    /// bytes. With `checks` from an earlier pass that is all; without, the whole file is read and must hash to `digest`.
    pub fn open(
        path: &Path,
        digest: &Digest,
        size: u64,
        checks: Option<Arc<Checks>>,
    ) -> Result<Self, Damage> {
        let file = open_plain(path)?;
        let metadata = file.metadata().map_err(Damage::Unreadable)?;
        if !metadata.is_file() {
            return Err(Damage::Shape("is no regular file".into()));
        }
        if metadata.size() != size {
            return Err(Damage::Shape(format!("has {} bytes instead of {size}", metadata.size())));
        }
        let checks = match checks {
            Some(checks) => checks,
            None => {
                let (found, checks, _, _) = scan(&file).map_err(Damage::Unreadable)?;
                if found != *digest {
                    return Err(Damage::Digest(found));
                }
                Arc::new(checks)
            }
        };
        Ok(Self { file: Arc::new(file), path: Arc::new(path.into()), size, checks })
    }

    /// Computes the facts of any file, for the overlay: its module and its checks.
    pub fn inspect(path: &Path) -> io::Result<(Module, Checks, [u8; 8])> {
        let mut file = File::open(path)?;
        let (digest, checks, md5, size) = scan(&file)?;
        let mut head = [0; 8];
        let filled = size.min(8) as usize;
        file.read_exact_at(&mut head[..filled], 0)?;
        let abi = crate::artifact::inspect::abi(&mut file)?;
        Ok((Module { digest, size, md5, abi }, checks, head))
    }

    /// The checks, to open it again without reading it whole.
    pub fn checks(&self) -> Arc<Checks> {
        self.checks.clone()
    }

    /// The number of pieces.
    pub fn pieces(&self) -> usize {
        self.checks.0.len()
    }

    /// Reads piece `index` and compares it with its check. Blocks.
    ///
    /// # Errors
    /// `InvalidData` when the bytes changed since they were verified.
    pub fn piece(&self, index: usize) -> io::Result<Bytes> {
        let start = index as u64 * PIECE_BYTES as u64;
        let length = (self.size - start).min(PIECE_BYTES as u64) as usize;
        let mut piece = vec![0; length];
        self.file.read_exact_at(&mut piece, start)?;
        if self.checks.0.get(index) != Some(&crc32fast::hash(&piece)) {
            let text = format!("{} changed on disk, at byte {start} or behind", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(piece.into())
    }

    /// Reads all of it, checked. Blocks.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(self.size as usize);
        for index in 0..self.pieces() {
            whole.extend_from_slice(&self.piece(index)?);
        }
        Ok(whole)
    }
}

fn open_plain(path: &Path) -> Result<File, Damage> {
    /// `O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC`: no link is followed and a FIFO does not hang us.
    const FLAGS: i32 = 0o400_000 | 0o4_000 | 0o2_000_000;
    std::fs::OpenOptions::new().read(true).custom_flags(FLAGS).open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Damage::Missing,
        // ELOOP: it is a link.
        _ if e.raw_os_error() == Some(40) => Damage::Shape("is a symbolic link".into()),
        _ => Damage::Unreadable(e),
    })
}

fn scan(mut file: &File) -> io::Result<(Digest, Checks, String, u64)> {
    let mut sha256 = Hasher::new();
    let mut md5 = Md5::new();
    let mut checks = Checker::default();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        sha256.update(&buffer[..n]);
        md5.update(&buffer[..n]);
        checks.update(&buffer[..n]);
    }
    let md5 = md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((sha256.finish(), checks.finish(), md5, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("module");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn a_draft_knows_what_was_written_since_its_last_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = Draft::new(folder.path()).unwrap();
        draft.write(b"something else, and longer").unwrap();
        draft.restart().unwrap();
        draft.write(b"\0asm\x01\0\0\0").unwrap();
        let sealed = draft.seal().unwrap();
        assert_eq!(sealed.module.digest, Digest::of(b"\0asm\x01\0\0\0"));
        assert_eq!(sealed.module.size, 8);
        assert_eq!(std::fs::read(sealed.file.path()).unwrap(), b"\0asm\x01\0\0\0");
    }

    #[test]
    fn pieces_are_the_whole_and_a_changed_one_is_not_returned() {
        let bytes: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|n| n as u8).collect();
        let (_folder, path) = written(&bytes);
        let file = ModuleFile::open(&path, &Digest::of(&bytes), bytes.len() as u64, None).unwrap();
        assert_eq!(file.pieces(), 3);
        assert_eq!(file.read().unwrap(), bytes);
        let writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(&[bytes[PIECE_BYTES] ^ 1], PIECE_BYTES as u64).unwrap();
        assert!(file.piece(0).is_ok());
        assert_eq!(file.piece(1).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_not_exactly_the_file_is_not_opened() {
        let (folder, path) = written(b"bytes");
        let open = |path: &Path, digest: &[u8], size| {
            ModuleFile::open(path, &Digest::of(digest), size, None).map(|_| ())
        };
        assert!(open(&path, b"bytes", 5).is_ok());
        assert!(matches!(open(&path, b"other", 5), Err(Damage::Digest(_))));
        assert!(matches!(open(&path, b"bytes", 6), Err(Damage::Shape(_))));
        assert!(matches!(open(&folder.path().join("none"), b"bytes", 5), Err(Damage::Missing)));
        assert!(matches!(open(folder.path(), b"bytes", 5), Err(Damage::Shape(_))));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(open(&link, b"bytes", 5), Err(Damage::Shape(_))));
    }
}
