//! The administration over HTTP: who may, what a body may be, what is written down.

use crate::support::artifact::{module, raw};
use crate::support::client::{self, Reply};
use crate::support::eventually;
use crate::support::h2;
use crate::support::larder::{Home, Larder, settings};
use crate::support::netns;
use crate::support::pki::Pki;
use crate::support::scripted::Scripted;
use crate::support::tls::Client;
use larder::oci::Digest;
use larder::server::admin::ROUTES;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

const TOKEN: &str = "0123456789abcdef-admin";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const X: &str = "/plugins/x/1/plugin.wasm";

/// Settings of a registry that has `x`, with more of them.
fn before(registry: &Scripted, more: &str) -> Home {
    registry.put("plugins/x", "1", &raw(&module("x", 5000)));
    Home::in_memory(&(settings(&registry.host()) + more))
}

/// A larder that holds `x`, open to this machine.
fn open() -> (Scripted, Larder) {
    let registry = Scripted::start();
    let larder = before(&registry, "").start();
    assert_eq!(larder.get(X).status, 200);
    (registry, larder)
}

/// The same for whoever has [`TOKEN`], with an audit log.
fn guarded() -> (Scripted, Larder) {
    let registry = Scripted::start();
    let home = before(&registry, "");
    let (tokens, audit) = (home.path().join("tokens"), home.path().join("audit"));
    std::fs::write(&tokens, format!("# of the tests\n\n{TOKEN}\nanother-token-of-tests\n")).unwrap();
    let more =
        format!("admin: {{token_file: '{}', audit: {{file: '{}'}}}}\n", tokens.display(), audit.display());
    let larder = home.with(&(settings(&registry.host()) + &more)).start();
    assert_eq!(larder.get(X).status, 200);
    (registry, larder)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn post(larder: &Larder, path: &str, body: &str) -> Reply {
    client::send(larder.admin, "POST", path, &[JSON, ("Authorization", &bearer(TOKEN))], body)
}

fn get(larder: &Larder, path: &str) -> Reply {
    client::request(larder.admin, "GET", path, &[("Authorization", &bearer(TOKEN))])
}

/// Status and code.
fn said(reply: &Reply) -> (u16, String) {
    let code = if reply.status < 400 { String::new() } else { reply.json()["code"].as_str().unwrap().into() };
    (reply.status, code)
}

#[track_caller]
fn says(reply: &Reply, status: u16, code: &str) {
    assert_eq!(said(reply), (status, code.into()), "{}", reply.text());
}

fn is_held(larder: &Larder) -> bool {
    get(larder, "/api/v1/entries").json()["total"] == 1
}

fn audit(larder: &Larder) -> Vec<Value> {
    let text = std::fs::read_to_string(larder.home.path().join("audit")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

// B85

#[test]
fn without_the_token_nothing_is_told_and_nothing_done() {
    let (_registry, larder) = guarded();
    for (path, method, _) in &ROUTES {
        let reply = client::send(larder.admin, method.as_str(), path, &[JSON], "{\"all\":true}");
        says(&reply, 401, "token_needed");
        assert_eq!(reply.header("www-authenticate"), "Bearer", "{path}");
    }
    let longer = format!("{TOKEN}x");
    for wrong in ["wrong-but-long-enough", &TOKEN[..TOKEN.len() - 1], &longer, "", "# of the tests"] {
        // Five are answered in a second; then this address has to wait.
        let reply = eventually("an answer to a wrong token", || {
            let reply =
                client::request(larder.admin, "GET", "/api/v1/status", &[("Authorization", &bearer(wrong))]);
            (reply.status != 429).then_some(reply)
        });
        assert_eq!(reply.status, 401, "{wrong}");
    }
    let basic = [("Authorization", "Basic MDEyMzQ1Njc4OWFiY2RlZi1hZG1pbg==")];
    says(&client::request(larder.admin, "GET", "/api/v1/status", &basic), 401, "token_needed");
    for open in ["/", "/metrics", "/livez", "/readyz", "/api/v1/openapi.json"] {
        assert_eq!(client::get(larder.admin, open).status, 200, "{open}");
    }
    eventually("the wait being over", || (get(&larder, "/api/v1/status").status == 200).then_some(()));
    assert!(is_held(&larder), "nothing was taken away");
    // Lines with nobody in them.
    let lines = audit(&larder);
    let changes = ROUTES.iter().filter(|(.., action)| action.is_change()).count();
    assert!((5..=changes).contains(&lines.len()), "five of a second: {}", lines.len());
    assert!(lines.iter().all(|l| l["who"].is_null() && l["what"].is_null() && l["result"] == "token_needed"));
    let denied = "larder_admin_requests_total{action=\"purge\",result=\"denied\"}";
    assert_eq!(larder.metric(denied), 1.0);
}

#[test]
fn a_token_in_a_url_is_refused_and_in_no_log() {
    let (_registry, larder) = guarded();
    for name in ["token", "access_token", "%74oken"] {
        let path = format!("/api/v1/status?{name}={TOKEN}");
        says(&client::get(larder.admin, &path), 400, "token_in_query");
        says(&get(&larder, &path), 400, "token_in_query");
        larder.get(&format!("{X}?{name}={TOKEN}"));
        client::get(larder.admin, &format!("/metrics?{name}={TOKEN}"));
    }
    get(&larder, "/api/v1/status");
    post(&larder, "/api/v1/purge", "{\"plugin\":\"x\"}");
    client::request(
        larder.admin,
        "GET",
        "/api/v1/entries",
        &[("Authorization", &bearer("the-wrong-token-0"))],
    );
    eventually("the last line", || {
        larder.log().iter().any(|line| line["path"] == "/api/v1/entries").then_some(())
    });
    let log = larder.log_text();
    assert!(!log.contains(TOKEN) && !log.contains("the-wrong-token-0"), "{log}");
    assert!(log.contains("/api/v1/status?(not shown: has a token)"), "{log}");
    assert!(!std::fs::read_to_string(larder.home.path().join("audit")).unwrap().contains(TOKEN));
}

#[test]
fn who_guesses_has_to_wait_and_is_told_how_long() {
    let (_registry, larder) = guarded();
    let wrong = || {
        client::request(
            larder.admin,
            "GET",
            "/api/v1/status",
            &[("Authorization", &bearer("wrong-wrong-wrong"))],
        )
    };
    let reply = eventually("too many wrong tokens in a second", || {
        let reply = wrong();
        (reply.status == 429).then_some(reply)
    });
    says(&reply, 429, "too_many_tokens");
    assert_eq!(reply.header("retry-after"), "1");
    // Who shows no token is no guesser, and who knows one does not wait for others of the same address.
    says(&client::get(larder.admin, "/api/v1/status"), 401, "token_needed");
    assert_eq!(get(&larder, "/api/v1/status").status, 200);
}

#[test]
fn who_is_not_let_in_fills_no_audit_log() {
    let (_registry, larder) = guarded();
    let begun = Instant::now();
    for _ in 0..300 {
        let reply = client::send(larder.admin, "POST", "/api/v1/purge", &[JSON], "{\"all\":true}");
        says(&reply, 401, "token_needed");
    }
    let lines = audit(&larder).len();
    // Five of each second, of which the last may have just begun.
    let seconds = begun.elapsed().as_secs() as usize + 2;
    assert!((5..=5 * seconds).contains(&lines), "{lines} in {seconds} s");
    let denied = "larder_admin_requests_total{action=\"purge\",result=\"denied\"}";
    eventually("all of them counted", || (larder.metric(denied) == 300.0).then_some(()));
    post(&larder, "/api/v1/scrub", "{}");
    assert_eq!(audit(&larder).last().unwrap()["action"], "scrub", "who is let in is written down");
}

#[test]
fn a_page_from_elsewhere_asks_for_nothing_either() {
    let (registry, larder) = open();
    registry.forget();
    for (name, value) in
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site"), ("Origin", "http://evil.test")]
    {
        let reply = client::request(larder.admin, "GET", "/explain?name=x&version=1", &[(name, value)]);
        says(&reply, 403, "cross_origin");
    }
    assert_eq!(registry.asked().len(), 0);
    for site in ["same-origin", "none"] {
        let reply = client::request(larder.admin, "GET", "/api/v1/status", &[("Sec-Fetch-Site", site)]);
        assert_eq!(reply.status, 200, "{site}");
    }
}

#[test]
fn a_file_of_tokens_that_is_none_is_told_by_its_line_and_larder_does_not_start() {
    let home = Home::in_memory("");
    let tokens = home.path().join("tokens");
    let home = home.with(&format!("admin: {{token_file: '{}'}}\n", tokens.display()));
    for (text, told) in [
        (None, "No such file"),
        (Some(""), "is empty"),
        (Some("# nothing\n\n"), "is empty"),
        (Some("0123456789abcdef\nshort-s3cret\n"), ":2: 12 characters"),
        (Some("0123456789abcdef s3cret\n"), ":1: has a space"),
        (Some("\n0123456789abcdef\ts3cret\n"), ":2: has a space"),
    ] {
        match text {
            None => drop(std::fs::remove_file(&tokens)),
            Some(text) => std::fs::write(&tokens, text).unwrap(),
        }
        for command in ["serve", "check"] {
            let output = home.command(&["timeout", "20"]).arg(command).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{error}");
            let named = error.contains("larder.yaml:1") && error.contains(&tokens.display().to_string());
            assert!(named && error.contains(told) && !error.contains("s3cret"), "{error}");
        }
    }
}

#[test]
fn with_nothing_to_show_only_a_port_on_loopback_is_open_and_only_by_its_own_names() {
    let (registry, larder) = open();
    let port = larder.admin.port();
    let asked = |host: &str| client::request(larder.admin, "GET", "/api/v1/status", &[("Host", host)]);
    for own in ["localhost", &format!("localhost:{port}"), "127.0.0.1", "127.0.0.1:8443", "[::1]:80"] {
        assert_eq!(asked(own).status, 200, "{own}");
    }
    for other in ["evil.test", "localhost.evil.test", "10.0.0.1", &format!("larder:{port}")] {
        says(&asked(other), 421, "misdirected");
        let reply =
            client::send(larder.admin, "POST", "/api/v1/purge", &[JSON, ("Host", other)], "{\"all\":true}");
        says(&reply, 421, "misdirected");
    }
    assert_eq!(client::request(larder.admin, "GET", "/metrics", &[("Host", "evil.test")]).status, 200);
    assert!(is_held(&larder));
    let wide = before(&registry, "").start_with(&["--admin-listen", "0.0.0.0:0"], &[]);
    for (path, method, _) in &ROUTES {
        let reply = client::send(wide.admin, method.as_str(), path, &[JSON], "{}");
        says(&reply, 403, "admin_closed");
        assert!(reply.json()["hint"].as_str().unwrap().contains("admin.token_file"));
    }
    assert_eq!(client::get(wide.admin, "/readyz").status, 200);
}

#[test]
fn a_certificate_of_the_clients_ca_is_as_good_as_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let registry = Scripted::start();
    let home = before(&registry, "");
    let file = home.path().join("audit");
    let more = |auth: &str| {
        let (certificate, key, ca) = (pki.certificate.display(), pki.key.display(), pki.ca.display());
        let audit = file.display();
        settings(&registry.host())
            + &format!(
                "tls: {{admin: {{certificate: '{certificate}', key: '{key}', client_ca: ['{ca}']}}}}\n"
            )
            + &format!("admin: {{{auth}audit: {{file: '{audit}'}}}}\n")
    };
    let larder = home.with(&more("")).start();
    let known = Client::showing(&pki.ca, &(pki.client_certificate.clone(), pki.client_key.clone()));
    let unknown = Client::trusting(&pki.ca);
    assert_eq!(known.get(larder.admin, "/api/v1/status").unwrap().status, 200);
    says(&unknown.get(larder.admin, "/api/v1/status").unwrap(), 403, "certificate_needed");
    assert_eq!(unknown.get(larder.admin, "/readyz").unwrap().status, 200);
    let reply = known.request(larder.admin, "POST", "/api/v1/scrub", &[JSON]).unwrap();
    says(&reply, 400, "bad_json");
    let line = audit(&larder).remove(0);
    assert_eq!(line["who"], "certificate:larder test client");
    // Beside a file of tokens, either will do.
    let tokens = larder.home.path().join("tokens");
    std::fs::write(&tokens, TOKEN).unwrap();
    let larder = larder.kill().with(&more(&format!("token_file: '{}', ", tokens.display()))).start();
    assert_eq!(known.get(larder.admin, "/api/v1/status").unwrap().status, 200);
    says(&unknown.get(larder.admin, "/api/v1/status").unwrap(), 401, "token_needed");
    let token = [("Authorization", &bearer(TOKEN)[..])];
    assert_eq!(unknown.request(larder.admin, "GET", "/api/v1/status", &token).unwrap().status, 200);
}

#[test]
fn tokens_that_change_are_read_again_and_a_broken_file_changes_nothing() {
    let (_registry, larder) = guarded();
    let tokens = larder.home.path().join("tokens");
    let knows = |token: &str| {
        let headers = [("Authorization", &bearer(token)[..])];
        eventually("an answer that is no wait", || {
            let status = client::request(larder.admin, "GET", "/api/v1/status", &headers).status;
            (status != 429).then_some(status == 200)
        })
    };
    std::fs::write(&tokens, "short\n").unwrap();
    let refused = post(&larder, "/api/v1/reload", "{}");
    says(&refused, 422, "settings_refused");
    let fault = refused.json()["faults"][0].as_str().unwrap().to_owned();
    assert!(fault.contains("admin.token_file") && fault.contains(":1: 5 characters"), "{fault}");
    assert!(knows(TOKEN));
    // By itself, as the kubelet does it.
    std::fs::write(&tokens, "the-token-of-tomorrow\n").unwrap();
    eventually("the new token", || knows("the-token-of-tomorrow").then_some(()));
    assert!(!knows(TOKEN), "the old one is of no use");
}

// B91

#[test]
fn a_page_from_elsewhere_changes_nothing() {
    let (_registry, larder) = open();
    let purge = |headers: &[(&str, &str)]| {
        client::send(larder.admin, "POST", "/api/v1/purge", headers, "{\"all\":true}")
    };
    // What a form can send without asking first.
    for form in
        ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "text/json"]
    {
        says(&purge(&[("Content-Type", form)]), 415, "not_json");
    }
    says(&purge(&[]), 415, "not_json");
    says(&purge(&[JSON, ("Content-Type", "text/plain")]), 415, "not_json");
    let own = "localhost";
    for origin in
        ["http://evil.test", "null", "", own, &format!("http://{own}.evil.test"), "http://127.0.0.1"]
    {
        says(&purge(&[JSON, ("Origin", origin)]), 403, "cross_origin");
    }
    let from_us = format!("http://{own}");
    says(&purge(&[JSON, ("Origin", &from_us), ("Origin", "http://evil.test")]), 403, "cross_origin");
    let asked_first =
        client::request(larder.admin, "OPTIONS", "/api/v1/purge", &[("Origin", "http://evil.test")]);
    assert_eq!((asked_first.status, asked_first.header("access-control-allow-origin")), (405, ""));
    assert!(is_held(&larder));
    let json = ("Content-Type", "application/json; charset=utf-8");
    assert_eq!(purge(&[json, ("Origin", &from_us)]).status, 200);
    assert!(!is_held(&larder));
}

// B88

#[test]
fn a_body_is_json_of_a_bounded_size_or_nothing_is_done() {
    let (_registry, larder) = open();
    let purge = |body: &str| post(&larder, "/api/v1/purge", body);
    for bad in
        ["", "all=true", "{", "[]", "\"all\"", "{\"all\":true}{}", "{\"all\": true,}", &"[".repeat(100_000)]
    {
        says(&purge(bad), 400, "bad_json");
    }
    for bad in ["{\"all\":\"yes\"}", "{\"al\":true}", "{\"all\":null}", "{\"all\":true,\"all\":true}"] {
        says(&purge(bad), 400, "bad_member");
    }
    says(&post(&larder, "/api/v1/prefetch", "{\"plugins\":\"x\"}"), 400, "bad_member");
    says(&post(&larder, "/api/v1/scrub", "{\"all\":true}"), 400, "bad_member");
    let put = |body: &str| client::send(larder.admin, "PUT", "/api/v1/log", &[JSON], body);
    for bad in ["{\"level\":\"loud\"}", "{\"level\":\"INFO\"}", "{}", "{\"level\":\"info,hyper=trace\"}"] {
        says(&put(bad), 400, "bad_member");
    }
    let zipped = [JSON, ("Content-Encoding", "gzip")];
    says(
        &client::send(larder.admin, "POST", "/api/v1/purge", &zipped, "{\"all\":true}"),
        415,
        "encoded_body",
    );
    assert!(is_held(&larder));
    // As large as may be: what is too large otherwise is told as what it is.
    let padded = |size: usize| format!("{{\"al\":true{}}}", " ".repeat(size - 11));
    says(&purge(&padded(1 << 20)), 400, "bad_member");
    says(&purge(&padded((1 << 20) + 1)), 413, "body_too_large");
}

/// The head of a change, up to its body.
fn head(larder: &Larder, path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{more}\r\n", larder.admin)
}

#[test]
fn a_body_may_come_in_pieces_and_the_connection_goes_on_behind_it() {
    let (_registry, larder) = open();
    let mut stream = client::connect(larder.admin).unwrap();
    let mut ask = |bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        client::read_reply(&mut stream, false).unwrap()
    };
    let dry = "{\"all\":true,\"dry_run\":true}";
    for _ in 0..3 {
        let chunked: String =
            dry.as_bytes().iter().map(|byte| format!("1\r\n{}\r\n", *byte as char)).collect();
        let chunked =
            head(&larder, "/api/v1/purge", "Transfer-Encoding: chunked\r\n") + &chunked + "0\r\n\r\n";
        let reply = ask(chunked.as_bytes());
        assert_eq!((reply.status, reply.json()["dry_run"].clone()), (200, true.into()), "{}", reply.text());
        let large = format!("{{\"keys\":[\"{}\"]}}", "a".repeat(900_000));
        let sized = head(&larder, "/api/v1/purge", &format!("Content-Length: {}\r\n", large.len())) + &large;
        says(&ask(sized.as_bytes()), 404, "unknown_entry");
        let get = format!("GET /api/v1/status HTTP/1.1\r\nHost: {}\r\n\r\n", larder.admin);
        assert_eq!(ask(get.as_bytes()).status, 200);
    }
    // Who waits to be asked for the body is asked.
    let more = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", dry.len());
    let first = ask(head(&larder, "/api/v1/purge", &more).as_bytes());
    assert_eq!(first.status, 100);
}

