//! Readers beneath extraction: one counts, one ends what grows too much, one shows the first bytes.

use super::extract::ExtractError;
use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

/// Below so many unpacked bytes no ratio is too high: an honest module of zeros packs a thousandfold.
const RATIO_FREE_BYTES: u64 = 64 << 20;

/// What is looked at before it is read: the first header of a tar.
pub(super) const HEAD_BYTES: usize = 512;

/// Counts what is read of the layer.
pub(super) struct Source<R> {
    pub inner: R,
    pub read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

/// Counts what comes out of a decoder, ends it at the limits, and keeps its error apart from what reads it.
pub(super) struct Metered<'a> {
    pub inner: (Box<dyn Read + 'a>, fn(String) -> ExtractError),
    pub packed: Rc<Cell<u64>>,
    pub unpacked: u64,
    pub cap: u64,
    pub ratio: u64,
    pub fault: Rc<RefCell<Option<ExtractError>>>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (decoder, packing) = &mut self.inner;
        let n = decoder.read(buffer).inspect_err(|e| {
            // An error number is our own disk's; a decoder has none.
            let fault = match e.raw_os_error() {
                Some(number) => ExtractError::Io(io::Error::from_raw_os_error(number)),
                None => packing(crate::oci::error_code::shown(&e.to_string())),
            };
            *self.fault.borrow_mut() = Some(fault);
        })?;
        self.unpacked += n as u64;
        let by_ratio = self.packed.get().max(1).saturating_mul(self.ratio).max(RATIO_FREE_BYTES);
        let cap = self.cap.min(by_ratio);
        if self.unpacked > cap {
            *self.fault.borrow_mut() = Some(ExtractError::Bomb(cap));
            return Err(io::Error::other("over the limit"));
        }
        Ok(n)
    }
}

/// Shows the first [`HEAD_BYTES`], or as many as there are, before they are read.
pub(super) struct Peeked<R> {
    head: Vec<u8>,
    at: usize,
    inner: R,
}

impl<R: Read> Peeked<R> {
    pub fn new(inner: R) -> Self {
        Self { head: Vec::new(), at: 0, inner }
    }

    pub fn peek(&mut self) -> io::Result<Vec<u8>> {
        (&mut self.inner).take(HEAD_BYTES as u64).read_to_end(&mut self.head)?;
        Ok(self.head.clone())
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.head[self.at..];
        if left.is_empty() {
            return self.inner.read(buffer);
        }
        let n = left.len().min(buffer.len());
        buffer[..n].copy_from_slice(&left[..n]);
        self.at += n;
        Ok(n)
    }
}
