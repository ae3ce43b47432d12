//! What each of the two ports answers, and that neither can be made to keep what clients invent.

use crate::support::artifact::{module, raw};
use crate::support::faults::is_long;
use crate::support::larder::Larder;
use crate::support::scripted::Scripted;
use crate::support::{client, eventually};
use std::io::Write;

const X: &str = "/plugins/x/1/plugin.wasm";

/// A larder that holds `x`, and a registry that nobody has asked since.
fn held() -> (Scripted, Larder, Vec<u8>) {
    let registry = Scripted::start();
    let module = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&module));
    let larder = Larder::before(&registry.host());
    assert_eq!(larder.get(X).body, module);
    registry.forget();
    (registry, larder, module)
}

#[test]
fn each_port_has_its_own_paths_and_inventions_leave_no_series() {
    let (registry, larder, module) = held();
    let admin = larder.admin;
    for path in [X, "/plugins/", "/healthz", "/plugins/snapshot-inventory.json"] {
        let reply = client::get(admin, path);
        assert_eq!((reply.status, reply.json()["code"].clone()), (404, "no_route".into()), "{path}");
    }
    for path in ["/metrics?name[]=larder_requests_total", "/metrics?", "//metrics", "/readyz?x"] {
        assert_eq!(client::get(admin, path).status, 200, "{path}");
    }
    for path in ["/metrics", "/readyz", "/livez", "/explain?name=x"] {
        let reply = client::request(admin, "POST", path, &[]);
        assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD"), "{path}");
    }
    assert_eq!(client::get(admin, "/explain?name=%2e%2e").json()["code"], "bad_name");
    assert_eq!(client::get(admin, "/../metrics").json()["code"], "bad_path");
    let series = || {
        let text = client::get(admin, "/metrics").text();
        text.lines()
            .filter(|line| line.starts_with("larder_"))
            .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
            .collect::<Vec<_>>()
    };
    larder.get("/invented/0");
    larder.get("/plugins/BAD0/1/plugin.wasm");
    eventually("the first in the metrics", || {
        let name = "larder_requests_total{cache=\"none\",route=\"none\",status=";
        let has = |status: &str| series().iter().any(|line| line.starts_with(&format!("{name}\"{status}\"")));
        (has("404") && has("400")).then_some(())
    });
    let before = series();
    let mut stream = client::connect(larder.data).unwrap();
    for n in 0..if is_long() { 1_000_000 } else { 5000 } {
        let path =
            if n % 2 == 0 { format!("/invented/{n}") } else { format!("/plugins/BAD{n}/1/plugin.wasm") };
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
        assert!(client::read_reply(&mut stream, false).unwrap().status >= 400);
    }
    assert_eq!(series(), before);
    assert_eq!(registry.asked().len(), 0, "nobody was asked");
    assert_eq!(larder.get(X).body, module);
}

#[test]
fn readiness_is_no_matter_of_registries() {
    let (registry, larder, module) = held();
    let ready = || client::get(larder.admin, "/readyz");
    assert_eq!((ready().status, ready().text().as_str()), (200, "ready\n"));
    registry.down();
    assert_eq!(larder.get("/plugins/new/1/plugin.wasm").status, 502);
    assert_eq!(ready().status, 200, "what is held is served");
    assert_eq!(larder.get(X).body, module);
    // Nor of the disk: what is held in memory is served.
    let cache = larder.home.cache();
    std::fs::remove_dir_all(cache.join("v1/modules")).unwrap();
    assert_eq!(ready().status, 200);
}
