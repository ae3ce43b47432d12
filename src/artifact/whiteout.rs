//! What a layer of an image removes from those below it (OCI image spec, "whiteouts").

use super::extract::ExtractError;

/// Names of removed files that are kept, in bytes. Images remove a few.
const WHITEOUT_BYTES: usize = 1 << 20;

/// What the layers of an image above the one that is read have removed (OCI image spec, "whiteouts").
#[derive(Clone, Default)]
pub struct Hidden {
    /// Files and folders.
    paths: Vec<String>,
    /// Everything.
    all: bool,
    /// Of the names above.
    bytes: usize,
}

impl Hidden {
    pub(super) fn hides(&self, path: &str) -> bool {
        let below = |hidden: &String| {
            path.strip_prefix(hidden.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.all || self.paths.iter().any(below)
    }

    /// Takes in an entry if it is a whiteout.
    pub(super) fn note(&mut self, path: &str) -> Result<bool, ExtractError> {
        let (folder, base) = path.rsplit_once('/').map_or(("", path), |(folder, base)| (folder, base));
        let Some(removed) = base.strip_prefix(".wh.") else { return Ok(false) };
        self.bytes += path.len();
        self.bounded()?;
        match (removed, folder) {
            (".wh..opq", "") => self.all = true,
            (".wh..opq", folder) => self.paths.push(folder.into()),
            (removed, "") => self.paths.push(removed.into()),
            (removed, folder) => self.paths.push(format!("{folder}/{removed}")),
        }
        Ok(true)
    }

    /// Adds what another layer removes.
    pub(super) fn add(&mut self, mut removed: Self) -> Result<(), ExtractError> {
        self.all |= removed.all;
        self.paths.append(&mut removed.paths);
        self.bytes += removed.bytes;
        self.bounded()
    }

    fn bounded(&self) -> Result<(), ExtractError> {
        match self.bytes > WHITEOUT_BYTES {
            true => Err(ExtractError::Tar("the names of removed files are over 1 MiB".into())),
            false => Ok(()),
        }
    }
}