#[test]
fn a_body_that_is_endless_cut_or_slow_is_given_up() {
    let registry = Scripted::start();
    let larder = before(&registry, "").with(&(settings(&registry.host()) + "  header_timeout: 3s\n")).start();
    let unasked = head(&larder, "/api/v1/purge", "Content-Length: 10485760\r\nExpect: 100-continue\r\n");
    says(&client::raw(larder.admin, unasked.as_bytes()).unwrap(), 413, "body_too_large");
    let endless = head(&larder, "/api/v1/purge", "Transfer-Encoding: chunked\r\n");
    let mut stream = client::connect(larder.admin).unwrap();
    stream.write_all(endless.as_bytes()).unwrap();
    let piece = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..17 {
        stream.write_all(piece.as_bytes()).unwrap();
    }
    says(&client::read_reply(&mut stream, false).unwrap(), 413, "body_too_large");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "the connection ends");
    let broken = head(&larder, "/api/v1/purge", "Transfer-Encoding: chunked\r\n") + "zz\r\n";
    says(&client::raw(larder.admin, broken.as_bytes()).unwrap(), 400, "bad_body");
    let slow = head(&larder, "/api/v1/purge", "Content-Length: 12\r\n") + "{\"all\"";
    says(&client::raw(larder.admin, slow.as_bytes()).unwrap(), 408, "body_too_slow");
}

