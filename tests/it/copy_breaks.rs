//! `larder copy` on bad days: connections that break, registries with ways of their own, refusals, and bytes that are
//! not what they should be.

use crate::copy::{Told, copy, home, only};
use crate::support::artifact::{Artifact, module, raw};
use crate::support::larder::Home;
use crate::support::scripted::{Act, Ask, Scripted};
use crate::support::writable::{Ways, Writable};
use larder::oci::Digest;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 100_000;
const CHUNK: usize = 32 * 1024;

/// A source with one plugin, a target with these ways, and a larder that knows both.
fn between(ways: Ways) -> (Scripted, Artifact, Writable, Home) {
    let (source, target) = (Scripted::start(), Writable::start(ways));
    let plugin = raw(&module("carried", SIZE));
    source.put("plugins/waf", "1", &plugin);
    let rule = format!("hosts: {{'{}': {{plain_http: true}}}}", target.registry.host());
    let home = home(&source.host(), &rule);
    (source, plugin, target, home)
}

fn carried(home: &Home, target: &Writable, more: &[&str]) -> Told {
    let to = format!("{}/team", target.registry.host());
    let chunk = format!("{CHUNK}B");
    let words = ["waf@1", "--to", &to, "--chunk-size", &chunk];
    copy(home, &[&words[..], more].concat())
}

fn blob(plugin: &Artifact) -> String {
    format!("team/waf/blobs/{}", Digest::of(&plugin.module))
}

fn is_chunk(ask: &Ask) -> bool {
    ask.method == "PATCH"
}

/// Bytes of chunks that were sent.
fn sent(target: &Writable) -> usize {
    target.registry.asked().iter().filter(|ask| is_chunk(ask)).map(|ask| ask.body.len()).sum()
}

#[test]
fn the_manifest_comes_last_and_blobs_in_chunks_of_the_size_that_was_asked_for() {
    for relative in [false, true] {
        let (_source, plugin, target, home) = between(Ways { relative, ..Ways::default() });
        carried(&home, &target, &[]).with(0);
        let whole = target.whole();
        assert_eq!(whole.len(), 3, "{whole:?}");
        assert_eq!(whole[2], "team/waf/manifests/1");
        assert!(whole.contains(&blob(&plugin)), "{whole:?}");
        let asked = target.registry.asked();
        let chunks: Vec<_> = asked.iter().filter(|ask| is_chunk(ask)).map(|ask| ask.body.len()).collect();
        assert_eq!(chunks.iter().max(), Some(&CHUNK));
        assert_eq!(chunks.iter().sum::<usize>(), SIZE + 2);
    }
}

#[test]
fn a_chunk_that_breaks_in_the_middle_goes_on_from_where_the_registry_has_it() {
    let (_source, plugin, target, home) = between(Ways::default());
    let broken = AtomicUsize::new(0);
    target.meddle(move |ask, upload| {
        // The second and the third chunk, once each: a part arrives, and then the line is dead.
        let from = ask.headers.get("content-range")?.split('-').next()?.parse::<usize>().ok()?;
        if from == upload.len()
            && from > 0
            && ask.body.len() > 20_000
            && broken.fetch_add(1, Ordering::SeqCst) < 2
        {
            upload.extend_from_slice(&ask.body[..10_000]);
            return Some(Act::hang_up());
        }
        None
    });
    carried(&home, &target, &[]).with(0);
    assert!(target.whole().contains(&blob(&plugin)));
    assert_eq!((target.count("POST"), target.count("DELETE")), (2, 0), "the upload was not begun again");
    let again = sent(&target) - (SIZE + 2);
    assert!(again < 2 * CHUNK, "only what had not arrived is sent again: {again}");
    assert!(target.registry.count(|ask| ask.method == "GET" && ask.path.contains("/uploads/")) >= 2);
}

