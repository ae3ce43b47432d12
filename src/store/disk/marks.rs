//! Which bundles were taken in: their identities, so that a bundle that is mounted for good does not take the place of
//! what came after it at every start.

use super::Disk;
use super::commit::sync_folder;
use super::ground::make_folders;
use crate::oci::Digest;
use crate::proof::Step;
use crate::store::error::StoreError;
use std::fs::File;
use std::io::{Read, Write};
use tempfile::NamedTempFile;

/// Bundles that are remembered, the newest last.
const MOST: usize = 1000;
/// Their lines have so many bytes at most.
const MOST_BYTES: u64 = 100 * MOST as u64;

impl Disk {
    /// The bundles that were taken in. A file that cannot be read is none: they are looked through once more.
    pub fn imported(&self) -> Vec<Digest> {
        let mut text = String::new();
        let read = File::open(self.layout.imported())
            .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text));
        read.map(|_| text.lines().filter_map(|line| line.parse().ok()).collect()).unwrap_or_default()
    }

    /// Notes one.
    ///
    /// # Errors
    /// The disk's.
    pub fn note_imported(&self, bundle: &Digest) -> Result<(), StoreError> {
        if !self.is_ours() {
            return Err(StoreError::Lost);
        }
        let _committing = self.committing();
        let mut known = self.imported();
        known.retain(|other| other != bundle);
        known.push(*bundle);
        let text: String = known.iter().rev().take(MOST).rev().map(|digest| format!("{digest}\n")).collect();
        let (tmp, path) = (self.layout.tmp(), self.layout.imported());
        let failed = |e| StoreError::io("writing", &path, e);
        make_folders(&self.layout)?;
        let mut file = NamedTempFile::new_in(&tmp).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        sync_folder(self.layout.root(), Step::SyncRecordFolder)
    }
}
