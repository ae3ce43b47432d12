//! Faults of every kind, one after another, at a constant load: not a wrong byte, nobody waits for ever, and what is held is
//! always there. A minute's part of it in the short form, an hour in the long one.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::faults::is_long;
use crate::support::fsck;
use crate::support::inject::Injected;
use crate::support::larder::{Home, Larder, settings};
use crate::support::netns;
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Plugins that are asked for all the time, and held from the beginning.
const HELD: usize = 6;
/// Plugins that come and go; the disk is too small for all, and large enough that many of them have their turn before one that
/// is asked for all the time is the one not used for longest.
const OTHERS: usize = 24;
/// Longest time of an answer: a gateway waits no longer.
const PATIENCE: Duration = Duration::from_secs(15);
const BYTES: usize = 400_000;

/// Where larder is right now; nobody is blamed for what it does while it is killed.
struct Target {
    address: Mutex<SocketAddr>,
    is_there: AtomicBool,
}

impl Target {
    fn moved(&self, larder: &Larder) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = larder.data;
        self.is_there.store(true, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    refused: AtomicU64,
    held: AtomicU64,
}

fn plugin(n: usize) -> Vec<u8> {
    module(&format!("soak {n}"), BYTES + n * 1000)
}

/// Asks until it is told to stop; fails for a wrong byte, a held one that is not served, and an answer that does not come.
fn load(first: usize, target: &Target, right: &[Digest], stop: &AtomicBool, counts: &Counts) {
    let mut n = first;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        // Half of the loads ask for what is held, and never wait for anything else: what is in use is not evicted.
        let plugin = if first.is_multiple_of(2) { n % HELD } else { HELD + n % OTHERS };
        let was_there = target.is_there.load(Ordering::SeqCst);
        let address = *target.address.lock().unwrap_or_else(PoisonError::into_inner);
        let request =
            format!("GET /plugins/p{plugin}/1/plugin.wasm HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let began = Instant::now();
        let reply = client::raw(address, request.as_bytes());
        let is_there = was_there && target.is_there.load(Ordering::SeqCst);
        assert!(began.elapsed() < PATIENCE || !is_there, "an answer took {:?}", began.elapsed());
        match reply {
            Ok(reply) if reply.status == 200 => {
                assert_eq!(Digest::of(&reply.body), right[plugin], "wrong bytes of p{plugin}");
                counts.served.fetch_add(1, Ordering::Relaxed);
                counts.held.fetch_add(u64::from(plugin < HELD), Ordering::Relaxed);
            }
            Ok(reply) => {
                assert!(matches!(reply.status, 502..=504), "p{plugin}: {} {}", reply.status, reply.text());
                assert!(plugin >= HELD, "p{plugin} is held, and {} {}", reply.status, reply.text());
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => assert!(!is_there, "p{plugin}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ask_for_held(larder: &Larder) {
    for n in 0..HELD {
        let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
        assert_eq!(reply.status, 200, "p{n}: {}", reply.text());
    }
}

/// What goes wrong for a while.
#[derive(Debug, Clone, Copy)]
enum Fault {
    RegistryDown,
    RegistryFlaps,
    RegistryLies,
    RegistryIsSlow,
    DiskFull,
    DiskFails,
    DiskIsSlow,
    Killed,
    Told,
}

const FAULTS: [Fault; 9] = [
    Fault::RegistryDown,
    Fault::DiskFull,
    Fault::RegistryFlaps,
    Fault::Killed,
    Fault::DiskFails,
    Fault::RegistryLies,
    Fault::DiskIsSlow,
    Fault::RegistryIsSlow,
    Fault::Told,
];

/// Lets `fault` last for `time` and ends it. Which larder is there then.
fn suffer(fault: Fault, larder: Larder, registry: &Scripted, target: &Target, time: Duration) -> Larder {
    let wait = || std::thread::sleep(time);
    let ballast = larder.home.cache().join("ballast");
    match fault {
        Fault::RegistryDown => {
            registry.down();
            wait();
        }
        Fault::RegistryFlaps => {
            let turn = AtomicU64::new(0);
            registry.script(move |_, truth| match turn.fetch_add(1, Ordering::SeqCst) % 2 {
                0 => Act::status(500),
                _ => truth,
            });
            wait();
        }
        Fault::RegistryLies => {
            registry.script(|ask, mut truth| {
                if ask.is_blob() && truth.body.len() > 100 {
                    truth.body[100] ^= 1;
                }
                truth
            });
            wait();
        }
        Fault::RegistryIsSlow => {
            registry.script(|ask, truth| match ask.is_blob() {
                true => Act { pace: Some((20_000, Duration::from_millis(50))), ..truth },
                false => truth,
            });
            wait();
        }
        Fault::DiskFull => {
            // As much as there is, and never all that it holds.
            let _ = std::fs::write(&ballast, vec![1; 64 << 20]);
            wait();
        }
        Fault::DiskFails => {
            let failing = Injected::into(larder.id(), "fsync", "error=EIO");
            wait();
            drop(failing);
        }
        Fault::DiskIsSlow => {
            let slow = Injected::into(larder.id(), "fsync", "delay_enter=300ms");
            wait();
            drop(slow);
        }
        Fault::Killed | Fault::Told => {
            target.is_there.store(false, Ordering::SeqCst);
            let home = match fault {
                Fault::Killed => larder.kill(),
                _ => {
                    let mut larder = larder;
                    larder.signal("TERM");
                    assert_eq!(larder.wait().code(), Some(0));
                    larder.kill()
                }
            };
            fsck::check(&home.cache(), "after its end");
            let larder = home.start();
            // Last uses are written down once a minute, so that a killed one may have forgotten which these are.
            ask_for_held(&larder);
            target.moved(&larder);
            return larder;
        }
    }
    registry.heal();
    let _ = std::fs::remove_file(&ballast);
    larder
}

#[test]
fn faults_of_every_kind_at_a_constant_load_cost_no_wrong_byte_and_nothing_that_is_held() {
    let name = "soak::faults_of_every_kind_at_a_constant_load_cost_no_wrong_byte_and_nothing_that_is_held";
    if !netns::alone_for(name, &[], if is_long() { 4200 } else { 180 }) {
        return;
    }
    let (whole, each) = match is_long() {
        true => (Duration::from_secs(3600), Duration::from_secs(20)),
        false => (Duration::from_secs(20), Duration::from_secs(2)),
    };
    let registry = Scripted::start();
    let right: Vec<_> = (0..HELD + OTHERS)
        .map(|n| {
            registry.put(&format!("plugins/p{n}"), "1", &raw(&plugin(n)));
            Digest::of(&plugin(n))
        })
        .collect();
    let more = "cache: {disk: 10MiB, memory: 2MiB, retry: 500ms, scrub: 60s}\nlimits: {module: 1MiB}\n\
                lifetimes: {tag: 1s, transient: 200ms, unusable: 200ms}\noverlay: {dirs: []}\n";
    let home = Home::new(&(settings(&registry.host()) + more));
    std::fs::create_dir(home.cache()).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "none"]).arg(home.cache()).status();
    assert!(mounted.unwrap().success());
    let larder = home.start();
    let target = Target { address: Mutex::new(larder.data), is_there: AtomicBool::new(true) };
    ask_for_held(&larder);
    let (stop, counts) = (AtomicBool::new(false), Counts::default());
    let mut there = Some(larder);
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4)
            .map(|n| {
                let (target, right, stop, counts) = (&target, &right, &stop, &counts);
                scope.spawn(move || {
                    let _stop = StopAll(stop);
                    load(n * 31, target, right, stop, counts);
                })
            })
            .collect();
        let began = Instant::now();
        for fault in FAULTS.iter().cycle().copied() {
            if began.elapsed() > whole || stop.load(Ordering::SeqCst) {
                break;
            }
            let larder = suffer(fault, there.take().unwrap(), &registry, &target, each);
            assert!(!larder.log_text().contains("panicked"), "{fault:?}: {}", larder.log_text());
            there = Some(larder);
        }
        stop.store(true, Ordering::SeqCst);
        for load in loads {
            load.join().unwrap();
        }
    });
    let (served, refused) = (counts.served.into_inner(), counts.refused.into_inner());
    eprintln!(
        "{served} answers with right bytes, {} of them of what is held; {refused} refusals",
        counts.held.into_inner()
    );
    assert!(served > 100, "{served} answers, {refused} refusals");
    fsck::check(&there.unwrap().home.cache(), "in the end");
}

/// When one load fails the others and the faults end too.
struct StopAll<'s>(&'s AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
