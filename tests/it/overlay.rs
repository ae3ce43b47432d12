//! Local folders win over every registry.

use crate::support::artifact::{module, raw};
use crate::support::eventually;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use larder::oci::Digest;
use std::path::Path;

fn put(folder: &Path, at: &str, bytes: &[u8]) {
    let path = folder.join(at).join("plugin.wasm");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// A registry with `waf` 1.0.0 and 2.0.0, and a larder with a local `waf` 1.0.0 and `mine` 0.9.0 and 0.10.0.
fn overlaid() -> (Scripted, Larder, tempfile::TempDir) {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1.0.0", &raw(&module("upstream", 500)));
    registry.put("plugins/waf", "2.0.0", &raw(&module("upstream two", 500)));
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "waf/1.0.0", &module("local", 500));
    put(folder.path(), "mine/0.9.0", &module("older", 500));
    put(folder.path(), "mine/0.10.0", &module("newer", 500));
    let text = settings(&registry.host()) + "overlay: {poll: 50ms}\n";
    let larder = Home::new(&text).start_with(&["--overlay", folder.path().to_str().unwrap()], &[]);
    (registry, larder, folder)
}

#[test]
fn a_local_file_wins_is_listed_and_has_metadata_and_the_registry_is_not_asked() {
    let (registry, larder, folder) = overlaid();
    let local = module("local", 500);
    let reply = larder.get("/plugins/waf/1.0.0/plugin.wasm");
    assert_eq!(reply.body, local);
    assert_eq!(reply.header("cache-status"), "larder; hit; detail=overlay");
    assert_eq!(
        reply.header("larder-reference"),
        folder.path().join("waf/1.0.0/plugin.wasm").to_str().unwrap()
    );
    assert_eq!(reply.header("etag"), format!("\"{}\"", Digest::of(&local)));
    assert!(larder.get("/plugins/").text().contains("mine/"));
    assert!(larder.get("/plugins/mine/").text().contains("0.10.0/"));
    assert!(larder.get("/plugins/waf/1.0.0/metadata.txt").text().contains(&Digest::of(&local).hex()));
    assert_eq!(
        larder.get("/plugins/snapshot-inventory.json").json()["waf"]["wasmSha256"],
        Digest::of(&local).hex()
    );
    assert_eq!(registry.asked().len(), 0);
    assert_eq!(
        larder.get("/plugins/waf/2.0.0/plugin.wasm").body,
        module("upstream two", 500),
        "other versions"
    );
}

#[test]
fn a_local_name_without_version_is_its_highest() {
    let (_registry, larder, _folder) = overlaid();
    assert_eq!(larder.get("/mine.wasm").body, module("newer", 500));
}

#[test]
fn a_changed_or_removed_local_file_is_noticed_without_a_restart() {
    let (_registry, larder, folder) = overlaid();
    let body = || larder.get("/plugins/waf/1.0.0/plugin.wasm").body;
    let changed = module("changed", 600);
    assert_eq!(body(), module("local", 500));
    put(folder.path(), "waf/1.0.0", &changed);
    eventually("the change being served", || (body() == changed).then_some(()));
    std::fs::remove_dir_all(folder.path().join("waf")).unwrap();
    eventually("the registry's module", || (body() == module("upstream", 500)).then_some(()));
    put(folder.path(), "waf/1.0.0", &module("again", 500));
    eventually("the new local file", || (body() == module("again", 500)).then_some(()));
}

#[test]
fn a_local_file_that_is_no_module_is_told_and_not_passed_over() {
    let (_registry, larder, folder) = overlaid();
    put(folder.path(), "waf/1.0.0", b"<html>");
    let reply = eventually("the refusal", || {
        let reply = larder.get("/plugins/waf/1.0.0/plugin.wasm");
        (reply.status != 200).then_some(reply)
    });
    assert_eq!(
        (reply.status, reply.json()["code"].clone()),
        (422, "bad_local_file".into()),
        "{}",
        reply.text()
    );
}

#[test]
fn a_local_file_changed_in_place_is_never_served_mixed() {
    let registry = Scripted::start();
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (module("one", 900_000), module("two", 900_000));
    put(folder.path(), "big/1", &one);
    let text = settings(&registry.host()) + "overlay: {poll: 50ms}\ncache: {memory: 1MiB}\n";
    let larder = Home::new(&text).start_with(&["--overlay", folder.path().to_str().unwrap()], &[]);
    let path = folder.path().join("big/1/plugin.wasm");
    let ask = b"GET /plugins/big/1/plugin.wasm HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let mut whole = 0;
    for round in 0..20 {
        std::fs::write(&path, if round % 2 == 0 { &two } else { &one }).unwrap();
        for _ in 0..5 {
            // An answer may be refused or cut while the file changes, but what is whole is one or the other.
            if let Ok(reply) = crate::support::client::raw(larder.data, ask)
                && reply.status == 200
            {
                assert!(reply.body == one || reply.body == two, "a mixture was served");
                whole += 1;
            }
        }
    }
    eventually("the file that stays as it is", || {
        let reply = crate::support::client::raw(larder.data, ask).ok()?;
        (reply.status == 200 && reply.body == one).then(|| whole += 1)
    });
    assert!(whole > 0);
}

#[test]
fn an_alias_leads_to_a_local_file_though_no_registry_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "waf/2.0.0", &module("local", 500));
    let text = "catalog: {builtin: false, template: null, aliases: {1.0.0: 2.0.0}}\nserver: {drain: 0s}\n";
    let larder = Home::new(text).start_with(&["--overlay", folder.path().to_str().unwrap()], &[]);
    let reply = larder.get("/plugins/waf/1.0.0/plugin.wasm");
    assert_eq!(reply.body, module("local", 500), "{}", reply.text());
    assert_eq!(reply.header("larder-match"), "alias");
    let other = larder.get("/plugins/waf/3.0.0/plugin.wasm").json();
    assert_eq!(
        (other["code"].clone(), other["versions"].clone()),
        ("unknown_version".into(), serde_json::json!(["2.0.0"]))
    );
}

#[test]
fn a_local_file_that_replaces_another_is_served_without_a_gap() {
    let (_registry, larder, folder) = overlaid();
    let (before, after) = (module("local", 500), module("after", 700));
    put(folder.path(), "waf/1.0.0", &after);
    eventually("the new file", || {
        let reply = larder.get("/plugins/waf/1.0.0/plugin.wasm");
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.body == before || reply.body == after);
        (reply.body == after).then_some(())
    });
}

#[test]
fn a_local_file_of_the_fallbacks_version_is_reached_whatever_its_reference_gives() {
    let registry = Scripted::start();
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "waf/2.0.0", &module("local", 500));
    let catalog = folder.path().join("p.properties");
    std::fs::write(&catalog, format!("waf={}/plugins/waf:2.0.0", registry.host())).unwrap();
    let flags = ["--overlay", folder.path().to_str().unwrap(), "--catalog", catalog.to_str().unwrap()];
    for status in [404, 503] {
        registry.script(move |ask, truth| {
            if ask.path.ends_with("2.0.0") { crate::support::scripted::Act::status(status) } else { truth }
        });
        let larder = Home::new(&settings(&registry.host())).start_with(&flags, &[]);
        for _ in 0..2 {
            let reply = larder.get("/plugins/waf/1.0.0/plugin.wasm");
            assert_eq!(reply.body, module("local", 500), "{status}: {}", reply.text());
            assert_eq!(reply.header("larder-match"), "fallback");
        }
    }
    assert_eq!(registry.count(|ask| ask.path.ends_with("2.0.0")), 0, "the file wins over the registry");
}
