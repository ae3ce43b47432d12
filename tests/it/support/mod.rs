//! Parts for tests, each a real one or one that counts and fails on command.

pub mod artifact;
pub mod client;
pub mod heart;
pub mod larder;
pub mod pki;
pub mod registry;
pub mod scripted;

use std::time::{Duration, Instant};

/// Waits until `done` says so, and fails with `what` after half a minute. For things that another process does.
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < until, "{what} did not happen within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}
