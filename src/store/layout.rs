//! Where things lie in the directory. See the drawing in the folder's text.

use crate::oci::{Digest, Reference};
use std::path::{Path, PathBuf};

/// The format of everything below; another format gets another folder, and neither touches the other's.
const FORMAT: &str = "v1";

/// Paths below one directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { root: dir.join(FORMAT) }
    }

    /// The folder of this format.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The file that says which format this is.
    pub fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    /// Which bundles were taken in.
    pub fn imported(&self) -> PathBuf {
        self.root.join("imported")
    }

    /// Drafts.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What was found damaged.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Records.
    pub fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    /// Modules, in folders by the first two digits.
    pub fn modules(&self) -> PathBuf {
        self.root.join("modules").join("sha256")
    }

    /// A reference's record.
    pub fn record(&self, reference: &Reference) -> PathBuf {
        self.records().join(Self::record_name(reference))
    }

    /// The name of its file.
    pub fn record_name(reference: &Reference) -> String {
        Digest::of(reference.to_string().as_bytes()).hex() + ".json"
    }

    /// A module.
    pub fn module(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.modules().join(&hex[..2]).join(&hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_these() {
        let layout = Layout::new(Path::new("/c"));
        let digest = Digest::of(b"");
        let hex = digest.hex();
        assert_eq!(layout.module(&digest), PathBuf::from(format!("/c/v1/modules/sha256/e3/{hex}")));
        let record = layout.record(&"h.example/p/a:1".parse().unwrap());
        assert_eq!(
            record,
            Path::new("/c/v1/records/3e1dbbb3469b1c15f363128993dac56a0a10fa8ddb3cdae7da5fa34017a9834d.json")
        );
    }
}
