//! What can wait: trying a disk again that failed, last uses, and reading everything once in a while.

use super::{Disk, ground};
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::record::{Module, Record};
use crate::store::entry::{self, ModuleFile, OpenError};
use crate::store::error::StoreError;
use crate::store::recover;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Time between two times that last uses are written down.
const BETWEEN_LAST_USES: Duration = Duration::from_secs(60);
/// Modules that are read at a time; what is due beyond them is due the next time.
const SCRUBBED_AT_ONCE: usize = 16;
/// What is written to see whether a disk takes anything.
const PROBE: [u8; 4096] = [0; 4096];

/// When what is due next.
pub(super) struct Due {
    last_uses: Timestamp,
    scrub: Timestamp,
}

impl Due {
    /// Nothing yet.
    pub(super) fn after(now: Timestamp) -> Self {
        Self { last_uses: now.plus(BETWEEN_LAST_USES), scrub: now }
    }
}

/// A module that proved damaged while nobody asked for it, and what led to it.
pub struct Lost {
    /// Which.
    pub digest: Digest,
    /// The records that are gone with it.
    pub records: Vec<Arc<Record>>,
}

impl Disk {
    /// Tries a disk again that failed, and writes to it what it would not take. Returns soon when there is nothing to do.
    pub fn settle(&self) {
        self.look_at_free();
        if !self.health.may_try() {
            return;
        }
        if !self.is_ours() {
            match self.take() {
                Ok(()) if self.is_ours() => {}
                Ok(()) => return,
                Err(error @ StoreError::Io { .. }) => return self.health.failed(&error, 0),
                Err(error) => {
                    tracing::error!(%error, "the cache directory cannot be taken");
                    return self.health.put_off();
                }
            }
        }
        let (held, unsaved) = self.index().unwritten();
        for (module, bytes) in held {
            match self.write_again(&bytes, &module) {
                Ok(()) => {}
                Err(error) if error.is_full() => {
                    self.health.failed(&error, module.size);
                    break;
                }
                Err(error) => return self.health.failed(&error, module.size),
            }
            tracing::info!(digest = %module.digest, "what was held in memory is on disk");
        }
        for reference in unsaved {
            let Some(record) = self.record(&reference) else { continue };
            if self.put_record_after(Record::clone(&record), Some(&record)).is_err() {
                return;
            }
        }
        if let Some((_, needed)) = self.health.why() {
            match self.probe(needed) {
                Ok(true) => self.worked(),
                Ok(false) => self.health.put_off(),
                Err(error) => self.health.failed(&error, needed),
            }
        }
    }

    /// Whether there is room for what did not fit, and a file can be written.
    fn probe(&self, needed: u64) -> Result<bool, StoreError> {
        if self.free_bytes() < needed {
            return Ok(false);
        }
        ground::make_folders(&self.layout)?;
        let tmp = self.layout.tmp();
        let wrong = |e| StoreError::io("writing", &tmp, e);
        let mut file = NamedTempFile::new_in(&tmp).map_err(wrong)?;
        file.write_all(&PROBE).map_err(wrong)?;
        file.as_file().sync_all().map_err(wrong)?;
        Ok(true)
    }

    /// Writes last uses into the files' times, so that a restart evicts in the right order. `now` or when it is due.
    pub fn write_last_uses(&self, now: bool) {
        let present = self.clock.now();
        {
            let mut due = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
            if !now && due.last_uses > present {
                return;
            }
            due.last_uses = present.plus(BETWEEN_LAST_USES);
        }
        let touched = self.index().take_touched();
        for (digest, used) in touched {
            // Best effort: a lost time costs a worse choice at an eviction, no more.
            let _ = File::open(self.layout.module(&digest)).and_then(|file| file.set_modified(used.system()));
        }
    }

    /// Reads the modules whose turn it is from the disk itself, so that all are read once in `period`; those not verified
    /// for longest first. Damaged ones go to quarantine and are told.
    pub fn scrub(&self, period: Duration) -> Vec<Lost> {
        let mut lost = Vec::new();
        recover::prune_quarantine(&self.layout, self.limit(), self.clock.now());
        if period.is_zero() {
            return lost;
        }
        for _ in 0..SCRUBBED_AT_ONCE {
            let now = self.clock.now();
            let next = {
                let mut due = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
                let index = self.index();
                let number = u32::try_from(index.modules.len()).unwrap_or(u32::MAX).max(1);
                if due.scrub > now {
                    break;
                }
                // From when it was due, so that a long list is looked through in time; what was missed for longer is not.
                let step = period / number;
                let late = now.since(due.scrub).min(step * SCRUBBED_AT_ONCE as u32);
                due.scrub = now.plus(step).minus(late);
                index.longest_unverified(Timestamp::END)
            };
            let Some(module) = next else { break };
            lost.extend(self.scrub_one(&module));
        }
        lost
    }

    /// Reads the module again that was not compared with its name for longest. `None` when all were since `since`.
    pub fn verify_next(&self, since: Timestamp) -> Option<Option<Lost>> {
        let module = self.index().longest_unverified(since)?;
        Some(self.scrub_one(&module))
    }

    fn scrub_one(&self, module: &Module) -> Option<Lost> {
        let path = self.layout.module(&module.digest);
        entry::forget_cached(&path);
        self.metrics.scrubbed.inc();
        match ModuleFile::open(&path, &module.digest, module.size, None) {
            Ok(file) => self.index().looked_at(&module.digest, Some(&file), self.clock.now()),
            // Of us, or of the disk, and not of the file.
            Err(OpenError::Refused(error) | OpenError::Unreadable(error)) => {
                tracing::warn!(path = %path.display(), %error, "a module could not be looked at");
                self.index().looked_at(&module.digest, None, self.clock.now());
            }
            Err(OpenError::Damaged(damage, inode)) => {
                let records = self.lose(&module.digest, &damage, inode);
                // One that could not be put aside had its turn too.
                self.index().looked_at(&module.digest, None, self.clock.now());
                return Some(Lost { digest: module.digest, records });
            }
        }
        None
    }
}