#[test]
fn over_http2_the_same_is_asked_and_the_same_is_looked_at() {
    let registry = Scripted::start();
    let larder = before(&registry, "").with(&(settings(&registry.host()) + "  h2c: true\n")).start();
    let fields = |method: &str, path: &str, authority: &str, more: &[(&str, &str)]| {
        let pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)];
        pseudo.iter().chain(more).flat_map(|(name, value)| h2::field(name, value)).collect::<Vec<u8>>()
    };
    let mut connection = h2::Connection::open(larder.admin, &[]);
    let own = larder.admin.to_string();
    assert_eq!(connection.get(1, &fields("GET", "/api/v1/status", &own, &[])).0, 200);
    assert_eq!(connection.get(3, &fields("GET", "/api/v1/status", "evil.test", &[])).0, 421);
    let json = [("content-type", "application/json")];
    let (status, body) = connection.get(5, &fields("POST", "/api/v1/scrub", &own, &json));
    assert_eq!(status, 400, "there is no body: {}", String::from_utf8_lossy(&body));
    let mut connection = h2::Connection::open(larder.admin, &[]);
    let (status, body) = connection.send(1, &fields("POST", "/api/v1/scrub", &own, &json), b"{}");
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body));
}

// B86

#[test]
fn a_purge_takes_what_is_named_and_nothing_that_is_not() {
    let (registry, larder) = open();
    let purge = |body: Value| post(&larder, "/api/v1/purge", &body.to_string());
    let other = Digest::of(b"other").to_string();
    for (bad, status, code) in [
        (json!({}), 400, "bad_selector"),
        (json!({"dry_run": true}), 400, "bad_selector"),
        (json!({"plugin": "*"}), 400, "bad_selector"),
        (json!({"plugin": "**"}), 400, "bad_selector"),
        (json!({"plugin": "x", "keys": []}), 400, "bad_selector"),
        (json!({"keys": []}), 400, "bad_selector"),
        (json!({"plugin": "x", "all": false}), 400, "bad_selector"),
        (json!({"plugin": "x", "all": true}), 400, "bad_selector"),
        (json!({"version": "1"}), 400, "bad_selector"),
        (json!({"plugin": "["}), 400, "bad_pattern"),
        (json!({"plugin": "../x"}), 404, "unknown_entry"),
        (json!({"keys": ["../../etc/passwd"]}), 404, "unknown_entry"),
        (json!({"digest": other}), 404, "unknown_entry"),
        (json!({"keys": vec!["a"; 1001]}), 413, "too_many"),
    ] {
        says(&purge(bad), status, code);
    }
    assert!(is_held(&larder));
    let key = format!("{}/plugins/x:1", registry.host());
    let dry = purge(json!({"plugin": "x*", "dry_run": true})).json();
    assert_eq!(dry, json!({"purged": [key], "modules": 1, "bytes": 5000, "dry_run": true}));
    assert!(is_held(&larder));
    let real = purge(json!({"keys": [key]})).json();
    assert_eq!(real, json!({"purged": [key], "modules": 1, "bytes": 5000, "dry_run": false}));
    assert!(!is_held(&larder));
    assert_eq!(purge(json!({"all": true})).json()["purged"], json!([]));
}

