//! Signatures by the real cosign, and what is done to them.

use super::key::{Key, Keys};
use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use serde_json::{Value, json};

macro_rules! vector {
    ($name:expr) => {
        include_bytes!(concat!("../../tests/it/signatures/vectors/", $name)).as_slice()
    };
}

fn believed(pem: &[u8]) -> Keys {
    Keys::new(Key::parse("test", pem).unwrap())
}

/// The artifact that all vectors are for.
fn artifact() -> Subject {
    let manifest = vector!("artifact.json");
    Subject { digest: Digest::of(manifest), manifest: Octets(manifest.into()) }
}

fn case(evidence: Vec<Evidence>) -> Case {
    Case { subjects: vec![artifact()], evidence }
}

fn payload(payload: &[u8], signature: &str) -> Evidence {
    let found = Found::Payload {
        payload: Octets(payload.to_vec().into()),
        signature: signature.into(),
        is_certified: false,
    };
    Evidence { digest: Digest::of(payload), form: Form::Payload, found }
}

fn bundle(bytes: &[u8]) -> Evidence {
    let found = Found::Bundle(Octets(bytes.to_vec().into()));
    Evidence { digest: Digest::of(bytes), form: Form::Bundle, found }
}

/// What a manifest of cosign's older form and its layer come to.
fn older(manifest: &[u8], layer: &[u8]) -> Evidence {
    let named = listing::layers(manifest).unwrap().remove(0).unwrap();
    assert_eq!((named.digest, named.size), (Digest::of(layer), layer.len() as u64));
    let found = Found::Payload {
        payload: Octets(layer.to_vec().into()),
        signature: named.signature,
        is_certified: named.is_certified,
    };
    Evidence { digest: named.digest, form: named.form, found }
}

fn all() -> Vec<(&'static str, &'static [u8], Evidence)> {
    macro_rules! key {
        ($key:literal) => {{
            let pem = vector!(concat!($key, ".pub"));
            let older = older(vector!(concat!($key, ".sig.json")), vector!(concat!($key, ".payload.json")));
            [($key, pem, older), ($key, pem, bundle(vector!(concat!($key, ".bundle.json"))))]
        }};
    }
    [key!("p256"), key!("p384"), key!("ed25519"), key!("rsa")].into_iter().flatten().collect()
}

/// A signer of the test's own, to sign what cosign would not.
struct Signer(EcdsaKeyPair, Keys);

impl Signer {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        let der = pair.serialize_der();
        let signer =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new()).unwrap();
        Self(signer, believed(pair.public_key_pem().as_bytes()))
    }

    fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(&SystemRandom::new(), message).unwrap())
    }

    fn payload(&self, text: &str) -> Evidence {
        payload(text.as_bytes(), &self.sign(text.as_bytes()))
    }

    fn bundle(&self, kind: &str, statement: &str) -> Value {
        let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        json!({
            "mediaType": listing::BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": ""}},
            "dsseEnvelope": {
                "payload": STANDARD.encode(statement),
                "payloadType": kind,
                "signatures": [{"sig": self.sign(message.as_bytes())}],
            },
        })
    }

    /// Why it does not count, signed as it is.
    fn flaw(&self, evidence: Evidence) -> Option<Flaw> {
        case(vec![evidence]).judge(&self.1).flaw()
    }
}

fn simple(digest: &str, kind: &str) -> String {
    json!({"critical": {"identity": {"docker-reference": "any"}, "image": {"docker-manifest-digest": digest}, "type": kind},
        "optional": null})
    .to_string()
}

fn statement(kind: &str, predicate: &str, hex: &str) -> String {
    json!({"_type": kind, "subject": [{"digest": {"sha256": hex}}], "predicateType": predicate, "predicate": {}}).to_string()
}

