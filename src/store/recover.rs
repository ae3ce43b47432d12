//! What a start finds: names and sizes of modules, and the records. Hashes are computed when a module is first used.

use super::error::StoreError;
use super::layout::Layout;
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::record::{Record, RecordError};
use rustix::fs::{Mode, OFlags, openat};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Records are a kilobyte; what is larger was not written by us.
const RECORD_BYTES: u64 = 64 << 10;

/// Threads that read records at a start.
const READERS: usize = 4;

/// How long what was found damaged is kept to be looked at.
const QUARANTINE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The part of the cache's limit that it may take beside the cache.
const QUARANTINE_PART: u64 = 10;

/// What was found.
#[derive(Default)]
pub struct Found {
    /// Modules: size, and last use as far as the file's time tells.
    pub modules: HashMap<Digest, (u64, Timestamp)>,
    /// Records whose module is there.
    pub records: Vec<Arc<Record>>,
    /// Drafts of an earlier process that were removed.
    pub removed_drafts: u64,
    /// Files that were moved to quarantine.
    pub quarantined: u64,
    /// False where nothing may be changed.
    is_ours: bool,
}

/// Reads the directory and puts aside what does not belong there. Files of a format to come are left alone, and so is what
/// cannot be looked at: the next start may. Nothing is changed in a directory that is not ours.
pub fn recover(layout: &Layout, is_ours: bool) -> Result<Found, StoreError> {
    let mut found = Found { is_ours, ..Found::default() };
    for path in listed(&layout.tmp()).unwrap_or_default() {
        if !is_ours {
            break;
        }
        match fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)) {
            Ok(()) => found.removed_drafts += 1,
            // It is in nobody's way.
            Err(error) => tracing::warn!(path = %path.display(), %error, "a draft could not be removed"),
        }
    }
    // False when something could not be looked at: then what seems to be missing may be there.
    let mut complete = true;
    for folder in listed(&layout.modules())? {
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                put_aside(layout, &folder, "no folder of modules", &mut found);
                continue;
            }
            Err(error) => {
                leave(&folder, &error);
                complete = false;
                continue;
            }
        }
        if let Err(error) = modules(layout, &folder, &mut found, &mut complete) {
            tracing::warn!(path = %folder.display(), %error, "a folder of modules cannot be looked into and is left alone");
            complete = false;
        }
    }
    for (path, read) in records(layout)? {
        match read {
            Read::Record(record) => {
                let module = record.present().map(|present| &present.module);
                let size = module.map(|module| found.modules.get(&module.digest).map(|(size, _)| *size));
                if size == Some(None) && !complete {
                    tracing::warn!(path = %path.display(), "a record whose module could not be looked for is left alone");
                } else if size.is_some_and(|size| size != module.map(|module| module.size)) {
                    put_aside(layout, &path, "a record whose module is gone", &mut found);
                } else {
                    found.records.push(record);
                }
            }
            Read::Misplaced => put_aside(layout, &path, "a record under another's name", &mut found),
            Read::None(RecordError::Version(version)) => {
                tracing::warn!(path = %path.display(), version, "a record of another format is left alone");
            }
            Read::None(problem) => put_aside(layout, &path, &problem.to_string(), &mut found),
            Read::Failed(error) => leave(&path, &error),
        }
    }
    Ok(found)
}

/// Looks through one folder of modules. Names are looked up in the open folder, which spares the kernel the way there.
fn modules(layout: &Layout, folder: &Path, found: &mut Found, complete: &mut bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let in_place = super::is_digest_name(name).filter(|_| folder.ends_with(&name[..2]));
        match (in_place, entry.metadata()) {
            (Some(digest), Ok(metadata)) if metadata.is_file() => {
                let used = metadata.modified().map_or(Timestamp::from_millis(0), Timestamp::from_system);
                found.modules.insert(digest, (metadata.len(), used));
            }
            (_, Ok(_)) => put_aside(layout, &entry.path(), "no module", found),
            (_, Err(error)) => {
                leave(&entry.path(), &error);
                *complete = false;
            }
        }
    }
    Ok(())
}

/// What is in a record's file.
enum Read {
    Record(Arc<Record>),
    /// One of another reference.
    Misplaced,
    None(RecordError),
    /// The disk failed, or we did; it says nothing of the record.
    Failed(io::Error),
}

