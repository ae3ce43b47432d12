//! The search: which candidate answers, and when the next may be asked.

use crate::support::artifact::{module, raw};
use crate::support::heart::{ABSENT_LIFETIME, Heart, Setup, TRANSIENT_LIFETIME};
use crate::support::scripted::{Act, Scripted};
use crate::support::until;
use larder::catalog::Why;
use std::sync::Arc;

/// `waf` is listed with 2.0.0 and asked for as 1.0.0.
fn listed(host: &str) -> Setup {
    Setup { lines: format!("waf={host}/plugins/waf:2.0.0"), ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogs_tag_answers_for_a_version_that_does_not_exist() {
    let heart = Heart::with(listed);
    let two = module("two", 5000);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    let served = heart.get("waf", "1.0.0").await.unwrap();
    assert_eq!(served.found.why, Why::Fallback);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
    assert_eq!(heart.ok("waf", "").await.0, two, "a URL without a version");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallback_can_be_switched_off() {
    let heart = Heart::with(|host| Setup { fallback: false, ..listed(host) });
    heart.registry.put("plugins/waf", "2.0.0", &raw(&module("two", 5000)));
    assert_eq!(heart.code("waf", "1.0.0").await, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_what_does_not_exist_does_not_end_the_search() {
    let heart = Heart::with(listed);
    let two = module("two", 5000);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    heart.registry.script(|ask, truth| if ask.path.ends_with("1.0.0") { Act::status(401) } else { truth });
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
    heart.registry.script(|_, _| Act::status(401));
    assert_eq!(heart.code("other", "1.0.0").await, "denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_no_absence_and_never_brings_another_version() {
    let page = |status| Act::status(status).header("Content-Type", "text/html").body("<html>blocked</html>");
    for act in
        [Act::hang_up(), Act::status(500), Act::status(429), page(404), page(403), page(401), page(200)]
    {
        let heart = Heart::with(listed);
        heart.registry.put("plugins/waf", "2.0.0", &raw(&module("two", 5000)));
        let failing = act.clone();
        heart.registry.script(
            move |ask, truth| {
                if ask.path.ends_with("1.0.0") { failing.clone() } else { truth }
            },
        );
        let code = heart.code("waf", "1.0.0").await;
        assert!(["connect", "upstream", "rate_limited"].contains(&code), "{code}");
        assert_eq!(heart.registry.count(|ask| ask.path.ends_with("2.0.0")), 0, "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_version_does_not_bring_another_one_either() {
    let heart = Heart::with(listed);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&module("two", 5000)));
    heart.registry.put("plugins/waf", "1.0.0", &raw(b"<html>"));
    assert_eq!(heart.code("waf", "1.0.0").await, "not_wasm");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fallback_served_is_served_when_the_registry_is_down_also_after_a_restart() {
    let heart = Heart::with(listed);
    let two = module("two", 5000);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    heart.ok("waf", "1.0.0").await;
    heart.registry.down();
    heart.clock.advance(ABSENT_LIFETIME * 1000);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
    let heart = heart.restart().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_never_asked_for_is_not_answered_by_another_when_the_registry_is_down() {
    let heart = Heart::with(listed);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&module("two", 5000)));
    heart.ok("waf", "2.0.0").await;
    heart.registry.down();
    assert_eq!(heart.code("waf", "1.0.0").await, "connect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_comes_into_being_replaces_the_fallback() {
    let heart = Heart::with(listed);
    let (one, two) = (module("one", 5000), module("two", 5000));
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
    heart.registry.put("plugins/waf", "1.0.0", &raw(&one));
    heart.clock.advance(ABSENT_LIFETIME);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two, "asked about behind the request");
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_absent_and_one_silent_candidate_are_a_failure_and_no_absence() {
    let heart =
        Heart::with(|host| Setup { lines: format!("waf={host}/elsewhere/waf:2.0.0"), ..Setup::default() });
    heart.registry.script(|ask, truth| if ask.path.contains("2.0.0") { Act::hang_up() } else { truth });
    assert_eq!(heart.code("waf", "1.0.0").await, "connect");
    assert_eq!(heart.code("waf", "1.0.0").await, "connect", "from memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_for_one_version_leads_elsewhere() {
    let heart = Heart::with(|host| Setup {
        lines: format!("mcp@1.0.0={host}/mcp/all-in-one:one"),
        ..Setup::default()
    });
    let one = module("one", 5000);
    heart.registry.put("mcp/all-in-one", "one", &raw(&one));
    assert_eq!(heart.ok("mcp", "1.0.0").await.0, one);
}

/// `waf` lies in two repositories, the first of which is asked first.
fn in_two_places(host: &str) -> Setup {
    let repositories = vec![("waf", vec![format!("{host}/first/waf"), format!("{host}/second/waf")])];
    Setup { repositories, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_a_step_is_served_whatever_an_earlier_repository_does() {
    let heart = Heart::with(in_two_places);
    let second = module("second", 5000);
    heart.registry.put("second/waf", "1.0.0", &raw(&second));
    heart.registry.script(|ask, truth| if ask.path.contains("/first/") { Act::status(500) } else { truth });
    assert_eq!(heart.ok("waf", "1.0.0").await.0, second);
    for round in 0..3 {
        heart.clock.advance(TRANSIENT_LIFETIME);
        heart.registry.forget();
        let (bytes, status) = heart.ok("waf", "1.0.0").await;
        assert_eq!(bytes, second);
        assert!(status.starts_with("larder; hit;"), "{round}: {status}");
        heart.settle().await;
        assert_eq!(
            heart.registry.count(|ask| ask.path.contains("/first/")),
            1,
            "asked about behind the request"
        );
    }
    let heart = heart.restart().await;
    assert!(heart.ok("waf", "1.0.0").await.1.starts_with("larder; hit;"), "after a restart");
    heart.settle().await;
    let first = module("first", 5000);
    heart.registry.put("first/waf", "1.0.0", &raw(&first));
    heart.registry.heal();
    heart.clock.advance(TRANSIENT_LIFETIME);
    heart.ok("waf", "1.0.0").await;
    heart.settle().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, first, "the first one's, once it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_invent_does_not_push_out_what_a_fallback_needs() {
    let heart = Heart::with(listed);
    let two = module("two", 5000);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    heart.ok("waf", "1.0.0").await;
    let kept = heart.files("records").len();
    for n in 0..300 {
        assert_eq!(heart.code(&format!("invented{n}"), "1.0.0").await, "not_found");
    }
    assert_eq!(heart.files("records").len(), kept, "nothing is written for what leads nowhere");
    heart.registry.down();
    heart.clock.advance(ABSENT_LIFETIME * 10);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stalls_holds_up_nobody_but_those_who_ask_it() {
    let other = Scripted::start();
    let bytes = module("other", 5000);
    other.put("plugins/other", "1", &raw(&bytes));
    let host = other.host();
    let heart = Heart::with(|_| Setup {
        lines: format!("other={host}/plugins/other:1"),
        plain_http: vec![host.clone()],
        ..Setup::default()
    });
    let heart = Arc::new(heart);
    heart.registry.close_gate();
    let mut waiting = Vec::new();
    for n in 0..60 {
        heart.registry.put(&format!("plugins/stalled{n}"), "1", &raw(&module(&n.to_string(), 500)));
        let heart = heart.clone();
        waiting.push(tokio::spawn(async move { heart.get(&format!("stalled{n}"), "1").await.map(|_| ()) }));
    }
    until("a fetch in every place", || heart.registry.count(|ask| ask.is_blob()) >= 16).await;
    assert_eq!(heart.ok("other", "1").await.0, bytes);
    heart.registry.open_gate();
    for task in waiting {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_path_is_absent_and_no_panic() {
    let heart = Heart::new();
    for name in ["a.-b", "a___b", "0._0"] {
        assert_eq!(heart.code(name, "1").await, "not_found", "{name}");
    }
    assert_eq!(heart.registry.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_served_out_of_what_is_held_is_served_later_too() {
    let heart = Heart::with(listed);
    let two = module("two", 5000);
    heart.registry.put("plugins/waf", "2.0.0", &raw(&two));
    heart.registry.script(|ask, truth| if ask.is_blob() { Act::status(500) } else { truth });
    assert_eq!(heart.code("waf", "1.0.0").await, "upstream", "1.0.0 is absent, and 2.0.0 fails");
    heart.registry.heal();
    heart.clock.advance(TRANSIENT_LIFETIME);
    heart.ok("waf", "2.0.0").await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two, "nothing is asked for this");
    until("a record of the absence", || heart.files("records").len() == 2).await;
    heart.registry.down();
    heart.clock.advance(ABSENT_LIFETIME * 10);
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
    let heart = heart.restart().await;
    assert_eq!(heart.ok("waf", "1.0.0").await.0, two);
}
