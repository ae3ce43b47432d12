//! Signatures: by cosign and by keys of the tests in real registries, and asked of one that has everything that can be wrong.

mod carried;
mod served;

use crate::support::artifact::{Artifact, OCI_INDEX, index, module, raw};
use crate::support::cosign::Cosign;
use crate::support::faults::is_long;
use crate::support::odd_registry::OddRegistry;
use crate::support::registry::Registry;
use crate::support::scripted::{Act, Ask, Scripted};
use crate::support::signer::{PAYLOAD, Signer};
use bytes::Bytes;
use larder::clock::SystemClock;
use larder::metrics::Metrics;
use larder::oci::Digest;
use larder::registry::breaker::Breakers;
use larder::registry::hosts::With;
use larder::registry::trace::Trace;
use larder::registry::{
    Client, HostConfig, Hosts, Kind, MirrorConfig, RegistryError, Retry, Surroundings, signatures,
};
use larder::signature::{Case, Flaw, Form, Keys, MOST_TRIED, Octets, Subject, Verdict, listing};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/signatures/vectors").join(name)
}

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

fn believed(files: &[PathBuf]) -> Keys {
    Keys::new(files.iter().flat_map(|file| signatures::keys(file).unwrap()).collect())
}

/// A client that speaks plainly to `host`, by way of `mirrors`.
fn client(host: &str, mirrors: Vec<MirrorConfig>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut settings = larder::config::load(&Default::default()).unwrap().config.registry;
    settings.certs.clear();
    settings.plain_http = vec![host.to_owned()];
    let rule = HostConfig { mirrors, plain_http: true, ..Default::default() };
    settings.hosts = [(host.to_owned(), rule)].into();
    let clock = Arc::new(SystemClock::new());
    let breakers = Breakers::new(clock.clone());
    let with = With {
        env: Surroundings::default(),
        place: Arc::new(|_| "a test".into()),
        trace: Trace::default(),
        breakers: breakers.clone(),
    };
    let hosts = Hosts::build(&settings, with).unwrap();
    let retry = Retry { attempts: 1, within: Duration::from_secs(10) };
    Client::new(hosts, breakers, clock, Arc::<Metrics>::default(), retry)
}

fn subject(manifest: &[u8]) -> Subject {
    Subject { digest: Digest::of(manifest), manifest: Octets(Bytes::copy_from_slice(manifest)) }
}

fn examine(
    client: &Client,
    repository: &str,
    subjects: &[&[u8]],
    keys: &Keys,
) -> Result<(Case, Verdict), RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let subjects = subjects.iter().map(|manifest| subject(manifest)).collect();
    let (case, ended) = runtime.block_on(signatures::gather(client, &repository.parse().unwrap(), subjects));
    let verdict = case.judge(keys);
    if !verdict.is_verified() {
        ended?;
    }
    Ok((case, verdict))
}

#[test]
fn a_signature_in_a_real_registry_is_verified_by_its_key_alone() {
    let (tags, list) = (Registry::plain(), OddRegistry::with_referrers());
    let folder = tempfile::tempdir().unwrap();
    let signers = [Signer::new(), Signer::ed25519()];
    let keys: Vec<_> =
        ["one", "two"].iter().zip(&signers).map(|(n, key)| key.public(folder.path(), n)).collect();
    let plugin = raw(&module("signed", 9000));
    for (registry, host) in [("tags", tags.host()), ("list", list.host())] {
        for (n, signer) in signers.iter().enumerate() {
            for form in [Form::Payload, Form::Bundle] {
                let path =
                    format!("plugins/waf-{n}-{}", if form == Form::Bundle { "bundle" } else { "payload" });
                let push = |tag: &str, artifact: &Artifact| match registry {
                    "tags" => tags.push(&path, tag, artifact),
                    _ => list.push(&path, tag, artifact),
                };
                push("1", &plugin);
                let sign = || {
                    let signed = match form {
                        Form::Payload => signer.older(&plugin.manifest.digest()),
                        Form::Bundle => signer.bundle(&plugin.manifest),
                    };
                    match (registry, form) {
                        ("list", Form::Bundle) => {
                            let referrer = signed.referrer();
                            push(&referrer.manifest.digest().to_string(), &referrer);
                        }
                        _ => push(&signed.tag, &signed.artifact),
                    }
                };
                is_verified_by_its_key_alone(&host, &path, &plugin, form, &keys, n, &sign);
            }
        }
    }
}

