//! What the directory holds, in memory: modules by digest, records by reference. It touches no file.

use crate::clock::Timestamp;
use crate::oci::reference::Repository;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use crate::store::entry::Checks;
use crate::store::evict::Held;
use std::collections::HashMap;
use std::sync::Arc;

/// Absences that are kept of one repository. Which versions do not exist is for clients to invent, so their number has
/// a limit; a forgotten one costs a question to the registry.
pub(super) const MOST_ABSENCES: usize = 64;

#[derive(Default)]
pub(super) struct Index {
    pub(super) modules: HashMap<Digest, Entry>,
    pub(super) records: HashMap<Reference, Arc<Record>>,
    /// Of all modules.
    pub(super) bytes: u64,
    /// When modules last left for want of space below the limit.
    pub(super) made_room: Option<Timestamp>,
}

pub(super) struct Entry {
    pub(super) size: u64,
    last_used: Timestamp,
    /// Used since its file's time was last set.
    touched: bool,
    pub(super) checks: Option<Arc<Checks>>,
}

impl Index {
    /// Of what was found at the start: modules with their sizes and last uses, and records.
    pub(super) fn new(
        modules: HashMap<Digest, (u64, Timestamp)>,
        records: HashMap<Reference, Arc<Record>>,
    ) -> Self {
        let bytes = modules.values().map(|(size, _)| size).sum();
        let entry = |(size, last_used)| Entry { size, last_used, touched: false, checks: None };
        let modules = modules.into_iter().map(|(digest, facts)| (digest, entry(facts))).collect();
        Self { modules, records, bytes, made_room: None }
    }

    /// What an eviction chooses from.
    pub(super) fn held(&self) -> Vec<Held> {
        let held = self.modules.iter();
        held.map(|(digest, e)| Held { digest: *digest, size: e.size, last_used: e.last_used }).collect()
    }

    /// True when the record of `reference` leads to a module that is here.
    pub(super) fn resolves(&self, reference: &Reference) -> bool {
        let present = self.records.get(reference).and_then(|known| known.present());
        present.is_some_and(|present| self.modules.contains_key(&present.module.digest))
    }

    /// Takes in a module that was just committed.
    pub(super) fn admit(&mut self, module: &Module, checks: Arc<Checks>, now: Timestamp) {
        let entry = Entry { size: module.size, last_used: now, touched: true, checks: Some(checks) };
        self.bytes += module.size;
        if let Some(old) = self.modules.insert(module.digest, entry) {
            self.bytes -= old.size;
        }
    }

    /// Takes out a module and the records that lead to it, and tells whose they were.
    pub(super) fn forget(&mut self, digest: &Digest) -> Vec<Reference> {
        if let Some(entry) = self.modules.remove(digest) {
            self.bytes -= entry.size;
        }
        let leads =
            |record: &Record| record.present().is_some_and(|present| present.module.digest == *digest);
        let gone: Vec<_> = self.records.values().filter(|r| leads(r)).map(|r| r.reference.clone()).collect();
        self.drop_records(&gone);
        gone
    }

    /// Takes in a record. Tells which absences of its repository had to leave for it.
    pub(super) fn keep(&mut self, record: Record) -> Vec<Reference> {
        let repository = record.present().is_none().then(|| record.reference.repository());
        self.records.insert(record.reference.clone(), Arc::new(record));
        repository.map(|repository| self.forget_old_absences(&repository)).unwrap_or_default()
    }

    /// Takes out the oldest absences of a repository beyond their limit.
    fn forget_old_absences(&mut self, repository: &Repository) -> Vec<Reference> {
        let is_one =
            |record: &&Arc<Record>| record.present().is_none() && repository.holds(&record.reference);
        let beyond = self.records.values().filter(is_one).count().saturating_sub(MOST_ABSENCES);
        if beyond == 0 {
            return Vec::new();
        }
        let absences = self.records.values().filter(is_one);
        let mut absences: Vec<_> =
            absences.map(|record| (record.checked_at, record.reference.clone())).collect();
        absences.sort();
        let gone: Vec<Reference> =
            absences.into_iter().take(beyond).map(|(_, reference)| reference).collect();
        self.drop_records(&gone);
        gone
    }

    fn drop_records(&mut self, references: &[Reference]) {
        for reference in references {
            self.records.remove(reference);
        }
    }

    /// Notes a use of a module.
    pub(super) fn touch(&mut self, digest: &Digest, now: Timestamp) -> Option<&mut Entry> {
        let entry = self.modules.get_mut(digest)?;
        entry.last_used = now;
        entry.touched = true;
        Some(entry)
    }

    /// The last uses that no file knows yet.
    pub(super) fn take_touched(&mut self) -> Vec<(Digest, Timestamp)> {
        let touched = self
            .modules
            .iter_mut()
            .map(|(digest, entry)| std::mem::take(&mut entry.touched).then_some((*digest, entry.last_used)));
        touched.flatten().collect()
    }
}
