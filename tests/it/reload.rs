//! New certificates, passwords and settings while larder serves: used within seconds, without a lost request, and not
//! used at all when they are broken.

use crate::support::artifact::{module, raw};
use crate::support::client::get;
use crate::support::eventually;
use crate::support::larder::{Home, Larder};
use crate::support::mounted::Mounted;
use crate::support::pki::Pki;
use crate::support::registry::{Front, Registry};
use crate::support::reloaded::Reloaded;
use crate::support::scripted::{Ask, Scripted};
use base64::Engine;
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

pub fn reloads(larder: &Larder, result: &str) -> f64 {
    larder.metric(&format!("larder_reloads_total{{result=\"{result}\"}}"))
}

/// Asks for something new again and again, from some clients at once, while `work` is done; all must be answered.
fn under_load(larder: &Larder, plugins: usize, work: impl FnOnce()) -> usize {
    let (stop, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    // Ever new versions, each asked of the registry before the one of the catalog stands in for it.
                    let reply = larder.get(&format!("/plugins/p{}/v{n}/plugin.wasm", n % plugins));
                    assert!(reply.status == 200, "request {n}: {}\n{}", reply.text(), larder.log_text());
                }
            });
        }
        work();
        stop.store(true, Ordering::SeqCst);
    });
    next.into_inner()
}

#[test]
fn turning_the_secrets_of_a_registry_under_load_loses_no_request_and_takes_effect_within_ten_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    for n in 0..4 {
        let artifact = raw(&module(&n.to_string(), 20_000));
        content.push(&format!("plugins/p{n}"), "latest", &artifact);
    }
    let catalog = folder.path().join("p.properties");
    let lines: String = (0..4).map(|n| format!("p{n}=r.example/plugins/p{n}:latest\n")).collect();
    std::fs::write(&catalog, lines).unwrap();
    let generations: Vec<_> = [("one", "first-s3cret"), ("two", "second-s3cret")]
        .into_iter()
        .map(|(name, password)| {
            let at = folder.path().join(name);
            std::fs::create_dir_all(&at).unwrap();
            let pki = Pki::make(&at);
            let front = Front {
                tls: Some(&pki),
                client_ca: Some(&pki.ca),
                password: Some(("robot", password)),
                ..Front::default()
            };
            let registry = content.with(&at, &front);
            (pki, password, registry)
        })
        .collect();
    for how in ["password_file", "docker_config"] {
        let files = |which: usize| {
            let (pki, password, _) = &generations[which];
            let auth = base64::engine::general_purpose::STANDARD.encode(format!("robot:{password}"));
            let auths: Vec<_> = generations
                .iter()
                .map(|(_, _, r)| format!("\"{}\":{{\"auth\":\"{auth}\"}}", r.named()))
                .collect();
            let read = |path: &Path| std::fs::read(path).unwrap();
            vec![
                ("ca.pem", read(&pki.ca)),
                ("client.pem", read(&pki.client_certificate)),
                ("client.key", read(&pki.client_key)),
                ("password", password.as_bytes().to_vec()),
                (".dockerconfigjson", format!("{{\"auths\":{{{}}}}}", auths.join(",")).into_bytes()),
            ]
        };
        let mounted = Mounted::new(&folder.path().join(how), &files(0));
        let who = match how {
            "password_file" => format!("username: robot, password_file: '{}'", mounted.path("password")),
            _ => format!("docker_config: '{}'", mounted.folder.display()),
        };
        let rule = format!(
            "{{ca: ['{}'], system_ca: false, client_certificate: '{}', client_key: '{}', {who}}}",
            mounted.path("ca.pem"),
            mounted.path("client.pem"),
            mounted.path("client.key"),
        );
        let [one, two] = &generations[..] else { unreachable!() };
        // Each of the two takes the secrets of its own generation alone: whichever larder has, one of them answers.
        let larder = Home::new(&format!(
            "catalog:\n  builtin: false\n  template: null\n  files: ['{catalog}']\nserver: {{drain: 0s}}\n\
             registry:\n  certs: []\n  hosts:\n    r.example:\n      origin: false\n      mirrors: [{{url: 'https://{one}'}}, {{url: 'https://{two}'}}]\n    '{one}': {rule}\n    '{two}': {rule}\n",
            catalog = catalog.display(),
            one = one.2.named(),
            two = two.2.named(),
        ));
        let larder = larder.start();
        let asked = |which: usize| generations[which].2.count(&["GET", "/manifests/v", " 404 "]);
        let sent = under_load(&larder, 4, || {
            for (turn, which) in [1, 0, 1, 0].into_iter().enumerate() {
                let before = asked(which);
                mounted.turn(&format!("..turn{turn}"), &files(which));
                let begun = Instant::now();
                eventually("the new secrets in use", || (asked(which) > before).then_some(()));
                assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
            }
        });
        assert!(sent > 20, "{sent} requests");
        // Counted behind everything that is turned: the new secrets are in use a moment before.
        eventually("four reloads counted", || (reloads(&larder, "ok") >= 4.0).then_some(()));
        assert_eq!(reloads(&larder, "error"), 0.0);
    }
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    for n in 0..9 {
        content.push(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 9000)));
    }
    let pki = Pki::make(folder.path());
    let registry = content.with_tls(folder.path(), &pki);
    let good = std::fs::read(&pki.ca).unwrap();
    let mounted = Mounted::new(&folder.path().join("mounted"), &[("ca.pem", good.clone())]);
    let name = registry.named();
    let text = |more: &str| {
        format!(
            "catalog: {{builtin: false, template: '{name}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
             registry: {{certs: [], attempts: 1, ca: ['{}']{more}}}\n",
            mounted.path("ca.pem")
        )
    };
    let larder = Home::new(&text("")).start();
    let mut plugins = 0..9;
    let mut served = || {
        let n = plugins.next().unwrap();
        let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
        assert_eq!(reply.status, 200, "{}", reply.text());
    };
    served();
    for (n, broken) in [&b""[..], b"no PEM", &good[..good.len() / 2]].into_iter().enumerate() {
        mounted.turn(&format!("..broken{n}"), &[("ca.pem", broken.to_vec())]);
        eventually("the fault in the metrics", || {
            (reloads(&larder, "error") == n as f64 + 1.0).then_some(())
        });
        served();
    }
    let message = |line: &serde_json::Value, begins: &str| {
        line["message"].as_str().is_some_and(|message| message.starts_with(begins))
    };
    let told = larder.line("the fault", |line| message(line, "settings_refused"));
    assert!(told["error"].as_str().unwrap().contains("ca.pem"), "{told}");
    mounted.turn("..mended", &[("ca.pem", good)]);
    eventually("the mended file in use", || (reloads(&larder, "ok") == 1.0).then_some(()));
    served();
    // The settings themselves: a fault is told with its line, another part needs a restart and says so.
    let file = larder.home.path().join("larder.yaml");
    std::fs::write(&file, text(", idle_timeout: soon")).unwrap();
    eventually("the fault in the metrics", || (reloads(&larder, "error") == 4.0).then_some(()));
    larder.line("the fault's place", |line| line.to_string().contains("larder.yaml:3:"));
    served();
    std::fs::write(&file, text(", idle_timeout: 7s") + "fill: {hold: 5s}\n").unwrap();
    eventually("the new settings in use", || (reloads(&larder, "ok") == 2.0).then_some(()));
    larder.line("what changed", |line| {
        message(line, "settings_reloaded") && line["changed"] == "fill.hold, registry.idle_timeout"
    });
    larder.signal("HUP");
    eventually("SIGHUP", || (reloads(&larder, "ok") == 3.0).then_some(()));
    served();
}

