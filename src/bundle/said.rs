//! What a bundle says of itself, apart from its blobs: read from the archive's beginning where larder wrote it, and from
//! wherever it stands otherwise, without keeping anything else.

use super::index::{INDEX, Index, LIST, List, SIGNATURE, check_size};
use super::read::{MOST_ENTRIES, Name, Packing};
use super::{BundleError, Offer};
use crate::artifact::extract::{Extension, ExtractError};
use crate::catalog::Catalog;
use crate::oci::Digest;
use crate::oci::error_code::shown;
use std::io::{self, Read};

/// See the module's text.
#[derive(Debug)]
pub struct Said {
    /// The list's own bytes, which may be signed.
    list: Option<(Vec<u8>, List)>,
    /// The signature beside it.
    signature: Option<Vec<u8>>,
    index: Option<Index>,
    /// A digest of what it offers: another bundle has another one.
    pub identity: Digest,
}

impl Said {
    /// Of the files beside the blobs.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn of(
        list: Option<Vec<u8>>,
        signature: Option<Vec<u8>>,
        index: Option<Vec<u8>>,
    ) -> Result<Self, BundleError> {
        // larder's own list says all that the index says, and may be signed.
        if let Some(bytes) = list {
            let (identity, list) = (Digest::of(&bytes), List::decode(&bytes)?);
            return Ok(Self { list: Some((bytes, list)), signature, index: None, identity });
        }
        let none = || {
            let error = BundleError::new("no_bundle", format!("it has neither {LIST} nor {INDEX}"));
            error.hint("is it an OCI image layout, as a tar archive or a folder?")
        };
        let bytes = index.ok_or_else(none)?;
        let index = Some(Index::decode(&bytes)?);
        Ok(Self { list: None, signature, index, identity: Digest::of(&bytes) })
    }

    /// Of an archive that begins here, packed or not. Blocks; reads no more than it takes, and at most `most` bytes of what
    /// is unpacked.
    ///
    /// # Errors
    /// As [`Said::of`]; and where it is no archive, or too large.
    pub fn read(packing: Packing, archive: impl Read, most: u64) -> Result<Self, BundleError> {
        let damaged = |e: io::Error| match e.kind() {
            io::ErrorKind::FileTooLarge => BundleError::new("unpacked_too_large", e.to_string()),
            _ => BundleError::new("no_bundle", format!("the archive is damaged: {}", shown(&e.to_string()))),
        };
        let archive = packing.reader(archive).map_err(damaged)?;
        let mut archive = tar::Archive::new(Bounded { inner: archive, most, left: most });
        let (mut list, mut signature, mut index) = (None, None, None);
        let mut extension = Extension::default();
        let entries = archive.entries().map_err(damaged)?.raw(true);
        for (count, entry) in entries.enumerate() {
            if count >= MOST_ENTRIES {
                return Err(BundleError::new("too_many", format!("it has more than {MOST_ENTRIES} entries")));
            }
            let mut entry = entry.map_err(damaged)?;
            let kind = entry.header().entry_type();
            let told = |e: io::Error| ExtractError::Tar(shown(&e.to_string()));
            let is_extension = extension.read(kind, &mut entry, &told);
            if is_extension
                .map_err(|e| BundleError::new("no_bundle", format!("the archive is damaged: {e}")))?
            {
                continue;
            }
            let Extension { name, size: pax_size } = std::mem::take(&mut extension);
            let path = name.unwrap_or_else(|| entry.path_bytes().into_owned());
            let known = match Name::of(&String::from_utf8_lossy(&path)) {
                Name::Known(known) => known,
                // larder writes its lists before all blobs.
                _ if list.is_some() => break,
                _ => continue,
            };
            let slot = match known {
                LIST => &mut list,
                SIGNATURE => &mut signature,
                _ => &mut index,
            };
            let size = entry.header().entry_size().map_err(damaged)?;
            let is_file = kind.is_file() || kind.is_contiguous();
            // Of two lists neither is believed, as where all of the archive is read.
            if slot.is_some() || !is_file || pax_size.is_some_and(|pax| pax != size) {
                let detail = format!("{known} stands there twice, or is no regular file");
                return Err(BundleError::new("bad_entry", detail));
            }
            check_size(known, size)?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(damaged)?;
            *slot = Some(bytes);
        }
        Self::of(list, signature, index)
    }

    /// What it offers, and what cannot be named.
    pub fn offers(&self, catalog: &Catalog) -> (Vec<Offer>, Vec<(String, BundleError)>) {
        match (&self.list, &self.index) {
            (Some((_, list)), _) => (list.offers(), Vec::new()),
            (None, Some(index)) => index.offers(catalog),
            (None, None) => unreachable!("it was read with one of them"),
        }
    }

    /// larder's own list as it was written, and the signature beside it.
    pub fn signed(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        (self.list.as_ref().map(|(bytes, _)| bytes.as_slice()), self.signature.as_deref())
    }
}

/// A reader of so many bytes and no more.
struct Bounded<R> {
    inner: R,
    most: u64,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let detail = format!("the bundle unpacks to more than {} bytes (cache.disk)", self.most);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.inner.read(&mut buffer[..most])?;
        self.left -= n as u64;
        Ok(n)
    }
}
