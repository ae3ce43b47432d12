//! Online, fallback, offline: whom larder asks, and what it serves without asking.

use crate::support::artifact::{module, raw};
use crate::support::client::get;
use crate::support::eventually;
use crate::support::heart::{ABSENT_LIFETIME, Heart, Setup, TAG_LIFETIME};
use crate::support::larder::{Home, program, settings};
use crate::support::reloaded::Reloaded;
use crate::support::scripted::{Act, Scripted};
use larder::admin::change::Selector;
use serde_json::json;
use std::time::Duration;

fn lines(heart: &Heart, name: &str, version: &str) -> String {
    format!("{}/plugins/{name}:{version}", heart.registry.host())
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_serves_what_is_held_as_a_hit_of_any_age_and_asks_nobody() {
    let mut heart = Heart::new();
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    heart.ok("waf", "1.0.0").await;
    heart.policy("mode: offline");
    heart.registry.forget();
    for _ in 0..3 {
        heart.clock.advance(10 * TAG_LIFETIME);
        assert_eq!(heart.ok("waf", "1.0.0").await, (one.clone(), "larder; hit; detail=memory".into()));
    }
    let error = heart.get("waf", "2.0.0").await.unwrap_err();
    assert_eq!(error.code, "offline");
    assert!(error.detail.contains(&lines(&heart, "waf", "2.0.0")), "{error:?}");
    assert_eq!(heart.code("other", "1.0.0").await, "offline");
    // An operator's order, the disk's damages and what is done now and then are no exceptions.
    let reference = lines(&heart, "waf", "1.0.0").parse().unwrap();
    let asked = heart.cache.ask_again(&reference).await;
    assert!(format!("{asked:?}").contains("offline"), "{asked:?}");
    let which = Selector { keys: vec![lines(&heart, "waf", "1.0.0")], ..Selector::default() };
    let told = heart.administration.revalidate(&which).await.unwrap();
    assert_eq!(told.results[0].error.as_ref().map(|error| &*error.code), Some("offline"), "{told:?}");
    for file in heart.files("modules") {
        std::fs::write(file, b"damaged").unwrap();
    }
    heart.cache.verify_next(heart.administration.clock.now()).await;
    heart.cache.maintain().await;
    heart.settle().await;
    assert_eq!(heart.registry.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_online_again_asks_about_what_is_held_and_for_what_is_not() {
    let mut heart = Heart::with(|_| Setup { policy: "mode: offline".into(), ..Setup::default() });
    let (one, two) = (module("one", 5000), module("two", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    assert_eq!(heart.code("waf", "1.0.0").await, "offline");
    heart.policy("");
    assert_eq!(heart.ok("waf", "1.0.0").await.0, one, "nothing remembers that there was nobody to ask");
    heart.policy("mode: offline");
    heart.registry.put("plugins/waf", "1.0.0", &raw(&two));
    heart.clock.advance(TAG_LIFETIME + Duration::from_secs(7));
    assert_eq!(heart.ok("waf", "1.0.0").await.0, one);
    heart.policy("mode: online");
    let (bytes, status) = heart.ok("waf", "1.0.0").await;
    assert_eq!(
        (bytes, &*status),
        (one, "larder; hit; ttl=-7; detail=stale-while-revalidate"),
        "its age is real"
    );
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
}

#[tokio::test(flavor = "multi_thread")]
async fn fallback_asks_for_what_is_not_held_and_never_about_what_is() {
    let heart = Heart::with(|_| Setup { policy: "mode: fallback".into(), ..Setup::default() });
    let (one, two) = (module("one", 5000), module("two", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    assert_eq!(heart.ok("waf", "1.0.0").await, (one.clone(), "larder; fwd=uri-miss; stored".into()));
    heart.registry.put("plugins/waf", "1.0.0", &raw(&two));
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    heart.registry.forget();
    for _ in 0..3 {
        heart.clock.advance(10 * TAG_LIFETIME);
        assert_eq!(heart.ok("waf", "1.0.0").await, (one.clone(), "larder; hit; detail=memory".into()));
    }
    heart.settle().await;
    assert_eq!(heart.registry.asked().len(), 0);
    assert_eq!(heart.ok("waf", "2.0.0").await.0, two, "a miss is asked for");
    // What did not exist is asked for again when somebody wants it.
    assert_eq!(heart.code("waf", "3.0.0").await, "not_found");
    heart.registry.put("plugins/waf", "3.0.0", &raw(&one));
    heart.clock.advance(ABSENT_LIFETIME);
    assert_eq!(heart.ok("waf", "3.0.0").await.0, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_for_a_version_that_does_not_exist_is_so_in_every_mode() {
    for mode in ["online", "fallback", "offline"] {
        let two = module("two", 5000);
        let line = |host: &str| format!("waf={host}/plugins/waf:2.0.0\n");
        let mut heart = Heart::with(|host| Setup { lines: line(host), ..Setup::default() });
        heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
        assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
        heart.policy(&format!("mode: {mode}"));
        heart.registry.down();
        heart.clock.advance(10 * TAG_LIFETIME);
        assert_eq!(heart.ok("waf", "1.0.0").await.0, two, "{mode}");
        heart.settle().await;
        if mode == "offline" {
            // Of this version nobody knows whether it exists: another one does not stand for it.
            assert_eq!(heart.code("waf", "1.5.0").await, "offline");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_has_a_mode_of_its_own_for_what_it_fits() {
    let policy = "rules: [{plugin: pay-*, mode: offline}, {plugin: waf, mode: fallback}]".to_owned();
    let heart = Heart::with(|_| Setup { policy, ..Setup::default() });
    for name in ["waf", "pay-in", "other"] {
        heart.registry.put(&format!("plugins/{name}"), "1.0.0", &raw(&module(name, 5000)));
    }
    heart.ok("waf", "1.0.0").await;
    heart.ok("other", "1.0.0").await;
    assert_eq!(heart.code("pay-in", "1.0.0").await, "offline");
    heart.clock.advance(TAG_LIFETIME);
    heart.registry.forget();
    assert_eq!(heart.ok("waf", "1.0.0").await.1, "larder; hit; detail=memory");
    assert_eq!(heart.ok("other", "1.0.0").await.1, "larder; hit; ttl=-0; detail=stale-while-revalidate");
    heart.settle().await;
    let asked = heart.registry.asked();
    assert!(asked.len() == 1 && asked[0].path.contains("other"), "{asked:?}");
}

/// The metric that counts every exchange with a registry.
fn exchanges(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with("larder_upstream_requests_total{"));
    lines.filter(|line| !line.ends_with(" 0")).map(ToString::to_string).collect()
}

#[test]
fn an_offline_larder_answers_with_what_it_holds_and_names_it_and_no_command_of_it_asks_a_registry() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("p.properties");
    std::fs::write(&lines, "").unwrap();
    let mut running = Reloaded::with(&[("catalog.files", json!([lines]))]);
    // The catalog knows of a version that is not held.
    std::fs::write(&lines, format!("waf={}/plugins/waf:7.0.0\n", running.registry.host())).unwrap();
    running.reload();
    for version in ["1.0.0", "1.2.0"] {
        running.registry.put("plugins/waf", version, &raw(&module(version, 5000)));
        assert_eq!(running.status("waf", version), 200);
    }
    running.change(&[
        ("policy.mode", json!("offline")),
        ("lifetimes.tag", json!("1ms")),
        ("cache.scrub", json!("1s")),
    ]);
    running.registry.forget();
    let reply = running.larder.get("/plugins/waf/1.0.0/plugin.wasm");
    let told = reply.header("cache-status");
    assert!(reply.status == 200 && told.starts_with("larder; hit; detail="), "{told}");
    let reply = running.larder.get("/plugins/waf/2.0.0/plugin.wasm");
    let told = reply.json();
    assert_eq!((reply.status, &told["code"]), (404, &json!("offline")));
    assert_eq!(told["versions"], json!(["1.0.0", "1.2.0"]), "what is held is named");
    let told = running.larder.get("/plugins/other/2.0.0/plugin.wasm").json();
    assert_eq!((&told["code"], &told["versions"]), (&json!("offline"), &json!(null)));

    let admin = format!("http://{}", running.larder.admin);
    let host = running.registry.host();
    let copied = format!("{host}/copies");
    let got = running.larder.home.path().join("got.wasm").display().to_string();
    let file = running.larder.home.path().join("b.tar").display().to_string();
    let (used, other) = (running.larder.home.cache(), running.larder.home.path().join("elsewhere"));
    for (cache, arguments) in [
        (&other, &["explain", "waf", "9.0.0"][..]),
        (&used, &["explain", "waf", "9.0.0", "--admin", &admin]),
        (&used, &["prefetch", "waf@9.0.0", "--admin", &admin]),
        (&other, &["get", "waf", "9.0.0", "-o", &got]),
        (&used, &["export", "waf@1.0.0", "-o", &file, "--admin", &admin]),
        (&other, &["copy", "waf@1.0.0", "--to", &copied]),
    ] {
        let mut command = program();
        command.arg("--config").arg(running.file()).arg("--cache-dir").arg(cache).args(arguments);
        let output = command.env("HOME", running.larder.home.path()).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains("offline"), "{arguments:?}: {said}");
        assert!(arguments[0] != "copy" || said.contains("LARDER_POLICY_MODE=online larder copy"), "{said}");
    }
    assert_eq!(running.registry.asked().len(), 0, "{:?}", running.registry.asked());
    running.change(&[("policy.mode", json!("online"))]);
    assert_eq!(running.status("waf", "1.0.0"), 200);
    eventually("the registry asked again", || (!running.registry.asked().is_empty()).then_some(()));
}

#[test]
fn an_offline_larder_starts_with_a_warm_up_and_says_that_it_fetches_nothing() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 5000)));
    let settings = settings(&registry.host())
        + "policy: {mode: offline}\nwarm_up: {plugins: [waf@1.0.0], ready_when: warmed}\n";
    let larder = Home::new(&settings).start();
    larder.line("a doubt", |line| line.to_string().contains("warm_up.plugins"));
    larder.line("what was not fetched", |line| line["code"] == "offline");
    assert_eq!(registry.asked().len(), 0);
    let metrics = get(larder.admin, "/metrics").text();
    assert!(exchanges(&metrics).is_empty(), "{:?}", exchanges(&metrics));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_offline_is_so_though_another_name_of_the_same_reference_is_not() {
    let heart = Heart::with(|host| Setup {
        repositories: ["pay", "waf"].map(|name| (name, vec![format!("{host}/plugins/shared")])).into(),
        policy: "rules: [{plugin: pay, mode: offline}]".into(),
        ..Setup::default()
    });
    let one = module("one", 5000);
    heart.registry.put("plugins/shared", "1.0.0", &raw(&one));
    assert_eq!(heart.code("pay", "1.0.0").await, "offline");
    assert_eq!(heart.registry.asked().len(), 0);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, one);
    assert_eq!(heart.ok("pay", "1.0.0").await, (one, "larder; hit; detail=memory".into()), "it is held now");
}

#[test]
fn a_fetch_that_is_running_when_larder_goes_offline_asks_for_nothing_more() {
    let mut running = Reloaded::with(&[("registry.attempts", json!(5))]);
    running.registry.put("plugins/waf", "1.0.0", &raw(&module("one", 5000)));
    running.registry.close_gate();
    let data = running.larder.data;
    let asking = std::thread::spawn(move || get(data, "/plugins/waf/1.0.0/plugin.wasm").status);
    eventually("the blob asked for", || (running.registry.count(|ask| ask.is_blob()) == 1).then_some(()));
    running.change(&[("policy.mode", json!("offline"))]);
    running.registry.script(|ask, truth| if ask.is_blob() { Act::hang_up() } else { truth });
    running.registry.open_gate();
    running.larder.line("the end of the fetch", |line| line["message"] == "not fetched");
    assert_ne!(asking.join().unwrap(), 200);
    assert_eq!(running.registry.count(|ask| ask.is_blob()), 1);
}
