//! Metrics: what is said of them is what is exposed, what reads them uses nothing else, and the numbers are those of what
//! happened. A real Prometheus scrapes, and its promtool judges.

use crate::support::artifact::{module, raw};
use crate::support::client::{self, Reply};
use crate::support::eventually;
use crate::support::faults::is_long;
use crate::support::heart::Heart;
use crate::support::larder::{Home, Larder, settings};
use crate::support::pki::Pki;
use crate::support::prometheus::{Prometheus, deploy, promtool};
use crate::support::scripted::{Act, Ask, Scripted};
use larder::oci::Digest;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Labels that Prometheus adds, and that of a histogram's buckets.
const ADDED: [&str; 3] = ["instance", "job", "le"];

/// Names with their labels.
type Labelled = BTreeMap<String, BTreeSet<String>>;

fn names<'t>(list: impl IntoIterator<Item = &'t str>) -> BTreeSet<String> {
    list.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// What `src/metrics.rs` says that there is.
fn documented() -> Labelled {
    let text = include_str!("../../src/metrics.rs");
    let told = text.lines().filter_map(|line| line.trim().strip_prefix("/// `larder_")?.split_once("`: "));
    let list = told.map(|(told, _)| {
        let (name, labels) = told.split_once('{').unwrap_or((told, ""));
        (format!("larder_{name}"), names(labels.trim_end_matches('}').split(',')))
    });
    list.collect()
}

/// What a text of `/metrics` has, histograms by their own name.
fn exposed(text: &str) -> Labelled {
    let lines = || text.lines();
    let kinds = lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let histograms: Vec<_> = kinds.filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name).collect();
    let mut out = Labelled::new();
    for line in lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = base.filter(|base| histograms.contains(base)).unwrap_or(name);
        let labels =
            labels.trim_end_matches('}').split("\",").filter_map(|pair| Some(pair.split_once('=')?.0));
        out.entry(name.to_owned()).or_default().extend(names(labels.filter(|label| *label != "le")));
    }
    out
}

fn scrape(larder: &Larder) -> String {
    let reply = client::get(larder.admin, "/metrics");
    assert_eq!(reply.status, 200);
    reply.text()
}

fn path(name: &str, version: &str) -> String {
    format!("/plugins/{name}/{version}/plugin.wasm")
}

/// A larder to which every kind of thing happened that leaves a trace in metrics, and one whose disk fails.
fn eventful(folder: &Path) -> Vec<Larder> {
    let pki = Pki::make(folder);
    let registry = Scripted::start();
    for name in ["held", "moved", "doubtful", "secret"] {
        registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, 5000)));
    }
    let doubts = AtomicUsize::new(0);
    registry.script(move |ask, truth| {
        if ask.path.contains("/secret/") && !ask.headers.contains_key("authorization") {
            return Act::status(401).header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if ask.path.contains("/doubtful/") && doubts.fetch_add(1, Ordering::SeqCst) == 0 {
            return Act::status(503);
        }
        truth
    });
    let password = folder.join("password");
    std::fs::write(&password, "word").unwrap();
    let (host, certificate, key) =
        (registry.host(), pki.client_certificate.display(), pki.client_key.display());
    let text = settings(&host).replace("server:\n", "server:\n  connections_per_address: 4\n")
        + &format!(
            "  hosts:\n    '{host}': {{username: u, password_file: '{}'}}\n    open.example: {{insecure_skip_verify: true, \
             ca: ['{}'], client_certificate: '{certificate}', client_key: '{key}'}}\n",
            password.display(),
            pki.ca.display()
        )
        .replace("  hosts:", "registry_hosts:");
    // The rules stand below `registry`.
    let (text, hosts) = text.split_once("registry_hosts:").unwrap();
    let text = text.replace("registry:\n", &format!("registry:\n  hosts:{hosts}"))
        + "lifetimes: {tag: 0s}\nwarm_up: {plugins: [held@1]}\n";
    let larder = Home::new(&text).start();
    for name in ["held", "moved", "doubtful", "secret", "held"] {
        assert_eq!(larder.get(&path(name, "1")).status, 200, "{name}: {}", larder.log_text());
    }
    assert_eq!(larder.get(&path("absent", "1")).status, 404);
    registry.put("plugins/moved", "1", &raw(&module("moved on", 5000)));
    let moved = format!("larder_tags_moved_total{{registry=\"{host}\"}}");
    eventually("a tag that moved", || {
        larder.get(&path("moved", "1"));
        (larder.metric(&moved) > 0.0).then_some(())
    });
    let crowd: Vec<_> = (0..5).map(|_| client::connect(larder.data).unwrap()).collect();
    let refused = "larder_connections_refused_total{listener=\"data\",reason=\"address\"}";
    eventually("a refused connection", || (larder.metric(refused) > 0.0).then_some(()));
    drop(crowd);
    // One that nobody can speak to in plain HTTP, and whose cache has no place.
    let (certificate, key) = (pki.certificate.display(), pki.key.display());
    std::fs::set_permissions(&pki.key, PermissionsExt::from_mode(0o600)).unwrap();
    let homeless = Home::new(&format!("tls: {{data: {{certificate: '{certificate}', key: '{key}'}}}}\n"));
    std::fs::write(homeless.cache(), "").unwrap();
    let homeless = homeless.start();
    let mut stream = client::connect(homeless.data).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let handshakes = "larder_tls_handshakes_total{listener=\"data\",result=\"plain_http\"}";
    eventually("a handshake that failed", || (homeless.metric(handshakes) > 0.0).then_some(()));
    let server =
        format!("larder_certificate_expiry_timestamp_seconds{{file=\"{certificate}\",role=\"server\"}}");
    assert!(homeless.metric(&server) > 0.0, "what clients are shown is counted too");
    let seen = client::get(larder.admin, "/api/v1/status").status;
    assert!([200, 421].contains(&seen), "an operator, by a name that may be anybody's: {seen}");
    vec![larder, homeless]
}