// B87

#[test]
fn a_prefetch_takes_a_thousand_names_at_most_each_once_and_tells_of_each() {
    let (registry, larder) = open();
    let prefetch =
        |plugins: Vec<String>| post(&larder, "/api/v1/prefetch", &json!({ "plugins": plugins }).to_string());
    says(&prefetch((0..10_000).map(|n| format!("p{n}")).collect()), 413, "too_many");
    says(&prefetch(vec!["../x".into()]), 400, "bad_name");
    says(&prefetch(vec![]), 400, "nothing_named");
    registry.put("plugins/y", "1", &raw(&module("y", 5000)));
    let reply = prefetch(vec!["y@1".into(), "none@1".into(), "y@1".into()]);
    let job = reply.json();
    assert_eq!((reply.status, &job["total"]), (202, &json!(2)), "each once");
    let path = format!("/api/v1/prefetch?id={}", job["id"]);
    let job = eventually("the end of the job", || {
        let job = get(&larder, &path).json();
        job["finished_at"].is_string().then_some(job)
    });
    assert_eq!((&job["held"], &job["failed"]), (&json!(1), &json!(1)));
    assert_eq!(job["items"][1]["error"]["code"], "not_found", "{job}");
    assert_eq!(get(&larder, "/api/v1/prefetch").json()["jobs"][0]["id"], job["id"]);
    says(&get(&larder, "/api/v1/prefetch?id=77"), 404, "unknown_job");
    for bad in ["x", "-1", "", "1&id=1", "99999999999999999999"] {
        says(&get(&larder, &format!("/api/v1/prefetch?id={bad}")), 400, "bad_parameter");
    }
}

