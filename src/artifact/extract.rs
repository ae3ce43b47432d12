//! The module's bytes out of a layer: raw, gzip, zstd, tar, or a tar in one of these. The bytes decide, not the type.
//!
//! One pass, a fixed amount of memory. In a tar the entry named `plugin.wasm` wins, then one of that base name in a
//! folder, then the only `*.wasm`; two of the winning kind are a riddle and refused. The stream is read to its end so
//! that checksums are checked before anything is believed.

use super::Limits;
use super::inspect::{self, HeaderError};
use super::reader::{HEAD_BYTES, Metered, Peeked, Source};
use super::whiteout::Hidden;
use crate::oci::error_code::shown;
use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Unpacked bytes that may surround a module in an image's layer, as a multiple of the largest module.
const SURROUNDINGS: u64 = 4;
/// Largest window of a zstd frame, as a power of two: 32 MiB. Level 19, the highest without `--ultra`, has 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 25;
/// Largest long name or PAX header of a tar entry, in bytes.
const TAR_EXTENSION_BYTES: u64 = 64 << 10;
const COPY_BYTES: usize = 128 << 10;
/// Longest path of an entry, as in a file system.
const PATH_BYTES: usize = 4 << 10;
/// Most names of entries that an error lists.
const MOST_NAMES: usize = 8;

/// Where a module is written to. Begun again when a better entry turns up.
pub trait Sink {
    /// Adds bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Forgets all bytes.
    fn restart(&mut self) -> io::Result<()>;
}

/// Why a layer yields no module.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The gzip stream is damaged.
    #[error("the layer's gzip stream is damaged: {0}")]
    Gzip(String),
    /// The zstd stream is damaged, or needs too large a window.
    #[error("the layer's zstd stream is damaged: {0}")]
    Zstd(String),
    /// The tar archive is damaged or lies about itself.
    #[error("the layer's tar archive is damaged: {0}")]
    Tar(String),
    /// The module's entry is no regular file.
    #[error("the entry '{0}' is no regular file")]
    Entry(String),
    /// Two entries with equal right to be the module.
    #[error("the layer holds several modules ({0}); name one of them plugin.wasm")]
    Ambiguous(String),
    /// More entries than `limits.tar_entries`.
    #[error("the layer's archive has more than {0} entries (limits.tar_entries)")]
    TooManyEntries(u64),
    /// An archive without a module.
    #[error("the layer's archive holds no plugin.wasm and no other .wasm file; its files are {0}")]
    NoModule(String),
    /// Neither module nor archive, or another version of wasm.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The module exceeds `limits.module`.
    #[error("the module has more than {0} bytes (limits.module)")]
    TooLarge(u64),
    /// Packed absurdly well, or surrounded by absurdly much.
    #[error("the layer unpacks to more than {0} bytes (limits.ratio)")]
    Bomb(u64),
    /// Our own disk; nothing is said of the layer.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ExtractError {
    /// The stable word for this error in answers and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gzip(_) => "bad_gzip",
            Self::Zstd(_) => "bad_zstd",
            Self::Tar(_) => "bad_tar",
            Self::Entry(_) => "bad_entry",
            Self::Ambiguous(_) => "ambiguous_entry",
            Self::TooManyEntries(_) => "too_many_entries",
            Self::NoModule(_) => "no_plugin_wasm",
            Self::Header(e) => e.code(),
            Self::TooLarge(_) => "too_large",
            Self::Bomb(_) => "unpacked_too_large",
            Self::Io(_) => "store",
        }
    }

    /// True when another layer of the same manifest may still hold the module: this one simply is something else.
    pub fn is_other_content(&self) -> bool {
        matches!(self, Self::NoModule(_) | Self::Header(HeaderError::NotWasm(_)))
    }
}

/// How a layer is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 8878. To unpack it takes as much memory as the window of its frame.
    Zstd,
    /// Not at all.
    None,
}

/// How a layer is packed that begins with `head`.
pub fn packing(head: &[u8]) -> Packing {
    if head.starts_with(&[0x1f, 0x8b]) {
        Packing::Gzip
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Packing::Zstd
    } else {
        Packing::None
    }
}

/// True when a layer that begins with `head` (512 bytes, or all of it) is a module, as it is.
pub fn is_module(head: &[u8]) -> bool {
    let is_plain = packing(head) == Packing::None && !is_tar(&head[..head.len().min(HEAD_BYTES)]);
    is_plain && inspect::check_header(&head[..head.len().min(inspect::HEADER_BYTES)]).is_ok()
}

