//! Real registries: plain, with TLS by a private CA, with passwords, and gone.

use crate::support::artifact::{module, raw};
use crate::support::larder::{Home, Larder, settings};
use crate::support::pki::Pki;
use crate::support::registry::Registry;

const PATH: &str = "/plugins/waf/1.0.0/plugin.wasm";

/// A registry with `waf` 1.0.0.
fn stocked() -> (Registry, Vec<u8>) {
    let registry = Registry::plain();
    let bytes = module("waf", 100_000);
    registry.push("plugins/waf", "1.0.0", &raw(&bytes));
    (registry, bytes)
}

/// Settings without plain http.
fn secure(registry: &str) -> String {
    settings(registry).replace(&format!("'{registry}'"), "")
}

#[test]
fn a_private_ca_is_trusted_when_it_is_named_as_file_or_folder_for_all_or_for_one() {
    let (plain, bytes) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let registry = plain.with_tls(folder.path(), &pki);
    let ca = pki.ca.to_str().unwrap();
    let ca_folder = folder.path().join("certs");
    std::fs::create_dir(&ca_folder).unwrap();
    std::fs::copy(&pki.ca, ca_folder.join("private.crt")).unwrap();
    let text = secure(&registry.named());
    let for_one = format!("{text}  hosts:\n    'localhost:{}': {{ca: ['{ca}']}}\n", registry.address.port());
    let for_one = for_one.replace("server:\n  drain: 0s\n", "") + "server:\n  drain: 0s\n";
    for (how, text, flags) in [
        ("file", &text, &["--ca", ca][..]),
        ("folder", &text, &["--ca", ca_folder.to_str().unwrap()]),
        ("for one", &for_one, &[]),
    ] {
        let larder = Home::new(text).start_with(flags, &[]);
        let reply = larder.get(PATH);
        assert_eq!((reply.status, &reply.body), (200, &bytes), "{how}: {}", reply.text());
    }
}

#[test]
fn an_unknown_ca_is_a_502_whose_hint_names_the_setting() {
    let (plain, _) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let registry = plain.with_tls(folder.path(), &Pki::make(folder.path()));
    let larder = Home::new(&secure(&registry.named())).start();
    let reply = larder.get(PATH);
    assert_eq!(
        (reply.status, reply.json()["code"].clone()),
        (502, "tls_unknown_ca".into()),
        "{}",
        reply.text()
    );
    assert!(reply.json()["hint"].as_str().unwrap().contains("--ca"), "{}", reply.text());
}

#[test]
fn plain_http_on_a_tls_port_and_the_reverse_are_told_apart() {
    let (plain, _) = stocked();
    let larder = Home::new(&secure(&plain.host())).start();
    let reply = larder.get(PATH);
    assert_eq!(
        (reply.status, reply.json()["code"].clone()),
        (502, "tls_plain_http".into()),
        "{}",
        reply.text()
    );
    let hint = reply.json()["hint"].as_str().unwrap().to_owned();
    let advised = hint.split("--plain-http ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let larder = Home::new(&secure(&plain.host())).start_with(&["--plain-http", &advised], &[]);
    assert_eq!(larder.get(PATH).status, 200, "the hint works: {hint}");

    let folder = tempfile::tempdir().unwrap();
    let registry = plain.with_tls(folder.path(), &Pki::make(folder.path()));
    let larder = Larder::before(&registry.host());
    let reply = larder.get(PATH);
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("registry.plain_http"), "{}", reply.text());
}

#[test]
fn a_password_opens_a_registry_and_a_wrong_one_is_a_403() {
    let (plain, bytes) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let registry = plain.with_password(folder.path(), "robot", "s3cret");
    let with = |password: &str| {
        let file = folder.path().join(format!("password-{password}"));
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let host = format!(
            "  hosts:\n    '{}': {{username: robot, password_file: '{}'}}\n",
            registry.host(),
            file.display()
        );
        Home::new(&settings(&registry.host()).replace("server:", &format!("{host}server:"))).start()
    };
    assert_eq!(with("s3cret").get(PATH).body, bytes);
    let larder = with("wrong");
    let reply = larder.get(PATH);
    assert_eq!((reply.status, reply.json()["code"].clone()), (403, "denied".into()), "{}", reply.text());
    let log = serde_json::to_string(&larder.log()).unwrap();
    assert!(!log.contains("wrong") && !reply.text().contains("wrong"), "the password is not printed");
    let without = Larder::before(&registry.host()).get(PATH);
    assert_eq!(without.status, 403);
    assert!(without.json()["hint"].as_str().unwrap().contains("password_file"), "{}", without.text());
}

#[test]
fn a_plugin_once_served_comes_when_the_registry_is_gone_also_after_a_restart() {
    let (mut registry, bytes) = stocked();
    let larder = Home::new(&(settings(&registry.host()) + "lifetimes: {tag: 0s, transient: 0s}\n")).start();
    assert_eq!(larder.get(PATH).body, bytes);
    registry.stop();
    let reply = larder.get(PATH);
    assert_eq!((reply.status, &reply.body), (200, &bytes));
    crate::support::eventually("the reason in Cache-Status", || {
        larder.get(PATH).header("cache-status").ends_with("detail=stale-connect").then_some(())
    });
    let larder = larder.kill().start();
    assert_eq!(larder.get(PATH).body, bytes);
    let other = larder.get("/plugins/other/1/plugin.wasm");
    assert_eq!((other.status, other.json()["code"].clone()), (502, "connect".into()));
}

#[test]
fn larder_starts_without_its_registry() {
    let larder = Larder::before("127.0.0.1:1");
    assert_eq!(larder.get("/").status, 200);
    assert_eq!(larder.get(PATH).status, 502);
}

#[test]
fn an_egress_proxy_is_taken_from_the_environment_and_no_proxy_passes_it_by() {
    // Anything that is asked for an absolute URL will do as a proxy: it notes whom it was asked for.
    let proxy = crate::support::scripted::Scripted::start();
    proxy.script(|_, _| crate::support::scripted::Act::status(500));
    let address = format!("http://{}", proxy.host());
    let through = Home::new(&settings("registry.test:5000")).start_with(&[], &[("HTTP_PROXY", &address)]);
    assert_eq!(through.get(PATH).status, 502);
    assert_eq!(proxy.asked()[0].path, "http://registry.test:5000/v2/plugins/waf/manifests/1.0.0");
    let (registry, bytes) = stocked();
    proxy.forget();
    let around = Home::new(&settings(&registry.host()))
        .start_with(&[], &[("HTTP_PROXY", &address), ("NO_PROXY", "127.0.0.0/8")]);
    assert_eq!(around.get(PATH).body, bytes);
    assert_eq!(proxy.asked().len(), 0);
}
