//! Mirrors: in which order they are asked, what passes on to the next, and what is remembered.

use crate::support::artifact::{module, raw};
use crate::support::client::Reply;
use crate::support::larder::{Home, Larder};
use crate::support::pki::Pki;
use crate::support::registry::{Front, Registry};
use crate::support::scripted::{Act, Scripted};
use std::time::Duration;

const PATH: &str = "/plugins/waf/1/plugin.wasm";

fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// A larder whose plugins lie at `registry`, with `rule` for it, and `plain` hosts without TLS.
fn before(registry: &str, rule: &str, plain: &[&str]) -> Larder {
    Home::new(&format!(
        "catalog: {{builtin: false, fallback: false, template: '{registry}/plugins/{{name}}:{{version}}'}}\n\
         server: {{drain: 0s}}\nlifetimes: {{transient: 0s, tag: 0s, absent: 0s}}\n\
         registry:\n  certs: []\n  attempts: 1\n  plain_http: {plain:?}\n  hosts:\n    '{registry}':\n{rule}"
    ))
    .start()
}

/// Two mirrors and an origin, each with `waf` 1 of its own bytes.
struct Three {
    first: Scripted,
    second: Scripted,
    origin: Scripted,
}

impl Three {
    fn start() -> Self {
        let three = Self { first: Scripted::start(), second: Scripted::start(), origin: Scripted::start() };
        three.first.put("proxy/plugins/waf", "1", &raw(&module("first", 9000)));
        three.second.put("plugins/waf", "1", &raw(&module("second", 9000)));
        three.origin.put("plugins/waf", "1", &raw(&module("origin", 9000)));
        three
    }

    /// The first mirror rewrites; `more` is added to each mirror.
    fn larder(&self, more: [&str; 2], origin: bool) -> Larder {
        let rule = format!(
            "      mirrors:\n        - {{url: 'http://{}', repository: 'proxy/{{repository}}', {}}}\n        - {{url: 'http://{}', {}}}\n      origin: {origin}\n      plain_http: true\n",
            self.first.host(),
            more[0],
            self.second.host(),
            more[1],
        );
        before(&self.origin.host(), &rule, &[])
    }
}

#[test]
fn mirrors_are_asked_in_order_with_their_own_repository_and_a_failure_passes_on() {
    let three = Three::start();
    let larder = three.larder(["", ""], true);
    assert_eq!(larder.get(PATH).body, module("first", 9000));
    assert_eq!(three.first.asked()[0].path, "/v2/proxy/plugins/waf/manifests/1");
    assert_eq!((three.second.asked().len(), three.origin.asked().len()), (0, 0));
    for broken in [Act::status(500), Act::hang_up(), Act::status(401), Act::status(403)] {
        let three = Three::start();
        let act = broken.clone();
        three.first.script(move |_, _| act.clone());
        let larder = three.larder(["", ""], true);
        assert_eq!(larder.get(PATH).body, module("second", 9000), "{}", broken.status);
        assert_eq!(three.origin.asked().len(), 0);
        let act = broken.clone();
        three.second.script(move |_, _| act.clone());
        let other = larder.get("/plugins/other/1/plugin.wasm");
        assert_eq!(code(&other), (404, "not_found".into()), "the registry itself said so: {}", other.text());
    }
}

#[test]
fn the_mirror_that_answered_is_asked_first_from_then_on() {
    let three = Three::start();
    for n in 0..5 {
        three.second.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 3000)));
    }
    three.first.down();
    let larder = three.larder(["", ""], true);
    for n in 0..5 {
        assert_eq!(larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).status, 200);
    }
    assert_eq!(three.first.asked().len(), 1, "the layer and the other plugins came from the second at once");
}

