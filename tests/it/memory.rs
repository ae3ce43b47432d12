//! Memory has limits, whatever is asked for: under the limit of a stock pod nothing is killed.

use crate::support::artifact::{OCI_MANIFEST, artifact, module, raw};
use crate::support::cgroup::Cgroup;
use crate::support::client;
use crate::support::eventually;
use crate::support::faults::is_long;
use crate::support::larder::{Home, Larder, settings};
use crate::support::process;
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use std::collections::HashMap;

/// The limit of the stock chart.
const POD: u64 = 256 << 20;
/// What larder may take of it: the kernel counts sockets and files too, and gives those back when it must.
const MOST: u64 = 240 << 20;

/// Plugins at once.
fn number() -> usize {
    if is_long() { 100 } else { 30 }
}

/// Asks for all of `names` at once, again and again as a gateway does, until all were served; counts statuses.
fn until_served(larder: &Larder, right: &HashMap<String, Digest>) -> HashMap<u16, u32> {
    let statuses = std::sync::Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        for (name, digest) in right {
            let statuses = &statuses;
            scope.spawn(move || {
                eventually(name, || {
                    let reply = client::get(larder.data, &format!("/plugins/{name}/1/plugin.wasm"));
                    *statuses.lock().unwrap().entry(reply.status).or_default() += 1;
                    match reply.status {
                        200 => assert_eq!(Digest::of(&reply.body), *digest, "wrong bytes"),
                        // On a machine that is busy with other tests the registry may be too slow.
                        503 | 504 => return None,
                        other => panic!("{name}: {other} {}", reply.text()),
                    }
                    Some(())
                });
            });
        }
    });
    statuses.into_inner().unwrap()
}

/// A registry with `number` modules of `bytes` each, and their digests by name.
fn stocked(number: usize, bytes: usize) -> (Scripted, HashMap<String, Digest>) {
    let registry = Scripted::start();
    let right = (0..number).map(|n| {
        let module = module(&format!("crowd {n}"), bytes);
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module));
        (format!("p{n}"), Digest::of(&module))
    });
    let right = right.collect();
    (registry, right)
}

/// The most memory that a larder had, in bytes.
fn peak(larder: &Larder) -> u64 {
    process::peak(larder.id())
}

#[test]
fn dozens_of_cold_plugins_at_once_fit_a_stock_pod() {
    let (registry, right) = stocked(number(), 8 << 20);
    let cgroup = Cgroup::of("cold", POD);
    let larder = Home::new(&settings(&registry.host())).under(&cgroup.starter()).start();
    until_served(&larder, &right);
    assert_eq!(cgroup.kills(), 0);
    assert!(peak(&larder) < MOST, "the peak is {} MiB", peak(&larder) >> 20);
    assert_eq!(registry.count(|ask| ask.is_blob()), right.len(), "one transfer each");
}

#[test]
fn dozens_of_cold_plugins_at_once_fit_a_stock_pod_whose_disk_takes_nothing() {
    let (registry, right) = stocked(number(), 4 << 20);
    let cgroup = Cgroup::of("broken", POD);
    let home = Home::new(&settings(&registry.host())).under(&cgroup.starter());
    std::fs::write(home.cache(), "").unwrap();
    let larder = home.start();
    // What is held makes way for others, so that each is served once and not all are kept.
    until_served(&larder, &right);
    assert_eq!(cgroup.kills(), 0);
    assert!(peak(&larder) < MOST, "the peak is {} MiB", peak(&larder) >> 20);
    assert!(larder.metric("larder_cache_bytes{tier=\"held\"}") <= (32 << 20) as f64);
}

#[test]
fn manifests_and_windows_that_are_as_large_as_allowed_fit_a_stock_pod() {
    let registry = Scripted::start();
    let mut right = HashMap::new();
    // Each needs a decoder with a window of 32 MiB, which is all that a layer may ask for.
    for n in 0..if is_long() { 40 } else { 12 } {
        let module = module(&format!("window {n}"), 3 << 20);
        let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
        packer.window_log(25).unwrap();
        packer.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut packer, &module).unwrap();
        let layer = packer.finish().unwrap();
        let packed = "application/vnd.oci.image.layer.v1.tar+zstd";
        registry.put(&format!("plugins/p{n}"), "1", &artifact(OCI_MANIFEST, "x/y", &[(packed, layer)], b""));
        right.insert(format!("p{n}"), Digest::of(&module));
    }
    // And manifests of 4 MiB of nothing beside them.
    registry.script(|ask, truth| match ask.path.contains("/vast") {
        true => Act::status(200).header("Content-Type", OCI_MANIFEST).body(vec![b'['; 4 << 20]),
        false => truth,
    });
    let cgroup = Cgroup::of("vast", POD);
    let larder = Home::new(&settings(&registry.host())).under(&cgroup.starter()).start();
    std::thread::scope(|scope| {
        for n in 0..60 {
            let larder = &larder;
            scope.spawn(move || {
                let reply = client::get(larder.data, &format!("/plugins/vast{n}/1/plugin.wasm"));
                assert!(matches!(reply.status, 422 | 503 | 504), "{}", reply.text());
            });
        }
        until_served(&larder, &right);
    });
    assert_eq!(cgroup.kills(), 0);
    assert!(peak(&larder) < MOST, "the peak is {} MiB", peak(&larder) >> 20);
}
