//! Power cuts at any instant of a commit, on a file system that keeps no more than it must.

use crate::support::durable::{Model, Op, State, ops};
use crate::support::faults::is_long;
use crate::support::kept::{self, HELD, Kept, NEW, bytes};
use crate::support::larder::{Home, memory};
use crate::support::{fsck, strace};
use larder::clock::{ManualClock, Timestamp};
use larder::oci::Digest;
use larder::store::disk::{Disk, Keep};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// The states of a scenario that the real program is started on; in the long form all.
const STARTS: usize = 6;

/// Most bytes of a write that strace shows: more than a record has.
const SHOWN: &str = "4096";

/// One run of `larder get`: what was there before, what it did, and what it left.
struct Scenario {
    kept: Kept,
    before: TempDir,
    ops: Vec<Op>,
    after: Home,
    /// What is fetched.
    name: &'static str,
}

impl Scenario {
    fn run(kept: Kept, home: Home, name: &'static str) -> Self {
        let before = memory();
        if home.cache().exists() {
            kept::copy(&home.cache(), &before.path().join("cache"));
        }
        let trace = home.path().join("calls");
        let calls = "trace=openat,write,fsync,fdatasync,rename,renameat,unlink,mkdir";
        let tool = ["strace", "-f", "-y", "-s", SHOWN, "-o", trace.to_str().unwrap(), "-e", calls];
        assert!(kept::get(&home, &tool, name).wait().unwrap().success());
        let top = home.path().to_path_buf();
        let ops: Vec<_> = ops(&strace::calls(&trace), &top).into_iter().filter(is_in_cache).collect();
        assert!(ops.contains(&Op::Answer), "{ops:#?}");
        Self { kept, before, ops, after: home, name }
    }

    /// Every state that a power cut may leave, with the model that writes it, and how many operations were done.
    fn states(&self, ops: &[Op]) -> (Model, Vec<(usize, State)>) {
        let mut model = Model::of(self.before.path());
        let mut seen = BTreeSet::new();
        let mut states = Vec::new();
        for done in 0..=ops.len() {
            if done > 0 {
                model.apply(&ops[done - 1]);
            }
            // What must be held changes with these alone, so between them a state is looked at once.
            let epoch = ops[..done].iter().filter(|op| matches!(op, Op::Remove(_) | Op::Answer)).count();
            let new = model.states().into_iter().filter(|state| seen.insert((epoch, state.clone())));
            states.extend(new.map(|state| (done, state)));
        }
        model.read_ends(self.after.path());
        (model, states)
    }