/// Reads a layer and writes its module to `out`. `hidden` is what the layers above removed; what this one removes is
/// added to it.
pub fn extract(
    layer: impl Read,
    limits: &Limits,
    hidden: &mut Hidden,
    out: &mut dyn Sink,
) -> Result<(), ExtractError> {
    let packed = Rc::new(Cell::new(0));
    let mut source = Peeked::new(Source { inner: layer, read: packed.clone() });
    let head = source.peek()?;
    let cap = limits.module.as_u64().saturating_mul(SURROUNDINGS);
    let meter =
        |inner| Metered { inner, packed, unpacked: 0, cap, ratio: limits.ratio, fault: Rc::default() };
    let (decoder, packing): (Box<dyn Read + '_>, fn(String) -> ExtractError) = match packing(&head) {
        Packing::Gzip => (Box::new(flate2::read::MultiGzDecoder::new(source)), ExtractError::Gzip),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            (Box::new(decoder), ExtractError::Zstd)
        }
        Packing::None => (Box::new(source), ExtractError::Tar),
    };
    unpacked(meter((decoder, packing)), limits, hidden, out)
}

fn unpacked(
    metered: Metered<'_>,
    limits: &Limits,
    hidden: &mut Hidden,
    out: &mut dyn Sink,
) -> Result<(), ExtractError> {
    let fault = metered.fault.clone();
    let told =
        |e: io::Error| fault.borrow_mut().take().unwrap_or_else(|| ExtractError::Tar(shown(&e.to_string())));
    let mut stream = Peeked::new(metered);
    let head = stream.peek().map_err(&told)?;
    if is_tar(&head) {
        from_tar(stream, limits, hidden, out, &told)
    } else {
        copy_module(&mut stream, limits, out, &told)?;
        Ok(())
    }
}

/// A POSIX or GNU archive says `ustar`; an old one is known by the checksum of its first header.
fn is_tar(head: &[u8]) -> bool {
    let Ok(block) = <&[u8; HEAD_BYTES]>::try_from(head) else {
        return false;
    };
    let Ok(field) = std::str::from_utf8(&block[148..156]) else {
        return false;
    };
    let written = u32::from_str_radix(field.trim_matches([' ', '\0']), 8);
    let sum: u32 =
        block.iter().enumerate().map(|(n, b)| if (148..156).contains(&n) { 32 } else { u32::from(*b) }).sum();
    &block[257..262] == b"ustar" || written == Ok(sum)
}

/// How good a claim an entry has to be the module.
#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Claim {
    Some,
    BaseName,
    Exact,
}

/// The entry with the best claim so far.
struct Best {
    claim: Claim,
    /// All entries with this claim.
    paths: Vec<String>,
    /// What became of the first.
    outcome: Result<(), ExtractError>,
}

