//! Clients by the hundred and by the thousand: slow ones, silent ones, those that leave, and one of good will among them.

use crate::support::artifact::{module, raw};
use crate::support::crowd::{
    LARGE, LARGE_BYTES, PATIENCE, SMALL, at_rest, crowd, is_open, open_connections, served_meanwhile,
    slow_readers, stocked,
};
use crate::support::faults::is_long;
use crate::support::larder::{Home, settings};
use crate::support::process::{descriptors, resident};
use crate::support::scripted::Scripted;
use crate::support::{client, eventually, netns};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn two_thousand_who_send_a_byte_a_second_are_closed_at_the_deadline_and_nobody_else_notices() {
    // Time for all of them to come, on a busy machine too.
    const DEADLINE: Duration = Duration::from_secs(10);
    let (larder, small, _) = stocked(&[("LARDER_SERVER_HEADER_TIMEOUT", "10s")]);
    let before = descriptors(larder.id());
    served_meanwhile(&larder, &small, || {
        let begun = Instant::now();
        let mut slow = crowd(larder.data, 2000);
        for stream in &mut slow {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: l\r\nX: ").unwrap();
            stream.set_nonblocking(true).unwrap();
        }
        eventually("all of them being connected", || (open_connections(&larder) >= 2000.0).then_some(()));
        while !slow.is_empty() {
            let round = Instant::now();
            slow.retain_mut(|stream| is_open(stream) && stream.write(b"a").is_ok());
            assert!(begun.elapsed() < DEADLINE + PATIENCE, "{} are still connected", slow.len());
            std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
        }
        assert!(begun.elapsed() >= DEADLINE, "{:?}", begun.elapsed());
    });
    at_rest(&larder, before);
}

#[test]
fn five_hundred_slow_readers_share_what_is_in_memory_and_are_cut_off_below_the_least_rate() {
    slow_readers(&[], 64 << 20);
}

#[test]
fn a_flood_of_connections_is_closed_beyond_the_limit_and_leaves_nothing_behind() {
    // None of them is closed because the others take long to come.
    let (larder, small, _) =
        stocked(&[("LARDER_SERVER_CONNECTIONS", "200"), ("LARDER_SERVER_HEADER_TIMEOUT", "10m")]);
    let before = descriptors(larder.id());
    for _ in 0..if is_long() { 10 } else { 1 } {
        let mut flood = crowd(larder.data, 2000);
        let refused = flood.iter_mut().skip(200).filter(|stream| {
            let mut stream: &TcpStream = stream;
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            !matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        });
        assert_eq!(refused.count(), 1800);
        assert_eq!(open_connections(&larder), 200.0);
        assert!(descriptors(larder.id()) <= before + 201);
        drop(flood);
        at_rest(&larder, before);
        assert_eq!(larder.get(SMALL).body, small);
    }
    let line = "a connection could not be accepted";
    assert!(!larder.log_text().contains(line), "a full house is no fault");
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing_behind() {
    for memory in ["64MiB", "0"] {
        let (mut larder, small, _) = stocked(&[("LARDER_CACHE_MEMORY", memory)]);
        let before = descriptors(larder.id());
        let ask = format!("GET {LARGE} HTTP/1.1\r\nHost: l\r\n\r\n");
        let number = if is_long() { 5000 } else { 500 };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut half = vec![0; LARGE_BYTES / 2];
                    for _ in 0..number / 2 {
                        let mut stream = client::connect(larder.data).unwrap();
                        stream.write_all(ask.as_bytes()).unwrap();
                        stream.read_exact(&mut half).unwrap();
                    }
                });
            }
        });
        at_rest(&larder, before);
        let cut = |line: &serde_json::Value| line["path"] == LARGE && line["complete"] == false;
        larder.line("one who left before the end", cut);
        assert_eq!(larder.get(SMALL).body, small);
        // Who leaves waits for what is being answered; nothing is.
        larder.signal("TERM");
        assert_eq!(larder.wait().code(), Some(0));
        assert!(!larder.log_text().contains("cut off"), "nobody is being answered");
    }
}