    /// The plugins that must be there after so many operations.
    fn held(&self, ops: &[Op], done: usize) -> Vec<&'static str> {
        let begun = &ops[..(done + 1).min(ops.len())];
        let evicts = |op: &Op| matches!(op, Op::Remove(path) if path.contains("/records/"));
        let evicted = begun.iter().filter(|op| evicts(op)).count();
        let was_there = self.before.path().join("cache").exists();
        let mut held: Vec<_> = HELD.into_iter().filter(|_| was_there).skip(evicted).collect();
        if ops[..done].contains(&Op::Answer) && !held.contains(&self.name) {
            held.push(self.name);
        }
        held
    }

    /// What is wrong with a state, and with what a start makes of it.
    fn fault(&self, cache: &Path, held: &[&str], is_answered: bool) -> Option<String> {
        if let Some(problem) = fsck::problems(cache).into_iter().next() {
            return Some(problem);
        }
        let metrics = Arc::<larder::metrics::Metrics>::default();
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        let room = larder::store::Room::new(8 << 20);
        let disk = match Disk::open(
            cache,
            Keep { limit: 1 << 30, retry: Duration::from_secs(5) },
            room,
            clock,
            Arc::clone(&metrics),
        ) {
            Ok(disk) => disk,
            Err(error) => return Some(error.to_string()),
        };
        if metrics.quarantined.get() > 0 || std::fs::read_dir(cache.join("v1/tmp")).unwrap().next().is_some()
        {
            return Some("a start puts something aside, or leaves a draft".into());
        }
        let module = |name: &str| {
            let record = disk.record(&self.kept.reference(name).parse().unwrap())?;
            Some(record.present()?.module.digest)
        };
        let newest = Digest::of(self.kept.newest(self.name));
        if is_answered && module(self.name) != Some(newest) {
            return Some(format!("{} was answered and is lost", self.name));
        }
        let lost = held.iter().find(|name| !module(name).is_some_and(|d| self.kept.is_right(name, &d)));
        lost.map(|name| format!("{name} is lost"))
    }

    /// The first fault that a power cut may cause.
    fn first_fault(&self, ops: &[Op]) -> Option<String> {
        let (model, states) = self.states(ops);
        states.iter().find_map(|(done, state)| {
            let dir = memory();
            model.write(state, dir.path());
            let answered = ops[..*done].contains(&Op::Answer);
            let fault = self.fault(&dir.path().join("cache"), &self.held(ops, *done), answered)?;
            Some(format!(
                "{fault}\nafter {:#?}\nof {ops:#?}\nwith {state:#?}",
                done.checked_sub(1).map(|n| &ops[n])
            ))
        })
    }

    fn check(&self) {
        if let Some(fault) = self.first_fault(&self.ops) {
            panic!("{fault}");
        }
        let (model, states) = self.states(&self.ops);
        println!("{} states of {} operations", states.len(), self.ops.len());
        let apart = if is_long() { 1 } else { states.len().div_ceil(STARTS) };
        for (done, state) in states.iter().step_by(apart) {
            let home = self.kept.empty();
            model.write(state, home.path());
            self.kept.check(home, &self.held(&self.ops, *done), &format!("{state:#?}"));
        }
    }

    /// Takes out one sync after the other, or all of one file or folder: each must be missed.
    fn check_syncs(&self, least: usize, all_of_one: bool) {
        let syncs: Vec<_> = (0..self.ops.len()).filter(|n| matches!(self.ops[*n], Op::Sync(_))).collect();
        assert!(syncs.len() >= least, "{:#?}", self.ops);
        for n in syncs {
            let (mut ops, sync) = (self.ops.clone(), &self.ops[n]);
            match all_of_one {
                true => ops.retain(|op| op != sync),
                false => drop(ops.remove(n)),
            }
            assert!(
                self.first_fault(&ops).is_some(),
                "without {sync:?} no power cut does harm: {:#?}",
                self.ops
            );
        }
    }
}

/// The lock says nothing that has to last.
fn is_in_cache(op: &Op) -> bool {
    let path = match op {
        Op::Make { path, .. }
        | Op::Write(path, _)
        | Op::Sync(path)
        | Op::Remove(path)
        | Op::Rename(path, _) => path,
        Op::Answer => return true,
    };
    (path.is_empty() || path.starts_with("cache")) && !path.ends_with("/lock")
}

#[test]
fn a_power_cut_at_any_instant_of_a_commit_that_evicts_loses_nothing_that_was_answered() {
    let kept = Kept::new("1h");
    let home = kept.copy();
    let scenario = Scenario::run(kept, home, NEW);
    scenario.check();
    scenario.check_syncs(6, false);
}

#[test]
fn a_power_cut_at_any_instant_of_a_replacement_leaves_the_old_module_or_the_new() {
    let mut kept = Kept::new("0s");
    kept.put("c", bytes("c, pushed again"));
    let home = kept.copy();
    Scenario::run(kept, home, "c").check();
}

#[test]
fn a_power_cut_at_any_instant_of_the_first_commit_of_all_loses_nothing_that_was_answered() {
    let kept = Kept::new("1h");
    let home = kept.empty();
    let scenario = Scenario::run(kept, home, NEW);
    scenario.check();
    // Folders that lie in one are made one after the other, and the last sync would do.
    scenario.check_syncs(5, true);
}
