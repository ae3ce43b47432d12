//! What each setting does when it changes while larder runs. A key that is in none of these tests, and waits for no start
//! either, is found by the last one.

use crate::support::artifact::{artifact, gzip, module, raw, tar};
use crate::support::client;
use crate::support::eventually;
use crate::support::h2;
use crate::support::reloaded::Reloaded;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn put(folder: &Path, at: &str, bytes: &[u8]) {
    let path = folder.join(at);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn names_and_urls_mean_what_the_settings_say_now_and_what_was_worked_out_before_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("p.properties");
    std::fs::write(&lines, "").unwrap();
    let mut running = Reloaded::with(&[
        ("catalog.template", Value::Null),
        ("catalog.files", json!([lines])),
        ("lifetimes.absent", json!("1h")),
    ]);
    let host = running.registry.host();
    let (one, two) = (module("one", 9000), module("two", 9000));
    for (name, tag, bytes) in [("waf", "1", &one), ("waf", "2", &two), ("other", "1", &two)] {
        running.registry.put(&format!("plugins/{name}"), tag, &raw(bytes));
    }
    let line = |reference: &str| format!("waf={host}/plugins/{reference}\n");
    let served = |running: &Reloaded, path: &str| {
        let reply = running.larder.get(path);
        (reply.status, reply.body)
    };
    let path = "/plugins/waf/1/plugin.wasm";
    for (write, keys, path, expected) in [
        // Without a line there is no such name, and with one there is, again and again.
        (line("waf:1"), vec![], path, Some(&one)),
        (String::new(), vec![], path, None),
        (line("waf:1"), vec![], path, Some(&one)),
        // The same URL means another repository.
        (line("other:1"), vec![], path, Some(&two)),
        (
            line("waf:1"),
            vec![("catalog.plugins", json!({"waf": {"repositories": [format!("{host}/plugins/other")]}}))],
            path,
            Some(&two),
        ),
        (line("waf:1"), vec![("catalog.plugins", json!({}))], path, Some(&one)),
        (
            line("waf:1"),
            vec![("catalog.aliases", json!({"9": "2"}))],
            "/plugins/waf/9/plugin.wasm",
            Some(&two),
        ),
        (line("waf:1"), vec![("catalog.aliases", json!({}))], "/plugins/waf/9/plugin.wasm", Some(&one)),
        (line("waf:1"), vec![("catalog.fallback", json!(false))], "/plugins/waf/9/plugin.wasm", None),
        (line("waf:1"), vec![("catalog.fallback", json!(true))], "/plugins/waf/9/plugin.wasm", Some(&one)),
        (
            String::new(),
            vec![("catalog.template", json!(format!("{host}/plugins/{{name}}:{{version}}")))],
            "/plugins/other/1/plugin.wasm",
            Some(&two),
        ),
        (String::new(), vec![("catalog.template", Value::Null)], "/plugins/other/1/plugin.wasm", None),
        (line("waf:1"), vec![("routes.patterns", json!(["/w/{name}/{version}"]))], "/w/waf/1", Some(&one)),
        (line("waf:1"), vec![], path, None),
        (
            line("waf:1"),
            vec![("routes.patterns", json!(["/plugins/{name}/{version}/plugin.wasm"]))],
            path,
            Some(&one),
        ),
    ] {
        std::fs::write(&lines, write).unwrap();
        running.change(&keys);
        let (status, body) = served(&running, path);
        match expected {
            Some(bytes) => assert!(status == 200 && body == *bytes, "{keys:?}: {path}: {status}"),
            None => assert_eq!(status, 404, "{keys:?}: {path}"),
        }
    }
    let listed = |running: &Reloaded| running.larder.get("/plugins/").text().contains("ai-proxy");
    assert!(!listed(&running));
    running.change(&[("catalog.builtin", json!(true))]);
    assert!(listed(&running));
    let explained = client::get(running.larder.admin, "/explain?name=ai-proxy").text();
    assert!(!explained.contains("not in the catalog"), "an explanation goes by the same names: {explained}");
}

