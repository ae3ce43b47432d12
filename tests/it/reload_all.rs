//! New settings as a whole: under load, together with what they name, broken, half-written, asked for again and again,
//! and those that wait for the next start.

use crate::reload::reloads;
use crate::support::artifact::{module, raw};
use crate::support::eventually;
use crate::support::larder::{Home, program};
use crate::support::mounted::Mounted;
use crate::support::reloaded::Reloaded;
use crate::support::scripted::Scripted;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn fifty_changes_under_load_lose_no_request_and_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, local) = (folder.path().join("p.properties"), folder.path().join("local"));
    std::fs::write(&lines, "").unwrap();
    let bytes: Vec<_> = (0..4).map(|n| module(&n.to_string(), 40_000)).collect();
    let mut running = Reloaded::with(&[
        ("catalog.files", json!([lines])),
        ("limits.module", json!("1MiB")),
        ("server.connections_per_address", json!(1000)),
    ]);
    let host = running.registry.host();
    for (n, bytes) in bytes.iter().enumerate() {
        running.registry.put(&format!("plugins/p{n}"), "1", &raw(bytes));
    }
    // The same as the registry's: whichever answers, it is right.
    let at = local.join("p0/1/plugin.wasm");
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(&at, &bytes[0]).unwrap();
    let (data, stop, sent) = (running.larder.data, AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for client in 0..2 {
            let (bytes, stop, sent) = (&bytes, &stop, &sent);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let n = (sent.fetch_add(1, Ordering::SeqCst) + client) % bytes.len();
                    let reply = crate::support::client::get(data, &format!("/plugins/p{n}/1/plugin.wasm"));
                    assert!(reply.status == 200 && reply.body == bytes[n], "p{n}: {}", reply.status);
                    // On two cores that others share, as many as leave the reload its turn.
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        // Told even when a client fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let _stop = Stop(&stop);
        for turn in 0..50 {
            let odd = turn % 2 == 1;
            let pick = |one: &str, other: &str| json!(if odd { one } else { other });
            // Each by another line, which leads to the same bytes.
            std::fs::write(&lines, format!("p{}={host}/plugins/p{}:1\n", turn % 4, turn % 4)).unwrap();
            running.change(&[
                ("overlay.dirs", if turn % 3 == 0 { json!([local]) } else { json!([]) }),
                ("lifetimes.tag", pick("1ms", "1h")),
                ("cache.memory", pick("0B", "64MiB")),
                ("cache.disk", pick("1GiB", "1MiB")),
                ("fill.at_once", json!(turn % 5 + 1)),
                ("fill.memory", pick("8MiB", "64MiB")),
                ("server.connections", json!(1000 + turn)),
                ("server.send_memory", pick("1MiB", "16MiB")),
                ("server.idle_timeout", pick("1s", "60s")),
                ("registry.idle_timeout", pick("5s", "10s")),
            ]);
        }
    });
    assert!(sent.into_inner() > 100);
    // The files were looked at meanwhile, and may have been read once more than was asked.
    assert!(reloads(&running.larder, "ok") >= 50.0);
    assert_eq!(reloads(&running.larder, "error"), 0.0);
}

#[test]
fn a_map_of_settings_and_catalog_is_turned_as_one() {
    let home = Home::new("");
    let registry = Scripted::start();
    let host = registry.host();
    for name in ["first", "second"] {
        registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, 9000)));
    }
    let mount = home.path().to_owned();
    let files = |name: &str, tag: &str| {
        let settings = format!(
            "catalog: {{builtin: false, template: null, files: ['{}']}}\noverlay: {{dirs: []}}\nserver: {{drain: 0s}}\n\
             lifetimes: {{tag: {tag}}}\nregistry: {{certs: [], plain_http: ['{host}']}}\n",
            mount.join("p.properties").display()
        );
        let lines = format!("{name}={host}/plugins/{name}:1\n");
        vec![("larder.yaml", settings.into_bytes()), ("p.properties", lines.into_bytes())]
    };
    let mounted = Mounted::new(&mount, &files("first", "1h"));
    // Through the link, what is there already.
    let settings = String::from_utf8(files("first", "1h").remove(0).1).unwrap();
    let larder = home.saying(&settings).start();
    let status = |name: &str| larder.get(&format!("/plugins/{name}/1/plugin.wasm")).status;
    assert_eq!((status("first"), status("second")), (200, 404));
    mounted.turn("..second", &files("second", "2h"));
    eventually("the second map", || (status("second") == 200).then_some(()));
    assert_eq!(status("first"), 404);
    assert_eq!((reloads(&larder, "ok"), reloads(&larder, "error")), (1.0, 0.0), "both at once");
    let told = larder.line("what changed", |line| line["message"] == "settings_reloaded");
    assert_eq!(told["changed"], format!("lifetimes.tag, {}", mounted.path("p.properties")));
    assert_eq!(told["by"], "files");
}

