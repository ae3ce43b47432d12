//! Ages: what is fetched once, when it is asked about again, and what is served when nobody answers.

use crate::support::artifact::{OCI_INDEX, index, module, raw};
use crate::support::heart::{ABSENT_LIFETIME, Heart, Setup, TAG_LIFETIME, TRANSIENT_LIFETIME};
use crate::support::scripted::Act;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_miss_is_one_manifest_and_one_blob_and_a_hit_asks_nobody() {
    let heart = Heart::new();
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &one);
    assert_eq!(heart.ok("waf", "1.0.0").await, (one.module.clone(), "larder; fwd=uri-miss; stored".into()));
    assert_eq!(heart.registry.count(|ask| ask.is_manifest()), 1);
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 1);
    heart.registry.down();
    assert_eq!(heart.ok("waf", "1.0.0").await, (one.module, "larder; hit; ttl=300; detail=memory".into()));
    assert_eq!(heart.registry.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_tag_is_served_at_once_and_confirmed_behind_the_request_without_its_bytes() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("one", 5000)));
    heart.ok("waf", "1.0.0").await;
    heart.clock.advance(TAG_LIFETIME + Duration::from_secs(7));
    heart.registry.forget();
    let (_, status) = heart.ok("waf", "1.0.0").await;
    assert_eq!(status, "larder; hit; ttl=-7; detail=stale-while-revalidate");
    heart.settle().await;
    let asked = heart.registry.asked();
    assert_eq!(asked.iter().map(|ask| ask.method.as_str()).collect::<Vec<_>>(), ["HEAD"]);
    assert!(asked[0].headers["if-none-match"].starts_with("\"sha256:"));
    assert_eq!(heart.ok("waf", "1.0.0").await.1, "larder; hit; ttl=300; detail=memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_served_after_its_lifetime() {
    let heart = Heart::new();
    let (old, new) = (module("old", 5000), module("new", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &raw(&old));
    heart.ok("waf", "1.0.0").await;
    heart.registry.put("plugins/waf", "1.0.0", &raw(&new));
    assert_eq!(heart.ok("waf", "1.0.0").await.0, old, "fresh");
    heart.clock.advance(TAG_LIFETIME);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, old, "stale, confirmed behind");
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, new);
    assert_eq!(heart.metrics.tags_moved.with_label_values(&[&heart.registry.host()]).get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_that_cannot_be_used_leaves_the_old_module() {
    let heart = Heart::new();
    let old = module("old", 5000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&old));
    heart.ok("waf", "1.0.0").await;
    heart.registry.put("plugins/waf", "1.0.0", &raw(b"<html>not a module</html>"));
    heart.clock.advance(TAG_LIFETIME);
    heart.ok("waf", "1.0.0").await;
    heart.settle().await;
    let (bytes, status) = heart.ok("waf", "1.0.0").await;
    assert_eq!(bytes, old);
    assert_eq!(status, "larder; hit; ttl=-0; detail=stale-not_wasm");
}

