//! Bad input by row: its status and code, one line in the log, nobody asked, nothing written; and what looks bad and is not.

use crate::support::artifact::{module, raw};
use crate::support::client::{self, Reply};
use crate::support::eventually;
use crate::support::faults::is_long;
use crate::support::heart::files;
use crate::support::larder::Larder;
use crate::support::scripted::Scripted;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::SystemTime;

const X: &str = "/plugins/x/1/plugin.wasm";
/// The parser refuses it before there is anything to explain: a status and no document.
const NO_HTTP: &str = "";

/// A larder that holds `x`, and what it held and had written when it began to be asked badly.
struct Asked {
    registry: Scripted,
    larder: Larder,
    module: Vec<u8>,
    lines: usize,
    written: Vec<(String, u64, SystemTime)>,
}

impl Asked {
    fn new() -> Self {
        let registry = Scripted::start();
        let module = module("x", 5000);
        registry.put("plugins/x", "1", &raw(&module));
        let larder = Larder::before(&registry.host());
        assert_eq!(larder.get(X).body, module);
        eventually("the first line", || (lines(&larder).len() == 1).then_some(()));
        registry.forget();
        let written = written(&larder);
        Self { registry, larder, module, lines: 1, written }
    }

    /// Sends bytes; the answer, and the one line that the log has more. Unless the answer says that the connection
    /// stays, it must end, and without another answer.
    fn ask(&mut self, bytes: &[u8]) -> (Reply, serde_json::Value) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let mut stream = client::connect(self.larder.data).unwrap();
        // A long request may be refused before its end.
        let _ = stream.write_all(bytes);
        let reply = client::read_reply(&mut stream, bytes.starts_with(b"HEAD "));
        let reply = reply.unwrap_or_else(|e| panic!("{shown}: {e}"));
        if reply.header("connection") == "keep-alive" {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let mut rest = Vec::new();
        // Closing on what was not read is a reset.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{shown}: a second answer: {}", String::from_utf8_lossy(&rest));
        self.lines += 1;
        let line = eventually("a line in the log", || {
            let mut lines = lines(&self.larder);
            assert!(lines.len() <= self.lines, "{shown}: more than one line: {lines:#?}");
            (lines.len() == self.lines).then(|| lines.pop()).flatten()
        });
        assert_eq!(line["status"], reply.status, "{shown}");
        (reply, line)
    }

    /// Each row is refused with its status and code, and the connection is closed or kept open as it says.
    fn refuse(&mut self, rows: &[(Vec<u8>, u16, &str, bool)]) {
        for (bytes, status, code, stays) in rows {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
            let (reply, line) = self.ask(bytes);
            assert_eq!(reply.status, *status, "{shown}: {}", reply.text());
            assert_eq!(reply.header("connection") == "keep-alive", *stays, "{shown}");
            if *code != NO_HTTP {
                assert_eq!(reply.json()["code"], *code, "{shown}");
                assert_eq!((&line["code"], &line["level"]), (&(*code).into(), &"WARN".into()), "{shown}");
                assert_eq!(line["detail"], reply.json()["detail"], "{shown}");
            }
        }
    }

    /// Each is answered with the module, as if there were nothing odd in it.
    fn serve(&mut self, rows: &[Vec<u8>]) {
        for bytes in rows {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
            let (reply, _) = self.ask(bytes);
            assert_eq!((reply.status, &reply.body), (200, &self.module), "{shown}: {}", reply.text());
        }
    }

    fn ends(self) {
        assert_eq!(self.registry.asked().len(), 0, "nobody was asked");
        assert_eq!(written(&self.larder), self.written, "nothing was written");
        assert_eq!(self.larder.get(X).body, self.module);
    }
}

/// The lines about requests.
fn lines(larder: &Larder) -> Vec<serde_json::Value> {
    larder.log().into_iter().filter(|line| line["target"] == "access").collect()
}

fn written(larder: &Larder) -> Vec<(String, u64, SystemTime)> {
    let fact = |path: std::path::PathBuf| {
        let facts = path.metadata().unwrap();
        (path.display().to_string(), facts.len(), facts.modified().unwrap())
    };
    let mut written: Vec<_> = files(&larder.home.cache()).into_iter().map(fact).collect();
    written.sort();
    written
}

fn request(method: &str, target: &[u8], fields: &[u8]) -> Vec<u8> {
    [method.as_bytes(), b" ", target, b" HTTP/1.1\r\n", fields, b"\r\n"].concat()
}

fn get(target: impl AsRef<[u8]>) -> Vec<u8> {
    request("GET", target.as_ref(), b"Host: l\r\n")
}

/// The module, asked for with further fields.
fn with(fields: impl AsRef<[u8]>) -> Vec<u8> {
    request("GET", X.as_bytes(), &[b"Host: l\r\n", fields.as_ref(), b"\r\n"].concat())
}

