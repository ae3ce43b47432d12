//! The lock file: written of what is held, and what it says is what is served, whatever a tag comes to mean.

use crate::reload::reloads;
use crate::support::artifact::{Artifact, OCI_MANIFEST, module, raw};
use crate::support::client::{self, Reply};
use crate::support::eventually;
use crate::support::heart::files;
use crate::support::larder::{Home, Larder, settings};
use crate::support::layout::{Plugin, archive, entries};
use crate::support::prometheus::{Prometheus, deploy};
use crate::support::registry::Registry;
use crate::support::scripted::{Act, Scripted};
use larder::oci::Digest;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn plugin(seed: &str) -> Artifact {
    raw(&module(seed, 3000))
}

fn path(name: &str, version: &str) -> String {
    format!("/plugins/{name}/{version}/plugin.wasm")
}

/// Runs a command of larder in a home.
fn run(home: &Home, words: &[&str]) -> Output {
    home.command(&[]).args(words).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The same, which has to end with `code`; what it says.
fn with(code: i32, home: &Home, words: &[&str]) -> String {
    let output = run(home, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", told(&output));
    told(&output)
}

/// What larder's own lock file has of a plugin.
fn item(host: &str, name: &str, version: &str, tag: &str, artifact: &Artifact) -> Value {
    json!({
        "name": name,
        "version": version,
        "reference": format!("{host}/plugins/{name}:{tag}"),
        "manifest": artifact.manifest.digest().to_string(),
        "module": Digest::of(&artifact.module).to_string(),
    })
}

fn own(items: &[Value]) -> String {
    json!({"larder-lock": 1, "plugins": items}).to_string()
}

/// What Higress Console's lock file has of `a`, version 1.
fn console(host: &str, artifact: &Artifact) -> String {
    let plugin = json!({
        "resourceDir": "a",
        "version": "1",
        "ociRef": format!("oci://{host}/plugins/a:1"),
        "digest": artifact.manifest.digest().to_string(),
    });
    json!({"schemaVersion": 2, "snapshotSha256": "0".repeat(64), "plugins": {"a": plugin}}).to_string()
}

/// A site with a lock file: settings that ask about tags at every request, and remember no refusal.
struct Site {
    home: Home,
    file: PathBuf,
}

impl Site {
    fn new(host: &str, mode: &str, lock: &str) -> Self {
        Self::with(host, mode, lock, "", "")
    }

    /// The same, whose catalog has `lines`.
    fn with_lines(host: &str, mode: &str, lock: &str, lines: &str) -> Self {
        Self::with(host, mode, lock, lines, "")
    }

    /// The same, with more settings.
    fn with(host: &str, mode: &str, lock: &str, lines: &str, more: &str) -> Self {
        let home = Home::in_memory("");
        let file = home.path().join("larder.lock.json");
        std::fs::write(&file, lock).unwrap();
        let names = home.path().join("lines.properties");
        std::fs::write(&names, lines).unwrap();
        let files = format!("catalog:\n  files: ['{}']\n", names.display());
        let text = settings(host).replace("catalog:\n", &files)
            + &format!(
                "lifetimes: {{tag: 0s, absent: 0s, unusable: 0s}}\nlock: {{file: '{}', mode: {mode}}}\n{more}",
                file.display()
            );
        Self { home: home.with(&text), file }
    }

    fn start(self) -> Larder {
        self.home.start()
    }
}

/// Writes the lock file anew and has it read.
fn relock(larder: &Larder, file: &Path, lock: &str) {
    let before = reloads(larder, "ok");
    std::fs::write(file, lock).unwrap();
    larder.signal("HUP");
    eventually("another lock file", || (reloads(larder, "ok") > before).then_some(()));
}

fn mismatches(larder: &Larder, mode: &str) -> f64 {
    larder.metric(&format!("larder_lock_mismatch_total{{mode=\"{mode}\"}}"))
}

/// Whether the cache has these bytes, by their name.
fn is_kept(home: &Home, bytes: &[u8]) -> bool {
    let hex = Digest::of(bytes).hex();
    files(&home.cache()).iter().any(|file| file.ends_with(&hex))
}

fn assert_serves(reply: &Reply, artifact: &Artifact, larder: &Larder) {
    assert_eq!(reply.status, 200, "{}\n{}", reply.text(), larder.log_text());
    assert!(reply.body == artifact.module, "other bytes: {}", reply.header("cache-status"));
}

fn assert_refused(reply: &Reply, code: &str, larder: &Larder) {
    assert_eq!((reply.status, reply.json()["code"].as_str()), (403, Some(code)), "{}", larder.log_text());
}

/// The warnings of the administration's status.
fn warnings(larder: &Larder) -> Vec<String> {
    let status = client::get(larder.admin, "/api/v1/status").json();
    let warnings = status["warnings"].as_array().unwrap().iter();
    warnings.map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_lock_is_written_of_what_is_held_the_same_bytes_each_time_and_from_a_running_larder_too() {
    let registry = Scripted::start();
    let (a, b) = (plugin("a"), plugin("b"));
    registry.put("plugins/a", "1", &a);
    registry.put("plugins/a", "2", &plugin("a2"));
    registry.put("plugins/b", "2", &b);
    let host = registry.host();
    let home = Home::in_memory("");
    let lines = home.path().join("lines.properties");
    std::fs::write(&lines, format!("b={host}/plugins/b:2\n")).unwrap();
    let text =
        settings(&host).replace("catalog:\n", &format!("catalog:\n  files: ['{}']\n", lines.display()));
    let home = home.with(&text);
    let file = home.path().join("larder.lock.json");
    let to = file.to_str().unwrap();

    let said = with(66, &home, &["lock", "--all", "-o", to]);
    assert!(said.contains("there is no such cache directory"), "{said}");
    // The second is answered by the version that the catalog has.
    with(0, &home, &["prefetch", "a@1", "b@1.0.0"]);
    registry.forget();
    let said = with(1, &home, &["lock", "a@1", "b@1.0.0", "a@2", "none@1", "-o", to]);
    assert!(said.contains("a@2: left out: it is not held") && said.contains("none@1: left out"), "{said}");
    let held = [item(&host, "a", "1", "1", &a), item(&host, "b", "1.0.0", "2", &b)];
    let written = std::fs::read(&file).unwrap();
    let lock: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(lock, json!({"larder-lock": 1, "plugins": held}));

    let said = with(0, &home, &["lock", "--all", "-o", to]);
    assert!(said.contains(&format!("3 plugins locked in {to}, 0 left out")), "{said}");
    let all = std::fs::read(&file).unwrap();
    let lock: Value = serde_json::from_slice(&all).unwrap();
    let items = [held[0].clone(), held[1].clone(), item(&host, "b", "2", "2", &b)];
    assert_eq!(lock["plugins"], json!(items), "what another version answers for is locked as both");
    let larder = home.start();
    let printed = run(&larder.home, &["lock", "--all", "--admin", &format!("http://{}", larder.admin)]);
    assert_eq!((printed.status.code(), &printed.stdout), (Some(0), &all), "{}", told(&printed));
    assert_eq!(registry.count(|_| true), 0, "nobody was asked");
    let nothing = run(&larder.home, &["lock", "none", "--admin", &format!("http://{}", larder.admin)]);
    assert_eq!((nothing.status.code(), &nothing.stdout[..]), (Some(1), &b""[..]), "{}", told(&nothing));
}

/// The names and the modules of a lock file.
fn locked(file: &Path) -> Vec<(String, String)> {
    let lock: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |plugin: &Value, key: &str| plugin[key].as_str().unwrap().to_owned();
    lock["plugins"].as_array().unwrap().iter().map(|p| (text(p, "name"), text(p, "module"))).collect()
}

fn entry(name: &str, artifact: &Artifact) -> (String, String) {
    (name.to_owned(), Digest::of(&artifact.module).to_string())
}

#[test]
fn what_is_withheld_is_not_locked_and_what_is_locked_and_not_held_stays_locked() {
    let registry = Scripted::start();
    let host = registry.host();
    let [old, new, b, c, d] = ["old", "new", "b", "c", "d"].map(plugin);
    for (name, artifact) in [("a", &new), ("b", &b), ("d", &d)] {
        registry.put(&format!("plugins/{name}"), "1", artifact);
    }
    let home = Home::in_memory(&settings(&host));
    with(0, &home, &["prefetch", "a@1", "b@1", "d@1"]);
    let file = home.path().join("larder.lock.json");
    let lock = own(&[item(&host, "a", "1", "1", &old), item(&host, "c", "1", "1", &c)]);
    std::fs::write(&file, &lock).unwrap();
    let policy = format!(
        "policy: {{rules: [{{plugin: b, allow: false}}]}}\nlock: {{file: '{}', mode: enforce}}\n",
        file.display()
    );
    let home = home.and(&policy);
    let to = home.path().join("new.json");
    let said = with(1, &home, &["lock", "--all", "-o", to.to_str().unwrap()]);
    for told in [
        "plugins/a:1: left out: ",
        "plugins/b:1: left out: ",
        "a@1: stays as it is locked",
        "c@1: stays as it is locked",
        "2 left out",
    ] {
        assert!(said.contains(told), "{told}: {said}");
    }
    assert_eq!(locked(&to), [entry("a", &old), entry("c", &c), entry("d", &d)]);
    let said = with(1, &home, &["lock", "a@1", "d@1", "-o", to.to_str().unwrap()]);
    assert!(said.contains("a@1: left out: ") && said.contains("the lock file has a@1"), "{said}");
    assert_eq!(locked(&to), [entry("d", &d)], "what is named is what is written");
    // Console's has no modules, and larder's own cannot be without.
    let console = json!({"schemaVersion": 2, "plugins": {"c": {"version": "1",
        "ociRef": format!("oci://{host}/plugins/c:1"), "digest": c.manifest.digest().to_string()}}});
    std::fs::write(&file, console.to_string()).unwrap();
    let said = with(1, &home, &["lock", "--all", "-o", to.to_str().unwrap()]);
    assert!(said.contains("c@1: left out: it is not held, and the lock file"), "{said}");
    assert_eq!(locked(&to), [entry("a", &new), entry("d", &d)]);
}

#[test]
fn a_change_that_is_meant_is_locked_in_the_way_that_the_refusal_tells_and_in_no_shorter_one() {
    let registry = Scripted::start();
    let host = registry.host();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    let home = Home::in_memory("");
    let file = home.path().join("larder.lock.json");
    let to = file.to_str().unwrap();
    std::fs::write(&file, own(&[item(&host, "a", "1", "1", &old)])).unwrap();
    let in_mode = |home: Home, mode: &str| {
        let more = format!("lifetimes: {{tag: 0s, unusable: 0s}}\nlock: {{file: '{to}', mode: {mode}}}\n");
        home.with(&(settings(&host) + &more))
    };
    let home = in_mode(home, "enforce");
    with(0, &home, &["prefetch", "a@1"]);
    registry.put("plugins/a", "1", &new);
    run(&home, &["prefetch", "--used"]);
    with(0, &home, &["lock", "--all", "-o", to]);
    assert_eq!(locked(&file), [entry("a", &old)], "what is enforced keeps nothing of a change");
    let way = larder::policy::gate::CHANGE_IS_MEANT;
    assert!(way.ends_with("lock.mode: record, larder prefetch --used, larder lock, and enforce again"));
    let home = in_mode(home, "record");
    with(0, &home, &["prefetch", "--used"]);
    with(0, &home, &["lock", "--all", "-o", to]);
    assert_eq!(locked(&file), [entry("a", &new)]);
    let larder = in_mode(home, "enforce").start();
    assert_serves(&larder.get(&path("a", "1")), &new, &larder);
}

#[test]
fn a_tag_that_moves_under_an_enforced_lock_keeps_serving_the_old_bytes_and_raises_the_alert() {
    let registry = Registry::plain();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.push("plugins/ai-proxy", "2.0.0", &old);
    let host = registry.host();
    let larder =
        Site::new(&host, "enforce", &own(&[item(&host, "ai-proxy", "2.0.0", "2.0.0", &old)])).start();
    let at = path("ai-proxy", "2.0.0");
    assert_serves(&larder.get(&at), &old, &larder);
    let prometheus = Prometheus::start(&[larder.admin], &deploy().join("alerts.yaml"));
    eventually("a scrape", || (prometheus.value("count(larder_lock_mismatch_total)") == 2.0).then_some(()));
    assert_eq!(mismatches(&larder, "enforce"), 0.0);

    registry.push("plugins/ai-proxy", "2.0.0", &new);
    eventually("the reason", || {
        let reply = larder.get(&at);
        assert_serves(&reply, &old, &larder);
        reply.header("cache-status").ends_with("; detail=stale-lock_mismatch").then_some(())
    });
    for _ in 0..20 {
        assert_serves(&larder.get(&at), &old, &larder);
    }
    assert!(mismatches(&larder, "enforce") > 0.0);
    assert!(
        is_kept(&larder.home, &old.module) && !is_kept(&larder.home, &new.module),
        "nothing wrong is kept"
    );
    eventually("a warning", || {
        let words = [&*host, "the lock file has ai-proxy@2.0.0", &*Digest::of(&new.module).to_string()];
        let is_told = |warning: &String| words.iter().all(|word| warning.contains(word));
        warnings(&larder).iter().any(is_told).then_some(())
    });
    eventually("the alert", || {
        let firing = "ALERTS{alertname=\"LarderLockMismatch\",alertstate=\"firing\",mode=\"enforce\"}";
        prometheus.query(&format!("count({firing})")).first().map(drop)
    });
    // As after a restart with another registry's bytes there, and nobody who remembers.
    let larder = larder.kill().start();
    assert_serves(&larder.get(&at), &old, &larder);
}

#[test]
fn where_nothing_right_is_held_other_bytes_than_those_locked_are_a_403_until_the_right_ones_are_there() {
    let registry = Scripted::start();
    let (right, wrong) = (plugin("right"), plugin("wrong"));
    registry.put("plugins/a", "1", &wrong);
    let host = registry.host();
    let larder = Site::new(&host, "enforce", &own(&[item(&host, "a", "1", "1", &right)])).start();
    let reply = larder.get(&path("a", "1"));
    assert_refused(&reply, "lock_mismatch", &larder);
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    for digest in [&right, &wrong].map(|artifact| Digest::of(&artifact.module).to_string()) {
        assert!(detail.contains(&digest), "{detail}");
    }
    assert_eq!(mismatches(&larder, "enforce"), 1.0);
    assert!(!is_kept(&larder.home, &wrong.module));
    registry.put("plugins/a", "1", &right);
    assert_serves(&larder.get(&path("a", "1")), &right, &larder);
}

#[test]
fn in_record_other_bytes_are_served_once_they_are_verified_and_told_counted_and_shown() {
    let registry = Scripted::start();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    let host = registry.host();
    let larder = Site::new(&host, "record", &own(&[item(&host, "a", "1", "1", &old)])).start();
    assert_serves(&larder.get(&path("a", "1")), &old, &larder);
    registry.put("plugins/a", "1", &new);
    eventually("the new bytes", || (larder.get(&path("a", "1")).body == new.module).then_some(()));
    assert_eq!(mismatches(&larder, "record"), 1.0);
    let line = larder.line("what was logged", |line| line["message"] == "lock_mismatch");
    assert_eq!((line["level"].as_str(), line["mode"].as_str()), (Some("WARN"), Some("record")));
    assert_eq!(line["reference"], format!("{host}/plugins/a:1"));
    let about = |warning: &String| warning.starts_with(&format!("{host}/plugins/a:1: the lock file has a@1"));
    assert!(warnings(&larder).iter().any(about), "{:?}", warnings(&larder));
    // It is still so after a restart, and said again.
    let larder = larder.kill().start();
    assert!(warnings(&larder).iter().any(about), "{:?}", warnings(&larder));
    eventually("its count", || (mismatches(&larder, "record") == 1.0).then_some(()));
}

#[test]
fn a_lock_that_is_written_anew_takes_effect_and_what_it_names_now_is_fetched_for_the_first_who_asks() {
    let registry = Scripted::start();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    let host = registry.host();
    let site = Site::new(&host, "enforce", &own(&[item(&host, "a", "1", "1", &old)]));
    let file = site.file.clone();
    let larder = site.start();
    let at = path("a", "1");
    assert_serves(&larder.get(&at), &old, &larder);
    registry.put("plugins/a", "1", &new);
    assert_serves(&larder.get(&at), &old, &larder);
    relock(&larder, &file, &own(&[item(&host, "a", "1", "1", &new)]));
    assert_serves(&larder.get(&at), &new, &larder);
    // And back: the tag is another one, and what it was is still there by its digest.
    relock(&larder, &file, &own(&[item(&host, "a", "1", "1", &old)]));
    assert_serves(&larder.get(&at), &old, &larder);
    relock(&larder, &file, &own(&[item(&host, "a", "1", "1", &new)]));
    assert_serves(&larder.get(&at), &new, &larder);
    // And back, when it is not there any more: what is held is withheld and kept, and nobody is served it.
    registry.remove(&format!("/v2/plugins/a/manifests/{}", old.manifest.digest()));
    let kept = |artifact: &Artifact| is_kept(&larder.home, &artifact.module);
    relock(&larder, &file, &own(&[item(&host, "a", "1", "1", &old)]));
    assert_refused(&larder.get(&at), "lock_mismatch", &larder);
    registry.down();
    assert_eq!(larder.get(&at).status, 502, "the registry may have it, as far as anybody knows");
    assert!(kept(&new));
    relock(&larder, &file, &own(&[]));
    assert_serves(&larder.get(&at), &new, &larder);
}

#[test]
fn a_lock_file_that_cannot_be_read_changes_nothing_at_a_reload_and_ends_a_start_with_its_place() {
    let registry = Scripted::start();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    let host = registry.host();
    let site = Site::new(&host, "enforce", &own(&[item(&host, "a", "1", "1", &old)]));
    let file = site.file.clone();
    let larder = site.start();
    let at = path("a", "1");
    assert_serves(&larder.get(&at), &old, &larder);
    registry.put("plugins/a", "1", &new);
    let twice = "{\n  \"larder-lock\": 1,\n  \"larder-lock\": 1,\n  \"plugins\": []\n}\n";
    let place = format!("{}:3:", file.display());
    // By itself, without a signal.
    std::fs::write(&file, twice).unwrap();
    let line = larder.line("the fault", |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("settings_refused"))
    });
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(&place) && error.contains("lock.file: duplicate field"), "{error}");
    assert_eq!(larder.metric("larder_settings_refused"), 1.0);
    for _ in 0..5 {
        assert_serves(&larder.get(&at), &old, &larder);
    }
    let home = larder.kill();
    let said = with(78, &home, &["check"]);
    assert!(said.contains(&place), "{said}");
    std::fs::remove_file(&file).unwrap();
    // Nobody ever writes into it.
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let output = home.command(&["timeout", "60"]).arg("check").output().unwrap();
    let said = told(&output);
    assert!(said.contains("larder.lock.json: is no regular file"), "{:?}: {said}", output.status);
    std::fs::remove_file(&file).unwrap();
    let said = with(78, &home, &["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert!(said.contains("lock.file: ") && said.contains("larder.yaml:"), "{said}");
}

#[test]
fn the_locks_of_console_and_of_the_plugin_server_are_enforced_as_they_are() {
    let registry = Scripted::start();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    let host = registry.host();
    // As larder itself shows it in the plugin server's place.
    let first = Home::in_memory(&settings(&host)).start();
    assert_serves(&first.get(&path("a", "1")), &old, &first);
    let inventory = first.get("/plugins/snapshot-inventory.json").text();
    for lock in [console(&host, &old), inventory] {
        registry.put("plugins/a", "1", &old);
        let larder = Site::new(&host, "enforce", &lock).start();
        assert_serves(&larder.get(&path("a", "1")), &old, &larder);
        registry.put("plugins/a", "1", &new);
        eventually("a refusal", || {
            assert_serves(&larder.get(&path("a", "1")), &old, &larder);
            (mismatches(&larder, "enforce") > 0.0).then_some(())
        });
        // One that holds nothing asks for it by its digest, as long as it is there.
        let at = format!("/v2/plugins/a/manifests/{}", old.manifest.digest());
        let fresh = Site::new(&host, "enforce", &lock).start();
        assert_serves(&fresh.get(&path("a", "1")), &old, &fresh);
        assert!(mismatches(&fresh, "enforce") > 0.0 && !is_kept(&fresh.home, &new.module));
        registry.remove(&at);
        let fresh = Site::new(&host, "enforce", &lock).start();
        assert_refused(&fresh.get(&path("a", "1")), "lock_mismatch", &fresh);
    }
}

#[test]
fn what_a_lock_does_not_name_is_served_or_refused_without_asking_as_the_settings_say() {
    let registry = Scripted::start();
    let (a, b) = (plugin("a"), plugin("b"));
    registry.put("plugins/a", "1", &a);
    registry.put("plugins/b", "1", &b);
    let host = registry.host();
    let lock = own(&[item(&host, "a", "1", "1", &a)]);
    let larder = Site::new(&host, "enforce", &lock).start();
    assert_serves(&larder.get(&path("b", "1")), &b, &larder);
    let site = Site::new(&host, "enforce, unlisted: deny", &lock);
    let said = run(&site.home, &["check"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("larder.lock.json, enforce, 1 plugin"), "{said}");
    let larder = site.start();
    assert_serves(&larder.get(&path("a", "1")), &a, &larder);
    registry.forget();
    assert_refused(&larder.get(&path("b", "1")), "not_locked", &larder);
    assert_eq!(registry.count(|_| true), 0);
}

#[test]
fn what_is_locked_leaves_last_when_the_disk_is_full() {
    let registry = Scripted::start();
    let names = ["locked", "b", "c", "d", "e"];
    for name in names {
        registry.put(&format!("plugins/{name}"), "1", &plugin(name));
    }
    let host = registry.host();
    let site = Site::new(&host, "record", &own(&[item(&host, "locked", "1", "1", &plugin("locked"))]));
    let more = "cache: {disk: 10000B, memory: 0B}\nlimits: {module: 10000B}\n";
    let larder = Site { home: site.home.and(more), ..site }.start();
    for name in names {
        assert_serves(&larder.get(&path(name, "1")), &plugin(name), &larder);
    }
    let kept = names.map(|name| is_kept(&larder.home, &plugin(name).module));
    assert_eq!(
        kept[..2],
        [true, false],
        "the one that was asked for first is there, and others left: {kept:?}"
    );
    assert!(larder.metric("larder_evictions_total") > 0.0);
}

#[test]
fn a_bundle_brings_no_other_bytes_past_an_enforced_lock() {
    let registry = Scripted::start();
    let (right, wrong) = (plugin("right"), plugin("wrong"));
    registry.put("plugins/a", "1", &wrong);
    registry.put("plugins/b", "1", &right);
    let host = registry.host();
    let there = Home::in_memory(&settings(&host));
    let bundle = there.path().join("plugins.tar");
    with(0, &there, &["export", "a@1", "b@1", "-o", bundle.to_str().unwrap()]);
    registry.down();
    let lock = own(&[item(&host, "a", "1", "1", &right), item(&host, "b", "1", "1", &right)]);
    let site = Site::new(&host, "enforce", &lock);
    let output = run(&site.home, &["import", bundle.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("lock_mismatch") && said.contains("1 plugin imported"), "{said}");
    assert!(is_kept(&site.home, &right.module) && !is_kept(&site.home, &wrong.module));
}

#[test]
fn a_mounted_bundle_that_was_taken_in_before_brings_what_another_lock_wants() {
    let registry = Scripted::start();
    let (right, other) = (plugin("right"), plugin("other"));
    let host = registry.host();
    let mounted = tempfile::tempdir().unwrap();
    let packed = Plugin { name: "a", reference: format!("{host}/plugins/a:1"), artifact: right.clone() };
    std::fs::write(mounted.path().join("a.tar"), archive(&entries(&[packed]))).unwrap();
    let more = format!("import: {{dir: '{}'}}\n", mounted.path().display());
    let site = Site::with(&host, "enforce", &own(&[]), "", &more);
    let file = site.file.clone();
    let larder = site.start();
    larder.line("the first import", |line| line["message"] == "imported at the start");
    assert_serves(&larder.get(&path("a", "1")), &right, &larder);
    // A registry has something else, and confirms it.
    registry.put("plugins/a", "1", &other);
    eventually("the other bytes", || (larder.get(&path("a", "1")).body == other.module).then_some(()));
    registry.down();
    std::fs::write(&file, own(&[item(&host, "a", "1", "1", &right)])).unwrap();
    let larder = larder.kill().start();
    larder.line("the second import", |line| line["message"] == "imported at the start");
    assert_serves(&larder.get(&path("a", "1")), &right, &larder);
}

/// A registry's answer to whoever asks for a manifest by what ends in `tag`.
fn manifests_answer(registry: &Scripted, tag: &str, status: u16) {
    let tag = format!("/manifests/{tag}");
    registry.script(move |ask, truth| if ask.path.ends_with(&tag) { Act::status(status) } else { truth });
}

#[test]
fn a_locked_version_that_is_gone_is_answered_by_no_other_one_and_that_is_told_and_counted() {
    let registry = Scripted::start();
    let (one, two) = (plugin("one"), plugin("two"));
    registry.put("plugins/a", "2.0.0", &two);
    let host = registry.host();
    let lock = own(&[item(&host, "a", "1.0.0", "1.0.0", &one)]);
    for status in [404, 401, 403] {
        manifests_answer(&registry, "1.0.0", status);
        let lines = format!("a={host}/plugins/a:2.0.0\n");
        let larder = Site::with_lines(&host, "enforce", &lock, &lines).start();
        assert_serves(&larder.get(&path("a", "2.0.0")), &two, &larder);
        for _ in 0..3 {
            assert_refused(&larder.get(&path("a", "1.0.0")), "lock_mismatch", &larder);
        }
        assert!(mismatches(&larder, "enforce") > 0.0, "the alert is for this");
        let line = larder.line("what was logged", |line| line["message"] == "lock_mismatch");
        assert_eq!(line["reference"], format!("{host}/plugins/a:1.0.0"));
        assert_serves(&larder.get(&path("a", "2.0.0")), &two, &larder);
        // As soon as it is there again it is the answer.
        registry.heal();
        registry.put("plugins/a", "1.0.0", &one);
        eventually("what is locked", || (larder.get(&path("a", "1.0.0")).status == 200).then_some(()));
        assert_serves(&larder.get(&path("a", "1.0.0")), &one, &larder);
        registry.remove(&format!("/v2/plugins/a/manifests/{}", one.manifest.digest()));
        registry.remove("/v2/plugins/a/manifests/1.0.0");
    }
}

#[test]
fn what_the_catalogs_version_answered_for_when_it_was_locked_is_not_answered_by_the_next_one() {
    let registry = Scripted::start();
    let (two, three) = (plugin("two"), plugin("three"));
    registry.put("plugins/b", "2", &two);
    registry.put("plugins/b", "3", &three);
    let host = registry.host();
    let lock = own(&[item(&host, "b", "1.0.0", "2", &two)]);
    let line = |tag: &str| format!("b={host}/plugins/b:{tag}\n");
    let before = Site::with_lines(&host, "enforce", &lock, &line("2")).start();
    for _ in 0..3 {
        assert_serves(&before.get(&path("b", "1.0.0")), &two, &before);
    }
    assert_eq!(mismatches(&before, "enforce"), 0.0, "it is no surprise that there is no 1.0.0");
    let after = Site::with_lines(&host, "enforce", &lock, &line("3")).start();
    for _ in 0..3 {
        assert_refused(&after.get(&path("b", "1.0.0")), "lock_mismatch", &after);
    }
    assert_serves(&after.get(&path("b", "3")), &three, &after);
}

#[test]
fn what_is_locked_is_fetched_by_its_digest_where_its_tag_is_gone_or_leads_to_what_nobody_can_use() {
    let registry = Scripted::start();
    let old = plugin("old");
    let host = registry.host();
    let lock = own(&[item(&host, "a", "1", "1", &old)]);
    let gone = || registry.remove("/v2/plugins/a/manifests/1");
    let too_large = || registry.put("plugins/a", "1", &raw(&module("large", 20_000)));
    let no_module = || registry.put("plugins/a", "1", &raw(b"no module"));
    let no_manifest = || registry.put_raw("/v2/plugins/a/manifests/1", OCI_MANIFEST, b"{}");
    let states: [&dyn Fn(); 4] = [&gone, &too_large, &no_module, &no_manifest];
    for state in states {
        registry.put("plugins/a", "1", &old);
        state();
        let site = Site::new(&host, "enforce", &lock);
        let larder = Site { home: site.home.and("limits: {module: 10000B}\n"), ..site }.start();
        assert_serves(&larder.get(&path("a", "1")), &old, &larder);
        assert!(mismatches(&larder, "enforce") > 0.0);
    }
}

#[test]
fn a_registry_that_stumbles_over_what_is_locked_is_no_mismatch_but_a_failure_that_passes() {
    let registry = Scripted::start();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    registry.put("plugins/a", "1", &new);
    let host = registry.host();
    manifests_answer(&registry, &old.manifest.digest().to_string(), 503);
    let lock = own(&[item(&host, "a", "1", "1", &old)]);
    let larder = Site::new(&host, "enforce", &lock).start();
    let reply = larder.get(&path("a", "1"));
    assert!((502..=504).contains(&reply.status), "{}: {}", reply.status, reply.text());
    registry.heal();
    eventually("what is locked", || (larder.get(&path("a", "1")).status == 200).then_some(()));
    assert_serves(&larder.get(&path("a", "1")), &old, &larder);
}

#[test]
fn of_a_manifest_that_is_not_the_locked_one_nothing_more_is_fetched_where_a_lock_has_manifests_alone() {
    let registry = Scripted::start();
    let (old, new) = (plugin("old"), plugin("new"));
    registry.put("plugins/a", "1", &old);
    registry.put("plugins/a", "1", &new);
    let host = registry.host();
    let larder = Site::new(&host, "enforce", &console(&host, &old)).start();
    eventually("a refusal", || {
        assert_serves(&larder.get(&path("a", "1")), &old, &larder);
        (mismatches(&larder, "enforce") > 1.0).then_some(())
    });
    let layer = Digest::of(&new.module).to_string();
    assert_eq!(registry.count(|ask| ask.is_blob() && ask.path.ends_with(&layer)), 0);
}

#[test]
fn what_is_locked_may_be_asked_for_by_its_digest_and_as_what_it_answers_for_where_nothing_else_may() {
    let registry = Scripted::start();
    let (one, two) = (plugin("one"), plugin("two"));
    registry.put("plugins/b", "1", &one);
    registry.put("plugins/b", "2", &two);
    let host = registry.host();
    let both = own(&[item(&host, "b", "1.0.0", "2", &two), item(&host, "b", "2", "2", &two)]);
    let lines = format!("b={host}/plugins/b:2\n");
    let site = Site::with_lines(&host, "enforce, unlisted: deny", &both, &lines);
    let file = site.file.clone();
    let larder = site.start();
    assert_serves(&larder.get(&path("b", &two.manifest.digest().to_string())), &two, &larder);
    let other = larder.get(&path("b", &one.manifest.digest().to_string()));
    assert_refused(&other, "not_locked", &larder);
    assert_serves(&larder.get(&path("b", "1.0.0")), &two, &larder);
    // As Console writes it: one version a plugin.
    relock(&larder, &file, &own(&[item(&host, "b", "2", "2", &two)]));
    assert_serves(&larder.get(&path("b", "1.0.0")), &two, &larder);
    assert_refused(&larder.get(&path("b", "1")), "not_locked", &larder);
    assert_refused(&larder.get(&path("b", "1.5.0")), "not_locked", &larder);
}
