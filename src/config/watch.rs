//! Whether files have changed, told without reading them.
//!
//! A fingerprint has each file's identity, size and times, through all symbolic links: the kubelet replaces a mounted
//! Secret by turning a link, and an editor by renaming. Folders count with what is in them.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 3;
/// Files that are looked at, in all.
const MOST_FILES: usize = 5000;

/// Files, and what they looked like when they were last read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    files: Vec<PathBuf>,
    looked: Fingerprint,
}

impl Watched {
    /// These files as they are now. Blocks.
    pub fn of(mut files: Vec<PathBuf>) -> Self {
        files.sort();
        files.dedup();
        let looked = Fingerprint::of(&files);
        Self { files, looked }
    }

    /// The same files as they are now. Blocks.
    pub fn again(&self) -> Self {
        Self { files: self.files.clone(), looked: Fingerprint::of(&self.files) }
    }

    /// True when these are its files, whatever they look like.
    pub fn is_of(&self, files: &[PathBuf]) -> bool {
        files.iter().all(|file| self.files.binary_search(file).is_ok())
            && self.files.iter().all(|file| files.contains(file))
    }

    /// Which files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What differs from `before`.
    pub fn changed<'f>(&'f self, before: &'f Self) -> Vec<&'f Path> {
        self.looked.changed(&before.looked)
    }
}

/// What files looked like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Option<[i64; 7]>>);

impl Fingerprint {
    /// Looks at files and folders; what is not there counts as not being there. Blocks.
    pub fn of(paths: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for path in paths {
            all.add(path, 0);
        }
        all
    }

    fn add(&mut self, path: &Path, depth: usize) {
        if self.0.len() >= MOST_FILES {
            return;
        }
        let found = std::fs::metadata(path).ok();
        let is_dir = found.as_ref().is_some_and(std::fs::Metadata::is_dir);
        let look = found.map(|m| {
            // A folder's times change with names that do not concern us, such as an editor's.
            if is_dir {
                return [m.dev() as i64, m.ino() as i64, 0, 0, 0, 0, 0];
            }
            let inode = (m.dev() as i64, m.ino() as i64);
            [inode.0, inode.1, m.size() as i64, m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]
        });
        self.0.insert(path.into(), look);
        if !is_dir || depth >= MAX_DEPTH {
            return;
        }
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            self.add(&entry.path(), depth + 1);
        }
    }

    /// What differs from `before`.
    pub fn changed<'f>(&'f self, before: &'f Self) -> Vec<&'f Path> {
        let gone = before.0.keys().filter(|path| !self.0.contains_key(*path));
        let new =
            self.0.iter().filter(|(path, look)| before.0.get(*path) != Some(look)).map(|(path, _)| path);
        new.chain(gone).map(PathBuf::as_path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_content_a_rename_and_a_turned_link_are_seen_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("..one")).unwrap();
        std::fs::create_dir_all(at("..two")).unwrap();
        std::fs::write(at("..one/password"), "one").unwrap();
        std::fs::write(at("..two/password"), "two").unwrap();
        std::os::unix::fs::symlink("..one", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/password", at("password")).unwrap();
        std::fs::create_dir(at("certs")).unwrap();
        let watched = [at("password"), at("certs"), at("missing")];
        let mut before = Fingerprint::of(&watched);
        let mut changed = |what: &str| {
            let now = Fingerprint::of(&watched);
            let changed = now
                .changed(&before)
                .iter()
                .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>();
            assert_eq!(now != before, !changed.is_empty(), "{what}");
            before = now;
            changed
        };
        assert_eq!(changed("nothing"), Vec::<String>::new());
        std::fs::write(at("other"), "beside").unwrap();
        assert_eq!(changed("a file beside"), Vec::<String>::new());
        std::os::unix::fs::symlink("..two", at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
        assert_eq!(changed("a turned link"), ["password"]);
        std::fs::write(at("certs/ca.pem"), "x").unwrap();
        assert_eq!(changed("a new file"), ["ca.pem"]);
        std::fs::write(at("..two/password"), "owt").unwrap();
        assert_eq!(changed("the same size"), ["password"]);
        std::fs::write(at("missing"), "").unwrap();
        assert_eq!(changed("one that comes"), ["missing"]);
        std::fs::remove_file(at("certs/ca.pem")).unwrap();
        assert_eq!(changed("one that goes"), ["ca.pem"]);
    }
}
