//! A disk that is full, read-only, failing, slow or gone costs no answer, and gets what it missed when it is well again.

use crate::support::artifact::{module, raw};
use crate::support::client::Reply;
use crate::support::eventually;
use crate::support::heart::files;
use crate::support::inject::Injected;
use crate::support::larder::{Home, Larder, settings};
use crate::support::netns;
use crate::support::scripted::Scripted;
use larder::oci::Digest;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A plugin that is asked for before the trouble, and one after it.
const HELD: &str = "/plugins/held/1/plugin.wasm";
const NEW: &str = "/plugins/new/1/plugin.wasm";

struct Stocked {
    registry: Scripted,
    held: Vec<u8>,
    new: Vec<u8>,
}

impl Stocked {
    fn new() -> Self {
        let registry = Scripted::start();
        let (held, new) = (module("held", 200_000), module("new", 1 << 20));
        registry.put("plugins/held", "1", &raw(&held));
        registry.put("plugins/new", "1", &raw(&new));
        Self { registry, held, new }
    }

    /// Without copies in memory of what is on disk.
    fn home(&self) -> Home {
        Home::new(&(settings(&self.registry.host()) + "cache: {memory: 0}\n"))
    }

    /// What is held is served, and what is new too, by way of memory.
    fn costs_no_answer(&self, larder: &Larder, detail: &str) {
        let reply = larder.get(NEW);
        is_served(&reply, &self.new);
        assert_eq!(reply.header("cache-status"), format!("larder; fwd=uri-miss; detail={detail}"));
        self.registry.down();
        let reply = larder.get(NEW);
        is_served(&reply, &self.new);
        assert!(reply.header("cache-status").ends_with(&format!("detail={detail}")));
        is_served(&larder.get(HELD), &self.held);
        self.registry.heal();
        assert_eq!(larder.metric("larder_store_degraded"), 1.0);
        let ready = crate::support::client::get(larder.admin, "/readyz");
        assert_eq!((ready.status, ready.text().contains("takes nothing")), (200, true), "{}", ready.text());
        assert_eq!(larder.metric("larder_cache_entries{tier=\"held\"}"), 1.0);
        is_logged(larder, "store_degraded");
    }

    /// The disk has by itself what it missed, and it lasts.
    fn gets_what_it_missed(&self, larder: Larder) {
        eventually("the disk being used again", || {
            (larder.metric("larder_store_degraded") == 0.0).then_some(())
        });
        is_logged(&larder, "store_recovered");
        self.registry.down();
        let larder = larder.kill().start();
        is_served(&larder.get(NEW), &self.new);
        is_served(&larder.get(HELD), &self.held);
        is_sound(&larder);
    }
}

fn is_served(reply: &Reply, bytes: &[u8]) {
    assert_eq!(
        (reply.status, Digest::of(&reply.body)),
        (200, Digest::of(bytes)),
        "{}",
        reply.header("cache-status")
    );
}

fn is_logged(larder: &Larder, event: &str) {
    eventually(event, || larder.log().iter().any(|line| line["event"] == event).then_some(()));
}

/// What `larder fsck` says of the directory of a running larder.
fn is_sound(larder: &Larder) {
    let output = crate::support::larder::program()
        .args(["fsck", "--cache-dir"])
        .arg(larder.home.cache())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("a larder is using it"), "{text}");
}

fn mount(options: &str, at: &Path) {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).status().unwrap();
    assert!(status.success(), "mount {options}");
}

fn remount(options: &str, at: &Path) {
    let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(at).status().unwrap();
    assert!(status.success(), "remount {options}");
}

/// A home whose cache is a file system of its own.
fn on_tmpfs(stocked: &Stocked, options: &str) -> Home {
    let home = stocked.home();
    std::fs::create_dir(home.cache()).unwrap();
    mount(options, &home.cache());
    home
}

#[test]
fn a_full_disk_costs_no_answer_and_gets_what_it_missed_when_there_is_room() {
    if !netns::alone("disk::a_full_disk_costs_no_answer_and_gets_what_it_missed_when_there_is_room", &[]) {
        return;
    }
    let stocked = Stocked::new();
    let larder = on_tmpfs(&stocked, "size=4m").start();
    is_served(&larder.get(HELD), &stocked.held);
    // Half of what is new still fits, so that its draft fails in the middle.
    let ballast = larder.home.cache().join("ballast");
    std::fs::write(&ballast, vec![1; (4 << 20) - 200_000 - 600_000]).unwrap();
    stocked.costs_no_answer(&larder, "uncached-disk_full");
    assert_eq!(
        stocked.registry.count(|ask| ask.is_blob()),
        2,
        "one transfer each, though it went on in memory"
    );
    assert_eq!(files(&larder.home.cache().join("v1/tmp")).len(), 0, "nothing partial stays");
    assert_eq!(files(&larder.home.cache().join("v1/modules")).len(), 1);
    std::fs::remove_file(ballast).unwrap();
    stocked.gets_what_it_missed(larder);
}