#[tokio::test(flavor = "multi_thread")]
async fn once_served_it_is_served_whatever_the_registry_says_and_the_reason_is_told() {
    for (reason, act) in [
        ("connect", Act::hang_up()),
        ("upstream", Act::status(500)),
        ("not_found", Act::status(404)),
        ("denied", Act::status(401)),
        ("denied", Act::status(403)),
        ("rate_limited", Act::status(429).header("Retry-After", "30")),
    ] {
        let heart = Heart::new();
        let one = module("one", 5000);
        heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
        heart.ok("waf", "1.0.0").await;
        heart.registry.script(move |_, _| act.clone());
        heart.clock.advance(TAG_LIFETIME * 1000);
        heart.ok("waf", "1.0.0").await;
        heart.settle().await;
        let (bytes, status) = heart.ok("waf", "1.0.0").await;
        assert_eq!(bytes, one, "{reason}");
        assert!(status.ends_with(&format!("detail=stale-{reason}")), "{status}");
        let heart = heart.restart().await;
        assert_eq!(heart.ok("waf", "1.0.0").await.0, one, "{reason}, after a restart");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_vanishes_while_it_moves_leaves_the_old_module() {
    let heart = Heart::new();
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    heart.ok("waf", "1.0.0").await;
    heart.registry.script(|ask, truth| match ask.method.as_str() {
        "HEAD" => Act::status(200).header("Docker-Content-Digest", "sha256:another"),
        _ if ask.is_manifest() => Act::status(404),
        _ => truth,
    });
    heart.clock.advance(TAG_LIFETIME);
    heart.ok("waf", "1.0.0").await;
    heart.settle().await;
    let (bytes, status) = heart.ok("waf", "1.0.0").await;
    assert_eq!(bytes, one);
    assert!(status.ends_with("stale-not_found"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_tag_is_not_asked_about_at_every_request_while_the_registry_fails() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("one", 5000)));
    heart.ok("waf", "1.0.0").await;
    heart.registry.down();
    heart.clock.advance(TAG_LIFETIME);
    heart.registry.forget();
    for _ in 0..20 {
        heart.ok("waf", "1.0.0").await;
        heart.settle().await;
    }
    // The client may try a second connection when the first is closed before an answer.
    assert!(heart.registry.asked().len() <= 2, "{}", heart.registry.asked().len());
    let before = heart.registry.asked().len();
    heart.clock.advance(TRANSIENT_LIFETIME);
    heart.ok("waf", "1.0.0").await;
    heart.settle().await;
    assert!(heart.registry.asked().len() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_answers_the_retries_of_a_gateway_and_is_forgotten_soon() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("one", 5000)));
    heart.registry.script(|_, _| Act::status(500));
    for _ in 0..5 {
        assert_eq!(heart.code("waf", "1.0.0").await, "upstream");
    }
    assert_eq!(heart.registry.asked().len(), 1);
    heart.registry.heal();
    heart.clock.advance(TRANSIENT_LIFETIME);
    heart.ok("waf", "1.0.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_is_remembered_for_its_own_time() {
    let heart = Heart::new();
    for _ in 0..5 {
        assert_eq!(heart.code("waf", "1.0.0").await, "not_found");
    }
    assert_eq!(heart.registry.asked().len(), 1);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("one", 5000)));
    assert_eq!(heart.code("waf", "1.0.0").await, "not_found");
    heart.clock.advance(ABSENT_LIFETIME);
    heart.ok("waf", "1.0.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_patience_gets_it() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1.0.0", &raw(&module("one", 5000)));
    heart.registry.script(|_, _| Act::status(429).header("Retry-After", "30"));
    assert_eq!(heart.code("waf", "1.0.0").await, "rate_limited");
    heart.registry.heal();
    heart.clock.advance(Duration::from_secs(29));
    assert_eq!(heart.code("waf", "1.0.0").await, "rate_limited");
    assert_eq!(heart.registry.asked().len(), 1);
    heart.clock.advance(Duration::from_secs(1));
    heart.ok("waf", "1.0.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_fetch_is_pending_and_goes_on_without_its_client() {
    let heart = Heart::with(|_| Setup { hold: Duration::from_millis(50), ..Setup::default() });
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &one);
    heart.registry.close_gate();
    assert_eq!(heart.code("waf", "1.0.0").await, "pending");
    assert_eq!(heart.code("waf", "1.0.0").await, "pending");
    heart.registry.open_gate();
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.1, "larder; hit; ttl=300; detail=memory");
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_everything_again_and_asks_nobody() {
    let heart = Heart::new();
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    heart.ok("waf", "1.0.0").await;
    let heart = heart.restart().await;
    heart.registry.forget();
    assert_eq!(heart.ok("waf", "1.0.0").await.0, one);
    assert_eq!(heart.registry.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_never_asked_about_again() {
    let heart = Heart::new();
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &one);
    let digest = one.manifest.digest().to_string();
    assert_eq!(heart.ok("waf", &digest).await.0, one.module);
    heart.clock.advance(TAG_LIFETIME * 100_000);
    heart.registry.forget();
    assert_eq!(heart.ok("waf", &digest).await.1, "larder; hit; detail=memory");
    heart.settle().await;
    assert_eq!(heart.registry.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_tell_digests_is_asked_for_the_manifest_instead() {
    let heart = Heart::new();
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    heart.registry.script(|ask, mut truth| {
        truth.headers.retain(|(name, _)| name != "Docker-Content-Digest");
        if ask.method == "HEAD" { Act::status(405) } else { truth }
    });
    heart.ok("waf", "1.0.0").await;
    heart.clock.advance(TAG_LIFETIME);
    heart.ok("waf", "1.0.0").await;
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.1, "larder; hit; ttl=300; detail=memory");
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 1, "the bytes were known by their manifest");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tags_of_one_manifest_are_one_transfer() {
    let heart = Heart::new();
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1.0.0", &one);
    heart.registry.put("plugins/waf", "1.0", &one);
    heart.ok("waf", "1.0.0").await;
    heart.ok("waf", "1.0").await;
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_evicted_is_fetched_again() {
    let heart = Heart::with(|_| Setup { disk: 150_000, memory: 0, ..Setup::default() });
    let modules: Vec<_> = (0..3).map(|n| module(&n.to_string(), 60_000)).collect();
    for (n, bytes) in modules.iter().enumerate() {
        heart.registry.put(&format!("plugins/p{n}"), "1", &raw(bytes));
    }
    for (n, bytes) in modules.iter().enumerate() {
        assert_eq!(&heart.ok(&format!("p{n}"), "1").await.0, bytes);
        heart.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(heart.metrics.evictions.get(), 1);
    assert_eq!(heart.files("modules").len(), 2);
    assert_eq!(heart.ok("p0", "1").await, (modules[0].clone(), "larder; fwd=uri-miss; stored".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_too_large_for_memory_is_served_from_disk() {
    let heart = Heart::with(|_| Setup { memory: 100_000, ..Setup::default() });
    let (small, large) = (module("small", 20_000), module("large", 600_000));
    heart.registry.put("plugins/small", "1", &raw(&small));
    heart.registry.put("plugins/large", "1", &raw(&large));
    for _ in 0..2 {
        heart.ok("small", "1").await;
        assert_eq!(heart.ok("large", "1").await.0, large);
    }
    assert!(heart.ok("small", "1").await.1.ends_with("detail=memory"));
    assert!(heart.ok("large", "1").await.1.ends_with("detail=disk"));
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_followed_so_deep_and_no_deeper() {
    let heart = Heart::new();
    let mut artifact = raw(&module("deep", 5000));
    for depth in 1..=5 {
        artifact = index(OCI_INDEX, &[("linux", "amd64", artifact.clone())], &artifact.module.clone());
        // An index names its children by digest only, and so must all the way down be there.
        heart.registry.put("plugins/deep", &depth.to_string(), &artifact);
    }
    heart.ok("deep", "1").await;
    heart.ok("deep", "3").await;
    assert_eq!(heart.code("deep", "5").await, "index_depth");
}