#[test]
fn what_a_larder_exposes_is_what_the_list_says_label_by_label_and_promtool_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = Labelled::new();
    for larder in eventful(folder.path()) {
        let text = scrape(&larder);
        promtool(&["check", "metrics"], text.as_bytes());
        for (name, labels) in exposed(&text) {
            found.entry(name).or_default().extend(labels);
        }
    }
    assert!(found.contains_key("process_resident_memory_bytes") && found.contains_key("process_open_fds"));
    found.retain(|name, _| !name.starts_with("process_"));
    assert_eq!(found, documented());
}

/// The expressions of the dashboard, by the panel's title.
fn dashboard() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(deploy().join("../grafana/larder.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut out = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            out.push((
                panel["title"].as_str().unwrap().to_owned(),
                target["expr"].as_str().unwrap().to_owned(),
            ));
        }
    }
    assert!(out.len() > 40, "the panels are found");
    let variable = &dashboard["templating"]["list"][1]["query"]["query"];
    out.push(("variable".into(), variable.as_str().unwrap().to_owned()));
    out
}

fn read_yaml(name: &str) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(deploy().join(name)).unwrap()).unwrap()
}

/// The alerts.
fn alerts() -> Vec<Value> {
    let groups = read_yaml("alerts.yaml")["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The metrics that an expression names, and all labels that it names.
fn used(expression: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_metric =
        |word: &&str| ["larder_", "process_"].iter().any(|start| word.starts_with(start)) || *word == "up";
    let metrics = names(expression.split(|c| !word(c)).filter(is_metric));
    let mut labels = BTreeSet::new();
    for (open, close) in [("{", '}'), ("by (", ')'), ("on (", ')'), ("group_left (", ')')] {
        for inner in expression.split(open).skip(1) {
            let inner = inner.split(close).next().unwrap();
            let pairs = inner.split(',').map(|pair| pair.split(['=', '!', '~']).next().unwrap());
            // A comma within a value leaves a rest that is no label.
            labels.extend(names(pairs.filter(|label| label.trim().chars().all(word))));
        }
    }
    (metrics, labels)
}

#[test]
fn dashboard_and_alerts_name_no_metric_and_no_label_that_is_not_there_and_leave_no_metric_unseen() {
    let documented = documented();
    let own = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        ends.filter(|base| documented.contains_key(*base)).unwrap_or(name).to_owned()
    };
    let mut seen = BTreeSet::new();
    let alerts = alerts();
    let expressions =
        alerts.iter().map(|alert| (alert["alert"].to_string(), alert["expr"].as_str().unwrap().to_owned()));
    for (place, expression) in dashboard().into_iter().chain(expressions) {
        let (metrics, labels) = used(&expression);
        assert!(!metrics.is_empty(), "{place}: {expression}");
        let metrics: BTreeSet<_> = metrics.iter().map(|name| own(name)).collect();
        let mut allowed = names(ADDED);
        for metric in metrics.iter().filter(|metric| metric.starts_with("larder_")) {
            let labels = documented.get(metric).unwrap_or_else(|| panic!("{place}: there is no {metric}"));
            allowed.extend(labels.clone());
        }
        if place == "variable" {
            continue;
        }
        for label in labels {
            assert!(allowed.contains(&label), "{place}: {expression} has no label {label}");
        }
        seen.extend(metrics);
    }
    let unseen: Vec<_> = documented.keys().filter(|metric| !seen.contains(*metric)).collect();
    assert!(unseen.is_empty(), "in no panel and no alert: {unseen:?}");
    for alert in &alerts {
        let told = |key: &str| alert["annotations"][key].as_str().is_some_and(|text| text.len() > 20);
        assert!(told("summary") && told("description"), "{alert}");
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{alert}");
    }
}

#[test]
fn every_alert_is_shown_firing_and_not_firing_and_promtool_takes_rules_tests_and_example() {
    promtool(&["check", "rules", "alerts.yaml"], b"");
    promtool(&["check", "config", "prometheus.yml"], b"");
    promtool(&["test", "rules", "alerts.test.yaml"], b"");
    let cases = read_yaml("alerts.test.yaml")["tests"].as_array().unwrap().clone();
    let cases: Vec<_> =
        cases.iter().flat_map(|test| test["promql_expr_test"].as_array().unwrap().clone()).collect();
    for alert in alerts() {
        let name = format!("alertname={}", alert["alert"]);
        for fires in [true, false] {
            let is_shown = cases.iter().any(|case| {
                let about = case["expr"].as_str().unwrap().contains(&name);
                about && case["exp_samples"].as_array().unwrap().is_empty() != fires
            });
            assert!(is_shown, "{name} is nowhere shown with firing: {fires}");
        }
    }
}

/// What clients saw, by what the dashboard should make of it.
#[derive(Default)]
struct Seen {
    statuses: BTreeMap<String, f64>,
    caches: BTreeMap<String, f64>,
    reasons: BTreeMap<String, f64>,
    codes: BTreeMap<String, f64>,
    bytes: f64,
}

impl Seen {
    fn note(&mut self, reply: &Reply) {
        let status = reply.header("cache-status");
        let reason = status.split("detail=stale-").nth(1);
        let cache = match reason {
            _ if reply.status != 200 => "error",
            Some(_) => "stale",
            None if status.contains("; hit") => "hit",
            None => "miss",
        };
        let add = |to: &mut BTreeMap<_, _>, key: &str| *to.entry(key.to_owned()).or_default() += 1.0;
        add(&mut self.statuses, &reply.status.to_string());
        add(&mut self.caches, cache);
        if let Some(reason) = reason {
            add(&mut self.reasons, reason);
        }
        if reply.status != 200 {
            add(&mut self.codes, reply.json()["code"].as_str().unwrap());
        }
        self.bytes += reply.body.len() as f64;
    }
}

/// The panels' queries as they are now, over all that Prometheus saw.
struct Panels<'p>(&'p Prometheus, Vec<(String, String)>);