#[test]
fn what_cosign_signed_is_verified_by_the_key_that_signed_it_and_by_no_other() {
    let every = believed(&all().iter().map(|(_, pem, _)| *pem).collect::<Vec<_>>().concat());
    for (name, pem, evidence) in all() {
        let keys = believed(pem);
        let form = evidence.form;
        let expected = Proof {
            key: keys.iter().next().unwrap().fingerprint,
            subject: artifact().digest,
            form,
            signature: evidence.digest,
        };
        let case = case(vec![evidence]);
        assert_eq!(case.judge(&keys), Verdict::Verified(expected.clone()), "{name} {form:?}");
        assert_eq!(case.judge(&every), Verdict::Verified(expected), "{name} {form:?}");
        let other = case.judge(&believed(vector!("other.pub")));
        assert_eq!((other.code(), other.flaw()), (Some("signature_invalid"), Some(Flaw::OtherKey)), "{name}");
        assert!(!case.judge(&Keys::default()).is_verified());
    }
}

#[test]
fn what_nobody_signed_is_unsigned() {
    let verdict = case(Vec::new()).judge(&believed(vector!("p256.pub")));
    assert_eq!((verdict.code(), verdict.flaw()), (Some("unsigned"), None));
}

#[test]
fn a_signature_counts_for_nothing_but_the_digest_that_it_is_for() {
    for (name, pem, evidence) in all() {
        let manifest = br#"{"schemaVersion":2}"#.as_slice();
        let subject = Subject { digest: Digest::of(manifest), manifest: Octets(manifest.into()) };
        let mut case = Case { subjects: vec![subject], evidence: vec![evidence] };
        assert_eq!(case.judge(&believed(pem)).flaw(), Some(Flaw::OtherDigest), "{name}");
        // An index is signed, or the child of it that was taken: one of them is enough.
        case.subjects.push(artifact());
        assert!(case.judge(&believed(pem)).is_verified(), "{name}");
    }
}

#[test]
fn no_bit_of_a_signed_payload_can_change() {
    let Found::Payload { payload: bytes, signature, .. } = all().remove(0).2.found else { panic!() };
    let keys = believed(vector!("p256.pub"));
    for at in 0..bytes.len() {
        let mut edited = bytes.to_vec();
        edited[at] ^= 1;
        assert!(!case(vec![payload(&edited, &signature)]).judge(&keys).is_verified(), "bit of byte {at}");
    }
}

#[test]
fn a_bundle_over_the_manifest_itself_is_for_that_manifest_alone() {
    let keys = believed(vector!("p256.pub"));
    let message = bundle(vector!("p256.message.json"));
    let mut case = case(vec![message]);
    assert!(case.judge(&keys).is_verified());
    assert_eq!(case.judge(&believed(vector!("other.pub"))).flaw(), Some(Flaw::OtherKey));
    // Other bytes under the same digest are a defect of ours, and no reason to believe.
    case.subjects[0].manifest = Octets(b"{}".as_slice().into());
    assert!(!case.judge(&keys).is_verified());
    case.subjects[0] = Subject { digest: Digest::of(b"x"), ..artifact() };
    assert_eq!(case.judge(&keys).flaw(), Some(Flaw::OtherDigest));
}

#[test]
fn an_attestation_that_says_something_else_is_no_signature() {
    let verdict = case(vec![bundle(vector!("p256.attestation.json"))]).judge(&believed(vector!("p256.pub")));
    assert_eq!(verdict.flaw(), Some(Flaw::OtherStatement));
}

#[test]
fn a_certificate_is_never_believed_and_a_key_that_is_pinned_always() {
    for evidence in [
        older(vector!("certified.sig.json"), vector!("certified.payload.json")),
        bundle(vector!("certified.bundle.json")),
    ] {
        let case = case(vec![evidence]);
        assert_eq!(case.judge(&believed(vector!("other.pub"))).flaw(), Some(Flaw::Certificate));
        assert!(case.judge(&believed(vector!("p256.pub"))).is_verified());
    }
}

