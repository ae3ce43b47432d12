//! Writing: draft, sync, name, sync of the folder; a module first, its record last.

use super::Disk;
use super::ground::{make_folder, make_folders};
use super::index::Entry;
use crate::oci::Digest;
use crate::proof::{self, Step};
use crate::record::{Module, Record};
use crate::store::draft::read_whole;
use crate::store::entry::{Checks, ModuleFile, OpenError};
use crate::store::error::StoreError;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// A commit that takes longer is told.
const SLOW: Duration = Duration::from_secs(2);

/// A module that could not be committed: why, and its file, which may still give its bytes.
pub(super) struct Refused {
    pub error: StoreError,
    file: io::Result<File>,
}

impl Refused {
    /// Its bytes, if they are still what was written: after a failed sync nothing else is believed of a file.
    pub(super) fn read_back(self, module: &Module) -> Result<Vec<u8>, StoreError> {
        match self.file.and_then(|file| read_whole(&file, module.size)) {
            Ok(bytes) if !proof::takes(Step::VerifySpilled) || Digest::of(&bytes) == module.digest => {
                Ok(bytes)
            }
            _ => Err(self.error),
        }
    }
}

impl Disk {
    /// Commits a draft and makes room for it. A draft whose sync failed is not synced again.
    pub(super) fn commit_file(
        &self,
        file: NamedTempFile,
        checks: &Arc<Checks>,
        module: &Module,
    ) -> Result<(), Refused> {
        let began = Instant::now();
        let committed = self.try_commit(file, checks, module);
        let took = began.elapsed();
        if took > SLOW {
            tracing::warn!(event = "disk_slow", digest = %module.digest, millis = took.as_millis() as u64, "the disk is slow");
        }
        committed
    }

    fn try_commit(&self, file: NamedTempFile, checks: &Arc<Checks>, module: &Module) -> Result<(), Refused> {
        let path = self.layout.module(&module.digest);
        let refused = |doing, path: &Path, error, file: &File| Refused {
            error: StoreError::io(doing, path, error),
            file: file.try_clone(),
        };
        if proof::takes(Step::SyncModule)
            && let Err(error) = file.as_file().sync_all()
        {
            return Err(refused("syncing", file.path(), error, file.as_file()));
        }
        let is_right = self.is_right(module, &path);
        let _committing = self.committing();
        // It is not given up for a draft that was not read again yet: a disk may swallow what it says it took.
        if is_right && self.is_on_disk(&module.digest) {
            self.index().unhold(&module.digest);
            return Ok(());
        }
        let folder = path.parent().unwrap_or(self.layout.root());
        if let Err(error) = make_folder(folder) {
            return Err(Refused { error, file: file.as_file().try_clone() });
        }
        // What lies there is not in the index, damaged, or cannot be read: ours was right when it was written.
        let file = match file.persist(&path) {
            Ok(file) => file,
            Err(e) => return Err(refused("renaming", &path, e.error, e.file.as_file())),
        };
        if let Err(error) = sync_folder(folder, Step::SyncModuleFolder) {
            // The name may not last, so it must not be taken for one that does; one that was there before does.
            if !self.is_on_disk(&module.digest) {
                let _ = std::fs::remove_file(&path);
            }
            return Err(Refused { error, file: Ok(file) });
        }
        self.index().admit(module, checks.clone(), self.clock.now());
        self.evict(&self.beyond(self.limit(), Some(&module.digest)));
        self.worked();
        Ok(())
    }

    /// True when a module has a file already, another reference's, and all of it is what it should be.
    fn is_right(&self, module: &Module, path: &Path) -> bool {
        let readable = |entry: &&Entry| entry.on_disk && !entry.unreadable;
        let known =
            self.index().modules.get(&module.digest).filter(readable).map(|entry| entry.checks.clone());
        let Some(checks) = known else { return false };
        match ModuleFile::open(path, &module.digest, module.size, checks) {
            Ok(file) => file.verify().is_ok(),
            // Too many open files say nothing of it.
            Err(error) => matches!(error, OpenError::Refused(_)),
        }
    }