#[test]
fn a_disk_without_inodes_costs_no_answer_and_gets_what_it_missed_when_there_are_some() {
    if !netns::alone(
        "disk::a_disk_without_inodes_costs_no_answer_and_gets_what_it_missed_when_there_are_some",
        &[],
    ) {
        return;
    }
    let stocked = Stocked::new();
    let larder = on_tmpfs(&stocked, "size=64m,nr_inodes=40").start();
    is_served(&larder.get(HELD), &stocked.held);
    let cache = larder.home.cache();
    let ballast: Vec<_> = (0..40)
        .map(|n| cache.join(n.to_string()))
        .take_while(|path| std::fs::write(path, "").is_ok())
        .collect();
    stocked.costs_no_answer(&larder, "uncached-disk_full");
    for path in ballast {
        std::fs::remove_file(path).unwrap();
    }
    stocked.gets_what_it_missed(larder);
}

#[test]
fn a_disk_that_turns_read_only_costs_no_answer_also_at_a_start() {
    if !netns::alone("disk::a_disk_that_turns_read_only_costs_no_answer_also_at_a_start", &[]) {
        return;
    }
    let stocked = Stocked::new();
    let larder = on_tmpfs(&stocked, "size=64m").start();
    is_served(&larder.get(HELD), &stocked.held);
    let cache = larder.home.cache();
    // As if a killed one had left it.
    std::fs::write(cache.join("v1/tmp/half"), "x").unwrap();
    remount("ro", &cache);
    stocked.costs_no_answer(&larder, "uncached-disk_read_only");
    let larder = larder.kill().start();
    stocked.costs_no_answer(&larder, "uncached-disk_read_only");
    remount("rw", &cache);
    stocked.gets_what_it_missed(larder);
}

#[test]
fn a_directory_that_cannot_be_made_costs_no_answer_and_is_made_when_it_can_be() {
    let stocked = Stocked::new();
    let home = stocked.home();
    // A file where a folder is wanted, whoever runs the test.
    std::fs::write(home.cache(), "").unwrap();
    let larder = home.start();
    is_served(&larder.get(HELD), &stocked.held);
    is_served(&larder.get(NEW), &stocked.new);
    is_logged(&larder, "store_degraded");
    assert_eq!(larder.metric("larder_cache_entries{tier=\"held\"}"), 2.0);
    std::fs::remove_file(larder.home.cache()).unwrap();
    stocked.gets_what_it_missed(larder);
}

#[test]
fn a_directory_of_another_format_or_open_to_everybody_ends_the_start_and_is_not_touched() {
    use std::os::unix::fs::PermissionsExt;
    let stocked = Stocked::new();
    let larder = stocked.home().start();
    is_served(&larder.get(HELD), &stocked.held);
    let home = larder.kill();
    let root = home.cache().join("v1");
    let start = || {
        let mut command = crate::support::larder::program();
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--cache-dir"]);
        let output = command.arg(home.cache()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let before = files(&root);
    for format in ["larder-store 2\n", "", "\u{0}\u{1}garbage"] {
        std::fs::write(root.join("format"), format).unwrap();
        let (code, text) = start();
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains("v1/format") && text.contains("nothing was touched"), "{text}");
    }
    std::fs::write(root.join("format"), "larder-store 1\n").unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, text) = start();
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("every user") && text.contains("777"), "{text}");
    assert_eq!(files(&root), before);
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
    stocked.registry.down();
    is_served(&home.start().get(HELD), &stocked.held);
}

#[test]
fn a_sync_that_fails_is_never_repeated_on_the_same_file_and_costs_no_answer() {
    let stocked = Stocked::new();
    let larder = stocked.home().start();
    is_served(&larder.get(HELD), &stocked.held);
    let failing = Injected::into(larder.id(), "fsync", "error=EIO");
    let begun = Instant::now();
    is_served(&larder.get(NEW), &stocked.new);
    is_logged(&larder, "store_degraded");
    let synced: Vec<_> =
        failing.text().lines().filter(|line| line.contains("INJECTED")).map(str::to_owned).collect();
    // It is tried again every five seconds, which a busy machine may have taken.
    let tries = 1 + begun.elapsed().as_secs() as usize / 5;
    assert!((1..=tries).contains(&synced.len()), "one sync was tried, and then no more: {synced:?}");
    assert!(larder.metric("larder_disk_errors_total{operation=\"syncing\"}") >= 1.0);
    assert_eq!(files(&larder.home.cache().join("v1/modules")).len(), 1, "what may not last has no name");
    drop(failing);
    stocked.gets_what_it_missed(larder);
}

#[test]
fn a_disk_that_cannot_read_a_module_costs_one_fetch_and_no_answer() {
    let stocked = Stocked::new();
    let larder = stocked.home().start();
    is_served(&larder.get(HELD), &stocked.held);
    let failing = Injected::into(larder.id(), "pread64", "error=EIO");
    is_served(&larder.get(HELD), &stocked.held);
    is_served(&larder.get(HELD), &stocked.held);
    drop(failing);
    assert_eq!(larder.metric("larder_disk_errors_total{operation=\"reading\"}"), 1.0);
    assert_eq!(larder.metric("larder_quarantined_total"), 0.0, "that a disk fails says nothing of the file");
    assert_eq!(stocked.registry.count(|ask| ask.is_blob()), 2);
    is_served(&larder.get(NEW), &stocked.new);
    stocked.gets_what_it_missed(larder);
}

