//! URLs and HTTP: every pattern, status and field of the contract, over a socket.

use crate::support::artifact::{module, raw};
use crate::support::eventually;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;

/// A registry with `ai-proxy` 2.0.1 and a larder whose catalog lists it.
fn listed() -> (Scripted, Larder, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("ai-proxy", 5000);
    registry.put("plugins/ai-proxy", "2.0.1", &raw(&bytes));
    let home = Home::new(&settings(&registry.host()));
    let catalog = home.path().join("plugins.properties");
    let lines = format!(
        "ai-proxy=oci://{0}/plugins/ai-proxy:2.0.1\nkey-auth={0}/plugins/key-auth:2.0.0\n",
        registry.host()
    );
    std::fs::write(&catalog, lines).unwrap();
    let larder = home.start_with(&["--catalog", catalog.to_str().unwrap()], &[]);
    (registry, larder, bytes)
}

const MODULE: &str = "/plugins/ai-proxy/2.0.1/plugin.wasm";

#[test]
fn every_pattern_of_the_contract_serves_the_module() {
    let (_registry, larder, bytes) = listed();
    for path in [
        MODULE,
        "/plugins/ai-proxy/2.0.1.wasm",
        "/plugins/ai-proxy.wasm",
        "/ai-proxy.wasm",
        "/wasm-plugins/ai-proxy.wasm",
        "/wasm/ai-proxy.wasm",
        "/any/other/prefix/ai-proxy.wasm",
        "/software/ai-proxy-2.0.1.wasm",
        "/plugins/ai-proxy/2.0.1/plugin.wasm?v=2",
        "//plugins//ai-proxy/2.0.1//plugin.wasm",
        "/plugins/ai-proxy/1.0.0/plugin.wasm",
    ] {
        let reply = larder.get(path);
        assert_eq!((reply.status, &reply.body), (200, &bytes), "{path}: {}", reply.text());
    }
}

#[test]
fn a_module_comes_with_all_that_a_client_can_check() {
    let (registry, larder, bytes) = listed();
    let reply = larder.get(MODULE);
    let digest = Digest::of(&bytes);
    assert_eq!(reply.header("content-type"), "application/wasm");
    assert_eq!(reply.header("content-length"), "5000");
    assert_eq!(reply.header("etag"), format!("\"{digest}\""));
    assert_eq!(reply.header("accept-ranges"), "bytes");
    assert_eq!(reply.header("cache-control"), "no-cache");
    assert_eq!(reply.header("cache-status"), "larder; fwd=uri-miss; stored");
    assert!(httpdate::parse_http_date(reply.header("last-modified")).is_ok());
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(digest.bytes());
    assert_eq!(reply.header("repr-digest"), format!("sha-256=:{encoded}:"));
    assert_eq!(reply.header("larder-reference"), format!("{}/plugins/ai-proxy:2.0.1", registry.host()));
    assert_eq!(reply.header("larder-manifest-digest"), raw(&bytes).manifest.digest().to_string());
    assert_eq!(reply.header("larder-match"), "exact");
    let again = larder.get(MODULE);
    assert!(
        again.header("cache-status").starts_with("larder; hit; ttl="),
        "{}",
        again.header("cache-status")
    );
    assert_eq!(again.header("last-modified"), reply.header("last-modified"), "stable");
    let fallback = larder.get("/plugins/ai-proxy/1.0.0/plugin.wasm");
    assert_eq!(fallback.header("larder-match"), "fallback");
    let pinned = larder.get(&format!("/plugins/ai-proxy/{}/plugin.wasm", raw(&bytes).manifest.digest()));
    assert_eq!((pinned.status, pinned.header("cache-control")), (200, "public, max-age=31536000, immutable"));
}

#[test]
fn head_is_get_without_its_body_and_fills_too() {
    let (registry, larder, bytes) = listed();
    let head = larder.request("HEAD", MODULE, &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "5000", 0));
    assert_eq!(registry.count(|ask| ask.is_blob()), 1);
    let get = larder.get(MODULE);
    assert_eq!(get.body, bytes);
    assert_eq!(head.header("etag"), get.header("etag"));
}

