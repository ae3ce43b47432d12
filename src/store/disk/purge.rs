//! Taking away what an operator asks for: records first, then modules that nothing leads to any more.

use super::Disk;
use super::commit::sync_folder;
use crate::oci::Digest;
use crate::proof::Step;
use crate::store::error::StoreError;
use crate::store::{Purge, Purged};
use std::io;

impl Disk {
    /// Takes away what `what` says; the modules that left, and how it ended.
    pub fn purge(&self, what: &Purge) -> (Vec<Digest>, Result<Purged, StoreError>) {
        let _committing = self.committing();
        let mut gone = Vec::new();
        let mut purged = Purged::default();
        let result = self.purge_all(what, &mut gone, &mut purged).map(|()| purged);
        if let Err(error) = &result {
            self.health().count(error);
        }
        (gone, result)
    }

    fn purge_all(&self, what: &Purge, gone: &mut Vec<Digest>, purged: &mut Purged) -> Result<(), StoreError> {
        // On a directory that is away what was taken out would come back with it.
        if !self.is_there() {
            let away = io::Error::new(io::ErrorKind::NotFound, "the cache directory is not ours just now");
            return Err(StoreError::io("removing", self.layout.root(), away));
        }
        for reference in &what.references {
            // The file first: what cannot be removed is still known.
            self.remove_records(std::slice::from_ref(reference))?;
            self.index().drop_records(std::slice::from_ref(reference));
        }
        if !what.references.is_empty() {
            sync_folder(&self.layout.records(), Step::SyncRemoval)?;
        }
        let leaving = self.index().unused(&what.modules, what.unused);
        for (digest, size) in leaving {
            self.remove(&digest)?;
            gone.push(digest);
            purged.modules += 1;
            purged.bytes += size;
        }
        Ok(())
    }
}