#[test]
fn an_upload_that_the_registry_has_lost_is_begun_again() {
    let (_source, plugin, target, home) = between(Ways::default());
    let forgot = AtomicUsize::new(0);
    target.meddle(move |ask, upload| {
        if is_chunk(ask) && upload.len() > CHUNK && forgot.fetch_add(1, Ordering::SeqCst) == 0 {
            upload.clear();
            return Some(Act::status(404));
        }
        None
    });
    carried(&home, &target, &[]).with(0);
    assert!(target.whole().contains(&blob(&plugin)));
    assert_eq!(target.count("POST"), 3);
}

#[test]
fn a_registry_without_chunks_gets_each_blob_in_one_piece() {
    for status in [404, 405, 416, 501] {
        let (_source, plugin, target, home) =
            between(Ways { refuses_chunks: Some(status), ..Ways::default() });
        carried(&home, &target, &[]).with(0);
        assert!(target.whole().contains(&blob(&plugin)), "{status}");
        assert_eq!(target.count("PATCH"), 1, "{status}: it is asked once");
        let asked = target.registry.asked();
        assert!(asked.iter().any(|ask| ask.method == "PUT" && ask.body == plugin.module), "{status}");
    }
}

#[test]
fn a_registry_that_wants_larger_chunks_gets_them_or_one_piece_where_memory_would_not_do() {
    for (least, chunks) in [(50_000, 3), (1 << 40, 0)] {
        let (_source, plugin, target, home) = between(Ways { least: Some(least), ..Ways::default() });
        carried(&home, &target, &[]).with(0);
        assert!(target.whole().contains(&blob(&plugin)));
        assert_eq!(target.count("PATCH"), chunks, "{least}");
    }
}

#[test]
fn a_blob_of_other_bytes_than_its_digest_is_never_finished_and_its_upload_is_cancelled() {
    for refuses_chunks in [None, Some(405)] {
        let (source, plugin, target, home) = between(Ways { refuses_chunks, ..Ways::default() });
        let digest = Digest::of(&plugin.module).to_string();
        let wrong = digest.clone();
        source.script(move |ask, mut truth| {
            if ask.path.ends_with(&wrong) {
                *truth.body.last_mut().unwrap() ^= 1;
            }
            truth
        });
        let told = carried(&home, &target, &[]).with(65);
        assert!(told.out.contains("digest_mismatch") && told.out.contains(&digest), "{told:?}");
        assert!(!target.whole().contains(&blob(&plugin)), "{:?}", target.whole());
        assert!(!target.whole().iter().any(|path| path.contains("/manifests/")), "{:?}", target.whole());
        let puts = target
            .registry
            .count(|ask| ask.method == "PUT" && ask.path.contains(&digest.replace(':', "%3A")));
        assert_eq!(puts, 0, "nobody said that it was whole");
        assert!(!target.cancelled().is_empty());
        assert!(target.cancelled().iter().all(|bytes| *bytes < SIZE), "{:?}", target.cancelled());
        source.heal();
        carried(&home, &target, &[]).with(0);
        assert!(target.whole().contains(&blob(&plugin)));
    }
}

#[test]
fn a_busy_registry_is_asked_again_when_it_says_and_an_answer_that_was_lost_is_no_second_blob() {
    let (_source, plugin, target, home) = between(Ways::default());
    let refused = AtomicUsize::new(0);
    let lost = Arc::new(AtomicUsize::new(0));
    let lost_once = lost.clone();
    target.meddle(move |ask, _| {
        let first = |n: &AtomicUsize| n.fetch_add(1, Ordering::SeqCst) == 0;
        match ask.method.as_str() {
            "POST" if first(&refused) => Some(Act::status(429).header("Retry-After", "0")),
            "PUT" if ask.path.contains("/manifests/") && first(&lost_once) => Some(Act::status(503)),
            _ => None,
        }
    });
    carried(&home, &target, &[]).with(0);
    assert_eq!(target.whole().iter().filter(|path| **path == blob(&plugin)).count(), 1);
    assert_eq!(target.count("POST"), 3);
    assert_eq!(lost.load(Ordering::SeqCst), 2);
}

