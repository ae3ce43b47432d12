//! What a registry does to us on a bad day: each row by what the client gets, what the log and the metrics say, and what
//! the registry saw.

use crate::support::artifact::{module, raw};
use crate::support::client::Reply;
use crate::support::eventually;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::{Act, Ask, Scripted};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PATH: &str = "/plugins/waf/1/plugin.wasm";

/// A registry with `waf` 1 and `other` 1, and what `waf` is.
fn stocked() -> (Scripted, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("waf", 40_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    registry.put("plugins/other", "1", &raw(&module("other", 40_000)));
    (registry, bytes)
}

/// A larder before it, with lines below `registry:` and whole parts behind it.
fn before(registry: &Scripted, more: &str, parts: &str) -> Larder {
    let text = settings(&registry.host()).replace("registry:\n", &format!("registry:\n  certs: []\n{more}"));
    Home::new(&format!("{text}{parts}")).start()
}

fn code(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

fn fills(larder: &Larder, registry: &Scripted, result: &str) -> f64 {
    larder.metric(&format!("larder_fills_total{{registry=\"{}\",result=\"{result}\"}}", registry.host()))
}

/// Lines leave by a thread of their own.
fn logged(larder: &Larder, key: &str, value: &str) -> bool {
    eventually("a line in the log", || larder.log().iter().any(|line| line[key] == value).then_some(true))
}

/// Nothing was kept and nothing is left lying about.
fn nothing_on_disk(larder: &Larder) {
    for folder in ["modules", "records", "tmp"] {
        let left = crate::support::heart::files(&larder.home.cache().join("v1").join(folder));
        assert!(left.is_empty(), "{left:?}");
    }
}

fn is_token(ask: &Ask) -> bool {
    ask.path.starts_with("/token")
}

#[test]
fn a_body_cut_in_the_middle_is_taken_up_again_where_it_broke() {
    let (registry, bytes) = stocked();
    let cuts = AtomicUsize::new(0);
    registry.script(move |ask, truth| {
        if ask.is_blob() && cuts.fetch_add(1, Ordering::SeqCst) < 2 {
            return Act { cut: Some(15_000), ..truth };
        }
        truth
    });
    let larder = before(&registry, "", "");
    assert_eq!(larder.get(PATH).body, bytes);
    let ranges: Vec<_> = registry
        .asked()
        .iter()
        .filter(|ask| ask.is_blob())
        .map(|ask| ask.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=15000-".into()), Some("bytes=30000-".into())]);
    assert_eq!(larder.metric(&format!("larder_retries_total{{registry=\"{}\"}}", registry.host())), 2.0);
    assert!(logged(&larder, "message", "transfer resumed"));
    assert_eq!(
        larder.metric(&format!("larder_fetched_bytes_total{{registry=\"{}\"}}", registry.host())),
        40_000.0
    );
}

#[test]
fn a_registry_without_ranges_sends_the_whole_again_and_what_was_there_is_passed_over() {
    let (registry, bytes) = stocked();
    let (cuts, whole) = (AtomicUsize::new(0), bytes.clone());
    registry.script(move |ask, truth| {
        if !ask.is_blob() {
            return truth;
        }
        let act = Act::status(200).body(whole.clone());
        if cuts.fetch_add(1, Ordering::SeqCst) < 1 { Act { cut: Some(15_000), ..act } } else { act }
    });
    let larder = before(&registry, "", "");
    assert_eq!(larder.get(PATH).body, bytes);
    assert_eq!(registry.count(|ask| ask.is_blob()), 2);
}

#[test]
fn a_registry_that_refuses_our_form_of_a_range_is_asked_for_the_whole() {
    let (registry, bytes) = stocked();
    let cuts = AtomicUsize::new(0);
    registry.script(move |ask, truth| match ask.is_blob() {
        true if ask.headers.contains_key("range") => Act::status(416),
        true if cuts.fetch_add(1, Ordering::SeqCst) == 0 => Act { cut: Some(15_000), ..truth },
        _ => truth,
    });
    let larder = before(&registry, "", "");
    assert_eq!(larder.get(PATH).body, bytes);
    assert_eq!(registry.count(|ask| ask.is_blob()), 3);
}

#[test]
fn a_body_that_is_always_cut_is_a_502_and_nothing_stays() {
    let (registry, _) = stocked();
    registry.script(|ask, truth| match ask.is_blob() {
        // Nothing comes of going on.
        true if ask.headers.contains_key("range") => Act { cut: Some(0), ..truth },
        true => Act { cut: Some(15_000), ..truth },
        false => truth,
    });
    let larder = before(&registry, "", "");
    let reply = larder.get(PATH);
    assert_eq!(code(&reply), (502, "size_mismatch".into()), "{}", reply.text());
    assert!(
        reply.json()["detail"].as_str().unwrap().contains("cut after 15000 of 40000 bytes"),
        "{}",
        reply.text()
    );
    assert_eq!(registry.count(|ask| ask.is_blob()), 3);
    assert_eq!(fills(&larder, &registry, "size_mismatch"), 1.0);
    assert!(logged(&larder, "code", "size_mismatch"));
    nothing_on_disk(&larder);
}

#[test]
fn ranges_that_are_not_those_asked_for_are_never_put_together() {
    for lie in ["bytes 0-39999/40000", "bytes 16000-39999/40000", "nonsense"] {
        let (registry, bytes) = stocked();
        let honest = Arc::new(AtomicBool::new(false));
        let told = honest.clone();
        registry.script(move |ask, truth| match ask.is_blob() && !told.load(Ordering::SeqCst) {
            true if ask.headers.contains_key("range") => {
                Act { headers: Vec::new(), ..truth }.header("Content-Range", lie)
            }
            true => Act { cut: Some(15_000), ..truth },
            false => truth,
        });
        let larder = before(&registry, "", "lifetimes: {transient: 0s}\n");
        let reply = larder.get(PATH);
        assert_eq!(code(&reply), (502, "upstream".into()), "{lie}: {}", reply.text());
        nothing_on_disk(&larder);
        honest.store(true, Ordering::SeqCst);
        assert_eq!(larder.get(PATH).body, bytes);
    }
}

#[test]
fn a_registry_that_says_429_is_left_alone_as_long_as_it_asks_for_everything() {
    let (registry, bytes) = stocked();
    let larder = before(&registry, "", "lifetimes: {tag: 0s}\n");
    assert_eq!(larder.get(PATH).body, bytes);
    registry.script(|_, _| Act::status(429).header("Retry-After", "30"));
    registry.forget();
    let cold = larder.get("/plugins/other/1/plugin.wasm");
    assert_eq!(code(&cold), (503, "rate_limited".into()), "{}", cold.text());
    assert_eq!(cold.header("retry-after"), "30");
    assert_eq!(registry.asked().len(), 1, "not asked again");
    let another = larder.get("/plugins/another/1/plugin.wasm");
    assert_eq!(code(&another), (503, "rate_limited".into()), "{}", another.text());
    let left: u64 = another.header("retry-after").parse().unwrap();
    assert!((20..=30).contains(&left), "{left}");
    eventually("the reason in Cache-Status", || {
        let warm = larder.get(PATH);
        assert_eq!((warm.status, &warm.body), (200, &bytes));
        warm.header("cache-status").ends_with("detail=stale-rate_limited").then_some(())
    });
    assert_eq!(registry.asked().len(), 1, "nothing was asked of it meanwhile");
    assert_eq!(larder.metric(&format!("larder_breaker_state{{registry=\"{}\"}}", registry.host())), 1.0);
    assert!(larder.metric("larder_stale_served_total{reason=\"rate_limited\"}") >= 1.0);
    assert!(another.json()["hint"].as_str().unwrap().contains("mirror"), "{}", another.text());
    let explained = crate::support::client::get(larder.admin, "/explain?name=other&version=1").text();
    assert!(
        explained.contains("\nrate_limited: ") && explained.contains("is not asked for another"),
        "{explained}"
    );
    assert_eq!(registry.asked().len(), 1, "an explanation heeds it too");
}

/// A registry whose tokens come from `/token`, which answers as `token` says.
fn with_tokens(registry: &Scripted, token: impl Fn(usize) -> Act + Send + Sync + 'static) {
    let (realm, asked) = (format!("http://{}/token", registry.host()), AtomicUsize::new(0));
    registry.script(move |ask, truth| {
        if is_token(ask) {
            return token(asked.fetch_add(1, Ordering::SeqCst) + 1);
        }
        let newest = format!("Bearer tok-{}", asked.load(Ordering::SeqCst));
        if ask.headers.get("authorization") == Some(&newest) {
            return truth;
        }
        Act::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=\"s\""))
    });
}

#[test]
fn a_token_service_in_trouble_is_asked_once_in_five_seconds() {
    for (status, expected) in [(429, (503, "rate_limited")), (500, (502, "token")), (503, (502, "token"))] {
        let (registry, _) = stocked();
        with_tokens(&registry, move |_| Act::status(status));
        let larder = before(&registry, "", "lifetimes: {transient: 0s}\n");
        for path in [PATH, "/plugins/other/1/plugin.wasm", PATH] {
            let reply = larder.get(path);
            assert_eq!(code(&reply), (expected.0, expected.1.into()), "{}", reply.text());
        }
        assert_eq!(registry.count(is_token), 1, "{status}");
        assert!(fills(&larder, &registry, expected.1) >= 1.0);
        assert!(logged(&larder, "code", expected.1));
    }
}

#[test]
fn a_token_that_expires_in_the_middle_of_a_transfer_is_renewed_once_and_the_transfer_goes_on() {
    let (registry, bytes) = stocked();
    let (realm, granted) = (format!("http://{}/token", registry.host()), AtomicUsize::new(0));
    let cut = AtomicUsize::new(0);
    registry.script(move |ask, truth| {
        if is_token(ask) {
            let n = granted.fetch_add(1, Ordering::SeqCst) + 1;
            return Act::status(200).body(format!(r#"{{"token":"tok-{n}","expires_in":300}}"#));
        }
        // The first token is good for no more than the first request for the layer.
        let good = format!("Bearer tok-{}", 1 + cut.load(Ordering::SeqCst).min(1));
        if ask.headers.get("authorization") != Some(&good) {
            return Act::status(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""));
        }
        if ask.is_blob() && cut.fetch_add(1, Ordering::SeqCst) == 0 {
            return Act { cut: Some(15_000), ..truth };
        }
        truth
    });
    let larder = before(&registry, "", "");
    assert_eq!(larder.get(PATH).body, bytes);
    assert_eq!(registry.count(is_token), 2);
    assert!(logged(&larder, "message", "token_refreshed"));
    assert_eq!(
        larder.metric(&format!("larder_logins_total{{registry=\"{}\",result=\"ok\"}}", registry.host())),
        2.0
    );
}

#[test]
fn revoked_credentials_are_sent_once_a_minute_and_what_is_held_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret-s3cret\n").unwrap();
    let (registry, bytes) = stocked();
    let revoked = Arc::new(AtomicBool::new(false));
    let gone = revoked.clone();
    registry.script(move |ask, truth| match ask.headers.contains_key("authorization") {
        true if !gone.load(Ordering::SeqCst) => truth,
        _ => Act::status(401).header("WWW-Authenticate", "Basic realm=x"),
    });
    let rule = format!(
        "  hosts:\n    '{}': {{plain_http: true, username: robot, password_file: '{}'}}\n",
        registry.host(),
        file.display()
    );
    let larder = before(&registry, &rule, "lifetimes: {tag: 0s, absent: 0s, transient: 0s}\n");
    assert_eq!(larder.get(PATH).body, bytes);
    revoked.store(true, Ordering::SeqCst);
    registry.forget();
    eventually("the reason in Cache-Status", || {
        let warm = larder.get(PATH);
        assert_eq!((warm.status, &warm.body), (200, &bytes));
        warm.header("cache-status").ends_with("detail=stale-denied").then_some(())
    });
    for _ in 0..5 {
        let cold = larder.get("/plugins/other/1/plugin.wasm");
        assert_eq!(code(&cold), (403, "denied".into()), "{}", cold.text());
    }
    let sent = registry.count(|ask| ask.headers.contains_key("authorization"));
    assert_eq!(sent, 1, "no account is locked by us");
    let refused = format!("larder_logins_total{{registry=\"{}\",result=\"refused\"}}", registry.host());
    assert_eq!(larder.metric(&refused), 1.0);
}

#[test]
fn a_registry_that_falls_silent_or_drips_is_a_504_within_its_limits() {
    type Change = fn(Act) -> Act;
    let stall: Change = |truth| truth.stall(1000);
    let drip: Change = |truth| Act { pace: Some((1, std::time::Duration::from_millis(20))), ..truth };
    // The silence that is too long is longer than a busy machine's own.
    let limits = "  idle_timeout: 700ms\n  least_rate: 10KiB\n";
    for (change, expected) in [(stall, "timeout"), (drip, "slow")] {
        let (registry, bytes) = stocked();
        registry.script(move |ask, truth| if ask.is_blob() { change(truth) } else { truth });
        let larder = before(&registry, limits, "lifetimes: {transient: 0s}\nfill: {hold: 50s}\n");
        let reply = larder.get(PATH);
        assert_eq!(code(&reply), (504, expected.into()), "{}", reply.text());
        let hint = reply.json()["hint"].as_str().unwrap().to_owned();
        assert!(hint.contains(if expected == "slow" { "least_rate" } else { "idle_timeout" }), "{hint}");
        assert_eq!(fills(&larder, &registry, expected), 1.0);
        assert!(logged(&larder, "code", expected));
        nothing_on_disk(&larder);
        registry.heal();
        assert_eq!(larder.get(PATH).body, bytes);
    }
}

#[test]
fn a_registry_that_never_answers_is_a_504_that_names_the_limit() {
    let (registry, _) = stocked();
    registry.close_gate();
    registry.script(|ask, truth| if ask.is_manifest() { truth } else { Act::hang_up() });
    let larder =
        before(&registry, "  first_byte_timeout: 200ms\n  connect_timeout: 200ms\n  attempts: 2\n", "");
    let reply = larder.get(PATH);
    assert_eq!(code(&reply), (504, "timeout".into()), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("first_byte_timeout"), "{}", reply.text());
    registry.open_gate();
}

#[test]
fn a_registry_that_fails_every_other_time_is_a_200_with_its_retries_counted() {
    let (registry, _) = stocked();
    for n in 0..20 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 5000)));
    }
    let turn = AtomicUsize::new(0);
    registry.script(move |_, truth| {
        if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { Act::status(500) } else { truth }
    });
    let larder = before(&registry, "", "");
    for n in 0..20 {
        assert_eq!(larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).status, 200, "{n}");
    }
    let retries = larder.metric(&format!("larder_retries_total{{registry=\"{}\"}}", registry.host()));
    assert!(retries >= 20.0, "{retries}");
    eventually("a line for each retry", || {
        let asked_again = larder.log().iter().filter(|line| line["message"] == "asked again").count();
        (asked_again as f64 == retries).then_some(())
    });
}

