//! Leaving: nobody who was being answered is let down.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::eventually;
use crate::support::larder::{Home, settings};
use crate::support::scripted::Scripted;
use std::io::Write;

fn stocked() -> (Scripted, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("x", 2_000_000);
    registry.put("plugins/x", "1", &raw(&bytes));
    (registry, bytes)
}

const PATH: &str = "/plugins/x/1/plugin.wasm";

#[test]
fn sigterm_turns_readiness_off_serves_on_and_ends_with_0() {
    let (registry, bytes) = stocked();
    let text = settings(&registry.host()).replace("drain: 0s", "drain: 2s");
    let mut larder = Home::new(&text).start();
    assert_eq!(client::get(larder.admin, "/readyz").status, 200);
    larder.signal("TERM");
    eventually("readiness going off", || (client::get(larder.admin, "/readyz").status == 503).then_some(()));
    let mut stream = client::connect(larder.data).unwrap();
    stream.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
    let reply = client::read_reply(&mut stream, false).unwrap();
    assert_eq!(reply.body, bytes, "a new connection is still served");
    assert_eq!(reply.header("connection"), "close", "and asked not to stay");
    assert_eq!(larder.wait().code(), Some(0));
    assert!(client::connect(larder.data).is_err());
}

#[test]
fn an_answer_in_flight_is_finished_before_the_end() {
    let (registry, bytes) = stocked();
    let mut larder = Home::new(&settings(&registry.host())).start();
    registry.close_gate();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client::get(larder.data, PATH));
        eventually("the fetch", || (registry.count(|ask| ask.is_blob()) == 1).then_some(()));
        larder.signal("TERM");
        eventually("the port being closed", || client::connect(larder.data).is_err().then_some(()));
        assert_eq!(client::get(larder.admin, "/readyz").status, 503, "who watches can ask until the end");
        registry.open_gate();
        waiting.join().unwrap()
    });
    assert_eq!((waiting.status, waiting.body), (200, bytes));
    assert_eq!(larder.wait().code(), Some(0));
}

#[test]
fn an_idle_connection_does_not_hold_the_end() {
    let (registry, _) = stocked();
    let mut larder = Home::new(&settings(&registry.host())).start();
    let mut idle = client::connect(larder.data).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(client::read_reply(&mut idle, false).unwrap().header("connection"), "keep-alive");
    larder.signal("TERM");
    assert_eq!(larder.wait().code(), Some(0));
    let told = serde_json::to_string(&larder.log()).unwrap();
    assert!(!told.contains("cut off"), "{told}");
}

#[test]
fn a_load_of_requests_sees_no_failure_while_readiness_is_off() {
    let (registry, bytes) = stocked();
    // Longer than any of this takes: what is shown is that nobody is turned away before it is over.
    let text = settings(&registry.host()).replace("drain: 0s", "drain: 10m");
    let mut larder = Home::new(&text).start();
    assert_eq!(client::get(larder.data, PATH).status, 200);
    let (admin, data) = (larder.admin, larder.data);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let bytes = &bytes;
            scope.spawn(move || {
                // As long as a load balancer that asks for readiness would send requests here, and a little longer.
                let mut after = 0;
                while after < 20 {
                    assert_eq!(&client::get(data, PATH).body, bytes);
                    after += usize::from(client::get(admin, "/readyz").status == 503);
                }
            });
        }
        larder.signal("TERM");
    });
    // Told once more it does not wait.
    larder.signal("TERM");
    assert_eq!(larder.wait().code(), Some(0));
}

#[test]
fn a_fetch_that_outlasts_the_end_is_dropped_and_leaves_nothing() {
    let (registry, bytes) = stocked();
    let text = settings(&registry.host()).replace("drain: 0s", "drain: 0s\n  finish: 1s");
    let mut larder = Home::new(&text).start();
    registry.script(|ask, truth| if ask.is_blob() { truth.stall(500_000) } else { truth });
    std::thread::scope(|scope| {
        scope
            .spawn(|| client::raw(larder.data, format!("GET {PATH} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()));
        eventually("the fetch", || (registry.count(|ask| ask.is_blob()) == 1).then_some(()));
        larder.signal("TERM");
    });
    assert_eq!(larder.wait().code(), Some(0));
    registry.heal();
    let larder = larder.kill().start();
    let files = |folder: &str| crate::support::heart::files(&larder.home.cache().join("v1").join(folder));
    assert_eq!((files("tmp").len(), files("modules").len(), files("quarantine").len()), (0, 0, 0));
    assert_eq!(larder.get(PATH).body, bytes);
}

/// Signals that a process has a handler for: bit n is signal n.
fn handled(id: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() << 1
}

#[test]
fn who_reads_that_larder_listens_may_tell_it_to_leave_in_the_same_moment() {
    let home = Home::in_memory(&settings("registry.invalid"));
    // To wait for a signal takes long here, so that what is not waited for yet when the line is there is always seen.
    // As a grandchild strace is no process of which larder were the child.
    let calls = home.path().join("calls");
    let words = ["-D", "-e", "trace=rt_sigaction", "-e", "inject=rt_sigaction:delay_enter=300ms", "-o"];
    let words = [&["strace"][..], &words, &[calls.to_str().unwrap()]].concat();
    let mut larder = home.under(&words.into_iter().map(Into::into).collect::<Vec<_>>()).start();
    let handled = handled(larder.id());
    for (signal, number) in [("HUP", 1), ("INT", 2), ("TERM", 15)] {
        assert!(handled >> number & 1 == 1, "SIG{signal} would end it: {handled:x}");
    }
    larder.signal("TERM");
    assert_eq!(larder.wait().code(), Some(0), "{}", larder.log_text());
    larder.line("an end in order", |line| line["message"] == "stopped");
}
