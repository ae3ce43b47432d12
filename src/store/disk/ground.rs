//! Taking a directory: that it is ours alone, of a format that we know, and that nobody else may write there.

use super::commit::sync_folder;
use crate::proof::Step;
use crate::store::error::StoreError;
use crate::store::layout::Layout;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// What the format's file says.
const FORMAT: &str = "larder-store 1\n";
/// A format's file is this long at most; a longer one is none of ours.
const FORMAT_BYTES: u64 = 64;
/// The permission of everybody to write.
const OTHERS_WRITE: u32 = 0o002;

/// A directory that may be used.
pub(super) struct Ground {
    /// Held as long as it is ours. `None` where no lock can be had because nothing can be written there.
    pub lock: Option<File>,
    /// Why nothing new can be kept there.
    pub trouble: Option<StoreError>,
}

impl Drop for Ground {
    /// Closing the file is not enough: a program that is being started just then holds it too, until it begins.
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = lock.unlock();
        }
    }
}

/// Makes what is missing, and locks it. A directory that can be read and not written is taken too: what it holds is good.
///
/// # Errors
/// Those that [`StoreError::forbids_a_start`] knows, and whatever keeps us from reading it.
pub(super) fn take(layout: &Layout) -> Result<Ground, StoreError> {
    // Before anything is made or written.
    if layout.root().is_dir() {
        known_format(layout)?;
    }
    let mut trouble = make_folders(layout).err();
    let root = layout.root();
    let metadata = match (fs::metadata(root), trouble) {
        (Ok(metadata), kept) => {
            trouble = kept;
            metadata
        }
        (Err(_), Some(error)) => return Err(error),
        (Err(error), None) => return Err(StoreError::io("looking at", root, error)),
    };
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(StoreError::Exposed { path: root.into(), mode });
    }
    let lock = match lock(layout) {
        Ok(lock) => Some(lock),
        Err(error) if error.forbids_a_start() => return Err(error),
        Err(error) => {
            trouble.get_or_insert(error);
            None
        }
    };
    check_format(layout)?;
    Ok(Ground { lock, trouble })
}

/// Makes what is missing: at the start, and again if somebody emptied the directory under us.
pub(super) fn make_folders(layout: &Layout) -> Result<(), StoreError> {
    for folder in
        [layout.root().into(), layout.tmp(), layout.quarantine(), layout.records(), layout.modules()]
    {
        make_folder(&folder)?;
    }
    Ok(())
}

/// Makes a folder and those above it, for our own user alone. A name lasts when the folder that holds it was synced.
pub(super) fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(above)?;
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    made.or_else(|e| if folder.is_dir() { Ok(()) } else { Err(StoreError::io("creating", folder, e)) })?;
    match sync_folder(above, Step::SyncNewFolder) {
        // Somebody else's, in which we may make folders and which we may not read.
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// A directory without the file was begun by nobody or by the first larder, which wrote none: then it is written. One
/// that says something else is left as it is.
fn check_format(layout: &Layout) -> Result<(), StoreError> {
    match known_format(layout)? {
        true => Ok(()),
        false => write_format(layout),
    }
}

/// Whether the directory says what format it is of.
///
/// # Errors
/// When it is one that this larder does not know, or cannot be read.
pub fn known_format(layout: &Layout) -> Result<bool, StoreError> {
    let path = layout.format();
    let read = File::open(&path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(FORMAT_BYTES).read_to_end(&mut bytes).map(|_| bytes)
    });
    match read {
        Ok(bytes) if bytes == FORMAT.as_bytes() => Ok(true),
        Ok(bytes) => {
            let found = crate::oci::error_code::shown(&String::from_utf8_lossy(&bytes));
            Err(StoreError::Format { path, found })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("reading", &path, e)),
    }
}

/// Writes the format's file, whole or not at all. On a disk that takes nothing it can wait.
fn write_format(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.format();
    let written = tempfile::NamedTempFile::new_in(layout.tmp()).and_then(|mut file| {
        file.write_all(FORMAT.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        File::open(layout.root())?.sync_all()
    });
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "the format is not written down yet");
    }
    Ok(())
}

fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let wrong = |e| StoreError::io("locking", &path, e);
    // Held open for reading alone: a file that is open for writing keeps its file system from being made read-only.
    let opened = File::open(&path).or_else(|_| {
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        File::open(&path)
    });
    let mut file = opened.map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let parent = layout.root().parent().unwrap_or(layout.root());
            return Err(StoreError::Locked { path: parent.into(), holder: holder.trim().into() });
        }
        Err(fs::TryLockError::Error(e)) => return Err(wrong(e)),
    }
    // Who has it is for people; a disk that takes nothing keeps the older name.
    let _ = fs::write(&path, std::process::id().to_string());
    Ok(file)
}