#[test]
fn a_registry_that_is_down_is_asked_by_one_at_a_time_and_found_again_soon() {
    let (registry, _) = stocked();
    for n in 0..60 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 5000)));
    }
    registry.down();
    let larder = before(&registry, "", "lifetimes: {transient: 0s}\n");
    std::thread::scope(|scope| {
        for n in 0..50 {
            let larder = &larder;
            scope.spawn(move || {
                let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
                assert_eq!(code(&reply), (502, "connect".into()), "{}", reply.text());
            });
        }
    });
    let before_rest = registry.asked().len();
    std::thread::scope(|scope| {
        for n in 50..60 {
            let larder = &larder;
            scope.spawn(move || {
                let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
                assert_eq!(code(&reply), (502, "connect".into()), "{}", reply.text());
            });
        }
    });
    let asked = registry.asked().len() - before_rest;
    assert!(asked <= 6, "{asked} requests for ten plugins, each with three attempts");
    registry.heal();
    eventually("the registry being found again", || (larder.get(PATH).status == 200).then_some(()));
    let state = larder.metric(&format!("larder_breaker_state{{registry=\"{}\"}}", registry.host()));
    assert_eq!(state, 0.0);
}

#[test]
fn a_registry_that_asks_for_a_moment_in_the_middle_of_a_layer_loses_nothing_of_it() {
    let (registry, bytes) = stocked();
    let turn = AtomicUsize::new(0);
    registry.script(move |ask, truth| {
        match (ask.is_blob(), ask.is_blob().then(|| turn.fetch_add(1, Ordering::SeqCst))) {
            (true, Some(0)) => Act { cut: Some(15_000), ..truth },
            (true, Some(1)) => Act::status(429).header("Retry-After", "1"),
            _ => truth,
        }
    });
    let larder = before(&registry, "", "");
    let reply = larder.get(PATH);
    assert_eq!(reply.body, bytes, "{}", reply.text());
    assert_eq!(
        larder.metric(&format!("larder_fetched_bytes_total{{registry=\"{}\"}}", registry.host())),
        40_000.0
    );
}