#[test]
fn lifetimes_hold_for_what_is_held_and_for_what_failed_from_the_change_on() {
    let mut running = Reloaded::with(&[]);
    let registry = running.registry.clone();
    registry.put("plugins/tag", "1", &raw(&module("tag", 9000)));
    registry.put(
        "plugins/unusable",
        "1",
        &artifact(MANIFEST, "text/plain", &[("text/plain", b"text".to_vec())], b""),
    );
    registry.put("plugins/transient", "1", &raw(&module("transient", 9000)));
    registry.script(|ask, truth| match ask.path.contains("/plugins/transient/") {
        true => crate::support::scripted::Act::status(500),
        false => truth,
    });
    let breaker = ("lifetimes.transient", json!("1ms"));
    for (name, key) in
        [("tag", "lifetimes.tag"), ("absent", "lifetimes.absent"), ("unusable", "lifetimes.unusable")]
    {
        let asked = || registry.count(|ask| ask.is_manifest() && ask.path.contains(&format!("/{name}/")));
        running.change(&[(key, json!("1h")), breaker.clone()]);
        let first = running.status(name, "1");
        let before = asked();
        for _ in 0..3 {
            assert_eq!(running.status(name, "1"), first, "{name}");
        }
        assert_eq!(asked(), before, "{key} is an hour");
        running.change(&[(key, json!("1ms"))]);
        eventually(key, || {
            running.status(name, "1");
            (asked() > before + 2).then_some(())
        });
        running.change(&[(key, json!("1h"))]);
        // What was begun before the change may still end; then nothing is asked any more.
        eventually(&format!("{key} is an hour again"), || {
            let before = asked();
            (0..3).for_each(|_| assert_eq!(running.status(name, "1"), first, "{name}"));
            (asked() == before).then_some(())
        });
    }
    // Of a registry that fails: it is left alone for as long as the failure is remembered.
    let asked = || registry.count(|ask| ask.path.contains("/transient/"));
    running.change(&[("lifetimes.transient", json!("1h"))]);
    running.status("transient", "1");
    let before = asked();
    running.status("transient", "1");
    assert_eq!(asked(), before);
    running.change(&[breaker]);
    eventually("the registry asked again and again", || {
        running.status("transient", "1");
        (asked() > before + 1).then_some(())
    });
}

