//! The local overlay: folders of `<name>/<version>/plugin.wasm` that win over every registry.
//!
//! Derived images copy their plugins there, operators mount theirs. The folders are looked through every few seconds
//! and not watched: a poll sees what a volume swap, a network file system or `docker cp` does, always the same way.
//! A file is read whole once after it changed and piece by piece, checked, from then on.

use super::entry::{Checks, Damage, ModuleFile};
use crate::artifact::inspect;
use crate::clock::Timestamp;
use crate::plugin::{PluginName, Version};
use crate::record::Module;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

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
    pub module: Result<Module, String>,
    checks: Option<Arc<Checks>>,
    identity: Identity,
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
    /// Opens the file as it was when it was looked at; `None` when it is another by now.
    pub fn open(&self) -> Option<ModuleFile> {
        let module = self.module.as_ref().ok()?;
        let path = std::fs::canonicalize(&self.path).ok()?;
        match ModuleFile::open(&path, &module.digest, module.size, self.checks.clone()) {
            Ok(file) => Some(file),
            Err(Damage::Missing) => None,
            Err(damage) => {
                tracing::warn!(path = %path.display(), ?damage, "a local plugin changed while it was opened");
                None
            }
        }
    }
}

/// The folders and what they hold.
pub struct Overlay {
    dirs: Vec<PathBuf>,
    /// Larger files are named as too large.
    largest: u64,
    index: RwLock<Arc<Index>>,
}

impl Overlay {
    /// Looks through `dirs` once. Blocks.
    pub fn open(dirs: Vec<PathBuf>, largest: u64) -> Self {
        let overlay = Self { dirs, largest, index: RwLock::default() };
        overlay.refresh();
        overlay
    }

    /// The folders.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// What was found at the last look.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again. Blocks. Files that did not change are not read.
    pub fn refresh(&self) {
        let old = self.index();
        let mut new = Index::new();
        for dir in &self.dirs {
            for (name, version, path) in files(dir) {
                let key = (name, version);
                if new.contains_key(&key) {
                    continue;
                }
                let Some((identity, modified)) = identity(&path) else {
                    continue;
                };
                let known = old.get(&key).filter(|e| e.identity == identity && e.path == path).cloned();
                let entry = known.unwrap_or_else(|| Arc::new(self.inspect(path, identity, modified)));
                new.insert(key, entry);
            }
        }
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }

    fn inspect(&self, path: PathBuf, identity: Identity, modified: Timestamp) -> Entry {
        let (module, checks) = if identity.size > self.largest {
            (
                Err(format!(
                    "has {} bytes; at most {} are allowed (limits.module)",
                    identity.size, self.largest
                )),
                None,
            )
        } else {
            match ModuleFile::inspect(&path) {
                Ok((module, checks, head)) => {
                    let filled = usize::try_from(module.size).unwrap_or(usize::MAX).min(head.len());
                    match inspect::check_header(&head[..filled]) {
                        Ok(()) => (Ok(module), Some(Arc::new(checks))),
                        Err(e) => (Err(e.to_string()), None),
                    }
                }
                Err(e) => (Err(e.to_string()), None),
            }
        };
        match &module {
            Ok(module) => tracing::info!(path = %path.display(), digest = %module.digest, "local plugin"),
            Err(problem) => {
                tracing::warn!(path = %path.display(), problem, "a local plugin cannot be served")
            }
        }
        Entry { path, modified, module, checks, identity }
    }
}

fn identity(path: &Path) -> Option<(Identity, Timestamp)> {
    let metadata = std::fs::metadata(path).ok().filter(|m| m.is_file())?;
    let identity = Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    };
    let modified = metadata.modified().map_or(Timestamp::from_millis(0), Timestamp::from_system);
    Some((identity, modified))
}

/// The `plugin.wasm` files of a folder whose path is a name and a version; other things are passed over.
fn files(dir: &Path) -> Vec<(PluginName, Version, PathBuf)> {
    fn folders<T: std::str::FromStr>(dir: &Path) -> Vec<(T, PathBuf)> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path()))).collect()
    }
    let mut found = Vec::new();
    for (name, folder) in folders::<PluginName>(dir) {
        for (version, folder) in folders::<Version>(&folder) {
            found.push((name.clone(), version, folder.join("plugin.wasm")));
        }
    }
    found
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

    fn digest_of(overlay: &Overlay, name: &str, version: &str) -> Option<Result<Digest, String>> {
        let key = (name.parse().unwrap(), version.parse().unwrap());
        overlay.index().get(&key).map(|e| e.module.clone().map(|m| m.digest))
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
        assert_eq!(digest_of(&overlay, "waf", "1.0.0"), Some(Ok(Digest::of(two))));
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
        assert!(digest_of(&overlay, "html", "1").unwrap().unwrap_err().contains("no wasm module"));
        assert!(digest_of(&overlay, "large", "1").unwrap().unwrap_err().contains("limits.module"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        assert!(Overlay::open(vec!["/nonexistent/larder".into()], 1).index().is_empty());
    }
}
