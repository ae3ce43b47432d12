//! HTTP/2 without TLS, where it is switched on: what it answers, and what floods of frames cost.

use crate::support::client;
use crate::support::crowd::{
    LARGE, LARGE_BYTES, SMALL, at_rest, open_connections, served_meanwhile, stocked,
};
use crate::support::eventually;
use crate::support::faults::is_long;
use crate::support::h2::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, FRAME_BYTES, HEADERS, PING, RST_STREAM,
    SETTINGS, field, frame, octets, request,
};
use crate::support::larder::Larder;
use crate::support::process::{descriptors, resident};
use std::io::Write;
use std::time::Duration;

/// What a flood may cost.
const MOST: u64 = 50 << 20;

fn started(variables: &[(&str, &str)]) -> (Larder, Vec<u8>, Vec<u8>) {
    stocked(&[&[("LARDER_SERVER_H2C", "true")], variables].concat())
}

#[test]
fn both_protocols_are_answered_on_one_port_and_bad_paths_alike() {
    let (larder, small, _) = started(&[]);
    let mut connection = Connection::open(larder.data, &[]);
    assert_eq!(connection.get(1, &request("GET", SMALL)), (200, small.clone()));
    assert_eq!(larder.get(SMALL).body, small, "HTTP/1.1");
    let mut stream = 1;
    for (method, path, status, code) in [
        ("GET", "/plugins/../../etc/passwd/plugin.wasm", 400, "bad_path"),
        ("GET", "/plugins/%2e%2e/1/plugin.wasm", 400, "bad_path"),
        ("GET", "/plugins/a\\b/1/plugin.wasm", 400, "bad_path"),
        ("GET", "/plugins/A/1/plugin.wasm", 400, "bad_name"),
        ("GET", "/plugins/small/+/plugin.wasm", 400, "bad_version"),
        ("GET", "/plugins/small/1/plugin.wat", 404, "no_route"),
        ("GET", "/%24%7Bname%7D.wasm", 400, "unexpanded_template"),
        ("POST", SMALL, 405, "method_not_allowed"),
        ("GET", &format!("/{}", "a".repeat(9000)), 414, "target_too_long"),
    ] {
        stream += 2;
        let (got, body) = connection.get(stream, &request(method, path));
        assert_eq!(got, status, "{path:.60}");
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], code, "{path:.60}");
    }
    for method in ["HEAD", "GET"] {
        stream += 2;
        let (status, body) = connection.get(stream, &request(method, SMALL));
        assert_eq!((status, body.len()), (200, if method == "GET" { small.len() } else { 0 }));
    }
    // A stream error or a refusal; never the answer for another host.
    for fields in [field("host", "evil"), [field("x", &"a".repeat(17_000))].concat()] {
        stream += 2;
        let (status, _) = connection.get(stream, &[request("GET", SMALL), fields].concat());
        assert!(matches!(status, 0 | 400 | 421 | 431), "{status}");
    }
}

/// When the connection of a flood has to end.
#[derive(PartialEq)]
enum Ends {
    /// While it goes on.
    Within,
    /// At the latest when it is over and nothing is left to answer.
    Behind,
}

/// Sends so many pieces on a connection of its own, while a client of good will is served, and sees it end.
fn flooded(ends: Ends, times: usize, mut piece: impl FnMut(usize) -> Vec<u8>) {
    let (larder, small, _) = started(&[("LARDER_SERVER_IDLE_TIMEOUT", "2s")]);
    let (before, memory) = (descriptors(larder.id()), resident(larder.id()));
    let times = if is_long() { times * 10 } else { times };
    served_meanwhile(&larder, &small, || {
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut peak = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    peak = peak.max(resident(larder.id()));
                    std::thread::sleep(Duration::from_millis(20));
                }
                let grown = peak.saturating_sub(memory);
                assert!(grown < MOST, "{} MiB more", grown >> 20);
            });
            let mut connection = Connection::open(larder.data, &[]);
            let refused = connection.flood(times, &mut piece);
            let ended = refused || (ends == Ends::Behind && connection.is_ended());
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(ended, "the connection stays");
        });
    });
    at_rest(&larder, before);
    let mut after = Connection::open(larder.data, &[]);
    assert_eq!(after.get(1, &request("GET", SMALL)), (200, small));
}