/// What `larder check` says of a file.
fn checked(settings: &Path) -> (bool, String) {
    let checked = program().arg("--config").arg(settings).arg("check").output().unwrap();
    (checked.status.success(), String::from_utf8_lossy(&checked.stderr).into_owned())
}

#[test]
fn whatever_is_broken_leaves_everything_as_it_was_and_is_told_with_its_place_as_check_does() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("p.properties");
    std::fs::write(&lines, "").unwrap();
    let mut running = Reloaded::with(&[("catalog.files", json!([lines]))]);
    let host = running.registry.host();
    running.registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    let good = running.written(&[("lifetimes.tag", json!("7m"))]);
    let file = running.file();
    let shown = file.display().to_string();
    let lines_of = |text: &str| lines_with(&lines, text);
    let mut errors = 0.0;
    for (settings, catalog, places) in [
        // Settings that are no YAML, of an unknown key, of a wrong type, that make no sense together.
        (good.replace("{\n", "{\n\t\0"), "", vec![format!("{shown}:")]),
        (
            good.replace("\"lifetimes\"", "\"lifetime\""),
            "",
            vec![format!("{shown}:9:3: unknown key 'lifetime'")],
        ),
        (good.replace("7m", "soon"), "", vec![format!("{shown}:10:5: lifetimes.tag: ")]),
        (
            good.replace("7m", "7m\", \"absent\": \"never"),
            "",
            vec![format!("{shown}:10:18: lifetimes.absent: ")],
        ),
        // What the settings name: every fault at once.
        (
            good.clone(),
            "waf\nbad name=x\n",
            vec![format!("{}:1", lines.display()), format!("{}:2", lines.display())],
        ),
        (
            good.replace("\"certs\": []", "\"certs\": [], \"ca\": [\"/nonexistent/ca.pem\"]")
                .replace("7m", "8m"),
            "waf\n",
            vec!["/nonexistent/ca.pem".into(), format!("{}:1", lines.display())],
        ),
        (good.replace("p.properties", "gone.properties"), "", vec!["gone.properties".into()]),
        (
            good.replace("\"lifetimes\"", "\"routes\": {\"patterns\": [\"no\"]}, \"lifetimes\""),
            "",
            vec!["routes.patterns".into()],
        ),
    ] {
        std::fs::write(&file, &settings).unwrap();
        lines_of(catalog);
        let told = running.reload();
        let error = told["error"].as_str().unwrap_or_else(|| panic!("{told}\n{settings}")).to_owned();
        let (is_good, check) = checked(&file);
        assert!(!is_good, "check would start with {settings}");
        for place in places {
            assert!(error.contains(&place), "{place}: {error}\n{settings}");
            assert!(check.contains(&place), "{place}: {check}");
        }
        errors += 1.0;
        assert_eq!((reloads(&running.larder, "ok"), reloads(&running.larder, "error")), (0.0, errors));
        // The names of before are in use.
        assert_eq!(running.status("waf", "1"), 200);
        assert_eq!(
            running.larder.metric("larder_settings_loaded_timestamp_seconds") as u64 / 1_000_000_000,
            1
        );
    }
    std::fs::write(&file, &good).unwrap();
    lines_of(&format!("waf={host}/plugins/waf:1\n"));
    assert!(checked(&file).0);
    let told = running.reload();
    assert_eq!(told["changed"], format!("lifetimes.tag, {}", lines.display()));
}