/// What cannot be a signature, whoever made it.
#[test]
fn every_way_to_be_wrong_has_its_reason() {
    let signer = Signer::new();
    let digest = artifact().digest.to_string();
    let hex = artifact().digest.hex();
    let kind = "cosign container image signature";
    let right = simple(&digest, kind);
    assert_eq!(signer.flaw(signer.payload(&right)), None);
    for (text, flaw) in [
        ("not json".into(), Flaw::BadPayload),
        ("null".into(), Flaw::BadPayload),
        ("{}".into(), Flaw::BadPayload),
        (format!("{right} "), Flaw::OtherKey),
        (simple(&digest, "atomic container signature"), Flaw::OtherStatement),
        (simple(&digest, ""), Flaw::OtherStatement),
        (simple("", kind), Flaw::BadPayload),
        (simple(&hex, kind), Flaw::BadPayload),
        (simple(&digest.to_uppercase(), kind), Flaw::BadPayload),
        (simple(&Digest::of(b"x").to_string(), kind), Flaw::OtherDigest),
        // Two digests, of which a reader may take either.
        (
            right.replace(
                "\"docker-manifest-digest\"",
                &format!("\"docker-manifest-digest\":\"{}\",\"docker-manifest-digest\"", Digest::of(b"x")),
            ),
            Flaw::BadPayload,
        ),
    ] {
        let evidence = match flaw {
            Flaw::OtherKey => payload(text.as_bytes(), &signer.sign(right.as_bytes())),
            _ => signer.payload(&text),
        };
        assert_eq!(signer.flaw(evidence), Some(flaw), "{text}");
    }
    let good = signer.sign(right.as_bytes());
    for (signature, flaw) in [
        ("", Flaw::EmptySignature),
        ("*", Flaw::BadBase64),
        (good.trim_end_matches('=').get(1..).unwrap(), Flaw::BadBase64),
        (&format!("{good}\n"), Flaw::BadBase64),
        ("AAAA", Flaw::OtherKey),
    ] {
        assert_eq!(signer.flaw(payload(right.as_bytes(), signature)), Some(flaw), "{signature:?}");
    }
    assert_eq!(signer.flaw(payload(b"", &signer.sign(b""))), Some(Flaw::EmptyPayload));

    let (v1, signed, in_toto) =
        ("https://in-toto.io/Statement/v1", statement::SIGNED, "application/vnd.in-toto+json");
    let right = signer.bundle(in_toto, &statement(v1, signed, &hex));
    assert_eq!(signer.flaw(bundle(right.to_string().as_bytes())), None);
    for (kind, text, flaw) in [
        (in_toto, statement(v1, signed, &Digest::of(b"x").hex()), Flaw::OtherDigest),
        (in_toto, statement(v1, signed, "zz"), Flaw::BadPayload),
        (in_toto, statement(v1, "https://slsa.dev/provenance/v1", &hex), Flaw::OtherStatement),
        (in_toto, statement("https://in-toto.io/Statement/v9", signed, &hex), Flaw::OtherStatement),
        ("text/plain", statement(v1, signed, &hex), Flaw::OtherStatement),
        (in_toto, "[]".into(), Flaw::BadPayload),
        (in_toto, String::new(), Flaw::EmptyPayload),
    ] {
        let bytes = signer.bundle(kind, &text).to_string();
        assert_eq!(signer.flaw(bundle(bytes.as_bytes())), Some(flaw), "{kind} {text}");
    }
    for (pointer, value, flaw) in [
        ("/mediaType", json!("application/vnd.dev.sigstore.bundle.v9+json"), Flaw::Malformed),
        ("/dsseEnvelope", Value::Null, Flaw::Malformed),
        ("/dsseEnvelope/signatures", json!([]), Flaw::Malformed),
        ("/dsseEnvelope/signatures", json!([{"sig": "AAAA"}, {"sig": "AAAA"}]), Flaw::Malformed),
        ("/dsseEnvelope/signatures/0/sig", json!("*"), Flaw::BadBase64),
        ("/dsseEnvelope/signatures/0/sig", json!(""), Flaw::EmptySignature),
        ("/dsseEnvelope/payload", json!("*"), Flaw::BadBase64),
        ("/dsseEnvelope/payload", json!(""), Flaw::EmptyPayload),
        ("/dsseEnvelope/payload", json!("e30="), Flaw::OtherKey),
        ("/dsseEnvelope/payloadType", json!("text/plain"), Flaw::OtherKey),
        ("/verificationMaterial", Value::Null, Flaw::Malformed),
    ] {
        let mut edited = right.clone();
        *edited.pointer_mut(pointer).unwrap() = value;
        assert_eq!(signer.flaw(bundle(edited.to_string().as_bytes())), Some(flaw), "{pointer}: {edited}");
    }
    let mut both = right;
    both["messageSignature"] = json!({"signature": "AAAA"});
    assert_eq!(signer.flaw(bundle(both.to_string().as_bytes())), Some(Flaw::Malformed));
    assert_eq!(signer.flaw(bundle(b"{")), Some(Flaw::Malformed));
    assert_eq!(signer.flaw(bundle(b"")), Some(Flaw::EmptyPayload));
    let large = vec![b' '; MOST_BYTES as usize + 1];
    assert_eq!(signer.flaw(bundle(&large)), Some(Flaw::TooLarge));
    assert_eq!(signer.flaw(payload(&large, &signer.sign(&large))), Some(Flaw::TooLarge));
}

