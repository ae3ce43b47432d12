//! Credentials: to whom they go, how often they are sent, and to whom they never go.

use crate::support::artifact::{module, raw};
use crate::support::heart::{ABSENT_LIFETIME, Heart, Setup, TRANSIENT_LIFETIME};
use crate::support::scripted::{Act, Ask, Scripted};
use larder::registry::HostConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A registry whose token service is itself: `/token` grants `tok-N`, the newest is accepted.
fn with_tokens(
    registry: &Scripted,
    realm: &str,
    answer: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let granted = Arc::new(AtomicUsize::new(0));
    let (count, realm) = (granted.clone(), realm.to_owned());
    registry.script(move |ask, truth| {
        if ask.path.starts_with("/token") {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            return Act::status(200).header("Content-Type", "application/json").body(answer(n));
        }
        let newest = format!("Bearer tok-{}", count.load(Ordering::SeqCst));
        if ask.headers.get("authorization") == Some(&newest) {
            return truth;
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:*:push,pull\"");
        Act::status(401)
            .header("WWW-Authenticate", &challenge)
            .body(r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
    });
    granted
}

fn user(host: &str, folder: &tempfile::TempDir) -> (String, HostConfig) {
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let config = HostConfig {
        plain_http: true,
        username: Some("robot".into()),
        password_file: Some(file),
        ..HostConfig::default()
    };
    (host.into(), config)
}

const BASIC: &str = "Basic cm9ib3Q6czNjcmV0";

fn is_token(ask: &Ask) -> bool {
    ask.path.starts_with("/token")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_token_is_asked_for_once_with_our_own_scope() {
    let heart = Heart::new();
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1", &one);
    heart.registry.put("plugins/waf", "2", &raw(&module("two", 5000)));
    let realm = format!("http://{}/token", heart.registry.host());
    let granted =
        with_tokens(&heart.registry, &realm, |n| format!(r#"{{"token":"tok-{n}","expires_in":300}}"#));
    heart.ok("waf", "1").await;
    heart.ok("waf", "2").await;
    assert_eq!(granted.load(Ordering::SeqCst), 1);
    let tokens: Vec<_> = heart.registry.asked().into_iter().filter(is_token).collect();
    assert!(tokens[0].path.contains("scope=repository%3Aplugins%2Fwaf%3Apull"), "{}", tokens[0].path);
    assert!(tokens[0].path.contains("service=test"));
    assert_eq!(tokens[0].headers.get("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_expires_and_once_when_it_is_refused() {
    let heart = Heart::new();
    for n in 1..=3 {
        heart.registry.put("plugins/waf", &n.to_string(), &raw(&module(&n.to_string(), 5000)));
    }
    let realm = format!("http://{}/token", heart.registry.host());
    let granted =
        with_tokens(&heart.registry, &realm, |n| format!(r#"{{"access_token":"tok-{n}","expires_in":100}}"#));
    heart.ok("waf", "1").await;
    heart.clock.advance(Duration::from_secs(95));
    heart.ok("waf", "2").await;
    assert_eq!(granted.load(Ordering::SeqCst), 2, "not used in its last seconds");
    granted.fetch_add(10, Ordering::SeqCst);
    heart.ok("waf", "3").await;
    assert_eq!(granted.load(Ordering::SeqCst), 13, "revoked, and renewed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_rights_is_not_asked_for_again_and_again() {
    let heart = Heart::new();
    let realm = format!("http://{}/token", heart.registry.host());
    with_tokens(&heart.registry, &realm, |_| r#"{"token":"useless"}"#.into());
    assert_eq!(heart.code("waf", "1").await, "denied");
    assert_eq!(heart.registry.count(is_token), 1);
    assert_eq!(heart.registry.asked().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_refuses_one_repository_is_asked_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::with(|host| Setup { hosts: [user(host, &folder)].into(), ..Setup::default() });
    heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
    let realm = format!("http://{}/token", heart.registry.host());
    heart.registry.script(move |ask, truth| match ask.headers.get("authorization").map(String::as_str) {
        _ if ask.path.contains("/token") && ask.path.contains("secret") => Act::status(403),
        _ if ask.path.contains("/token") => Act::status(200).body(r#"{"token":"tok"}"#),
        Some("Bearer tok") => truth,
        _ => Act::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")),
    });
    assert_eq!(heart.code("secret", "1").await, "denied");
    heart.ok("waf", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_beside_a_not_found_is_no_reason_to_ask_for_nothing_else() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
    heart.registry.script(|ask, truth| match ask.path.contains("/other/") {
        true => Act::status(404).header("Retry-After", "600"),
        false => truth,
    });
    assert_eq!(heart.code("other", "1").await, "not_found");
    heart.ok("waf", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_token_answers_are_told_and_not_sent() {
    for answer in [r#"{}"#, r#"{"token":""}"#, "no json", r#"{"token":"a\r\nX-Evil: 1"}"#, r#"[]"#] {
        let heart = Heart::new();
        let realm = format!("http://{}/token", heart.registry.host());
        with_tokens(&heart.registry, &realm, move |_| answer.into());
        assert_eq!(heart.code("waf", "1").await, "bad_token", "{answer}");
        assert_eq!(heart.registry.count(|ask| ask.headers.contains_key("x-evil")), 0);
    }
    for lifetime in ["-1", "0", "1e18", "\"x\"", "null"] {
        let heart = Heart::new();
        heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
        let realm = format!("http://{}/token", heart.registry.host());
        with_tokens(&heart.registry, &realm, move |n| {
            format!(r#"{{"token":"tok-{n}","expires_in":{lifetime}}}"#)
        });
        heart.ok("waf", "1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_on_a_foreign_host_sees_no_connection() {
    let heart = Heart::with(|host| {
        let folder = tempfile::tempdir().unwrap();
        let hosts = [user(host, &folder)].into();
        // The folder must outlive the reading of the password, which is done when the heart is built.
        std::mem::forget(folder);
        Setup { hosts, ..Setup::default() }
    });
    let foreign = Scripted::start();
    let realm = format!("http://localhost:{}/token", foreign.address.port());
    with_tokens(&heart.registry, &realm, |_| String::new());
    let error = heart.get("waf", "1").await.unwrap_err();
    assert_eq!(error.code, "realm_refused");
    assert!(error.hint.contains("token_hosts"), "{}", error.hint);
    assert_eq!(foreign.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_token_host_gets_the_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::with(|host| {
        let (host, mut config) = user(host, &folder);
        config.token_hosts = vec!["localhost".into()];
        Setup { hosts: [(host, config)].into(), ..Setup::default() }
    });
    heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
    let realm = format!("http://localhost:{}/token", heart.registry.address.port());
    with_tokens(&heart.registry, &realm, |n| format!(r#"{{"token":"tok-{n}"}}"#));
    heart.ok("waf", "1").await;
    let token = heart.registry.asked().into_iter().find(is_token).unwrap();
    assert_eq!(token.headers["authorization"], BASIC);
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_is_sent_when_it_is_asked_for_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    for challenge in [Some("Basic realm=\"test\""), None] {
        let heart = Heart::with(|host| Setup { hosts: [user(host, &folder)].into(), ..Setup::default() });
        heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
        heart.registry.script(move |ask, truth| {
            if ask.headers.get("authorization").is_some_and(|value| value == BASIC) {
                return truth;
            }
            let act = Act::status(401);
            challenge.into_iter().fold(act, |act, challenge| act.header("WWW-Authenticate", challenge))
        });
        heart.ok("waf", "1").await;
        let sent: Vec<_> =
            heart.registry.asked().iter().map(|ask| ask.headers.contains_key("authorization")).collect();
        assert_eq!(sent, [false, true, true], "{challenge:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_to_the_bytes_and_takes_no_credentials_along() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::with(|host| Setup { hosts: [user(host, &folder)].into(), ..Setup::default() });
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1", &one);
    let store = Scripted::start();
    store.put("plugins/waf", "1", &one);
    let elsewhere = store.host();
    heart.registry.script(move |ask, truth| {
        if !ask.headers.contains_key("authorization") {
            return Act::status(401).header("WWW-Authenticate", "Basic realm=x");
        }
        if ask.is_blob() {
            Act::status(307).header("Location", &format!("http://{elsewhere}{}", ask.path))
        } else {
            truth
        }
    });
    assert_eq!(heart.ok("waf", "1").await.0, one.module);
    let followed = store.asked();
    assert_eq!(followed.len(), 1);
    assert_eq!(followed[0].headers.get("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_a_circle_or_to_another_scheme_are_refused() {
    for location in [
        "/v2/plugins/waf/manifests/1",
        "ftp://127.0.0.1/x",
        "http://u:p@127.0.0.1/x",
        "http://127.0.0.1:22/x",
    ] {
        let heart = Heart::new();
        heart.registry.script(move |_, _| Act::status(302).header("Location", location));
        assert_eq!(heart.code("waf", "1").await, "redirect_refused", "{location}");
        assert!(heart.registry.asked().len() <= 6);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redirects_target_refuses_is_no_absence() {
    let heart = Heart::new();
    heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
    let elsewhere = Scripted::start();
    elsewhere.script(|_, _| Act::status(403));
    let location = format!("http://{}/gone", elsewhere.host());
    heart.registry.script(move |ask, truth| match ask.is_manifest() {
        true => Act::status(307).header("Location", &location),
        false => truth,
    });
    assert_eq!(heart.code("waf", "1").await, "upstream");
    // Its own word it is within its own host.
    heart.clock.advance(TRANSIENT_LIFETIME);
    heart.registry.script(|ask, truth| match ask.path.as_str() {
        "/gone" => Act::status(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        _ if ask.is_manifest() => Act::status(307).header("Location", "/gone"),
        _ => truth,
    });
    assert_eq!(heart.code("waf", "2").await, "not_found");
    heart.registry.heal();
    heart.clock.advance(TRANSIENT_LIFETIME);
    heart.ok("waf", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_sent_once_a_minute_whatever_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let heart = Heart::with(|host| Setup { hosts: [user(host, &folder)].into(), ..Setup::default() });
    heart.registry.script(|_, _| Act::status(401).header("WWW-Authenticate", "Basic realm=x"));
    let sent = || heart.registry.count(|ask| ask.headers.contains_key("authorization"));
    for (name, times) in [("waf", 1), ("other", 1), ("waf", 2), ("other", 2), ("waf", 3)] {
        let error = heart.get(name, "1").await.unwrap_err();
        assert_eq!(error.code, "denied");
        assert!(error.hint.contains("are the credentials"), "{}", error.hint);
        assert_eq!(sent(), times, "{name}");
        let refused = heart.metrics.logins.with_label_values(&[&heart.registry.host(), "refused"]).get();
        assert_eq!(refused, times as u64, "each is counted once");
        heart.clock.advance(ABSENT_LIFETIME);
    }
    // Another password is another try.
    std::fs::write(folder.path().join("password"), "0ther\n").unwrap();
    heart.get("other", "1").await.unwrap_err();
    assert_eq!(sent(), 4);
}
