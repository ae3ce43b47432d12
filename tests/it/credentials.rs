//! As whom larder comes, and whom it believes: the places where credentials and certificates are found, and the odd ones
//! among them.

use crate::support::artifact::{module, raw};
use crate::support::canary;
use crate::support::client::Reply;
use crate::support::egress::{Daemon, Squid, Tinyproxy};
use crate::support::larder::{Home, Larder};
use crate::support::pki::Pki;
use crate::support::registry::{Front, Registry};
use crate::support::scripted::{Act, Scripted};
use std::path::Path;
use std::process::Command;

const PATH: &str = "/plugins/waf/1/plugin.wasm";
const SECRET: &str = "c4nary-of-registry";

fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

/// Settings for one registry, with lines below `registry:` and a rule for it.
fn text(registry: &str, more: &str, rule: &str) -> String {
    format!(
        "catalog: {{builtin: false, fallback: false, template: '{registry}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
         log: {{level: trace}}\nregistry:\n  certs: []\n  attempts: 1\n{more}  hosts:\n    '{registry}': {rule}\n"
    )
}

fn stocked() -> (Registry, Vec<u8>) {
    let registry = Registry::plain();
    let bytes = module("waf", 20_000);
    registry.push("plugins/waf", "1", &raw(&bytes));
    (registry, bytes)
}

fn no_secret(larder: &Larder, secrets: &[&str]) {
    canary::unseen(secrets, "the log", larder.log_text().as_bytes());
    canary::unseen(secrets, "the metrics", &crate::support::client::get(larder.admin, "/metrics").body);
    let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1");
    canary::unseen(secrets, "an explanation", &explained.body);
    canary::unwritten(secrets, &larder.home.cache());
}

#[test]
fn dockers_own_places_are_looked_at_without_being_named() {
    let (content, bytes) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let registry = content.with_password(folder.path(), "robot", SECRET);
    let name = registry.host();
    let config =
        format!(r#"{{"auths":{{"http://{name}/v2/":{{"username":"robot","password":"{SECRET}"}}}}}}"#);
    let put = |path: &Path| {
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("config.json"), &config).unwrap();
    };
    let settings = text(&name, "", "{plain_http: true}");
    assert_eq!(Home::new(&settings).start().get(PATH).status, 403, "nobody");
    let docker = folder.path().join("docker");
    put(&docker);
    let larder = Home::new(&settings).start_with(&[], &[("DOCKER_CONFIG", docker.to_str().unwrap())]);
    assert_eq!(larder.get(PATH).body, bytes, "DOCKER_CONFIG");
    let home = Home::new(&settings);
    put(&home.path().join(".docker"));
    let larder = home.start();
    assert_eq!(larder.get(PATH).body, bytes, "~/.docker");
    no_secret(&larder, &[SECRET]);
    // What is there was written for others, and is no reason not to start.
    let home = Home::new(&settings);
    put(&home.path().join(".docker"));
    std::fs::write(home.path().join(".docker/config.json"), "{broken").unwrap();
    let larder = home.start();
    assert_eq!(larder.get(PATH).status, 403);
    assert!(larder.log_text().contains(".docker/config.json:1:"), "{}", larder.log_text());
    // One that was good is not given up for one that is broken.
    let other = "/plugins/other/1/plugin.wasm";
    content.push("plugins/other", "1", &raw(&bytes));
    let larder = Home::new(&settings).start_with(&[], &[("DOCKER_CONFIG", docker.to_str().unwrap())]);
    assert_eq!(larder.get(PATH).body, bytes);
    std::fs::write(docker.join("config.json"), "{broken").unwrap();
    let refused = || larder.metric("larder_reloads_total{result=\"error\"}") >= 1.0;
    crate::support::eventually("the fault in the metrics", || refused().then_some(()));
    assert_eq!(larder.get(other).body, bytes);
}

