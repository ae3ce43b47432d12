//! Private plugins: for whom they are, and that nobody else learns of them.

use crate::settings::refused;
use crate::support::artifact::{module, raw};
use crate::support::client::{self, Reply};
use crate::support::h2::{Connection, field, request};
use crate::support::larder::{Home, Larder, settings};
use crate::support::pki::{self, Pki};
use crate::support::reloaded::Reloaded;
use crate::support::scripted::Scripted;
use crate::support::tls::Client;
use crate::support::{canary, eventually};
use base64::Engine;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const TOKEN: &str = "t0ken-of-the-gateway";
const OTHER: &str = "t0ken-of-somebody-else";
/// Every way to ask for a plugin.
const URLS: [&str; 6] = [
    "/plugins/NAME/1/plugin.wasm",
    "/plugins/NAME/1.wasm",
    "/software/NAME-1.wasm",
    "/any/folder/NAME.wasm",
    "/plugins/NAME/1/metadata.txt",
    "/plugins/NAME/1/metadata.json",
];
/// And to ask what there is of it.
const FOLDERS: [&str; 5] =
    ["/plugins/NAME", "/plugins/NAME/", "/plugins/NAME/1", "/plugins/NAME/1/", "/plugins/NAME/1/other.txt"];

struct Private {
    registry: Scripted,
    larder: Larder,
    tokens: PathBuf,
    folder: tempfile::TempDir,
    module: Vec<u8>,
}

/// `secret-x` and `waf` are there and in the catalog; `secret-*` is for who has the token, or is the gateway.
fn started(more: &str, rule: &str) -> Private {
    let registry = Scripted::start();
    let module = module("x", 5000);
    registry.put("plugins/secret-x", "1", &raw(&module));
    registry.put("plugins/waf", "1", &raw(&module));
    let folder = tempfile::tempdir().unwrap();
    let (tokens, catalog) = (folder.path().join("tokens"), folder.path().join("p.properties"));
    std::fs::write(&tokens, format!("first\n{TOKEN}\r\n")).unwrap();
    let host = registry.host();
    std::fs::write(&catalog, format!("secret-x={host}/plugins/secret-x:1\nwaf={host}/plugins/waf:1\n"))
        .unwrap();
    let home = Home::new(&format!(
        "{}{more}access: {{rules: [{{plugins: [payment, 'secret-*'], tokens_file: '{}'{rule}}}]}}\n",
        settings(&host),
        tokens.display()
    ));
    let larder = home.start_with(&["--catalog", catalog.to_str().unwrap()], &[]);
    Private { registry, larder, tokens, folder, module }
}

fn ask(to: SocketAddr, method: &str, path: &str, token: &str) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers: &[_] = if token.is_empty() { &[] } else { &[("Authorization", bearer.as_str())] };
    client::request(to, method, path, headers)
}

#[test]
fn a_private_plugin_is_refused_at_every_url_before_anybody_is_asked_for_it() {
    let private = started("", "");
    let to = private.larder.data;
    let refusals = |name: &str| {
        let mut all = Vec::new();
        for url in URLS.iter().chain(&FOLDERS) {
            let path = url.replace("NAME", name);
            for method in ["GET", "HEAD"] {
                for (token, status, code) in
                    [("", 401, "token_needed"), (OTHER, 403, "not_for_you"), ("firs", 403, "not_for_you")]
                {
                    let reply = ask(to, method, &path, token);
                    assert_eq!(reply.status, status, "{method} {path} {token}");
                    let challenge = if status == 401 { "Bearer, Basic realm=\"larder\"" } else { "" };
                    assert_eq!(reply.header("www-authenticate"), challenge, "{method} {path} {token}");
                    assert_eq!(reply.header("cache-control"), "no-store", "{method} {path} {token}");
                    if method == "GET" {
                        assert_eq!(reply.header("content-type"), "application/problem+json");
                        assert_eq!(reply.json()["code"], code, "{path} {token}");
                    }
                    let mut headers = reply.headers.clone();
                    // What differs between any two answers.
                    headers.retain(|name, _| name != "date" && name != "larder-request-id");
                    let mut headers: Vec<_> = headers.into_iter().collect();
                    headers.sort();
                    all.push((headers, reply.body));
                }
            }
        }
        all
    };
    // One that is there and one that is not: nobody can tell them apart.
    assert_eq!(refusals("secret-x"), refusals("secret-y"));
    assert_eq!(private.registry.asked().len(), 0, "a registry was asked");
    // Whoever may have it gets it by every URL, and leaves nothing open behind.
    for url in URLS {
        let path = url.replace("NAME", "secret-x");
        let reply = ask(to, "GET", &path, TOKEN);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert!(!path.ends_with("wasm") || reply.body == private.module, "{path}");
        assert_eq!(reply.header("cache-control"), "private, no-cache", "{path}");
        assert_eq!(ask(to, "HEAD", &path, TOKEN).status, 200, "{path}");
    }
    private.registry.forget();
    assert_eq!(refusals("secret-x"), refusals("secret-y"), "though it is held");
    assert_eq!(private.registry.asked().len(), 0);
    let only_held = [("Cache-Control", "only-if-cached")];
    let path = "/plugins/secret-x/1/plugin.wasm";
    assert_eq!(client::request(to, "GET", path, &only_held).status, 401);
    // The first token of the file is as good, and one that is sent twice is none.
    assert_eq!(ask(to, "GET", path, "first").status, 200);
    let twice = [("Authorization", "Bearer first"), ("Authorization", "Bearer first")];
    assert_eq!(client::request(to, "GET", path, &twice).status, 403);
    // As a name and not as a password.
    assert_eq!(client::request(to, "GET", path, &[("Authorization", "Basic Zmlyc3Q6")]).status, 403);
    assert_eq!(client::get(to, &format!("{path}?access_token=first")).status, 401, "never from the URL");
    // Everybody's is everybody's, whoever asks.
    for token in ["", OTHER] {
        let reply = ask(to, "GET", "/plugins/waf/1/plugin.wasm", token);
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-cache"));
    }
}

