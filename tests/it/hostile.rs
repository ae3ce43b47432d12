//! Requests that no client of good will sends, over a raw socket.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use std::io::{Read, Write};

fn started() -> (Scripted, Larder) {
    let registry = Scripted::start();
    registry.put("plugins/x", "1", &raw(&module("x", 500)));
    let larder = Larder::before(&registry.host());
    (registry, larder)
}

/// The status of what is sent, 0 when the connection is closed without one; and whether it was closed after it.
fn sent(larder: &Larder, bytes: &[u8]) -> (u16, bool) {
    let mut stream = client::connect(larder.data).unwrap();
    stream.write_all(bytes).unwrap();
    let status = client::read_reply(&mut stream, false).map_or(0, |reply| reply.status);
    // Longer than a busy machine takes to close, and shorter than one that stays open is let be idle.
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let closed = matches!(stream.read(&mut [0; 1]), Ok(0)) || status == 0;
    (status, closed)
}

#[test]
fn malformed_requests_are_refused_closed_and_reach_no_registry() {
    let (registry, larder) = started();
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: l\r\n\r\n", "a".repeat(9000));
    let long_header = format!("GET / HTTP/1.1\r\nHost: l\r\nX: {}\r\n\r\n", "a".repeat(17_000));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: l\r\n{}\r\n", "X: y\r\n".repeat(101));
    let cases: [(&[u8], &[u16]); 22] = [
        (b"GET /plugins/../../etc/passwd/plugin.wasm HTTP/1.1\r\nHost: l\r\n\r\n", &[400]),
        (b"GET /plugins/%2e%2e/x/plugin.wasm HTTP/1.1\r\nHost: l\r\n\r\n", &[400]),
        (b"GET /a\0b HTTP/1.1\r\nHost: l\r\n\r\n", &[400]),
        (b"GET /a\xff\xfeb HTTP/1.1\r\nHost: l\r\n\r\n", &[400]),
        (b"GET /a\\b HTTP/1.1\r\nHost: l\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]),
        (
            b"GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (b"GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: l\r\nContent-Length: -1\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: xchunked\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\nHost: l\n\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost: l\r\nX: a\r\n b\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\nHost : l\r\n\r\n", &[400]),
        (b"CONNECT l:443 HTTP/1.1\r\nHost: l:443\r\n\r\n", &[400, 405]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[0, 400]),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: l\r\n\r\n", &[0, 400]),
        (b"GET /\r\n\r\n", &[0, 400]),
        (long_target.as_bytes(), &[414]),
        (long_header.as_bytes(), &[431]),
        (many_headers.as_bytes(), &[431]),
    ];
    for (bytes, expected) in cases {
        let (status, closed) = sent(&larder, bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(expected.contains(&status), "{shown:?}: {status}");
        assert!(closed, "{shown:?}: the connection stays open");
    }
    assert_eq!(registry.asked().len(), 0);
    assert_eq!(larder.get("/plugins/x/1/plugin.wasm").status, 200);
}

#[test]
fn a_body_that_comes_with_a_get_is_never_taken_for_a_request() {
    let (_registry, larder) = started();
    let smuggled = b"GET / HTTP/1.1\r\nHost: l\r\nContent-Length: 38\r\n\r\nGET /healthz HTTP/1.1\r\nHost: evil\r\n\r\n\r\n";
    let mut stream = client::connect(larder.data).unwrap();
    stream.write_all(smuggled).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{all}");
}

#[test]
fn a_header_that_never_ends_is_given_up() {
    let registry = Scripted::start();
    let larder =
        Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_SERVER_HEADER_TIMEOUT", "2s")]);
    let mut slow = client::connect(larder.data).unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: l\r\nX: ").unwrap();
    // An error here would be the client's own patience, which is longer than the server's should be.
    slow.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    slow.read_to_end(&mut Vec::new()).expect("the server closes first");
    assert_eq!(larder.get("/healthz").status, 200);
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let registry = Scripted::start();
    let larder =
        Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_SERVER_CONNECTIONS", "3")]);
    let mut held: Vec<_> = (0..3).map(|_| client::connect(larder.data).unwrap()).collect();
    for stream in &mut held {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: l\r\n\r\n").unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().status, 200);
    }
    assert!(client::raw(larder.data, b"GET / HTTP/1.1\r\nHost: l\r\n\r\n").is_err());
    assert!(larder.metric("larder_connections_refused_total{listener=\"data\",reason=\"total\"}") >= 1.0);
    drop(held);
    crate::support::eventually("a free place", || {
        client::raw(larder.data, b"GET / HTTP/1.1\r\nHost: l\r\n\r\n").ok()
    });
}

#[test]
fn what_a_client_sends_stays_in_its_place_in_the_log() {
    let (_registry, larder) = started();
    let agent = "\u{202e}\", \"event\":\"x";
    larder.request("GET", "/healthy", &[("User-Agent", agent)]);
    let line = crate::support::eventually("the line", || {
        larder.log().into_iter().find(|l| l["agent"].as_str().is_some_and(|a| a.contains("event")))
    });
    assert_eq!(line.get("event"), None);
    assert!(!line["agent"].as_str().unwrap().contains('\u{202e}'));
    assert_eq!(line["status"], 404);
}

#[test]
fn paths_that_a_client_invents_make_no_new_series() {
    let (_registry, larder) = started();
    let series = || {
        client::get(larder.admin, "/metrics")
            .text()
            .lines()
            .filter(|line| line.starts_with("larder_"))
            .count()
    };
    larder.get("/invented/0");
    // Counted once the answer has left; reading the metrics is counted too.
    crate::support::eventually("both routes in the metrics", || {
        let text = client::get(larder.admin, "/metrics").text();
        let has = |route: &str| text.contains(&format!("larder_response_bytes_total{{route=\"{route}\"}}"));
        (has("none") && has("health")).then_some(())
    });
    let before = series();
    for n in 1..50 {
        larder.get(&format!("/invented/{n}"));
    }
    assert_eq!(series(), before);
}

#[test]
fn what_a_malformed_request_holds_is_not_logged() {
    let (_registry, larder) = started();
    let bytes = b"GET /a.wasm HTTP/1.1\r\nHost: l\r\nAuthorization: Basic cm9ib3Q6czNjcmV0\r\nCookie: sid=TOPSECRET\r\nX y: z\r\n\r\n";
    assert_eq!(sent(&larder, bytes).0, 400);
    let log = crate::support::eventually("the line", || {
        let log = serde_json::to_string(&larder.log()).unwrap();
        log.contains("malformed request").then_some(log)
    });
    assert!(!log.contains("cm9ib3Q6") && !log.contains("TOPSECRET"), "{log}");
}

#[test]
fn a_log_that_nobody_reads_stops_no_request_and_its_lost_lines_are_counted() {
    use std::io::BufRead;
    let registry = Scripted::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    std::fs::write(&file, settings(&registry.host())).unwrap();
    let mut child = crate::support::larder::program()
        .args([
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--config",
        ])
        .arg(&file)
        .arg("--cache-dir")
        .arg(dir.path().join("cache"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let [address, admin] = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "larder ended at its start");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "listening" {
            break ["data", "admin"].map(|port| line[port].as_str().unwrap().parse().unwrap());
        }
    };
    // From here on the pipe is held and never read: it takes 64 KiB, the queue before it 8192 lines, and these are far more.
    let text = format!("GET /nothing/here HTTP/1.1\r\nHost: l\r\nUser-Agent: {}\r\n\r\n", "a".repeat(150));
    let mut stream = client::connect(address).unwrap();
    for _ in 0..10_000 {
        stream.write_all(text.as_bytes()).unwrap();
        assert_eq!(client::read_reply(&mut stream, false).unwrap().status, 404);
    }
    crate::support::eventually("the lines that nobody took in the metrics", || {
        let text = client::get(admin, "/metrics").text();
        let count = text.lines().find_map(|line| line.strip_prefix("larder_log_lines_dropped_total "))?;
        (count.parse::<f64>().unwrap() > 0.0).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn too_many_open_files_are_no_damage_to_what_is_held() {
    let registry = Scripted::start();
    let bytes = module("held", 5000);
    registry.put("plugins/held", "1", &raw(&bytes));
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_CACHE_MEMORY", "0")]);
    let path = "/plugins/held/1/plugin.wasm";
    assert_eq!(larder.get(path).body, bytes);
    let limit = |number: u32| {
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &larder.id().to_string(), &format!("--nofile={number}:")])
            .status()
            .unwrap();
        assert!(set.success());
    };
    let mut waiting = client::connect(larder.data).unwrap();
    waiting.write_all(b"GET /healthz HTTP/1.1\r\nHost: l\r\n\r\n").unwrap();
    assert_eq!(client::read_reply(&mut waiting, false).unwrap().status, 200);
    // The connection is there already, and so are the first numbers; the file behind the next request finds no room.
    limit(5);
    waiting.write_all(format!("GET {path} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
    let reply = client::read_reply(&mut waiting, false).unwrap();
    assert_eq!((reply.status, reply.json()["code"].clone()), (503, "store".into()), "{}", reply.text());
    limit(1024);
    registry.down();
    assert_eq!(larder.get(path).body, bytes);
    assert_eq!(larder.metric("larder_quarantined_total"), 0.0);
}