#[test]
fn an_identity_token_is_given_to_the_token_service_alone_and_in_the_body() {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    let realm = format!("http://{}/token", registry.host());
    registry.script(move |ask, truth| {
        if ask.path.starts_with("/token") {
            let form = "grant_type=refresh_token&client_id=larder&scope=repository%3Aplugins%2Fwaf%3Apull&refresh_token=c4nary-of-registry&service=s";
            if ask.method != "POST" || ask.body != form.as_bytes() {
                return Act::status(400).body(format!("{} {}", ask.method, String::from_utf8_lossy(&ask.body)));
            }
            return Act::status(200).body(r#"{"access_token":"c4nary-of-access","expires_in":300}"#);
        }
        match ask.headers.get("authorization").map(String::as_str) {
            Some("Bearer c4nary-of-access") => truth,
            _ => Act::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=\"s\"")),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let name = registry.host();
    let config = format!(r#"{{"auths":{{"{name}":{{"auth":"PHRva2VuPjo=","identitytoken":"{SECRET}"}}}}}}"#);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let rule = format!("{{plain_http: true, docker_config: '{}'}}", folder.path().display());
    let larder = Home::new(&text(&name, "", &rule)).start();
    let reply = larder.get(PATH);
    assert_eq!(reply.body, bytes, "{}", reply.text());
    no_secret(&larder, &[SECRET, "c4nary-of-access"]);
    for ask in registry.asked() {
        let seen = ask.headers.values().any(|value| value.contains(SECRET)) || ask.path.contains(SECRET);
        assert!(!seen, "only in the body: {ask:?}");
    }
}

#[test]
fn a_bearer_token_from_a_file_is_sent_as_it_is_when_it_is_asked_for() {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    registry.script(|ask, truth| match ask.headers.get("authorization").map(String::as_str) {
        Some("Bearer c4nary-of-registry") => truth,
        _ => Act::status(401).header("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/never-asked\""),
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let rule = format!("{{plain_http: true, token_file: '{}'}}", file.display());
    let larder = Home::new(&text(&registry.host(), "", &rule)).start();
    assert_eq!(larder.get(PATH).body, bytes);
    no_secret(&larder, &[SECRET]);
    std::fs::write(&file, "c4nary-of-another").unwrap();
    let larder = Home::new(&text(&registry.host(), "", &rule)).start();
    let reply = larder.get(PATH);
    assert_eq!(code(&reply), (403, "denied".into()));
    assert!(reply.json()["hint"].as_str().unwrap().contains("token_file"), "{}", reply.text());
    no_secret(&larder, &[SECRET, "c4nary-of-another"]);
}

#[test]
fn a_foreign_token_service_and_a_foreign_redirect_see_no_credentials() {
    let (registry, foreign) = (Scripted::start(), Scripted::start());
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    foreign.put("plugins/waf", "1", &raw(&bytes));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, SECRET).unwrap();
    let rule = format!("{{plain_http: true, username: robot, password_file: '{}'}}", file.display());
    let realm = format!("Bearer realm=\"http://localhost:{}/token\"", foreign.address.port());
    registry.script(move |_, _| Act::status(401).header("WWW-Authenticate", &realm));
    let larder = Home::new(&text(&registry.host(), "", &rule)).start();
    let reply = larder.get(PATH);
    assert_eq!(code(&reply), (502, "realm_refused".into()), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("token_hosts"), "{}", reply.text());
    assert_eq!(foreign.asked().len(), 0, "not even a connection");
    let location = format!("http://localhost:{}", foreign.address.port());
    registry.script(move |ask, truth| match ask.headers.contains_key("authorization") {
        true if ask.is_blob() => Act::status(307).header("Location", &format!("{location}{}", ask.path)),
        true => truth,
        false => Act::status(401).header("WWW-Authenticate", "Basic realm=x"),
    });
    let larder = Home::new(&text(&registry.host(), "", &rule)).start();
    assert_eq!(larder.get(PATH).body, bytes);
    assert_eq!(foreign.asked().len(), 1);
    canary::unseen(&[SECRET], "the foreign host", format!("{:?}", foreign.asked()).as_bytes());
    no_secret(&larder, &[SECRET]);
}

#[test]
fn certificates_that_are_expired_chained_or_their_own_ca_are_judged_and_told() {
    let (content, bytes) = stocked();
    let at = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = at.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let by = |pki: &Pki, folder: &Path, ca: &Path| {
        let registry = content.with_tls(folder, pki);
        let larder =
            Home::new(&text(&registry.named(), "", &format!("{{ca: ['{}']}}", ca.display()))).start();
        let reply = larder.get(PATH);
        (reply, registry)
    };
    let path = folder("expired");
    let pki = Pki::expired(&path);
    let (reply, _) = by(&pki, &path, &pki.ca);
    assert_eq!(code(&reply), (502, "tls_expired".into()), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("has expired on"), "{}", reply.text());
    let path = folder("chained");
    let pki = Pki::chained(&path);
    let (reply, _) = by(&pki, &path, &pki.ca);
    assert_eq!(reply.body, bytes, "leaf and intermediate: {}", reply.text());
    // `openssl req -x509`: one certificate that is server and CA at once.
    let path = folder("self-signed");
    let pki = Pki::make(&path);
    for names in ["DNS:localhost", "DNS:elsewhere.corp"] {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=harbor",
                "-addext",
            ])
            .arg(format!("subjectAltName={names}"))
            .args(["-keyout".as_ref(), pki.key.as_os_str(), "-out".as_ref(), pki.certificate.as_os_str()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (reply, _) = by(&pki, &path, &pki.certificate);
        if names == "DNS:localhost" {
            assert_eq!(reply.body, bytes, "{}", reply.text());
            let (reply, _) = by(&pki, &path, &pki.ca);
            assert_eq!(code(&reply), (502, "tls_unknown_ca".into()), "not in the list: {}", reply.text());
            assert!(reply.json()["hint"].as_str().unwrap().contains("CN=harbor"), "{}", reply.text());
        } else {
            assert_eq!(code(&reply), (502, "tls_name".into()), "{}", reply.text());
            assert!(reply.json()["hint"].as_str().unwrap().contains("elsewhere.corp"), "{}", reply.text());
        }
    }
}

#[test]
fn a_server_with_old_versions_of_tls_alone_is_told_as_that_and_not_spoken_to() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let old = Daemon::start("s_server", &folder.path().join("log"), |port| {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-www", "-accept"]);
        command.arg(format!("127.0.0.1:{port}"));
        command.args(["-cert".as_ref(), pki.certificate.as_os_str(), "-key".as_ref(), pki.key.as_os_str()]);
        command
    });
    let name = format!("localhost:{}", old.address.port());
    let larder = Home::new(&text(&name, "", &format!("{{ca: ['{}']}}", pki.ca.display()))).start();
    let reply = larder.get(PATH);
    assert_eq!(code(&reply), (502, "tls_version".into()), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("1.2 or 1.3"), "{}", reply.text());
}

#[test]
fn the_systems_roots_can_be_left_out_and_a_skipped_verification_stays_with_its_registry() {
    let (content, bytes) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let registry = content.with_tls(folder.path(), &pki);
    let other = content.with_tls(folder.path(), &pki);
    let ca = pki.ca.display().to_string();
    // The CA is trusted by all, and not by this one.
    let global = format!("  ca: ['{ca}']\n");
    let own = tempfile::tempdir().unwrap();
    let foreign = Pki::make(own.path());
    let rule = format!("{{ca: ['{}'], system_ca: false}}", foreign.ca.display());
    let reply = Home::new(&text(&registry.named(), &global, &rule)).start().get(PATH);
    assert_eq!(code(&reply), (502, "tls_unknown_ca".into()), "{}", reply.text());
    assert_eq!(Home::new(&text(&registry.named(), &global, "{origin: true}")).start().get(PATH).body, bytes);
    // Any certificate for the one; the other is verified as before.
    let both = format!(
        "catalog: {{builtin: false, template: null, plugins: {{waf: {{repositories: ['{}/plugins/waf']}}, waf2: {{repositories: ['{}/plugins/waf']}}}}}}\n\
         server: {{drain: 0s}}\nregistry: {{certs: [], attempts: 1, hosts: {{'{}': {{insecure_skip_verify: true}}}}}}\n",
        registry.named(),
        other.named(),
        registry.named()
    );
    let larder = Home::new(&both).start();
    assert_eq!(larder.get(PATH).body, bytes);
    let reply = larder.get("/plugins/waf2/1/plugin.wasm");
    assert_eq!(code(&reply), (502, "tls_unknown_ca".into()), "{}", reply.text());
}

#[test]
fn a_skipped_verification_does_not_hold_where_a_redirect_leads() {
    let (content, _) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let other = content.with_tls(folder.path(), &pki);
    let redirect = format!("https://127.0.0.1:{}", other.address.port());
    let front = Front { tls: Some(&pki), redirect: Some(&redirect), ..Front::default() };
    let registry = content.with(folder.path(), &front);
    let reply = Home::new(&text(&registry.named(), "", "{insecure_skip_verify: true}")).start().get(PATH);
    assert_eq!(code(&reply), (502, "tls_unknown_ca".into()), "{}", reply.text());
}

#[test]
fn what_folders_say_is_loud_where_it_is_dangerous_and_gives_way_to_a_pinned_ca() {
    let (content, bytes) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let registry = content.with_tls(folder.path(), &pki);
    let name = registry.named();
    let certs = folder.path().join("certs.d");
    let own = certs.join(&name);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("hosts.toml"), "skip_verify = true\n").unwrap();
    let settings =
        |rule: &str| text(&name, "", rule).replace("certs: []", &format!("certs: ['{}']", certs.display()));
    let larder = Home::new(&settings("{origin: true}")).start();
    assert_eq!(larder.get(PATH).body, bytes);
    assert_eq!(larder.metric(&format!("larder_tls_unverified{{registry=\"{name}\"}}")), 1.0);
    assert!(crate::support::client::get(larder.admin, "/readyz").text().contains("not verified"));
    assert!(larder.log_text().contains("hosts.toml: skip_verify"), "{}", larder.log_text());
    std::fs::remove_file(own.join("hosts.toml")).unwrap();
    std::fs::copy(&pki.ca, own.join("ca.crt")).unwrap();
    assert_eq!(Home::new(&settings("{origin: true}")).start().get(PATH).body, bytes);
    let foreign = tempfile::tempdir().unwrap();
    let pinned = Pki::make(foreign.path());
    let rule = format!("{{ca: ['{}'], system_ca: false}}", pinned.ca.display());
    let reply = Home::new(&settings(&rule)).start().get(PATH);
    assert_eq!(code(&reply), (502, "tls_unknown_ca".into()), "{}", reply.text());
}

#[test]
fn a_redirect_within_the_registrys_own_host_keeps_our_credentials() {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    registry.script(|ask, truth| {
        if ask.path.starts_with("/v2/") && !ask.path.contains("behind") {
            let path = format!("/v2/behind{}", ask.path.trim_start_matches("/v2"));
            return Act::status(307).header("Location", &path);
        }
        match ask.headers.get("authorization").map(String::as_str) {
            Some("Basic cm9ib3Q6YzRuYXJ5LW9mLXJlZ2lzdHJ5") => truth,
            _ => Act::status(401).header("WWW-Authenticate", "Basic realm=x"),
        }
    });
    let artifact = raw(&bytes);
    registry.put_raw(
        "/v2/behind/plugins/waf/manifests/1",
        artifact.manifest.media_type,
        &artifact.manifest.bytes,
    );
    let digest = larder::oci::Digest::of(&bytes);
    registry.put_raw(&format!("/v2/behind/plugins/waf/blobs/{digest}"), "application/octet-stream", &bytes);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, SECRET).unwrap();
    let rule = format!("{{plain_http: true, username: robot, password_file: '{}'}}", file.display());
    let reply = Home::new(&text(&registry.host(), "", &rule)).start().get(PATH);
    assert_eq!(reply.body, bytes, "{}", reply.text());
}

#[test]
fn a_proxy_behind_tls_is_verified_and_gets_its_password_and_nobody_else_does() {
    let (content, bytes) = stocked();
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    let registry = content.with_tls(folder.path(), &pki);
    let squid = Squid::behind_tls(&pki, "lab", "c4nary-of-proxy");
    let file = folder.path().join("proxy-password");
    std::fs::write(&file, "c4nary-of-proxy").unwrap();
    let proxy = |name: &str| {
        format!(
            "  ca: ['{}']\n  proxy: {{url: 'https://{name}:{}', username: lab, password_file: '{}'}}\n",
            pki.ca.display(),
            squid.address.port(),
            file.display()
        )
    };
    let larder = Home::new(&text(&registry.named(), &proxy("localhost"), "{origin: true}")).start();
    let reply = larder.get(PATH);
    assert_eq!(reply.body, bytes, "{}\n{}", reply.text(), squid.log());
    no_secret(&larder, &["c4nary-of-proxy"]);
    let larder = Home::new(&text(&registry.named(), &proxy("127.0.0.1"), "{origin: true}")).start();
    let reply = larder.get(PATH);
    assert_eq!(reply.status, 502, "a certificate for another name: {}", reply.text());
    no_secret(&larder, &["c4nary-of-proxy"]);
}

#[test]
fn what_a_proxy_is_told_does_not_reach_the_registry_and_what_it_is_told_does_not_reach_the_proxy() {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    let squid = Squid::with_password("lab", "c4nary-of-proxy");
    let tiny = Tinyproxy::with_password("lab", "c4nary-of-proxy");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy-password");
    std::fs::write(&file, "c4nary-of-proxy").unwrap();
    for (proxy, except, asked) in
        [(squid.address, "", 2), (tiny.address, "", 2), (squid.address, ", no_proxy: [127.0.0.1]", 2)]
    {
        registry.forget();
        let rule = format!(
            "{{plain_http: true, proxy: {{url: 'http://{proxy}', username: lab, password_file: '{}'{except}}}}}",
            file.display()
        );
        // A proxy may end a connection just when it is used again.
        let settings = text(&registry.host(), "", &rule).replace("attempts: 1", "attempts: 3");
        let larder = Home::new(&settings).start();
        let reply = larder.get(PATH);
        assert_eq!(reply.body, bytes, "{}", reply.text());
        assert_eq!(registry.asked().len(), asked);
        assert!(
            registry.count(|ask| ask.headers.contains_key("proxy-authorization")) == 0,
            "{:?}",
            registry.asked()
        );
        canary::unseen(&["c4nary-of-proxy"], "the registry", format!("{:?}", registry.asked()).as_bytes());
        let through = registry.count(|ask| ask.headers.contains_key("via"));
        assert_eq!(through > 0, except.is_empty(), "{:?}", registry.asked());
    }
}

#[test]
fn proxies_of_the_environment_are_the_default_and_their_password_is_not_shown() {
    let (content, bytes) = stocked();
    let squid = Squid::with_password("lab", "c4nary-of-proxy");
    let url = format!("http://lab:c4nary-of-proxy@{}", squid.address);
    let settings = text(&content.host(), "", "{plain_http: true}");
    let larder = Home::new(&settings).start_with(&[], &[("HTTP_PROXY", &url)]);
    assert_eq!(larder.get(PATH).body, bytes);
    crate::support::eventually("the request in squid's log", || {
        squid.log().contains(&content.host()).then_some(())
    });
    no_secret(&larder, &["c4nary-of-proxy"]);
    let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1").text();
    assert!(explained.contains(&format!("through http://{} (HTTP_PROXY)", squid.address)), "{explained}");
    let larder =
        Home::new(&settings).start_with(&[], &[("HTTP_PROXY", &url), ("NO_PROXY", "10.0.0.0/8,127.0.0.1")]);
    assert_eq!(larder.get(PATH).body, bytes);
    let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1").text();
    assert!(explained.contains("directly: NO_PROXY has 127.0.0.1"), "{explained}");
    let failed = Command::new(crate::support::larder::PROGRAM)
        .args(["check", "--cache-dir"])
        .arg(larder.home.path())
        .env("HTTPS_PROXY", "ftp://lab:c4nary-of-proxy@p")
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(78));
    canary::unseen(&["c4nary-of-proxy"], "a fault", &failed.stderr);
}