#[test]
fn a_mirrors_not_found_is_the_answer_unless_the_settings_pass_it_on() {
    let three = Three::start();
    three.first.script(|_, _| Act::status(404));
    let last = three.larder(["", ""], true).get(PATH);
    assert_eq!(code(&last), (404, "not_found".into()), "{}", last.text());
    assert_eq!(three.second.asked().len() + three.origin.asked().len(), 0);
    let passed = three.larder(["on_not_found: next", "on_not_found: next"], true).get(PATH);
    assert_eq!(passed.body, module("second", 9000));
    // Two that have it not, and the registry itself down: nobody said with authority that it does not exist.
    three.second.script(|_, _| Act::status(404));
    three.origin.down();
    let unknown = three.larder(["on_not_found: next", "on_not_found: next"], true).get(PATH);
    assert_eq!(code(&unknown), (502, "connect".into()), "{}", unknown.text());
    // And without the registry itself they are all there is.
    let nobody = three.larder(["on_not_found: next", "on_not_found: next"], false).get(PATH);
    assert_eq!(code(&nobody), (404, "not_found".into()), "{}", nobody.text());
}

#[test]
fn the_registry_itself_is_never_asked_where_the_settings_say_so() {
    let three = Three::start();
    three.first.down();
    three.second.down();
    let reply = three.larder(["", ""], false).get(PATH);
    assert_eq!(code(&reply), (502, "connect".into()), "{}", reply.text());
    assert_eq!(three.origin.asked().len(), 0);
}

#[test]
fn a_transfer_that_breaks_goes_on_at_the_next_mirror() {
    let three = Three::start();
    let bytes = module("same", 30_000);
    three.first.put("proxy/plugins/same", "1", &raw(&bytes));
    three.second.put("plugins/same", "1", &raw(&bytes));
    three.first.script(|ask, truth| match ask.is_blob() {
        true if ask.headers.contains_key("range") => Act::hang_up(),
        true => Act { cut: Some(10_000), ..truth },
        false => truth,
    });
    let larder = Home::new(&format!(
        "catalog: {{builtin: false, template: '{origin}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
         registry:\n  certs: []\n  hosts:\n    '{origin}':\n      plain_http: true\n      mirrors:\n        - {{url: 'http://{}', repository: 'proxy/{{repository}}'}}\n        - {{url: 'http://{}'}}\n",
        three.first.host(),
        three.second.host(),
        origin = three.origin.host(),
    ))
    .start();
    let reply = larder.get("/plugins/same/1/plugin.wasm");
    assert_eq!(reply.body, bytes, "{}", reply.text());
    let ranges: Vec<_> =
        three.second.asked().iter().filter_map(|ask| ask.headers.get("range").cloned()).collect();
    assert_eq!(ranges, ["bytes=10000-"]);
}

#[test]
fn a_mirror_that_falls_silent_costs_its_limit_and_the_next_one_answers() {
    let three = Three::start();
    three.second.put("plugins/waf", "1", &raw(&module("first", 9000)));
    three.first.script(|ask, truth| if ask.is_blob() { truth.stall(3000) } else { truth });
    let rule = format!(
        "      plain_http: true\n      mirrors:\n        - {{url: 'http://{}', repository: 'proxy/{{repository}}'}}\n        - {{url: 'http://{}'}}\n    '{}': {{idle_timeout: 300ms}}\n    '*.nowhere': {{origin: true}}\n",
        three.first.host(),
        three.second.host(),
        three.first.host(),
    );
    let larder = Home::new(&format!(
        "catalog: {{builtin: false, fallback: false, template: '{origin}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
         registry:\n  certs: []\n  hosts:\n    '{origin}':\n{rule}",
        origin = three.origin.host(),
    ))
    .start();
    let reply = larder.get(PATH);
    assert_eq!(reply.body, module("first", 9000), "{}", reply.text());
    assert!(three.second.count(|ask| ask.is_blob()) <= 1);
}

#[test]
fn a_mirror_that_is_down_makes_no_storm_at_the_registry_behind_it() {
    let three = Three::start();
    three.first.down();
    three.origin.script(|_, _| Act::status(403));
    let rule = format!("      plain_http: true\n      mirrors: [{{url: 'http://{}'}}]\n", three.first.host());
    let larder = before(&three.origin.host(), &rule, &[]);
    for n in 0..12 {
        let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
        assert_eq!(code(&reply), (502, "connect".into()), "the mirror may have it: {}", reply.text());
    }
    let asked = three.origin.asked().len();
    assert!(asked <= 60, "{asked} requests for twelve plugins");
}

