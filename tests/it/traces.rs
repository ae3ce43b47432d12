//! Spans: what a collector is told of a request, and that no request waits for it.

use crate::support::artifact::{module, raw};
use crate::support::larder::{Home, Larder, settings};
use crate::support::otlp::{Sink, Told};
use crate::support::pki::Pki;
use crate::support::registry::Registry;
use crate::support::reloaded::Reloaded;
use crate::support::scripted::{Act, Scripted};
use crate::support::{canary, client, eventually};
use serde_json::{Value, json};
use std::sync::{Mutex, mpsc};

const PATH: &str = "/plugins/waf/1/plugin.wasm";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const ABOVE: &str = "b7ad6b7169203331";
const PASSWORD: &str = "c4nary-of-registry";
const TOKEN: &str = "c4nary-of-token";
const KEY: &str = "c4nary-of-collector";

/// Spans are sent at once, and not after some seconds.
const AT_ONCE: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");

/// A registry that wants a token, and the module that it has.
fn guarded() -> (Scripted, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    let realm = format!("http://{}/token", registry.host());
    registry.script(move |ask, truth| {
        if ask.path.starts_with("/token") {
            return Act::status(200).body(format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#));
        }
        match ask.headers.get("authorization") {
            Some(sent) if sent.contains(TOKEN) => truth,
            _ => Act::status(401)
                .header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",service=\"s\"")),
        }
    });
    (registry, bytes)
}

fn stocked() -> (Scripted, Vec<u8>) {
    let registry = Scripted::start();
    let bytes = module("waf", 20_000);
    registry.put("plugins/waf", "1", &raw(&bytes));
    (registry, bytes)
}

fn started(registry: &Scripted, sink: &Sink, variables: &[(&str, &str)]) -> Larder {
    let text = settings(&registry.host()) + &sink.settings();
    Home::new(&text).start_with(&[], &[variables, &[AT_ONCE]].concat())
}

/// What is told of a request for what is not held.
const COLD: [&str; 7] = ["GET plugin", "search", "fetch", "manifest", "blob", "extract", "commit"];

/// Ends larder, so that what it has to tell is told.
fn ended(larder: &mut Larder) {
    larder.signal("TERM");
    assert_eq!(larder.wait().code(), Some(0));
}

#[test]
fn a_cold_fetch_is_told_leg_by_leg_below_its_request_and_a_hit_is_the_request_alone() {
    let ((registry, bytes), sink) = (guarded(), Sink::start());
    let mut larder = started(&registry, &sink, &[]);
    let cold = larder.get(PATH);
    assert_eq!(cold.body, bytes);
    let spans = sink.trace(cold.header("larder-request-id"), &[&COLD[..], &["login"]].concat());
    let named = |name: &str| {
        let found: Vec<&Told> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name}: {spans:#?}");
        found[0]
    };
    let request = named("GET plugin");
    let fetch = named("fetch");
    let legs = [
        ("search", request),
        ("fetch", named("search")),
        ("login", named("manifest")),
        ("manifest", fetch),
        ("blob", fetch),
        ("extract", fetch),
        ("commit", fetch),
    ];
    assert_eq!(spans.len(), legs.len() + 1, "{spans:#?}");
    for (leg, above) in legs {
        let leg = named(leg);
        assert_eq!(leg.parent, above.id, "{leg:#?} is below {above:#?}");
        assert!(above.begin <= leg.begin && leg.begin <= leg.end && !leg.is_error, "{leg:#?}");
    }
    assert!(request.parent.is_empty() && request.is_server && !request.is_error, "{request:#?}");
    let reference = format!("{}/plugins/waf:1", registry.host());
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", PATH),
        ("client.address", "127.0.0.1"),
        ("larder.route", "plugin"),
        ("larder.cache", "miss"),
        ("larder.reference", reference.as_str()),
    ] {
        assert_eq!(request.attribute(key), value, "{key}: {request:#?}");
    }
    assert_eq!(fetch.attribute("larder.reference"), reference);
    assert_eq!(request.resource["service.name"], "larder");
    assert_eq!(request.resource["service.version"], env!("CARGO_PKG_VERSION"));

    let hit = larder.get(PATH);
    // Those who watch ask all the time, and are not told of.
    for path in ["/livez", "/readyz", "/metrics"] {
        client::get(larder.admin, path);
    }
    larder.get("/healthz");
    ended(&mut larder);
    let spans: Vec<_> = sink.spans().into_iter().skip(spans.len()).collect();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(spans[0].trace, hit.header("larder-request-id"));
    assert_eq!(spans[0].attribute("larder.cache"), "hit");
}