/// What takes the place of Grafana's interval: more than a test takes, so that what is there is all that happened.
const INTERVAL: (&str, f64) = ("5m", 300.0);

impl Panels<'_> {
    fn expression(&self, panel: &str, nth: usize) -> String {
        let mut targets = self.1.iter().filter(|(title, _)| title == panel);
        let (_, expression) = targets.nth(nth).unwrap_or_else(|| panic!("no panel {panel}"));
        expression.replace("$__rate_interval", INTERVAL.0).replace("$instance", ".*")
    }

    /// By the label, over all others: `scale` makes a rate a number.
    fn by(&self, panel: &str, nth: usize, label: &str, scale: f64) -> BTreeMap<String, f64> {
        let mut out = BTreeMap::new();
        for (labels, value) in self.0.query(&self.expression(panel, nth)) {
            *out.entry(labels.get(label).cloned().unwrap_or_default()).or_default() += value * scale;
        }
        // What was there before, and did not happen again.
        out.retain(|_, value| *value > 0.0);
        out
    }

    /// A panel is what it should be. Prometheus adds up to 6 of 100 to a rate over 30 samples, because it reckons with what
    /// may have been before the first and after the last.
    fn is(&self, panel: &str, nth: usize, label: &str, scale: f64, expected: &BTreeMap<String, f64>) {
        let found = self.by(panel, nth, label, scale);
        let near = |(key, value): (&String, &f64)| {
            found.get(key).is_some_and(|found| (found - value).abs() <= 0.08 * value)
        };
        let is_so = found.len() == expected.len() && expected.iter().all(near);
        assert!(is_so, "{panel}: {found:?} instead of {expected:?}");
    }
}