#[test]
fn what_nginx_says_of_plain_http_and_of_client_certificates_is_understood() {
    for (page, words) in [
        ("<center>The plain HTTP request was sent to HTTPS port</center>", "speaks TLS there"),
        ("<center>No required SSL certificate was sent</center>", "client_certificate"),
        ("<center>something else</center>", "a web page"),
    ] {
        let (registry, _) = stocked();
        registry.script(move |_, _| Act::status(400).header("Content-Type", "text/html").body(page));
        let reply = before(&registry, "", "").get(PATH);
        assert_eq!(code(&reply), (502, "upstream".into()), "{}", reply.text());
        assert!(reply.json()["hint"].as_str().unwrap().contains(words), "{words}: {}", reply.text());
    }
}

#[test]
fn a_page_for_people_in_place_of_a_layer_is_told_as_that() {
    let (registry, _) = stocked();
    registry.script(|ask, truth| match ask.is_blob() {
        true => {
            Act::status(200).header("Content-Type", "text/html; charset=utf-8").body("<html>sign in</html>")
        }
        false => truth,
    });
    let reply = before(&registry, "", "").get(PATH);
    assert_eq!(code(&reply), (502, "upstream".into()), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("a page of its own"), "{}", reply.text());
}

#[test]
fn a_blip_that_fails_many_at_once_costs_nobody_an_answer() {
    let registry = Scripted::start();
    for n in 0..30 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 5000)));
    }
    let begun = std::sync::OnceLock::new();
    registry.script(move |_, truth| {
        let begun = begun.get_or_init(std::time::Instant::now);
        if begun.elapsed() < std::time::Duration::from_millis(600) { Act::hang_up() } else { truth }
    });
    let larder = before(&registry, "", "");
    std::thread::scope(|scope| {
        for n in 0..30 {
            let larder = &larder;
            scope.spawn(move || {
                let reply = larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
                assert_eq!(reply.status, 200, "{}", reply.text());
            });
        }
    });
}

