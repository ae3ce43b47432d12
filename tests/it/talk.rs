//! One connection and what is said on it: usual requests are read by larder, unusual ones by the library below it, and a
//! client must not be able to tell.

use crate::support::artifact::{module, raw};
use crate::support::client::{self, Reply};
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const MODULE: &str = "/plugins/x/1/plugin.wasm";

fn started(variables: &[(&str, &str)]) -> (Scripted, Larder, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&bytes));
    let larder = Home::new(&settings(&registry.host())).start_with(&[], variables);
    assert_eq!(larder.get(MODULE).body, bytes);
    (registry, larder, bytes)
}

fn head(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: l\r\n{fields}\r\n")
}

fn ask(stream: &mut TcpStream, text: &str) -> Reply {
    stream.write_all(text.as_bytes()).unwrap();
    client::read_reply(stream, text.starts_with("HEAD ")).unwrap()
}

/// What is the same whenever it is asked for.
fn told(reply: &Reply) -> (u16, BTreeMap<&str, &str>, &[u8]) {
    let mut fields: BTreeMap<_, _> =
        reply.headers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    fields.retain(|name, _| !["date", "larder-request-id", "cache-status"].contains(name));
    (reply.status, fields, &reply.body)
}

#[test]
fn an_answer_is_the_same_by_whichever_road_its_request_was_read() {
    let (_registry, larder, _) = started(&[]);
    for (method, path, fields) in [
        ("GET", MODULE, ""),
        ("HEAD", MODULE, ""),
        ("GET", MODULE, "If-None-Match: *\r\n"),
        ("GET", MODULE, "If-Match: \"other\"\r\n"),
        ("GET", MODULE, "Range: bytes=1-3\r\n"),
        ("HEAD", MODULE, "Range: bytes=1-3\r\n"),
        ("GET", MODULE, "Range: bytes=5000-\r\n"),
        ("GET", "/plugins/x/1/metadata.txt", ""),
        ("GET", "/plugins/x/2/plugin.wasm", ""),
        ("GET", "/plugins/", ""),
        ("GET", "/plugins", ""),
        ("GET", "/healthz", ""),
        ("GET", "/", ""),
        ("GET", "/nothing", ""),
        ("GET", "/a/../b", ""),
    ] {
        let mut stream = client::connect(larder.data).unwrap();
        let usual = ask(&mut stream, &head(method, path, fields));
        assert!(usual.header("date").ends_with(" GMT") && usual.header("larder-request-id").len() == 32);
        // Two ways to say what is said anyway, of which the second is left to the library.
        let unusual = ask(
            &mut client::connect(larder.data).unwrap(),
            &head(method, path, &format!("Content-Length: 0\r\n{fields}")),
        );
        assert_eq!(told(&usual), told(&unusual), "{method} {path} {fields}");
    }
}

#[test]
fn a_connection_goes_on_through_requests_of_all_kinds() {
    let (_registry, larder, bytes) = started(&[]);
    let mut stream = client::connect(larder.data).unwrap();
    let get = head("GET", MODULE, "");
    assert_eq!(ask(&mut stream, &get).body, bytes);
    let etag = ask(&mut stream, &head("HEAD", MODULE, "")).header("etag").to_owned();
    assert_eq!(ask(&mut stream, &head("GET", MODULE, &format!("If-None-Match: {etag}\r\n"))).status, 304);
    for piece in get.as_bytes().chunks(1) {
        stream.write_all(piece).unwrap();
    }
    assert_eq!(client::read_reply(&mut stream, false).unwrap().body, bytes, "in pieces");
    assert_eq!(ask(&mut stream, &head("GET", "/plugins/x/2/plugin.wasm", "")).status, 404);
    assert_eq!(
        ask(&mut stream, &head("GET", MODULE, "Content-Length: 0\r\n")).body,
        bytes,
        "read by the library"
    );
    assert_eq!(ask(&mut stream, &get).body, bytes);
    let last = ask(&mut stream, &head("GET", MODULE, "Connection: close\r\n"));
    assert_eq!((last.header("connection"), &last.body), ("close", &bytes));
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "it is closed");
}

#[test]
fn a_client_that_says_no_more_after_a_request_is_let_go_and_half_a_request_is_refused() {
    let (_registry, larder, bytes) = started(&[]);
    for (rest, told) in [("", ""), ("GET /plugins/x/1/pl", "HTTP/1.1 400 ")] {
        let mut stream = client::connect(larder.data).unwrap();
        assert_eq!(ask(&mut stream, &head("GET", MODULE, "Connection: keep-alive\r\n")).body, bytes);
        stream.write_all(rest.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(
            String::from_utf8_lossy(&answer).starts_with(told) && answer.is_empty() == told.is_empty(),
            "{rest}"
        );
    }
}

#[test]
fn an_idle_connection_and_one_with_half_a_head_are_closed_when_their_time_is_over() {
    // The time for a first head is not the one for another.
    let times = [("LARDER_SERVER_HEADER_TIMEOUT", "10m"), ("LARDER_SERVER_IDLE_TIMEOUT", "1s")];
    let (_registry, larder, bytes) = started(&times);
    for rest in ["", "GET /plugins/x/1/pl"] {
        let mut stream = client::connect(larder.data).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&mut stream, &head("GET", MODULE, "")).body, bytes);
        }
        stream.write_all(rest.as_bytes()).unwrap();
        // The client's own patience is longer than the server's should be.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "{rest:?}");
    }
}

#[test]
fn what_says_that_nothing_has_changed_has_what_may_have_and_no_more() {
    let (_registry, larder, _) = started(&[]);
    let whole = larder.get(MODULE);
    let reply = larder.request("GET", MODULE, &[("If-None-Match", whole.header("etag"))]);
    assert_eq!((reply.status, reply.body.len()), (304, 0));
    for field in ["etag", "cache-control", "larder-match", "larder-reference", "larder-manifest-digest"] {
        assert_eq!(reply.header(field), whole.header(field), "{field}");
    }
    assert!(reply.header("cache-status").starts_with("larder; hit; "), "{}", reply.header("cache-status"));
    // RFC 9110, section 15.4.5: what the client has of the content is not said again.
    for field in ["content-type", "content-length", "last-modified", "repr-digest", "accept-ranges"] {
        assert_eq!(reply.header(field), "", "{field}");
    }
}