#[test]
fn a_refusal_says_what_is_missing_and_is_not_asked_again() {
    for (status, body, code, exit, hint) in [
        (
            404,
            r#"{"errors":[{"code":"NOT_FOUND","message":"project team not found"}]}"#,
            "no_project",
            66,
            "does the project team exist",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"will exceed the configured upper limit of 1 GiB"}]}"#,
            "quota",
            77,
            "quota",
        ),
        (
            412,
            r#"{"errors":[{"code":"PRECONDITION","message":"configured as immutable"}]}"#,
            "immutable_tag",
            77,
            "immutable",
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"no"}]}"#,
            "push_denied",
            77,
            "push team/waf without credentials",
        ),
        (405, "", "read_only", 77, "proxy cache"),
        (507, "", "quota", 77, "quota"),
    ] {
        let (_source, _plugin, target, home) = between(Ways::default());
        target.meddle(move |ask, _| (ask.method == "POST").then(|| Act::status(status).body(body)));
        let told = carried(&home, &target, &[]).with(exit);
        assert!(
            told.out.contains(&format!("# waf@1: {code}: ")) && told.out.contains(hint),
            "{status}: {told:?}"
        );
        assert_eq!(target.count("POST"), 1, "{status}");
        assert_eq!(target.whole(), [] as [String; 0]);
    }
}

#[test]
fn a_registry_that_calls_the_manifest_something_else_is_told_of() {
    let (_source, plugin, target, home) = between(Ways::default());
    let other = Digest::of(b"another").to_string();
    target.meddle(move |ask, _| {
        let is_manifest = ask.method == "PUT" && ask.path.contains("/manifests/");
        is_manifest.then(|| Act::status(201).header("Docker-Content-Digest", &other))
    });
    let told = carried(&home, &target, &[]).with(65);
    let digest = plugin.manifest.digest().to_string();
    assert!(told.out.contains("digest_header") && told.out.contains(&digest), "{told:?}");
}

#[test]
fn a_tag_that_means_something_else_stays_and_nothing_is_sent_for_it() {
    let (_source, plugin, target, home) = between(Ways::default());
    let theirs = raw(&module("theirs", 5000));
    target.registry.put("team/waf", "1", &theirs);
    let row = only(&carried(&home, &target, &["-o", "json"]).with(1));
    assert_eq!(
        (row["outcome"].as_str(), row["before"].as_str()),
        (Some("conflict"), Some(theirs.manifest.digest().to_string().as_str()))
    );
    assert_eq!((target.count("POST"), target.whole().len()), (0, 0));
    let row = only(&carried(&home, &target, &["--overwrite", "-o", "json"]).with(0));
    assert_eq!(row["outcome"], "replaced", "{row}");
    assert_eq!(target.whole().last().unwrap(), "team/waf/manifests/1");
    assert!(target.whole().contains(&blob(&plugin)));
}

#[test]
fn a_source_that_breaks_off_is_read_on_and_one_that_has_no_layer_leaves_no_tag() {
    let (source, plugin, target, home) = between(Ways::default());
    let cut = AtomicUsize::new(0);
    let digest = Digest::of(&plugin.module).to_string();
    let layer = digest.clone();
    source.script(move |ask, truth| {
        match ask.path.ends_with(&layer) && cut.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Act { cut: Some(SIZE / 2), ..truth },
            false => truth,
        }
    });
    carried(&home, &target, &[]).with(0);
    assert!(target.whole().contains(&blob(&plugin)));
    assert_eq!(target.cancelled().len(), 0);

    let (source, _, target, home) = between(Ways::default());
    source.remove(&format!("/v2/plugins/waf/blobs/{digest}"));
    let told = carried(&home, &target, &[]).with(69);
    assert!(told.out.contains(&digest), "{told:?}");
    assert!(!target.whole().iter().any(|path| path.contains("/manifests/")), "{:?}", target.whole());
}
