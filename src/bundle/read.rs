//! Reading a bundle: a first pass that notes where what begins, in an archive or a folder of somebody else's making.

use super::index::{INDEX, LIST, SIGNATURE, check_size};
use super::said::Said;
use super::{BundleError, Offer};
use crate::artifact::extract::Extension;
use crate::catalog::Catalog;
use crate::oci::Digest;
use crate::oci::error_code::{bounded, shown};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most entries of an archive.
pub(super) const MOST_ENTRIES: usize = 100_000;
/// Most entries of an archive that are told of, one by one.
const MOST_TOLD: usize = 100;
/// Largest window of a zstd frame, as a power of two: 32 MiB.
const ZSTD_WINDOW_LOG: u32 = 25;
/// Where blobs lie.
const BLOBS: &str = "blobs/sha256/";

/// How an archive is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Of a file that begins with `head`.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// What is within.
    ///
    /// # Errors
    /// Memory for a decoder.
    pub fn reader<'r>(self, packed: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match self {
            Self::Plain => Box::new(packed),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(packed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// Where the bytes of a bundle are.
#[derive(Debug, Clone)]
enum Source {
    /// An archive that is not packed.
    Archive(Arc<File>),
    /// A layout's folder.
    Folder(PathBuf),
}

/// A blob's place.
#[derive(Debug, Clone)]
pub struct Span {
    file: Arc<File>,
    offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

impl Span {
    /// Reads at most `most` bytes from byte `at` on; none at the end. Blocks.
    ///
    /// # Errors
    /// The disk's, or that the file is shorter by now.
    pub fn read_at(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let left = self.size.saturating_sub(at).min(most as u64);
        let mut bytes = vec![0; left as usize];
        self.file.read_exact_at(&mut bytes, self.offset + at)?;
        Ok(bytes)
    }
}

/// Where what stands in an archive.
#[derive(Debug, Default)]
struct Places {
    /// By name, the files beside the blobs.
    files: HashMap<&'static str, (u64, u64)>,
    blobs: HashMap<Digest, (u64, u64)>,
    /// Blobs that cannot be used, and why.
    spoiled: HashMap<Digest, String>,
    /// What is wrong with a list, if anything is.
    unsaid: Option<String>,
    /// Entries that are not as they should be.
    bad: Vec<(String, BundleError)>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Bundle {
    source: Source,
    places: Places,
    /// What it says of itself.
    pub said: Said,
}

impl Bundle {
    /// An archive that is not packed. Blocks.
    ///
    /// # Errors
    /// It is none, or says nothing of itself that can be read. What is wrong with single entries is told by
    /// [`Bundle::offers`].
    pub fn archive(file: File) -> Result<Self, BundleError> {
        let places = places(&file)?;
        Self::of(Source::Archive(Arc::new(file)), places)
    }

    /// A layout's folder. Blocks.
    ///
    /// # Errors
    /// As [`Bundle::archive`].
    pub fn folder(path: PathBuf) -> Result<Self, BundleError> {
        Self::of(Source::Folder(path), Places::default())
    }

    fn of(source: Source, places: Places) -> Result<Self, BundleError> {
        if let Some(wrong) = &places.unsaid {
            return Err(BundleError::new("bad_entry", wrong.clone()));
        }
        let read = |name| -> Result<Option<Vec<u8>>, BundleError> {
            let Some(span) = file(&source, &places, name)? else { return Ok(None) };
            check_size(name, span.size)?;
            span.read_at(0, span.size as usize).map(Some).map_err(|e| BundleError::io(name, &e))
        };
        let said = Said::of(read(LIST)?, read(SIGNATURE)?, read(INDEX)?)?;
        Ok(Self { source, places, said })
    }

    /// What it offers, and what cannot be taken from it, each with what it is and why.
    pub fn offers(&self, catalog: &Catalog) -> (Vec<Offer>, Vec<(String, BundleError)>) {
        let (offers, mut bad) = self.said.offers(catalog);
        bad.extend(self.places.bad.iter().cloned());
        (offers, bad)
    }

    /// Where a blob is. The bytes may be others than its name says. Blocks.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn blob(&self, digest: &Digest) -> Result<Span, BundleError> {
        let missing = || BundleError::new("not_in_bundle", format!("the bundle has no blob {digest}"));
        if let Some(why) = self.places.spoiled.get(digest) {
            return Err(BundleError::new("bad_entry", format!("the blob {digest} {why}")));
        }
        match &self.source {
            Source::Archive(file) => {
                let (offset, size) = *self.places.blobs.get(digest).ok_or_else(missing)?;
                Ok(Span { file: file.clone(), offset, size })
            }
            Source::Folder(folder) => below(folder, &format!("{BLOBS}{}", digest.hex()))?.ok_or_else(missing),
        }
    }
}

fn file(source: &Source, places: &Places, name: &'static str) -> Result<Option<Span>, BundleError> {
    match source {
        Source::Archive(file) => {
            let place = places.files.get(name);
            Ok(place.map(|(offset, size)| Span { file: file.clone(), offset: *offset, size: *size }))
        }
        Source::Folder(folder) => below(folder, name),
    }
}

/// A file of a layout's folder. Links are not followed: they lead to what nobody meant to give.
fn below(folder: &Path, name: &str) -> Result<Option<Span>, BundleError> {
    let path = folder.join(name);
    let failed = |e: io::Error| BundleError::io(&path.display().to_string(), &e);
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.is_file() => {
            return Err(BundleError::new("bad_entry", format!("{} is no regular file", path.display())));
        }
        Ok(_) => {}
    }
    let file = File::open(&path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    Ok(Some(Span { file: Arc::new(file), offset: 0, size }))
}

/// What an entry's name means.
pub(super) enum Name {
    Known(&'static str),
    Blob(Digest),
    /// Nothing to us, such as the `manifest.json` of docker.
    Other,
    /// It could only lead out of where it is unpacked.
    Hostile,
}

impl Name {
    pub(super) fn of(path: &str) -> Self {
        let path = path.strip_prefix("./").unwrap_or(path);
        if path.starts_with('/') || path.contains(['\\', '\0']) || path.split('/').any(|part| part == "..") {
            return Self::Hostile;
        }
        if let Some(known) = [LIST, SIGNATURE, INDEX].into_iter().find(|known| *known == path) {
            return Self::Known(known);
        }
        path.strip_prefix(BLOBS).and_then(|hex| Digest::from_hex(hex).ok()).map_or(Self::Other, Self::Blob)
    }
}

/// Notes where what stands in an archive.
fn places(file: &File) -> Result<Places, BundleError> {
    let length = file.metadata().map_err(|e| BundleError::io("the bundle", &e))?.len();
    let mut places = Places::default();
    let mut archive = tar::Archive::new(file);
    let no_archive = |e: io::Error| {
        BundleError::new("no_bundle", format!("it is no tar archive: {}", shown(&e.to_string())))
    };
    // Raw: long names and PAX headers come as entries, so that their size can be bounded before they are read.
    let entries = archive.entries_with_seek().map_err(no_archive)?.raw(true);
    let mut extension = Extension::default();
    for (count, entry) in entries.enumerate() {
        if count >= MOST_ENTRIES {
            return Err(BundleError::new("too_many", format!("it has more than {MOST_ENTRIES} entries")));
        }
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(e) if count == 0 => return Err(no_archive(e)),
            Err(e) => {
                places.tell(
                    "the archive".into(),
                    format!("is damaged behind entry {count}: {}", shown(&e.to_string())),
                );
                break;
            }
        };
        let kind = entry.header().entry_type();
        let told = |e: io::Error| crate::artifact::extract::ExtractError::Tar(shown(&e.to_string()));
        match extension.read(kind, &mut entry, &told) {
            Ok(true) => continue,
            Ok(false) => {}
            Err(e) => {
                places.tell("the archive".into(), format!("is damaged at entry {count}: {e}"));
                break;
            }
        }
        let Extension { name, size: pax_size } = std::mem::take(&mut extension);
        let path = name.unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = String::from_utf8_lossy(&path).into_owned();
        let offset = entry.raw_file_position();
        let size = entry.header().entry_size().unwrap_or(u64::MAX);
        let is_whole = offset.checked_add(size).is_some_and(|end| end <= length)
            && pax_size.is_none_or(|pax| pax == size);
        places.note(&path, kind, (offset, size), is_whole);
        if !is_whole {
            break;
        }
    }
    if places.files.is_empty() && places.blobs.is_empty() && places.bad.is_empty() {
        return Err(BundleError::new("no_bundle", "it is no tar archive, or an empty one"));
    }
    Ok(places)
}

impl Places {
    fn note(&mut self, path: &str, kind: tar::EntryType, place: (u64, u64), is_whole: bool) {
        let name = Name::of(path);
        let wrong = match &name {
            Name::Hostile => Some("leads out of the bundle"),
            _ if kind.is_dir() => return,
            _ if !kind.is_file() && !kind.is_contiguous() => Some("is no regular file"),
            _ if !is_whole => Some("is cut off: the archive ends before it"),
            Name::Known(known) if self.files.contains_key(known) => Some("stands there twice"),
            Name::Blob(digest) if self.blobs.contains_key(digest) => Some("stands there twice"),
            _ => None,
        };
        match (wrong, name) {
            (Some(wrong), name) => {
                self.tell(path.into(), wrong.into());
                match name {
                    Name::Blob(digest) => drop(self.spoiled.insert(digest, wrong.into())),
                    // Of two lists neither is believed, and nothing takes their place.
                    Name::Known(known) => self.unsaid = Some(format!("{known} {wrong}")),
                    Name::Other | Name::Hostile => {}
                }
            }
            (None, Name::Known(known)) => drop(self.files.insert(known, place)),
            (None, Name::Blob(digest)) => drop(self.blobs.insert(digest, place)),
            (None, Name::Other | Name::Hostile) => {}
        }
    }

    fn tell(&mut self, path: String, wrong: String) {
        if self.bad.len() < MOST_TOLD {
            let path = bounded(&path, 200);
            let error = BundleError::new("bad_entry", format!("{path} {wrong}"));
            self.bad.push((path, error));
        }
    }
}