fn from_tar(
    stream: impl Read,
    limits: &Limits,
    hidden: &mut Hidden,
    out: &mut dyn Sink,
    told: &dyn Fn(io::Error) -> ExtractError,
) -> Result<(), ExtractError> {
    let mut archive = tar::Archive::new(stream);
    let mut best: Option<Best> = None;
    let mut seen = Vec::new();
    let mut removed = Hidden::default();
    let mut extension = Extension::default();
    let mut count = 0;
    // Raw: long names and PAX headers come as entries, so that their size can be bounded before they are read.
    for entry in archive.entries().map_err(told)?.raw(true) {
        let mut entry = entry.map_err(told)?;
        count += 1;
        if count > limits.tar_entries {
            return Err(ExtractError::TooManyEntries(limits.tar_entries));
        }
        let kind = entry.header().entry_type();
        if extension.read(kind, &mut entry, told)? {
            continue;
        }
        let size = entry.header().entry_size().map_err(told)?;
        let Extension { name, size: pax_size } = std::mem::take(&mut extension);
        if pax_size.is_some_and(|pax| pax != size) {
            return Err(ExtractError::Tar("an entry's two headers disagree about its size".into()));
        }
        let path = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        if path.len() > PATH_BYTES {
            return Err(ExtractError::Tar("an entry's path is over 4 KiB".into()));
        }
        let path = String::from_utf8_lossy(&path).into_owned();
        if seen.len() < MOST_NAMES && !kind.is_dir() {
            seen.push(shown(&path));
        }
        let inner = path.strip_prefix("./").unwrap_or(&path);
        if removed.note(inner)? || hidden.hides(inner) {
            continue;
        }
        let Some(claim) = claim(inner) else { continue };
        match &mut best {
            Some(held) if held.claim > claim => {}
            Some(held) if held.claim == claim => {
                // Judged at the end: a better one may still come.
                if held.paths.len() < MOST_NAMES {
                    held.paths.push(shown(&path));
                }
            }
            _ => {
                out.restart()?;
                let copied = if kind.is_file() || kind.is_contiguous() {
                    copy_module(&mut entry, limits, out, told)
                } else {
                    Err(ExtractError::Entry(shown(&path)))
                };
                let outcome = match copied {
                    Ok(copied) if copied != size => {
                        return Err(ExtractError::Tar(format!(
                            "an entry of {size} bytes ends after {copied}"
                        )));
                    }
                    Ok(_) => Ok(()),
                    // About this entry, and a better one may still come.
                    Err(
                        e @ (ExtractError::Entry(_) | ExtractError::Header(_) | ExtractError::TooLarge(_)),
                    ) => Err(e),
                    Err(e) => return Err(e),
                };
                best = Some(Best { claim, paths: vec![shown(&path)], outcome });
            }
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(told)?;
    hidden.add(removed)?;
    match best {
        None => Err(ExtractError::NoModule(if seen.is_empty() { "none".into() } else { seen.join(", ") })),
        Some(best) if best.paths.len() > 1 => Err(ExtractError::Ambiguous(best.paths.join(", "))),
        Some(best) => best.outcome,
    }
}

/// What GNU and PAX say of the entry that follows.
#[derive(Default)]
pub struct Extension {
    /// Its path.
    pub name: Option<Vec<u8>>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl Extension {
    /// Takes in `entry` if it is such a header, of at most 64 KiB; tells whether it was one.
    ///
    /// # Errors
    /// It is larger, malformed, or changes what may not be changed. What fails while reading is made an error by `told`.
    pub fn read(
        &mut self,
        kind: tar::EntryType,
        entry: &mut impl Read,
        told: &dyn Fn(io::Error) -> ExtractError,
    ) -> Result<bool, ExtractError> {
        if !(kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions())
        {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        entry.take(TAR_EXTENSION_BYTES + 1).read_to_end(&mut bytes).map_err(told)?;
        if bytes.len() as u64 > TAR_EXTENSION_BYTES {
            return Err(ExtractError::Tar("an entry's name or extension is over 64 KiB".into()));
        }
        if kind.is_gnu_longname() {
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            self.name = Some(bytes);
        } else if !kind.is_gnu_longlink() {
            for item in tar::PaxExtensions::new(&bytes) {
                let item = item.map_err(|e| ExtractError::Tar(shown(&e.to_string())))?;
                match item.key_bytes() {
                    b"path" | b"size" if kind.is_pax_global_extensions() => {
                        return Err(ExtractError::Tar("a global header renames or resizes entries".into()));
                    }
                    b"path" => self.name = Some(item.value_bytes().to_vec()),
                    b"size" => {
                        let size = item.value().ok().and_then(|v| v.parse().ok());
                        self.size =
                            Some(size.ok_or_else(|| ExtractError::Tar("a PAX size is no number".into()))?);
                    }
                    key if key.starts_with(b"GNU.sparse") => {
                        return Err(ExtractError::Entry("a sparse file".into()));
                    }
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}

/// The claim of a path without `./` before it.
fn claim(path: &str) -> Option<Claim> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return None;
    }
    let base = path.rsplit('/').next().unwrap_or_default();
    match base {
        _ if path == "plugin.wasm" => Some(Claim::Exact),
        "plugin.wasm" => Some(Claim::BaseName),
        _ if base.ends_with(".wasm") && !base.starts_with('.') => Some(Claim::Some),
        _ => None,
    }
}

fn copy_module(
    from: &mut dyn Read,
    limits: &Limits,
    out: &mut dyn Sink,
    told: &dyn Fn(io::Error) -> ExtractError,
) -> Result<u64, ExtractError> {
    let limit = limits.module.as_u64();
    let mut buffer = vec![0; COPY_BYTES];
    let mut filled = 0;
    // The first eight bytes come first, so that a wrong file costs nothing.
    while filled < inspect::HEADER_BYTES {
        match from.read(&mut buffer[filled..inspect::HEADER_BYTES]).map_err(told)? {
            0 => break,
            n => filled += n,
        }
    }
    inspect::check_header(&buffer[..filled])?;
    let mut total = 0;
    loop {
        total += filled as u64;
        if total > limit {
            return Err(ExtractError::TooLarge(limit));
        }
        out.write(&buffer[..filled])?;
        filled = from.read(&mut buffer).map_err(told)?;
        if filled == 0 {
            return Ok(total);
        }
    }
}

#[cfg(test)]
mod tests;