#[test]
fn conditions_and_ranges_are_those_of_rfc_9110() {
    let (_registry, larder, bytes) = listed();
    let etag = larder.get(MODULE).header("etag").to_owned();
    let modified = larder.get(MODULE).header("last-modified").to_owned();
    let ask = |headers: &[(&str, &str)]| larder.request("GET", MODULE, headers);
    for headers in [
        &[("If-None-Match", etag.as_str())][..],
        &[("If-None-Match", "*")],
        &[("If-Modified-Since", &modified)],
    ] {
        let reply = ask(headers);
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{headers:?}");
        assert_eq!(reply.header("etag"), etag);
    }
    assert_eq!(ask(&[("If-Match", "\"other\"")]).status, 412);
    for (range, part) in [
        ("bytes=0-0", &bytes[..1]),
        ("bytes=10-19", &bytes[10..20]),
        ("bytes=-5", &bytes[4995..]),
        ("bytes=4990-9999", &bytes[4990..]),
    ] {
        let reply = ask(&[("Range", range)]);
        assert_eq!((reply.status, &reply.body[..]), (206, part), "{range}");
        assert!(reply.header("content-range").ends_with("/5000"));
    }
    let beyond = ask(&[("Range", "bytes=5000-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */5000"));
    for range in ["bytes=5-2", "items=0-1", "bytes=0-0,2-2", "nonsense"] {
        assert_eq!(
            (ask(&[("Range", range)]).status, ask(&[("Range", range)]).body.len()),
            (200, 5000),
            "{range}"
        );
    }
    assert_eq!(ask(&[("Range", "bytes=0-0"), ("If-Range", &etag)]).status, 206);
    assert_eq!(ask(&[("Range", "bytes=0-0"), ("If-Range", "\"other\"")]).status, 200);
}

#[test]
fn large_modules_are_served_from_disk_whole_and_in_parts() {
    let registry = Scripted::start();
    let bytes = module("large", 3_000_000);
    registry.put("plugins/large", "1", &raw(&bytes));
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_CACHE_MEMORY", "1MiB")]);
    let path = "/plugins/large/1/plugin.wasm";
    for _ in 0..2 {
        assert_eq!(larder.get(path).body, bytes);
    }
    assert!(larder.get(path).header("cache-status").ends_with("detail=disk"));
    // Within a piece, across the edge of two, the last.
    for (first, last) in [(5, 9), (262_140, 262_150), (0, 524_288), (2_999_990, 2_999_999)] {
        let reply = larder.request("GET", path, &[("Range", &format!("bytes={first}-{last}"))]);
        assert_eq!((reply.status, &reply.body[..]), (206, &bytes[first..=last]), "{first}-{last}");
    }
}

#[test]
fn metadata_has_the_lines_of_the_present_server_and_ours() {
    let (registry, larder, bytes) = listed();
    let text = larder.get("/plugins/ai-proxy/2.0.1/metadata.txt");
    assert_eq!(text.status, 200);
    let lines: Vec<String> = text.text().lines().map(Into::into).collect();
    assert_eq!(lines[0], "Plugin Name: ai-proxy");
    assert_eq!(lines[1], "Size: 5000 bytes");
    assert!(lines[2].starts_with("Last Modified: 20") && lines[3].starts_with("Created: 20"));
    assert!(lines[4].starts_with("MD5: ") && lines[4].len() == 37);
    assert!(lines.contains(&format!("sha256: {}", Digest::of(&bytes).hex())));
    assert!(lines.contains(&format!("reference: {}/plugins/ai-proxy:2.0.1", registry.host())));
    let json = larder.get("/plugins/ai-proxy/2.0.1/metadata.json").json();
    assert_eq!(json["sha256"], Digest::of(&bytes).hex());
    assert_eq!(json["digest"], raw(&bytes).manifest.digest().to_string());
    assert_eq!(json["version"], "2.0.1");
    assert_eq!(larder.get("/plugins/nope/1/metadata.txt").status, 404);
}

#[test]
fn a_tag_that_moves_takes_the_fields_and_the_metadata_along_with_the_module() {
    let registry = Scripted::start();
    let (old, new) = (module("old", 500), module("new", 700));
    registry.put("plugins/p", "1", &raw(&old));
    let larder = Home::new(&(settings(&registry.host()) + "lifetimes:\n  tag: 1ms\n")).start();
    let tells_of = |bytes: &[u8]| {
        let (digest, manifest) = (Digest::of(bytes), raw(bytes).manifest.digest().to_string());
        let served = larder.get("/plugins/p/1/plugin.wasm");
        if served.body != bytes {
            return None;
        }
        assert_eq!(served.header("etag"), format!("\"{digest}\""));
        assert_eq!(served.header("larder-manifest-digest"), manifest);
        for file in ["metadata.txt", "metadata.json"] {
            let told = larder.get(&format!("/plugins/p/1/{file}"));
            assert!(
                told.text().contains(&digest.hex()) && told.text().contains(&manifest),
                "{}",
                told.text()
            );
            assert_eq!(told.header("larder-manifest-digest"), manifest);
            assert_eq!(told.header("etag"), format!("\"{}\"", Digest::of(&told.body)));
            let same = [("If-None-Match", told.header("etag"))];
            assert_eq!(larder.request("GET", &format!("/plugins/p/1/{file}"), &same).status, 304);
        }
        Some(())
    };
    for _ in 0..3 {
        tells_of(&old).unwrap();
    }
    registry.put("plugins/p", "1", &raw(&new));
    eventually("the tag's new module", || tells_of(&new));
    for _ in 0..3 {
        tells_of(&new).unwrap();
    }
}

#[test]
fn nothing_wakes_a_hundred_times_a_second_once_an_answer_was_written() {
    let (_registry, larder, _) = listed();
    assert_eq!(larder.get(MODULE).status, 200);
    let threads = std::fs::read_dir(format!("/proc/{}/task", larder.id())).unwrap();
    // One that has just ended has no name any more.
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).ok();
    let names: Vec<_> = threads.filter_map(|thread| name(thread.unwrap())).collect();
    assert!(names.len() > 2 && !names.iter().any(|name| name.starts_with("Timer")), "{names:?}");
}