// B89

#[test]
fn all_modules_are_read_once_at_a_time() {
    let registry = Scripted::start();
    let larder = before(&registry, "").start();
    says(&get(&larder, "/api/v1/scrub"), 404, "never_scrubbed");
    registry.put("plugins/large", "1", &raw(&module("large", 30 << 20)));
    assert_eq!(larder.get("/plugins/large/1/plugin.wasm").status, 200);
    let busy = eventually("a scrub while another one runs", || {
        let (first, second) = (post(&larder, "/api/v1/scrub", "{}"), post(&larder, "/api/v1/scrub", "{}"));
        assert!(first.status == 202 || first.status == 409);
        (second.status == 409).then_some(second)
    });
    assert_eq!(busy.json()["code"], "scrubbing");
    let ended = eventually("its end", || {
        let scrub = get(&larder, "/api/v1/scrub").json();
        scrub["finished_at"].is_string().then_some(scrub)
    });
    assert_eq!((&ended["done"], &ended["damaged"]), (&json!(1), &json!(0)));
}

#[test]
fn settings_are_read_once_at_a_time() {
    let (_registry, larder) = open();
    let read = post(&larder, "/api/v1/reload", "{}").json();
    // Of the machine there may be warnings.
    assert_eq!((&read["changed"], &read["needs_restart"]), (&json!([]), &json!([])), "{read}");
    let busy = eventually("a reload during a reload", || {
        let replies = std::thread::scope(|scope| {
            let asked: Vec<_> =
                (0..8).map(|_| scope.spawn(|| post(&larder, "/api/v1/reload", "{}"))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 409)));
        replies.into_iter().find(|reply| reply.status == 409)
    });
    says(&busy, 409, "reloading");
}

