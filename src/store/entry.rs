//! Modules as files: read piece by piece, and never without a check.

use crate::oci::{Digest, Hasher};
use crate::proof::{self, Step};
use crate::record::Module;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
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

impl Checks {
    /// Those of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut checks = Checker::default();
        checks.update(bytes);
        checks.finish()
    }
}

/// Computes [`Checks`] over pieces of any size.
#[derive(Default)]
pub(super) struct Checker {
    done: Vec<u32>,
    current: crc32fast::Hasher,
    filled: usize,
}

impl Checker {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
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

    pub(super) fn finish(mut self) -> Checks {
        if self.filled > 0 {
            self.done.push(self.current.finalize());
        }
        Checks(self.done)
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
    inode: (u64, u64),
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
    /// The disk cannot read it.
    Unreadable(io::Error),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("is not there"),
            Self::Shape(text) => f.write_str(text),
            Self::Digest(found) => write!(f, "its bytes are {found}"),
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

/// Why a file was not opened.
#[derive(Debug)]
pub enum OpenError {
    /// Something is wrong with the file itself; and which file it was, as far as it was opened.
    Damaged(Damage, Option<(u64, u64)>),
    /// Something is wrong with us, such as too many open files; nothing is said of the file.
    Refused(io::Error),
    /// The disk does not give it; it may be whole.
    Unreadable(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        /// `EINTR`, `EAGAIN`, `ENOMEM`, `ENFILE`, `EMFILE`: what passes when there is less to do.
        const OURS: [i32; 5] = [4, 11, 12, 23, 24];
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::NotFound => Self::Damaged(Damage::Missing, None),
            Some(number) if OURS.contains(&number) => Self::Refused(error),
            _ => Self::Unreadable(error),
        }
    }
}

impl ModuleFile {
    /// Opens `path` without following a link in its last component and checks that it is a regular file of `size`
    /// bytes. With `checks` from an earlier pass that is all; without, the whole file is read and must hash to `digest`.
    pub fn open(
        path: &Path,
        digest: &Digest,
        size: u64,
        checks: Option<Arc<Checks>>,
    ) -> Result<Self, OpenError> {
        let file = open_plain(path)?;
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        let damaged = |damage| Err(OpenError::Damaged(damage, Some(inode)));
        if !metadata.is_file() {
            return damaged(Damage::Shape("is no regular file".into()));
        }
        if metadata.size() != size {
            return damaged(Damage::Shape(format!("has {} bytes instead of {size}", metadata.size())));
        }
        let checks = match checks {
            Some(checks) => checks,
            None => {
                let (module, checks) = scan(&file)?;
                if proof::takes(Step::VerifyLoad) && module.digest != *digest {
                    return damaged(Damage::Digest(module.digest));
                }
                Arc::new(checks)
            }
        };
        Ok(Self { file: Arc::new(file), path: Arc::new(path.into()), inode, size, checks })
    }

    /// Opens any file and computes its facts, for the overlay. Links are followed: the folder is the operator's.
    ///
    /// The first bytes come along, to be judged.
    pub fn inspect(path: &Path) -> io::Result<(Module, Self, Vec<u8>)> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let (mut module, checks) = scan(&file)?;
        let mut head = vec![0; module.size.min(8) as usize];
        file.read_exact_at(&mut head, 0)?;
        module.abi = crate::artifact::inspect::abi(&mut file)?;
        let inode = (metadata.dev(), metadata.ino());
        let (path, size) = (Arc::new(path.into()), module.size);
        Ok((module, Self { file: Arc::new(file), path, inode, size, checks: Arc::new(checks) }, head))
    }

    /// A draft that is complete, under the name that it has now.
    pub(super) fn of_draft(file: &NamedTempFile, size: u64, checks: Arc<Checks>) -> io::Result<Self> {
        let (path, file) = (file.path(), file.as_file().try_clone()?);
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { file: Arc::new(file), path: Arc::new(path.into()), inode, size, checks })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode: what is read, whatever its name leads to by now.
    pub fn inode(&self) -> (u64, u64) {
        self.inode
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
    pub fn piece(&self, index: usize) -> io::Result<Vec<u8>> {
        let start = index as u64 * PIECE_BYTES as u64;
        let length = (self.size - start).min(PIECE_BYTES as u64) as usize;
        let piece = read_exact(&self.file, start, length)?;
        let is_right = self.checks.0.get(index) == Some(&crc32fast::hash(&piece));
        if proof::takes(Step::VerifyPiece) && !is_right {
            let text = format!("{} changed on disk, at byte {start} or behind", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(piece)
    }

    /// Reads all of it, checked. Blocks.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(self.size as usize);
        for index in 0..self.pieces() {
            whole.extend_from_slice(&self.piece(index)?);
        }
        Ok(whole)
    }

    /// Reads all of it to compare it with its checks. Blocks.
    pub(super) fn verify(&self) -> io::Result<()> {
        (0..self.pieces()).try_for_each(|index| self.piece(index).map(drop))
    }
}

/// The `length` bytes from `start`, in memory that was not made zero first: the allocator has the kernel do that, page by
/// page, which takes longer than to read them.
fn read_exact(file: &File, start: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = start + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Asks the kernel to forget what it has of a file, so that the next read is the disk's own.
pub(super) fn forget_cached(path: &Path) {
    if let Ok(file) = open_plain(path) {
        // It may refuse; then the page cache is what is compared.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

fn open_plain(path: &Path) -> Result<File, OpenError> {
    /// `O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC`: no link is followed and a FIFO does not hang us.
    const FLAGS: i32 = 0o400_000 | 0o4_000 | 0o2_000_000;
    /// `ELOOP`: it is a link.
    const LOOP: i32 = 40;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(FLAGS).open(path);
    opened.map_err(|e| match e.raw_os_error() {
        Some(LOOP) => OpenError::Damaged(Damage::Shape("is a symbolic link".into()), None),
        _ => e.into(),
    })
}

/// Reads a file from its beginning. The ABI is not looked for.
fn scan(mut file: &File) -> io::Result<(Module, Checks)> {
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
    Ok((Module { digest: sha256.finish(), size, md5: hex(md5), abi: None }, checks.finish()))
}

/// An error to be told twice.
pub(super) fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// The MD5 of `bytes`, in hexadecimal.
#[cfg(test)]
pub(super) fn md5_of(bytes: &[u8]) -> String {
    hex(Md5::new_with_prefix(bytes))
}

pub(super) fn hex(md5: Md5) -> String {
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
        assert!(matches!(open(&path, b"other", 5), Err(OpenError::Damaged(Damage::Digest(_), _))));
        assert!(matches!(open(&path, b"bytes", 6), Err(OpenError::Damaged(Damage::Shape(_), _))));
        assert!(matches!(
            open(&folder.path().join("none"), b"bytes", 5),
            Err(OpenError::Damaged(Damage::Missing, _))
        ));
        assert!(matches!(open(folder.path(), b"bytes", 5), Err(OpenError::Damaged(Damage::Shape(_), _))));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(open(&link, b"bytes", 5), Err(OpenError::Damaged(Damage::Shape(_), _))));
    }
}
