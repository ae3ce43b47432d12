//! A layer on its way: unpacked while it comes, and believed only when all of it has.

use crate::support::artifact::{Artifact, OCI_MANIFEST, RAW, TAR_GZIP, artifact, gzip, module, raw, tar};
use crate::support::heart::{Heart, Setup, bytes};
use crate::support::scripted::Act;
use crate::support::until;
use larder::cache::STREAMS;
use larder::oci::Digest;
use md5::{Digest as _, Md5};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const IMAGE: &str = "application/vnd.oci.image.config.v1+json";

/// An image of one layer of these bytes.
fn image(layer: Vec<u8>, module: &[u8]) -> Artifact {
    artifact(OCI_MANIFEST, IMAGE, &[(TAR_GZIP, layer)], module)
}

fn packed(module: &[u8]) -> Vec<u8> {
    gzip(&tar(&[("plugin.wasm", module)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_unpacked_while_it_comes_also_where_it_was_cut_and_taken_up_again() {
    const CUT: usize = 1 << 20;
    for knows_ranges in [true, false] {
        let heart = Arc::new(Heart::with(|_| Setup { attempts: 3, ..Setup::default() }));
        let module = module("cut", 3 << 20);
        let layer = packed(&module);
        heart.registry.put("plugins/waf", "1", &image(layer.clone(), &module));
        let registry = heart.registry.clone();
        heart.registry.script(move |ask, truth| match (ask.is_blob(), ask.headers.get("range")) {
            (true, None) => {
                registry.close_gate();
                Act { cut: Some(CUT), ..truth }
            }
            (true, Some(_)) if !knows_ranges => Act::status(200).body(layer.clone()),
            _ => truth,
        });
        let asking = heart.clone();
        let answer = tokio::spawn(async move { asking.ok("waf", "1").await });
        let unpacked = || {
            let drafts = heart.files("tmp");
            let draft = drafts.first().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
            draft.len() > CUT / 2 && module.starts_with(&draft)
        };
        until("the module's beginning while the rest is not there", unpacked).await;
        assert!(heart.files("modules").is_empty());
        heart.registry.open_gate();
        assert!(answer.await.unwrap().0 == module);
        assert_eq!(heart.registry.count(|ask| ask.is_blob()), 2);
        assert!(heart.files("tmp").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_within_a_layer_is_told_only_of_the_layer_that_the_manifest_names() {
    let good = module("good", 400_000);
    let torn = |mut layer: Vec<u8>| {
        let middle = layer.len() / 2;
        layer[middle..middle + 1000].fill(0xff);
        layer
    };
    let page = || gzip(b"<html>a page for people</html>");
    for (name, named, code) in [
        ("torn", torn(packed(&good)), "bad_gzip"),
        ("empty", gzip(&tar(&[("README", b"nothing")])), "no_plugin_wasm"),
        ("page", page(), "not_wasm"),
    ] {
        let heart = Heart::new();
        heart.registry.put("plugins/as-named", name, &image(named.clone(), &good));
        assert_eq!(heart.code("as-named", name).await, code);
        // The same bytes, and the manifest names others of their size.
        let mut other = named.clone();
        *other.last_mut().unwrap() ^= 1;
        heart.registry.put("plugins/other", name, &image(other, &good));
        heart.registry.script(move |ask, truth| match ask.is_blob() {
            true => Act { body: named.clone(), ..truth },
            false => truth,
        });
        heart.registry.forget();
        assert_eq!(heart.code("other", name).await, "digest_mismatch", "{name}");
        assert_eq!(heart.registry.count(|ask| ask.is_blob()), 2, "{name}: once more");
        for folder in ["modules", "records", "tmp"] {
            assert!(heart.files(folder).is_empty(), "{name}: {folder}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_layer_of_other_bytes_removes_is_removed_from_nothing() {
    let heart = Heart::new();
    let module = module("below", 30_000);
    let upper = gzip(&tar(&[("etc/motd", b"hello")]));
    let layers = [(TAR_GZIP, packed(&module)), (TAR_GZIP, upper.clone())];
    heart.registry.put("plugins/waf", "1", &artifact(OCI_MANIFEST, IMAGE, &layers, &module));
    // As long as the right one: what stands behind a gzip stream's end is told at its end.
    let mut lie = gzip(&tar(&[(".wh.plugin.wasm", b"")]));
    assert!(lie.len() <= upper.len());
    let header = lie.split_off(10);
    lie[3] |= 0x10;
    lie.extend(vec![b'c'; upper.len() - lie.len() - header.len() - 1]);
    lie.push(0);
    lie.extend(header);
    assert_eq!(lie.len(), upper.len());
    let (upper, lies) = (Digest::of(&upper).to_string(), AtomicUsize::new(0));
    heart.registry.script(move |ask, truth| {
        match ask.path.contains(&upper) && lies.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Act { body: lie.clone(), ..truth },
            false => truth,
        }
    });
    assert!(heart.ok("waf", "1").await.0 == module);
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_stall_in_the_middle_keep_no_other_from_being_unpacked() {
    let heart = Arc::new(Heart::with(|_| Setup { memory: 64 << 20, ..Setup::default() }));
    for n in 0..STREAMS + 2 {
        let module = module(&n.to_string(), 600_000);
        heart.registry.put(&format!("plugins/p{n}"), "1", &image(packed(&module), &module));
    }
    let others = [format!("plugins/p{STREAMS}"), format!("plugins/p{}", STREAMS + 1)];
    heart.registry.script(move |ask, truth| {
        let stalls = ask.is_blob() && !others.iter().any(|other| ask.path.contains(&format!("{other}/")));
        if stalls { truth.stall(500_000) } else { truth }
    });
    for n in 0..STREAMS {
        let asking = heart.clone();
        tokio::spawn(async move { drop(asking.get(&format!("p{n}"), "1").await) });
    }
    let begun = || {
        let size = |path: &std::path::PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
        heart.files("tmp").iter().filter(|path| size(path) > 0).count() == STREAMS
    };
    until("all but two being unpacked", begun).await;
    for n in [STREAMS, STREAMS + 1] {
        assert!(heart.ok(&format!("p{n}"), "1").await.0 == module(&n.to_string(), 600_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_s_md5_is_that_of_its_bytes_however_it_came_and_wherever_it_is_kept() {
    let right = module("md5", 700_000);
    let tar = tar(&[("plugin.wasm", &right)]);
    for (kind, artifact) in [
        ("raw", raw(&right)),
        ("gzip", image(gzip(&tar), &right)),
        ("zstd", image(zstd::encode_all(&tar[..], 3).unwrap(), &right)),
        ("raw gzip", artifact(OCI_MANIFEST, IMAGE, &[(RAW, gzip(&right))], &right)),
    ] {
        for (memory, is_writable) in [(64 << 20, true), (64 << 10, true), (64 << 20, false)] {
            let heart = Heart::with(|_| Setup { memory, ..Setup::default() });
            if !is_writable {
                // A file in the place of a folder: nobody may write there.
                let tmp = heart.path().join("v1/tmp");
                std::fs::remove_dir(&tmp).unwrap();
                std::fs::write(&tmp, "").unwrap();
            }
            heart.registry.put("plugins/waf", "1", &artifact);
            let served = heart.get("waf", "1").await.unwrap();
            assert!(bytes(&served) == right, "{kind}");
            let md5: String = Md5::digest(&right).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(served.found.module().md5, md5, "{kind}, {memory}, {is_writable}");
        }
    }
}