#[test]
fn a_mirror_with_other_bytes_or_a_page_for_people_is_passed_over() {
    type Lie = fn(Act) -> Act;
    let flip: Lie = |mut truth| {
        truth.body[3000] ^= 1;
        truth
    };
    let short: Lie = |mut truth| {
        truth.body.truncate(100);
        truth
    };
    let page: Lie = |_| Act::status(200).header("Content-Type", "text/html").body("<html>maintenance</html>");
    for lie in [flip, short, page] {
        let three = Three::start();
        three.second.put("plugins/waf", "1", &raw(&module("first", 9000)));
        three.first.script(move |ask, truth| if ask.is_blob() { lie(truth) } else { truth });
        let reply = three.larder(["", ""], true).get(PATH);
        assert_eq!(reply.body, module("first", 9000), "{}", reply.text());
        assert_eq!(three.second.count(|ask| ask.is_blob()), 1);
    }
}

#[test]
fn a_rule_for_a_suffix_holds_for_what_is_below_it_and_an_exact_one_wins() {
    let (wide, narrow, exact) = (Scripted::start(), Scripted::start(), Scripted::start());
    for (registry, seed) in [(&wide, "wide"), (&narrow, "narrow"), (&exact, "exact")] {
        registry.put("p/waf", "1", &raw(&module(seed, 5000)));
    }
    let mirror =
        |registry: &Scripted| format!("{{mirrors: [{{url: 'http://{}'}}], origin: false}}", registry.host());
    let larder = Home::new(&format!(
        "catalog:\n  builtin: false\n  template: null\n  plugins:\n    a: {{repositories: [a.corp/p/waf]}}\n    b: {{repositories: ['b.eu.corp:8443/p/waf']}}\n    c: {{repositories: [c.eu.corp/p/waf]}}\n    d: {{repositories: [corp/p/waf]}}\n\
         server: {{drain: 0s}}\nregistry:\n  certs: []\n  attempts: 1\n  connect_timeout: 1s\n  hosts:\n    '*.corp': {}\n    '*.EU.corp': {}\n    '*.other': {{origin: true}}\n    c.eu.corp: {}\n",
        mirror(&wide),
        mirror(&narrow),
        mirror(&exact),
    ))
    .start();
    for (name, seed) in [("a", "wide"), ("b", "narrow"), ("c", "exact")] {
        let reply = larder.get(&format!("/plugins/{name}/1/plugin.wasm"));
        assert_eq!(reply.body, module(seed, 5000), "{name}: {}", reply.text());
    }
    assert_eq!(larder.get("/plugins/d/1/plugin.wasm").status, 502, "corp is not below *.corp");
    let explained = crate::support::client::get(larder.admin, "/explain?name=a&version=1").text();
    assert!(explained.contains("a.corp: registry.hosts.*.corp ("), "{explained}");
    let metrics = crate::support::client::get(larder.admin, "/metrics").text();
    let unknown = crate::support::client::get(larder.admin, "/explain?name=unknown&version=1").text();
    assert!(unknown.contains("\nunknown_name: "), "{unknown}");
    assert!(!metrics.contains("\"any.") && !metrics.contains("larder.invalid"), "{metrics}");
}

#[test]
fn a_path_prefix_and_another_port_are_part_of_a_mirror() {
    let mirror = Scripted::start();
    let bytes = module("waf", 5000);
    let artifact = raw(&bytes);
    let at = "/artifactory/api/docker/v2/team/waf";
    mirror.put_raw(&format!("{at}/manifests/1"), artifact.manifest.media_type, &artifact.manifest.bytes);
    for blob in &artifact.blobs {
        let digest = larder::oci::Digest::of(blob);
        mirror.put_raw(&format!("{at}/blobs/{digest}"), "application/octet-stream", blob);
    }
    let rule = format!(
        "      origin: false\n      mirrors: [{{url: 'http://{}/artifactory/api/docker/', repository: 'team/{{repository}}'}}]\n",
        mirror.host()
    );
    let text = format!(
        "catalog: {{builtin: false, template: 'r.example/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\nregistry:\n  certs: []\n  hosts:\n    r.example:\n{rule}"
    );
    assert_eq!(Home::new(&text).start().get(PATH).body, bytes);
}

