//! Drafts: bytes that are being written, hashed as they come, of which nobody knows yet.
//!
//! A draft is a file, until the disk refuses it; then it goes on in memory, within a budget, and what was written is
//! read back and compared with what it was. A transfer need not begin again because a disk is full.

use super::beside::Beside;
use super::disk::Disk;
use super::entry::{Checker, Checks, ModuleFile, again};
use super::error::StoreError;
use super::room::Taken;
use crate::artifact::extract::Sink;
use crate::artifact::inspect;
use crate::oci::{Digest, Hasher};
use crate::proof::{self, Step};
use crate::record::Module;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Memory is taken for a draft in steps of this many bytes.
const STEP_BYTES: u64 = 1 << 20;

/// Bytes that nobody knows of yet. Dropped, they are gone.
pub struct Draft {
    backing: Backing,
    disk: Arc<Disk>,
    /// Most bytes that are expected, as far as that is known.
    expected: u64,
    sha256: Hasher,
    /// Of a module's.
    md5: Option<Beside>,
    checks: Checker,
    size: u64,
}

/// Where the bytes are.
pub(super) enum Backing {
    File(NamedTempFile),
    Memory(Vec<u8>, Taken),
}

/// A draft that is complete: its facts are computed from the bytes that were written.
pub struct Sealed {
    pub(super) backing: Backing,
    pub(super) checks: Arc<Checks>,
    /// What the bytes are.
    pub module: Module,
}

impl Sealed {
    /// Its bytes to be read once more, compared piece by piece with what was written; `None` when they are in memory.
    ///
    /// # Errors
    /// Too many open files.
    pub(super) fn reader(&self) -> io::Result<Option<ModuleFile>> {
        match &self.backing {
            Backing::File(file) => {
                ModuleFile::of_draft(file, self.module.size, self.checks.clone()).map(Some)
            }
            Backing::Memory(..) => Ok(None),
        }
    }
}

impl Draft {
    /// A new file of mode 0600 in `folder`, made exclusively, or memory where that cannot be had.
    pub(super) fn new(disk: Arc<Disk>, folder: &Path, expected: u64) -> Result<Self, StoreError> {
        let file = match disk.may_write() {
            true => NamedTempFile::new_in(folder).map_err(|e| StoreError::io("creating", folder, e)),
            false => Err(StoreError::Lost),
        };
        let backing = match file {
            Ok(file) => Backing::File(file),
            Err(error) => {
                disk.health().failed_if_io(&error, expected);
                let taken = disk.take_room(STEP_BYTES.min(expected.max(1)));
                let taken = taken.ok_or(StoreError::NoRoom { bytes: expected })?;
                Backing::Memory(Vec::with_capacity(taken.bytes() as usize), taken)
            }
        };
        let (sha256, md5, checks) = (Hasher::new(), Some(Beside::new()), Checker::default());
        Ok(Self { backing, disk, expected, sha256, md5, checks, size: 0 })
    }

