//! Every way to a registry: how it speaks, who we are, and through what. Real registries, a real token service, real
//! proxies; each combination fetches a real artifact and compares its bytes, and each way fails with its own hint.

use crate::support::artifact::{module, raw};
use crate::support::canary;
use crate::support::egress::{Microsocks, Squid, Tinyproxy};
use crate::support::eventually;
use crate::support::larder::{Home, Larder, PROGRAM};
use crate::support::pki::Pki;
use crate::support::registry::{Front, Registry};
use crate::support::scripted::Scripted;
use crate::support::token_server::TokenServer;
use base64::Engine;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

const USER: &str = "robot";
const PASSWORD: &str = "c4nary-of-registry";
const PROXY_USER: &str = "lab";
const PROXY_PASSWORD: &str = "c4nary/of+proxy";
const SECRETS: [&str; 2] = [PASSWORD, PROXY_PASSWORD];
const PATH: &str = "/plugins/waf/1.0.0/plugin.wasm";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Plain,
    Tls,
    MutualTls,
    SkipVerify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Basic,
    Token,
    ConfigJson,
    Helper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Connect,
    ConnectAsSomebody,
    SocksAsSomebody,
    NoProxy,
}

const SPEECH: [Speech; 4] = [Speech::Plain, Speech::Tls, Speech::MutualTls, Speech::SkipVerify];
const WHO: [Who; 5] = [Who::Nobody, Who::Basic, Who::Token, Who::ConfigJson, Who::Helper];
const WAYS: [Way; 5] =
    [Way::Direct, Way::Connect, Way::ConnectAsSomebody, Way::SocksAsSomebody, Way::NoProxy];

