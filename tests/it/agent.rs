//! The gateway agent's rules, replayed: 15 s an attempt, 5 attempts, 30 s in all, again on 5xx only.

use crate::support::artifact::{module, raw};
use crate::support::client::{self, Reply};
use crate::support::larder::{Home, settings};
use crate::support::scripted::{Act, Scripted};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the agent sends and nothing else.
const ASK: &str = "GET /plugins/x/1.0.0/plugin.wasm HTTP/1.1\r\nHost: larder.test\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n";

/// Downloads as the agent does. `between` is called before each further attempt with what the last one brought, and
/// then the agent's own pause is made.
fn download(from: SocketAddr, mut between: impl FnMut(&Reply)) -> Result<Vec<u8>, Vec<u16>> {
    const ATTEMPT: Duration = Duration::from_secs(15);
    const ALL: Duration = Duration::from_secs(30);
    let began = Instant::now();
    let mut pause = Duration::from_millis(500);
    let mut seen = Vec::new();
    for attempt in 0..5 {
        if attempt > 0 {
            std::thread::sleep(pause);
            pause = pause * 3 / 2;
        }
        let at = Instant::now();
        let reply = client::raw(from, ASK.as_bytes())
            .expect("a connection that breaks after the header is lost for ever");
        assert!(at.elapsed() < ATTEMPT, "an attempt was held beyond the agent's patience");
        assert!(began.elapsed() < ALL, "the agent gave up");
        seen.push(reply.status);
        match reply.status {
            200 => return Ok(reply.body),
            500..600 if ![501, 505, 511].contains(&reply.status) => between(&reply),
            _ => break,
        }
    }
    Err(seen)
}

#[test]
fn a_registry_too_slow_for_one_attempt_is_fast_enough_for_the_next() {
    let registry = Scripted::start();
    let bytes = module("x", 500_000);
    registry.put("plugins/x", "1.0.0", &raw(&bytes));
    registry.close_gate();
    // A hold of a second for the shipped twelve, and a registry that needs longer than that.
    let larder = Home::new(&(settings(&registry.host()) + "fill: {hold: 1s}\n")).start();
    let mut pending = 0;
    let got = download(larder.data, |reply| {
        assert_eq!((reply.status, reply.json()["code"].clone()), (503, "pending".into()));
        pending += 1;
        if pending == 2 {
            registry.open_gate();
        }
    });
    assert_eq!(got, Ok(bytes));
    assert_eq!(pending, 2);
    assert_eq!(registry.count(|ask| ask.is_blob()), 1, "one transfer for all attempts");
}

#[test]
fn a_registry_that_fails_for_a_moment_is_asked_again_within_the_agents_patience() {
    let registry = Scripted::start();
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1.0.0", &raw(&bytes));
    registry.script(|_, _| Act::status(503));
    let larder = Home::new(&settings(&registry.host())).start();
    let got = download(larder.data, |_| registry.heal());
    assert_eq!(got, Ok(bytes));
}

#[test]
fn what_does_not_exist_delays_nobody() {
    let registry = Scripted::start();
    let larder = Home::new(&settings(&registry.host())).start();
    assert_eq!(download(larder.data, |_| {}), Err(vec![404]));
}

#[test]
fn the_shipped_hold_leaves_the_agent_time_to_hear_of_it() {
    let hold = larder::config::load(&larder::config::Sources::default()).unwrap().config.fill.hold;
    assert_eq!(hold, Duration::from_secs(12));
}
