//! The local overlay: folders of `<name>/<version>/plugin.wasm` that win over every registry.
//!
//! Derived images copy their plugins there, operators mount theirs. The folders are looked through every few seconds
//! and not watched: a poll sees what a volume swap, a network file system or `docker cp` does, always the same way.
//! A file is read whole once after it changed and piece by piece, checked, from then on. One that changed a moment ago
//! may still be being written: it is believed when it has looked the same for [`SETTLED`].

use super::entry::ModuleFile;
use crate::artifact::inspect;
use crate::clock::Timestamp;
use crate::plugin::{PluginName, Version};
use crate::record::Module;
use arc_swap::ArcSwap;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Settings of the overlay.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folders, first wins. One that is not there is empty, and looked for again.
    pub dirs: Vec<PathBuf>,
    /// Time between two looks.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// How long a file must look the same before it is believed.
pub const SETTLED: Duration = Duration::from_secs(1);

/// What was found, by name and version.
pub type Index = BTreeMap<(PluginName, Version), Arc<Entry>>;

/// One `plugin.wasm`.
#[derive(Debug)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Its time of last change.
    pub modified: Timestamp,
    /// Its module, or why it is none.
    pub module: Result<Module, Problem>,
    /// The file as it was looked at. It stays open, so that it can be served to its end when another takes its name.
    file: Option<ModuleFile>,
    identity: Identity,
}

/// Why a local file is no module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is something else, or too large.
    NoModule(String),
    /// It is being written, or cannot be read right now.
    Passing(String),
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl Entry {
    /// The module and its open file.
    pub fn opened(&self) -> Option<(Module, ModuleFile)> {
        Some((self.module.clone().ok()?, self.file.clone()?))
    }
}

type Key = (PluginName, Version);

/// The folders in use: others take their place as a whole, when they have been looked through.
pub type Live = Arc<ArcSwap<Overlay>>;

/// The folders and what they hold.
pub struct Overlay {
    dirs: Vec<PathBuf>,
    /// Larger files are named as too large.
    largest: u64,
    index: RwLock<Arc<Index>>,
    /// Files that are new or changed, since when they look as they do: somebody may still be writing them.
    settling: Mutex<HashMap<Key, (Identity, Instant)>>,
}

impl Overlay {
    /// Looks through `dirs`. Blocks, for a moment longer when a file is being written right now.
    pub fn open(dirs: Vec<PathBuf>, largest: u64) -> Self {
        let overlay = Self { dirs, largest, index: RwLock::default(), settling: Mutex::default() };
        overlay.refresh();
        let is_settling = !overlay.settling.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_settling {
            std::thread::sleep(SETTLED);
            overlay.refresh();
        }
        overlay
    }

