//! A Secret or a ConfigMap as Kubernetes mounts it.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A volume as the kubelet mounts it: names, of files or of folders with them, lead through `..data` to a generation, which
/// is turned in one step.
pub struct Mounted {
    pub folder: PathBuf,
}

impl Mounted {
    pub fn new(folder: &Path, files: &[(&str, Vec<u8>)]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Self { folder: folder.into() };
        mounted.turn("..first", files);
        mounted
    }

    /// Another generation takes the place of the one before. A name that is new gets its link.
    pub fn turn(&self, generation: &str, files: &[(&str, Vec<u8>)]) {
        for (name, bytes) in files {
            let file = self.folder.join(generation).join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        symlink(generation, self.folder.join("..data_tmp")).unwrap();
        std::fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
        let names: BTreeSet<_> = files.iter().filter_map(|(name, _)| name.split('/').next()).collect();
        for name in names.into_iter().filter(|name| !self.folder.join(name).is_symlink()) {
            symlink(Path::new("..data").join(name), self.folder.join(name)).unwrap();
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}