#[test]
fn sixteen_signatures_are_tried_and_no_more() {
    let good = all().remove(0).2;
    let keys = believed(vector!("p256.pub"));
    let bad = || payload(b"{}", "AAAA");
    let with = |before: usize| {
        let mut evidence: Vec<_> = std::iter::repeat_with(bad).take(before).collect();
        evidence.push(good.clone());
        case(evidence).judge(&keys)
    };
    assert!(with(MOST_TRIED - 1).is_verified());
    let Verdict::Invalid(tried) = with(MOST_TRIED) else { panic!("the seventeenth was tried") };
    assert_eq!(tried.len(), MOST_TRIED);
}

#[test]
fn the_reason_is_that_of_the_signature_that_came_nearest_and_fits_a_line() {
    let signer = Signer::new();
    let other = simple(&Digest::of(b"x").to_string(), "cosign container image signature");
    let verdict =
        case(vec![payload(b"{}", "*"), signer.payload(&other), payload(b"{}", "AAAA")]).judge(&signer.1);
    assert_eq!(verdict.flaw(), Some(Flaw::OtherDigest));
    let told = verdict.to_string();
    assert!(
        told.contains(&Digest::of(other.as_bytes()).to_string()) && told.contains("another digest"),
        "{told}"
    );
}

#[test]
fn a_verdict_stands_for_its_keys_and_is_judged_again_for_others_without_the_registry() {
    let then = Timestamp::from_millis(1);
    let signed_twice = case(vec![all().remove(0).2, all().remove(4).2]);
    let (old, new) = (believed(vector!("p256.pub")), believed(vector!("ed25519.pub")));
    let judged = Judged::new(signed_twice.clone(), &old, then);
    let kept: Judged = serde_json::from_str(&serde_json::to_string(&judged).unwrap()).unwrap();
    assert_eq!(kept, judged);
    let by = |keys: Keys| Demand::new(Mode::Require, keys).verdict(&artifact().digest, Some(&kept));
    assert_eq!(by(old.clone()), Some(judged.verdict.clone()), "the same keys say the same");
    let Some(Verdict::Verified(proof)) = by(new.clone()) else { panic!("the evidence is kept") };
    assert_eq!(proof.key, new.iter().next().unwrap().fingerprint);
    let other = by(believed(vector!("other.pub"))).unwrap();
    assert_eq!(other.code(), Some("signature_invalid"), "and nobody else is believed for it");
    assert_eq!(
        Demand::new(Mode::Require, old).verdict(&artifact().digest, None),
        None,
        "nothing is known without it"
    );
}

#[test]
fn what_is_large_is_judged_and_not_kept() {
    let large = payload(&vec![b' '; MOST_KEPT], "AAAA");
    let judged =
        Judged::new(case(vec![all().remove(0).2, large]), &believed(vector!("p256.pub")), Timestamp::END);
    assert!(judged.verdict.is_verified() && judged.case.is_none());
    let other = Demand::new(Mode::Require, believed(vector!("other.pub")));
    assert_eq!(other.verdict(&artifact().digest, Some(&judged)), None);
}