/// Name, rule, status, code, words of the hint.
type Case = (String, Vec<String>, u16, &'static str, Vec<String>);

/// All parts, started once for all combinations.
struct Lab {
    folder: TempDir,
    pki: Pki,
    bytes: Vec<u8>,
    /// By plain, TLS, mutual TLS, and by nobody, Basic, token.
    registries: Vec<[Registry; 3]>,
    _content: Registry,
    _tokens: [TokenServer; 2],
    open: Squid,
    closed: Squid,
    socks: Microsocks,
}

impl Lab {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let content = Registry::plain();
        let bytes = module("waf", 60_000);
        content.push(&format!("{USER}/waf"), "1.0.0", &raw(&bytes));
        let pki = Pki::make(folder.path());
        let at = folder.path();
        let tokens = [
            TokenServer::start(at, None, USER, PASSWORD),
            TokenServer::start(at, Some(&pki), USER, PASSWORD),
        ];
        let registries = [Speech::Plain, Speech::Tls, Speech::MutualTls].map(|speech| {
            let tls = (speech != Speech::Plain).then_some(&pki);
            let front = Front {
                tls,
                client_ca: (speech == Speech::MutualTls).then_some(pki.ca.as_path()),
                ..Front::default()
            };
            let token = Some(&tokens[usize::from(tls.is_some())]);
            [
                content.with(at, &front),
                content.with(at, &Front { password: Some((USER, PASSWORD)), ..front }),
                content.with(at, &Front { token, ..front }),
            ]
        });
        let lab = Self {
            bytes,
            registries: registries.into(),
            _content: content,
            _tokens: tokens,
            open: Squid::open(),
            closed: Squid::with_password(PROXY_USER, PROXY_PASSWORD),
            socks: Microsocks::with_password(PROXY_USER, PROXY_PASSWORD),
            pki,
            folder,
        };
        lab.write("password", &format!("{PASSWORD}\n"));
        lab.write("proxy-password", &format!("{PROXY_PASSWORD}\n"));
        lab
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // In one step: other combinations read it at the same time.
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.persist(&path).unwrap();
        path
    }

    fn registry(&self, speech: Speech, who: Who) -> &Registry {
        let speech = match speech {
            Speech::Plain => 0,
            Speech::Tls | Speech::SkipVerify => 1,
            Speech::MutualTls => 2,
        };
        let who = match who {
            Who::Nobody => 0,
            Who::Basic | Who::ConfigJson => 1,
            Who::Token | Who::Helper => 2,
        };
        &self.registries[speech][who]
    }

    fn name(&self, speech: Speech, who: Who) -> String {
        let registry = self.registry(speech, who);
        if speech == Speech::Plain { registry.host() } else { registry.named() }
    }

    /// The rule for the registry, a line a setting.
    fn rule(&self, speech: Speech, who: Who, way: Way) -> Vec<String> {
        let name = self.name(speech, who);
        let at = |path: &Path| path.display().to_string();
        let file = |name: &str| at(&self.folder.path().join(name));
        let mut rule = Vec::new();
        match speech {
            Speech::Plain => rule.push("plain_http: true".into()),
            Speech::Tls => rule.push(format!("ca: ['{}']", at(&self.pki.ca))),
            Speech::MutualTls => {
                rule.push(format!("ca: ['{}']", at(&self.pki.ca)));
                rule.push(format!("client_certificate: '{}'", at(&self.pki.client_certificate)));
                rule.push(format!("client_key: '{}'", at(&self.pki.client_key)));
            }
            Speech::SkipVerify => rule.push("insecure_skip_verify: true".into()),
        }
        match who {
            Who::Nobody => {}
            Who::Basic | Who::Token => {
                rule.push(format!("username: {USER}"));
                rule.push(format!("password_file: '{}'", file("password")));
            }
            Who::ConfigJson => {
                let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
                let folder = format!("docker-{}", name.replace(':', "-"));
                self.write(
                    &format!("{folder}/.dockerconfigjson"),
                    &format!(r#"{{"auths":{{"{name}":{{"auth":"{auth}"}}}}}}"#),
                );
                rule.push(format!("docker_config: '{}'", file(&folder)));
            }
            Who::Helper => {
                let folder = format!("docker-{}", name.replace(':', "-"));
                self.write(
                    &format!("{folder}/config.json"),
                    &format!(r#"{{"credHelpers":{{"{name}":"lab"}}}}"#),
                );
                rule.push(format!("docker_config: '{}'", file(&folder)));
            }
        }
        let proxy = |url: String, user: bool| {
            let user = format!("username: {PROXY_USER}, password_file: '{}'", file("proxy-password"))
                .repeat(usize::from(user));
            format!("proxy: {{url: '{url}', {user}}}")
        };
        match way {
            Way::Direct => {}
            Way::Connect => rule.push(proxy(format!("http://{}", self.open.address), false)),
            Way::ConnectAsSomebody => rule.push(proxy(format!("http://{}", self.closed.address), true)),
            Way::SocksAsSomebody => rule.push(proxy(format!("socks5h://{}", self.socks.address), true)),
            Way::NoProxy => {
                rule.push("proxy: {url: 'http://127.0.0.1:1', no_proxy: [localhost, 127.0.0.0/8]}".into())
            }
        }
        rule
    }

    fn settings(&self, name: &str, rule: &[String]) -> String {
        let rule: String = rule.iter().map(|line| format!("      {line}\n")).collect();
        format!(
            "catalog:\n  builtin: false\n  template: {name}/{USER}/{{name}}:{{version}}\n  fallback: false\n\
             log: {{level: trace}}\nserver: {{drain: 0s}}\n\
             registry:\n  certs: []\n  attempts: 1\n  hosts:\n    '{name}':\n{rule}"
        )
    }

    fn start(&self, name: &str, rule: &[String]) -> Larder {
        // Longer than a shell takes on a busy machine.
        self.start_with_helpers_for("10s", name, rule)
    }

    fn start_with_helpers_for(&self, time: &str, name: &str, rule: &[String]) -> Larder {
        let path = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        let variables = [("PATH", path.as_str()), ("LARDER_REGISTRY_HELPER_TIMEOUT", time)];
        Home::new(&self.settings(name, rule)).start_with(&[], &variables)
    }

    /// A credential helper by the name `docker-credential-lab`.
    fn helper(&self, script: &str) {
        let path = self.write("bin/docker-credential-lab", &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// The token service's tokens begin like this, and are long; a folder's random name may begin so too.
fn tells_token(text: &str) -> bool {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    text.match_indices("eyJ").any(|(at, _)| text[at..].chars().take_while(|c| is_of_token(*c)).count() > 20)
}

/// What a larder has said and written.
fn says_no_secret(larder: &Larder) {
    canary::unseen(&SECRETS, "the log", larder.log_text().as_bytes());
    canary::unseen(&SECRETS, "the metrics", &crate::support::client::get(larder.admin, "/metrics").body);
    canary::unwritten(&SECRETS, &larder.home.cache());
    let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1.0.0").text();
    let metrics = crate::support::client::get(larder.admin, "/metrics").text();
    for text in [larder.log_text(), explained, metrics] {
        assert!(!tells_token(&text), "a token is told: {text}");
    }
}

#[test]
fn every_combination_of_speech_credentials_and_way_out_fetches_the_right_bytes_and_tells_no_secret() {
    let lab = Lab::open();
    lab.helper(&format!(
        "test \"$1\" = get && read -r server && echo '{{\"ServerURL\":\"'\"$server\"'\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'"
    ));
    let mut all = Vec::new();
    for speech in SPEECH {
        for who in WHO {
            all.extend(WAYS.map(|way| (speech, who, way)));
        }
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(&(speech, who, way)) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
            let name = lab.name(speech, who);
            let larder = lab.start(&name, &lab.rule(speech, who, way));
            let reply = larder.get(PATH);
            if reply.status != 200 || reply.body != lab.bytes {
                failed.lock().unwrap().push(format!("{speech:?} {who:?} {way:?}: {}", reply.text()));
            }
            canary::unseen(&SECRETS, "an answer", format!("{:?}{}", reply.headers, reply.text()).as_bytes());
            says_no_secret(&larder);
            let unverified = larder.metric(&format!("larder_tls_unverified{{registry=\"{name}\"}}"));
            assert_eq!(unverified == 1.0, speech == Speech::SkipVerify);
            let ready = crate::support::client::get(larder.admin, "/readyz").text();
            assert_eq!(ready.contains("not verified"), speech == Speech::SkipVerify, "{ready}");
            let warned = larder.log_text().contains("are not verified");
            assert_eq!(warned, speech == Speech::SkipVerify);
            // What the proxies saw, and what they did not: with TLS they are told a name and a port.
            let port = lab.registry(speech, who).address.port();
            let seen = |log: &dyn Fn() -> String| {
                eventually(&format!("{speech:?} {who:?} {way:?} in the proxy's log"), || {
                    log().contains(&format!(":{port}")).then_some(())
                });
            };
            match way {
                Way::Connect => seen(&|| lab.open.log()),
                Way::ConnectAsSomebody => seen(&|| lab.closed.log()),
                Way::SocksAsSomebody => seen(&|| lab.socks.log()),
                Way::Direct | Way::NoProxy => {}
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), all.len(), failed.join("\n"));
}

#[test]
fn each_way_fails_with_a_code_and_a_hint_that_names_its_setting() {
    let lab = Lab::open();
    let other = tempfile::tempdir().unwrap();
    let foreign = Pki::make(other.path());
    lab.write("wrong", "wr0ng-c4nary\n");
    let file = |name: &str| lab.folder.path().join(name).display().to_string();
    let without = |rule: Vec<String>, key: &str| -> Vec<String> {
        rule.into_iter().filter(|line| !line.starts_with(key)).collect()
    };
    let with = |mut rule: Vec<String>, line: String| {
        rule.push(line);
        rule
    };
    let changed = |rule: Vec<String>, from: &str, to: &str| -> Vec<String> {
        rule.into_iter().map(|line| line.replace(from, to)).collect()
    };
    let refusing = Squid::refusing();
    let hanging_up = Scripted::start();
    hanging_up.down();
    let tiny = Tinyproxy::with_password(PROXY_USER, "c4nary-of-tinyproxy");
    let (plain, tls, mutual) = (Speech::Plain, Speech::Tls, Speech::MutualTls);
    let rule = |speech, who, way| lab.rule(speech, who, way);
    let wrong = file("wrong");
    lab.helper("echo credentials not found in native keychain; exit 1");
    let key = |speech, who| format!("registry.hosts.{}", lab.name(speech, who));
    let by_address = format!("127.0.0.1:{}", lab.registry(tls, Who::Nobody).address.port());
    let cases: Vec<Case> = vec![
        (
            lab.name(tls, Who::Nobody),
            vec!["origin: true".into()],
            502,
            "tls_unknown_ca",
            vec!["CN=larder test CA".into(), "--ca".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            vec![format!("ca: ['{}']", foreign.ca.display()), "system_ca: false".into()],
            502,
            "tls_unknown_ca",
            vec![format!("{}.ca", key(tls, Who::Nobody))],
        ),
        (
            by_address,
            vec![format!("ca: ['{}']", lab.pki.ca.display())],
            502,
            "tls_name",
            vec!["localhost".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            vec!["plain_http: true".into()],
            502,
            "upstream",
            vec!["speaks TLS".into()],
        ),
        (
            lab.name(plain, Who::Nobody),
            vec!["origin: true".into()],
            502,
            "tls_plain_http",
            vec!["--plain-http".into()],
        ),
        (
            lab.name(mutual, Who::Nobody),
            without(rule(mutual, Who::Nobody, Way::Direct), "client_"),
            502,
            "tls_client_certificate",
            vec!["client_certificate".into()],
        ),
        (
            lab.name(mutual, Who::Nobody),
            changed(
                rule(mutual, Who::Nobody, Way::Direct),
                &lab.folder.path().join("client").display().to_string(),
                &other.path().join("client").display().to_string(),
            ),
            502,
            "tls_client_certificate",
            vec!["refuses the client certificate".into()],
        ),
        (
            lab.name(plain, Who::Basic),
            rule(plain, Who::Nobody, Way::Direct),
            403,
            "denied",
            vec![format!("{}.username", key(plain, Who::Basic))],
        ),
        (
            lab.name(plain, Who::Basic),
            changed(rule(plain, Who::Basic, Way::Direct), &file("password"), &wrong),
            403,
            "denied",
            vec![format!("{}.password_file", key(plain, Who::Basic))],
        ),
        (
            lab.name(tls, Who::Token),
            rule(tls, Who::Nobody, Way::Direct),
            403,
            "denied",
            vec![format!("{}.username", key(tls, Who::Token))],
        ),
        (
            lab.name(tls, Who::Token),
            changed(rule(tls, Who::Token, Way::Direct), &file("password"), &wrong),
            403,
            "denied",
            vec![format!("{}.password_file", key(tls, Who::Token))],
        ),
        (
            lab.name(plain, Who::Helper),
            rule(plain, Who::Helper, Way::Direct),
            403,
            "denied",
            vec!["docker_config".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            with(rule(tls, Who::Nobody, Way::Direct), "proxy: {url: 'http://127.0.0.1:1'}".into()),
            502,
            "proxy_connect",
            vec!["http://127.0.0.1:1".into(), format!("{}.proxy.url", key(tls, Who::Nobody))],
        ),
        (
            lab.name(tls, Who::Nobody),
            with(
                rule(tls, Who::Nobody, Way::Direct),
                format!("proxy: {{url: 'http://{}'}}", lab.closed.address),
            ),
            502,
            "proxy_auth",
            vec![format!("{}.proxy.username", key(tls, Who::Nobody))],
        ),
        (
            lab.name(plain, Who::Nobody),
            with(
                rule(plain, Who::Nobody, Way::Direct),
                format!("proxy: {{url: 'http://{}'}}", lab.closed.address),
            ),
            502,
            "proxy_auth",
            vec![format!("{}.proxy.username", key(plain, Who::Nobody))],
        ),
        (
            lab.name(tls, Who::Nobody),
            changed(rule(tls, Who::Nobody, Way::ConnectAsSomebody), &file("proxy-password"), &wrong),
            502,
            "proxy_auth",
            vec!["refuses the user name".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            changed(
                changed(rule(tls, Who::Nobody, Way::ConnectAsSomebody), &file("proxy-password"), &wrong),
                &lab.closed.address.to_string(),
                &tiny.address.to_string(),
            ),
            502,
            "proxy_refused",
            vec!["user name".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            with(
                rule(tls, Who::Nobody, Way::Direct),
                format!("proxy: {{url: 'http://{}'}}", refusing.address),
            ),
            502,
            "proxy_refused",
            vec!["refuses to connect".into(), "no_proxy".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            with(
                rule(tls, Who::Nobody, Way::Direct),
                format!("proxy: {{url: 'http://{}'}}", hanging_up.host()),
            ),
            502,
            "proxy_closed",
            vec!["is it an HTTP proxy".into()],
        ),
        (
            lab.name(tls, Who::Nobody),
            changed(rule(tls, Who::Nobody, Way::SocksAsSomebody), &file("proxy-password"), &wrong),
            502,
            "proxy_auth",
            vec!["refuses the user name".into()],
        ),
    ];
    for (name, rule, status, code, words) in cases {
        let larder = lab.start(&name, &rule);
        let reply = larder.get(PATH);
        assert_eq!(reply.status, status, "{name} {rule:?}: {}", reply.text());
        let problem = reply.json();
        assert_eq!(problem["code"], code, "{name} {rule:?}: {}", reply.text());
        let hint = problem["hint"].as_str().unwrap_or_default();
        for word in &words {
            assert!(hint.contains(word.as_str()), "{name} {rule:?}: '{word}' in {hint}");
        }
        eventually("a line in the log", || {
            let told = |line: &serde_json::Value| {
                (line["code"] == code && line["hint"] == hint) || line["result"] == code
            };
            larder.log().iter().any(told).then_some(())
        });
        let fills = format!("larder_fills_total{{registry=\"{name}\",result=\"{code}\"}}");
        assert_eq!(larder.metric(&fills), 1.0, "{fills}");
        canary::unseen(&["wr0ng-c4nary"], "the log", larder.log_text().as_bytes());
        says_no_secret(&larder);
        // The same road, walked aloud, ends in the same place.
        let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1.0.0").text();
        assert!(explained.contains(&format!("\n{code}: ")), "{name} {rule:?}: {explained}");
        assert!(words.iter().all(|word| explained.contains(word.as_str())), "{words:?}\n{explained}");
        canary::unseen(&SECRETS, "an explanation", explained.as_bytes());
    }
}

#[test]
fn a_credential_helper_that_is_missing_fails_or_hangs_is_told_and_stays_within_its_time() {
    let lab = Lab::open();
    let name = lab.name(Speech::Plain, Who::Helper);
    let rule = lab.rule(Speech::Plain, Who::Helper, Way::Direct);
    for (script, time, words) in [
        (None, "10s", "docker-credential-lab get cannot be run"),
        (Some(format!("echo {PASSWORD}; exit 3")), "10s", "ended with exit status: 3"),
        (Some("exec tail -f /dev/null".into()), "1s", "did not answer within 1s"),
        (Some(format!("echo {PASSWORD}")), "10s", "answered no JSON"),
    ] {
        if let Some(script) = &script {
            lab.helper(script);
        }
        let larder = lab.start_with_helpers_for(time, &name, &rule);
        let reply = larder.get(PATH);
        // That we could not say who we are is no word of the registry on what it has.
        assert_eq!(
            (reply.status, reply.json()["code"].clone()),
            (502, "credentials".into()),
            "{}",
            reply.text()
        );
        assert!(reply.json()["hint"].as_str().unwrap().contains(words), "{words}: {}", reply.text());
        canary::unseen(&SECRETS, "an answer", reply.text().as_bytes());
        says_no_secret(&larder);
    }
}

#[test]
fn explain_walks_the_road_aloud_and_names_rule_proxy_certificate_login_and_layer() {
    let lab = Lab::open();
    let name = lab.name(Speech::Tls, Who::Token);
    let rule = lab.rule(Speech::Tls, Who::Token, Way::ConnectAsSomebody);
    let settings = lab.folder.path().join("larder.yaml");
    std::fs::write(&settings, lab.settings(&name, &rule)).unwrap();
    let explain = |more: &[&str]| {
        let mut command = std::process::Command::new(PROGRAM);
        command.args(["explain", "--config"]).arg(&settings).args(["waf", "1.0.0"]).args(more);
        let output = command.env("HOME", lab.folder.path()).output().unwrap();
        canary::unseen(&SECRETS, "an explanation", &output.stdout);
        canary::unseen(&SECRETS, "an explanation", &output.stderr);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = explain(&[]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        &format!("candidate  {name}/{USER}/waf:1.0.0 (exact match)"),
        &format!("registry.hosts.{name} ({}:", settings.display()),
        &format!("through http://{} (registry.hosts.{name}.proxy.url)", lab.closed.address),
        "CN=larder test server issued by CN=larder test CA",
        &format!("accepted by {}", lab.pki.ca.display()),
        &format!("user {USER} and a password, from registry.hosts.{name}.password_file"),
        &format!("scope repository:{USER}/waf:pull"),
        "401",
        "HTTP/2.0",
        "typed as a module",
        "ok: 60000 bytes, sha256 ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!tells_token(&text), "a token is told:\n{text}");
    let (_, json) = explain(&["--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["result"]["code"], "ok");
    for about in [
        "plan",
        "candidate",
        "registry",
        "endpoint",
        "proxy",
        "tls",
        "request",
        "auth",
        "manifest",
        "layer",
        "module",
    ] {
        assert!(
            json["steps"].as_array().unwrap().iter().any(|step| step["step"] == about),
            "{about} in {json}"
        );
    }
    // Nothing is kept, and what a running larder holds is told.
    let larder = lab.start(&name, &rule);
    let asked = |path: &str| crate::support::client::get(larder.admin, path);
    assert!(!asked("/explain?name=waf&version=1.0.0").text().contains(" is held: "));
    assert!(crate::support::heart::files(&larder.home.cache().join("v1/modules")).is_empty());
    assert_eq!(larder.get(PATH).status, 200);
    assert!(asked("/explain?name=waf&version=1.0.0").text().contains(" is held: "));
    assert_eq!(asked("/explain").status, 400);
    assert_eq!(asked("/explain?name=../x").status, 400);
}
