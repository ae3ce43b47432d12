//! Many at once.

use crate::support::artifact::{module, raw};
use crate::support::heart::Heart;
use crate::support::larder::{Home, Larder, settings};
use crate::support::registry::Registry;
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};

/// The answers to `clients` requests that are sent at the same moment.
fn at_once(larder: &Larder, clients: usize, path: &str) -> Vec<(u16, Digest)> {
    let to = larder.data;
    let barrier = Arc::new(Barrier::new(clients));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (barrier, path) = (barrier.clone(), path.to_owned());
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    // Connected before the start, so that all requests leave together.
                    let mut stream: TcpStream = crate::support::client::connect(to).unwrap();
                    barrier.wait();
                    let text = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
                    std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
                    let reply = crate::support::client::read_reply(&mut stream, false).unwrap();
                    (reply.status, Digest::of(&reply.body))
                })
                .unwrap()
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn a_thousand_cold_clients_are_one_manifest_and_one_blob_by_the_registrys_own_count() {
    let registry = Registry::plain();
    let bytes = module("herd", 1_000_000);
    registry.push("plugins/herd", "1.0.0", &raw(&bytes));
    // However slow the machine is, nobody is sent away.
    let patient = [
        ("LARDER_FILL_HOLD", "5m"),
        ("LARDER_SERVER_SEND_RATE", "1"),
        ("LARDER_SERVER_HEADER_TIMEOUT", "5m"),
    ];
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &patient);
    let answers = at_once(&larder, 1000, "/plugins/herd/1.0.0/plugin.wasm");
    let right = (200, Digest::of(&bytes));
    let wrong: Vec<_> = answers.iter().filter(|answer| **answer != right).collect();
    assert!(answers.len() == 1000 && wrong.is_empty(), "{wrong:?}");
    assert_eq!(registry.count(&["GET /v2/plugins/herd/manifests/"]), 1);
    assert_eq!(registry.count(&["GET /v2/plugins/herd/blobs/"]), 1);
    assert_eq!(registry.count(&["/v2/"]), 2, "and nothing else was asked");
}

#[test]
fn an_error_reaches_all_who_wait() {
    let registry = Scripted::start();
    registry.put("plugins/herd", "1.0.0", &raw(&module("herd", 1000)));
    registry.script(|ask, truth| if ask.is_blob() { Act::status(500) } else { truth });
    let patient = [
        ("LARDER_REGISTRY_ATTEMPTS", "1"),
        ("LARDER_REGISTRY_FIRST_BYTE_TIMEOUT", "5m"),
        ("LARDER_FILL_HOLD", "5m"),
        ("LARDER_SERVER_HEADER_TIMEOUT", "5m"),
    ];
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &patient);
    registry.close_gate();
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| at_once(&larder, 100, "/plugins/herd/1.0.0/plugin.wasm"));
        crate::support::eventually("the blob being asked for", || {
            (registry.count(|ask| ask.is_blob()) > 0).then_some(())
        });
        crate::support::eventually("all requests waiting", || {
            (larder.metric("larder_fills_collapsed_total") >= 99.0).then_some(())
        });
        registry.open_gate();
        asking.join().unwrap()
    });
    assert_eq!(asking.iter().filter(|(status, _)| *status == 502).count(), 100);
    assert_eq!(registry.count(|ask| ask.is_blob()), 1);
}

#[test]
fn many_plugins_at_once_are_each_fetched_once() {
    let registry = Scripted::start();
    let modules: Vec<_> = (0..45).map(|n| module(&n.to_string(), 100_000)).collect();
    for (n, bytes) in modules.iter().enumerate() {
        registry.put(&format!("plugins/p{n}"), "1", &raw(bytes));
    }
    let larder = Larder::before(&registry.host());
    std::thread::scope(|scope| {
        for _pod in 0..4 {
            for (n, bytes) in modules.iter().enumerate() {
                let larder = &larder;
                scope.spawn(move || {
                    assert_eq!(&larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).body, bytes)
                });
            }
        }
    });
    assert_eq!(registry.count(|ask| ask.is_blob()), 45);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_panics_strands_nobody_is_begun_again_and_counted() {
    let heart = Arc::new(Heart::new());
    let bytes = module("panic", 5000);
    heart.registry.put("plugins/x", "1", &raw(&bytes));
    heart.panics.store(2, Ordering::SeqCst);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let heart = heart.clone();
            tokio::spawn(async move { heart.ok("x", "1").await.0 })
        })
        .collect();
    for served in waiting {
        assert_eq!(served.await.unwrap(), bytes);
    }
    assert_eq!(heart.metrics.fill_panics.get(), 2);
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 1);
    // One that panics whatever is done is an error to all, and to nobody else.
    heart.panics.store(1000, Ordering::SeqCst);
    assert_eq!(heart.code("y", "1").await, "internal");
    assert_eq!(heart.ok("x", "1").await.0, bytes);
    heart.panics.store(0, Ordering::SeqCst);
    heart.registry.put("plugins/y", "1", &raw(&bytes));
    heart.clock.advance(std::time::Duration::from_secs(3));
    assert_eq!(heart.ok("y", "1").await.0, bytes);
}
