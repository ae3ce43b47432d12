//! What the directory holds, in memory: modules by digest, records by reference. It touches no file.

use crate::clock::Timestamp;
use crate::oci::reference::Repository;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use crate::store::Standing;
use crate::store::entry::{Checks, ModuleFile};
use crate::store::evict::{self, Candidate};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};
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
    /// Records that are not on disk as they are here.
    pub(super) unsaved: BTreeSet<Reference>,
}

/// A module that is in memory alone.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) module: Module,
    pub(super) bytes: Bytes,
    /// As `Cache-Status` has it.
    pub(super) why: &'static str,
}

pub(super) struct Entry {
    pub(super) size: u64,
    last_used: Timestamp,
    /// Used since its file's time was last set.
    touched: bool,
    pub(super) checks: Option<Arc<Checks>>,
    /// When its bytes were last compared with its name, by this process.
    verified: Option<Timestamp>,
    /// True when it has a file.
    pub(super) on_disk: bool,
    /// Its file cannot be read right now, which says nothing of what is in it.
    pub(super) unreadable: bool,
    /// Its bytes, when the disk would not take or give them.
    pub(super) held: Option<Held>,
}

impl Index {
    /// Takes in what was found on disk: modules with their sizes and last uses, and records. What is known already is newer.
    pub(super) fn take_in(
        &mut self,
        modules: HashMap<Digest, (u64, Timestamp)>,
        records: HashMap<Reference, Arc<Record>>,
    ) {
        for (digest, (size, last_used)) in modules {
            self.modules.entry(digest).or_insert_with(|| {
                self.bytes += size;
                Entry { last_used, on_disk: true, ..Entry::new(size, last_used) }
            });
        }
        for (reference, record) in records {
            self.records.entry(reference).or_insert(record);
        }
    }

    /// What an eviction chooses from.
    pub(super) fn on_disk(&self) -> Vec<Candidate> {
        self.modules.iter().filter(|(_, entry)| entry.on_disk).map(candidate).collect()
    }

    /// Modules in memory alone that must leave so that `limit` bytes of them stay, `but` one.
    pub(super) fn held_beyond(&self, limit: u64, but: &Digest) -> Vec<Digest> {
        let held = self.modules.iter().filter(|(digest, entry)| entry.held.is_some() && *digest != but);
        evict::down_to(held.map(candidate).collect(), limit, None)
    }

    /// Takes in a module that is in memory alone.
    pub(super) fn hold(&mut self, module: &Module, bytes: Bytes, why: &'static str, now: Timestamp) {
        let entry = self.modules.entry(module.digest).or_insert_with(|| Entry::new(module.size, now));
        entry.last_used = now;
        entry.held = Some(Held { module: module.clone(), bytes, why });
    }

    /// Lets the bytes in memory go of a module that has a file too. False when it has none.
    pub(super) fn unhold(&mut self, digest: &Digest) -> bool {
        match self.modules.get_mut(digest) {
            Some(entry) if entry.on_disk => {
                entry.held = None;
                true
            }
            _ => false,
        }
    }

    /// Notes that a module's file cannot be read right now.
    pub(super) fn cannot_read(&mut self, digest: &Digest) {
        if let Some(entry) = self.modules.get_mut(digest) {
            entry.unreadable = true;
        }
    }

    /// Believes that all files can be read again.
    pub(super) fn may_read_again(&mut self) {
        self.modules.values_mut().for_each(|entry| entry.unreadable = false);
    }

    /// True when a module's bytes can be had.
    pub(super) fn holds(&self, module: &Module) -> bool {
        let entry = self.modules.get(&module.digest).filter(|entry| entry.size == module.size);
        entry.is_some_and(|entry| entry.held.is_some() || !entry.unreadable)
    }

    /// How a module is held; `None` when its bytes cannot be had.
    pub(super) fn standing(&self, module: &Module) -> Option<Standing> {
        let entry = self.modules.get(&module.digest).filter(|_| self.holds(module))?;
        Some(Standing {
            tier: if entry.held.is_some() { "held" } else { "disk" },
            last_used: entry.last_used,
        })
    }

    /// Of `digests`, or of all, the modules that no record leads to, with their sizes.
    pub(super) fn unused(&self, digests: &[Digest], all: bool) -> Vec<(Digest, u64)> {
        let present = self.records.values().filter_map(|record| record.present());
        let used: HashSet<_> = present.map(|present| present.module.digest).collect();
        let asked = |digest: &Digest| (all || digests.contains(digest)) && !used.contains(digest);
        let unused = self.modules.iter().filter(|(digest, _)| asked(digest));
        unused.map(|(digest, entry)| (*digest, entry.size)).collect()
    }