#[test]
fn what_a_registry_answers_is_explained_with_the_next_step() {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    let name = registry.host();
    let larder = || Home::new(&text(&name, "", "{plain_http: true}")).start();
    let unknown = |code: &str| format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"no\"}}]}}");
    let says = |status: u16, body: String| {
        move |_: &crate::support::scripted::Ask, _: Act| Act::status(status).body(body.clone())
    };
    for (status, body, expected, words) in [
        (404, unknown("MANIFEST_UNKNOWN"), "not_found", "no such tag"),
        (404, unknown("NAME_UNKNOWN"), "not_found", "no such repository"),
        (403, unknown("DENIED"), "denied", "needs credentials"),
        (401, String::new(), "denied", "password_file"),
        (429, String::new(), "rate_limited", "mirror"),
        (500, String::new(), "upstream", ""),
    ] {
        registry.script(says(status, body));
        let larder = larder();
        let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1").text();
        assert!(explained.contains(&format!("\n{expected}: ")), "{status}: {explained}");
        assert!(explained.contains(words), "{status} {words}: {explained}");
        assert_eq!(code(&larder.get(PATH)).1, expected, "the plugin itself ends as explained");
    }
    registry.heal();
    for (_, artifact, expected) in crate::support::artifact::broken() {
        registry.put("plugins/odd", "1", &artifact);
        let explained = crate::support::client::get(larder().admin, "/explain?name=odd&version=1").text();
        assert!(explained.contains(&format!("\n{expected}: ")), "{expected}: {explained}");
        assert!(
            explained.contains("  layer      configuration") || explained.contains("  manifest "),
            "{explained}"
        );
    }
    let nobody = crate::support::client::get(larder().admin, "/explain?name=waf").text();
    assert!(nobody.contains("\nversion_needed: "), "no version, and none in the catalog: {nobody}");
}