#[test]
fn a_layer_of_other_bytes_is_fetched_twice_and_then_remembered_as_a_502() {
    let (registry, bytes) = stocked();
    registry.script(|ask, mut truth| {
        if ask.is_blob() {
            truth.body[3000] ^= 1;
        }
        truth
    });
    let larder = before(&registry, "", "");
    for _ in 0..3 {
        let reply = larder.get(PATH);
        assert_eq!(code(&reply), (502, "digest_mismatch".into()), "{}", reply.text());
    }
    assert_eq!(registry.count(|ask| ask.is_blob()), 2);
    assert_eq!(fills(&larder, &registry, "digest_mismatch"), 1.0);
    nothing_on_disk(&larder);
    // Once is an accident.
    let (registry, turn) = (Scripted::start(), AtomicUsize::new(0));
    registry.put("plugins/waf", "1", &raw(&bytes));
    registry.script(move |ask, mut truth| {
        if ask.is_blob() && turn.fetch_add(1, Ordering::SeqCst) == 0 {
            truth.body[3000] ^= 1;
        }
        truth
    });
    assert_eq!(before(&registry, "", "").get(PATH).body, bytes);
}

#[test]
fn a_manifest_that_changes_between_two_questions_is_never_mixed_with_another() {
    let (registry, one) = stocked();
    let two = module("two", 40_000);
    let (first, second) = (raw(&one), raw(&two));
    registry.put("plugins/waf", "2", &second);
    let turn = AtomicUsize::new(0);
    let (first, second) = (first.manifest, second.manifest);
    registry.script(move |ask, truth| {
        if !ask.path.ends_with("/manifests/1") {
            return truth;
        }
        let manifest = if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) { &first } else { &second };
        Act::status(200).header("Content-Type", manifest.media_type).body(manifest.bytes.clone())
    });
    let larder = before(&registry, "", "lifetimes: {tag: 0s}\n");
    let mut seen = Vec::new();
    eventually("both contents", || {
        let reply = larder.get(PATH);
        assert_eq!(reply.status, 200);
        let digest = if reply.body == one { first_digest(&one) } else { first_digest(&two) };
        assert!(reply.body == one || reply.body == two, "mixed");
        assert_eq!(
            reply.header("larder-manifest-digest"),
            digest,
            "the digest is that of the bytes' manifest"
        );
        seen.push(reply.body == one);
        (seen.contains(&true) && seen.contains(&false)).then_some(())
    });
}