#[test]
fn a_real_prometheus_shows_in_the_dashboard_the_numbers_of_what_was_asked() {
    let registry = Scripted::start();
    let size = 20_000;
    for n in 0..12 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), size)));
    }
    let digest = raw(&module("0", size)).manifest.digest();
    // What is stale and failed is asked about once in ten minutes: once in this test.
    let text = settings(&registry.host()).replace("registry:\n", "registry:\n  attempts: 1\n");
    let larder = Home::new(&format!("{text}lifetimes: {{tag: 0s, absent: 0s, transient: 10m}}\n")).start();
    let prometheus = Prometheus::start(&[larder.admin], &deploy().join("alerts.yaml"));
    let held = path("p0", &digest.to_string());
    let mut seen = Seen::default();
    let silent = |ask: &Ask, truth| if ask.path.contains("/p1/") { Act::status(503) } else { truth };
    registry.script(silent);
    let all = |prometheus: &Prometheus| {
        let plugins = prometheus.value("sum(larder_requests_total{route=\"plugin\"})");
        (plugins, prometheus.value("sum(larder_upstream_requests_total)"))
    };
    let has_seen = |prometheus: &Prometheus, requests: f64, asked: f64| {
        eventually("a scrape of all", || (all(prometheus) == (requests, asked)).then_some(()));
    };
    let sent = std::cell::Cell::new(0.0);
    let get = |path: &str| {
        sent.set(sent.get() + 1.0);
        larder.get(path)
    };
    // Once each, because what a series begins with is no increase.
    registry.heal();
    let first = ["p0", "p1"].map(|name| get(&path(name, "1")).status);
    assert_eq!(first, [200, 200]);
    registry.script(silent);
    eventually("a registry that fails", || {
        let reply = get(&path("p1", "1"));
        reply.header("cache-status").ends_with("stale-upstream").then_some(())
    });
    assert_eq!([&held, &held].map(|path| get(path).status), [200, 200]);
    let absent = path("absent", "1");
    assert_eq!((get(&absent).status, larder.get("/plugins/p0/").status), (404, 200));
    let quiet = || {
        // Revalidations behind requests have ended when as many exchanges were counted as the registry saw.
        eventually("the end of all exchanges", || {
            let text = scrape(&larder);
            let lines = text.lines().filter(|line| line.starts_with("larder_upstream_requests_total{"));
            let counted: usize =
                lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum();
            let idle = larder.metric("larder_fills_in_flight") == 0.0;
            (idle && counted == registry.count(|_| true)).then_some(counted as f64)
        })
    };
    // An answer is counted when it has left.
    has_seen(&prometheus, sent.get(), quiet());
    let asked_before = registry.count(|_| true);

    // The load.
    for n in 2..12 {
        seen.note(&get(&path(&format!("p{n}"), "1")));
    }
    for _ in 0..60 {
        seen.note(&get(&held));
    }
    for _ in 0..15 {
        seen.note(&get(&path("p1", "1")));
        seen.note(&get(&absent));
    }
    assert_eq!(seen.caches, map(&[("hit", 60.0), ("miss", 10.0), ("stale", 15.0), ("error", 15.0)]));
    assert_eq!(seen.bytes, (85 * size) as f64 + seen.bytes % size as f64, "85 whole modules and some words");
    has_seen(&prometheus, sent.get(), quiet());
    // Of each series; on a busy machine a scrape may fail.
    let scrapes = "min(count_over_time(larder_requests_total[5m]))";
    eventually("enough scrapes", || (prometheus.value(scrapes) >= 30.0).then_some(()));

    let panels = Panels(&prometheus, dashboard());
    let (_, rate) = INTERVAL;
    panels.is("Requests by status", 0, "status", rate, &seen.statuses);
    panels.is("Requests by cache result", 0, "cache", rate, &seen.caches);
    panels.is("Served stale by reason", 0, "reason", rate, &seen.reasons);
    panels.is("Refused by reason", 0, "code", rate, &seen.codes);
    panels.is("Requests for plugins", 0, "", rate, &map(&[("", 100.0)]));
    panels.is("Traffic", 0, "", rate, &map(&[("", seen.bytes)]));
    panels.is("Traffic", 1, "", rate, &map(&[("", (10 * size) as f64)]));
    panels.is("Fills by result", 0, "result", rate, &map(&[("ok", 10.0), ("not_found", 15.0)]));
    let asked = &registry.asked()[asked_before..];
    let absent_asked = asked.iter().filter(|ask| ask.path.contains("/absent/")).count() as f64;
    let outcomes = map(&[("ok", asked.len() as f64 - absent_asked), ("client_error", absent_asked)]);
    panels.is("Upstream requests by registry and outcome", 0, "outcome", rate, &outcomes);
    let by_registry = map(&[(registry.host().as_str(), asked.len() as f64)]);
    panels.is("Upstream requests by registry and outcome", 0, "registry", rate, &by_registry);
    // Of what was served: what does not exist is neither a hit nor a miss.
    panels.is("Hit rate", 0, "", 1.0, &map(&[("", 75.0 / 85.0)]));
    panels.is("Plugins held", 0, "", 1.0, &map(&[("", 12.0)]));
    panels.is("Ready", 0, "", 1.0, &map(&[("", 1.0)]));
    let latencies = panels.by("Latency by cache result", 1, "cache", 1.0);
    assert!(
        ["hit", "miss", "stale", "error"].iter().all(|cache| latencies.contains_key(*cache)),
        "{latencies:?}"
    );

    // Every other query can be made too.
    for (panel, expression) in dashboard().iter().filter(|(panel, _)| panel != "variable") {
        let expression = expression.replace("$__rate_interval", INTERVAL.0).replace("$instance", ".*");
        let found = prometheus.query(&expression);
        let quiet_ones = [
            "Fetched in advance",
            "TLS handshakes with clients",
            "Administration",
            "Connections",
            "Retries and logins",
            "Tags moved",
            "Next certificate to run out",
            "Certificates",
        ];
        let may_be_none = quiet_ones.contains(&panel.as_str())
            || ["disk_errors", "tls_unverified"].iter().any(|no| expression.contains(no));
        assert!(may_be_none || !found.is_empty(), "{panel}: {expression} is nothing");
    }
    let rules = prometheus.rules();
    assert_eq!(rules.len(), alerts().len());
    for (name, health) in rules {
        assert_eq!(health, "ok", "{name}");
    }
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    let firing: Vec<_> = firing.iter().map(|(labels, _)| labels["alertname"].as_str()).collect();
    assert_eq!(firing, ["LarderAskedForWhatDoesNotExist"], "of those that need no time");
}

