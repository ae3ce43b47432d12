//! Taking away: for space, by damage. A module's records go first, so that none ever points to nothing.

use super::commit::sync_folder;
use super::{Disk, Keep};
use crate::oci::{Digest, Reference};
use crate::proof::Step;
use crate::record::Record;
use crate::store::entry::Damage;
use crate::store::error::StoreError;
use crate::store::evict;
use crate::store::recover::{self, quarantine};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

/// Time between two times that modules leave for want of space below the limit.
const BETWEEN_MAKING_ROOM: Duration = Duration::from_secs(60);
/// What was not asked for in this time may leave then.
const IDLE: Duration = Duration::from_secs(3600);

impl Disk {
    /// From now on others leave before modules of these digests, or of manifests with them.
    pub fn pin(&self, digests: HashSet<Digest>) {
        self.index().pinned = digests;
    }

    /// Keeps so much from now on; what is beyond it leaves.
    pub fn resize(&self, keep: Keep) {
        if **self.keep.load() == keep {
            return;
        }
        self.keep.store(Arc::new(keep));
        let _committing = self.committing();
        self.evict(&self.beyond(keep.limit, None));
    }

    /// What has to leave so that `limit` is kept, but not `keep`; within a commit.
    pub(super) fn beyond(&self, limit: u64, keep: Option<&Digest>) -> Vec<Digest> {
        let candidates = {
            let index = self.index();
            if index.bytes <= limit {
                return Vec::new();
            }
            index.on_disk()
        };
        evict::choose(candidates, limit, keep)
    }

    /// Makes room for `bytes` on a disk that is full before the limit is reached. True when something left.
    ///
    /// What is in use is not given up for what is new, which can be held in memory. Nothing leaves when that would not be
    /// enough, and not again within a minute: on a disk that somebody else keeps full, everything would be gone soon and
    /// nothing be won.
    pub fn make_room(&self, bytes: u64) -> bool {
        let _committing = self.committing();
        let free = self.free_bytes();
        let now = self.clock.now();
        let leaving = {
            let mut index = self.index();
            let lately = index.made_room.is_some_and(|then| now.since(then) < BETWEEN_MAKING_ROOM);
            let missing = bytes.saturating_sub(free);
            let mut idle = index.on_disk();
            idle.retain(|candidate| now.since(candidate.last_used) >= IDLE);
            let idle_bytes: u64 = idle.iter().map(|candidate| candidate.size).sum();
            if lately || missing == 0 || missing > idle_bytes {
                return false;
            }
            index.made_room = Some(now);
            evict::down_to(idle, idle_bytes - missing, None)
        };
        self.evict(&leaving);
        if !leaving.is_empty() {
            tracing::warn!(bytes, left = leaving.len(), "the disk is full below its limit; room was made");
        }
        !leaving.is_empty()
    }

    /// What the file system has left for us; 0 when it does not say.
    pub(super) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(self.layout.root()).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
    }

    /// Removes modules, within a commit. What cannot be removed is out of the index all the same.
    pub(super) fn evict(&self, leaving: &[Digest]) {
        for digest in leaving {
            self.metrics.evictions.inc();
            tracing::info!(%digest, "evicted to make room");
            if let Err(error) = self.remove(digest) {
                self.health.count(&error);
                tracing::warn!(%digest, %error, "an evicted module could not be removed");
            }
        }
    }

    /// Removes a module, within a commit: its records first.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        self.forget(digest)?;
        self.remove_overtaken(digest)?;
        let path = self.layout.module(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("removing", &path, e)),
            _ => Ok(()),
        }
    }

    /// Removes files of records that lead to a module though the index knows newer ones, which are not written yet.
    fn remove_overtaken(&self, digest: &Digest) -> Result<(), StoreError> {
        let unsaved: Vec<_> = self.index().unsaved.iter().cloned().collect();
        let leads = |reference: &Reference| {
            let record = recover::read_record(&self.layout.record(reference)).ok()?.ok()?;
            Some(record.present()?.module.digest == *digest)
        };
        let overtaken: Vec<_> =
            unsaved.into_iter().filter(|reference| leads(reference) == Some(true)).collect();
        if overtaken.is_empty() {
            return Ok(());
        }
        self.remove_records(&overtaken)?;
        sync_folder(&self.layout.records(), Step::SyncRemoval)
    }

    /// Takes a module out of the index, and its records out of index and disk.
    fn forget(&self, digest: &Digest) -> Result<(), StoreError> {
        let gone = self.index().forget(digest);
        self.remove_files(&gone)
    }

    /// Removes the files of records that are no longer in the index.
    fn remove_files(&self, gone: &[Arc<Record>]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let references: Vec<_> = gone.iter().map(|record| record.reference.clone()).collect();
        self.remove_records(&references)?;
        sync_folder(&self.layout.records(), Step::SyncRemoval)
    }

    pub(super) fn remove_records(&self, references: &[Reference]) -> Result<(), StoreError> {
        for reference in references {
            let path = self.layout.record(reference);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("removing", &path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets go of a module that is in memory alone. What its references led to before and is still on disk, they lead to
    /// again.
    pub(super) fn let_go(&self, digest: &Digest) {
        if self.index().unhold(digest) {
            return;
        }
        let gone = self.index().forget(digest);
        for reference in gone.iter().map(|record| record.reference.clone()) {
            let Ok(Ok(record)) = recover::read_record(&self.layout.record(&reference)) else { continue };
            let mut index = self.index();
            let leads = record.present().is_some_and(|present| {
                let entry = index.modules.get(&present.module.digest);
                entry.is_some_and(|entry| entry.on_disk && entry.size == present.module.size)
            });
            if record.reference == reference && (leads || record.present().is_none()) {
                index.link(Arc::new(record));
            }
        }
    }

    /// Puts aside a module whose bytes are not what they were, and tells the records that led to it. With `inode`, only if
    /// its name still leads to that file: who read slowly may hold one that was replaced since.
    pub fn lose(&self, digest: &Digest, damage: &Damage, inode: Option<(u64, u64)>) -> Vec<Arc<Record>> {
        let path = self.layout.module(digest);
        let _committing = self.committing();
        let now = fs::symlink_metadata(&path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if (inode.is_some() && inode != now) || self.held(digest).is_some() {
            return Vec::new();
        }
        // What the system says of the disk, and not what we say of the bytes.
        let failed = match damage {
            Damage::Missing if !self.is_there() => Some(io::ErrorKind::NotFound.into()),
            Damage::Unreadable(error) => error.raw_os_error().map(io::Error::from_raw_os_error),
            _ => None,
        };
        if let Some(error) = failed {
            self.cannot_read(digest, &StoreError::io("reading", &path, error));
            return Vec::new();
        }
        let gone = self.index().forget(digest);
        if let Err(error) = self.remove_files(&gone) {
            self.health.count(&error);
            tracing::warn!(%digest, %error, "the record of a lost module could not be removed");
        }
        if matches!(damage, Damage::Missing) {
            tracing::warn!(event = "missing_module", path = %path.display(), "a module is gone from the disk; it will be fetched again");
            return gone;
        }
        self.metrics.quarantined.inc();
        quarantine(&self.layout, &path, &damage.to_string());
        gone
    }
}
