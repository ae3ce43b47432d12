//! What clients may cost together and each: connections of an address, heads, bytes on their way from disk, and the
//! patience with who takes nothing.

use crate::support::crowd::{
    LARGE, PATIENCE, SMALL, at_rest, connect_from, connect_narrow, crowd, open_connections, served_meanwhile,
    slow_readers, stocked,
};
use crate::support::process::{descriptors, resident};
use crate::support::{client, eventually};
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const HERE: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 2);

#[test]
fn an_address_has_its_own_number_of_connections_and_takes_none_from_others() {
    let (larder, small, _) =
        stocked(&[("LARDER_SERVER_CONNECTIONS_PER_ADDRESS", "3"), ("LARDER_SERVER_CONNECTIONS", "5")]);
    let before = descriptors(larder.id());
    let ask = format!("GET {SMALL} HTTP/1.1\r\nHost: l\r\n\r\n");
    // None: closed without a word.
    let asked = |from: Ipv4Addr| {
        let mut stream = connect_from(from, larder.data);
        // A connection that was closed already may refuse the bytes, or their answer.
        let sent = stream.write_all(ask.as_bytes());
        let reply = sent.and_then(|()| client::read_reply(&mut stream, false)).ok()?;
        assert_eq!((reply.status, &reply.body), (200, &small));
        Some(stream)
    };
    let refused = |reason: &str| {
        let name = format!("larder_connections_refused_total{{listener=\"data\",reason=\"{reason}\"}}");
        larder.metric(&name)
    };
    at_rest(&larder, before);
    let mut held: Vec<_> = (0..3).map(|n| asked(HERE).unwrap_or_else(|| panic!("connection {n}"))).collect();
    assert!(asked(HERE).is_none(), "a fourth");
    assert_eq!((refused("address"), refused("total")), (1.0, 0.0));
    held.push(asked(THERE).expect("another address has its own"));
    held.push(asked(THERE).expect("another address has its own"));
    assert!(asked(THERE).is_none(), "a sixth of all");
    assert_eq!((refused("address"), refused("total")), (1.0, 1.0));
    for stream in &mut held {
        stream.write_all(ask.as_bytes()).unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().body, small, "those that are here stay");
    }
    held.remove(0);
    let free = eventually("a free place for the address", || asked(HERE));
    drop((free, held));
    at_rest(&larder, before);
    assert!(asked(HERE).is_some() && asked(THERE).is_some());
}

#[test]
fn heads_of_a_mebibyte_are_refused_before_they_are_held() {
    let (larder, small, _) = stocked(&[]);
    let (before, memory) = (descriptors(larder.id()), resident(larder.id()));
    // Well under what is refused, it is read to its end and judged by its size.
    let head = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: l\r\nX: {}\r\n\r\n", "a".repeat(bytes));
    for bytes in [17_000, 33_000, 60_000] {
        let reply = client::raw(larder.data, head(bytes).as_bytes()).unwrap();
        assert_eq!(reply.status, 431, "{bytes}");
    }
    let whole = head(1 << 20);
    let mut peak = 0;
    served_meanwhile(&larder, &small, || {
        let mut greedy = crowd(larder.data, 500);
        // All but the end, so that who would hold it has to go on holding it.
        for stream in &mut greedy {
            stream.set_nonblocking(true).unwrap();
        }
        let mut sent = vec![0; greedy.len()];
        let until = Instant::now() + PATIENCE;
        // What leaves is what larder takes; one that is refused takes no more.
        eventually("the end of every connection", || {
            for (stream, sent) in greedy.iter_mut().zip(&mut sent) {
                while let Ok(bytes) = stream.write(&whole.as_bytes()[*sent..whole.len() - 4]) {
                    *sent += bytes;
                    if bytes == 0 {
                        break;
                    }
                }
            }
            peak = peak.max(resident(larder.id()));
            let open = open_connections(&larder);
            assert!(Instant::now() < until, "{open} are open");
            (open <= 1.0).then_some(())
        });
    });
    at_rest(&larder, before);
    // What 500 connections cost, and what each may have sent.
    let grown = peak.saturating_sub(memory);
    assert!(grown < 500 * (64 << 10) + (16 << 20), "{} MiB more", grown >> 20);
    let refused = larder.metric("larder_requests_total{cache=\"none\",route=\"none\",status=\"431\"}");
    assert_eq!(refused, 503.0, "each is answered and counted");
}