fn map(list: &[(&str, f64)]) -> BTreeMap<String, f64> {
    list.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
}

/// The names and labels of all series.
fn series(larder: &Larder) -> BTreeSet<String> {
    let text = scrape(larder);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

#[test]
fn whatever_clients_invent_makes_no_series() {
    let registry = Scripted::start();
    let larder = Home::new(&(settings(&registry.host()) + "lifetimes: {absent: 0s}\n")).start();
    // Each of them with something new in it, most of them refused; the fifth goes to the registry.
    let kinds: [fn(usize) -> String; 9] = [
        |n| format!("GET /none/{n} HTTP/1.1\r\nHost: h\r\n\r\n"),
        |n| format!("GET /%{n} HTTP/1.1\r\nHost: h\r\n\r\n"),
        |n| format!("GET /plugins/UPPER{n}/1/plugin.wasm HTTP/1.1\r\nHost: h\r\n\r\n"),
        |n| format!("GET /plugins/x/sha256:{n}/plugin.wasm HTTP/1.1\r\nHost: h\r\n\r\n"),
        |n| {
            format!(
                "GET /plugins/x{n}/v{n}/plugin.wasm HTTP/1.1\r\nHost: h{n}.example\r\nUser-Agent: {n}\r\n\r\n"
            )
        },
        |n| {
            format!(
                "GET /plugins/r{n}.example/x/1/plugin.wasm?registry=r{n}.example HTTP/1.1\r\nHost: h\r\n\r\n"
            )
        },
        |n| format!("GET http://h{n}.example/plugins/ HTTP/1.1\r\nHost: h{n}.example\r\n\r\n"),
        |n| format!("X{n} / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"),
        |n| format!("GET /plugins/x/1/${{{n}}} HTTP/1.1\r\nHost: h\r\n\r\n"),
    ];
    let ask = |which: usize, n: usize| {
        let mut stream = client::connect(larder.data).unwrap();
        stream.write_all(kinds[which](n).as_bytes()).unwrap();
        client::read_reply(&mut stream, false).unwrap().status
    };
    let statuses: Vec<_> = (0..kinds.len()).map(|which| ask(which, 100_000_000)).collect();
    assert!(statuses.iter().filter(|status| **status >= 400).count() >= kinds.len() - 1, "{statuses:?}");
    // An answer is counted when it has left.
    for counter in ["larder_requests_total{", "larder_request_duration_seconds_count{"] {
        eventually("the first of each kind being counted", || {
            let text = scrape(&larder);
            let counts = text.lines().filter(|line| line.starts_with(counter));
            let counted: f64 =
                counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum();
            (counted >= kinds.len() as f64).then_some(())
        });
    }
    // A scrape is seen by the next one.
    series(&larder);
    let before = series(&larder);
    let rounds = if is_long() { 120_000 } else { 200 };
    for n in 1..=rounds {
        for (which, status) in statuses.iter().enumerate() {
            let got = ask(which, 100_000_000 + n);
            assert_eq!(got, *status, "{}", kinds[which](n));
        }
    }
    let after = series(&larder);
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty() && after.len() == before.len(), "{new:?}");
    eventually("all that came through to the registry being counted", || {
        (larder.metric("larder_refused_total{code=\"not_found\"}") > rounds as f64).then_some(())
    });
}

#[test]
fn metrics_are_for_get_whatever_the_query_says_and_other_methods_are_told_so() {
    let registry = Scripted::start();
    let larder = Larder::before(&registry.host());
    for query in ["name[]=larder_requests_total", "name[]=..", "a", "%", "x=../../etc/passwd", "&&==&"] {
        let reply = client::get(larder.admin, &format!("/metrics?{query}"));
        assert_eq!(reply.status, 200, "{query}");
        assert!(reply.text().contains("larder_build_info{version="), "{query}");
        assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"), "{query}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let reply = client::request(larder.admin, method, "/metrics", &[("Content-Length", "0")]);
        assert_eq!(reply.status, 405, "{method}");
        assert!(reply.header("allow").contains("GET"), "{method}");
    }
    assert_eq!(larder.get("/metrics").status, 404, "not on the port of plugins");
}

#[test]
fn scraping_without_pause_holds_up_no_request() {
    let registry = Scripted::start();
    let bytes = module("x", 50_000);
    registry.put("plugins/x", "1", &raw(&bytes));
    let larder = Larder::before(&registry.host());
    let x = path("x", "1");
    assert_eq!(larder.get(&x).body, bytes);
    let took = || {
        let began = Instant::now();
        let reply = larder.get(&x);
        assert!(reply.status == 200 && reply.body == bytes);
        began.elapsed()
    };
    // Some have a core at once, however busy the machine is; who has to wait for scrapes would always have to.
    let a_tenth_takes_less = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 10]
    };
    let alone = a_tenth_takes_less((0..50).map(|_| took()).collect());
    let (stop, scrapes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let beside = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = client::connect(larder.admin).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                    assert_eq!(client::read_reply(&mut stream, false).unwrap().status, 200);
                    scrapes.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut times = Vec::new();
        while scrapes.load(Ordering::SeqCst) < 1000 {
            times.push(took());
        }
        stop.store(true, Ordering::SeqCst);
        a_tenth_takes_less(times)
    });
    // The cores are shared with the scrapes and with other tests.
    let most = 5 * alone + Duration::from_millis(50);
    assert!(beside < most, "{beside:?} beside 1000 scrapes, {alone:?} alone");
}

