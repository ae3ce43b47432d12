//! kill -9 at every system call that changes the directory.

use crate::support::eventually;
use crate::support::faults::is_long;
use crate::support::kept::{self, Kept, NEW, bytes};
use crate::support::larder::Home;
use crate::support::strace::Strace;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Everything by which files, names and folders change.
const CHANGES: &str = "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,\
                       rmdir,chmod,fchmod,ftruncate,fallocate,link,linkat,symlink,flock,utimensat";
/// How long the kernel waits before it does what it is asked for, so that the kill can come first, in milliseconds.
const DELAY: u32 = 12;
/// How often a call is aimed at: a busy machine may be slower than the delay, which doubles each second time.
const AIMS: u32 = 10;

/// The call that a process is killed at, and the delay of each that it makes.
#[derive(Clone, Copy)]
struct Aim {
    last: usize,
    delay: u32,
}

/// Has the shell stop itself before it becomes the program, so that its first call is seen too.
const STOPPED: [&str; 4] = ["sh", "-c", "kill -STOP $$; exec \"$@\"", "sh"];

/// What a process did on the directory until it was killed or ended.
struct Traced {
    begun: Vec<String>,
    killed: bool,
}

/// Follows a process from now on, with `wake` to let it go on, and kills it when it begins its `last` call on the
/// directory.
fn follow(mut child: Child, calls: &str, cache: &Path, aim: Aim, wake: impl FnOnce()) -> Traced {
    let (trace, delay) = (format!("trace={calls}"), format!("inject={calls}:delay_enter={}ms", aim.delay));
    let strace = Strace::process(child.id(), &["-e", &trace, "-e", &delay]);
    wake();
    strace.await_begun(cache, aim.last, || child.try_wait().unwrap().is_some());
    let ended = child.try_wait().unwrap();
    let _ = child.kill();
    let _ = child.wait();
    let begun = strace.begun(cache);
    assert!(ended.is_none_or(|status| status.success()), "it ended by itself after {begun:#?}");
    Traced { begun, killed: ended.is_none() }
}

/// Has `larder get` fetch a plugin, and follows it since the layer was asked for.
fn fetch(kept: &Kept, home: &Home, name: &str, aim: Aim) -> Traced {
    kept.registry.close_gate();
    kept.registry.forget();
    let child = kept::get(home, &[], name);
    let asked = || kept.registry.count(|ask| ask.is_blob()) > 0;
    eventually("the layer's being asked for", || asked().then_some(()));
    follow(child, CHANGES, &home.cache(), aim, || kept.registry.open_gate())
}

/// Has `larder get` take the directory, and follows it from its start.
fn start(home: &Home, name: &str, aim: Aim) -> Traced {
    from_the_start(home, kept::get(home, &STOPPED, name), aim)
}

/// Has `larder purge` take a plugin away, and follows it from its start.
fn purge(home: &Home, name: &str, aim: Aim) -> Traced {
    let mut command = home.command(&STOPPED);
    command.args(["purge", "--plugin", name, "--yes"]).stdout(Stdio::null()).stderr(Stdio::null());
    from_the_start(home, command.spawn().unwrap(), aim)
}

/// Follows a program that has stopped itself before it began.
fn from_the_start(home: &Home, child: Child, aim: Aim) -> Traced {
    let status = format!("/proc/{}/status", child.id());
    let is_stopped = || std::fs::read_to_string(&status).unwrap().contains("State:\tT");
    eventually("the shell's stopping", || is_stopped().then_some(()));
    let id = child.id().to_string();
    // Files are opened by the hundred before the directory's.
    let calls = CHANGES.replace("openat,", "");
    follow(child, &calls, &home.cache(), aim, || {
        assert!(Command::new("kill").args(["-CONT", &id]).status().unwrap().success());
    })
}

/// Runs the program to its end, and again to each `apart`th call that it made, and checks what the kill leaves: `held` must not be
/// lost. Each of `among` must be the beginning of a call, so that a step that is missing is noticed too.
fn kill_everywhere(
    kept: &Kept,
    held: &[&str],
    among: &[&str],
    apart: usize,
    home: impl Fn() -> Home,
    run: impl Fn(&Home, Aim) -> Traced,
) {
    let whole = home();
    let Traced { begun: calls, killed } = run(&whole, Aim { last: usize::MAX, delay: DELAY });
    assert!(!killed);
    kept.check(whole, held, "when it ended by itself");
    for part in among {
        assert!(calls.iter().any(|call| call.starts_with(part)), "no {part} among {calls:#?}");
    }
    for (n, call) in calls.iter().enumerate().step_by(apart) {
        let hit = (0..AIMS).any(|tried| {
            let home = home();
            let Traced { begun, killed } = run(&home, Aim { last: n + 1, delay: DELAY << (tried / 2) });
            kept.check(home, held, &format!("killed at call {} of {calls:#?}", begun.len()));
            killed && begun == calls[..=n]
        });
        assert!(hit, "{call}, call {} of {calls:#?}, was not hit", n + 1);
    }
}

/// The steps of every commit.
const COMMIT: [&str; 7] = [
    "openat v1/tmp/*",
    "write v1/tmp/*",
    "fsync v1/tmp/*",
    "mkdir v1/modules/sha256/",
    "fsync v1/modules/sha256",
    "renameat v1/modules/sha256/",
    "renameat v1/records/",
];
const EVICTION: [&str; 3] = ["unlink v1/records/", "fsync v1/records", "unlink v1/modules/sha256/"];

#[test]
fn a_kill_at_any_call_of_a_commit_that_evicts_leaves_the_old_state_or_the_new() {
    let kept = Kept::new("1h");
    let among = [&COMMIT[..], &EVICTION].concat();
    kill_everywhere(&kept, &["b", "c"], &among, 1, || kept.copy(), |home, aim| fetch(&kept, home, NEW, aim));
}

#[test]
fn a_kill_at_any_call_of_a_replacement_leaves_the_old_module_or_the_new() {
    let mut kept = Kept::new("0s");
    kept.put("c", bytes("c, pushed again"));
    let held = ["b", "c"];
    // The steps are a commit's, which has its own test.
    let apart = if is_long() { 1 } else { 4 };
    kill_everywhere(&kept, &held, &COMMIT, apart, || kept.copy(), |home, aim| fetch(&kept, home, "c", aim));
}

#[test]
fn a_kill_at_any_call_of_a_start_loses_nothing_and_the_next_start_goes_on() {
    let kept = Kept::new("1h");
    let left_behind = || {
        let home = kept.copy();
        for draft in [".tmpOne", ".tmpTwo"] {
            std::fs::write(home.cache().join("v1/tmp").join(draft), b"\0asm").unwrap();
        }
        home
    };
    let among = ["flock v1/lock", "write v1/lock", "unlink v1/tmp/*"];
    kill_everywhere(&kept, &["a", "b", "c"], &among, 1, left_behind, |home, aim| start(home, "b", aim));
    let among = ["mkdir v1/tmp", "mkdir v1/records", "mkdir v1/modules/sha256"];
    kill_everywhere(&kept, &[], &among, 1, || kept.empty(), |home, aim| start(home, NEW, aim));
}

#[test]
fn a_kill_at_any_call_of_a_purge_takes_nothing_else_away_and_leaves_no_record_that_leads_nowhere() {
    let kept = Kept::new("1h");
    kill_everywhere(&kept, &["a", "c"], &EVICTION, 1, || kept.copy(), |home, aim| purge(home, "b", aim));
}