/// In `make faults` alone: building cosign takes longer than all that `make test` builds. There its vectors stand for it.
#[test]
fn what_the_real_cosign_signs_in_real_registries_is_verified_by_its_key_alone() {
    if !is_long() {
        // As the vectors were made, in both forms and by each kind of key.
        for name in ["p256", "p384", "ed25519", "rsa"] {
            for form in [Form::Payload, Form::Bundle] {
                let scene = Scene::new();
                match form {
                    Form::Payload => scene.older(name),
                    Form::Bundle => {
                        scene.tag("", &list(&[scene.referrer(&vector(&format!("{name}.bundle.json")))]))
                    }
                }
                let Verdict::Verified(proof) = scene.examined(&format!("{name}.pub")).unwrap().1 else {
                    panic!("{name} {form:?}")
                };
                assert_eq!((proof.form, proof.subject), (form, Scene::subject()), "{name}");
                assert_eq!(scene.flaw("other.pub"), Some(Flaw::OtherKey), "{name}");
            }
        }
        return;
    }
    let (tags, list) = (Registry::plain(), OddRegistry::with_referrers());
    let signers = [Cosign::new(), Cosign::ed25519()];
    let keys: Vec<_> = signers.iter().map(Cosign::public).collect();
    let plugin = raw(&module("signed", 9000));
    for (registry, host) in [("tags", tags.host()), ("list", list.host())] {
        for (n, signer) in signers.iter().enumerate() {
            for (form, as_bundle) in [(Form::Payload, false), (Form::Bundle, true)] {
                let path = format!("plugins/waf-{n}-{as_bundle}");
                match registry {
                    "tags" => tags.push(&path, "1", &plugin),
                    _ => list.push(&path, "1", &plugin),
                }
                let repository = format!("{host}/{path}");
                let sign = || signer.sign(&repository, &plugin.manifest.digest(), as_bundle);
                is_verified_by_its_key_alone(&host, &path, &plugin, form, &keys, n, &sign);
            }
        }
    }
}

/// Unsigned, then signed by `sign` with the key `n` of two.
fn is_verified_by_its_key_alone(
    host: &str,
    path: &str,
    plugin: &Artifact,
    form: Form,
    keys: &[PathBuf],
    n: usize,
    sign: &dyn Fn(),
) {
    let case = format!("{host} {path} {form:?}");
    let client = client(host, Vec::new());
    let repository = format!("{host}/{path}");
    let bytes = plugin.manifest.bytes.as_slice();
    let told = |keys: &Keys| examine(&client, &repository, &[bytes], keys).unwrap().1;
    assert_eq!(told(&believed(keys)), Verdict::Unsigned, "{case}");
    sign();
    let own = believed(&keys[n..=n]);
    let Verdict::Verified(proof) = told(&own) else { panic!("{case}: {}", told(&own)) };
    let key = own.iter().next().unwrap().fingerprint;
    assert_eq!((proof.form, proof.subject, proof.key), (form, plugin.manifest.digest(), key), "{case}");
    assert!(told(&believed(keys)).is_verified(), "{case}");
    assert_eq!(told(&believed(&keys[1 - n..=1 - n])).flaw(), Some(Flaw::OtherKey), "{case}");
}

