//! The document of the administration, held against the routes, the types and the real server.

use crate::support::artifact::{module, raw};
use crate::support::client;
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use larder::admin::change::{Confirmed, Purged, Revalidated, Scrub, Selector, Verdict};
use larder::admin::entries::{Entry, Page, Signed, State};
use larder::admin::history::{Hour, Point};
use larder::admin::import::{self, Imported, Wrong};
use larder::admin::prefetch::{Item, Job, Progress, Wanted};
use larder::admin::status::{Certificate, Fetching, Registry, Reloaded, Settings, Status, Store};
use larder::failures::{Failure, What};
use larder::http::problem::Problem;
use larder::oci::Digest;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "0123456789abcdef-openapi";

/// A larder that holds some plugins, and wants a token.
fn guarded() -> (Scripted, Larder) {
    let registry = Scripted::start();
    for name in ["waf", "ai-proxy"] {
        registry.put(&format!("plugins/{name}"), "1.0.0", &raw(&module(name, 5000)));
    }
    let mut home = Home::in_memory("");
    let tokens = home.path().join("tokens");
    std::fs::write(&tokens, format!("# for tests\n{TOKEN}\n")).unwrap();
    home =
        home.with(&format!("{}admin: {{token_file: '{}'}}\n", settings(&registry.host()), tokens.display()));
    let larder = home.start();
    for name in ["waf", "ai-proxy"] {
        assert_eq!(larder.get(&format!("/plugins/{name}/1.0.0/plugin.wasm")).status, 200);
    }
    assert_eq!(larder.get("/plugins/none/1.0.0/plugin.wasm").status, 404);
    (registry, larder)
}

fn schemathesis(larder: &Larder, flags: &[&str]) {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
    assert!(libraries.join("schemathesis").is_dir(), "schemathesis is missing; make test installs it");
    let at = format!("http://{}", larder.admin);
    let output = Command::new("python3")
        .args(["-m", "schemathesis.cli", "run", &format!("{at}/api/v1/openapi.json"), "--url", &at])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--no-color", "--seed", "1"])
        // Of archives it knows nothing; `bundle` sends good ones and bad ones.
        .args(["--exclude-path", "/api/v1/import"])
        .args(["--generation-database", "none", "--suppress-health-check", "all"])
        .args(flags)
        .env("PYTHONPATH", &libraries)
        .current_dir(larder.home.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let tail = text.char_indices().nth_back(8000).map_or(0, |(at, _)| at);
    assert!(output.status.success(), "{}{}", &text[tail..], String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("17 selected / 18 total"), "{text}");
}

#[test]
fn schemathesis_finds_no_answer_that_the_document_does_not_tell_of() {
    let (_registry, larder) = guarded();
    schemathesis(
        &larder,
        &[
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance,\
              response_headers_conformance,response_schema_conformance,negative_data_rejection,\
              positive_data_acceptance,missing_required_header,unsupported_method,allow_header_conformance",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=8",
            "--generation-with-security-parameters=false",
        ],
    );
}

#[test]
fn schemathesis_gets_nothing_without_the_token() {
    let (_registry, larder) = guarded();
    let flags = [
        "--checks=ignored_auth",
        "--phases=fuzzing",
        "--max-examples=1",
        "--mode=positive",
        // Of wrong tokens, five a second are told that they are wrong.
        "--rate-limit=4/s",
    ];
    schemathesis(&larder, &flags);
}

fn document() -> Value {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/admin/openapi.json"));
    serde_json::from_str(&text.unwrap()).unwrap()
}

#[test]
fn every_route_is_in_the_document_and_nothing_else_is() {
    let document = document();
    let told: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let routes = larder::server::admin::ROUTES.iter();
    let real: BTreeSet<_> =
        routes.map(|(path, method, _)| (path.to_string(), method.as_str().to_owned())).collect();
    assert_eq!(told, real);
}

/// Holds a value with every member against its schema: the same names, those that may be missing and no others not
/// required, and the right kinds of values.
fn agree(document: &Value, name: &str, full: &impl Serialize) {
    let value = serde_json::to_value(full).unwrap();
    let schema = &document["components"]["schemas"][name];
    let told: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().collect();
    let real: BTreeSet<_> = value.as_object().unwrap().keys().collect();
    assert_eq!(told, real, "{name}");
    fits(document, schema, &value, name);
}

fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema =
            document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"));
        return fits(document, schema, value, at);
    }
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(members)) => {
            for (name, member) in members {
                let schema = &schema["properties"][name];
                assert!(schema.is_object(), "{at}.{name} is not told of");
                fits(document, schema, member, &format!("{at}.{name}"));
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(members.contains_key(name.as_str().unwrap()), "{at}.{name} is missing");
            }
        }
        (Some("array"), Value::Array(items)) => {
            assert!(!items.is_empty(), "{at}: a full value is asked for");
            items.iter().for_each(|item| fits(document, &schema["items"], item, at));
        }
        (Some("string"), Value::String(_))
        | (Some("integer"), Value::Number(_))
        | (Some("boolean"), Value::Bool(_)) => {}
        (None, value) if schema["const"] == *value => {}
        (kind, value) => panic!("{at}: {value} is no {kind:?}"),
    }
}

