//! Manifests, layers, redirects and challenges as no client should ever see them: each by its status, its code, one line
//! in the log, one count in the metrics, and nothing on the disk.

use crate::support::artifact::{Artifact, OCI_INDEX, OCI_MANIFEST, RAW, module, raw};
use crate::support::eventually;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use serde_json::{Value, json};

/// One row: what lies in the registry as the manifest, what it is called, and what must come of it.
struct Row {
    name: String,
    bytes: Vec<u8>,
    content_type: Option<&'static str>,
    status: u16,
    code: &'static str,
}

fn row(name: &str, bytes: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Row {
    Row { name: name.into(), bytes: bytes.into(), content_type: Some(OCI_MANIFEST), status, code }
}

/// The manifest of a good artifact, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(&raw(&module("waf", 5000)).manifest.bytes).unwrap();
    change(&mut document);
    serde_json::to_vec(&document).unwrap()
}

fn text(from: &str, to: &str) -> Vec<u8> {
    let good = String::from_utf8(changed(|_| {})).unwrap();
    assert!(good.contains(from), "{from} in {good}");
    good.replace(from, to).into_bytes()
}

fn rows() -> Vec<Row> {
    let digest = Digest::of(&module("waf", 5000)).to_string();
    let layer = |n: usize| json!({"mediaType": RAW, "digest": Digest::of(&[n as u8]).to_string(), "size": 1});
    let child = |os: &str| json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": {"os": os, "architecture": os}});
    let index = |children: Vec<Value>| {
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": children})).unwrap()
    };
    let typed = |name: &str, content_type, bytes: Vec<u8>, code| Row {
        content_type: Some(content_type),
        ..row(name, bytes, 422, code)
    };
    vec![
        row("empty", "", 422, "bad_manifest"),
        row("null", "null", 422, "bad_manifest"),
        row("list", "[]", 422, "bad_manifest"),
        row("cut", "{\"schemaVersion\":2,\"layers\":[", 422, "bad_manifest"),
        row("bom", [b"\xef\xbb\xbf".to_vec(), changed(|_| {})].concat(), 422, "bad_manifest"),
        row("trailing", [changed(|_| {}), b" {}".to_vec()].concat(), 422, "bad_manifest"),
        row("deep", "[".repeat(10_000), 422, "bad_manifest"),
        row("huge", vec![b' '; (4 << 20) + 1], 422, "manifest_too_large"),
        typed("other-type", OCI_INDEX, changed(|_| {}), "media_type_mismatch"),
        row("both", changed(|m| m["manifests"] = json!([])), 422, "ambiguous_manifest"),
        row("twice", text("\"layers\":", "\"layers\":[],\"layers\":"), 422, "bad_manifest"),
        row("schema-1", changed(|m| m["schemaVersion"] = json!(1)), 422, "unsupported_schema"),
        row("schema-3", changed(|m| m["schemaVersion"] = json!(3)), 422, "unsupported_schema"),
        row("schema-word", changed(|m| m["schemaVersion"] = json!("2")), 422, "bad_manifest"),
        typed("no-platform", OCI_INDEX, index(vec![child("unknown")]), "no_platform"),
        typed("no-children", OCI_INDEX, index(vec![]), "no_platform"),
        typed("many-children", OCI_INDEX, index(vec![child("linux"); 10_000]), "too_many_layers"),
        row("upper", text("sha256:", "sha256:A"), 422, "bad_manifest"),
        row("path", changed(|m| m["layers"][0]["digest"] = json!("sha256:../../x")), 422, "bad_manifest"),
        row("no-digest", changed(|m| m["layers"][0]["digest"] = json!("")), 422, "bad_manifest"),
        row(
            "md5",
            changed(|m| m["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
            422,
            "bad_digest",
        ),
        row("negative", changed(|m| m["layers"][0]["size"] = json!(-1)), 422, "bad_manifest"),
        row("float", changed(|m| m["layers"][0]["size"] = json!(5.5)), 422, "bad_manifest"),
        row("vast", text("\"size\":5000", "\"size\":9223372036854775808"), 422, "too_large"),
        row("word", changed(|m| m["layers"][0]["size"] = json!("5000")), 422, "bad_manifest"),
        row("smaller", text("\"size\":5000", "\"size\":4999"), 502, "size_mismatch"),
        row("larger", text("\"size\":5000", "\"size\":5001"), 502, "size_mismatch"),
        row("zero-layers", changed(|m| m["layers"] = json!([])), 422, "no_layer"),
        row("null-layers", changed(|m| m["layers"] = Value::Null), 422, "ambiguous_manifest"),
        row("1000-layers", changed(|m| m["layers"] = (0..1000).map(layer).collect()), 422, "too_many_layers"),
        row("two-modules", changed(|m| m["layers"] = json!([layer(1), layer(2)])), 422, "ambiguous_layer"),
        row(
            "no-wasm",
            changed(|m| m["layers"][0]["mediaType"] = json!("application/vnd.module.wasm.doc.v1+markdown")),
            422,
            "no_wasm_layer",
        ),
    ]
}

fn stock(registry: &Scripted, name: &str, good: &Artifact) {
    registry.put(&format!("plugins/{name}"), "good", good);
}

fn before(registry: &Scripted) -> Larder {
    Home::new(&(settings(&registry.host()).replace("registry:\n", "registry:\n  certs: []\n  attempts: 1\n")))
        .start()
}

#[test]
fn each_malformed_manifest_is_refused_by_its_own_code_once_told_and_never_kept() {
    let registry = Scripted::start();
    let good = raw(&module("waf", 5000));
    let rows = rows();
    for row in &rows {
        stock(&registry, &row.name, &good);
        let path = format!("/v2/plugins/{}/manifests/1", row.name);
        registry.put_raw(&path, row.content_type.unwrap_or_default(), &row.bytes);
    }
    let larder = before(&registry);
    for Row { name, status, code, .. } in &rows {
        let reply = larder.get(&format!("/plugins/{name}/1/plugin.wasm"));
        let told = (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned());
        assert_eq!(told, (*status, code.to_string()), "{name}: {}", reply.text());
        let reference = format!("{}/plugins/{name}:1", registry.host());
        let told = || -> Vec<_> {
            let of_it =
                |line: &Value| line["reference"] == reference.as_str() && line["message"] == "not fetched";
            larder.log().into_iter().filter(of_it).collect()
        };
        // Lines leave by a thread of their own.
        let fills = eventually("a line in the log", || Some(told()).filter(|lines| !lines.is_empty()));
        assert_eq!(fills.len(), 1, "{name}: {fills:?}");
        assert_eq!(fills[0]["level"], "WARN", "{name}");
        let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(*name != "cut" || detail.contains("line 1 column"), "where: {detail}");
        assert!(*name != "no-wasm" || detail.contains("doc.v1+markdown"), "what was seen: {detail}");
        assert_eq!(fills[0]["code"], *code, "{name}");
    }
    for code in rows.iter().map(|row| row.code).collect::<std::collections::BTreeSet<_>>() {
        let expected = rows.iter().filter(|row| row.code == code).count() as f64;
        let label = format!("larder_fills_total{{registry=\"{}\",result=\"{code}\"}}", registry.host());
        assert_eq!(larder.metric(&label), expected, "{code}");
    }
    for folder in ["modules", "records", "tmp"] {
        assert!(
            crate::support::heart::files(&larder.home.cache().join("v1").join(folder)).is_empty(),
            "{folder}"
        );
    }
}

#[test]
fn what_is_odd_and_unambiguous_is_served() {
    let bytes = module("waf", 5000);
    let good = raw(&bytes);
    let layer = serde_json::from_slice::<Value>(&good.manifest.bytes).unwrap()["layers"][0].clone();
    let with = |key: &str, value: Value| changed(|m| m["layers"][0][key] = value);
    let noise: String = "x".repeat(1 << 20);
    let rows: Vec<(&str, Option<&str>, Vec<u8>)> = vec![
        (
            "untyped",
            Some("application/json"),
            changed(|m| drop(m.as_object_mut().unwrap().remove("mediaType"))),
        ),
        (
            "header-only",
            Some(OCI_MANIFEST),
            changed(|m| drop(m.as_object_mut().unwrap().remove("mediaType"))),
        ),
        ("no-header", None, changed(|_| {})),
        ("same-layer-twice", Some(OCI_MANIFEST), changed(|m| m["layers"] = json!([layer, layer]))),
        ("config-is-layer", Some(OCI_MANIFEST), changed(|m| m["config"] = layer.clone())),
        ("inline-data-of-others", Some(OCI_MANIFEST), with("data", json!("aGVsbG8="))),
        ("inline-data-of-4-mib", Some(OCI_MANIFEST), with("data", json!("A".repeat(4 << 20 >> 1)))),
        (
            "annotated",
            Some(OCI_MANIFEST),
            changed(|m| {
                m["annotations"] = json!({"a\u{1b}[2J\nb": "\u{202e}c4nary-of-annotation", "n": noise})
            }),
        ),
        ("subject", Some(OCI_MANIFEST), changed(|m| m["subject"] = layer.clone())),
    ];
    let registry = Scripted::start();
    for (name, content_type, manifest) in &rows {
        stock(&registry, name, &good);
        registry.put_raw(
            &format!("/v2/plugins/{name}/manifests/1"),
            content_type.unwrap_or("\u{0}"),
            manifest,
        );
    }
    registry.script(|_, mut truth| {
        truth.headers.retain(|(name, value)| name != "Content-Type" || value != "\u{0}");
        truth
    });
    let larder = before(&registry);
    for (name, _, _) in &rows {
        let reply = larder.get(&format!("/plugins/{name}/1/plugin.wasm"));
        assert_eq!(reply.body, bytes, "{name}: {}", reply.text());
    }
    assert!(!larder.log_text().contains("c4nary-of-annotation"), "annotations are not logged");
}

#[test]
fn a_registrys_word_for_a_digest_may_be_absent_and_must_not_be_wrong() {
    let bytes = module("waf", 5000);
    let good = raw(&bytes);
    let right = good.manifest.digest().to_string();
    let wrong = Digest::of(b"other").to_string();
    for (words, code) in [
        (vec![], None),
        (vec![right.clone()], None),
        (vec![right.clone(), right.clone()], None),
        (vec![wrong.clone()], Some("digest_header")),
        (vec![right.clone(), wrong.clone()], Some("digest_header")),
        (vec!["nonsense".into()], Some("digest_header")),
    ] {
        let registry = Scripted::start();
        registry.put("plugins/waf", "1", &good);
        let said = words.clone();
        registry.script(move |ask, mut truth| {
            if ask.is_manifest() {
                truth.headers.retain(|(name, _)| name != "Docker-Content-Digest");
                return said.iter().fold(truth, |truth, word| truth.header("Docker-Content-Digest", word));
            }
            truth
        });
        let reply = before(&registry).get("/plugins/waf/1/plugin.wasm");
        match code {
            None => assert_eq!(reply.body, bytes, "{words:?}: {}", reply.text()),
            Some(code) => {
                assert_eq!((reply.status, reply.json()["code"].clone()), (502, code.into()), "{words:?}")
            }
        }
    }
}

#[test]
fn endless_and_vast_answers_are_read_to_their_limit_and_no_further() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1", &raw(&module("waf", 5000)));
    registry.script(|ask, truth| match ask.is_manifest() {
        true => Act { headers: Vec::new(), ..truth }
            .header("Content-Length", "10737418240")
            .body(vec![b' '; 1000]),
        false => truth,
    });
    let reply = before(&registry).get("/plugins/waf/1/plugin.wasm");
    assert_eq!(
        (reply.status, reply.json()["code"].clone()),
        (422, "manifest_too_large".into()),
        "{}",
        reply.text()
    );
}

#[test]
fn indexes_that_lead_in_a_circle_or_too_deep_end() {
    let registry = Scripted::start();
    // An index cannot name itself by its digest; a registry can lie that it does.
    let lie = json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_INDEX, "digest": Digest::of(b"x").to_string(), "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}]});
    let lie = serde_json::to_vec(&lie).unwrap();
    registry.put_raw("/v2/plugins/circle/manifests/1", OCI_INDEX, &lie);
    registry.put_raw(&format!("/v2/plugins/circle/manifests/{}", Digest::of(b"x")), OCI_INDEX, &lie);
    let mut below = raw(&module("waf", 5000)).manifest;
    for depth in 0..6 {
        registry.put_raw(
            &format!("/v2/plugins/deep/manifests/{}", below.digest()),
            below.media_type,
            &below.bytes,
        );
        let document = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": below.media_type, "digest": below.digest().to_string(), "size": below.bytes.len(), "platform": {"os": "linux", "architecture": "amd64"}}]});
        below.bytes = serde_json::to_vec(&document).unwrap();
        below.media_type = OCI_INDEX;
        let _ = depth;
    }
    registry.put_raw("/v2/plugins/deep/manifests/1", OCI_INDEX, &below.bytes);
    let larder = before(&registry);
    for (name, status, code) in [("circle", 502, "digest_mismatch"), ("deep", 422, "index_depth")] {
        let reply = larder.get(&format!("/plugins/{name}/1/plugin.wasm"));
        assert_eq!(
            (reply.status, reply.json()["code"].clone()),
            (status, code.into()),
            "{name}: {}",
            reply.text()
        );
    }
    assert!(registry.asked().len() < 10);
}

#[test]
fn redirects_are_followed_where_that_is_safe_and_refused_where_it_is_not() {
    let bytes = module("waf", 5000);
    let good = raw(&bytes);
    let digest = Digest::of(&bytes);
    let registry = Scripted::start();
    for (location, works) in [
        (format!("/v2/plugins/other/blobs/{digest}"), true),
        (format!("../../other/blobs/{digest}"), true),
        (format!("//{}/v2/plugins/other/blobs/{digest}", registry.host()), true),
        ("/again".into(), false),
        ("file:///etc/passwd".into(), false),
        ("http://user:pass@127.0.0.1/".into(), false),
        ("http://127.0.0.1:22/".into(), false),
        ("gopher://127.0.0.1/".into(), false),
    ] {
        registry.put("plugins/waf", "1", &good);
        registry.put("plugins/other", "1", &good);
        registry.forget();
        let to = location.clone();
        registry.script(move |ask, truth| match ask.path.as_str() {
            "/again" => Act::status(302).header("Location", "/again"),
            path if path.starts_with("/v2/plugins/waf/blobs/") => Act::status(307).header("Location", &to),
            _ => truth,
        });
        let reply = before(&registry).get("/plugins/waf/1/plugin.wasm");
        if works {
            assert_eq!(reply.body, bytes, "{location}: {}", reply.text());
        } else {
            assert_eq!(
                (reply.status, reply.json()["code"].clone()),
                (502, "redirect_refused".into()),
                "{location}"
            );
            assert!(registry.asked().len() <= 8, "{location}");
        }
    }
}

#[test]
fn challenges_are_parsed_and_their_scope_is_never_ours() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret-s3cret").unwrap();
    let bytes = module("waf", 5000);
    for (challenge, status) in [
        (None, 200),
        (Some("Basic realm=a"), 200),
        (Some("Basic realm=\"a\\\"b\", Bearer realm=\"REALM\""), 200),
        (Some("Bearer realm=\"REALM\",scope=\"repository:*:push,delete\""), 200),
        (Some("Digest realm=x"), 200),
        (Some("Bearer realm=\"not a url\""), 502),
        (Some("Bearer realm=\"ftp://127.0.0.1/\""), 502),
    ] {
        let registry = Scripted::start();
        registry.put("plugins/waf", "1", &raw(&bytes));
        let sent = challenge.map(|c: &str| c.replace("REALM", &format!("http://{}/token", registry.host())));
        registry.script(move |ask, truth| {
            if ask.path.starts_with("/token") {
                return Act::status(200).body("{\"token\":\"t\"}");
            }
            if ask.headers.contains_key("authorization") {
                return truth;
            }
            sent.iter().fold(Act::status(401), |act, challenge| act.header("WWW-Authenticate", challenge))
        });
        let host = registry.host();
        let rule = format!(
            "  hosts: {{'{host}': {{plain_http: true, username: robot, password_file: '{}'}}}}\n",
            file.display()
        );
        let text =
            settings(&host).replace("registry:\n", &format!("registry:\n  certs: []\n  attempts: 1\n{rule}"));
        let reply = Home::new(&text).start().get("/plugins/waf/1/plugin.wasm");
        assert_eq!(reply.status, status, "{challenge:?}: {}", reply.text());
        for token in registry.asked().iter().filter(|ask| ask.path.starts_with("/token")) {
            assert!(token.path.contains("scope=repository%3Aplugins%2Fwaf%3Apull"), "{}", token.path);
            assert!(!token.path.contains("push"), "{}", token.path);
        }
    }
    // One of 64 KiB is none, and answered with what there is: nothing.
    let registry = Scripted::start();
    let long = format!("Bearer realm=\"http://{}/token\",x=\"{}\"", registry.host(), "y".repeat(64 << 10));
    registry.script(move |_, _| Act::status(401).header("WWW-Authenticate", &long));
    let reply = before(&registry).get("/plugins/waf/1/plugin.wasm");
    assert_eq!((reply.status, reply.json()["code"].clone()), (403, "denied".into()), "{}", reply.text());
    assert_eq!(registry.count(|ask| ask.path.starts_with("/token")), 0);
}