#[test]
fn a_signed_index_vouches_for_the_child_that_was_taken_and_a_signed_child_for_itself() {
    let registry = Registry::plain();
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new();
    let keys = believed(&[signer.public(folder.path(), "key")]);
    let client = client(&registry.host(), Vec::new());
    let child = raw(&module("child", 9000));
    let whole = index(OCI_INDEX, &[("wasi", "wasm", child.clone())], &child.module);
    let subjects = [whole.manifest.bytes.as_slice(), child.manifest.bytes.as_slice()];
    for (path, of) in [("p/index", &whole.manifest), ("p/child", &child.manifest)] {
        registry.push(path, "1", &whole);
        let repository = format!("{}/{path}", registry.host());
        let signed = signer.bundle(of);
        registry.push(path, &signed.tag, &signed.artifact);
        let (_, verdict) = examine(&client, &repository, &subjects, &keys).unwrap();
        let Verdict::Verified(proof) = verdict else { panic!("{path}: {verdict}") };
        assert_eq!(proof.subject, of.digest(), "{path}");
    }
}

/// A registry with the vectors' artifact, whose signatures are whatever a case puts there.
struct Scene {
    registry: Scripted,
    client: Client,
}

impl Scene {
    fn new() -> Self {
        let registry = Scripted::start();
        let client = client(&registry.host(), Vec::new());
        Self { registry, client }
    }

    fn subject() -> Digest {
        Digest::of(&vector("artifact.json"))
    }

    fn examined(&self, key: &str) -> Result<(Case, Verdict), RegistryError> {
        let repository = format!("{}/p/waf", self.registry.host());
        examine(&self.client, &repository, &[&vector("artifact.json")], &believed(&[file(key)]))
    }

    fn flaw(&self, key: &str) -> Option<Flaw> {
        let verdict = self.examined(key).unwrap().1;
        assert!(!verdict.is_verified(), "{verdict}");
        assert_eq!(verdict.code(), Some("signature_invalid"));
        verdict.flaw()
    }

    fn tag(&self, end: &str, document: &[u8]) {
        let path = format!("/v2/p/waf/manifests/sha256-{}{end}", Self::subject().hex());
        self.registry.put_raw(&path, MANIFEST, document);
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.registry.put_raw(&format!("/v2/p/waf/blobs/{digest}"), "application/octet-stream", bytes);
        digest
    }

    fn manifest(&self, document: &Value) -> Digest {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        self.registry.put_raw(&format!("/v2/p/waf/manifests/{digest}"), MANIFEST, &bytes);
        digest
    }

    /// A referrer whose layer is `bundle`, as it stands in a list.
    fn referrer(&self, bundle: &[u8]) -> Value {
        let layer = json!({"mediaType": listing::BUNDLE, "digest": self.blob(bundle), "size": bundle.len()});
        let digest = self.manifest(&json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]}));
        json!({"mediaType": MANIFEST, "digest": digest, "size": 1, "artifactType": listing::BUNDLE})
    }

    /// cosign's older form, of the vectors of `name`.
    fn older(&self, name: &str) {
        self.blob(&vector(&format!("{name}.payload.json")));
        self.tag(".sig", &vector(&format!("{name}.sig.json")));
    }
}

fn list(referrers: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers}).to_string().into_bytes()
}

fn layer(digest: &Digest, size: u64, signature: &str) -> Value {
    json!({"mediaType": PAYLOAD, "digest": digest, "size": size,
        "annotations": {"dev.cosignproject.cosign/signature": signature}})
}

fn older(layers: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers}).to_string().into_bytes()
}

