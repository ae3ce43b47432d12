//! Every shape of artifact, pushed to a real registry and pulled through the real program.

use crate::support::artifact::{broken, shapes};
use crate::support::larder::{Home, Larder, settings};
use crate::support::pki::Pki;
use crate::support::registry::Registry;

/// Pulls every shape through a larder.
fn pull_all(larder: &Larder, how: &str) {
    for (shape, artifact) in shapes() {
        let reply = larder.get(&format!("/plugins/{shape}/1.0.0/plugin.wasm"));
        assert_eq!(reply.status, 200, "{how} {shape}: {}", reply.text());
        assert_eq!(reply.body, artifact.module, "{how} {shape}");
        assert_eq!(
            reply.header("larder-manifest-digest"),
            artifact.manifest.digest().to_string(),
            "{how} {shape}"
        );
        let pinned = larder.get(&format!("/plugins/{shape}/{}/plugin.wasm", artifact.manifest.digest()));
        assert_eq!(pinned.body, artifact.module, "{how} {shape} by digest");
    }
}

#[test]
fn every_shape_of_the_contract_gives_its_module_byte_for_byte_plain_with_tls_and_with_a_password() {
    let registry = Registry::plain();
    for (shape, artifact) in shapes() {
        registry.push(&format!("plugins/{shape}"), "1.0.0", &artifact);
    }
    pull_all(&Larder::before(&registry.host()), "plain");

    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let secure = registry.with_tls(folder.path(), &pki);
    let text = settings(&secure.named()).replace(&format!("'{}'", secure.named()), "");
    pull_all(&Home::new(&text).start_with(&["--ca", pki.ca.to_str().unwrap()], &[]), "tls");

    let closed = registry.with_password(folder.path(), "robot", "s3cret");
    let password = folder.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let hosts =
        format!("{{'{}': {{username: robot, password_file: '{}'}}}}", closed.host(), password.display());
    pull_all(
        &Home::new(&settings(&closed.host())).start_with(&[], &[("LARDER_REGISTRY_HOSTS", &hosts)]),
        "password",
    );
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