#[test]
fn a_file_that_comes_after_the_settings_that_name_it_is_used_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    let bytes = module("waf", 9000);
    content.push("plugins/waf", "1", &raw(&bytes));
    let pki = Pki::make(folder.path());
    let registry = content.with_tls(folder.path(), &pki);
    let name = registry.named();
    let later = folder.path().join("later.pem");
    let text = |ca: &str| {
        format!(
            "catalog: {{builtin: false, template: '{name}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
             registry: {{certs: ['{}'], attempts: 1, ca: [{ca}]}}\n",
            folder.path().join("certs.d").display()
        )
    };
    let larder = Home::new(&text("")).start();
    assert_eq!(larder.get("/plugins/waf/1/plugin.wasm").status, 502);
    std::fs::write(larder.home.path().join("larder.yaml"), text(&format!("'{}'", later.display()))).unwrap();
    eventually("the fault in the metrics", || (reloads(&larder, "error") == 1.0).then_some(()));
    std::fs::copy(&pki.ca, &later).unwrap();
    eventually("the plugin", || (larder.get("/plugins/waf/1/plugin.wasm").body == bytes).then_some(()));
    // What a hosts.toml names elsewhere is looked at too.
    let own = folder.path().join("certs.d").join(&name);
    std::fs::create_dir_all(&own).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let ca = elsewhere.path().join("ca.pem");
    std::fs::copy(&pki.ca, &ca).unwrap();
    std::fs::write(own.join("hosts.toml"), format!("ca = '{}'\n", ca.display())).unwrap();
    eventually("the folder in use", || (reloads(&larder, "ok") == 2.0).then_some(()));
    std::fs::write(&ca, "no PEM").unwrap();
    eventually("the fault in the metrics", || (reloads(&larder, "error") >= 2.0).then_some(()));
}

#[test]
fn what_was_refused_is_asked_again_as_soon_as_the_credentials_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    let bytes = module("waf", 9000);
    content.push("plugins/waf", "1", &raw(&bytes));
    let registry = content.with_password(folder.path(), "robot", "right-s3cret");
    let file = folder.path().join("password");
    std::fs::write(&file, "wrong-s3cret").unwrap();
    let name = registry.host();
    let larder = Home::new(&format!(
        "catalog: {{builtin: false, template: '{name}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\nlifetimes: {{absent: 1h}}\n\
         registry: {{certs: [], hosts: {{'{name}': {{plain_http: true, username: robot, password_file: '{}'}}}}}}\n",
        file.display()
    ))
    .start();
    assert_eq!(larder.get("/plugins/waf/1/plugin.wasm").status, 403);
    std::fs::write(&file, "right-s3cret").unwrap();
    eventually("the plugin", || (larder.get("/plugins/waf/1/plugin.wasm").body == bytes).then_some(()));
}

