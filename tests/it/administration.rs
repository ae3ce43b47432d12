//! What an operator asks and does: what is held and why not, fetched in advance, asked about again, taken away, read again.

use crate::support::artifact::{module, raw};
use crate::support::heart::{Heart, Setup, TAG_LIFETIME};
use crate::support::larder::{Home, settings};
use crate::support::scripted::{Act, Scripted};
use crate::support::{client, eventually, until};
use larder::admin::change::{Selector, Verdict};
use larder::admin::entries::{Entry, Query, Sort, State};
use larder::admin::prefetch::{Job, Progress, Wanted};
use larder::admin::{Kind, Refused};
use larder::oci::Digest;
use larder::store::Body;
use std::time::Duration;

/// Three plugins that are held; one of them under two tags.
async fn stocked() -> Heart {
    let heart = Heart::with(|_| Setup { memory: 0, ..Setup::default() });
    let (waf, proxy) = (raw(&module("waf", 5000)), raw(&module("proxy", 7000)));
    heart.registry.put("plugins/waf", "1.0.0", &waf);
    heart.registry.put("plugins/waf", "1.0.1", &waf);
    heart.registry.put("plugins/ai-proxy", "2.0.0", &proxy);
    for (name, version) in [("waf", "1.0.0"), ("waf", "1.0.1"), ("ai-proxy", "2.0.0")] {
        heart.ok(name, version).await;
    }
    heart
}

fn key(heart: &Heart, rest: &str) -> String {
    format!("{}/plugins/{rest}", heart.registry.host())
}

fn list(heart: &Heart, query: &Query) -> Vec<Entry> {
    heart.administration.entries(query).unwrap().entries
}

fn versions(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| format!("{}@{}", entry.plugin, entry.version)).collect()
}

fn named(references: &[&str]) -> Selector {
    Selector { keys: references.iter().map(ToString::to_string).collect(), ..Selector::default() }
}

fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> (Kind, &'static str) {
    let refused = result.unwrap_err();
    (refused.kind, refused.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reference_is_listed_with_what_is_known_of_it() {
    let heart = stocked().await;
    heart.clock.advance(Duration::from_secs(10));
    heart.ok("waf", "1.0.0").await;
    let all = list(&heart, &Query::default());
    assert_eq!(versions(&all), ["ai-proxy@2.0.0", "waf@1.0.0", "waf@1.0.1"]);
    let waf = heart.administration.entry(&key(&heart, "waf:1.0.0")).unwrap();
    let bytes = module("waf", 5000);
    assert_eq!(waf.digest, Some(Digest::of(&bytes).to_string()));
    assert_eq!((waf.size, waf.state, waf.tier.as_deref()), (Some(5000), State::Fresh, Some("disk")));
    assert_eq!(waf.registry, Some(heart.registry.host()));
    let at = |seconds| Some(format!("2023-11-14T22:13:{seconds}Z"));
    assert_eq!((waf.first_used_at, waf.last_used_at), (at(20), at(30)));
    assert_eq!((waf.checked_at, waf.expires_at), (at(20), Some("2023-11-14T22:18:20Z".into())));
    assert!(waf.manifest.is_some() && waf.layer.is_some() && waf.error.is_none());
    heart.clock.advance(TAG_LIFETIME);
    assert_eq!(heart.administration.entry(&key(&heart, "waf:1.0.0")).unwrap().state, State::Stale);
    assert_eq!(code(heart.administration.entry("r.example/no:1")), (Kind::NotFound, "unknown_entry"));
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_searched_filtered_sorted_and_given_page_by_page() {
    let heart = stocked().await;
    let text = |text: &str| Query { text: Some(text.into()), ..Query::default() };
    assert_eq!(versions(&list(&heart, &text("PROXY"))), ["ai-proxy@2.0.0"]);
    let digest = Digest::of(&module("waf", 5000)).to_string();
    assert_eq!(versions(&list(&heart, &text(&digest[7..20]))), ["waf@1.0.0", "waf@1.0.1"]);
    let plugin = Query { plugin: Some("w*".into()), descending: true, ..Query::default() };
    assert_eq!(versions(&list(&heart, &plugin)), ["waf@1.0.1", "waf@1.0.0"]);
    let size = Query { sort: Sort::Size, descending: true, limit: Some(1), ..Query::default() };
    assert_eq!(versions(&list(&heart, &size)), ["ai-proxy@2.0.0"]);
    let none = Query { state: Some(State::Failed), ..Query::default() };
    assert_eq!(heart.administration.entries(&none).unwrap().total, 0);
    let mut query = Query { limit: Some(2), ..Query::default() };
    let first = heart.administration.entries(&query).unwrap();
    assert_eq!((first.total, first.next.as_deref()), (3, Some("2")));
    query.skip = 2;
    let second = heart.administration.entries(&query).unwrap();
    assert_eq!((versions(&second.entries), second.next), (vec!["waf@1.0.1".to_owned()], None));
    let bad = Query { plugin: Some("[".into()), ..Query::default() };
    assert_eq!(code(heart.administration.entries(&bad)), (Kind::Bad, "bad_pattern"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_fetched_is_listed_with_its_reason_until_it_can_be() {
    let heart = Heart::new();
    heart.registry.script(|_, _| Act::status(500));
    assert_eq!(heart.code("waf", "1.0.0").await, "upstream");
    let all = list(&heart, &Query::default());
    assert_eq!((versions(&all), all[0].state), (vec!["waf@1.0.0".to_owned()], State::Failed));
    let error = all[0].error.clone().unwrap();
    assert_eq!((error.code.as_str(), error.count), ("upstream", 1));
    assert!(!error.hint.is_empty() || !error.detail.is_empty());
    let status = heart.administration.status(false);
    assert_eq!(status.registries[0].error.as_ref().unwrap().code, "upstream");
    heart.registry.heal();
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 5000)));
    heart.clock.advance(Duration::from_secs(60));
    heart.ok("waf", "1.0.0").await;
    let waf = heart.administration.entry(&key(&heart, "waf:1.0.0")).unwrap();
    assert_eq!((waf.state, waf.error), (State::Fresh, None));
    assert!(heart.administration.failures.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_an_alias_stands_in_for_is_no_failure() {
    let heart =
        Heart::with(|host| Setup { lines: format!("waf={host}/plugins/waf:2.0.0"), ..Setup::default() });
    heart.registry.put("plugins/waf", "2.0.0", &raw(&module("waf", 5000)));
    heart.ok("waf", "1.0.0").await;
    assert!(heart.administration.failures.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_a_module_away_once_nothing_leads_to_it_and_it_is_fetched_again_when_asked_for() {
    let heart = stocked().await;
    let first = named(&[&key(&heart, "waf:1.0.0")]);
    let dry = heart.administration.purge(&Selector { dry_run: true, ..first.clone() }).await.unwrap();
    assert_eq!((dry.purged.len(), dry.modules, dry.dry_run), (1, 0, true));
    let second = Selector { plugin: Some("waf".into()), dry_run: true, ..Selector::default() };
    let dry = heart.administration.purge(&second).await.unwrap();
    assert_eq!((dry.purged.len(), dry.modules, dry.bytes), (2, 1, 5000));
    assert_eq!(
        (heart.files("modules").len(), heart.files("records").len()),
        (2, 3),
        "a dry run takes nothing"
    );

    let purged = heart.administration.purge(&first).await.unwrap();
    assert_eq!((purged.purged.len(), purged.modules, purged.dry_run), (1, 0, false));
    assert_eq!((heart.files("modules").len(), heart.files("records").len()), (2, 2), "1.0.1 leads to it");
    let version = Selector { version: Some("1.0.*".into()), dry_run: false, ..second };
    let purged = heart.administration.purge(&version).await.unwrap();
    assert_eq!((purged.modules, purged.bytes), (1, 5000));
    assert_eq!((heart.files("modules").len(), heart.files("records").len()), (1, 1));
    heart.registry.forget();
    assert_eq!(heart.ok("waf", "1.0.0").await.1, "larder; fwd=uri-miss; stored");
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 1);
    let heart = heart.restart().await;
    assert_eq!(versions(&list(&heart, &Query::default())), ["ai-proxy@2.0.0", "waf@1.0.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_by_digest_and_of_everything_leaves_nothing_of_it() {
    let heart = stocked().await;
    let digest = Some(Digest::of(&module("waf", 5000)).to_string());
    let purged = heart.administration.purge(&Selector { digest, ..Selector::default() }).await.unwrap();
    assert_eq!((purged.purged.len(), purged.modules), (2, 1));
    heart.registry.put("plugins/ai-proxy", "2.0.0", &raw(&module("moved", 6000)));
    let asked = heart.administration.revalidate(&named(&[&key(&heart, "ai-proxy:2.0.0")])).await.unwrap();
    assert_eq!(asked.results[0].result, Verdict::Updated);
    assert_eq!(heart.files("modules").len(), 2, "that of before is not used any more");
    let all = Selector { all: true, ..Selector::default() };
    let purged = heart.administration.purge(&all).await.unwrap();
    assert_eq!((purged.purged.len(), purged.modules, purged.bytes), (1, 2, 13_000));
    assert_eq!((heart.files("modules").len(), heart.files("records").len()), (0, 0));
    assert_eq!(heart.administration.purge(&all).await.unwrap().modules, 0, "of nothing, nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_leaves_memory_too() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 5000)));
    heart.ok("waf", "1.0.0").await;
    assert_eq!(heart.administration.status(false).store.memory_entries, 1);
    assert_eq!(list(&heart, &Query::default())[0].tier.as_deref(), Some("memory"));
    heart.administration.purge(&Selector { all: true, ..Selector::default() }).await.unwrap();
    assert_eq!(heart.administration.status(false).store.memory_entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_says_nothing_too_much_or_what_is_not_there_changes_nothing() {
    let heart = stocked().await;
    let some = |text: &str| Some(text.to_owned());
    let none = Selector::default;
    for (selector, expected) in [
        (none(), (Kind::Bad, "bad_selector")),
        (Selector { plugin: some("*"), ..none() }, (Kind::Bad, "bad_selector")),
        (Selector { plugin: some("waf"), all: true, ..none() }, (Kind::Bad, "bad_selector")),
        (Selector { version: some("1"), all: true, ..none() }, (Kind::Bad, "bad_selector")),
        (Selector { plugin: some("[a"), ..none() }, (Kind::Bad, "bad_pattern")),
        (Selector { plugin: some("nope"), ..none() }, (Kind::NotFound, "unknown_entry")),
        (Selector { digest: some("sha256:00"), ..none() }, (Kind::Bad, "bad_digest")),
        (
            Selector { digest: some(&Digest::of(b"x").to_string()), ..none() },
            (Kind::NotFound, "unknown_entry"),
        ),
        (Selector { plugin: some("?*"), ..none() }, (Kind::Bad, "bad_pattern")),
        (named(&["../../etc/passwd"]), (Kind::NotFound, "unknown_entry")),
        (named(&vec!["a"; 1001]), (Kind::TooMany, "too_many")),
    ] {
        assert_eq!(code(heart.administration.purge(&selector).await), expected, "{selector:?}");
        assert_eq!(code(heart.administration.revalidate(&selector).await), expected, "{selector:?}");
    }
    assert_eq!((heart.files("modules").len(), heart.files("records").len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_the_disk_does_not_take_is_refused_and_loses_nothing() {
    let heart = stocked().await;
    std::fs::rename(heart.path().join("v1"), heart.path().join("away")).unwrap();
    let refused = code(heart.administration.purge(&Selector { all: true, ..Selector::default() }).await);
    assert_eq!(refused, (Kind::Failed, "not_purged"));
    std::fs::rename(heart.path().join("away"), heart.path().join("v1")).unwrap();
    heart.registry.down();
    assert_eq!(heart.ok("waf", "1.0.0").await.0, module("waf", 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_being_sent_a_module_gets_all_of_it_though_it_is_purged() {
    let heart = stocked().await;
    let served = heart.get("waf", "1.0.0").await.unwrap();
    let Body::File(file) = served.body else { panic!("it is not sent from disk") };
    heart.administration.purge(&Selector { all: true, ..Selector::default() }).await.unwrap();
    assert_eq!(file.read().unwrap(), module("waf", 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_tells_what_the_registry_said_and_takes_nothing_away() {
    let heart = stocked().await;
    heart.registry.put("plugins/waf", "1.0.1", &raw(&module("new", 6000)));
    heart.clock.advance(Duration::from_secs(5));
    let ai = "/v2/plugins/ai-proxy/manifests/2.0.0";
    heart.registry.script(move |ask, truth| if ask.path == ai { Act::status(404) } else { truth });
    let all = Selector { all: true, ..Selector::default() };
    let asked = heart.administration.revalidate(&all).await.unwrap();
    let told: Vec<_> = asked.results.iter().map(|one| (one.key.clone(), one.result)).collect();
    let expected = [
        (key(&heart, "ai-proxy:2.0.0"), Verdict::Failed),
        (key(&heart, "waf:1.0.0"), Verdict::Unchanged),
        (key(&heart, "waf:1.0.1"), Verdict::Updated),
    ];
    assert_eq!(told, expected);
    assert_eq!(asked.results[0].error.as_ref().unwrap().code, "not_found");
    assert_eq!(heart.ok("waf", "1.0.1").await.0, module("new", 6000));
    let moved = heart.administration.entry(&key(&heart, "waf:1.0.1")).unwrap();
    assert_eq!(moved.first_used_at.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert_eq!(moved.since.as_deref(), Some("2023-11-14T22:13:25Z"));
    assert_eq!(heart.ok("ai-proxy", "2.0.0").await.0, module("proxy", 7000), "once served, always served");
}

async fn ended(heart: &Heart, job: &Job) -> Job {
    until("the end of the job", || heart.administration.job(job.id).unwrap().finished_at.is_some()).await;
    heart.administration.job(job.id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_fetched_before_anybody_asks_and_what_fails_says_why() {
    let heart = Heart::with(|host| Setup {
        lines: format!("waf={host}/plugins/waf:1.0.0\nai-proxy={host}/plugins/ai-proxy:2.0.0"),
        ..Setup::default()
    });
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 5000)));
    heart.registry.put("plugins/waf", "3.0.0", &raw(&module("three", 5000)));
    let wanted = |words: &[&str]| Wanted { plugins: words.iter().map(ToString::to_string).collect() };
    let job = heart.administration.prefetch(&wanted(&["all", "waf@3.0.0", "waf", "waf@3.0.0"])).unwrap();
    assert_eq!((job.kind.as_str(), job.total), ("prefetch", 3), "each once");
    let job = ended(&heart, &job).await;
    assert_eq!((job.held, job.failed), (2, 1));
    let told: Vec<_> = job.items.iter().map(|item| (item.plugin.as_str(), item.state, item.size)).collect();
    assert_eq!(
        told,
        [
            ("ai-proxy", Progress::Failed, None),
            ("waf", Progress::Held, Some(5000)),
            ("waf", Progress::Held, Some(5000))
        ]
    );
    assert_eq!(job.items[0].error.as_ref().unwrap().code, "not_found");
    assert_eq!(job.items[1].reference, Some(key(&heart, "waf:1.0.0")));
    heart.registry.down();
    assert_eq!(heart.ok("waf", "3.0.0").await.0, module("three", 5000));
    // What failed is tried again when it is asked for again.
    heart.registry.heal();
    heart.registry.put("plugins/ai-proxy", "2.0.0", &raw(&module("proxy", 7000)));
    let job = heart.administration.prefetch(&wanted(&["ai-proxy"])).unwrap();
    assert_eq!(ended(&heart, &job).await.held, 1);
    assert_eq!(heart.administration.jobs().iter().map(|job| job.id).collect::<Vec<_>>(), [2, 1]);
    for (words, expected) in [
        (vec![], (Kind::Bad, "nothing_named")),
        (vec!["AI"], (Kind::Bad, "bad_name")),
        (vec!["waf@+"], (Kind::Bad, "bad_version")),
        (vec!["waf"; 1001], (Kind::TooMany, "too_many")),
    ] {
        assert_eq!(code(heart.administration.prefetch(&wanted(&words))), expected);
    }
    assert_eq!(code(heart.administration.job(77)), (Kind::NotFound, "unknown_job"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_waits_longer_than_a_request_does_and_tells_how_far_it_is() {
    let heart = Heart::with(|_| Setup { hold: Duration::from_millis(20), ..Setup::default() });
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 50_000)));
    heart.registry.script(|ask, truth| if ask.is_blob() { truth.stall(20_000) } else { truth });
    let job = heart.administration.prefetch(&Wanted { plugins: vec!["waf@1.0.0".into()] }).unwrap();
    let item = || heart.administration.job(job.id).unwrap().items.remove(0);
    until("bytes", || item().received > 0 && item().expected > 0).await;
    assert_eq!(item().state, Progress::Fetching);
    assert_eq!(heart.code("waf", "1.0.0").await, "pending");
    let status = heart.administration.status(false);
    assert_eq!(status.fetching[0].reference, key(&heart, "waf:1.0.0"));
    assert_eq!(heart.metrics.prefetching.with_label_values(&["fetching"]).get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_everything_again_finds_what_was_damaged_and_fetches_it_again() {
    let heart = stocked().await;
    let path =
        heart.files("modules").into_iter().find(|p| std::fs::metadata(p).unwrap().len() == 5000).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    heart.clock.advance(Duration::from_secs(1));
    let scrub = heart.administration.start_scrub().unwrap();
    assert_eq!((scrub.total, scrub.done), (2, 0));
    until("its end", || heart.administration.scrub().unwrap().finished_at.is_some()).await;
    let scrub = heart.administration.scrub().unwrap();
    assert_eq!((scrub.done, scrub.damaged), (2, 1));
    heart.settle().await;
    heart.registry.down();
    assert_eq!(heart.ok("waf", "1.0.0").await.0, module("waf", 5000));
    assert_eq!(heart.files("quarantine").len(), 1);
}

#[test]
fn a_larder_that_is_to_be_warm_first_is_ready_when_each_plugin_is_held_or_has_failed() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 5000)));
    registry.close_gate();
    let more = "warm_up: {plugins: [waf@1.0.0, none@1.0.0], ready_when: warmed}\n";
    let larder = Home::new(&(settings(&registry.host()) + more)).start();
    let ready = client::get(larder.admin, "/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (503, "warming up\n"));
    assert_eq!(larder.get("/healthz").status, 200, "it answers all the same");
    registry.open_gate();
    eventually("readiness", || (client::get(larder.admin, "/readyz").status == 200).then_some(()));
    assert_eq!(larder.metric("larder_prefetched_total{result=\"held\"}"), 1.0);
    assert_eq!(larder.metric("larder_prefetched_total{result=\"failed\"}"), 1.0);
    assert_eq!(larder.metric("larder_warm_up_done"), 1.0);
    registry.down();
    assert_eq!(larder.get("/plugins/waf/1.0.0/plugin.wasm").status, 200);
}

#[test]
fn requests_that_were_refused_are_told_with_what_to_do_next() {
    let registry = Scripted::start();
    let larder = Home::new(&settings(&registry.host())).start();
    for _ in 0..2 {
        assert_eq!(larder.get("/plugins/none/1.0.0/plugin.wasm?x=1").status, 404);
    }
    let told = eventually("both of them told", || {
        let told = client::get(larder.admin, "/api/v1/failures").json()["failures"][0].clone();
        (told["count"] == 2).then_some(told)
    });
    assert_eq!(told["subject"], "/plugins/none/1.0.0/plugin.wasm");
    assert_eq!(told["status"], 404);
    assert_eq!(told["code"], "not_found");
    assert_ne!(told["hint"], "");
}

#[test]
fn what_was_asked_for_before_is_confirmed_at_the_start_and_what_is_not_held_is_fetched() {
    let registry = Scripted::start();
    registry.put("plugins/waf", "1.0.0", &raw(&module("waf", 5000)));
    registry.put("plugins/gone", "1.0.0", &raw(&module("gone", 5000)));
    let more = "warm_up: {plugins: [used]}\nlifetimes: {tag: 0s}\n";
    let larder = Home::new(&(settings(&registry.host()) + more)).start();
    for name in ["waf", "gone"] {
        assert_eq!(larder.get(&format!("/plugins/{name}/1.0.0/plugin.wasm")).status, 200);
    }
    let home = larder.kill();
    registry.forget();
    let larder = home.start();
    eventually("both", || (larder.metric("larder_prefetched_total{result=\"held\"}") == 2.0).then_some(()));
    assert_eq!(registry.count(|ask| ask.is_blob()), 0);
    assert_eq!(registry.count(|ask| ask.method == "HEAD"), 2);
}
