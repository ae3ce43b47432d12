//! Never a wrong byte: what does not match its digest is neither kept nor served, whoever changed it.

use crate::support::artifact::{OCI_MANIFEST, RAW, artifact, broken, module, raw};
use crate::support::heart::{Heart, Setup};
use crate::support::scripted::Act;
use larder::cache::ErrorKind;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_do_not_match_their_manifest_are_refused_and_nothing_stays() {
    type Change = fn(Act) -> Act;
    let cases: [(&str, Change); 7] = [
        ("digest_mismatch", |mut truth| {
            truth.body[3000] ^= 1;
            truth
        }),
        ("size_mismatch", |mut truth| {
            truth.body.push(0);
            truth
        }),
        ("size_mismatch", |mut truth| {
            truth.body.truncate(100);
            truth
        }),
        ("size_mismatch", |mut truth| {
            truth.cut = Some(2500);
            truth
        }),
        ("digest_mismatch", |truth| {
            // Chunked: no length to go by.
            let body = [b"1388\r\n".to_vec(), vec![7; 5000], b"\r\n0\r\n\r\n".to_vec()].concat();
            Act { headers: Vec::new(), ..truth }.header("Transfer-Encoding", "chunked").body(body)
        }),
        ("size_mismatch", |truth| {
            let body = [b"64\r\n".to_vec(), vec![7; 100], b"\r\n0\r\n\r\n".to_vec()].concat();
            Act { headers: Vec::new(), ..truth }.header("Transfer-Encoding", "chunked").body(body)
        }),
        ("size_mismatch", |truth| {
            let body = [b"2710\r\n".to_vec(), vec![7; 10_000], b"\r\n0\r\n\r\n".to_vec()].concat();
            Act { headers: Vec::new(), ..truth }.header("Transfer-Encoding", "chunked").body(body)
        }),
    ];
    for (code, change) in cases {
        let heart = Heart::new();
        heart.registry.put("plugins/waf", "1", &raw(&module("one", 5000)));
        heart.registry.script(move |ask, truth| if ask.is_blob() { change(truth) } else { truth });
        assert_eq!(heart.code("waf", "1").await, code);
        assert!(heart.files("modules").is_empty(), "{code}");
        assert!(heart.files("tmp").is_empty(), "{code}");
        assert!(heart.files("records").is_empty(), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_about_a_manifest_is_not_believed() {
    let heart = Heart::new();
    let one = raw(&module("one", 5000));
    heart.registry.put("plugins/waf", "1", &one);
    heart.registry.script(|_, mut truth| {
        truth.headers.retain(|(name, _)| name != "Docker-Content-Digest");
        let lie = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        truth.header("Docker-Content-Digest", lie)
    });
    assert_eq!(heart.code("waf", "1").await, "digest_header");

    let heart = Heart::new();
    let digest = one.manifest.digest().to_string();
    let other = raw(&module("other", 5000));
    heart.registry.put("plugins/waf", "1", &other);
    heart.registry.put_raw(
        &format!("/v2/plugins/waf/manifests/{digest}"),
        OCI_MANIFEST,
        &other.manifest.bytes,
    );
    assert_eq!(heart.code("waf", &digest).await, "digest_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_without_a_usable_module_are_refused_by_name_and_nothing_stays() {
    for (shape, artifact, code) in broken() {
        let heart = Heart::new();
        heart.registry.put("plugins/x", "1", &artifact);
        let error = heart.get("x", "1").await.unwrap_err();
        assert_eq!(error.code, code, "{shape}: {error}");
        assert!(matches!(error.kind, ErrorKind::Unsupported | ErrorKind::TooLarge), "{shape}");
        assert_eq!(
            heart.files("modules").len() + heart.files("tmp").len() + heart.files("records").len(),
            0,
            "{shape}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_cannot_be_read_are_refused_by_name() {
    let huge = vec![b' '; (4 << 20) + 1];
    let deep = "[".repeat(10_000);
    for (body, code) in [
        (&b""[..], "bad_manifest"),
        (b"null", "bad_manifest"),
        (b"{\"schemaVersion\":2,", "bad_manifest"),
        (deep.as_bytes(), "bad_manifest"),
        (b"{\"schemaVersion\":1,\"layers\":[]}", "unsupported_schema"),
        (b"{\"schemaVersion\":2,\"layers\":[],\"manifests\":[]}", "ambiguous_manifest"),
        (b"{\"schemaVersion\":2,\"manifests\":[]}", "no_platform"),
        (&huge, "manifest_too_large"),
    ] {
        let heart = Heart::new();
        heart.registry.put_raw("/v2/plugins/x/manifests/1", "application/json", body);
        assert_eq!(heart.code("x", "1").await, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_manifest_is_read_to_the_limit_and_no_further() {
    let heart = Heart::new();
    heart.registry.put_raw("/v2/plugins/x/manifests/1", "application/json", b"{}");
    heart.registry.script(|_, truth| {
        let chunk = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
        Act { headers: Vec::new(), ..truth }.header("Transfer-Encoding", "chunked").body(chunk.repeat(6))
    });
    assert_eq!(heart.code("x", "1").await, "manifest_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_the_manifest_calls_too_large_is_not_asked_for() {
    let heart = Heart::new();
    let mut one = artifact(OCI_MANIFEST, "x/y", &[(RAW, module("one", 5000))], b"");
    let text = String::from_utf8(one.manifest.bytes).unwrap();
    one.manifest.bytes = text.replace("\"size\":5000", "\"size\":99999999999").into_bytes();
    heart.registry.put("plugins/x", "1", &one);
    assert_eq!(heart.code("x", "1").await, "too_large");
    assert_eq!(heart.registry.count(|ask| ask.is_blob()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layers_own_urls_are_not_asked() {
    let heart = Heart::new();
    let elsewhere = crate::support::scripted::Scripted::start();
    let one = module("one", 5000);
    let mut document: serde_json::Value = serde_json::from_slice(&raw(&one).manifest.bytes).unwrap();
    document["layers"][0]["urls"] = serde_json::json!([format!("http://{}/x", elsewhere.host())]);
    let mut artifact = raw(&one);
    artifact.manifest.bytes = serde_json::to_vec(&document).unwrap();
    heart.registry.put("plugins/x", "1", &artifact);
    assert_eq!(heart.ok("x", "1").await.0, one);
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_changed_or_lost_on_disk_is_fetched_again() {
    for damage in ["flip", "truncate", "remove", "remove everything"] {
        let heart = Heart::with(|_| Setup { memory: 0, ..Setup::default() });
        let one = module("one", 600_000);
        heart.registry.put("plugins/waf", "1", &raw(&one));
        heart.ok("waf", "1").await;
        let heart = heart.restart().await;
        let path = heart.files("modules").remove(0);
        match damage {
            "flip" => {
                let mut bytes = one.clone();
                bytes[300_000] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
            "truncate" => std::fs::write(&path, &one[..1000]).unwrap(),
            "remove" => std::fs::remove_file(&path).unwrap(),
            // The whole cache: folders, records, drafts.
            _ => std::fs::remove_dir_all(path.ancestors().nth(4).unwrap()).unwrap(),
        }
        assert_eq!(heart.ok("waf", "1").await.0, one, "{damage}");
        assert_eq!(heart.files("quarantine").len(), usize::from(!damage.starts_with("remove")), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_module_that_cannot_be_fetched_is_an_error_and_not_its_bytes() {
    let heart = Heart::with(|_| Setup { memory: 0, ..Setup::default() });
    let one = module("one", 5000);
    heart.registry.put("plugins/waf", "1", &raw(&one));
    heart.ok("waf", "1").await;
    let heart = heart.restart().await;
    let path = heart.files("modules").remove(0);
    let mut bytes = one.clone();
    bytes[3000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    heart.registry.down();
    assert_eq!(heart.code("waf", "1").await, "connect");
    heart.registry.heal();
    heart.clock.advance(std::time::Duration::from_secs(3));
    assert_eq!(heart.ok("waf", "1").await.0, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_written_costs_no_answer_and_gets_what_it_missed_when_it_is_mended() {
    let heart = Heart::with(|_| Setup { memory: 0, ..Setup::default() });
    let one = module("one", 5000);
    heart.registry.put("plugins/held", "1", &raw(&one));
    let new = module("new", 5000);
    heart.registry.put("plugins/new", "1", &raw(&new));
    heart.ok("held", "1").await;
    // A file in the place of the folder for drafts: no draft can be made, whoever runs the test.
    let tmp = heart.files("modules")[0].ancestors().nth(4).unwrap().join("tmp");
    std::fs::remove_dir(&tmp).unwrap();
    std::fs::write(&tmp, "").unwrap();
    let miss = (new.clone(), "larder; fwd=uri-miss; detail=uncached-disk_error".to_owned());
    assert_eq!(heart.ok("new", "1").await, miss);
    let hit = (new.clone(), "larder; hit; ttl=300; detail=uncached-disk_error".to_owned());
    assert_eq!(heart.ok("new", "1").await, hit);
    assert_eq!(heart.ok("held", "1").await.0, one);
    assert_eq!((heart.metrics.store_degraded.get(), heart.files("modules").len()), (1, 1));
    std::fs::remove_file(&tmp).unwrap();
    heart.cache.maintain().await;
    assert_eq!(heart.files("modules").len(), 1, "a disk that failed is left alone for a while");
    heart.clock.advance(std::time::Duration::from_secs(5));
    heart.cache.maintain().await;
    assert_eq!((heart.metrics.store_degraded.get(), heart.files("modules").len()), (0, 2));
    heart.registry.down();
    let heart = heart.restart().await;
    assert_eq!(heart.ok("new", "1").await.0, new, "it lasts");
}