    /// The same of bytes that are no module.
    pub fn of_layer(self) -> Self {
        Self { md5: None, ..self }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// So many bytes are expected, as far as that is known by now.
    pub fn expect(&mut self, bytes: u64) {
        self.expected = bytes;
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        self.sha256.clone().finish()
    }

    /// The digest of what was written, and the bytes from their beginning.
    pub fn into_reader(self) -> io::Result<(Digest, ReadBack)> {
        let written = self.sha256.finish();
        let disk = self.disk.clone();
        let inner: Box<dyn Read + Send> = match self.backing {
            Backing::File(file) => {
                let mut file = file.into_file();
                file.rewind().map_err(|e| failed(&disk, e))?;
                Box::new(file)
            }
            Backing::Memory(bytes, taken) => Box::new(Cursor::new(taken.hold(bytes))),
        };
        Ok((written, ReadBack { inner, disk, sha256: Hasher::new(), written }))
    }

    /// Completes a module: reads its ABI and computes its facts.
    pub fn seal(mut self) -> io::Result<Sealed> {
        let abi = match &mut self.backing {
            Backing::File(file) => inspect::abi(file.as_file_mut()),
            Backing::Memory(bytes, _) => inspect::abi(&mut Cursor::new(&*bytes)),
        };
        let abi = abi.map_err(|e| failed(&self.disk, e))?;
        let md5 = self.md5.map(Beside::finish).unwrap_or_default();
        let module = Module { digest: self.sha256.finish(), size: self.size, md5, abi };
        Ok(Sealed { backing: self.backing, checks: Arc::new(self.checks.finish()), module })
    }

    /// Writes without hashing.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Backing::File(file) = &mut self.backing {
            let Err(error) = file.write_all(bytes) else { return Ok(()) };
            let error = StoreError::io("writing", file.path(), error);
            let missing = self.expected.max(self.size + bytes.len() as u64) - self.size;
            if error.is_full() && self.disk.make_room(missing) && self.put_again(bytes).is_ok() {
                return Ok(());
            }
            self.disk.health().failed(&error, missing);
            self.go_on_in_memory()?;
        }
        self.append(bytes)
    }

    /// The same bytes at the same place, after a write that may have written some of them.
    fn put_again(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Backing::File(file) = &mut self.backing else { return Ok(()) };
        file.seek(SeekFrom::Start(self.size))?;
        file.write_all(bytes)
    }

    fn go_on_in_memory(&mut self) -> io::Result<()> {
        let Backing::File(file) = &self.backing else { return Ok(()) };
        let bytes = self.size.max(STEP_BYTES);
        let taken = self.disk.take_room(bytes).ok_or_else(|| no_room(self.expected))?;
        let written = read_whole(file.as_file(), self.size)?;
        if proof::takes(Step::VerifySpilled) && Digest::of(&written) != self.digest() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what was written came back as something else",
            ));
        }
        self.backing = Backing::Memory(written, taken);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Backing::Memory(held, taken) = &mut self.backing else { return Ok(()) };
        let needed = (held.len() + bytes.len()) as u64;
        if needed > taken.bytes() {
            // Twice as much each time, so that little is moved; only what is needed when that is not there.
            let more = [needed.max(2 * taken.bytes()), needed].map(|bytes| bytes - taken.bytes());
            let more = more.iter().find_map(|bytes| self.disk.take_room(*bytes));
            taken.join(more.ok_or_else(|| no_room(needed))?);
            held.reserve_exact(taken.bytes() as usize - held.len());
        }
        held.extend_from_slice(bytes);
        Ok(())
    }
}

/// Notes that the disk failed, so that the next draft is none of its files.
fn failed(disk: &Disk, error: io::Error) -> io::Error {
    disk.health().failed(&StoreError::io("reading", Path::new("a draft"), again(&error)), 0);
    error
}

/// Carries [`StoreError::NoRoom`] through what knows I/O errors only.
fn no_room(bytes: u64) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, StoreError::NoRoom { bytes })
}

/// The first `size` bytes of a file.
pub(super) fn read_whole(file: &File, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Sink for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(bytes)?;
        self.sha256.update(bytes);
        self.checks.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        match &mut self.backing {
            Backing::File(file) => {
                let emptied = file.as_file().set_len(0).and_then(|()| file.rewind());
                emptied.map_err(|e| failed(&self.disk, e))?;
            }
            Backing::Memory(bytes, _) => bytes.clear(),
        }
        self.sha256 = Hasher::new();
        self.md5 = self.md5.as_ref().map(|_| Beside::new());
        self.checks = Checker::default();
        self.size = 0;
        Ok(())
    }
}

/// The bytes of a draft, read once from their beginning: from a disk that is not trusted to give back what it was given.
pub struct ReadBack {
    inner: Box<dyn Read + Send>,
    disk: Arc<Disk>,
    sha256: Hasher,
    written: Digest,
}

impl Read for ReadBack {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer).map_err(|e| failed(&self.disk, e))?;
        self.sha256.update(&buffer[..n]);
        Ok(n)
    }
}

impl ReadBack {
    /// Reads what is left, and compares all that was read with what was written.
    ///
    /// # Errors
    /// `InvalidData` when it is something else, or what the disk says.
    pub fn verify(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        if proof::takes(Step::VerifyReadBack) && self.sha256.finish() != self.written {
            let text = "a draft came back from the disk as something else than was written";
            return Err(failed(&self.disk, io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