#[test]
fn peers_that_vanish_are_given_up_whatever_they_were_doing() {
    if !netns::alone("crowd::peers_that_vanish_are_given_up_whatever_they_were_doing", &[]) {
        return;
    }
    let (larder, small, _) = stocked(&[
        // Long enough for all of them to be there before the first is given up; the rate gives as long for a MiB.
        ("LARDER_SERVER_HEADER_TIMEOUT", "8s"),
        ("LARDER_SERVER_IDLE_TIMEOUT", "8s"),
        ("LARDER_SERVER_SEND_RATE", "128KiB"),
    ]);
    let before = descriptors(larder.id());
    let mut peers = crowd(larder.data, 150);
    for (n, stream) in peers.iter_mut().enumerate() {
        match n % 3 {
            0 => stream.write_all(b"GET / HTTP/1.1\r\nHost: l\r\nX: ").unwrap(),
            1 => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: l\r\n\r\n").unwrap();
                assert_eq!(client::read_reply(stream, false).unwrap().status, 200);
            }
            _ => {
                stream.write_all(format!("GET {LARGE} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
                stream.read_exact(&mut [0; 1000]).unwrap();
            }
        }
    }
    assert_eq!(open_connections(&larder), 150.0);
    // The crowd's addresses are all in 127.1.0.0/16.
    netns::nft(
        "table inet test { chain in { type filter hook input priority 0;
            ip saddr 127.1.0.0/16 drop
            ip daddr 127.1.0.0/16 drop
        }
        }",
    );
    served_meanwhile(&larder, &small, || at_rest(&larder, before + 1));
    // Not before the end: closing says goodbye.
    drop(peers);
}