#[test]
fn a_head_is_too_large_however_much_too_large_it_is() {
    let (larder, ..) = stocked(&[]);
    let fields = format!("GET / HTTP/1.1\r\nHost: l\r\n{}\r\n", "X: y\r\n".repeat(300));
    let path = format!("GET /{} HTTP/1.1\r\nHost: l\r\n\r\n", "a".repeat(100_000));
    let query = format!("GET {SMALL}?{} HTTP/1.1\r\nHost: l\r\n\r\n", "a".repeat(65_536));
    for (head, statuses) in [(fields, &[431][..]), (path, &[414, 431]), (query, &[414, 431])] {
        let reply = client::raw(larder.data, head.as_bytes()).unwrap();
        assert!(statuses.contains(&reply.status), "{}: {head:.60}", reply.status);
    }
}

#[test]
fn readers_of_what_is_on_disk_wait_for_each_other_and_hold_no_more_than_is_set() {
    // The default of 32 MiB; without it, 500 pieces of 256 KiB would be 125. The rest is what 500 connections cost.
    slow_readers(&[("LARDER_CACHE_MEMORY", "0")], (32 << 20) + (64 << 20));
}

#[test]
fn a_reader_that_stalls_holds_up_others_no_longer_than_the_least_rate_allows() {
    let (larder, small, large) = stocked(&[
        ("LARDER_CACHE_MEMORY", "0"),
        ("LARDER_SERVER_SEND_MEMORY", "1MiB"),
        ("LARDER_SERVER_SEND_RATE", "256KiB"),
    ]);
    let before = descriptors(larder.id());
    served_meanwhile(&larder, &small, || {
        let mut stalled = crowd(larder.data, 20);
        for stream in &mut stalled {
            stream.write_all(format!("GET {LARGE} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
        }
        let begun = Instant::now();
        assert_eq!(larder.get(LARGE).body, large);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    });
    at_rest(&larder, before);
    let mut whole = crowd(larder.data, 20);
    for stream in &mut whole {
        stream.write_all(format!("GET {SMALL} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
    }
    for stream in &mut whole {
        assert_eq!(client::read_reply(stream, false).unwrap().body, small, "what was held is free again");
    }
}
#[test]
fn a_client_that_asks_and_asks_and_reads_nothing_is_cut_off_whatever_it_asks_for() {
    let (larder, small, _) =
        stocked(&[("LARDER_SERVER_IDLE_TIMEOUT", "2s"), ("LARDER_SERVER_SEND_BUFFER", "64KiB")]);
    let before = descriptors(larder.id());
    let etag = larder.get(SMALL).header("etag").to_owned();
    at_rest(&larder, before);
    let answered = || {
        let text = client::get(larder.admin, "/metrics").text();
        let plugins = text
            .lines()
            .filter(|line| line.starts_with("larder_requests_total{") && line.contains("\"plugin\""));
        plugins.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    for (method, field) in [("GET", "X: y"), ("HEAD", "X: y"), ("GET", &format!("If-None-Match: {etag}"))] {
        let mut stream = connect_narrow(larder.data);
        let ask = format!("{method} {SMALL} HTTP/1.1\r\nHost: l\r\n{field}\r\n\r\n");
        // Until no answer leaves any more, because the kernel's buffers are full.
        let is_answered = |before: f64| {
            let until = Instant::now() + Duration::from_millis(500);
            std::iter::repeat_with(answered).take_while(|_| Instant::now() < until).any(|now| now > before)
        };
        loop {
            let before = answered();
            if stream.write_all(ask.as_bytes()).is_err() || !is_answered(before) {
                break;
            }
        }
        eventually(&format!("the end of the connection of {method}, {field}"), || {
            (open_connections(&larder) == 0.0).then_some(())
        });
        assert_eq!(larder.get(SMALL).body, small);
    }
}