#[test]
fn a_path_that_is_no_plain_path_is_refused_and_never_made_one() {
    let mut asked = Asked::new();
    let mut rows = Vec::new();
    for target in [
        &b"/plugins/../../etc/passwd/plugin.wasm"[..],
        b"/plugins/a/../b/plugin.wasm",
        b"/plugins/./1/plugin.wasm",
        b"/plugins/%2e%2e/1/plugin.wasm",
        b"/plugins/%2E%2e%2f/1/plugin.wasm",
        b"/plugins/..%2f/1/plugin.wasm",
        b"/plugins/..%5c/1/plugin.wasm",
        b"/plugins/%252e%252e/1/plugin.wasm",
        b"/plugins/%78/1/plugin.wasm",
        b"/plugins/x/1%2e0/plugin.wasm",
        b"/plugins/x/1/plugin.wasm%00.txt",
        b"/plugins/a%2fb/1/plugin.wasm",
        b"/plugins/a\\b/1/plugin.wasm",
        b"/plugins/a b/1/plugin.wasm",
        b"/plugins/a\tb/1/plugin.wasm",
        b"/plugins/a\0b/1/plugin.wasm",
        b"/plugins/a\rb/1/plugin.wasm",
        b"/plugins/a\x7fb/1/plugin.wasm",
        b"l:80",
        b"*",
        b"ftp://l/plugins/x/1/plugin.wasm",
    ] {
        rows.push((get(target), 400, "bad_path", false));
    }
    // Beyond ASCII: Latin, Cyrillic, a right-to-left mark, composed and decomposed, an emoji.
    for name in ["\u{e9}", "\u{435}", "\u{202e}", "e\u{301}", "\u{1f980}"] {
        rows.push((get(format!("/plugins/{name}/1/plugin.wasm")), 400, "bad_path", false));
    }
    for target in [&b"/plugins/a\nb/1/plugin.wasm"[..], b"/plugins/a\x80b/1/plugin.wasm", b"/a\xff.wasm"] {
        rows.push((get(target), 400, NO_HTTP, false));
    }
    for target in ["http://evil/plugins/x/1/plugin.wasm", "http://u:p@l/plugins/x/1/plugin.wasm", "http:///x"]
    {
        rows.push((get(target), 400, NO_HTTP, false));
    }
    rows.push((get(format!("/{}", "a".repeat(9000))), 414, "target_too_long", false));
    rows.push((get(format!("{X}?{}", "a".repeat(9000))), 414, "target_too_long", false));
    asked.refuse(&rows);
    asked.ends();
}

#[test]
fn a_query_is_ignored_and_has_no_byte_that_no_target_has() {
    let mut asked = Asked::new();
    let mut rows = Vec::new();
    for byte in [&b"\0"[..], b"\x01", b"\x7f", b"\xc3\xa9", b"a b"] {
        rows.push((get([X.as_bytes(), b"?x=", byte].concat()), 400, "bad_path", false));
    }
    asked.refuse(&rows);
    asked.ends();
}

#[test]
fn names_and_versions_are_of_a_narrow_alphabet() {
    let mut asked = Asked::new();
    let mut rows = Vec::new();
    let long = "a".repeat(65);
    for name in
        ["A", "-a", "a-", ".a", "a..", "a..b", "_a", "a:b", "a@b", "a;b", "a$b", "a,b", "a+b", "a~b", &long]
    {
        rows.push((get(format!("/plugins/{name}/1/plugin.wasm")), 400, "bad_name", true));
        rows.push((get(format!("/wasm/{name}.wasm")), 400, "bad_name", true));
    }
    let long = "1".repeat(129);
    for version in [".1", "-1", "1+build", "1;0", "1~0", &long] {
        rows.push((get(format!("/plugins/x/{version}/plugin.wasm")), 400, "bad_version", true));
        rows.push((get(format!("/plugins/x/{version}.wasm")), 400, "bad_version", true));
    }
    let (short, long, upper) = ("a".repeat(63), "a".repeat(65), "A".repeat(64));
    for digest in [&short, &long, &upper, "..", ""].map(|hex| format!("sha256:{hex}")) {
        rows.push((get(format!("/plugins/x/{digest}/plugin.wasm")), 400, "bad_digest", true));
    }
    rows.push((get("/plugins/x/md5:d41d8cd98f00b204e9800998ecf8427e/plugin.wasm"), 400, "bad_digest", true));
    for path in [
        "/plugins/x/1/plugin.WASM",
        "/plugins/x/1/plugin.wasm/",
        "/plugins/x/1/plugin.wat",
        "/plugins/x/1/plugin.wasm.gz",
        "/plugins/.wasm",
        "/livez",
        "/readyz",
        "/metrics",
        "/explain?name=x",
    ] {
        rows.push((get(path), 404, "no_route", true));
    }
    asked.refuse(&rows);
    asked.ends();
}