/// Records of other versions have these words.
#[test]
fn the_bytes_that_are_kept_are_these() {
    let judged = Judged {
        verdict: Verdict::Verified(Proof {
            key: Digest::of(b""),
            subject: Digest::of(b""),
            form: Form::Payload,
            signature: Digest::of(b""),
        }),
        keys: Digest::of(b""),
        at: Timestamp::from_millis(7),
        case: Some(Case {
            subjects: vec![Subject { digest: Digest::of(b""), manifest: Octets(b"{}".as_slice().into()) }],
            evidence: vec![
                payload(b"x", "AAAA"),
                bundle(b"y"),
                Evidence {
                    digest: Digest::of(b""),
                    form: Form::Bundle,
                    found: Found::Nothing(Flaw::TooLarge),
                },
            ],
        }),
    };
    let d = |text: &str| Digest::of(text.as_bytes()).to_string();
    let expected = json!({
        "verdict": {"verified": {"key": d(""), "subject": d(""), "form": "payload", "signature": d("")}},
        "keys": d(""), "at": 7,
        "case": {"subjects": [{"digest": d(""), "manifest": "e30="}], "evidence": [
            {"digest": d("x"), "form": "payload",
                "found": {"payload": {"payload": "eA==", "signature": "AAAA", "is_certified": false}}},
            {"digest": d("y"), "form": "bundle", "found": {"bundle": "eQ=="}},
            {"digest": d(""), "form": "bundle", "found": {"nothing": "too_large"}},
        ]},
    });
    assert_eq!(serde_json::to_value(judged).unwrap(), expected);
}

#[test]
fn a_file_is_a_public_key_or_is_told_to_be_none() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let told = Key::parse("cosign.pub", pair.serialize_pem().as_bytes()).unwrap_err();
    assert_eq!(told, "cosign.pub: holds no public key (BEGIN PUBLIC KEY), such as cosign's cosign.pub");
    for bad in [&b""[..], b"text", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        assert!(Key::parse("f", bad).unwrap_err().starts_with("f: "));
    }
    let p521 = "-----BEGIN PUBLIC KEY-----\nMIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQA\n-----END PUBLIC KEY-----\n";
    assert!(Key::parse("f", p521.as_bytes()).is_err());
    let key = Key::parse("f", vector!("ed25519.pub")).unwrap().remove(0);
    assert_eq!(
        STANDARD.encode(key.fingerprint.bytes()),
        "A4vI6c0dC8owplArouLQI+ZeDmvFy/bl4kjSUph3cmM=",
        "its hint"
    );
    // Twice the same key is one key, in any order.
    let (a, b) = (vector!("p256.pub"), vector!("rsa.pub"));
    assert_eq!(believed(&[a, b].concat()).digest(), believed(&[b, a, b].concat()).digest());
    assert_ne!(believed(a).digest(), believed(b).digest());
    let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    assert!(!key.verifies(b"x", ed.sign(b"x").as_ref()));
}

