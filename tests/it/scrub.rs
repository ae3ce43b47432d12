//! What lies on disk is looked at though nobody asks for it: behind requests, at a start, and by `larder fsck`.

use crate::support::artifact::{module, raw};
use crate::support::heart::{Heart, Setup, files};
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use larder::oci::Digest;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[300] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_module_is_read_once_in_the_period_and_a_damaged_one_is_fetched_again_unasked() {
    let heart = Heart::with(|_| Setup { memory: 0, scrub: WEEK, ..Setup::default() });
    for name in ["a", "b", "c"] {
        heart.registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, 5000)));
        heart.ok(name, "1").await;
    }
    let heart = heart.restart().await;
    flip(&heart.files("modules")[1]);
    let mut looked = 0;
    for _ in 0..7 * 24 {
        heart.clock.advance(Duration::from_secs(3600));
        heart.cache.maintain().await;
        let now = heart.metrics.scrubbed.get();
        assert!(now - looked <= 1, "all at once is no pace");
        looked = now;
    }
    assert!((3..=4).contains(&looked), "{looked} looks at three modules");
    heart.settle().await;
    assert_eq!((heart.metrics.quarantined.get(), heart.files("quarantine").len()), (1, 1));
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 4, "it was fetched again, and nobody had asked");
    heart.registry.down();
    for name in ["a", "b", "c"] {
        assert_eq!(heart.ok(name, "1").await.0, module(name, 5000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_written_again_from_memory_when_it_is_there_and_no_registry_is_needed() {
    let heart = Heart::with(|_| Setup { scrub: WEEK, ..Setup::default() });
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1", &raw(&one));
    heart.ok("waf", "1").await;
    heart.registry.down();
    flip(&heart.files("modules")[0]);
    heart.clock.advance(WEEK);
    heart.cache.maintain().await;
    assert_eq!(heart.files("quarantine").len(), 1);
    let heart = heart.restart().await;
    assert_eq!(heart.ok("waf", "1").await.0, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_has_a_limit_in_bytes_and_in_days() {
    let heart = Heart::with(|_| Setup { scrub: WEEK, disk: 100_000, ..Setup::default() });
    let quarantine = heart.path().join("v1/quarantine");
    for n in 0..4 {
        std::fs::write(quarantine.join(n.to_string()), vec![0; 4000]).unwrap();
    }
    heart.cache.maintain().await;
    assert_eq!(heart.files("quarantine").len(), 2, "a tenth of the cache");
    heart.clock.advance(10_000 * 24 * Duration::from_secs(3600));
    heart.cache.maintain().await;
    assert_eq!(heart.files("quarantine").len(), 0, "a month later");
}

/// A running larder that holds three modules, and the folder of its cache.
fn stocked() -> (Scripted, Larder, PathBuf) {
    let registry = Scripted::start();
    let larder = Home::new(&(settings(&registry.host()) + "cache: {memory: 0}\n")).start();
    for name in ["a", "b", "c"] {
        registry.put(&format!("plugins/{name}"), "1", &raw(&module(name, 5000)));
        assert_eq!(larder.get(&format!("/plugins/{name}/1/plugin.wasm")).status, 200);
    }
    let root = larder.home.cache().join("v1");
    (registry, larder, root)
}

/// `larder fsck`: its exit code and what it prints.
fn fsck(root: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = crate::support::larder::program();
    let output =
        command.args(["fsck", "--cache-dir"]).arg(root.parent().unwrap()).args(flags).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn fsck_finds_each_broken_invariant_by_its_number_and_repairs_on_request() {
    let (registry, larder, root) = stocked();
    let (code, text) = fsck(&root, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("3 modules, 3 records, 0 problems; a larder is using it"), "{text}");
    let home = larder.kill();
    let modules = files(&root.join("modules"));
    let expected = root.parent().unwrap().join("expected");
    std::fs::write(&expected, format!("{}\n{}\n", Digest::of(&module("a", 5000)), Digest::of(b"never")))
        .unwrap();
    let breaks: [(&str, &str, &dyn Fn()); 7] = [
        ("I1", "its bytes are sha256:", &|| flip(&modules[0])),
        ("I2", "which is not there", &|| std::fs::remove_file(&modules[1]).unwrap()),
        ("I2", "does not match its digest", &|| flip(&files(&root.join("records"))[0])),
        ("I3", "is no module's name", &|| {
            std::fs::write(modules[2].with_file_name("README"), "x").unwrap();
        }),
        ("I3", "does not belong there", &|| std::fs::write(root.join("notes"), "x").unwrap()),
        ("I4", "a draft that nobody writes to", &|| std::fs::write(root.join("tmp/half"), "x").unwrap()),
        ("I5", "is expected and not there", &|| ()),
    ];
    for (number, what, damage) in breaks {
        let flags: &[&str] = if number == "I5" { &["--expect", expected.to_str().unwrap()] } else { &[] };
        assert_eq!(fsck(&root, &[]).0, Some(0), "clean before {number}");
        damage();
        let (code, text) = fsck(&root, flags);
        assert_eq!(code, Some(1), "{number}: {text}");
        assert!(
            text.lines().any(|line| line.starts_with(number) && line.contains(what)),
            "{number} {what}: {text}"
        );
        let (code, text) = fsck(&root, &[flags, &["--repair"]].concat());
        match number {
            "I5" => assert_eq!(code, Some(1), "nothing makes it out of nothing: {text}"),
            _ => assert!(code == Some(0) && text.contains("; repaired"), "{number}: {text}"),
        }
        // What a module's leaving leaves behind.
        fsck(&root, &["--repair"]);
    }
    let larder = home.start();
    for name in ["a", "b", "c"] {
        assert_eq!(larder.get(&format!("/plugins/{name}/1/plugin.wasm")).body, module(name, 5000));
    }
    drop(registry);
}

#[test]
fn fsck_repairs_under_a_running_larder_which_loses_nothing() {
    let (_registry, larder, root) = stocked();
    flip(&files(&root.join("modules"))[0]);
    std::fs::write(root.join("tmp/somebodys"), "x").unwrap();
    let (code, text) = fsck(&root, &["--repair"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("I1 ") && text.contains("; repaired") && !text.contains("I4 "), "{text}");
    for name in ["a", "b", "c"] {
        assert_eq!(larder.get(&format!("/plugins/{name}/1/plugin.wasm")).body, module(name, 5000));
    }
    assert_eq!(fsck(&root, &[]).0, Some(0));
}

#[test]
fn fsck_says_what_it_cannot_look_at() {
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = fsck(&dir.path().join("none/v1"), &[]);
    assert!(code == Some(66) && text.contains("none") && text.contains("--cache-dir"), "{code:?} {text}");
    std::fs::create_dir(dir.path().join("v1")).unwrap();
    std::fs::write(dir.path().join("v1/format"), "larder-store 9\n").unwrap();
    let (code, text) = fsck(&dir.path().join("v1"), &["--repair"]);
    assert!(code == Some(78) && text.contains("larder-store 9"), "{code:?} {text}");
    std::fs::write(dir.path().join("expected"), "sha256:short\n").unwrap();
    let flags = ["--expect", dir.path().join("expected").to_str().unwrap()].map(str::to_owned);
    let (code, text) = fsck(&dir.path().join("v1"), &[&flags[0], &flags[1]]);
    assert!(code == Some(66) && text.contains("expected:1:"), "{code:?} {text}");
}

#[test]
fn a_start_with_ten_thousand_entries_reads_no_module_and_asks_nobody() {
    use larder::clock::Timestamp;
    use larder::record::{Module, Present, Record, State};
    use larder::store::layout::Layout;
    let registry = Scripted::start();
    let home = Home::new(&settings(&registry.host()));
    let layout = Layout::new(&home.cache());
    for folder in [layout.tmp(), layout.quarantine(), layout.records(), layout.modules()] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for n in 0..10_000_u32 {
        let bytes = n.to_le_bytes();
        let digest = Digest::of(&bytes);
        let path = layout.module(&digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As long as it should be, and not what it should be: only who reads it would know.
        std::fs::write(&path, [0; 4]).unwrap();
        let module = Module { digest, size: 4, md5: String::new(), abi: None };
        let (layer_media_type, since) = ("application/wasm".into(), Timestamp::from_millis(0));
        let present = Present {
            manifest: digest,
            layer: digest,
            layer_media_type,
            module,
            since,
            first: None,
            signatures: None,
        };
        let reference: larder::oci::Reference =
            format!("{}/plugins/p{n}:1", registry.host()).parse().unwrap();
        let path = layout.record(&reference);
        let record = Record { reference, checked_at: since, state: State::Present(present) };
        std::fs::write(path, record.encode()).unwrap();
    }
    let larder = home.start();
    assert_eq!(larder.metric("larder_cache_entries{tier=\"disk\"}"), 10_000.0);
    assert_eq!(larder.metric("larder_quarantined_total"), 0.0);
    assert_eq!(registry.asked().len(), 0);
}
