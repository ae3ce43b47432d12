//! A Secret as Kubernetes mounts it.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A volume as the kubelet mounts a Secret: names lead through `..data` to a generation, which is turned in one step.
pub struct Mounted {
    pub folder: PathBuf,
}

impl Mounted {
    pub fn new(folder: &Path, files: &[(&str, Vec<u8>)]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Self { folder: folder.into() };
        mounted.turn("..first", files);
        // Links are at the top alone: that of `certs/ca.crt` is `certs`.
        let tops: BTreeSet<_> = files.iter().map(|(name, _)| name.split('/').next().unwrap()).collect();
        for name in tops {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
        mounted
    }

    pub fn turn(&self, generation: &str, files: &[(&str, Vec<u8>)]) {
        let folder = self.folder.join(generation);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in files {
            let file = folder.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        symlink(generation, self.folder.join("..data_tmp")).unwrap();
        std::fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}