    /// These folders, in use.
    pub fn live(self) -> Live {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// True when `dirs` and `largest` are what it was opened with.
    pub fn is_of(&self, dirs: &[PathBuf], largest: u64) -> bool {
        self.dirs == dirs && self.largest == largest
    }

    /// The folders.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// What was found at the last look.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again. Blocks. Files that did not change are not read; one that did is believed when it has looked the same
    /// for a while, and until then the one before it is.
    pub fn refresh(&self) {
        let mut settling = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.index();
        let mut new = Index::new();
        let mut still = HashMap::new();
        for dir in &self.dirs {
            let (found, failed) = files(dir);
            for (name, version, path) in found {
                let key = (name, version);
                if new.contains_key(&key) {
                    continue;
                }
                let known = old.get(&key).filter(|entry| entry.path == path);
                let entry = self.look(&key, path, known, &settling, &mut still);
                new.extend(entry.map(|entry| (key, entry)));
            }
            // What cannot be looked into right now is not empty.
            for folder in failed {
                for (key, entry) in old.iter().filter(|(_, entry)| entry.path.starts_with(&folder)) {
                    new.entry(key.clone()).or_insert_with(|| entry.clone());
                }
            }
        }
        *settling = still;
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }

    /// What is to be believed of one file, `known` of which was believed so far.
    fn look(
        &self,
        key: &Key,
        path: PathBuf,
        known: Option<&Arc<Entry>>,
        settling: &HashMap<Key, (Identity, Instant)>,
        still: &mut HashMap<Key, (Identity, Instant)>,
    ) -> Option<Arc<Entry>> {
        let (identity, modified) = match identity(&path) {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            // It is there and cannot be looked at.
            Err(_) => return known.cloned(),
        };
        let is_settled = |entry: &&Arc<Entry>| !matches!(entry.module, Err(Problem::Passing(_)));
        if let Some(same) = known.filter(is_settled).filter(|entry| entry.identity == identity) {
            return Some(same.clone());
        }
        let now = Instant::now();
        let since = settling.get(key).filter(|(seen, _)| *seen == identity).map_or(now, |(_, since)| *since);
        if identity.is_old() || now.duration_since(since) >= SETTLED {
            return Some(Arc::new(self.inspect(path, identity, modified)));
        }
        still.insert(key.clone(), (identity, since));
        let before = known?;
        // Replaced by another file, the one before is still whole, and so is one of which only the rights or the name
        // changed. Written over, it is neither the old nor yet the new.
        if before.identity.file() != identity.file() || before.identity.content() == identity.content() {
            return Some(before.clone());
        }
        let module = Err(Problem::Passing("it is being written".into()));
        Some(Arc::new(Entry { path, modified, module, file: None, identity }))
    }

    fn inspect(&self, path: PathBuf, identity: Identity, modified: Timestamp) -> Entry {
        let judged = || {
            if identity.size > self.largest {
                let (size, largest) = (identity.size, self.largest);
                let text = format!("has {size} bytes; at most {largest} are allowed (limits.module)");
                return Err(Problem::NoModule(text));
            }
            let (module, file, head) =
                ModuleFile::inspect(&path).map_err(|e| Problem::Passing(e.to_string()))?;
            inspect::check_header(&head).map_err(|e| Problem::NoModule(e.to_string()))?;
            Ok((module, file))
        };
        let (module, file) = match judged() {
            Ok((module, file)) => (Ok(module), Some(file)),
            Err(problem) => (Err(problem), None),
        };
        match &module {
            Ok(module) => tracing::info!(path = %path.display(), digest = %module.digest, "local plugin"),
            Err(problem) => {
                tracing::warn!(path = %path.display(), ?problem, "a local plugin cannot be served")
            }
        }
        Entry { path, modified, module, file, identity }
    }
}

impl Identity {
    /// Which file it is, whatever is in it.
    fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// What changes when something is written into it.
    fn content(&self) -> (u64, (i64, i64)) {
        (self.size, self.modified)
    }

    /// True when the file was last changed a while ago, by its own account that nobody can set back.
    fn is_old(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed =
            UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds as u32));
        changed
            .and_then(|changed| SystemTime::now().duration_since(changed).ok())
            .is_some_and(|age| age >= SETTLED)
    }
}