#[test]
fn more_is_logged_when_more_is_asked_for() {
    let (_registry, larder) = open();
    let probes = || larder.log().iter().filter(|line| line["path"] == "/livez").count();
    client::get(larder.admin, "/livez");
    let level = json!({ "level": "debug" });
    let put = client::send(larder.admin, "PUT", "/api/v1/log", &[JSON], &level.to_string());
    assert_eq!((put.status, put.json()), (200, level.clone()));
    assert_eq!(get(&larder, "/api/v1/log").json(), level);
    client::get(larder.admin, "/livez");
    eventually("the second one's line", || (probes() == 1).then_some(()));
}

// B90, B94

#[test]
fn each_port_has_its_own_paths_and_each_path_its_own_methods() {
    let (_registry, larder) = open();
    for (path, ..) in &ROUTES {
        says(&larder.get(path), 404, "no_route");
    }
    for path in ["/api", "/api/v1", "/api/v1/", "/api/v1/status/", "/api/v2/status", "/assets/none", X] {
        says(&client::get(larder.admin, path), 404, "no_route");
    }
    for (method, path, allow) in [
        ("GET", "/api/v1/purge", "POST"),
        ("HEAD", "/api/v1/reload", "POST"),
        ("PUT", "/api/v1/prefetch", "GET, HEAD, POST"),
        ("DELETE", "/api/v1/scrub", "GET, HEAD, POST"),
        ("POST", "/api/v1/log", "GET, HEAD, PUT"),
        ("OPTIONS", "/api/v1/status", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("PUT", "/", "GET, HEAD"),
        ("POST", "/explain", "GET, HEAD"),
        ("PROPFIND", "/api/v1/openapi.json", "GET, HEAD"),
    ] {
        let reply = client::request(larder.admin, method, path, &[]);
        assert_eq!((reply.status, reply.header("allow")), (405, allow), "{method} {path}");
    }
    assert_eq!(client::request(larder.admin, "HEAD", "/api/v1/status", &[]).status, 200);
    let series = || {
        let text = client::get(larder.admin, "/metrics").text();
        let ours = text.lines().filter(|line| line.starts_with("larder_admin_requests_total"));
        ours.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    get(&larder, "/api/v1/entry?key=none");
    let before = series();
    for n in 0..50 {
        client::get(larder.admin, &format!("/api/v1/invented-{n}"));
        get(&larder, &format!("/api/v1/entry?key=invented-{n}"));
    }
    assert_eq!(series(), before);
}

// B92

#[test]
fn entries_come_in_pages_and_a_query_means_what_it_says_or_nothing() {
    let (registry, larder) = open();
    registry.put("plugins/y", "1", &raw(&module("y", 6000)));
    assert_eq!(larder.get("/plugins/y/1/plugin.wasm").status, 200);
    for bad in [
        "limit=-1",
        "limit=0",
        "limit=1001",
        "limit=1000000000",
        "limit=1e9",
        "limit=+5",
        "limit=",
        "cursor=x",
        "cursor=-1",
        "cursor=%00",
        "cursor=99999999999999999999999",
        "state=rotten",
        "sort=name",
        "order=up",
        "plugins=x",
        "limit=1&limit=2",
    ] {
        says(&get(&larder, &format!("/api/v1/entries?{bad}")), 400, "bad_parameter");
    }
    says(&get(&larder, "/api/v1/entries?plugin=["), 400, "bad_pattern");
    let page = |query: &str| {
        let reply = get(&larder, &format!("/api/v1/entries?{query}"));
        assert_eq!(reply.status, 200, "{query}");
        let page = reply.json();
        let entries = page["entries"].as_array().unwrap().iter();
        let names: Vec<_> = entries.map(|entry| entry["plugin"].as_str().unwrap().to_owned()).collect();
        (names, page["next"].as_str().map(str::to_owned), page["total"].clone())
    };
    assert_eq!(page("limit=1000").0, ["x", "y"]);
    let (first, next, total) = page("limit=1");
    assert_eq!((first, total), (vec!["x".into()], json!(2)));
    let (second, end, _) = page(&format!("limit=1&cursor={}", next.unwrap()));
    assert_eq!((second, end), (vec!["y".into()], None));
    assert_eq!(page("cursor=999999999999999").0, Vec::<String>::new());
    assert_eq!(page("sort=size&order=desc").0, ["y", "x"]);
    assert_eq!(page("text=Plugins%2FX").0, ["x"]);
    assert_eq!(page("plugin=y*&state=fresh").0, ["y"]);
    assert_eq!(page("state=stale").0, Vec::<String>::new());
    let key = format!("{}/plugins/x:1", registry.host());
    assert_eq!(get(&larder, &format!("/api/v1/entry?key={key}")).json()["size"], 5000);
    says(&get(&larder, "/api/v1/entry"), 400, "bad_parameter");
    says(&get(&larder, "/api/v1/entry?key=none"), 404, "unknown_entry");
}

#[test]
fn what_failed_and_which_names_there_are_is_told() {
    let (registry, larder) = open();
    registry.down();
    assert_eq!(larder.get("/plugins/none/1/plugin.wasm").status, 502);
    let failure = |what: &str| {
        eventually("its being told", || {
            let failures = get(&larder, "/api/v1/failures").json();
            failures["failures"].as_array().unwrap().iter().find(|failure| failure["what"] == what).cloned()
        })
    };
    assert_eq!(failure("request")["subject"], "/plugins/none/1/plugin.wasm");
    assert_eq!(failure("fetch")["subject"], format!("{}/plugins/none:1", registry.host()));
    assert_eq!(get(&larder, "/api/v1/catalog").json(), json!({ "plugins": [] }));
    assert_eq!(get(&larder, "/api/v1/history").json()["step_seconds"], 30);
    assert_eq!(get(&larder, "/api/v1/log").json(), json!({ "level": "info" }));
    let status = get(&larder, "/api/v1/status").json();
    assert_eq!((&status["ready"], &status["store"]["disk_entries"]), (&json!(true), &json!(1)));
    let names = "catalog: {builtin: true}\n";
    let listed = Home::in_memory(names).start();
    let catalog = client::get(listed.admin, "/api/v1/catalog").json();
    let waf =
        catalog["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == "waf").unwrap().clone();
    assert!(waf["version"].is_string());
}

// B95

#[test]
fn readiness_lists_what_is_doubtful_and_is_a_no_only_when_nothing_should_be_sent_here() {
    let registry = Scripted::start();
    let home = before(&registry, "");
    let audit = home.path().join("nowhere/audit");
    let more = format!(
        "admin: {{audit: {{file: '{}'}}}}\nwarm_up: {{plugins: ['x@1'], ready_when: warmed}}\n",
        audit.display()
    );
    registry.close_gate();
    let larder = home.with(&(settings(&registry.host()) + &more)).start();
    let ready = || client::get(larder.admin, "/readyz");
    assert_eq!((ready().status, ready().text().as_str()), (503, "warming up\n"));
    assert_eq!(ready().header("retry-after"), "5");
    registry.open_gate();
    let warm = eventually("the end of the warm-up", || {
        let reply = ready();
        (reply.status == 200).then_some(reply)
    });
    assert_eq!(warm.text(), "ready\nwarning: the audit log cannot be written\n");
    registry.down();
    eventually("the registry being left alone", || {
        larder.get("/plugins/new/1/plugin.wasm");
        let reply = ready();
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.text().contains(&format!("warning: {} is left alone", registry.host())).then_some(())
    });
    assert_eq!(larder.get(X).status, 200);
    larder.signal("TERM");
}

// B96, and what is written down

#[test]
fn each_change_is_a_line_of_the_audit_log_wherever_that_was_moved() {
    let (registry, larder) = guarded();
    let file = larder.home.path().join("audit");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    get(&larder, "/api/v1/status");
    let key = format!("{}/plugins/x:1", registry.host());
    let which = json!({ "keys": [key] });
    assert_eq!(
        post(&larder, "/api/v1/revalidate", &which.to_string()).json()["results"][0]["result"],
        "unchanged"
    );
    let refused = post(&larder, "/api/v1/purge", "{}");
    says(&refused, 400, "bad_selector");
    says(
        &client::send(larder.admin, "POST", "/api/v1/purge", &[JSON], "{\"all\":true}"),
        401,
        "token_needed",
    );
    says(&post(&larder, "/api/v1/purge", "not json"), 400, "bad_json");
    // As logrotate does it.
    let moved = larder.home.path().join("audit.1");
    std::fs::rename(&file, &moved).unwrap();
    assert_eq!(post(&larder, "/api/v1/scrub", "{}").status, 202);
    let short = |line: &Value| {
        let of = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        (of("who"), of("action"), line["what"].clone(), of("result"))
    };
    let who = format!("token:{}", &Digest::of(TOKEN.as_bytes()).hex()[..8]);
    let text = std::fs::read_to_string(&moved).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(short).collect();
    let line = |who: &str, action: &str, what: Value, result: &str| {
        (who.to_owned(), action.to_owned(), what, result.to_owned())
    };
    assert_eq!(
        told,
        [
            line(&who, "revalidate", which, "ok"),
            line(&who, "purge", json!({}), "bad_selector"),
            line("-", "purge", Value::Null, "token_needed"),
            line(&who, "purge", Value::Null, "bad_json"),
        ]
    );
    assert!(lines[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(lines[0]["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[1]["request_id"], refused.header("larder-request-id"));
    let lines = audit(&larder);
    assert_eq!(lines.iter().map(short).collect::<Vec<_>>(), [line(&who, "scrub", json!({}), "ok")]);
}

#[test]
fn without_a_file_changes_are_told_in_the_log() {
    let (_registry, larder) = open();
    assert_eq!(post(&larder, "/api/v1/purge", "{\"all\":true}").status, 200);
    let line = eventually("the line", || larder.log().into_iter().find(|line| line["target"] == "audit"));
    assert_eq!(
        (&line["who"], &line["action"], &line["result"]),
        (&json!("loopback"), &json!("purge"), &json!("ok"))
    );
    assert_eq!(line["what"], "{\"all\":true}");
}

/// A home whose audit log is in a folder of its own, and must be written if `required`.
fn audited(registry: &Scripted, required: bool) -> (Home, PathBuf) {
    let home = before(registry, "");
    let folder = home.path().join("log");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("audit");
    let more = format!("admin: {{audit: {{file: '{}', required: {required}}}}}\n", file.display());
    (home.with(&(settings(&registry.host()) + &more)), file)
}

#[test]
fn a_change_that_must_be_written_down_is_not_made_while_it_cannot_be() {
    let registry = Scripted::start();
    let (home, file) = audited(&registry, true);
    std::fs::create_dir(&file).unwrap();
    let output = home.command(&["timeout", "20"]).arg("serve").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{error}");
    assert!(error.contains("larder.yaml") && error.contains(&file.display().to_string()), "{error}");
    std::fs::remove_dir(&file).unwrap();
    let larder = home.start();
    assert_eq!(larder.get(X).status, 200);
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    for body in ["{\"all\":true}", "{\"plugin\":\"x\"}"] {
        says(&post(&larder, "/api/v1/purge", body), 503, "audit_unwritable");
    }
    assert!(is_held(&larder));
    assert_eq!(larder.metric("larder_audit_lost_total"), 2.0);
    let is_told = |line: &serde_json::Value| line["message"] == "the audit log cannot be written";
    larder.line("the fault in the log", is_told);
    assert_eq!(larder.log().into_iter().filter(is_told).count(), 1, "once, until it goes well again");
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(post(&larder, "/api/v1/purge", "{\"all\":true}").status, 200);
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"result\":\"ok\""));
}

#[test]
fn required_without_a_file_is_a_fault() {
    let home = Home::in_memory("admin: {audit: {required: true}}\n");
    for command in ["serve", "check"] {
        let output = home.command(&["timeout", "20"]).arg(command).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{command}");
    }
}

#[test]
fn on_a_full_disk_a_change_that_must_be_written_down_is_not_made() {
    if !netns::alone("admin::on_a_full_disk_a_change_that_must_be_written_down_is_not_made", &[]) {
        return;
    }
    let registry = Scripted::start();
    let (home, file) = audited(&registry, true);
    let folder = file.parent().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(folder).status();
    assert!(mounted.unwrap().success());
    let larder = home.start();
    assert_eq!(larder.get(X).status, 200);
    let ballast = folder.join("ballast");
    let _ = std::fs::write(&ballast, vec![1; 1 << 20]);
    says(&post(&larder, "/api/v1/purge", "{\"all\":true}"), 503, "audit_unwritable");
    assert!(is_held(&larder));
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(post(&larder, "/api/v1/purge", "{\"all\":true}").status, 200);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().last().unwrap().contains("\"result\":\"ok\""), "{text}");
}

#[test]
fn a_change_that_need_not_be_written_down_is_made_and_the_loss_is_counted() {
    let registry = Scripted::start();
    let (home, file) = audited(&registry, false);
    std::fs::create_dir(&file).unwrap();
    let larder = home.start();
    assert_eq!(larder.get(X).status, 200);
    assert_eq!(post(&larder, "/api/v1/purge", "{\"all\":true}").status, 200);
    assert_eq!(post(&larder, "/api/v1/scrub", "{}").status, 202);
    assert!(!is_held(&larder));
    assert_eq!(larder.metric("larder_audit_lost_total"), 2.0);
    let log = eventually("the lines in the log", || {
        let log = larder.log();
        (log.iter().filter(|line| line["target"] == "audit").count() == 2).then_some(log)
    });
    let told = log.iter().filter(|line| line["message"] == "the audit log cannot be written").count();
    assert_eq!(told, 1);
}