fn lines_with(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

#[test]
fn half_written_files_are_not_used_and_the_rest_of_them_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("p.properties");
    std::fs::write(&lines, "").unwrap();
    let mut running = Reloaded::with(&[("catalog.files", json!([lines])), ("catalog.template", Value::Null)]);
    let host = running.registry.host();
    for name in ["one", "two"] {
        running.registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, 9000)));
    }
    let whole = format!("one={host}/plugins/one:1\ntwo={host}/plugins/two:1\n");
    std::fs::write(&lines, &whole).unwrap();
    eventually("the catalog", || (running.status("two", "1") == 200).then_some(()));
    let settings = running.written(&[("lifetimes.tag", json!("7m"))]);
    let file = running.file();
    for (path, whole) in [(&lines, format!("# new\n{whole}")), (&file, settings)] {
        let before = (reloads(&running.larder, "ok"), reloads(&running.larder, "error"));
        let half = whole.rfind('/').unwrap_or(whole.len() / 2).min(whole.len() - 20);
        std::fs::write(path, &whole[..half]).unwrap();
        // It looks finished when nobody writes for a while, and then it is told and not used.
        eventually("the half refused", || (reloads(&running.larder, "error") > before.1).then_some(()));
        assert_eq!((running.status("one", "1"), running.status("two", "1")), (200, 200));
        std::fs::write(path, &whole).unwrap();
        eventually("the whole in use", || (reloads(&running.larder, "ok") > before.0).then_some(()));
        assert_eq!((running.status("one", "1"), running.status("two", "1")), (200, 200));
    }
}

#[test]
fn what_waits_for_the_next_start_is_named_again_and_again_and_all_else_is_used() {
    let mut running = Reloaded::with(&[]);
    running.registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    let waiting = "cache.dir, server.send_buffer, server.threads, traces.endpoint, warm_up.plugins";
    let told = running.change(&[
        ("cache.dir", json!("/nonexistent/elsewhere")),
        ("server.threads", json!(3)),
        ("server.send_buffer", json!("1MiB")),
        ("traces.endpoint", json!("http://127.0.0.1:1")),
        ("warm_up.plugins", json!(["all"])),
        ("catalog.template", Value::Null),
    ]);
    // That of the flag wins over the file's, which changes nothing.
    let waiting = waiting.replace("cache.dir, ", "");
    assert_eq!(told["needs_restart"], waiting);
    assert_eq!(told["level"], "WARN");
    assert_eq!(told["changed"], format!("catalog.template, {waiting}"));
    assert_eq!(running.status("waf", "1"), 404, "the rest is in use");
    let template = format!("{}/plugins/{{name}}:{{version}}", running.registry.host());
    let told = running.change(&[("catalog.template", json!(template))]);
    assert_eq!((&told["changed"], &told["needs_restart"]), (&json!("catalog.template"), &json!(waiting)));
    assert_eq!(running.status("waf", "1"), 200);
    let told = running.change(&[
        ("server.threads", json!(0)),
        ("traces.endpoint", Value::Null),
        ("warm_up.plugins", json!([])),
        ("server.send_buffer", json!("256KiB")),
    ]);
    assert_eq!(told["needs_restart"], Value::Null, "as at the start");
}

#[test]
fn signals_while_settings_are_read_are_heeded_and_lose_nothing() {
    let mut running = Reloaded::with(&[]);
    running.registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    std::fs::write(running.file(), running.written(&[("fill.hold", json!("3s"))])).unwrap();
    for _ in 0..30 {
        running.larder.signal("HUP");
        assert_eq!(running.status("waf", "1"), 200);
    }
    // What came while one was read is one more.
    let told = running.change(&[("fill.hold", json!("4s"))]);
    assert!(told["changed"] == "fill.hold" || told["changed"] == "", "{told}");
    let done = reloads(&running.larder, "ok");
    assert!((2.0..=31.0).contains(&done), "{done}");
    assert_eq!(reloads(&running.larder, "error"), 0.0);
}

#[test]
fn a_hangup_as_soon_as_it_listens_ends_nothing() {
    for _ in 0..10 {
        let running = Reloaded::with(&[]);
        // Its first line is out, and that is all that is known of it.
        running.larder.signal("HUP");
        eventually("the settings read again", || (reloads(&running.larder, "ok") >= 1.0).then_some(()));
    }
}