#[test]
fn limits_hold_from_the_change_on_and_what_was_too_large_is_fetched_when_they_are_raised() {
    let mut running = Reloaded::with(&[("lifetimes.unusable", json!("1h"))]);
    let packed = |seed: &str| {
        let wasm = module(seed, 40_000);
        let files = tar(&[("a", b"a"), ("b", b"b"), ("c", b"c"), ("plugin.wasm", &wasm)]);
        artifact(
            MANIFEST,
            "application/vnd.oci.image.config.v1+json",
            &[("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&files))],
            &wasm,
        )
    };
    // Mostly zeros, and over what is unpacked without looking at the ratio.
    let mut bomb = module("bomb", 1000);
    let zeros = 70 << 20;
    bomb.extend([
        0u8,
        0x80 | (zeros & 0x7f) as u8,
        0x80 | (zeros >> 7 & 0x7f) as u8,
        0x80 | (zeros >> 14 & 0x7f) as u8,
        (zeros >> 21) as u8,
    ]);
    bomb.extend(vec![0; zeros]);
    let layer = gzip(&tar(&[("plugin.wasm", &bomb)]));
    let bomb = artifact(
        MANIFEST,
        "application/vnd.oci.image.config.v1+json",
        &[("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        &bomb,
    );
    for (n, (key, low, high)) in [
        ("limits.manifest", json!("10B"), json!("4MiB")),
        ("limits.module", json!("20KiB"), json!("256MiB")),
        ("limits.tar_entries", json!(3), json!(10_000)),
        ("limits.ratio", json!(20), json!(100_000)),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("p{n}");
        let small = packed(&name);
        running.registry.put(&format!("plugins/{name}"), "1", if n == 3 { &bomb } else { &small });
        running.change(&[(key, low)]);
        let refused = running.status(&name, "1");
        assert!(refused >= 400, "{key}: {refused}");
        assert_eq!(running.status(&name, "1"), refused, "{key}: remembered");
        running.change(&[(key, high)]);
        assert_eq!(running.status(&name, "1"), 200, "{key}: {}", running.larder.log_text());
    }
}

#[test]
fn fetches_go_by_the_times_and_turns_that_the_settings_have_now() {
    let mut running = Reloaded::with(&[
        ("fill.hold", json!("1h")),
        ("fill.at_once", json!(1)),
        ("fill.memory", json!("8MiB")),
        // However long it says nothing here.
        ("registry.first_byte_timeout", json!("10m")),
    ]);
    let registry = running.registry.clone();
    for n in 0..12 {
        registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 9000)));
    }
    registry.close_gate();
    let blobs = || registry.count(|ask| ask.is_blob());
    running.change(&[("fill.hold", json!("10ms"))]);
    let asked = |running: &Reloaded, n: usize| running.larder.get(&format!("/plugins/p{n}/1/plugin.wasm"));
    for n in 0..8 {
        let reply = asked(&running, n);
        assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some("pending")), "fill.hold");
    }
    eventually("a turn taken", || (blobs() == 1).then_some(()));
    // Those who wait already get their turns; of the memory each takes 2 MiB, so that four are all of it.
    running.change(&[("fill.at_once", json!(16))]);
    eventually("more turns", || (blobs() == 4).then_some(()));
    running.change(&[("fill.memory", json!("64MiB"))]);
    eventually("more memory", || (blobs() == 8).then_some(()));
    // A fetch that begins now ends in time, those of before have theirs.
    running.change(&[("fill.timeout", json!("50ms")), ("fill.hold", json!("20s"))]);
    let reply = asked(&running, 9);
    assert_eq!((reply.status, reply.json()["code"].as_str()), (504, Some("timeout")), "{}", reply.text());
    registry.open_gate();
    for n in 0..8 {
        assert_eq!(asked(&running, n).status, 200, "{n}");
    }
}

/// A connection that was told nothing yet.
fn connected(running: &Reloaded) -> TcpStream {
    client::connect(running.larder.data).unwrap()
}

/// Waits for the other end to close.
fn closed(mut stream: TcpStream) -> Duration {
    let begun = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    begun.elapsed()
}

const ASK: &[u8] = b"GET /plugins/waf/1/plugin.wasm HTTP/1.1\r\nHost: l\r\n\r\n";

#[test]
fn connections_are_treated_as_the_settings_say_when_they_are_accepted() {
    let mut running = Reloaded::with(&[
        ("server.header_timeout", json!("1h")),
        ("server.idle_timeout", json!("1h")),
        ("server.connections_per_address", json!(4)),
    ]);
    running.registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    assert_eq!(running.status("waf", "1"), 200);
    // Those that are here stay, though there are more of them than may come now.
    let mut held: Vec<_> = (0..3).map(|_| connected(&running)).collect();
    for stream in &mut held {
        stream.write_all(ASK).unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().status, 200);
    }
    let refused = |running: &Reloaded, reason: &str| {
        running
            .larder
            .metric(&format!("larder_connections_refused_total{{listener=\"data\",reason=\"{reason}\"}}"))
    };
    running.change(&[("server.connections_per_address", json!(2))]);
    closed(connected(&running));
    assert_eq!(refused(&running, "address"), 1.0);
    running.change(&[("server.connections_per_address", json!(100)), ("server.connections", json!(3))]);
    closed(connected(&running));
    assert_eq!(refused(&running, "total"), 1.0);
    for stream in &mut held {
        stream.write_all(ASK).unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().status, 200, "those that are here stay");
    }
    drop(held);
    running.change(&[("server.connections", json!(100)), ("server.header_timeout", json!("200ms"))]);
    // Closed at all: before, it would have been in an hour.
    assert!(closed(connected(&running)) < Duration::from_secs(50), "header_timeout");
    running.change(&[("server.header_timeout", json!("1h"))]);
    let served = |stream: &mut TcpStream| {
        stream.write_all(ASK).unwrap();
        assert_eq!(client::read_reply(stream, false).unwrap().status, 200);
    };
    let mut used = connected(&running);
    served(&mut used);
    running.change(&[("server.idle_timeout", json!("1s"))]);
    let mut idle = connected(&running);
    served(&mut idle);
    assert!(closed(idle) < Duration::from_secs(50), "idle_timeout");
    // From its next answer on one that was here has that time too.
    served(&mut used);
    assert!(closed(used) < Duration::from_secs(50), "idle_timeout of one that was here");
    // HTTP/2 is spoken from the change on, and not before.
    let speaks = |running: &Reloaded| {
        let mut connection = h2::Connection::open(running.larder.data, &[]);
        connection.next().is_ok_and(|frame| frame.is_some_and(|frame| frame.kind == h2::SETTINGS))
    };
    assert!(!speaks(&running));
    running.change(&[("server.h2c", json!(true))]);
    assert!(speaks(&running));
    running.change(&[("server.h2c", json!(false))]);
    assert!(!speaks(&running));
}