#[test]
fn listings_are_html_for_people_and_json_for_programs() {
    let (registry, larder, bytes) = listed();
    larder.get(MODULE);
    let page = larder.get("/plugins/");
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text().contains("<a href=\"ai-proxy/\">ai-proxy/</a>"));
    let json = |path: &str| larder.request("GET", path, &[("Accept", "application/json")]).json();
    assert_eq!(json("/plugins/")[0]["name"], "ai-proxy");
    assert_eq!(json("/plugins/ai-proxy/"), serde_json::json!([{"name": "2.0.1", "type": "directory"}]));
    let files = json("/plugins/ai-proxy/2.0.1/");
    assert_eq!(files[2]["name"], "plugin.wasm");
    assert_eq!(files[2]["size"], 5000);
    assert_eq!(larder.get("/plugins/ai-proxy/9/").status, 404);
    assert_eq!(larder.get("/plugins/nope/").status, 404);
    let redirect = larder.get("/plugins");
    assert_eq!((redirect.status, redirect.header("location")), (301, "plugins/"));
    let inventory = larder.get("/plugins/snapshot-inventory.json").json();
    assert_eq!(inventory["ai-proxy"]["version"], "2.0.1");
    assert_eq!(inventory["ai-proxy"]["wasmSha256"], Digest::of(&bytes).hex());
    assert_eq!(inventory["ai-proxy"]["digest"], raw(&bytes).manifest.digest().to_string());
    assert_eq!(inventory.get("key-auth"), None, "not held");
    registry.put("plugins/ai-proxy", "3.0.0", &raw(&module("newer", 500)));
    assert_eq!(larder.get("/plugins/ai-proxy/3.0.0/plugin.wasm").status, 200);
    let inventory = larder.get("/plugins/snapshot-inventory.json").json();
    assert_eq!(inventory["ai-proxy"]["version"], "2.0.1", "the catalog's, though a higher one is held");
    assert_eq!(json("/plugins/ai-proxy/")[1]["name"], "3.0.0");
}

