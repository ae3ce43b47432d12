//! The log: each request by its name, libraries in the same lines, and no secret at any level.

use crate::support::artifact::{module, raw};
use crate::support::h2::{Connection, END_HEADERS, END_STREAM, HEADERS, field, frame, request};
use crate::support::larder::{Home, Larder, settings};
use crate::support::pki::Pki;
use crate::support::registry::Registry;
use crate::support::scripted::Scripted;
use crate::support::{canary, client, eventually};
use serde_json::Value;
use std::io::Write;

const PATH: &str = "/plugins/waf/1/plugin.wasm";

fn stocked() -> (Scripted, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    (registry, bytes)
}

/// The lines about a request, once there are as many.
fn lines(larder: &Larder, id: &str, number: usize) -> Vec<Value> {
    eventually(&format!("{number} lines of {id}"), || {
        let mut lines = larder.log();
        lines.retain(|line| line["request_id"] == id);
        (lines.len() >= number).then_some(lines)
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && text != "0".repeat(32)
}

#[test]
fn every_answer_has_a_name_and_the_log_has_it_too() {
    let (registry, _) = stocked();
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_LOG_LEVEL", "debug")]);
    let etag = larder.get(PATH).header("etag").to_owned();
    let mut ids = Vec::new();
    for (port, method, path, headers, status) in [
        (larder.data, "GET", PATH, vec![], 200),
        (larder.data, "HEAD", PATH, vec![], 200),
        (larder.data, "GET", PATH, vec![("If-None-Match", etag.as_str())], 304),
        (larder.data, "GET", PATH, vec![("Range", "bytes=0-3")], 206),
        (larder.data, "GET", "/plugins/none/1/plugin.wasm", vec![], 404),
        (larder.data, "GET", "/nothing", vec![], 404),
        (larder.data, "GET", "/plugins", vec![], 301),
        (larder.data, "GET", "/plugins/%2e%2e/x", vec![], 400),
        (larder.data, "BREW", PATH, vec![], 405),
        (larder.data, "GET", "/healthz", vec![], 200),
        (larder.admin, "GET", "/readyz", vec![], 200),
        (larder.admin, "GET", "/metrics", vec![], 200),
        (larder.admin, "GET", "/nothing", vec![], 404),
    ] {
        let reply = client::request(port, method, path, &headers);
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        let id = reply.header("larder-request-id").to_owned();
        assert!(is_id(&id), "{method} {path}: {:?}", reply.headers);
        let access = eventually("its line", || {
            larder.log().into_iter().find(|line| line["request_id"] == id && line["target"] == "access")
        });
        assert_eq!((&access["path"], &access["status"]), (&path.into(), &status.into()), "{access}");
        assert!(!reply.text().contains(&id), "a body is the same for all");
        ids.push(id);
    }
    let refused = client::raw(larder.data, b"NO HTTP\r\n\r\n").unwrap();
    assert_eq!(refused.status, 400);
    let id = refused.header("larder-request-id");
    assert!(is_id(id), "{:?}", refused.headers);
    assert_eq!(lines(&larder, id, 1)[0]["message"], "malformed request");
    ids.push(id.to_owned());
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 14, "each has its own");
}

#[test]
fn the_line_of_a_fetch_has_the_name_of_the_request_that_began_it() {
    let (registry, _) = stocked();
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_LIFETIMES_TAG", "1ms")]);
    let fetched = |path: &str, message: &str| {
        let reply = larder.get(path);
        let lines = lines(&larder, reply.header("larder-request-id"), 2);
        assert!(lines.iter().any(|line| line["target"] == "access" && line["path"] == path), "{lines:#?}");
        assert!(lines.iter().any(|line| line["message"] == message), "{lines:#?}");
        assert_eq!(lines.len(), 2, "{lines:#?}");
    };
    fetched(PATH, "asked the registry");
    // Past its lifetime: it is answered at once and confirmed behind that.
    fetched(PATH, "asked the registry");
    fetched("/plugins/none/1/plugin.wasm", "asked the registry");
    registry.down();
    let sent = "0af7651916cd43dd8448eb211c80319c";
    let path = "/plugins/other/1/plugin.wasm";
    let parent = format!("00-{sent}-b7ad6b7169203331-00");
    let reply = larder.request("GET", path, &[("traceparent", &parent)]);
    assert_eq!(reply.header("larder-request-id"), sent, "its sender's name for it");
    // Each further attempt has a line too.
    eventually("the lines of the request, of a further attempt and of what was not fetched", || {
        let lines = lines(&larder, sent, 3);
        let is_told = |key: &str, value: &str| lines.iter().any(|line| line[key] == value);
        let fetch = is_told("message", "asked again") && is_told("message", "not fetched");
        (fetch && is_told("target", "access")).then_some(())
    });
    let bad =
        larder.request("GET", "/nothing", &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-0-01")]);
    assert!(is_id(bad.header("larder-request-id")) && bad.header("larder-request-id") != sent);
}

#[test]
fn what_pingora_says_is_a_line_like_any_other() {
    let (registry, _) = stocked();
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_SERVER_H2C", "true")]);
    // More malformed requests than pingora takes from one connection.
    let mut connection = Connection::open(larder.data, &[]);
    let head = [request("GET", PATH), field("host", "other")].concat();
    let frames = (0..40).map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head));
    let _ = connection.stream.write_all(&frames.collect::<Vec<_>>().concat());
    let line = eventually("pingora's line", || {
        larder
            .log()
            .into_iter()
            .find(|line| line["target"].as_str().is_some_and(|t| t.starts_with("pingora")))
    });
    assert!(["WARN", "ERROR"].map(Value::from).contains(&line["level"]), "{line}");
    assert!(line["message"].is_string() && line["timestamp"].is_string(), "{line}");
    for line in larder.log_text().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn no_level_writes_what_requests_carry() {
    const SECRETS: [&str; 3] = ["c4nary-of-registry", "c4nary-of-client", "c4nary-of-cookie"];
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let content = Registry::plain();
    let bytes = module("waf", 20_000);
    content.push("plugins/waf", "1", &raw(&bytes));
    // HTTP/2 there, by TLS, and HTTP/2 here.
    let front = crate::support::registry::Front {
        tls: Some(&pki),
        password: Some(("robot", SECRETS[0])),
        ..Default::default()
    };
    let registry = content.with(folder.path(), &front);
    let password = folder.path().join("password");
    std::fs::write(&password, SECRETS[0]).unwrap();
    let host = registry.named();
    let text = format!(
        "catalog: {{builtin: false, template: '{host}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s, h2c: true}}\n\
         registry:\n  certs: []\n  ca: ['{}']\n  allow_addresses: [127.0.0.0/8]\n  hosts:\n    '{host}': {{username: robot, password_file: '{}'}}\n",
        pki.ca.display(),
        password.display()
    );
    for level in ["info", "debug", "trace"] {
        let mut larder = Home::new(&text).start_with(&[], &[("LARDER_LOG_LEVEL", level)]);
        let mut connection = Connection::open(larder.data, &[]);
        let mut head = request("GET", PATH);
        head.extend(field("authorization", &format!("Bearer {}", SECRETS[1])));
        head.extend(field("cookie", &format!("session={}", SECRETS[2])));
        assert_eq!(connection.get(1, &head), (200, bytes.clone()));
        let headers = [("Authorization", "Bearer c4nary-of-client"), ("Cookie", "session=c4nary-of-cookie")];
        assert_eq!(larder.request("GET", PATH, &headers).status, 200);
        larder.signal("TERM");
        larder.wait();
        let text = larder.log_text();
        canary::unseen(&SECRETS, level, text.as_bytes());
        for line in larder.log() {
            let target = line["target"].as_str().unwrap();
            let ours = target == "access" || target.starts_with("larder");
            assert!(ours || matches!(line["level"].as_str(), Some("WARN" | "ERROR")), "{level}: {line}");
        }
        assert!(larder.log().iter().any(|line| line["target"] == "access"), "{level}:\n{text}");
    }
}