#[test]
fn answers_for_private_plugins_are_for_no_shared_cache() {
    let private = started("", "");
    let to = private.larder.data;
    let bearer = format!("Bearer {TOKEN}");
    let reply = ask(to, "GET", "/plugins/secret-x/1/plugin.wasm", TOKEN);
    let (etag, manifest) = (reply.header("etag"), reply.header("larder-manifest-digest"));
    for (name, value, status) in [("If-None-Match", etag, 304), ("Range", "bytes=0-9", 206)] {
        let headers = [("Authorization", bearer.as_str()), (name, value)];
        let reply = client::request(to, "GET", "/plugins/secret-x/1/plugin.wasm", &headers);
        assert_eq!((reply.status, reply.header("cache-control")), (status, "private, no-cache"));
    }
    let by_digest = format!("/plugins/secret-x/{manifest}/plugin.wasm");
    let reply = ask(to, "GET", &by_digest, TOKEN);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), "private, max-age=31536000, immutable");
    assert_eq!(ask(to, "GET", &by_digest, "").status, 401);
    for path in ["/plugins/", "/plugins/snapshot-inventory.json"] {
        assert_eq!(client::get(to, path).header("cache-control"), "private, no-cache", "{path}");
    }
    let absent = ask(to, "GET", "/plugins/secret-y/1/plugin.wasm", TOKEN);
    assert_eq!((absent.status, absent.header("cache-control")), (404, "no-store"));
}

#[test]
fn listings_name_private_plugins_to_those_whom_they_are_for() {
    let private = started("", "");
    let to = private.larder.data;
    assert_eq!(ask(to, "GET", "/plugins/secret-x/1/plugin.wasm", TOKEN).status, 200);
    assert_eq!(ask(to, "GET", "/plugins/waf/1/plugin.wasm", "").status, 200);
    for (token, sees) in [("", false), (OTHER, false), (TOKEN, true)] {
        for path in ["/plugins/", "/plugins/snapshot-inventory.json"] {
            let text = ask(to, "GET", path, token).text();
            assert!(text.contains("waf"), "{path}: {text}");
            assert_eq!(text.contains("secret-x"), sees, "{path} {token}: {text}");
        }
        // A name that is like it.
        let told = ask(to, "GET", "/plugins/secre-x/", token);
        assert_eq!((told.status, told.text().contains("secret-x")), (404, sees), "{}", told.text());
        let told = ask(to, "GET", "/plugins/secre-x/1/plugin.wasm", token);
        assert_eq!((told.status, told.text().contains("secret-x")), (404, sees), "{}", told.text());
    }
    assert!(ask(to, "GET", "/plugins/secret-x/", TOKEN).text().contains('1'));
    assert_eq!(ask(to, "GET", "/plugins/secret-x", TOKEN).status, 301);
}