#[test]
fn probes_are_answered_on_both_ports() {
    let (_registry, larder, _) = listed();
    assert_eq!(larder.get("/").status, 200);
    assert_eq!(larder.get("/healthz").text(), "ok\n");
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(crate::support::client::get(larder.admin, path).status, 200, "{path}");
        assert_eq!(larder.get(path).status, 404, "{path} is not for the data port");
    }
    assert_eq!(crate::support::client::get(larder.admin, MODULE).status, 404);
}

#[test]
fn refusals_say_what_was_understood_and_what_to_do() {
    let (registry, larder, _) = listed();
    larder.get(MODULE);
    let missing = larder.get("/plugins/key-auth/1.0.0/plugin.wasm");
    assert_eq!((missing.status, missing.header("content-type")), (404, "application/problem+json"));
    assert_eq!(missing.json()["code"], "not_found");
    assert_eq!(missing.json()["versions"], serde_json::json!(["2.0.0"]));
    assert_eq!(missing.header("cache-status"), "larder; fwd=uri-miss; detail=not_found");
    let text = larder.request("GET", "/plugins/key-auth/1.0.0/plugin.wasm", &[("Accept", "text/plain")]);
    assert!(text.text().starts_with("404 Not Found (not_found)\n"), "{}", text.text());
    let template = larder.get("/plugins/${name}/${version}/plugin.wasm");
    assert_eq!((template.status, template.json()["code"].clone()), (400, "unexpanded_template".into()));
    assert!(
        template.json()["hint"]
            .as_str()
            .unwrap()
            .contains("HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN")
    );
    assert_eq!(larder.get("/%24%7Bname%7D.wasm").json()["code"], "unexpanded_template");
    assert_eq!(larder.get("/plugins/Bad/1/plugin.wasm").json()["code"], "bad_name");
    assert_eq!(larder.get("/plugins/a/+/plugin.wasm").json()["code"], "bad_version");
    assert_eq!(larder.get("/unlisted.wasm").json()["code"], "version_needed");
    assert_eq!(larder.get("/plugins/ai-proxy/2.0.1/plugin.wat").json()["code"], "no_route");
    let post = larder.request("POST", MODULE, &[]);
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    registry.script(|_, _| Act::status(500));
    let broken = larder.get("/plugins/other/1/plugin.wasm");
    assert_eq!((broken.status, broken.json()["code"].clone()), (502, "upstream".into()));
    assert_eq!(broken.json()["reference"], format!("{}/plugins/other:1", registry.host()));
    let is_this = |line: &serde_json::Value| line["status"] == 502;
    let line = crate::support::eventually("the line", || larder.log().into_iter().find(is_this));
    assert_eq!(line["detail"], broken.json()["detail"], "the log says the same");
}

#[test]
fn names_without_a_rule_reach_no_registry() {
    let registry = Scripted::start();
    let text =
        settings(&registry.host()).lines().filter(|l| !l.contains("template")).collect::<Vec<_>>().join("\n");
    let text = text.replace("builtin: false", "builtin: false\n  template: null");
    let home = Home::new(&text);
    let catalog = home.path().join("p.properties");
    std::fs::write(&catalog, format!("ai-proxy={}/plugins/ai-proxy:1", registry.host())).unwrap();
    let larder = home.start_with(&["--catalog", catalog.to_str().unwrap()], &[]);
    let reply = larder.get("/plugins/ai-prxy/1/plugin.wasm");
    assert_eq!((reply.status, reply.json()["code"].clone()), (404, "unknown_name".into()));
    assert_eq!(reply.json()["nearest"], serde_json::json!(["ai-proxy"]));
    assert_eq!(registry.asked().len(), 0);
}