#[test]
fn streams_that_are_reset_as_soon_as_they_begin_end_the_connection() {
    let fields = request("GET", LARGE);
    flooded(Ends::Within, 50_000, |n| {
        let stream = u32::try_from(2 * n + 1).unwrap();
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields);
        [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
}

#[test]
fn a_head_that_goes_on_and_on_ends_the_connection() {
    let part = field("x", &"a".repeat(FRAME_BYTES - 100));
    flooded(Ends::Within, 5000, |n| match n {
        0 => frame(HEADERS, END_STREAM, 1, &request("GET", SMALL)),
        _ => frame(CONTINUATION, 0, 1, &part),
    });
    // And without anything in it.
    flooded(Ends::Within, 100_000, |n| match n {
        0 => frame(HEADERS, END_STREAM, 1, &request("GET", SMALL)),
        _ => frame(CONTINUATION, 0, 1, &[]),
    });
}

#[test]
fn a_head_that_unpacks_to_megabytes_is_not_unpacked() {
    // A field of 3 KiB is remembered, and then named 16 000 times in one octet each.
    let remembered = [vec![0x40], octets(b"x"), octets(&[b'a'; 3000])].concat();
    let bomb = [request("GET", SMALL), vec![0xbe; FRAME_BYTES - 200]].concat();
    flooded(Ends::Behind, 500, |n| {
        let stream = u32::try_from(2 * n + 1).unwrap();
        let fields = if n == 0 { [request("GET", SMALL), remembered.clone()].concat() } else { bomb.clone() };
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields)
    });
}

#[test]
fn settings_pings_and_empty_frames_without_end_cost_nothing_that_stays() {
    flooded(Ends::Behind, 200_000, |_| frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0]));
    flooded(Ends::Behind, 200_000, |_| frame(PING, 0, 0, &[0; 8]));
    flooded(Ends::Behind, 500_000, |n| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &request("POST", SMALL)),
        _ => frame(DATA, 0, 1, &[]),
    });
}

#[test]
fn who_opens_streams_and_takes_nothing_holds_little_and_is_cut_off() {
    for memory_setting in ["64MiB", "0"] {
        let (larder, small, _) = started(&[
            ("LARDER_CACHE_MEMORY", memory_setting),
            ("LARDER_SERVER_SEND_RATE", "4MiB"),
            ("LARDER_SERVER_IDLE_TIMEOUT", "2s"),
        ]);
        let (before, memory) = (descriptors(larder.id()), resident(larder.id()));
        let mut peak = 0;
        served_meanwhile(&larder, &small, || {
            // No window at all, so that not a byte of a body may leave.
            let mut connections: Vec<_> = (0..3).map(|_| Connection::open(larder.data, &[(4, 0)])).collect();
            for connection in &mut connections {
                for n in 0..100 {
                    let ask = frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &request("GET", LARGE));
                    // On a busy machine it may be cut off by now.
                    let _ = connection.stream.write_all(&ask);
                }
            }
            eventually("the end of every connection", || {
                peak = peak.max(resident(larder.id()));
                // The client of good will has one.
                (open_connections(&larder) <= 1.0).then_some(())
            });
        });
        at_rest(&larder, before);
        let grown = peak.saturating_sub(memory);
        assert!(
            grown < MOST,
            "{} MiB more for {} MiB asked for, with {memory_setting} of memory",
            grown >> 20,
            (300 * LARGE_BYTES) >> 20
        );
    }
}

#[test]
fn who_begins_neither_protocol_is_closed_at_the_deadline() {
    let (larder, _, _) =
        started(&[("LARDER_SERVER_HEADER_TIMEOUT", "1s"), ("LARDER_SERVER_IDLE_TIMEOUT", "2s")]);
    for begun in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = client::connect(larder.data).unwrap();
        stream.write_all(begun).unwrap();
        let shown = String::from_utf8_lossy(begun).into_owned();
        eventually(&format!("the end of {shown:?}"), || (open_connections(&larder) == 0.0).then_some(()));
    }
}
