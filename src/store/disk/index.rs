//! What the directory holds, in memory: modules by digest, records by reference. It touches no file.
//!
//! Every request waits for its lock, so nothing under it looks at all entries, but listings, and evictions for their choice.

use crate::clock::Timestamp;
use crate::oci::reference::Repository;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use crate::store::Standing;
use crate::store::entry::{Checks, ModuleFile};
use crate::store::evict::{self, Candidate};
use bytes::Bytes;
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Absences that are kept of one repository. Which versions do not exist is for clients to invent, so their number has
/// a limit; a forgotten one costs a question to the registry.
pub(super) const MOST_ABSENCES: usize = 64;

#[derive(Default)]
pub(super) struct Index {
    pub(super) modules: HashMap<Digest, Entry>,
    records: HashSet<Known>,
    /// A record of each manifest that leads to a module. A manifest leads to one; should it not, one of them may be missing
    /// here, and is fetched again.
    manifests: HashMap<Digest, Arc<Record>>,
    /// References of each repository that it does not have.
    absences: HashMap<Repository, Vec<Reference>>,
    /// Modules that have a file, and their bytes.
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Bytes of modules that the disk would not take or give.
    pub(super) held: HashMap<Digest, Held>,
    /// Modules with files in the order in which they were compared with their names, those that never were first.
    turns: BTreeSet<(Option<Timestamp>, Digest)>,
    /// Modules that were used since their files' times were last set.
    touched: Vec<Digest>,
    /// When modules last left for want of space below the limit.
    pub(super) made_room: Option<Timestamp>,
    /// Digests of modules, or of manifests that lead to them, before which others leave.
    pub(super) pinned: HashSet<Digest>,
    /// Records that are not on disk as they are here.
    pub(super) unsaved: BTreeSet<Reference>,
}

/// A record, found by its reference.
struct Known(Arc<Record>);

impl Borrow<Reference> for Known {
    fn borrow(&self) -> &Reference {
        &self.0.reference
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.reference == other.0.reference
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.reference.hash(state);
    }
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
    /// It is among those that were used.
    touched: bool,
    pub(super) checks: Option<Arc<Checks>>,
    /// When its bytes were last compared with its name, by this process.
    verified: Option<Timestamp>,
    /// True when it has a file.
    pub(super) on_disk: bool,
    /// Its file cannot be read right now, which says nothing of what is in it.
    pub(super) unreadable: bool,
    /// The records that lead to it.
    records: Vec<Arc<Record>>,
}

impl Index {
    /// Takes in what was found on disk: modules with their sizes and last uses, and records. What is known already is newer.
    pub(super) fn take_in(&mut self, modules: HashMap<Digest, (u64, Timestamp)>, records: Vec<Arc<Record>>) {
        self.modules.reserve(modules.len());
        self.records.reserve(records.len());
        let mut new = Vec::with_capacity(modules.len());
        for (digest, (size, last_used)) in modules {
            self.modules.entry(digest).or_insert_with(|| {
                self.bytes += size;
                self.files += 1;
                new.push((None, digest));
                Entry { on_disk: true, ..Entry::new(size, last_used) }
            });
        }
        self.turns.append(&mut new.into_iter().collect());
        for record in records {
            if !self.records.contains(&record.reference) {
                self.link(record);
            }
        }
    }

    /// What is known of a reference.
    pub(super) fn record(&self, reference: &Reference) -> Option<&Arc<Record>> {
        self.records.get(reference).map(|known| &known.0)
    }

    /// Everything known.
    pub(super) fn records(&self) -> impl ExactSizeIterator<Item = &Arc<Record>> {
        self.records.iter().map(|known| &known.0)
    }

    /// A record that leads from a manifest to a module.
    pub(super) fn of_manifest(&self, manifest: &Digest) -> Option<&Arc<Record>> {
        self.manifests.get(manifest)
    }

    /// Takes in a record, instead of an older one.
    pub(super) fn link(&mut self, record: Arc<Record>) {
        self.unlink(&record.reference);
        match record.present() {
            Some(present) => {
                if let Some(entry) = self.modules.get_mut(&present.module.digest) {
                    entry.records.reserve_exact(1);
                    entry.records.push(record.clone());
                }
                self.manifests.entry(present.manifest).or_insert_with(|| record.clone());
            }
            None => {
                let of = self.absences.entry(record.reference.repository()).or_default();
                of.push(record.reference.clone());
            }
        }
        self.records.insert(Known(record));
    }