#[test]
fn patterns_are_configuration() {
    let registry = Scripted::start();
    let bytes = module("x", 500);
    registry.put("plugins/x", "1", &raw(&bytes));
    let text = settings(&registry.host()) + "routes:\n  patterns: ['/v/{version}/n/{name}']\n";
    let larder = Home::new(&text).start();
    assert_eq!(larder.get("/v/1/n/x").body, bytes);
    assert_eq!(larder.get("/plugins/x/1/plugin.wasm").status, 404);
}

#[test]
fn a_range_is_for_get_alone_and_a_client_may_ask_for_what_is_held_only() {
    let (registry, larder, _) = listed();
    let cold = larder.request("GET", MODULE, &[("Cache-Control", "only-if-cached")]);
    assert_eq!((cold.status, cold.json()["code"].clone()), (504, "only_if_cached".into()));
    assert_eq!(registry.asked().len(), 0);
    let head = larder.request("HEAD", MODULE, &[("Range", "bytes=0-9")]);
    assert_eq!((head.status, head.header("content-length")), (200, "5000"));
    assert_eq!(larder.request("GET", MODULE, &[("Cache-Control", "max-age=0, only-if-cached")]).status, 200);
}

#[test]
fn listings_have_a_validator_that_changes_with_them_and_no_date() {
    let (_registry, larder, _) = listed();
    let before = larder.get("/plugins/snapshot-inventory.json");
    assert_eq!(before.header("last-modified"), "");
    larder.get(MODULE);
    let after = larder.request(
        "GET",
        "/plugins/snapshot-inventory.json",
        &[("If-None-Match", before.header("etag"))],
    );
    assert_eq!(after.status, 200);
    assert_eq!(larder.get("/plugins/").header("vary"), "accept");
}

#[test]
fn nearest_names_and_a_next_step_are_told_with_the_default_rules_too() {
    let (_registry, larder, _) = listed();
    let missing = larder.get("/plugins/ai-prxy/2.0.1/plugin.wasm").json();
    assert_eq!(missing["nearest"], serde_json::json!(["ai-proxy"]));
    assert!(missing["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
    let version = larder.get("/plugins/ai-proxy/9.9/").json();
    assert_eq!(version["code"], "unknown_version");
}

#[test]
fn hosts_as_clusters_write_them_are_taken_and_http_1_0_is_closed() {
    use crate::support::client;
    let (_registry, larder, _) = listed();
    let dotted =
        b"GET / HTTP/1.1\r\nHost: larder.higress-system.svc.cluster.local.:8080\r\nConnection: close\r\n\r\n";
    assert_eq!(client::raw(larder.data, dotted).unwrap().status, 200);
    let old = client::raw(larder.data, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((old.status, old.header("connection")), (200, "close"));
}

#[test]
fn a_module_damaged_while_it_is_served_goes_on_from_another_copy() {
    let registry = Scripted::start();
    let bytes = module("large", 3_000_000);
    registry.put("plugins/large", "1", &raw(&bytes));
    let larder = Home::new(&settings(&registry.host())).start_with(&[], &[("LARDER_CACHE_MEMORY", "1MiB")]);
    let path = "/plugins/large/1/plugin.wasm";
    assert_eq!(larder.get(path).body, bytes);
    let file = crate::support::heart::files(&larder.home.cache().join("v1/modules")).remove(0);
    let mut damaged = bytes.clone();
    damaged[2_000_000] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    assert_eq!(larder.get(path).body, bytes);
    assert_eq!(registry.count(|ask| ask.is_blob()), 2);
    assert_eq!(larder.metric("larder_quarantined_total"), 1.0);
}