#[test]
fn ready_is_what_readyz_says() {
    let registry = Scripted::start();
    registry.put("plugins/x", "1", &raw(&module("x", 5000)));
    registry.close_gate();
    let text = settings(&registry.host()) + "warm_up: {plugins: [x@1], ready_when: warmed}\n";
    let larder = Home::new(&text.replace("drain: 0s", "drain: 30s")).start();
    let is = |status: u16, ready: f64| {
        let told = client::get(larder.admin, "/readyz").status;
        (told == status && larder.metric("larder_ready") == ready).then_some(())
    };
    assert!(is(503, 0.0).is_some(), "it waits for a plugin");
    registry.open_gate();
    eventually("a larder that is ready", || is(200, 1.0));
    larder.signal("TERM");
    eventually("one that leaves", || is(503, 0.0));
}

#[tokio::test]
async fn the_status_has_the_certificates_that_metrics_have_the_first_to_run_out_first() {
    let heart = Heart::new();
    heart.metrics.set_certificates("ca", &[("late".into(), 86_400)]);
    heart.metrics.set_certificates("client", &[("early".into(), 60), ("never".into(), i64::MAX)]);
    let shown = heart.administration.status(false).certificates;
    let shown: Vec<_> = shown.iter().map(|one| (&*one.role, &*one.file, &*one.not_after)).collect();
    let expected = [("client", "early", "1970-01-01T00:01:00Z"), ("ca", "late", "1970-01-02T00:00:00Z")];
    assert_eq!(shown[..2], expected);
    assert_eq!((shown.len(), shown[2].2), (3, "9999-12-31T23:59:59Z"));
}

#[test]
fn the_disk_is_measured_where_the_cache_is_and_not_told_of_where_there_is_none() {
    // Another file system than most of this machine.
    let larder =
        Home::in_memory("cache: {disk: 3GiB, memory: 2MiB, retry: 100ms}\nfill: {memory: 9MiB}\n").start();
    let disk = rustix::fs::statvfs(larder.home.path()).unwrap();
    assert_eq!(larder.metric("larder_disk_size_bytes"), (disk.f_blocks * disk.f_frsize) as f64);
    let free = || larder.metric("larder_disk_free_bytes");
    let before = free();
    assert!(before > 0.0 && before <= larder.metric("larder_disk_size_bytes"));
    std::fs::write(larder.home.path().join("large"), vec![1; 1 << 20]).unwrap();
    eventually("a disk with less left", || (free() != before).then_some(()));
    for (tier, limit) in [("disk", 3u64 << 30), ("memory", 2 << 20), ("held", 9 << 20)] {
        let told = larder.metric(&format!("larder_cache_limit_bytes{{tier=\"{tier}\"}}"));
        assert_eq!(told, limit as f64, "{tier}");
    }
    let home = Home::new("");
    std::fs::write(home.cache(), "").unwrap();
    assert!(!scrape(&home.start()).contains("\nlarder_disk_free_bytes"));
}

/// A CA of this name that is good until the beginning of the day so many days from now: PEM, key, and that moment in
/// seconds since 1970.
fn certificate(name: &str, days: i64) -> (String, String, f64) {
    let at = SystemTime::now() + Duration::from_secs(4000 * 86_400)
        - Duration::from_secs(((4000 - days) * 86_400) as u64);
    let shown = humantime::format_rfc3339_seconds(at).to_string();
    let number = |range: std::ops::Range<usize>| shown[range].parse::<i32>().unwrap();
    let mut made = rcgen::CertificateParams::new(vec![name.into()]).unwrap();
    made.distinguished_name.push(rcgen::DnType::CommonName, name);
    made.not_after = rcgen::date_time_ymd(number(0..4), number(5..7) as u8, number(8..10) as u8);
    let key = rcgen::KeyPair::generate().unwrap();
    let midnight = humantime::parse_rfc3339(&format!("{}T00:00:00Z", &shown[..10])).unwrap();
    let seconds = midnight.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    (made.self_signed(&key).unwrap().pem(), key.serialize_pem(), seconds as f64)
}