    /// Commits bytes that the disk would not take before.
    pub(super) fn commit_bytes(
        &self,
        bytes: &[u8],
        checks: &Arc<Checks>,
        module: &Module,
    ) -> Result<(), StoreError> {
        let write = || {
            let tmp = self.layout.tmp();
            make_folders(&self.layout)?;
            let mut file = NamedTempFile::new_in(&tmp).map_err(|e| StoreError::io("creating", &tmp, e))?;
            file.write_all(bytes).map_err(|e| StoreError::io("writing", file.path(), e))?;
            Ok(file)
        };
        let file = match write() {
            Err(error) if StoreError::is_full(&error) && self.make_room(module.size) => write()?,
            other => other?,
        };
        self.commit_file(file, checks, module).map_err(|refused| refused.error)
    }

    /// Commits a module again whose file was damaged, from bytes that were verified.
    pub fn write_again(&self, bytes: &[u8], module: &Module) -> Result<(), StoreError> {
        self.commit_bytes(bytes, &Arc::new(Checks::of(bytes)), module)
    }

    /// Keeps a record. It is known from now on, and written as soon as that can be. One whose module is gone by now is not
    /// kept: a visible record always resolves.
    ///
    /// # Errors
    /// That it is known in memory alone, so far.
    pub fn put_record(&self, record: Record) -> Result<(), StoreError> {
        self.put_record_after(record, None)
    }

    /// The same, unless something newer than `known` is known by then.
    pub(super) fn put_record_after(
        &self,
        record: Record,
        known: Option<&Arc<Record>>,
    ) -> Result<(), StoreError> {
        let path = self.layout.record(&record.reference);
        let reference = record.reference.clone();
        let written = match self.may_write() {
            true => Some(self.write_record(&record, &path)),
            false => None,
        };
        let _committing = self.committing();
        let (gone, is_held) = {
            let mut index = self.index();
            let newer = index.record(&reference);
            if known.is_some_and(|known| newer.is_none_or(|newer| !Arc::ptr_eq(newer, known))) {
                return Ok(());
            }
            let is_held = match record.present() {
                Some(present) => match index.modules.get(&present.module.digest) {
                    None => return Ok(()),
                    Some(entry) => !entry.on_disk,
                },
                // An absence that was overtaken by what is held now.
                None if index.resolves(&record.reference) => return Ok(()),
                None => false,
            };
            index.unsaved.insert(reference.clone());
            (index.keep(record), is_held)
        };
        // Its module is in memory alone: both are written together.
        if is_held {
            return Ok(());
        }
        let written = match written {
            None => Ok(()),
            Some(written) => written.and_then(|file| {
                self.remove_records(&gone)?;
                // It was the oldest itself.
                if gone.contains(&reference) {
                    return Ok(());
                }
                file.persist(&path).map_err(|e| StoreError::io("renaming", &path, e.error))?;
                sync_folder(&self.layout.records(), Step::SyncRecordFolder)?;
                self.index().unsaved.remove(&reference);
                self.worked();
                Ok(())
            }),
        };
        written.inspect_err(|error| self.health.failed(error, 0))
    }

    /// The record's bytes in a synced file without its name yet.
    fn write_record(&self, record: &Record, path: &Path) -> Result<NamedTempFile, StoreError> {
        let tmp = self.layout.tmp();
        if !tmp.exists() || !self.layout.records().exists() {
            make_folders(&self.layout)?;
        }
        let mut file = NamedTempFile::new_in(&tmp).map_err(|e| StoreError::io("creating", &tmp, e))?;
        file.write_all(&record.encode()).map_err(|e| StoreError::io("writing", path, e))?;
        if proof::takes(Step::SyncRecord) {
            file.as_file().sync_all().map_err(|e| StoreError::io("syncing", path, e))?;
        }
        Ok(file)
    }
}

/// Makes names in `folder` last.
pub(super) fn sync_folder(folder: &Path, step: Step) -> Result<(), StoreError> {
    if !proof::takes(step) {
        return Ok(());
    }
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| StoreError::io("syncing", folder, e))
}