#[test]
fn who_takes_nothing_is_gone_as_soon_as_the_settings_of_now_say() {
    // From disk, as long as nobody takes it; the least rate is judged by the piece.
    let mut running = Reloaded::with(&[
        ("cache.memory", json!("0B")),
        ("server.send_rate", json!("1B")),
        ("server.send_memory", json!("1MiB")),
        ("server.connections_per_address", json!(100)),
    ]);
    let large = module("large", 20 << 20);
    running.registry.put("plugins/waf", "1", &raw(&large));
    assert_eq!(running.larder.get("/plugins/waf/1/plugin.wasm").body.len(), large.len());
    // Two who take nothing have all that their address may have, and the third waits for them.
    let held: Vec<_> = (0..6)
        .map(|_| {
            let mut stream = connected(&running);
            stream.write_all(ASK).unwrap();
            stream
        })
        .collect();
    running.change(&[("server.send_memory", json!("64MiB"))]);
    let reply = running.larder.get("/plugins/waf/1/plugin.wasm");
    assert_eq!(reply.body.len(), large.len(), "there is room beside those who take nothing");
    running.change(&[("server.send_rate", json!("1GiB"))]);
    let mut stream = connected(&running);
    stream.write_all(ASK).unwrap();
    // The kernel's buffers are full by then; what is read after the cut is less than the whole.
    eventually("the cut", || {
        let line = running.larder.log().into_iter().rfind(|line| line["target"] == "access")?;
        (line["complete"] == false).then_some(())
    });
    drop((stream, held));
}

#[test]
fn the_end_is_as_the_settings_say_when_it_begins() {
    let mut running = Reloaded::with(&[("server.drain", json!("1h")), ("server.finish", json!("1h"))]);
    running.registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
    running.registry.close_gate();
    running.change(&[("server.drain", json!("0s")), ("server.finish", json!("0s"))]);
    let mut waiting = connected(&running);
    waiting.write_all(ASK).unwrap();
    let registry = running.registry.clone();
    eventually("a request under way", || (registry.count(|ask| ask.is_blob()) == 1).then_some(()));
    running.larder.signal("TERM");
    assert!(running.larder.wait().success());
}

#[test]
fn local_folders_are_those_of_the_settings_and_are_looked_at_as_often_as_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let (first, second) = (module("first", 9000), module("second", 9000));
    put(&one, "waf/1/plugin.wasm", &first);
    put(&two, "waf/1/plugin.wasm", &second);
    let mut running = Reloaded::with(&[("catalog.template", Value::Null), ("overlay.poll", json!("1h"))]);
    let body = |running: &Reloaded| running.larder.get("/plugins/waf/1/plugin.wasm").body;
    assert_eq!(running.status("waf", "1"), 404);
    running.change(&[("overlay.dirs", json!([one]))]);
    assert_eq!(body(&running), first);
    running.change(&[("overlay.dirs", json!([two, one]))]);
    assert_eq!(body(&running), second);
    running.change(&[("limits.module", json!("8000B"))]);
    assert_eq!(running.status("waf", "1"), 422, "too large by the limit of now");
    running.change(&[("limits.module", json!("1MiB")), ("overlay.dirs", json!([one]))]);
    assert_eq!(body(&running), first);
    put(&one, "late/1/plugin.wasm", &second);
    running.change(&[("overlay.poll", json!("100ms"))]);
    eventually("the file that came late", || (running.status("late", "1") == 200).then_some(()));
    running.change(&[("overlay.dirs", json!([]))]);
    assert_eq!(running.status("waf", "1"), 404);
}