/// As PEM.
fn spki(algorithm: &[u8], key: &[u8]) -> String {
    let tagged = |tag: u8, parts: &[&[u8]]| {
        let content = parts.concat();
        [&[tag, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
    };
    let der = tagged(0x30, &[&tagged(0x30, &[algorithm]), &tagged(3, &[&[0], key])]);
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

#[test]
fn a_key_that_could_verify_nothing_is_told_with_its_file() {
    const P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
    let raw = |pem: &[u8], length: usize| {
        let text: String =
            std::str::from_utf8(pem).unwrap().lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(text).unwrap();
        der[der.len() - length..].to_vec()
    };
    let (point, ed) = (raw(vector!("p256.pub"), 65), raw(vector!("ed25519.pub"), 32));
    assert_eq!(
        spki(P256, &point).replace('\n', ""),
        String::from_utf8_lossy(vector!("p256.pub")).replace('\n', "")
    );
    assert!(Key::parse("f", spki(ED25519, &ed).as_bytes()).is_ok());
    let compressed = [&[2 + (point[64] & 1)][..], &point[1..33]].concat();
    let hybrid = [&[6 + (point[64] & 1)][..], &point[1..]].concat();
    // No point of the curve has this for its y.
    let nowhere = [&[2][..], &[0; 31]].concat();
    for (algorithm, key) in [
        (P256, compressed.as_slice()),
        (P256, &hybrid),
        (P256, &point[..64]),
        (P256, &[]),
        (ED25519, &ed[..31]),
        (ED25519, &[&ed[..], &[0]].concat()),
        (ED25519, &nowhere),
    ] {
        let told = Key::parse("cosign.pub", spki(algorithm, key).as_bytes()).unwrap_err();
        assert!(told.starts_with("cosign.pub: holds a key that"), "{told}");
    }
}

#[test]
fn settings_that_could_verify_nothing_are_refused() {
    let config = |text: &str| serde_saphyr::from_str::<Config>(text).unwrap();
    let faults = |text: &str| config(text).faults().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let rest = "identities: []\ntrusted_root: null\n";
    assert_eq!(faults(&format!("mode: off\nkeys: []\n{rest}")), [""; 0]);
    assert_eq!(faults(&format!("mode: require\nkeys: [cosign.pub]\n{rest}")), [""; 0]);
    assert_eq!(faults(&format!("mode: require\nkeys: []\n{rest}")), ["mode"]);
    assert_eq!(faults(&format!("mode: warn\nkeys: []\n{rest}")), ["mode"]);
    let keyless =
        "mode: off\nkeys: []\nidentities: [{subject: a@b, issuer: 'https://c'}]\ntrusted_root: root.json\n";
    assert_eq!(faults(keyless), ["identities", "trusted_root"]);
}

#[test]
fn lists_are_read_for_signatures_and_everything_else_is_passed_over() {
    let d = Digest::of(b"x").to_string();
    let list = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "m", "digest": d, "size": 1, "artifactType": listing::BUNDLE},
        {"mediaType": "m", "digest": d, "size": 1, "artifactType": listing::OLDER},
        {"mediaType": "m", "digest": d, "size": 1, "artifactType": listing::BUNDLE,
            "annotations": {"dev.sigstore.bundle.predicateType": "https://cosign.sigstore.dev/attestation/vuln/v1"}},
        {"mediaType": "m", "digest": d, "size": 1, "artifactType": "application/spdx+json"},
        {"mediaType": "m", "digest": d, "size": 1},
        {"mediaType": "m", "digest": "sha512:00", "size": 1, "artifactType": listing::BUNDLE},
    ]});
    let found = listing::referrers(list.to_string().as_bytes()).unwrap();
    let forms: Vec<_> =
        found.iter().map(|named| named.as_ref().map(|named| named.form).map_err(|f| *f)).collect();
    // The last says nothing of itself, and is looked into.
    assert_eq!(forms, [Ok(Form::Bundle), Ok(Form::Payload), Err(Flaw::Malformed), Ok(Form::Bundle)]);
    assert!(matches!(found[3], Ok(listing::Named { is_sure: false, .. })));
    let else_annotated = json!({"layers": [{"mediaType": listing::BUNDLE, "digest": d, "size": 1}],
        "annotations": {"dev.sigstore.bundle.predicateType": "https://cosign.sigstore.dev/attestation/vuln/v1"}});
    assert_eq!(listing::layers(else_annotated.to_string().as_bytes()), Ok(Vec::new()));
    for bad in ["", "[]", "{}", r#"{"manifests":null}"#, r#"{"manifests":[{}]}"#] {
        assert_eq!(listing::referrers(bad.as_bytes()), Err(Flaw::Malformed), "{bad}");
    }
    for bad in ["", "{}", r#"{"layers":[]}"#, r#"{"layers":null}"#] {
        assert_eq!(listing::layers(bad.as_bytes()), Err(Flaw::Malformed), "{bad}");
    }
    let unannotated = json!({"layers": [
        {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": d, "size": 1, "annotations": null}]});
    let named = listing::layers(unannotated.to_string().as_bytes()).unwrap().remove(0).unwrap();
    assert_eq!((named.signature.as_str(), named.form), ("", Form::Payload));
}