/// Reads all records, by several threads: a disk that takes its time serves them side by side.
fn records(layout: &Layout) -> Result<Vec<(PathBuf, Read)>, StoreError> {
    let paths = listed(&layout.records())?;
    let folder = File::open(layout.records()).ok();
    let share = paths.len().div_ceil(READERS).max(1);
    let read = |paths: &[PathBuf]| -> Vec<Read> {
        let mut buffer = vec![0; RECORD_BYTES as usize];
        paths.iter().map(|path| read_one(folder.as_ref(), path, &mut buffer)).collect()
    };
    let all: Vec<Read> = std::thread::scope(|scope| {
        let begin = |paths| std::thread::Builder::new().spawn_scoped(scope, move || read(paths)).ok();
        let others: Vec<_> = paths.chunks(share).skip(1).map(|paths| (paths, begin(paths))).collect();
        let mut all = paths.chunks(share).next().map(read).unwrap_or_default();
        for (paths, other) in others {
            all.extend(match other {
                Some(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The kernel gave no thread.
                None => read(paths),
            });
        }
        all
    });
    Ok(paths.into_iter().zip(all).collect())
}

/// Reads one of the files in `folder`.
fn read_one(folder: Option<&File>, path: &Path, buffer: &mut [u8]) -> Read {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let whole = folder.and_then(|folder| read_whole(folder, name, buffer));
    let record = match whole {
        Some(record) => record,
        None => match read_record(path) {
            Ok(Ok(record)) => record,
            Ok(Err(problem)) => return Read::None(problem),
            Err(error) => return Read::Failed(error),
        },
    };
    match Layout::record_name(&record.reference) == name {
        true => Read::Record(Arc::new(record)),
        false => Read::Misplaced,
    }
}

/// The record in a file, in as few steps as it takes if all is well. What is not a whole record is to be looked at again,
/// with care.
fn read_whole(folder: &File, name: &str, buffer: &mut [u8]) -> Option<Record> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::empty()).ok()?);
    let n = file.read(buffer).ok()?;
    Record::decode(&buffer[..n]).ok()
}

/// The record in a file. The outer error is the disk's, or ours, and says nothing of the record.
pub fn read_record(path: &Path) -> io::Result<Result<Record, RecordError>> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.len() > RECORD_BYTES {
        return Ok(Err(RecordError::Malformed("no file of a record's size".into())));
    }
    Ok(Record::decode(&fs::read(path)?))
}

/// Says that something is not used, for this time. It may be whole.
fn leave(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "cannot be looked at and is left alone");
}

/// What is in a folder; nothing where there is none.
pub fn listed(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let wrong = |e: io::Error| StoreError::io("listing", folder, e);
    let mut paths = Vec::new();
    let entries = match fs::read_dir(folder) {
        // Nobody has made it yet, or somebody put a file in its place: nothing of ours is in it.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(paths);
        }
        entries => entries.map_err(wrong)?,
    };
    for entry in entries {
        paths.push(entry.map_err(wrong)?.path());
    }
    Ok(paths)
}

fn put_aside(layout: &Layout, path: &Path, why: &str, found: &mut Found) {
    if !found.is_ours {
        return;
    }
    found.quarantined += 1;
    quarantine(layout, path, why);
}

/// Moves a file to the quarantine folder. What cannot be moved stays and is not used.
pub fn quarantine(layout: &Layout, path: &Path, why: &str) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = layout.quarantine();
    let free = (0..).map(|n| folder.join(if n == 0 { name.clone() } else { format!("{name}.{n}") }));
    let Some(to) = free.take(1000).find(|to| fs::symlink_metadata(to).is_err()) else {
        return;
    };
    match fs::rename(path, &to) {
        Ok(()) => tracing::warn!(from = %path.display(), to = %to.display(), why, "quarantined"),
        Err(error) => {
            tracing::warn!(from = %path.display(), why, %error, "could not be quarantined; it is not used")
        }
    }
}

/// Removes from quarantine what is older than [`QUARANTINE_AGE`], and the oldest of what is more than a part of the
/// cache's `limit` in bytes.
pub fn prune_quarantine(layout: &Layout, limit: u64, now: Timestamp) {
    let Ok(paths) = listed(&layout.quarantine()) else { return };
    let aged = paths.into_iter().filter_map(|path| {
        let metadata = fs::symlink_metadata(&path).ok()?;
        // Moving it here changed its status and nothing else.
        let since = u64::try_from(metadata.ctime()).unwrap_or(0).saturating_mul(1000);
        Some((Timestamp::from_millis(since), metadata.len(), path))
    });
    let mut aged: Vec<_> = aged.collect();
    aged.sort();
    let mut bytes: u64 = aged.iter().map(|(_, size, _)| size).sum();
    for (since, size, path) in aged {
        if bytes <= limit / QUARANTINE_PART && now.since(since) < QUARANTINE_AGE {
            break;
        }
        let gone = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        tracing::info!(path = %path.display(), ok = gone.is_ok(), "left quarantine");
        bytes -= size;
    }
}