#[test]
fn an_empty_name_or_version_is_merged_away_and_the_answer_says_what_was_understood() {
    let mut asked = Asked::new();
    for (path, reference) in
        [("/plugins//1/plugin.wasm", "/plugins/1:plugin"), ("/plugins/x//plugin.wasm", "/plugins/x:plugin")]
    {
        let (reply, line) = asked.ask(&get(path));
        assert_eq!((reply.status, reply.json()["code"].clone()), (404, "not_found".into()), "{path}");
        let understood = format!("{}{reference}", asked.registry.host());
        assert_eq!(reply.json()["reference"], understood.as_str(), "{path}");
        assert!(line["detail"].as_str().unwrap().contains(&understood), "{line}");
    }
    assert_eq!(written(&asked.larder), asked.written);
}

#[test]
fn hosts_and_methods_that_are_none_are_refused() {
    let mut asked = Asked::new();
    let mut rows = Vec::new();
    for fields in
        ["", "Host: \r\n", "Host: a b\r\n", "Host: evil/x\r\n", "Host: a:99999\r\n", "Host: a:b\r\n"]
    {
        rows.push((request("GET", X.as_bytes(), fields.as_bytes()), 400, "bad_host", false));
    }
    for fields in ["Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n", "Host: u@h\r\n", "Host: u:p@h\r\n"] {
        rows.push((request("GET", X.as_bytes(), fields.as_bytes()), 400, NO_HTTP, false));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get", "FOO"] {
        rows.push((request(method, X.as_bytes(), b"Host: l\r\n"), 405, "method_not_allowed", false));
    }
    rows.push((request("OPTIONS", b"*", b"Host: l\r\n"), 405, "method_not_allowed", false));
    rows.push((request("CONNECT", b"l:443", b"Host: l:443\r\n"), 405, "method_not_allowed", false));
    let body = b"Host: l\r\nContent-Length: 3\r\n";
    let post = [request("POST", X.as_bytes(), body), b"abc".to_vec()].concat();
    rows.push((post, 405, "method_not_allowed", false));
    for (bytes, status, ..) in &rows {
        let (reply, _) = asked.ask(bytes);
        let allowed = if *status == 405 { "GET, HEAD" } else { "" };
        assert_eq!(reply.header("allow"), allowed);
    }
    asked.refuse(&rows);
    asked.ends();
}