#[test]
fn a_storm_of_ranges_costs_no_more_than_the_whole() {
    let (larder, _, large) = stocked(&[("LARDER_CACHE_MEMORY", "0")]);
    let memory = resident(larder.id());
    let sent = || larder.metric("larder_response_bytes_total{route=\"plugin\"}");
    let ranges =
        |one: &dyn Fn(usize) -> String| format!("bytes={}", (0..200).map(one).collect::<Vec<_>>().join(","));
    for storm in [
        ranges(&|n| format!("{n}-{n}")),
        ranges(&|n| format!("{n}-")),
        ranges(&|_| "0-".into()),
        ranges(&|n| format!("-{}", n + 1)),
    ] {
        let begun = sent();
        let reply = larder.request("GET", LARGE, &[("Range", &storm)]);
        assert_eq!((reply.status, &reply.body), (200, &large), "{storm:.40}");
        eventually("the count", || (sent() - begun == large.len() as f64).then_some(()));
    }
    let begun = sent();
    let mut stream = client::connect(larder.data).unwrap();
    for n in 0..1000 {
        let at = n * 8000;
        let text = format!("GET {LARGE} HTTP/1.1\r\nHost: l\r\nRange: bytes={at}-{at}\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let reply = client::read_reply(&mut stream, false).unwrap();
        assert_eq!((reply.status, &reply.body[..]), (206, &large[at..=at]));
    }
    eventually("the count", || (sent() - begun == 1000.0).then_some(()));
    assert!(resident(larder.id()) < memory + (32 << 20));
}

#[test]
fn metrics_that_are_read_all_the_time_take_nothing_from_plugins() {
    let (larder, small, _) = stocked(&[]);
    served_meanwhile(&larder, &small, || {
        std::thread::scope(|scope| {
            for path in ["/metrics", "/readyz"] {
                scope.spawn(move || {
                    for _ in 0..if is_long() { 10_000 } else { 1000 } {
                        assert_eq!(client::get(larder.admin, path).status, 200);
                    }
                });
            }
        });
    });
}

#[test]
fn without_a_free_descriptor_connections_wait_and_come_to_their_turn() {
    let (larder, small, _) = stocked(&[("LARDER_SERVER_HEADER_TIMEOUT", "10m")]);
    let limit = |number: u32| {
        let id = larder.id().to_string();
        let mut command = std::process::Command::new("prlimit");
        assert!(command.args(["--pid", &id, &format!("--nofile={number}:")]).status().unwrap().success());
    };
    limit(64);
    let ask = format!("GET {SMALL} HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
    let mut silent = crowd(larder.data, 100);
    let mut waiting = client::connect(larder.data).unwrap();
    waiting.write_all(ask.as_bytes()).unwrap();
    eventually("a line in the log", || {
        larder.log().iter().find(|line| line["message"] == "a connection could not be accepted").map(|_| ())
    });
    // Those that are connected are answered, and with them descriptors come back.
    for stream in &mut silent[..50] {
        stream.write_all(ask.as_bytes()).unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().body, small);
    }
    drop(silent);
    assert_eq!(client::read_reply(&mut waiting, false).unwrap().body, small);
    limit(1024);
    assert_eq!(larder.get(SMALL).body, small);
    assert_eq!(larder.metric("larder_quarantined_total"), 0.0);
}

#[test]
fn a_log_on_a_full_disk_stops_no_request_and_its_lost_lines_are_counted() {
    if !netns::alone("crowd::a_log_on_a_full_disk_stops_no_request_and_its_lost_lines_are_counted", &[]) {
        return;
    }
    let registry = Scripted::start();
    let small = module("small", 5000);
    registry.put("plugins/small", "1", &raw(&small));
    let home = Home::new(&settings(&registry.host()));
    let disk = home.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "none"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(mounted.success());
    // The first start's log.
    std::os::unix::fs::symlink(disk.join("log"), home.path().join("log.1")).unwrap();
    let larder = home.start();
    eventually("a full disk", || {
        assert_eq!(larder.get(SMALL).body, small);
        (std::fs::metadata(disk.join("log")).unwrap().len() == 64 << 10).then_some(())
    });
    for _ in 0..100 {
        assert_eq!(larder.get(SMALL).body, small);
    }
    eventually("the lost lines in the metrics", || {
        (larder.metric("larder_log_lines_dropped_total") > 0.0).then_some(())
    });
    // With room again, lines are written again.
    std::fs::OpenOptions::new().write(true).open(disk.join("log")).unwrap().set_len(0).unwrap();
    eventually("a line that is whole", || {
        larder.get("/after");
        larder.log_text().contains("/after").then_some(())
    });
}

/// What `number` connections cost of memory that stay idle, each after `begin`.
fn idle_bytes(number: usize, begin: impl Fn(&mut TcpStream)) -> u64 {
    let (larder, small, _) =
        stocked(&[("LARDER_SERVER_HEADER_TIMEOUT", "10m"), ("LARDER_SERVER_IDLE_TIMEOUT", "10m")]);
    // What a first crowd leaves behind is there for the next one.
    let before = descriptors(larder.id());
    drop(crowd(larder.data, 200));
    at_rest(&larder, before);
    let without = resident(larder.id());
    let mut idle = crowd(larder.data, number);
    idle.iter_mut().for_each(begin);
    eventually("all of them being connected", || (open_connections(&larder) >= number as f64).then_some(()));
    let with = resident(larder.id());
    assert_eq!(larder.get(SMALL).body, small, "who comes now is served");
    with.saturating_sub(without) / number as u64
}

/// Most bytes of an idle connection: 10,000 of them are 128 MiB.
const IDLE_BYTES: u64 = 13 << 10;

#[test]
fn an_idle_connection_keeps_neither_buffers_nor_what_an_answer_needed() {
    let silent = idle_bytes(2000, |_| {});
    let used = idle_bytes(2000, |stream| {
        stream.write_all(format!("GET {SMALL} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().status, 200);
    });
    assert!(silent < IDLE_BYTES && used < IDLE_BYTES, "{silent} before a request and {used} after one");
}