#[test]
fn certificates_are_counted_by_file_told_a_week_before_their_end_and_followed_when_they_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, text: &str| {
        std::fs::write(at("new"), text).unwrap();
        std::fs::rename(at("new"), at(name)).unwrap();
    };
    let (soon, far) = (certificate("soon", 3), certificate("far", 300));
    let (over, renewed) = (certificate("turned", -10), certificate("turned", 400));
    let client = certificate("us", -1);
    write("soon.pem", &(far.0.clone() + &soon.0));
    write("turned.pem", &(over.0 + &renewed.0));
    write("client.pem", &client.0);
    write("client.key", &client.1);
    let text = |ca: &str| {
        format!(
            "registry:\n  certs: []\n  ca: ['{}']\n  hosts:\n    \"*.example\": {{ca: ['{ca}'], client_certificate: '{}', \
             client_key: '{}'}}\n",
            at("turned.pem"),
            at("client.pem"),
            at("client.key")
        )
    };
    let larder = Home::new(&text(&at("soon.pem"))).start();
    let until = |role: &str, name: &str| {
        let file = at(name);
        larder.metric(&format!(
            "larder_certificate_expiry_timestamp_seconds{{file=\"{file}\",role=\"{role}\"}}"
        ))
    };
    assert_eq!(until("ca", "soon.pem"), soon.2, "the first of a file that runs out");
    assert_eq!(until("ca", "turned.pem"), renewed.2, "the later of those of one name");
    assert_eq!(until("client", "client.pem"), client.2);
    let listed = series(&larder).iter().filter(|series| series.contains("certificate_expiry")).count();
    assert_eq!(listed, 3, "and none of the system's");
    let told = |event: &str, name: &str| {
        let file = at(name);
        larder.log().iter().filter(|line| line["event"] == event && line["file"] == file.as_str()).count()
    };
    eventually("the warnings", || {
        (told("certificate_expires", "soon.pem") == 1 && told("certificate_expired", "client.pem") == 1)
            .then_some(())
    });
    assert_eq!(told("certificate_expires", "turned.pem") + told("certificate_expired", "turned.pem"), 0);

    write("soon.pem", &far.0);
    eventually("the new file", || (until("ca", "soon.pem") == far.2).then_some(()));
    eventually("what is over still told", || (told("certificate_expired", "client.pem") == 2).then_some(()));
    assert_eq!(told("certificate_expires", "soon.pem"), 1, "what was renewed is not told again");
    write("other.pem", &renewed.0);
    std::fs::write(larder.home.path().join("larder.yaml"), text(&at("other.pem"))).unwrap();
    eventually("another file", || (until("ca", "other.pem") == renewed.2).then_some(()));
    assert!(
        !series(&larder).iter().any(|series| series.contains("soon.pem")),
        "a file that is not used is gone"
    );
}