#[test]
fn a_client_certificate_with_the_right_name_is_as_good_as_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let tls = format!(
        "tls: {{data: {{certificate: '{}', key: '{}', client_ca: ['{}']}}}}\n",
        pki.certificate.display(),
        pki.key.display(),
        pki.ca.display()
    );
    let private =
        started(&tls, ", client_certificates: [gateway.corp, 'spiffe://corp/gateway', 'the gateway']");
    let to = private.larder.data;
    let path = "/plugins/secret-x/1/plugin.wasm";
    let of = |client: &pki::Client<'_>| Client::showing(&pki.ca, &pki.client(folder.path(), client));
    let stranger = of(&pki::Client { common: "stranger", dns: &["x.gateway.corp"], ..Default::default() });
    for (client, status) in [
        (Client::trusting(&pki.ca), 401),
        (of(&pki::Client { common: "by-dns", dns: &["other", "gateway.corp"], ..Default::default() }), 200),
        (
            of(&pki::Client { common: "by-uri", uri: Some("spiffe://corp/gateway"), ..Default::default() }),
            200,
        ),
        (of(&pki::Client { common: "the gateway", ..Default::default() }), 200),
        (stranger, 403),
    ] {
        let client = client.speaking(&["http/1.1"]);
        assert_eq!(client.get(to, path).unwrap().status, status);
        assert_eq!(client.request(to, "HEAD", path, &[]).unwrap().status, status);
        assert_eq!(client.get(to, "/plugins/waf/1/plugin.wasm").unwrap().status, 200);
        // The same on every stream of a connection that knows who it is with.
        // A table of no bytes, so that each answer spells its status out.
        let over_h2 = client.speaking(&["h2"]).connect(to).unwrap();
        let mut connection = Connection::over(over_h2, &[(1, 0)]);
        for stream in [1, 3] {
            let (told, body) = connection.get(stream, &request("GET", path));
            assert_eq!((told, body == private.module), (status, status == 200), "over HTTP/2");
        }
        let token = field("authorization", &format!("Bearer {TOKEN}"));
        let (told, body) = connection.get(5, &[request("GET", path), token].concat());
        assert_eq!((told, body == private.module), (200, true), "a token will do all the same");
    }
}

#[test]
fn tokens_are_changed_in_their_file_and_a_broken_one_changes_nothing() {
    let private = started("", "");
    let to = private.larder.data;
    let status = |token: &str| ask(to, "GET", "/plugins/secret-x/1/plugin.wasm", token).status;
    let reloads =
        |result: &str| private.larder.metric(&format!("larder_reloads_total{{result=\"{result}\"}}"));
    assert_eq!((status(TOKEN), status(OTHER)), (200, 403));
    std::fs::write(&private.tokens, format!("{OTHER}\n")).unwrap();
    eventually("the new token", || (status(OTHER) == 200).then_some(()));
    assert_eq!(status(TOKEN), 403, "the old one has ended");
    for (n, broken) in ["", "a b\n", "tab\there\n"].into_iter().enumerate() {
        std::fs::write(&private.tokens, broken).unwrap();
        eventually("the fault being told", || (reloads("error") >= n as f64 + 1.0).then_some(()));
        assert_eq!((status(TOKEN), status(OTHER)), (403, 200));
    }
    std::fs::remove_file(&private.tokens).unwrap();
    eventually("the fault being told", || (reloads("error") >= 4.0).then_some(()));
    assert_eq!((status(""), status(OTHER)), (401, 200), "never open because its file is gone");
    std::fs::write(&private.tokens, TOKEN).unwrap();
    eventually("the mended file", || (status(TOKEN) == 200).then_some(()));
}

#[test]
fn tokens_are_seen_nowhere() {
    let private = started("log: {level: trace}\n", "");
    let to = private.larder.data;
    for url in URLS.iter().chain(&FOLDERS) {
        for token in [TOKEN, OTHER] {
            ask(to, "GET", &url.replace("NAME", "secret-x"), token);
        }
    }
    // Nor where the request is none.
    for text in [
        format!("GET / HTTP/1.1\r\nHost: l\r\nAuthorization: Bearer {TOKEN}\r\nX : y\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: l\r\nAuthorization: Bearer {TOKEN}\0\r\n\r\n"),
        format!("GET /a\\b HTTP/1.1\r\nHost: l\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"),
    ] {
        let _ = client::raw(to, text.as_bytes());
    }
    std::fs::write(&private.tokens, format!("{OTHER}\nand a fault {TOKEN}\n")).unwrap();
    let told = "tokens:2: has a space";
    eventually("the fault in the log", || private.larder.log_text().contains(told).then_some(()));
    let secrets = [TOKEN, OTHER];
    canary::unseen(&secrets, "the log", private.larder.log_text().as_bytes());
    for path in ["/metrics", "/readyz", "/explain?name=secret-x"] {
        canary::unseen(&secrets, path, &client::get(private.larder.admin, path).body);
    }
    canary::unwritten(&secrets, &private.larder.home.cache());
    drop(private.folder);
}