/// Without the members that may be missing: those that are required are there.
fn agree_when_empty(document: &Value, name: &str, least: &impl Serialize) {
    let value = serde_json::to_value(least).unwrap();
    let schema = &document["components"]["schemas"][name];
    let told: BTreeSet<_> =
        schema["required"].as_array().into_iter().flatten().map(|n| n.as_str().unwrap().to_owned()).collect();
    let real: BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
    assert_eq!(told, real, "{name}: what is always there");
}

fn text(word: &str) -> Option<String> {
    Some(word.into())
}

const AT: &str = "2026-01-31T12:00:00Z";

fn failure() -> Failure {
    Failure {
        what: What::Fetch,
        subject: "r/a:1".into(),
        reference: text("r/a:1"),
        status: Some(502),
        code: "dns".into(),
        detail: "d".into(),
        hint: "h".into(),
        count: 1,
        first_at: AT.into(),
        last_at: AT.into(),
    }
}

fn entry() -> Entry {
    let digest = text(&Digest::of(b"").to_string());
    Entry {
        key: "r/a:1".into(),
        plugin: "a".into(),
        version: "1".into(),
        state: State::Fresh,
        registry: text("r"),
        manifest: digest.clone(),
        layer: digest.clone(),
        digest,
        size: Some(1),
        abi: text("0.2.1"),
        tier: text("disk"),
        first_used_at: text(AT),
        last_used_at: text(AT),
        since: text(AT),
        checked_at: text(AT),
        expires_at: text(AT),
        received: Some(1),
        expected: Some(1),
        signature: Some(Signed {
            result: "verified".into(),
            detail: "by a key".into(),
            key: text(&Digest::of(b"").to_string()),
            at: text(AT),
        }),
        error: Some(failure()),
    }
}

fn job() -> Job {
    let item = Item {
        plugin: "a".into(),
        version: text("1"),
        state: Progress::Held,
        reference: text("r/a:1"),
        received: 1,
        expected: 1,
        size: Some(1),
        matched: text("exact"),
        error: Some(failure()),
    };
    Job {
        id: 1,
        kind: "prefetch".into(),
        started_at: AT.into(),
        finished_at: text(AT),
        total: 1,
        held: 1,
        failed: 0,
        items: vec![item],
    }
}

fn wrong() -> Wrong {
    Wrong { code: "c".into(), detail: "d".into(), hint: "h".into() }
}

fn imported() -> Imported {
    let digest = text(&Digest::of(b"").to_string());
    let item = import::Item {
        plugin: "a".into(),
        version: text("1"),
        reference: text("r/a:1"),
        manifest: digest.clone(),
        digest,
        size: Some(1),
        state: import::State::Imported,
        error: Some(wrong()),
    };
    Imported { dry_run: true, imported: 1, unchanged: 1, kept: 0, refused: 1, items: vec![item] }
}

fn scrub() -> Scrub {
    Scrub { started_at: AT.into(), finished_at: text(AT), total: 1, done: 1, damaged: 0 }
}

