//! Power cuts on real file systems, while larder fetches and evicts.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::faults::is_long;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use crate::support::snapshots::{self, Disk};
use crate::support::{eventually, fsck};
use larder::oci::Digest;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// More than the disk may hold.
const PLUGINS: usize = 12;
/// Fetches that end between two cuts.
const BETWEEN: usize = 4;

/// What the log says of the disk, line by line.
struct Log<'t> {
    digests: &'t [Digest],
    lines: usize,
    /// Plugins that were fetched and written down, and not evicted since.
    held: BTreeSet<usize>,
    fetched: usize,
}

impl Log<'_> {
    /// Goes on to the end of the log. Tells what was evicted on the way.
    fn read(&mut self, larder: &Larder) -> BTreeSet<usize> {
        let text = larder.log_text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut evicted = BTreeSet::new();
        for line in whole.lines().skip(self.lines) {
            self.lines += 1;
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["message"].as_str().unwrap_or_default() {
                "asked the registry" if line["result"] == "ok" => {
                    let name = line["reference"].as_str().unwrap().rsplit("/p").next().unwrap();
                    self.held.insert(name.split(':').next().unwrap().parse().unwrap());
                    self.fetched += 1;
                }
                "evicted to make room" => {
                    let digest = line["digest"].as_str().unwrap();
                    let n = self.digests.iter().position(|d| d.to_string() == digest).unwrap();
                    self.held.remove(&n);
                    evicted.insert(n);
                }
                _ => {}
            }
        }
        evicted
    }
}

fn path(n: usize) -> String {
    format!("/plugins/p{n}/1/plugin.wasm")
}

/// Cuts the power again and again, and looks at what is left: nothing wrong, nothing lost that was answered, and larder
/// starts on it.
fn cut(kind: &str, options: [&'static str; 2]) {
    let registry = Scripted::start();
    let mut digests = Vec::new();
    for n in 0..PLUGINS {
        let bytes = module(&format!("power {n}"), 300_000 + n * 10_000);
        registry.put(&format!("plugins/p{n}"), "1", &raw(&bytes));
        digests.push(Digest::of(&bytes));
    }
    let more = "cache: {disk: 2MiB, memory: 64KiB}\nlimits: {module: 1MiB}\noverlay: {dirs: []}\n";
    let settings = settings(&registry.host()) + more + "lifetimes: {tag: 1h}\n";
    let home = Home::new(&settings);
    let mut disk = Disk::mount(kind, options, &home.cache());
    let larder = home.start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // However this ends, the clients do.
        let _stopping = Stopping(&stop);
        for client in 0..2 {
            let (larder, digests, stop) = (&larder, &digests, &stop);
            scope.spawn(move || {
                for step in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let n = (client * 5 + step * 7) % PLUGINS;
                    let reply = client::get(larder.data, &path(n));
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    assert_eq!(Digest::of(&reply.body), digests[n]);
                }
            });
        }
        let mut log = Log { digests: &digests, lines: 0, held: BTreeSet::new(), fetched: 0 };
        for n in 0..if is_long() { 500 } else { 10 } {
            let before = log.fetched;
            eventually("a few fetches", || {
                log.read(&larder);
                (log.fetched >= before + BETWEEN).then_some(())
            });
            let mut held = log.held.clone();
            let copy = disk.cut();
            // Whatever was begun before the cut is in the log before this.
            let mark = format!("/the-cut-{n}");
            client::get(larder.data, &mark);
            eventually("the mark in the log", || larder.log_text().contains(&mark).then_some(()));
            for evicted in log.read(&larder) {
                held.remove(&evicted);
            }
            assert!(!held.is_empty(), "something is held");
            let after = Home::new(&settings);
            let at = after.cache();
            disk.mount_cut(&copy, &at);
            check(after, &registry, &digests, &held);
            disk.forget(&copy, &at);
        }
    });
}

/// What must be true of a disk after a cut.
fn check(home: Home, registry: &Scripted, digests: &[Digest], held: &BTreeSet<usize>) {
    fsck::check(&home.cache(), "after the cut");
    let found = fsck::held(&home.cache());
    for n in held {
        let reference = format!("{}/plugins/p{n}:1", registry.host());
        assert_eq!(found.get(&reference), Some(&digests[*n]), "{reference} was answered");
    }
    let larder = home.start();
    let is_empty = |folder: &str| {
        std::fs::read_dir(larder.home.cache().join("v1").join(folder)).unwrap().next().is_none()
    };
    assert!(is_empty("tmp") && is_empty("quarantine"), "drafts are removed, and nothing was damaged");
    for n in held {
        let reply = larder.get(&path(*n));
        assert_eq!((reply.status, Digest::of(&reply.body)), (200, digests[*n]));
        assert!(reply.header("cache-status").contains("hit"), "{}", reply.header("cache-status"));
    }
}

/// Tells the clients to stop.
struct Stopping<'t>(&'t AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A test's limit in seconds.
fn limit() -> u32 {
    if is_long() { 3600 } else { 120 }
}

#[test]
fn a_power_cut_on_ext4_leaves_no_wrong_byte_and_loses_nothing_that_was_answered() {
    let test = "power::a_power_cut_on_ext4_leaves_no_wrong_byte_and_loses_nothing_that_was_answered";
    if snapshots::alone(test, limit()) {
        cut("ext4", ["data=ordered"; 2]);
    }
}

#[test]
fn nor_does_one_on_ext4_that_writes_names_before_bytes() {
    // Its short form would tell little that the other one's does not.
    let test = "power::nor_does_one_on_ext4_that_writes_names_before_bytes";
    if is_long() && snapshots::alone(test, limit()) {
        cut("ext4", ["data=writeback"; 2]);
    }
}

#[test]
fn a_power_cut_on_xfs_leaves_no_wrong_byte_and_loses_nothing_that_was_answered() {
    let test = "power::a_power_cut_on_xfs_leaves_no_wrong_byte_and_loses_nothing_that_was_answered";
    if snapshots::alone(test, limit()) {
        // A copy has the same identity as the disk that is mounted.
        cut("xfs", ["rw", "nouuid"]);
    }
}
