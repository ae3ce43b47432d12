//! Registries of other makers, each odd in its own way: what larder takes for granted of one is asked of the others.

use crate::support::artifact::{module, raw, shapes};
use crate::support::larder::{Home, Larder};
use crate::support::odd_registry::OddRegistry;

const PASSWORD: &str = "s3cret-s3cret";

/// A larder whose plugins lie in `registry` below `team/`, with more settings for it.
fn before(registry: &OddRegistry, rule: &str, parts: &str) -> Larder {
    let host = registry.host();
    Home::new(&format!(
        "catalog: {{builtin: false, fallback: false, template: '{host}/team/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n{parts}\
         registry: {{certs: [], attempts: 1, hosts: {{'{host}': {{plain_http: true{rule}}}}}}}\n"
    ))
    .start()
}

#[test]
fn go_containerregistry_without_etags_or_accept_serves_every_shape_and_its_vanished_tags_stay() {
    let registry = OddRegistry::go_containerregistry();
    let larder = before(&registry, "", "lifetimes: {tag: 0s}\n");
    for (shape, artifact) in shapes() {
        registry.push(&format!("team/{shape}"), "1", &artifact);
        let reply = larder.get(&format!("/plugins/{shape}/1/plugin.wasm"));
        assert_eq!(reply.body, artifact.module, "{shape}: {}", reply.text());
        // Past its lifetime: confirmed by HEAD, without an ETag.
        assert_eq!(larder.get(&format!("/plugins/{shape}/1/plugin.wasm")).body, artifact.module, "{shape}");
    }
    let unknown = larder.get("/plugins/unknown/1/plugin.wasm");
    assert_eq!(
        (unknown.status, unknown.json()["code"].clone()),
        (404, "not_found".into()),
        "{}",
        unknown.text()
    );
    // A tag that moves is seen.
    let moved = raw(&module("moved", 9000));
    registry.push("team/c-raw", "1", &moved);
    crate::support::eventually("the moved tag", || {
        (larder.get("/plugins/c-raw/1/plugin.wasm").body == moved.module).then_some(())
    });
}

#[test]
fn container_registry_with_silent_challenges_and_no_digests_serves_what_it_takes() {
    let registry = OddRegistry::container_registry("robot", PASSWORD);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let rule = format!(", username: robot, password_file: '{}'", file.display());
    let larder = before(&registry, &rule, "lifetimes: {tag: 0s}\n");
    // It refuses indexes.
    for (shape, artifact) in shapes().into_iter().filter(|(_, artifact)| artifact.children.is_empty()) {
        registry.push(&format!("team/{shape}"), "1", &artifact);
        let reply = larder.get(&format!("/plugins/{shape}/1/plugin.wasm"));
        assert_eq!(reply.body, artifact.module, "{shape}: {}", reply.text());
    }
    let moved = raw(&module("moved", 9000));
    registry.push("team/c-raw", "1", &moved);
    crate::support::eventually("the moved tag, though HEAD tells no digest", || {
        (larder.get("/plugins/c-raw/1/plugin.wasm").body == moved.module).then_some(())
    });
    let unknown = larder.get("/plugins/unknown/1/plugin.wasm");
    assert_eq!(
        (unknown.status, unknown.json()["code"].clone()),
        (404, "not_found".into()),
        "{}",
        unknown.text()
    );
    let nobody = before(&registry, "", "").get("/plugins/c-raw/1/plugin.wasm");
    assert_eq!((nobody.status, nobody.json()["code"].clone()), (403, "denied".into()), "{}", nobody.text());
    assert!(nobody.json()["hint"].as_str().unwrap().contains("password_file"), "{}", nobody.text());
}