#[test]
fn what_is_confirmed_behind_a_request_is_below_it_and_does_not_lengthen_it() {
    let ((registry, _), sink) = (stocked(), Sink::start());
    let larder = started(&registry, &sink, &[("LARDER_LIFETIMES_TAG", "1ms")]);
    larder.get(PATH);
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    registry.script(move |ask, truth| {
        if ask.method == "HEAD" {
            let _ = gate.lock().unwrap().recv();
        }
        truth
    });
    let stale = larder.get(PATH);
    let request_id = stale.header("larder-request-id");
    sink.trace(request_id, &["GET plugin"]);
    drop(open);
    let spans = sink.trace(request_id, &["fetch"]);
    let fetch = spans.iter().find(|span| span.name == "fetch").unwrap();
    let request = spans.iter().find(|span| span.name == "GET plugin").unwrap();
    let confirm = spans.iter().find(|span| span.name == "confirm").unwrap();
    assert_eq!((&fetch.parent, &confirm.parent), (&request.id, &fetch.id));
    assert_eq!(request.attribute("larder.cache"), "stale");
    assert!(request.end < confirm.end, "it was answered before: {spans:#?}");
}

#[test]
fn a_traceparent_decides_where_a_request_belongs_and_whether_it_is_told() {
    let ((registry, _), sink) = (stocked(), Sink::start());
    let mut larder = started(&registry, &sink, &[("LARDER_TRACES_SAMPLE", "0")]);
    let ask = |value: &str| larder.request("GET", PATH, &[("traceparent", value)]);
    let told = ask(&format!("00-{TRACE}-{ABOVE}-01"));
    assert_eq!(told.header("larder-request-id"), TRACE);
    let spans = sink.trace(TRACE, &COLD);
    let request = spans.iter().find(|span| span.name == "GET plugin").unwrap();
    assert_eq!(request.parent, ABOVE);
    assert!(spans.iter().any(|span| span.name == "blob"), "the fetch too: {spans:#?}");
    let other = "1".repeat(32);
    assert_eq!(ask(&format!("00-{other}-{ABOVE}-00")).header("larder-request-id"), other);
    ask("00-nonsense-01");
    larder.get(PATH);
    ended(&mut larder);
    assert_eq!(sink.spans().len(), spans.len(), "nobody else is told of");

    let sink = Sink::start();
    let mut larder = started(&registry, &sink, &[("LARDER_TRACES_SAMPLE", "1")]);
    larder.request("GET", PATH, &[("traceparent", &format!("00-{TRACE}-{ABOVE}-00"))]);
    let told = larder.get(PATH);
    ended(&mut larder);
    let traces: Vec<_> = sink.spans().into_iter().map(|span| span.trace).collect();
    assert_eq!(traces, [told.header("larder-request-id")], "who says that he does not tell is not told of");
    assert_eq!(registry.count(|ask| ask.headers.contains_key("traceparent")), 0, "registries hear nothing");
}

#[test]
fn what_fails_is_told_by_its_code_and_not_by_what_a_registry_said() {
    let (registry, sink) = (Scripted::start(), Sink::start());
    let text = r#"{"errors":[{"code":"UNKNOWN","message":"c4nary-of-registry"}]}"#;
    registry.script(move |_, _| Act::status(400).body(text));
    let mut larder = started(&registry, &sink, &[]);
    let reply = larder.get(PATH);
    let code = reply.json()["code"].as_str().unwrap().to_owned();
    assert_eq!(reply.status, 502, "{}", reply.text());
    let names = ["GET plugin", "search", "fetch", "manifest"];
    let spans = sink.trace(reply.header("larder-request-id"), &names);
    for name in names {
        let span = spans.iter().find(|span| span.name == name).unwrap();
        assert!(span.is_error && span.attribute("error.type") == code, "{span:#?}");
    }
    ended(&mut larder);
    assert!(larder.log_text().contains("c4nary-of-registry"), "the log has it");
    for post in sink.posts() {
        canary::unseen(&["c4nary-of-registry"], "a span", &post.body);
    }
}

#[test]
fn no_secret_is_in_a_span_and_the_collectors_own_is_in_no_line() {
    let ((registry, bytes), sink, folder) = (guarded(), Sink::start(), tempfile::tempdir().unwrap());
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let host = registry.host();
    let text = format!(
        "catalog: {{builtin: false, template: '{host}/plugins/{{name}}:{{version}}'}}\nserver: {{drain: 0s}}\n\
         log: {{level: trace}}\nregistry:\n  hosts:\n    '{host}': {{plain_http: true, username: robot, password_file: '{}'}}\n",
        password.display()
    );
    let headers = format!("authorization=Bearer {KEY}");
    let mut larder = Home::new(&(text + &sink.settings()))
        .start_with(&[], &[AT_ONCE, ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str())]);
    let asked = format!("{PATH}?token=c4nary-of-client");
    let sent = [("Authorization", "Bearer c4nary-of-client"), ("Cookie", "session=c4nary-of-client")];
    assert_eq!(larder.request("GET", &asked, &sent).body, bytes);
    ended(&mut larder);
    assert!(
        registry.count(|ask| ask.headers.get("authorization").is_some_and(|sent| sent.starts_with("Basic")))
            > 0
    );
    assert!(!sink.posts().is_empty());
    for post in sink.posts() {
        assert_eq!(post.headers["authorization"], format!("Bearer {KEY}"));
        canary::unseen(&[PASSWORD, TOKEN, KEY, "c4nary-of-client"], "a span", &post.body);
    }
    canary::unseen(&[PASSWORD, TOKEN, KEY], "the log", larder.log_text().as_bytes());
}