#[test]
fn mirrors_that_cannot_be_are_named_before_a_start() {
    let program = |rule: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("larder.yaml");
        std::fs::write(&file, format!("registry:\n  hosts:\n    r.example: {rule}\n")).unwrap();
        let output =
            crate::support::larder::program().args(["check", "--config"]).arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{rule}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (rule, told) in [
        ("{mirrors: [{url: 'ftp://m'}]}", "registry.hosts.r.example: mirrors.0: 'ftp://m' is no mirror"),
        ("{mirrors: [{url: 'https://u:s3cret@m'}]}", "without credentials"),
        ("{mirrors: [{url: 'https://m', repository: 'fixed'}]}", "repository 'fixed' is no rewrite"),
        ("{mirrors: [{url: 'https://m', repository: '../{repository}'}]}", "is no rewrite"),
        ("{mirrors: [{url: 'https://m', on_not_found: maybe}]}", "maybe"),
        ("{mirrors: [{uri: 'https://m'}]}", "uri"),
        ("{origin: false}", "nobody is left to ask"),
        ("{system_ca: false}", "no certificate could be accepted"),
        ("{client_certificate: /x.pem}", "belong together"),
        ("{token_file: /x, username: u, password_file: /x}", "stands in place of"),
        ("{proxy: {url: 'http://u:s3cret@p:1'}}", "no credentials in it"),
        ("{at_once: 0}", "at_once is zero"),
        ("{idle_timeout: 0s}", "a timeout is zero"),
        ("{token_hosts: ['*corp']}", "token_hosts: '*corp' is no host"),
        ("{blob_hosts: ['https://x']}", "blob_hosts: 'https://x' is no host"),
        ("{proxy: 'http://u:s3cret@p:1'}", "invalid type"),
        ("{mirrors: ['https://u:s3cret@m']}", "invalid type"),
        ("{username: u, password_file: s3cret}", "the file that is named"),
        ("{mirorrs: []}", "did you mean 'mirrors'?"),
    ] {
        let faults = program(rule);
        assert!(faults.contains(told) && faults.contains("larder.yaml:3:"), "{rule}: {faults}");
        assert!(!faults.contains("s3cret"), "{faults}");
    }
}

#[test]
fn a_real_pull_through_registry_in_front_serves_what_it_has_when_its_own_upstream_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut content = Registry::plain();
    let bytes = module("waf", 50_000);
    content.push("plugins/waf", "1", &raw(&bytes));
    content.push("plugins/never-asked", "1", &raw(&module("never", 5000)));
    let cache = Registry::pull_through(folder.path(), &format!("http://{}", content.host()));
    let rule = format!(
        "      plain_http: true\n      mirrors: [{{url: 'http://{}', on_not_found: next}}]\n",
        cache.host()
    );
    let larder = before(&content.host(), &rule, &[]);
    assert_eq!(larder.get(PATH).body, bytes);
    content.stop();
    let larder = before(&content.host(), &rule, &[]);
    assert_eq!(larder.get(PATH).body, bytes, "from the mirror");
    // The mirror calls an outage a 404; passed on, it is told as the outage that it is.
    let reply = larder.get("/plugins/never-asked/1/plugin.wasm");
    assert_eq!(code(&reply), (502, "connect".into()), "{}", reply.text());
}

#[test]
fn layers_behind_a_real_redirect_come_without_our_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    let bytes = module("waf", 50_000);
    content.push("plugins/waf", "1", &raw(&bytes));
    let store = Scripted::start();
    store.put_raw(&Registry::blob_path(&larder::oci::Digest::of(&bytes)), "application/octet-stream", &bytes);
    let url = format!("http://{}", store.host());
    let front =
        Front { password: Some(("robot", "s3cret-s3cret")), redirect: Some(&url), ..Front::default() };
    let registry = content.with(folder.path(), &front);
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret-s3cret").unwrap();
    let rule =
        format!("      plain_http: true\n      username: robot\n      password_file: '{}'\n", file.display());
    let larder = before(&registry.host(), &rule, &[]);
    assert_eq!(larder.get(PATH).body, bytes);
    let followed = store.asked();
    assert_eq!(followed.len(), 1);
    assert!(!followed[0].headers.contains_key("authorization"), "{followed:?}");
}