#[test]
fn rules_that_cannot_be_are_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        folder.path().join(name).display().to_string()
    };
    let nowhere = folder.path().join("dangling");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &nowhere).unwrap();
    let rule = |file: &str| format!("\naccess:\n  rules: [{{plugins: [a], tokens_file: '{file}'}}]\n");
    let place = "larder.yaml:3:3: access.rules: ";
    for (name, bytes, told) in [
        ("empty", &b""[..], "empty: is empty"),
        ("blank", b"\n\n", "blank: is empty"),
        ("spaces", b"one\ntwo s3cret\n", "spaces:2: has a space"),
        ("controls", b"one\ntwo\ns3cret\x07\n", "controls:3: has a space or another character"),
        ("huge", &vec![b'a'; 1 << 20], "huge: 1048576 bytes are no list of tokens"),
    ] {
        let file = put(name, bytes);
        refused(&[(&rule(&file), &[place, &file, told])]);
    }
    let nowhere = nowhere.display().to_string();
    refused(&[
        (&rule(&nowhere), &[place, &nowhere, "No such file"]),
        ("\naccess:\n  rules: [{plugins: [a]}]\n", &[place, "rule 1 lets nobody in"]),
        (
            "\naccess:\n  rules: [{plugins: [a], client_certificates: [g]}]\n",
            &[place, "rule 1: client_certificates need tls.data.client_ca"],
        ),
        ("\naccess:\n  rules: [{plugins: []}]\n", &[place, "rule 1 is for no plugin"]),
        ("\naccess:\n  rules: [{plugins: ['a[']}]\n", &[place, "rule 1: 'a[' fits no plugin's name"]),
        // What fits no name would protect nothing.
        ("\naccess:\n  rules: [{plugins: [Payment]}]\n", &[place, "rule 1: 'Payment' fits no plugin's name"]),
        ("\naccess:\n  rules: [{plugins: ['pay@1']}]\n", &[place, "rule 1: 'pay@1' fits no plugin's name"]),
        (
            "\naccess:\n  rules: [{plugins: ['plugins/pay*']}]\n",
            &[place, "'plugins/pay*' fits no plugin's name"],
        ),
        (
            "\naccess:\n  rules: [{plugin: [a]}]\n",
            &["larder.yaml:3:3: access.rules: ", "unknown field `plugin`"],
        ),
    ]);
}

#[test]
fn a_name_that_comes_with_its_rule_is_never_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, tokens) = (folder.path().join("p.properties"), folder.path().join("tokens"));
    std::fs::write(&tokens, TOKEN).unwrap();
    let mut running = Reloaded::with(&[("catalog.template", json!(null))]);
    let host = running.registry.host();
    running.registry.put("plugins/secret-x", "1", &raw(&module("x", 5000)));
    std::fs::write(&lines, format!("secret-x={host}/plugins/secret-x:1\n")).unwrap();
    let (data, over, asked) = (running.larder.data, AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let status = client::get(data, "/plugins/secret-x/1/plugin.wasm").status;
                    assert!(matches!(status, 401 | 404), "{status}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for turn in 0..20 {
            let rules = json!([{"plugins": ["secret-*"], "tokens_file": tokens}]);
            let (files, rules) = if turn % 2 == 0 { (json!([lines]), rules) } else { (json!([]), json!([])) };
            running.change(&[("catalog.files", files), ("access.rules", rules)]);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(asked.into_inner() > 0);
    assert_eq!(running.registry.asked().len(), 0, "a registry was asked for it");
}

#[test]
fn a_token_is_taken_as_a_password_too_because_gateways_know_no_other_way() {
    let private = started("", "");
    let pair = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    for (value, status) in [
        (pair(&format!("larder:{TOKEN}")), 200),
        (pair(&format!(":{TOKEN}")), 200),
        (pair(&format!("larder:{OTHER}")), 403),
        (pair(TOKEN), 401),
        ("Basic %%%".into(), 401),
    ] {
        let headers = [("Authorization", value.as_str())];
        let path = "/plugins/secret-x/1/plugin.wasm";
        assert_eq!(private.larder.request("GET", path, &headers).status, status, "{value}");
    }
}