#[test]
fn each_exchange_with_a_registry_is_counted_once_by_what_came_of_it() {
    let (registry, elsewhere) = (Scripted::start(), Scripted::start());
    let bytes = module("x", 5000);
    registry.put("plugins/x", "1", &raw(&bytes));
    elsewhere.put_raw("/blob", "application/octet-stream", &bytes);
    let to = format!("http://{}/blob", elsewhere.host());
    registry.script(move |ask, truth| match ask.path.as_str() {
        path if path.contains("/broken/") => Act::status(500),
        path if path.contains("/silent/") => Act::hang_up(),
        path if ask.is_blob() && path.ends_with(&Digest::of(&bytes).to_string()) => {
            Act::status(307).header("Location", &to)
        }
        _ if ask.path.contains("/token") || ask.headers.contains_key("authorization") => truth,
        _ => Act::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "word").unwrap();
    let host = registry.host();
    let rule = format!(
        "registry:\n  certs: []\n  attempts: 1\n  hosts: {{'{host}': {{username: u, password_file: '{}'}}}}\n",
        password.path().display()
    );
    let larder = Home::new(&settings(&host).replace("registry:\n", &rule)).start();
    let statuses = ["x", "absent", "broken", "silent"].map(|name| larder.get(&path(name, "1")).status);
    assert_eq!(statuses, [200, 404, 502, 502]);
    let text = scrape(&larder);
    let of_registry = |line: &&str| line.starts_with("larder_upstream_requests_total{");
    let counted: Vec<_> = text.lines().filter(of_registry).filter(|line| !line.ends_with(" 0")).collect();
    let expected = [("client_error", 3), ("connect", 1), ("ok", 2), ("redirect", 1), ("server_error", 1)];
    let line = |(outcome, number)| {
        format!("larder_upstream_requests_total{{outcome=\"{outcome}\",registry=\"{host}\"}} {number}")
    };
    // Two 401 that ask for a password, and the 404; the manifest, and the layer from where the registry redirects to.
    assert_eq!(counted, expected.map(line));
    let took =
        larder.metric(&format!("larder_upstream_request_duration_seconds_count{{registry=\"{host}\"}}"));
    assert_eq!(took, 8.0);
    let other = elsewhere.host();
    assert!(!series(&larder).iter().any(|series| series.contains(&other)), "a redirect makes no label");
}

/// What this larder counts under `start`, each series with its value.
fn counted(larder: &Larder, start: &str) -> BTreeMap<String, f64> {
    let text = scrape(larder);
    let lines = text.lines().filter(|line| line.starts_with(start));
    let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
    pairs.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

#[test]
fn what_alerts_look_at_is_there_at_0_before_the_first_failure() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines");
    std::fs::write(&lines, "x=listed.example/x:1\n").unwrap();
    let text = format!(
        "catalog: {{builtin: false, files: ['{}'], template: 'templated.example/{{name}}:{{version}}'}}\n\
         registry:\n  certs: []\n  hosts:\n    ruled.example: {{mirrors: [{{url: 'https://mirror.example'}}]}}\n",
        lines.display()
    );
    let larder = Home::new(&text).start();
    for registry in ["listed.example", "templated.example", "ruled.example", "mirror.example"] {
        for outcome in ["connect", "dns", "timeout", "tls", "proxy_connect", "server_error", "ok"] {
            let series =
                format!("larder_upstream_requests_total{{outcome=\"{outcome}\",registry=\"{registry}\"}}");
            let at = counted(&larder, &series);
            assert_eq!(at, BTreeMap::from([(series, 0.0)]), "{registry} {outcome}");
        }
    }
    for series in [
        "larder_stale_served_total{reason=\"connect\"}",
        "larder_disk_errors_total{operation=\"writing\"}",
        "larder_connections_refused_total{listener=\"data\",reason=\"total\"}",
        "larder_connections_refused_total{listener=\"admin\",reason=\"address\"}",
        "larder_requests_total{cache=\"error\",route=\"plugin\",status=\"502\"}",
        "larder_requests_total{cache=\"stale\",route=\"plugin\",status=\"200\"}",
        "larder_reloads_total{result=\"error\"}",
        "larder_settings_refused",
    ] {
        assert_eq!(counted(&larder, series).get(series), Some(&0.0), "{series}");
    }
    let handshakes = counted(&larder, "larder_tls_handshakes_total");
    assert_eq!(handshakes, BTreeMap::new(), "no port speaks TLS");

    std::fs::write(&lines, "x=later.example/x:1\n").unwrap();
    let series = "larder_upstream_requests_total{outcome=\"connect\",registry=\"later.example\"}";
    eventually("a registry that a reload names", || {
        (counted(&larder, series).get(series) == Some(&0.0)).then_some(())
    });
}

#[test]
fn each_outcome_that_failures_have_is_one_of_those_that_begin_at_0() {
    // The words by which a failure to reach a registry is sorted, as they are written.
    let source = include_str!("../../src/registry/diagnose.rs");
    let begins = include_str!("../../src/metrics/begin.rs");
    let words = source.split('"').skip(1).step_by(2);
    let codes = words.filter(|word| {
        let is_code = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        is_code && ["tls_", "proxy_"].iter().any(|start| word.starts_with(start))
    });
    let codes: BTreeSet<_> = codes.collect();
    assert!(codes.len() > 8, "{codes:?}");
    for code in codes {
        assert!(begins.contains(&format!("    \"{code}\",\n")), "{code}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_told_until_they_are_mended() {
    let registry = Scripted::start();
    let larder = Home::new(&settings(&registry.host())).start();
    let file = larder.home.path().join("larder.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let refused = |value: f64| {
        eventually("settings refused or not", || {
            (larder.metric("larder_settings_refused") == value).then_some(())
        });
    };
    refused(0.0);
    std::fs::write(&file, format!("{good}nonsense: 1\n")).unwrap();
    refused(1.0);
    std::fs::write(&file, &good).unwrap();
    refused(0.0);
}

#[test]
fn a_ca_that_is_over_hides_neither_the_next_one_nor_is_it_forgotten_when_there_is_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (over, longer_over) = (certificate("over", -10), certificate("longer over", -20));
    let (next, far) = (certificate("next", 30), certificate("far", 300));
    std::fs::write(at("bundle.pem"), [&*far.0, &over.0, &next.0].concat()).unwrap();
    std::fs::write(at("gone.pem"), [&*over.0, &longer_over.0].concat()).unwrap();
    std::fs::write(at("own.pem"), &far.0).unwrap();
    std::fs::write(at("own.key"), &far.1).unwrap();
    std::fs::set_permissions(at("own.key"), PermissionsExt::from_mode(0o600)).unwrap();
    let (bundle, gone) = (at("bundle.pem"), at("gone.pem"));
    let text = format!(
        "registry: {{certs: [], ca: ['{bundle}', '{gone}']}}\n\
         tls: {{data: {{certificate: '{}', key: '{}', client_ca: ['{bundle}']}}}}\n",
        at("own.pem"),
        at("own.key")
    );
    let larder = Home::new(&text).start();
    let until = |role: &str, file: &str| {
        larder.metric(&format!(
            "larder_certificate_expiry_timestamp_seconds{{file=\"{file}\",role=\"{role}\"}}"
        ))
    };
    assert_eq!(until("ca", &bundle), next.2);
    assert_eq!(until("client_ca", &bundle), next.2);
    assert_eq!(until("ca", &gone), over.2, "the last that was good");
    assert_eq!(until("server", &at("own.pem")), far.2);
    let handshakes = counted(&larder, "larder_tls_handshakes_total{listener=\"data\"");
    assert!(handshakes.len() == 9 && handshakes.values().all(|number| *number == 0.0), "{handshakes:?}");
}
