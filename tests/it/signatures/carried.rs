//! Signatures that travel with what they are for, in a bundle and into another registry; and a larder whose keys change.

use crate::support::artifact::{OCI_INDEX, index, module, raw};
use crate::support::client::{self, Reply};
use crate::support::larder::{Home, program, settings};
use crate::support::registry::Registry;
use crate::support::reloaded::Reloaded;
use crate::support::scripted::{Act, Scripted};
use crate::support::signer::Signer;
use larder::oci::Digest;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn with(code: i32, home: &Home, words: &[&str]) -> String {
    let output = home.command(&[]).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
    text(&output)
}

/// Settings of a site that wants everything to be signed by `key`.
fn requiring(registry: &str, key: &Path) -> String {
    settings(registry) + &format!("policy:\n  signatures: {{mode: require, keys: ['{}']}}\n", key.display())
}

/// A registry with plugins that are signed, each in a way of its own, and one that is not; its key is `key`.
fn filled(key: &Signer) -> Registry {
    let registry = Registry::plain();
    let child = raw(&module("child", 9000));
    let whole = index(OCI_INDEX, &[("wasi", "wasm", child.clone())], &child.module);
    let (older, bundled, bare) =
        (raw(&module("older", 9000)), raw(&module("bundled", 9000)), raw(&module("bare", 9000)));
    for (name, artifact) in [("older", &older), ("bundled", &bundled), ("bare", &bare), ("part", &whole)] {
        registry.push(&format!("plugins/{name}"), "1", artifact);
    }
    for (name, signed) in [
        ("older", key.older(&older.manifest.digest())),
        ("bundled", key.bundle(&bundled.manifest)),
        ("part", key.older(&child.manifest.digest())),
    ] {
        registry.push(&format!("plugins/{name}"), &signed.tag, &signed.artifact);
    }
    registry
}

#[test]
fn a_bundle_carries_signatures_and_where_they_are_required_it_is_judged_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Signer::new(), Signer::new());
    let (key, other) = (ours.public(folder.path(), "ours"), theirs.public(folder.path(), "theirs"));
    let mut registry = filled(&ours);
    let host = registry.host();
    // Who exports need not want them.
    let home = Home::in_memory(&settings(&host));
    let bundle = folder.path().join("plugins.tar");
    let bundle = bundle.to_str().unwrap();
    with(0, &home, &["export", "older@1", "bundled@1", "bare@1", "part@1", "-o", bundle]);
    let again = folder.path().join("again.tar");
    with(0, &home, &["export", "part@1", "bare@1", "bundled@1", "older@1", "-o", again.to_str().unwrap()]);
    assert!(
        std::fs::read(bundle).unwrap() == std::fs::read(&again).unwrap(),
        "the same content, the same bytes"
    );
    registry.stop();
    let there = Home::in_memory(&requiring(&host, &key));
    let told = with(1, &there, &["import", bundle]);
    assert!(told.contains("3 plugins imported") && told.contains("1 left out"), "{told}");
    assert!(told.contains("unsigned"), "{told}");
    let told = with(1, &there, &["import", bundle]);
    assert!(told.contains("3 held already"), "{told}");
    let shown = with(0, &there, &["show", "older@1"]);
    assert!(shown.contains("signature  verified: "), "{shown}");
    let larder = there.start();
    for name in ["older", "bundled", "part"] {
        assert_eq!(larder.get(&format!("/plugins/{name}/1/plugin.wasm")).status, 200, "{name}");
    }
    drop(larder);
    // Another key believes nothing of it, and keeps nothing.
    let elsewhere = Home::in_memory(&requiring(&host, &other));
    let told = with(1, &elsewhere, &["import", bundle]);
    assert!(told.contains("0 plugins imported") && told.contains("signature_invalid"), "{told}");
    // What came before signatures were required has them from a bundle, too.
    let before = Home::in_memory(&settings(&host));
    with(0, &before, &["import", bundle]);
    let before = before.saying(&requiring(&host, &key));
    let told = with(1, &before, &["import", bundle]);
    assert!(told.contains("1 left out"), "{told}");
    let larder = before.start();
    assert_eq!(larder.get("/plugins/older/1/plugin.wasm").status, 200);
    let refused = larder.get("/plugins/bare/1/plugin.wasm");
    assert_eq!(
        (refused.status, code(&refused)),
        (503, json!("signatures_unreachable")),
        "{}",
        refused.text()
    );
}

#[test]
fn copies_carry_signatures_from_a_registry_and_from_a_bundle_of_an_index_and_of_its_child() {
    let folder = tempfile::tempdir().unwrap();
    let key = Signer::new();
    let file = key.public(folder.path(), "key");
    let source = filled(&key);
    let home = Home::in_memory(&settings(&source.host()));
    let bundle = folder.path().join("plugins.tar");
    let names = ["older@1", "bundled@1", "part@1"];
    with(0, &home, &[&["export"], &names[..], &["-o", bundle.to_str().unwrap()]].concat());
    for from in [&[][..], &["--from", bundle.to_str().unwrap()]] {
        let target = Registry::plain();
        let host = target.host();
        let writing = format!(
            "catalog:\n  builtin: false\n  template: {}/plugins/{{name}}:{{version}}\n\
             registry:\n  plain_http: ['{}', '{host}']\n",
            source.host(),
            source.host()
        );
        let home = Home::in_memory(&writing);
        let to = format!("{host}/plugins");
        with(0, &home, &[&["copy"], &names[..], &["--to", &to], from].concat());
        let larder = Home::in_memory(&requiring(&host, &file)).start();
        for name in ["older", "bundled", "part"] {
            let reply = larder.get(&format!("/plugins/{name}/1/plugin.wasm"));
            assert_eq!(reply.status, 200, "{from:?} {name}: {}", reply.text());
        }
    }
}

