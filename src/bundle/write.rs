//! Writing the archive: the lists first, then the blobs by digest; the same content gives the same bytes.

use super::collect::Gathered;
use super::index::{INDEX, LAYOUT, LAYOUT_TEXT, LIST, List, SIGNATURE};
use super::{BundleError, Packing, Parts};
use crate::oci::{Digest, Hasher};
use std::io::{self, Read, Write};

/// How hard zstd tries. Layers are packed already; raw modules give about a third.
const ZSTD_LEVEL: i32 = 6;
/// Mode of every entry.
const MODE: u32 = 0o644;

/// Writes a bundle of `list` to `out`, packed as `packing` says. `told` hears how many bytes more were written. Blocks.
///
/// # Errors
/// The disk's, or that a part is not what it was.
pub fn write(
    out: &mut dyn Write,
    packing: Packing,
    list: &List,
    signature: Option<&[u8]>,
    gathered: &Gathered,
    parts: &Parts,
    told: &dyn Fn(u64),
) -> Result<(), BundleError> {
    let failed = |e: io::Error| BundleError::io("writing the bundle", &e);
    match packing {
        Packing::Zstd => {
            // One thread, and no more than the level decides how: the bytes depend on the content alone.
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?;
            archive(&mut encoder, list, signature, gathered, parts, told)?;
            encoder.finish().map(drop).map_err(failed)
        }
        Packing::Plain => archive(out, list, signature, gathered, parts, told),
        Packing::Gzip => unreachable!("bundles are written plain or with zstd"),
    }
}

fn archive(
    out: &mut dyn Write,
    list: &List,
    signature: Option<&[u8]>,
    gathered: &Gathered,
    parts: &Parts,
    told: &dyn Fn(u64),
) -> Result<(), BundleError> {
    let failed = |e: io::Error| BundleError::io("writing the bundle", &e);
    let mut builder = tar::Builder::new(out);
    let is_manifest = |(digest, (size, media_type)): (&Digest, &(u64, Option<String>))| {
        Some((*digest, (media_type.clone()?, *size)))
    };
    let manifests = gathered.iter().filter_map(is_manifest).collect();
    let (text, index) = (list.encode(), list.layout_index(&manifests));
    let mut files = vec![(LIST, text.as_slice())];
    files.extend(signature.map(|signature| (SIGNATURE, signature)));
    files.extend([(LAYOUT, LAYOUT_TEXT.as_bytes()), (INDEX, index.as_slice())]);
    for (name, bytes) in files {
        builder.append(&header(name, bytes.len() as u64).map_err(failed)?, bytes).map_err(failed)?;
    }
    for (digest, (size, _)) in gathered {
        let file = parts.open(digest).map_err(failed)?;
        let mut bytes = Hashed { inner: file.take(*size), hasher: Hasher::new(), size: 0, told };
        let name = format!("blobs/sha256/{}", digest.hex());
        builder.append(&header(&name, *size).map_err(failed)?, &mut bytes).map_err(failed)?;
        // One that is shorter than its header says shifts all that follows.
        if bytes.size != *size || bytes.hasher.finish() != *digest {
            let detail = format!("{digest} was changed in {} while it was written", parts.folder().display());
            return Err(BundleError::new("digest_mismatch", detail));
        }
    }
    builder.into_inner().map(drop).map_err(failed)
}

/// Nothing of who writes, when and where.
fn header(name: &str, size: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(MODE);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// What is read is hashed, counted and told.
struct Hashed<'a, R> {
    inner: R,
    hasher: Hasher,
    /// Bytes read so far.
    size: u64,
    told: &'a dyn Fn(u64),
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.size += n as u64;
        (self.told)(n as u64);
        Ok(n)
    }
}