#[test]
fn a_collector_that_refuses_stalls_or_is_away_costs_spans_and_no_request_and_no_end() {
    let (registry, bytes) = stocked();
    let away = Sink { server: Scripted::start() };
    away.server.down();
    let refusing = Sink { server: Scripted::start() };
    refusing.server.script(|_, _| Act::status(503));
    let stalling = Sink { server: Scripted::start() };
    stalling.server.script(|_, _| Act::status(200).body(vec![0; 100]).stall(1));
    for (sink, why) in [(away, "connection"), (refusing, "503"), (stalling, "timed out")] {
        let mut larder = started(&registry, &sink, &[]);
        for _ in 0..3 {
            assert_eq!(larder.get(PATH).body, bytes);
        }
        eventually("dropped spans in the metrics", || {
            (larder.metric("larder_spans_dropped_total") >= 3.0).then_some(())
        });
        ended(&mut larder);
        let warned: Vec<_> = larder
            .log()
            .into_iter()
            .filter(|line| line["message"].as_str().is_some_and(|text| text.contains("takes no spans")))
            .collect();
        assert_eq!(warned.len(), 1, "{why}: {warned:#?}");
        assert!(warned[0]["error"].as_str().unwrap().contains(why), "{warned:#?}");
    }
}

#[test]
fn a_larder_that_goes_offline_while_it_runs_sends_no_more_spans_and_counts_them() {
    let sink = Sink::start();
    let endpoint = json!(format!("http://{}", sink.server.host()));
    let mut running = Reloaded::started_with(&[("traces.endpoint", endpoint)], &[AT_ONCE]);
    running.registry.put("plugins/waf", "1", &raw(&module("waf", 20_000)));
    assert_eq!(running.status("waf", "1"), 200);
    eventually("spans", || (!sink.posts().is_empty()).then_some(()));
    running.change(&[("policy.mode", json!("offline")), ("traces.endpoint", Value::Null)]);
    // What was on its way when it went offline is dropped or sent by the time that something later is dropped.
    let dropped = || running.larder.metric("larder_spans_dropped_total");
    let before = dropped();
    assert_eq!(running.status("waf", "1"), 200);
    eventually("dropped spans", || (dropped() > before).then_some(()));
    let sent = sink.posts().len();
    let before = dropped();
    assert_eq!(running.status("waf", "1"), 200);
    eventually("dropped spans", || (dropped() > before).then_some(()));
    assert_eq!(sink.posts().len(), sent);
    running.change(&[("policy.mode", json!("online"))]);
    running.status("waf", "1");
    eventually("spans again", || (sink.posts().len() > sent).then_some(()));
}

#[test]
fn what_was_told_just_before_the_end_still_arrives() {
    let ((registry, _), sink) = (stocked(), Sink::start());
    let text = settings(&registry.host()) + &sink.settings();
    let mut larder = Home::new(&text).start_with(&[], &[("OTEL_BSP_SCHEDULE_DELAY", "3600000")]);
    let reply = larder.get(PATH);
    assert_eq!(sink.posts().len(), 0);
    ended(&mut larder);
    let spans = sink.spans();
    let request = spans.iter().find(|span| span.name == "GET plugin").unwrap();
    assert_eq!(request.trace, reply.header("larder-request-id"));
}

#[test]
fn the_end_does_not_wait_for_a_collector_that_stalls() {
    let ((registry, bytes), sink) = (stocked(), Sink::start());
    sink.server.script(|_, _| Act::status(200).body(vec![0; 100]).stall(1));
    let mut larder = started(&registry, &sink, &[]);
    assert_eq!(larder.get(PATH).body, bytes);
    eventually("an exchange", || (!sink.posts().is_empty()).then_some(()));
    larder.get(PATH);
    ended(&mut larder);
    assert!(larder.log_text().contains("the last spans are lost"), "{}", larder.log_text());
}

#[test]
fn a_collector_behind_tls_is_believed_by_the_cas_that_are_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::make(folder.path());
    // It knows nothing of spans; that it was heard is what it is here for.
    let content = Registry::plain();
    let server = content.with_tls(folder.path(), &pki);
    for (ca, told) in [("[]".to_owned(), "UnknownIssuer"), (format!("['{}']", pki.ca.display()), "404")] {
        let text = format!(
            "traces: {{endpoint: 'https://{}'}}\nserver: {{drain: 0s}}\nregistry: {{certs: [], ca: {ca}}}\n",
            server.named()
        );
        let larder = Home::new(&text).start_with(&[], &[AT_ONCE]);
        larder.get("/nothing/here");
        eventually(told, || {
            let lines = larder.log();
            let warned = lines
                .iter()
                .find(|line| line["message"].as_str().is_some_and(|m| m.contains("takes no spans")));
            warned.map(|line| assert!(line["error"].as_str().unwrap().contains(told), "{told}: {line}"))
        });
    }
}
