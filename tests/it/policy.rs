//! What the policy lets through: rules, floating tags, sizes, ABIs; before anybody is asked, of what comes, of what is held.

use crate::settings::refused;
use crate::support::artifact::{module, raw};
use crate::support::eventually;
use crate::support::heart::{Heart, Setup, TAG_LIFETIME};
use crate::support::larder::{Home, program, settings};
use crate::support::reloaded::Reloaded;
use serde_json::{Value, json};
use std::process::Output;
use std::time::Duration;

/// A heart with this policy.
fn heart(policy: &str) -> Heart {
    Heart::with(|_| Setup { policy: policy.into(), ..Setup::default() })
}

fn abi(version: &str) -> Vec<u8> {
    let version = version.replace('.', "_");
    wat::parse_str(format!(r#"(module (func $f) (export "proxy_abi_version_{version}" (func $f)))"#)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_that_fits_decides_and_what_it_refuses_is_asked_of_nobody() {
    let policy = "rules: [{plugin: ai-secret, allow: false}, {plugin: ai-*, version: 1.*}, {repository: 'plugins/w*'}, \
                  {registry: other.example}, {allow: false}]";
    let heart = heart(policy);
    for name in ["ai-proxy", "ai-secret", "waf", "other"] {
        for version in ["1.0.0", "2.0.0"] {
            heart.registry.put(&format!("plugins/{name}"), version, &raw(&module(name, 5000)));
        }
    }
    assert_eq!(heart.ok("ai-proxy", "1.0.0").await.0, module("ai-proxy", 5000));
    assert_eq!(heart.ok("waf", "2.0.0").await.0, module("waf", 5000));
    heart.registry.forget();
    for (name, version, rule) in
        [("ai-proxy", "2.0.0", 5), ("ai-secret", "1.0.0", 1), ("other", "1.0.0", 5), ("unheard", "1.0.0", 5)]
    {
        let error = heart.get(name, version).await.unwrap_err();
        assert_eq!(error.code, "not_allowed", "{error:?}");
        assert!(error.detail.ends_with(&format!("rule {rule}")) && error.detail.contains(name), "{error:?}");
        let reference = error.reference.clone().unwrap();
        let asked = heart.cache.ask_again(&reference).await;
        assert!(
            format!("{asked:?}").contains("not_allowed"),
            "an operator's order is no exception: {asked:?}"
        );
    }
    assert_eq!(heart.registry.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_candidate_is_as_if_it_were_not_named_and_a_refused_step_is_the_end() {
    let two = module("two", 5000);
    let heart = Heart::with(|host| Setup {
        repositories: vec![("waf", vec![format!("{host}/bad/waf"), format!("{host}/good/waf")])],
        lines: format!("waf={host}/good/waf:2.0.0\nonly={host}/good/only:2.0.0\n"),
        policy: "rules: [{repository: bad/*, allow: false}, {version: 1.*, plugin: only, allow: false}]"
            .into(),
        ..Setup::default()
    });
    let (bad, good) = (module("bad", 5000), module("good", 5000));
    heart.registry.put("bad/waf", "1.0.0", &raw(&bad));
    heart.registry.put("good/waf", "1.0.0", &raw(&good));
    heart.registry.put("bad/waf", "1.5.0", &raw(&bad));
    heart.registry.put("good/waf", "2.0.0", &raw(&two));
    heart.registry.put("good/only", "2.0.0", &raw(&two));
    assert_eq!(heart.ok("waf", "1.0.0").await.0, good, "the other repository of the step");
    assert_eq!(heart.ok("waf", "1.5.0").await.0, two, "it does not exist where it may be asked for");
    assert_eq!(heart.code("only", "1.0.0").await, "not_allowed");
    assert_eq!(heart.ok("only", "2.0.0").await.0, two);
    assert_eq!(heart.code("only", "1.0.0").await, "not_allowed", "another version never stands for it");
    assert!(heart.registry.asked().iter().all(|ask| !ask.path.contains("bad/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_what_the_catalog_makes_of_a_reference_and_not_what_was_asked_for() {
    let heart = Heart::with(|host| Setup {
        lines: format!("waf={host}/plugins/waf:2.0.0\nwaf@3.0.0={host}/plugins/waf:prod\n"),
        policy: "rules: [{plugin: waf, version: 2.*}, {plugin: waf, version: 3.*}, {allow: false}]".into(),
        ..Setup::default()
    });
    let (two, three) = (module("two", 5000), module("three", 5000));
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    heart.registry.put("plugins/waf", "prod", &raw(&three));
    assert_eq!(heart.ok("waf", "").await.0, two);
    assert_eq!(heart.ok("waf", "3.0.0").await.0, three, "a line's version is its own");
    assert_eq!(heart.code("waf", "prod").await, "not_allowed");
    assert_eq!(heart.code("waf", "1.0.0").await, "not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_no_whole_version_is_refused_where_floating_tags_are() {
    let heart = heart("floating_tags: deny");
    for tag in ["latest", "1", "1.2", "main", "v1", "1.x.0", "1.0.0", "v1.2.3-rc.1", "2.0.0.1"] {
        heart.registry.put("plugins/waf", tag, &raw(&module("waf", 5000)));
    }
    for tag in ["1.0.0", "v1.2.3-rc.1", "2.0.0.1"] {
        heart.ok("waf", tag).await;
    }
    for tag in ["latest", "1", "1.2", "main", "v1", "1.x.0"] {
        assert_eq!(heart.code("waf", tag).await, "floating_tag", "{tag}");
    }
    heart.ok("waf", &raw(&module("waf", 5000)).manifest.digest().to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_is_too_large_or_for_another_abi_is_not_kept_and_what_was_served_goes_on() {
    for (policy, good, bad, code) in [
        ("largest: 5000", module("good", 5000), module("bad", 5001), "too_large_for_policy"),
        ("abi: [0.2.*]", abi("0.2.1"), abi("0.1.0"), "abi_not_allowed"),
        ("abi: [0.1.0, 0.2.*]", abi("0.2.100"), module("none", 5000), "abi_not_allowed"),
    ] {
        let heart = heart(policy);
        heart.registry.put("plugins/waf", "1.0.0", &raw(&good));
        heart.registry.put("plugins/waf", "2.0.0", &raw(&bad));
        assert_eq!(heart.code("waf", "2.0.0").await, code);
        assert_eq!(heart.files("modules").len(), 0, "{policy}");
        heart.registry.forget();
        assert_eq!(heart.code("waf", "2.0.0").await, code);
        assert_eq!(heart.registry.asked().len(), 0, "it is remembered");
        assert_eq!(heart.ok("waf", "1.0.0").await.0, good);
        // The tag moves to what is refused.
        heart.registry.put("plugins/waf", "1.0.0", &raw(&bad));
        heart.clock.advance(TAG_LIFETIME + Duration::from_secs(1));
        heart.ok("waf", "1.0.0").await;
        heart.settle().await;
        let told = format!("larder; hit; ttl=-1; detail=stale-{code}");
        assert_eq!(heart.ok("waf", "1.0.0").await, (good, told), "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_and_no_longer_allowed_is_withheld_kept_and_served_again_when_it_is_allowed() {
    let mut heart = heart("");
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    heart.ok("waf", "1.0.0").await;
    heart.registry.down();
    for (policy, code) in [
        ("rules: [{plugin: waf, allow: false}]", "not_allowed"),
        ("largest: 4999", "too_large_for_policy"),
        ("abi: ['*']", "abi_not_allowed"),
        ("{mode: offline, largest: 4999}", "too_large_for_policy"),
    ] {
        heart.policy(policy);
        for _ in 0..2 {
            assert_eq!(heart.code("waf", "1.0.0").await, code, "{policy}");
            // Not even stale.
            heart.clock.advance(TAG_LIFETIME);
        }
        heart.settle().await;
        assert_eq!((heart.files("modules").len(), heart.files("records").len()), (1, 1));
        heart.policy("largest: 5000");
        assert_eq!(heart.ok("waf", "1.0.0").await.0, one, "{policy}");
    }
    // And so after another start.
    heart.policy("largest: 4999");
    let heart = heart.restart().await;
    assert_eq!(heart.code("waf", "1.0.0").await, "too_large_for_policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withheld_is_asked_about_behind_the_refusal_and_served_once_something_else_is_there() {
    let mut heart = heart("");
    let small = module("small", 1000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("large", 5000)));
    heart.ok("waf", "1.0.0").await;
    heart.policy("largest: 4999");
    heart.registry.forget();
    assert_eq!(heart.code("waf", "1.0.0").await, "too_large_for_policy");
    heart.settle().await;
    assert_eq!(heart.registry.asked().len(), 0, "within its lifetime it is what it is");
    heart.registry.put("plugins/waf", "1.0.0", &raw(&small));
    heart.clock.advance(TAG_LIFETIME);
    assert_eq!(heart.code("waf", "1.0.0").await, "too_large_for_policy");
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, small);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withheld_stands_in_the_way_of_no_other_of_its_step() {
    let mut heart = Heart::with(|host| Setup {
        repositories: vec![("waf", vec![format!("{host}/a/waf"), format!("{host}/b/waf")])],
        ..Setup::default()
    });
    let (large, small) = (module("large", 5000), module("small", 1000));
    heart.registry.put("a/waf", "1.0.0", &raw(&large));
    assert_eq!(heart.ok("waf", "1.0.0").await.0, large);
    heart.policy("largest: 4999");
    heart.registry.put("b/waf", "1.0.0", &raw(&small));
    assert_eq!(heart.ok("waf", "1.0.0").await.0, small);
    assert_eq!(heart.ok("waf", "1.0.0").await.1, "larder; hit; ttl=300; detail=memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_two_names_share_is_served_as_the_one_that_is_allowed() {
    let heart = Heart::with(|host| Setup {
        repositories: ["good", "bad"].map(|name| (name, vec![format!("{host}/plugins/shared")])).into(),
        policy: "rules: [{plugin: bad, allow: false}]".into(),
        ..Setup::default()
    });
    let one = module("one", 5000);
    heart.registry.put("plugins/shared", "1.0.0", &raw(&one));
    for _ in 0..2 {
        assert_eq!(heart.code("bad", "1.0.0").await, "not_allowed");
        assert_eq!(heart.ok("good", "1.0.0").await.0, one);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_is_held_under_another_reference_is_judged_before_it_is_taken_over() {
    let mut heart = heart("");
    let artifact = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &artifact);
    heart.ok("waf", "1.0.0").await;
    heart.policy("largest: 4999");
    heart.registry.put("plugins/other", "1.0.0", &artifact);
    assert_eq!(heart.code("other", "1.0.0").await, "too_large_for_policy");
    assert_eq!(heart.files("records").len(), 1);
}

#[test]
fn settings_of_a_policy_that_cannot_be_are_told_with_their_place() {
    refused(&[
        ("policy: {mode: of}", &["larder.yaml:1:10: policy.mode: ", "offline"]),
        (
            "policy:\n  rules: [{plugin: AI, allow: false}]",
            &["larder.yaml:2:3: policy.rules: rule 1: 'AI' fits no plugin"],
        ),
        ("policy:\n  rules: [{}, {version: '^1.*$'}]", &["rule 2: '^1.*$' fits no version"]),
        (
            "policy:\n  rules: [{registry: 'https://harbor.corp'}]",
            &["rule 1: 'https://harbor.corp' fits no registry"],
        ),
        ("policy:\n  rules: [{repository: /plugins}]", &["rule 1: '/plugins' fits no repository"]),
        ("policy:\n  rules: [{plugins: a}]", &["larder.yaml:2:3: policy.rules: ", "plugins"]),
        (
            "policy:\n  rules: [{plugin: a, allow: false, mode: online}]",
            &["rule 1 has a mode for what it does not allow"],
        ),
        (
            "policy:\n  mode: offline\n  rules: [{mode: fallback}]",
            &["larder.yaml:3:3: policy.rules: rule 1 is fallback", "offline is for all"],
        ),
        ("policy: {floating_tags: never}", &["policy.floating_tags: ", "deny"]),
        ("policy: {largest: 0}", &["policy.largest: is zero"]),
        ("policy: {abi: ['0.2 ']}", &["policy.abi: '0.2 ' is no ABI version"]),
        (
            "policy: {mode: offline}\ntraces: {endpoint: 'http://c:4318'}",
            &["larder.yaml:2:10: traces.endpoint: ", "policy.mode: offline"],
        ),
    ]);
}

#[test]
fn a_policy_that_denies_everything_and_rules_that_never_decide_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("larder.yaml");
    for (policy, warned) in [
        ("[{allow: false}]", "no plugin is allowed"),
        ("[{plugin: x, allow: false}, {plugin: '**', allow: false}]", "no plugin is allowed"),
        (
            "[{plugin: '*'}, {plugin: x, allow: false}]",
            "rule 1 fits everything: those behind it decide nothing",
        ),
        ("[{plugin: x}, {allow: false}]", ""),
        ("[]", ""),
    ] {
        std::fs::write(&file, format!("policy: {{rules: {policy}}}\n")).unwrap();
        let output = program().args(["check", "--config"]).arg(&file).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{policy}: {told}");
        match warned {
            "" => assert!(!told.contains("policy"), "{policy}: {told}"),
            _ => assert!(told.contains("warning") && told.contains(warned), "{policy}: {told}"),
        }
    }
}

#[test]
fn a_changed_policy_is_in_force_at_once_and_what_it_decides_is_written_down_once() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit");
    let mut running = Reloaded::with(&[("admin.audit.file", json!(audit))]);
    let one = module("one", 5000);
    running.registry.put("plugins/waf", "1.0.0", &raw(&one));
    assert_eq!(running.status("waf", "1.0.0"), 200);
    running.change(&[("policy.rules", json!([{"plugin": "waf", "allow": false}]))]);
    for _ in 0..3 {
        let reply = running.larder.get("/plugins/waf/1.0.0/plugin.wasm");
        let told = reply.json();
        assert_eq!((reply.status, &told["code"]), (403, &json!("not_allowed")), "{told}");
        assert!(told["detail"].as_str().unwrap().contains("policy.rules, rule 1"), "{told}");
        assert_eq!(reply.header("cache-status"), "larder; fwd=uri-miss; detail=not_allowed");
    }
    running.change(&[("policy.rules", json!([])), ("policy.largest", json!("4kB"))]);
    assert_eq!(running.status("waf", "1.0.0"), 403);
    running.change(&[("policy.largest", Value::Null)]);
    let reply = running.larder.get("/plugins/waf/1.0.0/plugin.wasm");
    assert_eq!((reply.status, reply.body), (200, one));
    let lines = eventually("five decisions", || {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        let lines: Vec<Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= 5).then_some(lines)
    });
    let told: Vec<_> = lines.iter().map(|line| (line["action"].as_str(), line["result"].as_str())).collect();
    let (change, refusal) = (Some("policy_change"), Some("policy"));
    let expected = [
        (change, Some("ok")),
        (refusal, Some("not_allowed")),
        (change, Some("ok")),
        (refusal, Some("too_large_for_policy")),
        (change, Some("ok")),
    ];
    assert_eq!(told, expected, "{lines:#?}");
    assert_eq!(lines[0]["what"]["detail"], "policy.rules");
    let what = &lines[1]["what"];
    assert_eq!(what["plugin"], "waf");
    assert!(what["reference"].as_str().unwrap().ends_with("/plugins/waf:1.0.0"), "{what}");
    assert!(!lines[1]["request_id"].as_str().unwrap().is_empty());
}

/// What `larder check --policy` says of `home`, by the settings in `file`.
fn checked(home: &Home, file: &std::path::Path, more: &[&str]) -> Output {
    let mut command = program();
    command.arg("--config").arg(file).arg("--cache-dir").arg(home.cache());
    command.env("HOME", home.path()).args(["check", "--policy"]).args(more).output().unwrap()
}

#[test]
fn check_shows_what_a_policy_would_refuse_of_what_is_cached_before_it_is_in_force() {
    let registry = crate::support::scripted::Scripted::start();
    for name in ["waf", "small", "ai-proxy"] {
        let size = if name == "small" { 1000 } else { 5000 };
        registry.put(&format!("plugins/{name}"), "1.0.0", &raw(&module(name, size)));
    }
    let settings = settings(&registry.host());
    let larder = Home::new(&settings).start();
    for name in ["waf", "small", "ai-proxy"] {
        assert_eq!(larder.get(&format!("/plugins/{name}/1.0.0/plugin.wasm")).status, 200);
    }
    let file = larder.home.path().join("new.yaml");
    let policy = "policy: {largest: 4999, rules: [{plugin: ai-*, allow: false}]}\n";
    std::fs::write(&file, settings.clone() + policy).unwrap();
    let admin = format!("http://{}", larder.admin);
    let json = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let expected = |told: &Value| {
        let refused = told["refused"].as_array().unwrap();
        let of = |key: &str| refused.iter().map(|r| r[key].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            (&told["held"], of("plugin")),
            (&json!(3), vec!["ai-proxy".into(), "waf".into()]),
            "{told}"
        );
        assert_eq!(of("code"), ["not_allowed", "too_large_for_policy"], "{told}");
        assert!(of("key")[1].ends_with("/plugins/waf:1.0.0"), "{told}");
    };
    let output = checked(&larder.home, &file, &["--admin", &admin, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    expected(&json(&output));
    assert_eq!(larder.get("/plugins/waf/1.0.0/plugin.wasm").status, 200, "nothing changed");
    let home = larder.kill();
    let output = checked(&home, &file, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    expected(&json(&output));
    let output = checked(&home, &file, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ai-proxy") && text.contains("rule 1"), "{text}");
    assert!(text.ends_with("2 of 3 plugins would be refused\n"), "{text}");
    let output = checked(&home, &home.path().join("larder.yaml"), &[]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"0 of 3 plugins would be refused\n"[..]));
}

#[test]
fn a_bundle_brings_nothing_that_the_policy_refuses_and_is_taken_in_where_nobody_is_asked() {
    let registry = crate::support::scripted::Scripted::start();
    for (name, size) in [("waf", 1000), ("large", 5000), ("secret", 1000)] {
        registry.put(&format!("plugins/{name}"), "1.0.0", &raw(&module(name, size)));
    }
    let settings = settings(&registry.host());
    let from = Home::new(&settings);
    let file = from.path().join("all.tar").display().to_string();
    let plugins = ["waf@1.0.0", "large@1.0.0", "secret@1.0.0"];
    let exported = from.command(&[]).arg("export").args(plugins).args(["-o", &file]).output().unwrap();
    assert!(exported.status.success(), "{exported:?}");
    registry.forget();
    let policy = "policy: {mode: offline, largest: 4999, rules: [{plugin: secret, allow: false}]}\n";
    let to = Home::new(&(settings + policy));
    let imported = to.command(&[]).args(["import", &file, "-o", "json"]).output().unwrap();
    let told = String::from_utf8(imported.stdout).unwrap();
    assert_eq!(imported.status.code(), Some(1), "{told}");
    for code in ["too_large_for_policy", "not_allowed"] {
        assert_eq!(told.matches(&format!("\"{code}\"")).count(), 1, "{told}");
    }
    let larder = to.start();
    let path = |name: &str| format!("/plugins/{name}/1.0.0/plugin.wasm");
    assert_eq!(larder.get(&path("waf")).body, module("waf", 1000));
    assert_eq!(larder.get(&path("secret")).json()["code"], "not_allowed");
    assert_eq!(larder.get(&path("large")).json()["code"], "offline", "it was never taken in");
    assert_eq!(registry.asked().len(), 0);
}

#[test]
fn a_local_file_is_judged_by_its_name_and_version_alone() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, version: &str| {
        let at = folder.path().join(name).join(version);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("plugin.wasm"), module(name, 5000)).unwrap();
    };
    for (name, version) in [("waf", "1.0.0"), ("waf", "2.0.0"), ("secret", "1.0.0"), ("mine", "latest")] {
        put(name, version);
    }
    let running = Reloaded::with(&[
        ("overlay.dirs", json!([folder.path()])),
        (
            "policy",
            json!({
                "floating_tags": "deny", "largest": 1000, "abi": ["0.2.*"],
                "rules": [
                    {"plugin": "secret", "allow": false},
                    {"plugin": "waf", "version": "2.*", "allow": false},
                    {"registry": "*", "allow": false},
                ],
            }),
        ),
    ]);
    assert_eq!((running.status("waf", "1.0.0"), running.status("mine", "latest")), (200, 200));
    let code = |name: &str, version: &str| {
        let reply = running.larder.get(&format!("/plugins/{name}/{version}/plugin.wasm"));
        (reply.status, reply.json()["code"].as_str().unwrap().to_owned())
    };
    for (name, version) in [("secret", "1.0.0"), ("waf", "2.0.0"), ("elsewhere", "1.0.0")] {
        assert_eq!(code(name, version), (403, "not_allowed".into()), "{name} {version}");
    }
    assert_eq!(running.registry.asked().len(), 0);
}

#[test]
fn a_local_file_that_is_refused_is_replaced_by_nothing_that_a_registry_has() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1.0.0", "3.0.0"] {
        let at = folder.path().join("waf").join(version);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("plugin.wasm"), module("local", 5000)).unwrap();
    }
    let running = Reloaded::with(&[
        ("overlay.dirs", json!([folder.path()])),
        ("catalog.aliases", json!({"1.5.0": "1.0.0"})),
        ("policy.rules", json!([{"registry": "*"}, {"version": "3.*"}, {"allow": false}])),
    ]);
    for version in ["1.0.0", "3.0.0"] {
        running.registry.put("plugins/waf", version, &raw(&module(version, 5000)));
    }
    let get = |version: &str| running.larder.get(&format!("/plugins/waf/{version}/plugin.wasm"));
    assert_eq!(get("3.0.0").body, module("local", 5000), "this one may be served");
    for version in ["1.0.0", "1.5.0"] {
        let (reply, refused) = (get(version), Some("not_allowed"));
        assert_eq!((reply.status, reply.json()["code"].as_str()), (403, refused), "{}", reply.text());
        assert!(reply.json()["detail"].as_str().unwrap().starts_with("the local file of waf 1.0.0"));
    }
    std::fs::remove_dir_all(folder.path().join("waf/1.0.0")).unwrap();
    eventually("the registry's", || (get("1.0.0").status == 200).then_some(()));
    for version in ["1.0.0", "1.5.0"] {
        assert_eq!(get(version).body, module("1.0.0", 5000), "{version}");
    }
}
