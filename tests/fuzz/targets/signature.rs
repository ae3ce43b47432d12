//! Signatures: the first byte chooses what the rest is, a payload, a bundle, one of the lists that name them, or a key.

#![cfg_attr(fuzzing, no_main)]

use larder::oci::Digest;
use larder::signature::{Case, Evidence, Form, Found, Key, Keys, Octets, Subject, Verdict, listing};
use serde_json::Value;

const ARTIFACT: &[u8] = include_bytes!("../../it/signatures/vectors/artifact.json");
const KEY: &[u8] = include_bytes!("../../it/signatures/vectors/p256.pub");
const PAYLOAD: &[u8] = include_bytes!("../../it/signatures/vectors/p256.payload.json");
const MANIFEST: &[u8] = include_bytes!("../../it/signatures/vectors/p256.sig.json");
const BUNDLE: &[u8] = include_bytes!("../../it/signatures/vectors/p256.bundle.json");
const MESSAGE: &[u8] = include_bytes!("../../it/signatures/vectors/p256.message.json");

/// Nothing counts but what the key signed, whatever is written around it. What is told of it fits a line.
pub fn check(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 5 {
        0 => {
            let named = listing::layers(MANIFEST).unwrap().remove(0).unwrap();
            let payload = Octets(bytes.to_vec().into());
            let found = Found::Payload { payload, signature: named.signature, is_certified: false };
            assert_eq!(is_verified(Form::Payload, found), bytes == PAYLOAD);
        }
        1 => {
            if is_verified(Form::Bundle, Found::Bundle(Octets(bytes.to_vec().into()))) {
                let signed = |bytes: &[u8], pointer: &str| {
                    let parsed: Value = serde_json::from_slice(bytes).unwrap();
                    parsed.pointer(pointer).cloned()
                };
                let payload = signed(bytes, "/dsseEnvelope/payload");
                let is_message = payload.is_none() && signed(bytes, "/messageSignature").is_some();
                assert!(is_message || payload == signed(BUNDLE, "/dsseEnvelope/payload"));
                assert!(!is_message || signed(MESSAGE, "/messageSignature").is_some());
            }
        }
        2 => drop(listing::referrers(bytes)),
        3 => drop(listing::layers(bytes)),
        _ => match Key::parse("key", bytes) {
            Ok(keys) => keys.iter().for_each(|key| assert!(!key.verifies(b"x", b"y"))),
            Err(told) => assert!(told.starts_with("key: ") && fits_a_line(&told), "{told:?}"),
        },
    }
}

fn is_verified(form: Form, found: Found) -> bool {
    let subject = Subject { digest: Digest::of(ARTIFACT), manifest: Octets(ARTIFACT.into()) };
    let evidence = Evidence { digest: Digest::of(b""), form, found };
    let case = Case { subjects: vec![subject], evidence: vec![evidence] };
    let verdict = case.judge(&Keys::new(Key::parse("key", KEY).unwrap()));
    assert!(fits_a_line(&verdict.to_string()));
    assert_eq!(verdict.code().is_some(), !verdict.is_verified());
    matches!(verdict, Verdict::Verified(_))
}

fn fits_a_line(text: &str) -> bool {
    text.chars().count() < 500 && !text.contains(char::is_control)
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