    /// What is to be written as soon as that can be: modules, and records whose module is on disk.
    pub(super) fn unwritten(&self) -> (Vec<(Module, Bytes)>, Vec<Reference>) {
        // The smallest first: one that does not fit keeps nobody else waiting.
        let mut held: Vec<_> = self.modules.values().filter_map(|entry| entry.held.as_ref()).collect();
        held.sort_by_key(|held| held.module.size);
        (
            held.into_iter().map(|held| (held.module.clone(), held.bytes.clone())).collect(),
            self.unsaved.iter().cloned().collect(),
        )
    }

    /// True when the disk has everything.
    pub(super) fn is_all_written(&self) -> bool {
        self.unsaved.is_empty() && self.modules.values().all(|entry| entry.held.is_none())
    }

    /// The module on disk that was not compared with its name for longest, if it was not since `since`.
    pub(super) fn longest_unverified(&self, since: Timestamp) -> Option<Module> {
        let on_disk = self.modules.iter().filter(|(_, entry)| {
            entry.on_disk && !entry.unreadable && entry.verified.is_none_or(|verified| verified < since)
        });
        let (digest, entry) = on_disk.min_by_key(|(digest, entry)| (entry.verified, **digest))?;
        Some(Module { digest: *digest, size: entry.size, md5: String::new(), abi: None })
    }

    /// Notes that a file was compared with its name, or could not be: either way it was its turn.
    pub(super) fn looked_at(&mut self, digest: &Digest, file: Option<&ModuleFile>, now: Timestamp) {
        if let Some(entry) = self.modules.get_mut(digest) {
            entry.checks = file.map(ModuleFile::checks).or(entry.checks.take());
            entry.verified = Some(now);
        }
    }

    /// True when the record of `reference` leads to a module that is here.
    pub(super) fn resolves(&self, reference: &Reference) -> bool {
        let present = self.records.get(reference).and_then(|known| known.present());
        present.is_some_and(|present| self.modules.contains_key(&present.module.digest))
    }

    /// Takes in a module that was just committed.
    pub(super) fn admit(&mut self, module: &Module, checks: Arc<Checks>, now: Timestamp) {
        // What was held in memory was not used by being written.
        let last_used = self.modules.get(&module.digest).map_or(now, |old| old.last_used);
        let entry = Entry {
            touched: true,
            checks: Some(checks),
            verified: Some(now),
            on_disk: true,
            ..Entry::new(module.size, last_used)
        };
        self.bytes += module.size;
        let old = self.modules.insert(module.digest, entry);
        self.bytes -= old.filter(|old| old.on_disk).map_or(0, |old| old.size);
    }

    /// Takes out a module and the records that lead to it, and tells these.
    pub(super) fn forget(&mut self, digest: &Digest) -> Vec<Arc<Record>> {
        let old = self.modules.remove(digest);
        self.bytes -= old.filter(|old| old.on_disk).map_or(0, |old| old.size);
        let leads =
            |record: &&Arc<Record>| record.present().is_some_and(|present| present.module.digest == *digest);
        let gone: Vec<_> = self.records.values().filter(leads).cloned().collect();
        for record in &gone {
            self.records.remove(&record.reference);
            self.unsaved.remove(&record.reference);
        }
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

    /// Takes out records.
    pub(super) fn drop_records(&mut self, references: &[Reference]) {
        for reference in references {
            self.records.remove(reference);
            self.unsaved.remove(reference);
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
        let on_disk = self.modules.iter_mut().filter(|(_, entry)| entry.on_disk);
        let touched = on_disk
            .map(|(digest, entry)| std::mem::take(&mut entry.touched).then_some((*digest, entry.last_used)));
        touched.flatten().collect()
    }
}

impl Entry {
    /// Nothing but its size and its last use.
    fn new(size: u64, last_used: Timestamp) -> Self {
        Self {
            size,
            last_used,
            touched: false,
            checks: None,
            verified: None,
            on_disk: false,
            unreadable: false,
            held: None,
        }
    }
}

fn candidate((digest, entry): (&Digest, &Entry)) -> Candidate {
    Candidate { digest: *digest, size: entry.size, last_used: entry.last_used }
}