    /// Takes out a record.
    fn unlink(&mut self, reference: &Reference) -> Option<Arc<Record>> {
        let Known(record) = self.records.take(reference)?;
        let Some(present) = record.present() else {
            let repository = reference.repository();
            if let Some(of) = self.absences.get_mut(&repository) {
                of.retain(|absent| absent != reference);
                if of.is_empty() {
                    self.absences.remove(&repository);
                }
            }
            return Some(record);
        };
        let mut others = None;
        if let Some(entry) = self.modules.get_mut(&present.module.digest) {
            entry.records.retain(|other| !Arc::ptr_eq(other, &record));
            let same = |other: &&Arc<Record>| {
                other.present().is_some_and(|other| other.manifest == present.manifest)
            };
            others = entry.records.iter().find(same).cloned();
        }
        if self.manifests.get(&present.manifest).is_some_and(|known| Arc::ptr_eq(known, &record)) {
            match others {
                Some(other) => self.manifests.insert(present.manifest, other),
                None => self.manifests.remove(&present.manifest),
            };
        }
        Some(record)
    }

    fn candidate(&self, (digest, entry): (&Digest, &Entry)) -> Candidate {
        let mut names = std::iter::once(digest).chain(entry.manifests());
        let is_pinned = !self.pinned.is_empty() && names.any(|name| self.pinned.contains(name));
        Candidate { digest: *digest, size: entry.size, last_used: entry.last_used, is_pinned }
    }

    /// What an eviction chooses from.
    pub(super) fn on_disk(&self) -> Vec<Candidate> {
        self.modules.iter().filter(|(_, entry)| entry.on_disk).map(|of| self.candidate(of)).collect()
    }

    /// Modules in memory alone that must leave so that `limit` bytes of them stay, `but` one.
    pub(super) fn held_beyond(&self, limit: u64, but: &Digest) -> Vec<Digest> {
        let held = self.held.keys().filter(|digest| *digest != but);
        let held = held.filter_map(|digest| self.modules.get_key_value(digest)).map(|of| self.candidate(of));
        evict::down_to(held.collect(), limit, None)
    }

    /// Takes in a module that is in memory alone.
    pub(super) fn hold(&mut self, module: &Module, bytes: Bytes, why: &'static str, now: Timestamp) {
        let entry = self.modules.entry(module.digest).or_insert_with(|| Entry::new(module.size, now));
        entry.last_used = now;
        self.held.insert(module.digest, Held { module: module.clone(), bytes, why });
    }

    /// Lets the bytes in memory go of a module that has a file too. False when it has none.
    pub(super) fn unhold(&mut self, digest: &Digest) -> bool {
        let has_file = self.modules.get(digest).is_some_and(|entry| entry.on_disk);
        if has_file {
            self.held.remove(digest);
        }
        has_file
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
        entry.is_some_and(|entry| !entry.unreadable || self.held.contains_key(&module.digest))
    }

    /// How a module is held; `None` when its bytes cannot be had.
    pub(super) fn standing(&self, module: &Module) -> Option<Standing> {
        let entry = self.modules.get(&module.digest).filter(|_| self.holds(module))?;
        Some(Standing {
            tier: if self.held.contains_key(&module.digest) { "held" } else { "disk" },
            last_used: entry.last_used,
        })
    }

    /// Of `digests`, or of all, the modules that no record leads to, with their sizes.
    pub(super) fn unused(&self, digests: &[Digest], all: bool) -> Vec<(Digest, u64)> {
        let is_unused = |(_, entry): &(&Digest, &Entry)| entry.records.is_empty();
        let told = |(digest, entry): (&Digest, &Entry)| (*digest, entry.size);
        if all {
            return self.modules.iter().filter(is_unused).map(told).collect();
        }
        let asked: BTreeSet<_> = digests.iter().collect();
        let asked = asked.into_iter().filter_map(|digest| self.modules.get_key_value(digest));
        asked.filter(is_unused).map(told).collect()
    }

    /// What is to be written as soon as that can be: modules, and records whose module is on disk.
    pub(super) fn unwritten(&self) -> (Vec<(Module, Bytes)>, Vec<Reference>) {
        // The smallest first: one that does not fit keeps nobody else waiting.
        let mut held: Vec<_> = self.held.values().collect();
        held.sort_by_key(|held| held.module.size);
        (
            held.into_iter().map(|held| (held.module.clone(), held.bytes.clone())).collect(),
            self.unsaved.iter().cloned().collect(),
        )
    }

    /// True when the disk has everything.
    pub(super) fn is_all_written(&self) -> bool {
        self.unsaved.is_empty() && self.held.is_empty()
    }

    /// The module on disk that was not compared with its name for longest, if it was not since `since`.
    pub(super) fn longest_unverified(&self, since: Timestamp) -> Option<Module> {
        let mut due = self.turns.iter().take_while(|(at, _)| at.is_none_or(|at| at < since));
        due.find_map(|(_, digest)| {
            let entry = self.modules.get(digest).filter(|entry| !entry.unreadable)?;
            Some(Module { digest: *digest, size: entry.size, md5: String::new(), abi: None })
        })
    }

