//! Bundles: plugins in one file, written here and read where no registry is, and by the tools of others.

use crate::support::artifact::{Artifact, OCI_MANIFEST, TAR_GZIP, artifact, gzip, module, raw, shapes, tar};
use crate::support::larder::{Home, settings};
use crate::support::registry::Registry;
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// A registry with every shape, and the shapes.
fn filled() -> (Registry, Vec<(&'static str, Artifact)>) {
    let registry = Registry::plain();
    for (shape, artifact) in shapes() {
        registry.push(&format!("plugins/{shape}"), "1.0.0", &artifact);
    }
    (registry, shapes())
}

fn names(shapes: &[(&'static str, Artifact)]) -> Vec<String> {
    shapes.iter().map(|(shape, _)| format!("{shape}@1.0.0")).collect()
}

/// Runs a command of larder in a home.
fn run(home: &Home, words: &[&str]) -> Output {
    home.command(&[]).args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The same, which has to end with `code`.
fn with(code: i32, home: &Home, words: &[&str]) -> String {
    let output = run(home, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
    text(&output)
}

fn export(home: &Home, names: &[String], to: &Path) -> String {
    let mut words = vec!["export", "-o", to.to_str().unwrap()];
    words.extend(names.iter().map(String::as_str));
    with(0, home, &words)
}

/// Another site's home: the same names, and nobody at the registry's address.
fn away(registry: &str) -> Home {
    Home::in_memory(&settings(registry))
}

/// A program of the tests in `target`, run in a folder.
fn tool(name: &str, folder: &Path, words: &[&str]) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(name);
    let program = if program.is_file() { program } else { name.into() };
    let output = Command::new(&program).args(words).current_dir(folder).env("HOME", folder).output();
    let output = output.unwrap_or_else(|e| panic!("{name} is installed by tests/needs.sh: {e}"));
    assert!(output.status.success(), "{name} {words:?}: {}", text(&output));
    text(&output)
}

/// A packed plugin: its layer is not the module, so that it has to be fetched for an export.
fn packed(seed: &str) -> Artifact {
    let bytes = module(seed, 30_000);
    let layer = gzip(&tar(&[("plugin.wasm", &bytes)]));
    artifact(OCI_MANIFEST, "application/vnd.unknown.config.v1+json", &[(TAR_GZIP, layer)], &bytes)
}

#[test]
fn every_shape_is_carried_in_a_file_and_served_byte_for_byte_where_no_registry_answers() {
    let (mut registry, shapes) = filled();
    let host = registry.host();
    let home = Home::in_memory(&settings(&host));
    let bundle = home.path().join("plugins.tar");
    export(&home, &names(&shapes), &bundle);
    assert!(!home.path().join("plugins.tar.parts").exists(), "parts of a complete bundle are taken away");
    registry.stop();
    let there = away(&host);
    let told = with(0, &there, &["import", bundle.to_str().unwrap()]);
    assert!(told.contains(&format!("{} plugins imported", shapes.len())), "{told}");
    let again = with(0, &there, &["import", bundle.to_str().unwrap()]);
    let all_held = format!("0 plugins imported (0 B), {} held already, 0 left out", shapes.len());
    assert!(again.contains(&all_held), "{again}");
    with(0, &there, &["fsck"]);
    let larder = there.start();
    for (shape, artifact) in shapes {
        let reply = larder.get(&format!("/plugins/{shape}/1.0.0/plugin.wasm"));
        assert_eq!((reply.status, &reply.body), (200, &artifact.module), "{shape}: {}", reply.text());
        assert_eq!(reply.header("larder-manifest-digest"), artifact.manifest.digest().to_string(), "{shape}");
        assert!(
            reply.header("cache-status").contains("; hit; "),
            "{shape}: {}",
            reply.header("cache-status")
        );
    }
}

#[test]
fn the_same_plugins_give_the_same_bytes_whoever_exports_them_in_whichever_order() {
    let (registry, shapes) = filled();
    let (first, second) =
        (Home::in_memory(&settings(&registry.host())), Home::in_memory(&settings(&registry.host())));
    let forwards = names(&shapes[..6]);
    let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
    for file in ["plugins.tar", "plugins.tar.zst"] {
        let (one, other) = (first.path().join(file), second.path().join(file));
        export(&first, &forwards, &one);
        export(&second, &backwards, &other);
        let (one, other) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
        assert!(one == other, "{file}: {} and {} bytes", one.len(), other.len());
    }
    let third = away(&registry.host());
    let told = with(0, &third, &["import", first.path().join("plugins.tar.zst").to_str().unwrap()]);
    assert!(told.contains("6 plugins imported"), "{told}");
}

#[test]
fn an_export_that_was_broken_off_goes_on_from_what_it_has() {
    let registry = Scripted::start();
    let plugins: Vec<_> = ["one", "two", "three"].map(|name| (name, packed(name))).into();
    for (name, artifact) in &plugins {
        registry.put(&format!("plugins/{name}"), "1.0.0", artifact);
    }
    let layers: Vec<_> = plugins.iter().map(|(_, artifact)| Digest::of(&artifact.blobs[0])).collect();
    let home = Home::in_memory(&settings(&registry.host()));
    let names = names(&plugins);
    with(0, &home, &[&["prefetch"], &names.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat());
    // The cache has the modules; for the export the layers are fetched, and that of one breaks in its middle.
    let broken = layers[1].to_string();
    registry.script(move |ask, truth| match ask.path.ends_with(&broken) {
        true => Act { cut: Some(100), ..truth }.header("Connection", "close"),
        false => truth,
    });
    let bundle = home.path().join("plugins.tar");
    let mut words = vec!["export", "-o", bundle.to_str().unwrap()];
    words.extend(names.iter().map(String::as_str));
    let told = with(1, &home, &words);
    assert!(told.contains("two@1.0.0: ") && told.contains("goes on from there"), "{told}");
    registry.script(|_, truth| truth);
    let before = registry.asked().len();
    export(&home, &names, &bundle);
    let asked = registry.asked()[before..].to_vec();
    let asks = |digest: &Digest| asked.iter().filter(|ask| ask.path.ends_with(&digest.to_string())).count();
    assert_eq!(layers.iter().map(asks).collect::<Vec<_>>(), [0, 1, 0], "what was there is not fetched again");
    let whole = Home::in_memory(&settings(&registry.host()));
    export(&whole, &names, &whole.path().join("plugins.tar"));
    let same = std::fs::read(bundle).unwrap() == std::fs::read(whole.path().join("plugins.tar")).unwrap();
    assert!(same, "a bundle that was broken off is the same in the end");
}

#[test]
fn an_export_of_what_is_cached_asks_nobody_and_names_what_cannot_be_included() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1.0.0", &packed("waf"));
    let home = Home::in_memory(&settings(&registry.host()));
    with(0, &home, &["prefetch", "waf@1.0.0"]);
    let asked = registry.asked().len();
    let bundle = home.path().join("plugins.tar");
    let words = ["export", "--cached", "waf@1.0.0", "none@1.0.0", "-o", bundle.to_str().unwrap()];
    let told = with(1, &home, &words);
    assert!(told.contains("waf@1.0.0: not_held: ") && told.contains("none@1.0.0: not_held: "), "{told}");
    assert!(told.contains("nothing was written") && !bundle.exists(), "{told}");
    assert_eq!(registry.asked().len(), asked, "nobody was asked");
}

#[test]
fn an_export_asks_nobody_for_what_a_rule_has_offline_and_leaves_out_what_is_withheld() {
    let registry = Scripted::start();
    for name in ["pay-in", "waf"] {
        registry.put(&format!("plugins/{name}"), "1.0.0", &raw(&module(name, 9000)));
    }
    let home = Home::in_memory(&settings(&registry.host()));
    with(0, &home, &["prefetch", "pay-in@1.0.0", "waf@1.0.0"]);
    registry.forget();
    let home = home.and("policy: {rules: [{plugin: pay-*, mode: offline}, {plugin: waf, allow: false}]}\n");
    let bundle = home.path().join("plugins.tar");
    let to = bundle.to_str().unwrap();
    let told = with(1, &home, &["export", "--used", "-o", to]);
    assert!(told.contains("pay-in@1.0.0: offline: ") && told.contains("waf:1.0.0: not_allowed: "), "{told}");
    let told = with(1, &home, &["export", "--cached", "waf@1.0.0", "-o", to]);
    assert!(told.contains("waf@1.0.0: not_allowed: ") && !bundle.exists(), "{told}");
    assert!(registry.asked().is_empty(), "{:?}", registry.asked());
}

#[test]
fn a_manifest_that_lies_of_a_blobs_size_is_left_out_and_no_damaged_file_is_written() {
    let registry = Scripted::start();
    // Its configuration is its module, of which the cache has the bytes, one byte larger than it is.
    let mut plugin = raw(&module("waf", 9000));
    let mut manifest: Value = serde_json::from_slice(&plugin.manifest.bytes).unwrap();
    manifest["config"] = manifest["layers"][0].clone();
    manifest["config"]["size"] = 9001.into();
    plugin.manifest.bytes = serde_json::to_vec(&manifest).unwrap();
    registry.put("plugins/waf", "1", &plugin);
    let home = Home::in_memory(&settings(&registry.host()));
    let bundle = home.path().join("plugins.tar");
    let told = with(1, &home, &["export", "waf@1", "-o", bundle.to_str().unwrap()]);
    assert!(told.contains("waf@1: size_mismatch: ") && !bundle.exists(), "{told}");
}

#[test]
fn skopeo_oras_and_crane_read_a_bundle_and_what_they_push_from_it_has_the_same_digests() {
    let (registry, shapes) = filled();
    let home = Home::in_memory(&settings(&registry.host()));
    let folder = home.path();
    let bundle = folder.join("plugins.tar");
    export(&home, &names(&shapes), &bundle);
    let (other, from) = (Registry::plain(), bundle.to_str().unwrap());
    let larder = Home::in_memory(&settings(&other.host())).start();
    for (shape, artifact) in &shapes {
        // Of a layout's index it reads entries of OCI types alone; whatever lies there of docker's is oras's.
        let versions: &[&str] = match artifact.manifest.media_type.contains("docker") {
            true => &["2.0.0"],
            false => &["1.0.0", "2.0.0"],
        };
        if versions.len() > 1 {
            let to = format!("docker://{}/plugins/{shape}:1.0.0", other.host());
            tool(
                "skopeo",
                folder,
                &[
                    "--insecure-policy",
                    "copy",
                    "--all",
                    "--dest-tls-verify=false",
                    "--preserve-digests",
                    &format!("oci-archive:{from}:{shape}"),
                    &to,
                ],
            );
        }
        let to = format!("{}/plugins/{shape}:2.0.0", other.host());
        tool(
            "oras",
            folder,
            &["copy", "--from-oci-layout", &format!("{from}:{shape}"), "--to-plain-http", &to],
        );
        for version in versions {
            let reply = larder.get(&format!("/plugins/{shape}/{version}/plugin.wasm"));
            assert_eq!(reply.body, artifact.module, "{shape} {version}: {}", reply.status);
            let digest = artifact.manifest.digest().to_string();
            assert_eq!(reply.header("larder-manifest-digest"), digest, "{shape} {version}");
        }
    }
    let (shape, artifact) = &shapes[0];
    export(&home, &names(&shapes[..1]), &bundle);
    std::fs::create_dir(folder.join("layout")).unwrap();
    tool("tar", folder, &["-C", "layout", "-xf", from]);
    let to = format!("{}/plugins/{shape}:3.0.0", other.host());
    tool("crane", folder, &["push", "--insecure", "layout", &to]);
    let reply = larder.get(&format!("/plugins/{shape}/3.0.0/plugin.wasm"));
    assert_eq!(reply.header("larder-manifest-digest"), artifact.manifest.digest().to_string());
}

#[test]
fn bundles_of_skopeo_and_oras_are_read_by_the_names_in_them_and_what_has_none_is_told() {
    let (mut registry, shapes) = filled();
    let host = registry.host();
    let (home, there) = (Home::in_memory(""), away(&host));
    let folder = home.path();
    let from = |shape: &str| format!("docker://{host}/plugins/{shape}:1.0.0");
    let skopeo = |shape: &str, to: &str| {
        tool("skopeo", folder, &["--insecure-policy", "copy", "--src-tls-verify=false", &from(shape), to]);
    };
    skopeo("c-raw", &format!("oci-archive:full.tar:{host}/plugins/c-raw:1.0.0"));
    skopeo("e-icon", "oci-archive:name.tar:e-icon@1.0.0");
    skopeo("b-config-and-raw", "oci:layout:b-config-and-raw/1.0.0");
    let raw = format!("{host}/plugins/c-raw:1.0.0");
    tool("oras", folder, &["copy", "--from-plain-http", &raw, "--to-oci-layout", "tagged:1.0.0"]);
    registry.stop();
    for bundle in ["full.tar", "name.tar", "layout"] {
        let told = with(0, &there, &["import", folder.join(bundle).to_str().unwrap()]);
        assert!(told.contains("1 plugin imported"), "{bundle}: {told}");
    }
    let told = with(1, &there, &["import", folder.join("tagged").to_str().unwrap()]);
    assert!(told.contains("1.0.0: unnamed: '1.0.0' is neither a full reference nor a plugin"), "{told}");
    let larder = there.start();
    for (shape, artifact) in
        shapes.iter().filter(|(shape, _)| ["c-raw", "e-icon", "b-config-and-raw"].contains(shape))
    {
        let reply = larder.get(&format!("/plugins/{shape}/1.0.0/plugin.wasm"));
        assert_eq!((reply.status, &reply.body), (200, &artifact.module), "{shape}: {}", reply.text());
    }
}

#[test]
fn a_version_that_does_not_exist_is_answered_by_the_same_one_on_the_other_side() {
    let mut registry = Registry::plain();
    let host = registry.host();
    registry.push("plugins/waf", "2.0.0", &raw(&module("waf", 9000)));
    let home = Home::in_memory("");
    let lines = home.path().join("lines");
    std::fs::write(&lines, format!("waf={host}/plugins/waf:2.0.0\n")).unwrap();
    let text =
        settings(&host).replace("catalog:\n", &format!("catalog:\n  files: ['{}']\n", lines.display()));
    let home = home.with(&text);
    let bundle = home.path().join("plugins.tar");
    export(&home, &["waf@1.0.0".into()], &bundle);
    registry.stop();
    let there = Home::in_memory(&text);
    with(0, &there, &["import", bundle.to_str().unwrap()]);
    let larder = there.start();
    for version in ["1.0.0", "2.0.0"] {
        let reply = larder.get(&format!("/plugins/waf/{version}/plugin.wasm"));
        assert_eq!((reply.status, reply.body), (200, module("waf", 9000)), "{version}");
    }
    assert_ne!(
        larder.get("/plugins/waf/3.0.0/plugin.wasm").status,
        200,
        "nobody said that there is no 3.0.0"
    );
}

#[test]
fn a_diff_tells_what_was_added_removed_and_changed_and_ends_with_1_where_they_differ() {
    let registry = Scripted::start();
    for name in ["same", "gone", "moved"] {
        registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, 3000)));
    }
    let home = Home::in_memory(&settings(&registry.host()));
    let (old, new) = (home.path().join("old.tar.zst"), home.path().join("new.tar"));
    export(&home, &["same@1".into(), "gone@1".into(), "moved@1".into()], &old);
    registry.put("plugins/moved", "1", &raw(&module("elsewhere", 3000)));
    registry.put("plugins/fresh", "1", &raw(&module("fresh", 3000)));
    let later = Home::in_memory(&settings(&registry.host()));
    export(&later, &["same@1".into(), "moved@1".into(), "fresh@1".into()], &new);
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let output = run(&home, &["diff", old, new, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line["plugin"].as_str().unwrap(), line["state"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("fresh", "added"), ("gone", "removed"), ("moved", "changed"), ("same", "same")]);
    let told = with(1, &home, &["diff", "cache", new]);
    assert!(told.contains("1 added, 1 removed, 1 changed, 1 same"), "{told}");
    let told = with(0, &later, &["diff", new]);
    assert!(told.contains("0 added, 0 removed, 0 changed, 3 same"), "{told}");
}

#[test]
fn an_export_by_a_running_larders_side_takes_what_it_holds() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    let larder = Home::in_memory(&settings(&registry.host())).start();
    assert_eq!(larder.get("/plugins/waf/1/plugin.wasm").status, 200);
    let bundle = larder.home.path().join("plugins.tar");
    let admin = format!("http://{}", larder.admin);
    with(0, &larder.home, &["export", "--used", "-o", bundle.to_str().unwrap(), "--admin", &admin]);
    let there = away(&registry.host());
    let told = with(0, &there, &["import", bundle.to_str().unwrap()]);
    assert!(told.contains("1 plugin imported"), "{told}");
}