#[test]
fn no_signature_anywhere_is_unsigned() {
    let scene = Scene::new();
    assert_eq!(scene.examined("p256.pub").unwrap().1, Verdict::Unsigned);
    let hex = Scene::subject().hex();
    for end in [format!("/referrers/sha256:{hex}"), format!("/sha256-{hex}"), format!("/sha256-{hex}.sig")] {
        let asked = |ask: &Ask| ask.path.split('?').next().unwrap().ends_with(&end);
        assert!(scene.registry.count(asked) > 0, "{end} was not asked for");
    }
    // What is not for us is not there; the manifest itself was, in the same repository.
    scene.registry.script(|_, _| Act::status(403).body(r#"{"errors":[{"code":"DENIED"}]}"#));
    assert_eq!(scene.examined("p256.pub").unwrap().1, Verdict::Unsigned);
}

#[test]
fn whatever_is_wrong_with_a_signature_is_a_refusal_that_says_it() {
    let payload = vector("p256.payload.json");
    let signature = {
        let manifest: Value = serde_json::from_slice(&vector("p256.sig.json")).unwrap();
        manifest["layers"][0]["annotations"]["dev.cosignproject.cosign/signature"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let right = |scene: &Scene| older(&[layer(&scene.blob(&payload), payload.len() as u64, &signature)]);
    type Put = Box<dyn Fn(&Scene)>;
    let blob_is = |bytes: &'static [u8]| -> Put {
        let payload = payload.clone();
        let signature = signature.clone();
        Box::new(move |scene| {
            let digest = scene.blob(&payload);
            scene.tag(".sig", &older(&[layer(&digest, payload.len() as u64, &signature)]));
            scene.registry.put_raw(&format!("/v2/p/waf/blobs/{digest}"), "text/plain", bytes);
        })
    };
    let annotated = |text: &'static str| -> Put {
        let payload = payload.clone();
        Box::new(move |scene| {
            scene.tag(".sig", &older(&[layer(&scene.blob(&payload), payload.len() as u64, text)]));
        })
    };
    let sized = |size: u64| -> Put {
        let (payload, signature) = (payload.clone(), signature.clone());
        Box::new(move |scene| scene.tag(".sig", &older(&[layer(&scene.blob(&payload), size, &signature)])))
    };
    let tagged =
        |end: &'static str, bytes: &'static [u8]| -> Put { Box::new(move |scene| scene.tag(end, bytes)) };
    let bundled =
        |bytes: Vec<u8>| -> Put { Box::new(move |scene| scene.tag("", &list(&[scene.referrer(&bytes)]))) };
    let cases: Vec<(&str, Put, &str, Flaw)> = vec![
        ("another key", Box::new(|scene| scene.older("p256")), "other.pub", Flaw::OtherKey),
        (
            "an expired certificate",
            Box::new(|scene| scene.older("certified")),
            "other.pub",
            Flaw::Certificate,
        ),
        ("bad base64", annotated("*"), "p256.pub", Flaw::BadBase64),
        ("no signature in it", annotated(""), "p256.pub", Flaw::EmptySignature),
        ("an empty payload", sized(0), "p256.pub", Flaw::EmptyPayload),
        ("another size", sized(7), "p256.pub", Flaw::Corrupt),
        ("other bytes", blob_is(b"{}"), "p256.pub", Flaw::Corrupt),
        ("a manifest that is none", tagged(".sig", b"{"), "p256.pub", Flaw::Malformed),
        ("a manifest without layers", tagged(".sig", b"{\"schemaVersion\":2}"), "p256.pub", Flaw::Malformed),
        ("a list that is none", tagged("", b"[]"), "p256.pub", Flaw::Malformed),
        ("a bundle that is none", bundled(b"{}".to_vec()), "p256.pub", Flaw::Malformed),
        ("a bundle by another key", bundled(vector("p384.bundle.json")), "p256.pub", Flaw::OtherKey),
        (
            "a bundle with a certificate",
            bundled(vector("certified.bundle.json")),
            "other.pub",
            Flaw::Certificate,
        ),
        ("another statement", bundled(vector("p256.attestation.json")), "p256.pub", Flaw::OtherStatement),
    ];
    for (name, put, key, flaw) in cases {
        let scene = Scene::new();
        put(&scene);
        assert_eq!(scene.flaw(key), Some(flaw), "{name}");
    }
    let missing = Scene::new();
    missing.tag(".sig", &older(&[layer(&Digest::of(&payload), payload.len() as u64, &signature)]));
    assert_eq!(missing.flaw("p256.pub"), Some(Flaw::Missing));
    let headless = Scene::new();
    let named = json!({"mediaType": MANIFEST, "digest": Digest::of(b"x"), "size": 1, "artifactType": listing::BUNDLE});
    headless.tag("", &list(&[named]));
    assert_eq!(headless.flaw("p256.pub"), Some(Flaw::Missing));
    // A good signature of something else, where this one's should be.
    let other = raw(&module("other", 9000));
    let scene = Scene::new();
    scene.blob(&payload);
    let path = format!("/v2/p/waf/manifests/sha256-{}.sig", other.manifest.digest().hex());
    scene.registry.put_raw(&path, MANIFEST, &right(&scene));
    let repository = format!("{}/p/waf", scene.registry.host());
    let keys = believed(&[file("p256.pub")]);
    let (_, verdict) = examine(&scene.client, &repository, &[&other.manifest.bytes], &keys).unwrap();
    assert_eq!(verdict.flaw(), Some(Flaw::OtherDigest));
    // And one that is in order, to show that the scene is.
    let scene = Scene::new();
    scene.tag(".sig", &right(&scene));
    assert!(scene.examined("p256.pub").unwrap().1.is_verified());
}

#[test]
fn thousands_of_signatures_cost_sixteen_questions_and_a_large_one_none() {
    let scene = Scene::new();
    let bad: Vec<_> = (0..3000).map(|n| format!("{{\"n\":{n}}}").into_bytes()).collect();
    let layers: Vec<_> =
        bad.iter().map(|bytes| layer(&scene.blob(bytes), bytes.len() as u64, "AAAA")).collect();
    scene.tag(".sig", &older(&layers));
    assert_eq!(scene.flaw("p256.pub"), Some(Flaw::OtherKey));
    assert_eq!(scene.registry.count(Ask::is_blob), MOST_TRIED);

    scene.registry.forget();
    let many: Vec<_> = (0..10_000).map(|_| layer(&Digest::of(b"x"), 1, "AAAA")).collect();
    scene.tag(".sig", &older(&many));
    assert_eq!(scene.flaw("p256.pub"), Some(Flaw::TooLarge));
    scene.tag(".sig", &older(&[layer(&Digest::of(b"x"), 100 << 20, "AAAA")]));
    assert_eq!(scene.flaw("p256.pub"), Some(Flaw::TooLarge));
    assert_eq!(scene.registry.count(Ask::is_blob), 0);

    // Bundles too, and both forms share the sixteen.
    let referrers: Vec<_> = (0..40).map(|n| scene.referrer(format!("{{\"n\":{n}}}").as_bytes())).collect();
    scene.tag("", &list(&referrers));
    scene.registry.forget();
    assert_eq!(scene.flaw("p256.pub"), Some(Flaw::Malformed));
    assert_eq!(scene.registry.count(Ask::is_blob), MOST_TRIED);
}

#[test]
fn a_registry_that_does_not_answer_leaves_no_verdict() {
    let parts = |ask: &Ask| {
        let path = ask.path.split('?').next().unwrap();
        if path.contains("/referrers/") {
            "referrers"
        } else if path.ends_with(".sig") {
            "sig"
        } else if ask.is_blob() {
            "blob"
        } else {
            "tag"
        }
    };
    for part in ["referrers", "tag", "sig", "blob"] {
        for status in [503, 500, 429, 0] {
            let scene = Scene::new();
            if matches!(part, "sig" | "blob") {
                scene.older("p256");
            }
            scene.registry.script(move |ask, truth| match (parts(ask) == part, status) {
                (true, 0) => Act::hang_up(),
                (true, status) => Act::status(status),
                (false, _) => truth,
            });
            let error = scene.examined("p256.pub").expect_err(part);
            let expected = match status {
                0 => Kind::Connect,
                429 => Kind::RateLimited,
                _ => Kind::Upstream,
            };
            assert_eq!(error.kind, expected, "{part} {status}: {error}");
        }
    }
    // What was found before is enough.
    let scene = Scene::new();
    scene.tag("", &list(&[scene.referrer(&vector("p256.bundle.json"))]));
    scene.registry.script(move |ask, truth| if parts(ask) == "sig" { Act::hang_up() } else { truth });
    assert!(scene.examined("p256.pub").unwrap().1.is_verified());
    assert_eq!(scene.examined("other.pub").expect_err("not enough").kind, Kind::Connect);
}

#[test]
fn one_place_that_does_not_answer_hides_no_good_signature_in_another() {
    let of_list = |ask: &Ask| ask.path.contains("/referrers/");
    let of_tag = |ask: &Ask| ask.path.ends_with(&format!("/sha256-{}", Scene::subject().hex()));
    let page = || Act::status(403).header("Content-Type", "text/html").body("<html>blocked</html>");
    let elsewhere = Scripted::start();
    elsewhere.script(|_, _| Act::status(429).header("Retry-After", "600"));
    let away = Act::status(303).header("Location", &format!("http://{}/login", elsewhere.host()));
    for (name, answer) in [
        ("500", Act::status(500)),
        ("503", Act::status(503)),
        ("a page", page()),
        ("no answer", Act::hang_up()),
        ("another host", away),
    ] {
        // Where the list is silent, under both tags; and where the tag is, under the other.
        for (silent, end) in [("list", ""), ("list", ".sig"), ("tag", ".sig")] {
            // That a registry sends a manifest's questions away to a host that limits us is a limit of its own.
            if (name, silent) == ("another host", "tag") {
                continue;
            }
            let scene = Scene::new();
            match end {
                "" => scene.tag("", &list(&[scene.referrer(&vector("p256.bundle.json"))])),
                _ => scene.older("p256"),
            }
            let answer = answer.clone();
            scene.registry.script(move |ask, truth| {
                let is_silent = if silent == "list" { of_list(ask) } else { of_tag(ask) };
                if is_silent { answer.clone() } else { truth }
            });
            let verdict = scene.examined("p256.pub").map(|(_, verdict)| verdict);
            assert!(verdict.as_ref().is_ok_and(Verdict::is_verified), "{name} {silent} {end}: {verdict:?}");
            assert!(scene.examined("other.pub").is_err(), "{name}: what was not told may be the one");
        }
    }
    // A referrer whose blob does not come stands before a good one.
    let scene = Scene::new();
    let referrers = [scene.referrer(b"{}"), scene.referrer(&vector("p256.bundle.json"))];
    scene.tag("", &list(&referrers));
    let lost = Digest::of(b"{}").to_string();
    scene.registry.script(move |ask, truth| if ask.path.contains(&lost) { Act::status(500) } else { truth });
    assert!(scene.examined("p256.pub").unwrap().1.is_verified());
}

#[test]
fn a_registry_that_tells_nothing_is_not_asked_without_end() {
    let scene = Scene::new();
    let referrers: Vec<_> = (0..40).map(|n| scene.referrer(format!("{{\"n\":{n}}}").as_bytes())).collect();
    scene.tag("", &list(&referrers));
    scene.registry.script(|ask, truth| if ask.is_blob() { Act::status(500) } else { truth });
    assert_eq!(scene.examined("p256.pub").expect_err("nothing came").kind, Kind::Upstream);
    assert!(scene.registry.count(Ask::is_blob) < 10);
}

/// Answers questions for referrers by `pages`, told the filter that was asked for.
fn lists(
    scene: &Scene,
    filters: bool,
    pages: impl Fn(&str) -> (Vec<u8>, Option<String>) + Send + Sync + 'static,
) {
    scene.registry.script(move |ask, truth| {
        let Some((_, query)) = ask.path.split_once("/referrers/").and_then(|(_, rest)| rest.split_once('?'))
        else {
            return truth;
        };
        let (body, next) = pages(query);
        let mut act = Act::status(200).header("Content-Type", OCI_INDEX).body(body);
        if filters {
            act = act.header("OCI-Filters-Applied", "artifactType");
        }
        match next {
            Some(next) => act.header("Link", &next),
            None => act,
        }
    });
}

#[test]
fn a_list_of_referrers_is_asked_by_type_where_the_registry_filters_and_once_where_it_does_not() {
    for (filters, questions) in [(false, 1), (true, 2)] {
        let scene = Scene::new();
        let listed = list(&[scene.referrer(&vector("p256.bundle.json"))]);
        lists(&scene, filters, move |query| {
            let is_bundle = query.contains("sigstore.bundle.v0.3");
            (if is_bundle || !filters { listed.clone() } else { list(&[]) }, None)
        });
        assert!(scene.examined("p256.pub").unwrap().1.is_verified());
        assert_eq!(scene.registry.count(|ask| ask.path.contains("/referrers/")), questions);
        let hex = Scene::subject().hex();
        assert_eq!(
            scene.registry.count(|ask| ask.path.ends_with(&format!("/sha256-{hex}"))),
            0,
            "no tag in its place"
        );
    }
}

#[test]
fn pages_of_referrers_are_read_within_reason_and_nowhere_else() {
    let scene = Scene::new();
    let elsewhere = Scripted::start();
    let (first, last) = (list(&[]), list(&[scene.referrer(&vector("p256.bundle.json"))]));
    // The target's host and path are not the answer's to say.
    let link = format!("<http://{}/v2/secret?page=2&artifactType=x>; rel=\"next\"", elsewhere.host());
    lists(&scene, false, move |query| match query.contains("page=2") {
        true => (last.clone(), None),
        false => (first.clone(), Some(link.clone())),
    });
    assert!(scene.examined("p256.pub").unwrap().1.is_verified());
    assert!(elsewhere.asked().is_empty());
    // One without an end.
    scene.registry.forget();
    lists(&scene, false, |_| (list(&[]), Some("</v2/p/waf/referrers/x?page=3>; rel=\"next\"".into())));
    assert_eq!(scene.examined("p256.pub").unwrap().1, Verdict::Unsigned);
    assert!(scene.registry.count(|ask| ask.path.contains("/referrers/")) < 10);
}

#[test]
fn whoever_does_not_know_referrers_is_asked_for_the_tag() {
    for answer in [Act::status(400), Act::status(404), Act::status(405), Act::status(501), Act::status(403)] {
        for page in [false, true] {
            let answer = if page {
                answer.clone().header("Content-Type", "text/html").body("<html>")
            } else {
                answer.clone()
            };
            // A page that says 403 is whatever stands before the registry.
            if page && answer.status == 403 {
                continue;
            }
            let scene = Scene::new();
            scene.tag("", &list(&[scene.referrer(&vector("p256.bundle.json"))]));
            let status = answer.status;
            scene.registry.script(
                move |ask, truth| {
                    if ask.path.contains("/referrers/") { answer.clone() } else { truth }
                },
            );
            assert!(scene.examined("p256.pub").unwrap().1.is_verified(), "{status} {page}");
        }
    }
    let scene = Scene::new();
    scene.tag("", &list(&[scene.referrer(&vector("p256.bundle.json"))]));
    scene.registry.script(|ask, truth| match ask.path.contains("/referrers/") {
        true => Act::status(200).header("Content-Type", "text/html").body("<html>everything is fine</html>"),
        false => truth,
    });
    assert!(scene.examined("p256.pub").unwrap().1.is_verified());
}

#[test]
fn a_mirror_without_signatures_passes_on_to_the_registry() {
    let scene = Scene::new();
    scene.tag("", &list(&[scene.referrer(&vector("p256.bundle.json"))]));
    let mirror = Scripted::start();
    let settings = json!({"url": format!("http://{}", mirror.host()), "repository": "{repository}", "on_not_found": "next"});
    let mirror_config: MirrorConfig = serde_json::from_value(settings).unwrap();
    let client = client(&scene.registry.host(), vec![mirror_config]);
    let repository = format!("{}/p/waf", scene.registry.host());
    let keys = believed(&[file("p256.pub")]);
    let (_, verdict) = examine(&client, &repository, &[&vector("artifact.json")], &keys).unwrap();
    assert!(verdict.is_verified(), "{verdict}");
    assert!(mirror.count(|ask| ask.path.contains("/referrers/")) > 0);
    assert_eq!(scene.registry.count(Ask::is_blob), 1);
}