    /// Notes that a file was compared with its name, or could not be: either way it was its turn.
    pub(super) fn looked_at(&mut self, digest: &Digest, file: Option<&ModuleFile>, now: Timestamp) {
        if let Some(entry) = self.modules.get_mut(digest) {
            entry.checks = file.map(ModuleFile::checks).or(entry.checks.take());
            let before = entry.verified.replace(now);
            if self.turns.remove(&(before, *digest)) {
                self.turns.insert((Some(now), *digest));
            }
        }
    }

    /// True when the record of `reference` leads to a module that is here.
    pub(super) fn resolves(&self, reference: &Reference) -> bool {
        let present = self.record(reference).and_then(|known| known.present());
        present.is_some_and(|present| self.modules.contains_key(&present.module.digest))
    }

    /// Takes in a module that was just committed.
    pub(super) fn admit(&mut self, module: &Module, checks: Arc<Checks>, now: Timestamp) {
        let old = self.take_out(&module.digest);
        self.touched.push(module.digest);
        let entry = Entry {
            touched: true,
            checks: Some(checks),
            verified: Some(now),
            on_disk: true,
            // What was held in memory was not used by being written.
            ..old.unwrap_or_else(|| Entry::new(module.size, now))
        };
        let entry = Entry { size: module.size, unreadable: false, ..entry };
        self.bytes += module.size;
        self.files += 1;
        self.turns.insert((Some(now), module.digest));
        self.modules.insert(module.digest, entry);
    }

    /// Takes a module out, but not the records that lead to it.
    fn take_out(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.modules.remove(digest)?;
        self.held.remove(digest);
        if entry.on_disk {
            self.bytes -= entry.size;
            self.files -= 1;
            self.turns.remove(&(entry.verified, *digest));
        }
        Some(entry)
    }

    /// Takes out a module and the records that lead to it, and tells these.
    pub(super) fn forget(&mut self, digest: &Digest) -> Vec<Arc<Record>> {
        let gone = self.take_out(digest).map(|entry| entry.records).unwrap_or_default();
        for record in &gone {
            self.unlink(&record.reference);
            self.unsaved.remove(&record.reference);
        }
        gone
    }

    /// Takes in a record. Tells which absences of its repository had to leave for it.
    pub(super) fn keep(&mut self, record: Record) -> Vec<Reference> {
        let repository = record.present().is_none().then(|| record.reference.repository());
        self.link(Arc::new(record));
        repository.map(|repository| self.forget_old_absences(&repository)).unwrap_or_default()
    }

    /// Takes out the oldest absences of a repository beyond their limit.
    fn forget_old_absences(&mut self, repository: &Repository) -> Vec<Reference> {
        let absences = self.absences.get(repository).map(Vec::as_slice).unwrap_or_default();
        let beyond = absences.len().saturating_sub(MOST_ABSENCES);
        if beyond == 0 {
            return Vec::new();
        }
        let known = absences.iter().filter_map(|reference| self.record(reference));
        let mut known: Vec<_> = known.map(|record| (record.checked_at, record.reference.clone())).collect();
        known.sort();
        let gone: Vec<Reference> = known.into_iter().take(beyond).map(|(_, reference)| reference).collect();
        self.drop_records(&gone);
        gone
    }

    /// Takes out records.
    pub(super) fn drop_records(&mut self, references: &[Reference]) {
        for reference in references {
            self.unlink(reference);
            self.unsaved.remove(reference);
        }
    }

    /// Notes a use of a module.
    pub(super) fn touch(&mut self, digest: &Digest, now: Timestamp) -> Option<&mut Entry> {
        let entry = self.modules.get_mut(digest)?;
        entry.last_used = now;
        if !std::mem::replace(&mut entry.touched, true) {
            self.touched.push(*digest);
        }
        Some(entry)
    }

    /// The last uses that no file knows yet.
    pub(super) fn take_touched(&mut self) -> Vec<(Digest, Timestamp)> {
        let mut told = Vec::with_capacity(self.touched.len());
        let modules = &mut self.modules;
        self.touched.retain(|digest| {
            let Some(entry) = modules.get_mut(digest).filter(|entry| entry.touched) else { return false };
            if entry.on_disk {
                entry.touched = false;
                told.push((*digest, entry.last_used));
            }
            // Of what has no file yet, the file is told when there is one.
            entry.touched
        });
        self.touched.shrink_to_fit();
        told
    }
}

impl Entry {
    /// Those of the records that lead to it.
    fn manifests(&self) -> impl Iterator<Item = &Digest> {
        self.records.iter().filter_map(|record| Some(&record.present()?.manifest))
    }

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
            records: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