#[test]
fn a_lower_limit_of_the_disk_evicts_at_once_those_not_used_for_longest() {
    let mut running = Reloaded::with(&[("limits.module", json!("100KiB"))]);
    for n in 0..10 {
        running.registry.put(&format!("plugins/p{n}"), "1", &raw(&module(&n.to_string(), 50_000)));
        assert_eq!(running.status(&format!("p{n}"), "1"), 200);
    }
    let entries = |running: &Reloaded| running.larder.metric("larder_cache_entries{tier=\"disk\"}");
    assert_eq!(entries(&running), 10.0);
    running.change(&[("cache.disk", json!("250KB"))]);
    let left = entries(&running);
    assert!(left > 0.0 && left * 50_000.0 <= 250_000.0, "{left}");
    assert_eq!(running.larder.metric("larder_evictions_total"), 10.0 - left);
    running.registry.down();
    assert_eq!(running.status("p9", "1"), 200, "the last one used is here");
    assert_ne!(running.status("p0", "1"), 200, "and the first one is not");
}

#[test]
fn memory_for_plugins_goes_and_comes_and_no_byte_changes() {
    let mut running = Reloaded::with(&[]);
    let plugins: Vec<_> = (0..8).map(|n| module(&n.to_string(), 100_000)).collect();
    for (n, bytes) in plugins.iter().enumerate() {
        running.registry.put(&format!("plugins/p{n}"), "1", &raw(bytes));
    }
    let held = |running: &Reloaded| running.larder.metric("larder_cache_entries{tier=\"memory\"}");
    let ask = |running: &Reloaded| {
        for (n, bytes) in plugins.iter().enumerate() {
            for _ in 0..2 {
                assert_eq!(running.larder.get(&format!("/plugins/p{n}/1/plugin.wasm")).body, *bytes);
            }
        }
    };
    for (memory, expected) in [("64MiB", 8.0), ("0B", 0.0), ("64MiB", 8.0), ("128MiB", 8.0), ("0B", 0.0)] {
        running.change(&[("cache.memory", json!(memory))]);
        ask(&running);
        assert_eq!(held(&running), expected, "{memory}");
    }
    running.change(&[("cache.memory", json!("64MiB"))]);
    ask(&running);
    running.change(&[("cache.memory", json!("400KiB"))]);
    let left = held(&running);
    assert!(left > 0.0 && left < 8.0, "what fits stays: {left}");
}

#[test]
fn everything_is_read_again_as_often_as_the_settings_say_now() {
    for (still, changed, key, now) in [
        (
            [("cache.retry", json!("1h")), ("cache.scrub", json!("1ms"))],
            "when what can wait is done",
            "cache.retry",
            "50ms",
        ),
        ([("cache.retry", json!("50ms")), ("cache.scrub", json!("0s"))], "how often", "cache.scrub", "1ms"),
    ] {
        let mut running = Reloaded::with(&still);
        running.registry.put("plugins/waf", "1", &raw(&module("waf", 9000)));
        assert_eq!(running.status("waf", "1"), 200);
        let scrubbed = |running: &Reloaded| running.larder.metric("larder_scrubbed_total");
        assert_eq!(scrubbed(&running), 0.0, "{changed}");
        running.change(&[(key, json!(now))]);
        eventually(changed, || (scrubbed(&running) > 0.0).then_some(()));
    }
}