#[test]
fn the_documents_schemas_are_the_types() {
    let document = document();
    let settings = Settings {
        loaded_at: AT.into(),
        refused: text("why"),
        needs_restart: vec!["listen".into()],
        log_level: "info".into(),
    };
    let registry = Registry { name: "r".into(), state: "open".into(), error: Some(failure()) };
    let certificate = Certificate { role: "server".into(), file: "f".into(), not_after: AT.into() };
    let status = Status {
        version: "1".into(),
        process: 1,
        started_at: AT.into(),
        now: AT.into(),
        ready: true,
        warnings: vec!["w".into()],
        store: Store::default(),
        registries: vec![registry.clone()],
        fetching: vec![Fetching { reference: "r/a:1".into(), received: 1, expected: 1 }],
        warm_up: Some(job()),
        scrub: Some(scrub()),
        settings: settings.clone(),
        certificates: vec![certificate.clone()],
    };
    let words = || vec!["w".to_owned()];
    let confirmed = Confirmed { key: "r/a:1".into(), result: Verdict::Failed, error: Some(failure()) };
    let selector = Selector {
        keys: words(),
        plugin: text("a"),
        version: text("1"),
        digest: text("sha256:00"),
        all: true,
        dry_run: true,
    };
    let problem = Problem {
        status: 404,
        code: "c".into(),
        title: "t".into(),
        detail: "d".into(),
        hint: "h".into(),
        plugin: text("a"),
        version: text("1"),
        reference: text("r/a:1"),
        versions: words(),
        nearest: words(),
        faults: words(),
    };
    let agree = |name: &str, full: &dyn erased::Full| agree(&document, name, &full.value());
    agree("Failure", &failure());
    agree("Entry", &entry());
    agree("Signed", entry().signature.as_ref().unwrap());
    agree("Page", &Page { total: 1, entries: vec![entry()], next: text("1") });
    agree("Hour", &Hour { step_seconds: 30, points: vec![Point::default()] });
    agree("Point", &Point::default());
    agree("Job", &job());
    agree("Item", &job().items[0]);
    agree("Wanted", &Wanted { plugins: words() });
    agree("Selector", &selector);
    agree("Questions", &json!({"keys": ["r"], "plugin": "a", "version": "1", "digest": "d", "all": true}));
    agree("Purged", &Purged { purged: words(), modules: 1, bytes: 1, dry_run: true });
    agree("Revalidated", &Revalidated { results: vec![confirmed.clone()] });
    agree("Confirmed", &confirmed);
    agree("Imported", &imported());
    agree("Offered", &imported().items[0]);
    agree("Wrong", &wrong());
    agree("Scrub", &scrub());
    agree("Reloaded", &Reloaded { changed: words(), needs_restart: words(), warnings: words() });
    agree("Settings", &settings);
    agree("Registry", &registry);
    agree("Certificate", &certificate);
    agree("Store", &Store::default());
    agree("Status", &status);
    agree("Problem", &problem);

    let least = |name: &str, value: &dyn erased::Full| agree_when_empty(&document, name, &value.value());
    least("Failure", &Failure { reference: None, status: None, ..failure() });
    least("Job", &Job { finished_at: None, ..job() });
    least(
        "Item",
        &Item {
            version: None,
            reference: None,
            size: None,
            matched: None,
            error: None,
            ..job().items.remove(0)
        },
    );
    least("Imported", &Imported { items: vec![], ..imported() });
    least("Offered", &json!({"plugin": "a", "state": "imported"}));
    least("Wrong", &Wrong { hint: String::new(), ..wrong() });
    least("Scrub", &Scrub { finished_at: None, ..scrub() });
    least("Settings", &Settings { refused: None, ..settings });
    least("Registry", &Registry { error: None, ..registry });
    least("Status", &Status { warm_up: None, scrub: None, ..status });
    least("Confirmed", &Confirmed { error: None, ..confirmed });
    least("Page", &Page { total: 0, entries: vec![], next: None });
    least("Selector", &Selector::default());
    let bare = json!({"key": "k", "plugin": "a", "version": "1", "state": "local"});
    let bare: Entry = serde_json::from_value(bare).unwrap();
    least("Entry", &bare);
    let versions = Problem { versions: vec![], nearest: vec![], faults: vec![], ..problem };
    least(
        "Problem",
        &Problem { hint: String::new(), plugin: None, version: None, reference: None, ..versions },
    );
}

/// Values of many types in one list.
mod erased {
    pub trait Full {
        fn value(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Full for T {
        fn value(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}

#[test]
fn every_example_fits_its_schema() {
    let document = document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        for example in schema["examples"].as_array().into_iter().flatten() {
            let empty = example.as_object().unwrap().values().any(|member| member == &json!([]));
            if !empty {
                fits(&document, schema, example, name);
            }
        }
    }
}

#[test]
fn the_document_is_for_everybody() {
    let (_registry, larder) = guarded();
    let reply = client::get(larder.admin, "/api/v1/openapi.json");
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    assert_eq!(reply.json(), document());
}