#[test]
fn a_disk_that_gives_nothing_for_a_while_takes_nothing_away() {
    let stocked = Stocked::new();
    for (calls, error) in
        [("openat", "EIO"), ("openat", "EACCES"), ("openat", "ENOTCONN"), ("pread64", "EIO")]
    {
        let home = Home::new(&(settings(&stocked.registry.host()) + "cache: {memory: 0, retry: 200ms}\n"));
        let larder = home.start();
        is_served(&larder.get(HELD), &stocked.held);
        stocked.registry.down();
        let failing = Injected::into(larder.id(), calls, &format!("error={error}"));
        for _ in 0..3 {
            // A connection may be cut off in the middle of an answer that had begun.
            let ask = format!("GET {HELD} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            if let Ok(reply) = crate::support::client::raw(larder.data, ask.as_bytes()) {
                assert!(matches!(reply.status, 502 | 503), "{calls} {error}: {}", reply.status);
            }
        }
        drop(failing);
        eventually("the module being there again", || (larder.get(HELD).status == 200).then_some(()));
        is_served(&larder.get(HELD), &stocked.held);
        assert_eq!(larder.metric("larder_quarantined_total"), 0.0);
        is_sound(&larder);
        stocked.registry.heal();
    }
}

#[test]
fn a_file_system_that_goes_away_and_comes_back_loses_nothing() {
    if !netns::alone("disk::a_file_system_that_goes_away_and_comes_back_loses_nothing", &[]) {
        return;
    }
    let stocked = Stocked::new();
    let larder = on_tmpfs(&stocked, "size=64m").start();
    is_served(&larder.get(HELD), &stocked.held);
    let (cache, aside) = (larder.home.cache(), larder.home.path().join("aside"));
    std::fs::create_dir(&aside).unwrap();
    let run = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
    let (here, there) = (cache.to_str().unwrap(), aside.to_str().unwrap());
    run(&["mount", "--bind", here, there]);
    run(&["umount", "--lazy", here]);
    // What is held is fetched anew, and what is new is held in memory.
    is_served(&larder.get(HELD), &stocked.held);
    is_served(&larder.get(NEW), &stocked.new);
    is_logged(&larder, "store_degraded");
    stocked.registry.down();
    is_served(&larder.get(HELD), &stocked.held);
    // Twice the time between two tries.
    let tries = || larder.metric("larder_disk_errors_total{operation=\"taking\"}");
    eventually("two tries", || (tries() >= 2.0).then_some(()));
    assert_eq!(files(&cache).len(), 0, "nothing is written where it was");
    assert!(!cache.join("v1").exists());
    run(&["mount", "--bind", there, here]);
    stocked.gets_what_it_missed(larder);
    assert!(files(&aside.join("v1/quarantine")).is_empty());
}

#[test]
fn a_disk_that_stalls_holds_up_nothing_that_is_in_memory() {
    let stocked = Stocked::new();
    let larder = Home::new(&settings(&stocked.registry.host())).start();
    is_served(&larder.get(HELD), &stocked.held);
    let stalled = Injected::into(larder.id(), "fsync", "delay_enter=1s");
    std::thread::scope(|scope| {
        let new = scope.spawn(|| larder.get(NEW));
        eventually("a sync that stalls", || stalled.text().contains("fsync(").then_some(()));
        // Who waited for the disk would be answered once a second at most.
        let mut served = 0;
        while !new.is_finished() {
            is_served(&larder.get(HELD), &stocked.held);
            served += 1;
        }
        assert!(served > 20, "{served} answers while the disk was stalled");
        is_served(&new.join().unwrap(), &stocked.new);
    });
    is_logged(&larder, "disk_slow");
}

#[test]
fn what_lies_in_the_place_of_a_module_is_put_aside_and_never_followed() {
    let stocked = Stocked::new();
    for kind in ["fifo", "link", "folder", "extended"] {
        let larder = stocked.home().start();
        is_served(&larder.get(HELD), &stocked.held);
        let path = files(&larder.home.cache().join("v1/modules")).remove(0);
        let secret = larder.home.path().join("secret");
        std::fs::write(&secret, &stocked.held).unwrap();
        if kind == "extended" {
            std::fs::write(&path, [&stocked.held[..], b"x"].concat()).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        match kind {
            "fifo" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
            "link" => std::os::unix::fs::symlink(&secret, &path).unwrap(),
            "folder" => std::fs::create_dir(&path).unwrap(),
            _ => {}
        }
        is_served(&larder.get(HELD), &stocked.held);
        assert_eq!(larder.metric("larder_quarantined_total"), 1.0, "{kind}");
        assert!(secret.exists(), "{kind}");
        is_sound(&larder);
    }
}