fn first_digest(bytes: &[u8]) -> String {
    raw(bytes).manifest.digest().to_string()
}

#[test]
fn an_endpoint_that_says_it_is_elsewhere_is_followed_where_the_settings_allow() {
    let (registry, bytes) = stocked();
    let store = Scripted::start();
    store.put("plugins/waf", "1", &raw(&bytes));
    let location = format!("http://localhost:{}", store.address.port());
    registry.script(move |ask, truth| match ask.is_blob() {
        true => Act::status(307).header("Location", &format!("{location}{}?sig=s3cret-signature", ask.path)),
        false => truth,
    });
    let rule = |hosts: &str| format!("  hosts:\n    '{}': {{plain_http: true, {hosts}}}\n", registry.host());
    let refused = before(&registry, &rule("blob_hosts: ['*.corp']"), "");
    let reply = refused.get(PATH);
    assert_eq!(code(&reply), (502, "redirect_refused".into()), "{}", reply.text());
    assert!(reply.json()["hint"].as_str().unwrap().contains("blob_hosts"), "{}", reply.text());
    assert_eq!(store.asked().len(), 0, "not contacted");
    assert_eq!(fills(&refused, &registry, "redirect_refused"), 1.0);
    for hosts in ["blob_hosts: [localhost]", "blob_hosts: ['*.corp', LOCALHOST]", "origin: true"] {
        store.forget();
        let larder = before(&registry, &rule(hosts), "log: {level: trace}\n");
        let reply = larder.get(PATH);
        assert_eq!(reply.body, bytes, "{hosts}: {}", reply.text());
        let asked = store.asked();
        assert_eq!(asked.len(), 1, "{hosts}");
        assert_eq!(asked[0].headers.get("authorization"), None);
        let explained = crate::support::client::get(larder.admin, "/explain?name=waf&version=1").text();
        assert!(explained.contains("redirected to http://localhost:"), "{explained}");
        for (place, text) in [("the log", larder.log_text()), ("an explanation", explained)] {
            crate::support::canary::unseen(&["s3cret-signature"], place, text.as_bytes());
        }
    }
}

#[test]
fn addresses_of_metadata_services_are_never_contacted_wherever_they_are_named() {
    let (registry, _) = stocked();
    for location in [
        "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://100.100.100.200/",
    ] {
        registry.script(move |_, _| Act::status(307).header("Location", location));
        let larder = before(&registry, "", "");
        let reply = larder.get(PATH);
        assert_eq!(code(&reply), (502, "address_refused".into()), "{location}: {}", reply.text());
        assert!(reply.json()["hint"].as_str().unwrap().contains("allow_addresses"), "{}", reply.text());
        assert_eq!(fills(&larder, &registry, "address_refused"), 1.0);
        assert!(logged(&larder, "code", "address_refused"));
    }
    registry.script(|_, _| {
        Act::status(401).header("WWW-Authenticate", "Bearer realm=\"http://169.254.169.254/token\"")
    });
    let rule = format!(
        "  hosts:\n    '{}': {{plain_http: true, token_hosts: ['169.254.169.254']}}\n",
        registry.host()
    );
    let reply = before(&registry, &rule, "").get(PATH);
    assert_eq!(code(&reply), (502, "address_refused".into()), "{}", reply.text());
}
