//! kill -9 at any moment leaves only complete things.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::eventually;
use crate::support::faults::is_long;
use crate::support::fsck;
use crate::support::heart::files;
use crate::support::larder::{Home, settings};
use crate::support::scripted::Scripted;
use larder::oci::Digest;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Kills in the middle of fetches: two hundred, or two thousand.
fn kills() -> u32 {
    if is_long() { 2000 } else { 200 }
}

/// The plugins that are fetched; more than the disk may hold, so that evictions run too.
const PLUGINS: u32 = 12;

#[test]
fn hundreds_of_kills_in_the_middle_of_fetches_leave_no_wrong_byte_and_nothing_partial() {
    let registry = Scripted::start();
    let mut right = HashMap::new();
    for n in 0..PLUGINS {
        let bytes = module(&format!("kill {n}"), 300_000 + n as usize * 10_000);
        registry.put(&format!("plugins/p{n}"), "1", &raw(&bytes));
        right.insert(n, Digest::of(&bytes));
    }
    let mut home = Home::new(&(settings(&registry.host()) + "cache: {disk: 3MiB}\nlimits: {module: 1MiB}\n"));
    let served = AtomicU32::new(0);
    for round in 0..kills() {
        let larder = home.start();
        let to = larder.data;
        let stop = AtomicBool::new(false);
        let before = served.load(Ordering::SeqCst);
        home = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    let (right, stop, served) = (&right, &stop, &served);
                    scope.spawn(move || {
                        for step in 0.. {
                            let n = (round * 7 + client * 4 + step) % PLUGINS;
                            let text = format!("GET /plugins/p{n}/1/plugin.wasm HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
                            if stop.load(Ordering::SeqCst) {
                                break;
                            }
                            // Whatever arrives whole with 200 must be right; a connection may break at the kill.
                            if let Ok(reply) = client::raw(to, text.as_bytes())
                                && reply.status == 200
                            {
                                assert_eq!(Digest::of(&reply.body), right[&n], "wrong bytes were served");
                                served.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    })
                })
                .collect();
            // The moment of the kill: after none to three answers, and then spread over the life of a fetch.
            eventually("an answer", || (served.load(Ordering::SeqCst) >= before + round % 4).then_some(()));
            std::thread::sleep(Duration::from_millis(u64::from(round * 37 % 40)));
            let home = larder.kill();
            stop.store(true, Ordering::SeqCst);
            clients.into_iter().for_each(|client| client.join().unwrap());
            home
        });
        fsck::check(&home.cache(), "after a kill");
    }
    let served = served.into_inner();
    assert!(served > kills(), "the kills came before anything was served: {served}");
    let larder = home.start();
    assert!(files(&larder.home.cache().join("v1/tmp")).is_empty(), "drafts are removed at the start");
    assert!(files(&larder.home.cache().join("v1/quarantine")).is_empty(), "nothing was damaged");
    for (n, digest) in &right {
        let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
        assert_eq!((reply.status, Digest::of(&reply.body)), (200, *digest));
    }
}