/// `None` when there is no such file.
fn identity(path: &Path) -> io::Result<Option<(Identity, Timestamp)>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(e) if is_nothing(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let identity = Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    let modified = metadata.modified().map_or(Timestamp::from_millis(0), Timestamp::from_system);
    Ok(Some((identity, modified)))
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The `plugin.wasm` files of a folder whose path is a name and a version, and the folders that could not be read.
/// Other things are passed over.
fn files(dir: &Path) -> (Vec<(PluginName, Version, PathBuf)>, Vec<PathBuf>) {
    fn folders<T: std::str::FromStr>(dir: &Path, failed: &mut Vec<PathBuf>) -> Vec<(T, PathBuf)> {
        let named = |e: std::fs::DirEntry| Some((e.file_name().to_str()?.parse().ok()?, e.path()));
        let read = std::fs::read_dir(dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        match read {
            Ok(entries) => entries.into_iter().filter_map(named).collect(),
            Err(error) => {
                if !is_nothing(&error) {
                    tracing::warn!(path = %dir.display(), %error, "a folder of local plugins cannot be read");
                    failed.push(dir.into());
                }
                Vec::new()
            }
        }
    }
    let mut found = Vec::new();
    let mut failed = Vec::new();
    for (name, folder) in folders::<PluginName>(dir, &mut failed) {
        for (version, folder) in folders::<Version>(&folder, &mut failed) {
            found.push((name.clone(), version, folder.join("plugin.wasm")));
        }
    }
    (found, failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn put(dir: &Path, at: &str, bytes: &[u8]) {
        let path = dir.join(at);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn digest_of(overlay: &Overlay, name: &str, version: &str) -> Option<Result<Digest, Problem>> {
        let key = (name.parse().unwrap(), version.parse().unwrap());
        overlay.index().get(&key).map(|e| e.module.clone().map(|m| m.digest))
    }

    /// Looks again until it is so; fails after ten seconds.
    fn settle(overlay: &Overlay, done: impl Fn(&Overlay) -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !done(overlay) {
            assert!(Instant::now() < until, "it did not settle");
            std::thread::sleep(Duration::from_millis(10));
            overlay.refresh();
        }
    }

    #[test]
    fn a_file_that_is_still_being_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let overlay = Overlay::open(vec![dir.path().into()], 1 << 20);
        let folder = dir.path().join("waf/1.0.0");
        std::fs::create_dir_all(&folder).unwrap();
        let mut file = std::fs::File::create(folder.join("plugin.wasm")).unwrap();
        let mut whole = b"\0asm\x01\0\0\0".to_vec();
        std::io::Write::write_all(&mut file, &whole).unwrap();
        for n in 0..200 {
            std::io::Write::write_all(&mut file, &[n]).unwrap();
            whole.push(n);
            overlay.refresh();
            assert_eq!(digest_of(&overlay, "waf", "1.0.0"), None);
        }
        settle(&overlay, |o| digest_of(o, "waf", "1.0.0").is_some());
        assert_eq!(digest_of(&overlay, "waf", "1.0.0"), Some(Ok(Digest::of(&whole))));
    }

    #[test]
    fn files_are_found_changed_and_gone_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (b"\0asm\x01\0\0\0one", b"\0asm\x01\0\0\0two");
        put(dir.path(), "waf/1.0.0/plugin.wasm", one);
        put(dir.path(), "waf/README", b"not a version's folder");
        let overlay = Overlay::open(vec![dir.path().into()], 100);
        assert_eq!(digest_of(&overlay, "waf", "1.0.0"), Some(Ok(Digest::of(one))));
        assert_eq!(overlay.index().len(), 1);
        put(dir.path(), "waf/1.0.0/plugin.wasm", two);
        overlay.refresh();
        assert_eq!(
            digest_of(&overlay, "waf", "1.0.0"),
            Some(Ok(Digest::of(one))),
            "it may still be being written"
        );
        settle(&overlay, |o| digest_of(o, "waf", "1.0.0") == Some(Ok(Digest::of(two))));
        std::fs::remove_dir_all(dir.path().join("waf")).unwrap();
        overlay.refresh();
        assert_eq!(digest_of(&overlay, "waf", "1.0.0"), None);
    }

    #[test]
    fn the_first_folder_wins_and_bad_files_say_why() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(a.path(), "x/1/plugin.wasm", b"\0asm\x01\0\0\0a");
        put(b.path(), "x/1/plugin.wasm", b"\0asm\x01\0\0\0b");
        put(b.path(), "html/1/plugin.wasm", b"<html>");
        put(b.path(), "large/1/plugin.wasm", &[0; 200]);
        let overlay = Overlay::open(vec![a.path().into(), b.path().into()], 100);
        assert_eq!(digest_of(&overlay, "x", "1"), Some(Ok(Digest::of(b"\0asm\x01\0\0\0a"))));
        assert!(format!("{:?}", digest_of(&overlay, "html", "1")).contains("no wasm module"));
        assert!(format!("{:?}", digest_of(&overlay, "large", "1")).contains("limits.module"));
    }

    #[test]
    fn a_file_of_which_only_the_rights_change_stays_and_one_that_is_written_over_is_neither() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let one = b"\0asm\x01\0\0\0one";
        put(dir.path(), "waf/1.0.0/plugin.wasm", one);
        let overlay = Overlay::open(vec![dir.path().into()], 100);
        let path = dir.path().join("waf/1.0.0/plugin.wasm");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        overlay.refresh();
        assert_eq!(digest_of(&overlay, "waf", "1.0.0"), Some(Ok(Digest::of(one))));
        std::fs::write(&path, b"\0asm\x01\0\0\0longer").unwrap();
        overlay.refresh();
        assert!(matches!(digest_of(&overlay, "waf", "1.0.0"), Some(Err(Problem::Passing(_)))));
        let longer = Some(Ok(Digest::of(b"\0asm\x01\0\0\0longer")));
        settle(&overlay, |o| digest_of(o, "waf", "1.0.0") == longer);
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        assert!(Overlay::open(vec!["/nonexistent/larder".into()], 1).index().is_empty());
    }
}