#[test]
fn an_absence_that_was_written_down_is_doubted_when_the_settings_change() {
    let folder = tempfile::tempdir().unwrap();
    let content = Registry::plain();
    let (right, stand_in) = (module("right", 9000), module("stand-in", 9000));
    content.push("plugins/waf", "1", &raw(&right));
    let open = Scripted::start();
    open.put("plugins/waf", "0", &raw(&stand_in));
    let registry = content.with_password(folder.path(), "robot", "right-s3cret");
    let (file, lines) = (folder.path().join("password"), folder.path().join("p.properties"));
    std::fs::write(&file, "wrong-s3cret").unwrap();
    std::fs::write(&lines, format!("waf={}/plugins/waf:0\n", open.host())).unwrap();
    let larder = Home::new(&format!(
        "catalog: {{builtin: false, template: null, files: ['{}'], plugins: {{waf: {{repositories: ['{private}/plugins/waf']}}}}}}\n\
         server: {{drain: 0s}}\nlifetimes: {{absent: 1h, tag: 1h}}\n\
         registry: {{certs: [], plain_http: ['{}'], hosts: {{'{private}': {{plain_http: true, username: robot, password_file: '{}'}}}}}}\n",
        lines.display(),
        open.host(),
        file.display(),
        private = registry.host(),
    ))
    .start();
    let path = "/plugins/waf/1/plugin.wasm";
    assert_eq!(larder.get(path).body, stand_in, "refused, so the version of the catalog stands in");
    std::fs::write(&file, "right-s3cret").unwrap();
    eventually("the plugin itself", || (larder.get(path).body == right).then_some(()));
}

#[test]
fn a_new_mirror_and_a_new_rule_are_used_without_a_restart_and_transfers_under_way_end_with_the_old() {
    let (old, new) = (Scripted::start(), Scripted::start());
    let (slow, fresh) = (module("slow", 200_000), module("fresh", 9000));
    old.put("plugins/slow", "1", &raw(&slow));
    new.put("plugins/fresh", "1", &raw(&fresh));
    let text = |mirror: &Scripted| {
        format!(
            "catalog: {{builtin: false, template: 'r.example/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
             registry: {{certs: [], hosts: {{r.example: {{origin: false, mirrors: [{{url: 'http://{}'}}]}}}}}}\n",
            mirror.host()
        )
    };
    old.close_gate();
    let larder = Home::new(&text(&old)).start();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| larder.get("/plugins/slow/1/plugin.wasm"));
        eventually("the layer being asked for", || (old.count(|ask| ask.is_blob()) > 0).then_some(()));
        std::fs::write(larder.home.path().join("larder.yaml"), text(&new)).unwrap();
        eventually("the new mirror", || {
            (larder.get("/plugins/fresh/1/plugin.wasm").body == fresh).then_some(())
        });
        old.open_gate();
        assert_eq!(waiting.join().unwrap().body, slow);
    });
}

#[test]
fn a_fetch_that_new_settings_overtake_is_done_once_more_and_what_fails_by_old_ones_is_not_remembered() {
    // Whoever asks waits for settings that are changed twice.
    let mut running = Reloaded::with(&[("limits.module", json!("4KiB")), ("fill.hold", json!("60s"))]);
    for name in ["waf", "pay"] {
        running.registry.put(&format!("plugins/{name}"), "1.0.0", &raw(&module(name, 20_000)));
    }
    let (turns, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    running.registry.script(move |ask, truth| {
        if ask.is_manifest() {
            let _ = gate.lock().unwrap().recv();
        }
        truth
    });
    let asked = |running: &Reloaded, times| {
        eventually("the manifest asked for", || {
            (running.registry.count(Ask::is_manifest) == times).then_some(())
        })
    };
    let data = running.larder.data;
    let asking =
        |name| std::thread::spawn(move || get(data, &format!("/plugins/{name}/1.0.0/plugin.wasm")).status);
    let waf = asking("waf");
    asked(&running, 1);
    running.change(&[("limits.module", json!("1MiB"))]);
    turns.send(()).unwrap();
    turns.send(()).unwrap();
    assert_eq!(waf.join().unwrap(), 200, "{}", running.larder.log_text());
    running.change(&[("limits.module", json!("4KiB"))]);
    let pay = asking("pay");
    asked(&running, 3);
    running.change(&[("limits.module", json!("5KiB"))]);
    turns.send(()).unwrap();
    asked(&running, 4);
    running.change(&[("limits.module", json!("1MiB"))]);
    drop(turns);
    assert_ne!(pay.join().unwrap(), 200, "no fetch is done a third time");
    assert_eq!(running.status("pay", "1.0.0"), 200, "{}", running.larder.log_text());
}