#[test]
fn the_log_has_the_level_that_the_settings_have_now() {
    let mut running = Reloaded::with(&[]);
    // Of probes there are lines at debug alone.
    let told = |running: &Reloaded, path: &str| running.larder.log().iter().any(|line| line["path"] == path);
    running.larder.get("/healthz?before");
    running.change(&[("log.level", json!("debug"))]);
    running.larder.get("/healthz?then");
    eventually("a line at debug", || told(&running, "/healthz?then").then_some(()));
    assert!(!told(&running, "/healthz?before"));
}

/// Keys that take effect at once, and what shows it.
const AT_ONCE: [(&str, &str); 28] = [
    ("server.header_timeout", "connections_are_treated"),
    ("server.idle_timeout", "connections_are_treated"),
    ("server.connections", "connections_are_treated"),
    ("server.connections_per_address", "connections_are_treated"),
    ("server.h2c", "connections_are_treated"),
    ("server.send_rate", "who_takes_nothing"),
    ("server.send_memory", "who_takes_nothing"),
    ("server.drain", "the_end"),
    ("server.finish", "the_end"),
    ("catalog.{builtin,files,template,fallback,aliases,plugins}", "names_and_urls"),
    ("routes.patterns", "names_and_urls"),
    ("overlay.{dirs,poll}", "local_folders"),
    ("cache.disk", "a_lower_limit"),
    ("cache.memory", "memory_for_plugins"),
    ("cache.{retry,scrub}", "everything_is_read_again"),
    ("fill.{hold,timeout,at_once,memory}", "fetches_go_by"),
    ("lifetimes.{tag,absent,unusable,transient}", "lifetimes_hold"),
    ("limits.{manifest,module,ratio,tar_entries}", "limits_hold"),
    // Read together into one value that takes the place of the one before; `reload` turns secrets, mirrors and rules.
    (
        "registry.{certs,ca,plain_http,docker_config,helper_timeout,allow_addresses,connect_timeout,first_byte_timeout,\
         idle_timeout,pull_timeout,least_rate,attempts,hosts}",
        "reload",
    ),
    ("registry.proxy.{url,username,password_file,no_proxy}", "reload"),
    ("tls.data.{certificate,key,client_ca,client_certificate}", "tls"),
    ("tls.admin.{certificate,key,client_ca,client_certificate}", "tls"),
    ("access.rules", "access"),
    ("lock.{file,mode,unlisted}", "lock"),
    ("log.level", "the_log"),
    ("admin.{token_file,audit.file,audit.required}", "admin"),
    ("policy.{mode,rules,floating_tags,largest,abi}", "a_changed_policy, of modes and policy"),
    // Of the last two there is no other value that can be used.
    ("policy.signatures.{mode,keys,identities,trusted_root}", "a_running_larder_follows, of signatures"),
];

#[test]
fn every_key_takes_effect_at_once_or_is_named_as_one_that_waits_for_the_next_start() {
    fn leaves(tree: &Value, above: &str, out: &mut BTreeSet<String>) {
        match tree.as_object().filter(|map| !map.is_empty()) {
            None => drop(out.insert(above.into())),
            Some(map) => {
                for (key, value) in map {
                    let key = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
                    leaves(value, &key, out);
                }
            }
        }
    }
    let mut all = BTreeSet::new();
    leaves(&larder::config::defaults(), "", &mut all);
    let mut at_once = BTreeSet::new();
    for (keys, _) in AT_ONCE {
        match keys.split_once(".{") {
            None => drop(at_once.insert(keys.to_owned())),
            Some((above, below)) => {
                let below = below.trim_end_matches('}').split(',');
                at_once.extend(below.map(|key| format!("{above}.{}", key.trim())));
            }
        }
    }
    let waits = |key: &String| {
        let is_below = |above: &&str| {
            key.strip_prefix(*above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        larder::config::keys::AT_START.iter().any(is_below)
    };
    let both: Vec<_> = at_once.iter().filter(|key| waits(key)).collect();
    assert!(both.is_empty(), "at once, and at the next start: {both:?}");
    let waiting: BTreeSet<_> = all.iter().filter(|key| waits(key)).cloned().collect();
    let told: BTreeSet<_> = at_once.union(&waiting).cloned().collect();
    assert_eq!(all, told, "keys of which nothing is said, and keys that there are none of");
}