#[test]
fn framing_that_two_readers_could_read_differently_is_refused() {
    let mut asked = Asked::new();
    let mut rows = Vec::new();
    let framed = |fields: &str| {
        let head = request("GET", X.as_bytes(), format!("Host: l\r\n{fields}\r\n").as_bytes());
        [head, get("/smuggled.wasm")].concat()
    };
    for length in ["+5", "-1", "99999999999999999999", "0x5", "5 5", "", "5;"] {
        rows.push((framed(&format!("Content-Length: {length}")), 400, NO_HTTP, false));
    }
    for fields in [
        "Content-Length: 5,5",
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked,chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        rows.push((framed(fields), 400, "bad_framing", false));
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked\u{b}",
        "Transfer-Encoding\t: chunked",
        "Host : l",
        "X: a\r\n b",
        "X: a\rb",
        "X: a\0b",
        ": v",
        "no colon",
    ] {
        rows.push((framed(fields), 400, NO_HTTP, false));
    }
    let line = |text: &str| text.as_bytes().to_vec();
    rows.push((line("GET / HTTP/1.0\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, NO_HTTP, false));
    for text in [
        "GET / HTTP/1.1\nHost: l\n\n",
        "GET / HTTP/1.1\r\nHost: l\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: l\r\n\n",
    ] {
        rows.push((line(text), 400, "bad_framing", false));
    }
    for text in [
        "GET / HTTP/2.0\r\nHost: l\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: l\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: l\r\n\r\n",
    ] {
        rows.push((line(text), 400, NO_HTTP, false));
    }
    let fields = |number: usize| format!("Host: l\r\n{}", "X: y\r\n".repeat(number));
    rows.push((request("GET", b"/", fields(100).as_bytes()), 431, "headers_too_large", false));
    let long = format!("Host: l\r\nX: {}\r\n", "a".repeat(17_000));
    rows.push((request("GET", b"/", long.as_bytes()), 431, "headers_too_large", false));
    asked.refuse(&rows);
    asked.ends();
}

#[test]
fn what_comes_behind_a_request_is_never_a_second_one() {
    let mut asked = Asked::new();
    let behind = get("/smuggled.wasm");
    for fields in [
        format!("Content-Length: {}", behind.len()),
        "Content-Length: 5".into(),
        "Content-Length: 0".into(),
        "Transfer-Encoding: chunked".into(),
        "Transfer-Encoding: \tchunked".into(),
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk".into(),
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13".into(),
        "Expect: 100-continue\r\nContent-Length: 5".into(),
        "X: y".into(),
    ] {
        let body = if fields.starts_with("Transfer") { &b"0\r\n\r\n"[..] } else { b"" };
        // `ask` fails when there is a second answer, or a second line in the log.
        asked.serve(&[[with(fields), body.to_vec(), behind.clone()].concat()]);
    }
    asked.ends();
}

#[test]
fn what_is_odd_and_allowed_changes_nothing() {
    let mut asked = Asked::new();
    let query = format!("{X}?{}", "a".repeat(8000));
    asked.serve(&[
        get("//plugins//x/1///plugin.wasm"),
        get(format!("{X}?x=1&y=/../%2e%2e/%00")),
        get(query),
        get(format!("{X}#fragment")),
        get(format!("http://l{X}")),
        [b"\r\n\r\n".to_vec(), get(X)].concat(),
        with("X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: host=evil"),
        with("X-Original-URL: /metrics\r\nX-Rewrite-URL: /plugins/other/1/plugin.wasm"),
        with("Accept-Encoding: gzip, br, zstd"),
        with("Accept: text/html"),
        with("Cache-Control: no-cache, no-store, max-age=0\r\nPragma: no-cache"),
        with("Range: bytes=5-2"),
        with("Range: items=0-1"),
        with("Range: bytes=0-0,1-1"),
        with("Range: bytes=0-0\r\nIf-Range: W/\"x\""),
        with("If-None-Match: \"unterminated"),
        with(format!("If-None-Match: {}\"x\"", "\"a\",".repeat(1000))),
        with("If-Modified-Since: garbage"),
        with("If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\nIf-None-Match: \"x\""),
        with(format!("User-Agent: {}", "a".repeat(8192))),
        with("User-Agent: \u{202e}\", \"event\":\"x"),
    ]);
    let (reply, _) = asked.ask(&with("Accept-Encoding: gzip"));
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), ("", ""));
    for (range, status) in [
        ("-0", 416),
        ("99999999999999999999-", 416),
        ("0-99999999999999999999", 206),
        ("-99999999999999999999", 206),
    ] {
        let (reply, _) = asked.ask(&with(format!("Range: bytes={range}")));
        assert_eq!(reply.status, status, "{range}");
    }
    for fields in ["If-None-Match: *", "If-None-Match: \"a\", *"] {
        assert_eq!(asked.ask(&with(fields)).0.status, 304, "{fields}");
    }
    let (reply, line) = asked
        .ask(&with("Authorization: Basic czNjcmV0\r\nCookie: sid=s3cret\r\nProxy-Authorization: s3cret"));
    assert_eq!(reply.body, asked.module);
    assert!(!line.to_string().contains("s3cret") && !line.to_string().contains("czNjcmV0"), "{line}");
    asked.ends();
}

#[test]
fn what_a_client_is_known_by_goes_to_no_registry() {
    let registry = Scripted::start();
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&bytes));
    let larder = Larder::before(&registry.host());
    let secrets = [
        ("Authorization", "Basic czNjcmV0"),
        ("Cookie", "sid=s3cret"),
        ("Proxy-Authorization", "Basic czNjcmV0"),
    ];
    let others = [("X-Forwarded-For", "203.0.113.9"), ("Range", "bytes=0-3"), ("User-Agent", "s3cret-agent")];
    let reply = larder.request("GET", X, &[&secrets[..], &others[..]].concat());
    assert_eq!((reply.status, &reply.body[..]), (206, &bytes[..4]), "and the fill takes the whole");
    assert!(!registry.asked().is_empty());
    for ask in registry.asked() {
        let told = format!("{:?}", ask.headers);
        assert!(
            !told.contains("czNjcmV0") && !told.contains("s3cret") && !told.contains("203.0.113"),
            "{told}"
        );
    }
    assert_eq!(larder.get(X).body, bytes);
}

#[test]
fn a_mebibyte_of_anything_is_refused_or_closed() {
    let mut asked = Asked::new();
    let mut state = larder::oci::Digest::of(b"anything");
    for _ in 0..if is_long() { 200 } else { 10 } {
        let mut bytes = Vec::with_capacity(1 << 20);
        while bytes.len() < 1 << 20 {
            bytes.extend_from_slice(state.bytes());
            state = larder::oci::Digest::of(state.bytes());
        }
        let (reply, _) = asked.ask(&bytes);
        assert!(matches!(reply.status, 400 | 431), "{}", reply.status);
    }
    asked.ends();
}