#[test]
fn containerds_and_dockers_folders_are_read_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    let bytes = module("waf", 30_000);
    content.push("plugins/waf", "1", &raw(&bytes));
    let pki = Pki::make(folder.path());
    let registry = content.with_mutual_tls(folder.path(), &pki);
    let name = registry.named();
    let certs = folder.path().join("certs.d");
    let text = |registry: &str| {
        format!(
            "catalog: {{builtin: false, template: '{registry}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
             registry: {{attempts: 1, certs: ['{}']}}\n",
            certs.display()
        )
    };
    let at = |path: &str| {
        let path = certs.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    // Docker: a CA and a client certificate for a host.
    std::fs::copy(&pki.ca, at(&format!("{name}/ca.crt"))).unwrap();
    std::fs::copy(&pki.client_certificate, at(&format!("{name}/client.cert"))).unwrap();
    std::fs::copy(&pki.client_key, at(&format!("{name}/client.key"))).unwrap();
    assert_eq!(Home::new(&text(&name)).start().get(PATH).body, bytes, "Docker's layout");
    std::fs::remove_dir_all(&certs).unwrap();
    // containerd: a mirror for a registry that is not there, a "not found" that passes on, and the namespace.
    let empty = Scripted::start();
    let toml = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}/v2\"]\n[host.\"https://{name}\"]\n  ca = \"ca.pem\"\n  client = [[\"client.pem\", \"client.key\"]]\n",
        empty.host()
    );
    std::fs::write(at("gone.example/hosts.toml"), toml).unwrap();
    std::fs::copy(&pki.ca, at("gone.example/ca.pem")).unwrap();
    std::fs::copy(&pki.client_certificate, at("gone.example/client.pem")).unwrap();
    std::fs::copy(&pki.client_key, at("gone.example/client.key")).unwrap();
    let larder = Home::new(&text("gone.example")).start();
    let reply = larder.get(PATH);
    assert_eq!(reply.body, bytes, "containerd's layout: {}", reply.text());
    assert_eq!(empty.asked()[0].path, "/v2/plugins/waf/manifests/1?ns=gone.example");
    let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1").text();
    assert!(
        explained.contains(&format!("gone.example: {}", certs.join("gone.example/hosts.toml").display())),
        "{explained}"
    );
    // A folder that cannot be used costs what it is about, and is told.
    std::fs::write(at("broken.example/ca.crt"), "no PEM").unwrap();
    let larder = Home::new(&text("gone.example")).start();
    assert_eq!(larder.get(PATH).body, bytes);
    assert!(
        larder.log_text().contains("broken.example/ca.crt: holds no certificate"),
        "{}",
        larder.log_text()
    );
}

#[test]
fn no_more_requests_than_a_rule_allows_are_made_at_once() {
    let registry = Scripted::start();
    for n in 0..12 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 5000)));
    }
    let (now, hold) = (std::sync::Arc::new(std::sync::Mutex::new((0, 0))), Duration::from_millis(20));
    let counted = now.clone();
    registry.script(move |_, truth| {
        let enter = |by: i32| {
            let mut now = counted.lock().unwrap();
            now.0 += by;
            now.1 = now.1.max(now.0);
        };
        enter(1);
        // So long that others would come in, if they were let.
        std::thread::sleep(hold);
        enter(-1);
        truth
    });
    let larder = before(&registry.host(), "      plain_http: true\n      at_once: 2\n", &[]);
    std::thread::scope(|scope| {
        for n in 0..12 {
            let larder = &larder;
            scope.spawn(move || assert_eq!(larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).status, 200));
        }
    });
    assert_eq!(now.lock().unwrap().1, 2);
}
