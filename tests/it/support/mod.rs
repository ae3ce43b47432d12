//! Parts for tests, each a real one or one that counts and fails on command.

pub mod artifact;
pub mod booted;
pub mod browser;
pub mod canary;
pub mod cgroup;
pub mod chart;
pub mod client;
pub mod contained;
pub mod cosign;
pub mod crowd;
pub mod debian;
pub mod dns;
pub mod durable;
pub mod egress;
pub mod envoy;
pub mod faults;
pub mod fsck;
pub mod gateway;
pub mod guide;
pub mod h2;
pub mod heart;
pub mod image;
pub mod inject;
pub mod kept;
pub mod larder;
pub mod layout;
pub mod mounted;
pub mod netns;
pub mod odd_registry;
pub mod otlp;
pub mod pki;
pub mod port;
pub mod process;
pub mod prometheus;
pub mod public;
pub mod registry;
pub mod reloaded;
pub mod scripted;
pub mod signer;
pub mod site;
pub mod snapshots;
pub mod strace;
pub mod stumbling;
pub mod tls;
pub mod token_server;
pub mod writable;

use std::time::{Duration, Instant};

/// True of a warning about the file system that the cache happens to lie on, or how slow it is: it is of the machine that
/// runs the tests.
pub fn is_of_this_machine(text: &str) -> bool {
    ["cache.dir: ", "cache.disk: ", "disk_slow"].iter().any(|key| text.contains(key))
}

/// Waits until `done` says so, and fails with `what` after a minute. For things that another process does.
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < until, "{what} did not happen within 60 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same for things that tasks of this process do, who need the thread meanwhile.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen within 60 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
