//! Every shape of artifact, pushed to a real registry and pulled through the real program.

use crate::support::artifact::{broken, shapes};
use crate::support::larder::Larder;
use crate::support::registry::Registry;

#[test]
fn every_shape_of_the_contract_gives_its_module_byte_for_byte() {
    let registry = Registry::plain();
    let larder = Larder::before(&registry.host());
    for (shape, artifact) in shapes() {
        registry.push(&format!("plugins/{shape}"), "1.0.0", &artifact);
        let path = format!("/plugins/{shape}/1.0.0/plugin.wasm");
        let reply = larder.get(&path);
        assert_eq!(reply.status, 200, "{shape}: {}", reply.text());
        assert_eq!(reply.body, artifact.module, "{shape}");
        assert_eq!(reply.header("larder-manifest-digest"), artifact.manifest.digest().to_string(), "{shape}");
        let pinned = larder.get(&format!("/plugins/{shape}/{}/plugin.wasm", artifact.manifest.digest()));
        assert_eq!(pinned.body, artifact.module, "{shape} by digest");
    }
}

#[test]
fn shapes_without_a_usable_module_are_a_422_that_names_why() {
    let registry = Registry::plain();
    let larder = Larder::before(&registry.host());
    for (shape, artifact, code) in broken() {
        registry.push(&format!("plugins/{shape}"), "1.0.0", &artifact);
        let reply = larder.get(&format!("/plugins/{shape}/1.0.0/plugin.wasm"));
        assert_eq!(
            (reply.status, reply.json()["code"].clone()),
            (422, code.into()),
            "{shape}: {}",
            reply.text()
        );
    }
    assert!(crate::support::heart::files(&larder.home.cache().join("v1/modules")).is_empty());
    assert!(crate::support::heart::files(&larder.home.cache().join("v1/tmp")).is_empty());
}