#[test]
fn a_signature_that_cannot_be_had_stays_behind_and_its_plugin_travels_with_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let key = Signer::new();
    let file = key.public(folder.path(), "key");
    let registry = Scripted::start();
    let plugins: Vec<_> =
        ["gone", "large", "damaged", "lost"].iter().map(|name| (*name, raw(&module(name, 9000)))).collect();
    for (name, plugin) in &plugins {
        let repository = format!("plugins/{name}");
        registry.put(&repository, "1", plugin);
        // A good one under one tag, and one that is not under the other.
        key.sign_in(&registry, &repository, &plugin.manifest.digest());
        let mut signed = Signer::ed25519().bundle(&plugin.manifest);
        if *name == "large" {
            let referrer = &mut signed.artifact.children[0];
            let mut manifest: Value = serde_json::from_slice(&referrer.bytes).unwrap();
            manifest["layers"][0]["size"] = json!(2 << 20);
            referrer.bytes = manifest.to_string().into_bytes();
            let mut list: Value = serde_json::from_slice(&signed.artifact.manifest.bytes).unwrap();
            list["manifests"][0]["digest"] = json!(signed.artifact.children[0].digest());
            signed.artifact.manifest.bytes = list.to_string().into_bytes();
        }
        registry.put(&repository, &signed.tag, &signed.artifact);
        let referrer = format!("/v2/{repository}/manifests/{}", signed.artifact.children[0].digest());
        let bundle = format!("/v2/{repository}/blobs/{}", Digest::of(&signed.artifact.blobs[1]));
        match *name {
            "gone" => registry.remove(&referrer),
            "damaged" => registry.put_raw(&bundle, "application/octet-stream", b"other bytes"),
            "lost" => registry.remove(&bundle),
            _ => {}
        }
    }
    let host = registry.host();
    let home = Home::in_memory(&settings(&host));
    let bundle = folder.path().join("plugins.tar");
    let bundle = bundle.to_str().unwrap();
    let told = with(0, &home, &["export", "gone@1", "large@1", "damaged@1", "lost@1", "-o", bundle]);
    for (name, _) in &plugins {
        let is_told = |line: &str| line.starts_with(&format!("{name}@1: the signature sha256:"));
        assert!(told.lines().any(|line| is_told(line) && line.contains("does not travel")), "{name}: {told}");
    }
    registry.down();
    let there = Home::in_memory(&requiring(&host, &file));
    let told = with(0, &there, &["import", bundle]);
    assert!(told.contains("4 plugins imported"), "{told}");
    // Whoever does not answer may have one.
    registry.heal();
    registry.script(|ask, truth| if ask.path.ends_with(".sig") { Act::status(500) } else { truth });
    let told = with(1, &Home::in_memory(&settings(&host)), &["export", "gone@1", "-o", bundle]);
    assert!(told.contains("left out"), "{told}");
}

fn code(reply: &Reply) -> Value {
    serde_json::from_slice::<Value>(&reply.body).unwrap()["code"].clone()
}

#[test]
fn a_running_larder_follows_the_files_of_keys_and_withholds_what_they_no_longer_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Signer::new(), Signer::ed25519());
    let key = one.public(folder.path(), "key");
    let mut running = Reloaded::with(&[
        ("policy.signatures.mode", json!("require")),
        ("policy.signatures.keys", json!([key])),
        ("lifetimes", json!({"transient": "0s", "unusable": "0s"})),
    ]);
    let host = running.registry.host();
    for name in ["waf", "bare"] {
        let artifact = raw(&module(name, 9000));
        let repository = format!("plugins/{name}");
        running.registry.put(&repository, "1", &artifact);
        if name == "waf" {
            one.sign_in(&running.registry, &repository, &artifact.manifest.digest());
        }
    }
    let get = |running: &Reloaded, name: &str| running.larder.get(&format!("/plugins/{name}/1/plugin.wasm"));
    assert_eq!(get(&running, "waf").status, 200);
    let refused = get(&running, "bare");
    assert_eq!((refused.status, code(&refused)), (403, json!("unsigned")), "{}", refused.text());
    assert_eq!(running.larder.metric("larder_signatures_total{result=\"verified\"}"), 1.0);
    let entry = client::get(running.larder.admin, "/api/v1/entries?plugin=waf").text();
    assert!(entry.contains("\"verified\"") && entry.contains(&format!("{host}/plugins/waf:1")), "{entry}");
    let explained = program()
        .args(["--config", running.file().to_str().unwrap(), "explain", "waf", "1"])
        .output()
        .unwrap();
    assert!(text(&explained).contains("is signed by the key sha256:"), "{}", text(&explained));
    running.registry.down();
    // The file changes, and its name does not.
    two.public(folder.path(), "key");
    running.reload();
    let refused = get(&running, "waf");
    assert_eq!(
        (refused.status, code(&refused)),
        (503, json!("signatures_unreachable")),
        "{}",
        refused.text()
    );
    // One that cannot be read changes nothing.
    std::fs::write(folder.path().join("key"), "no key").unwrap();
    let told = running.reload();
    assert!(told["message"].as_str().unwrap().starts_with("settings_refused"), "{told}");
    assert_eq!(get(&running, "waf").status, 503);
    one.public(folder.path(), "key");
    running.reload();
    assert_eq!(get(&running, "waf").status, 200, "by what was kept, for nobody answers");
    running.change(&[("policy.signatures.mode", json!("off"))]);
    assert_eq!(get(&running, "waf").status, 200);
}
