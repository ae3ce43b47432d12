//! What was signed: cosign's payload and sigstore's bundle, from bytes to a digest that somebody stands for.
//!
//! Nothing here is believed before its signature is verified: of a bundle only its envelope is read first.

use super::Flaw;
use super::key::Keys;
use crate::oci::Digest;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// cosign's `critical.type`.
const PAYLOAD_TYPE: &str = "cosign container image signature";
/// What an envelope of DSSE carries.
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// in-toto's statement, version 1 and the one before.
const STATEMENTS: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
/// The predicate by which cosign says no more than "signed". Any other (a scan, a bill of materials) says something else
/// about the artifact, perhaps that it is bad.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// A bundle of an unknown version may mean something else by the same words.
const BUNDLES: [&str; 4] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
];

/// What a key stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key's fingerprint.
    pub key: Digest,
    /// What it signed: these artifacts.
    pub about: Vec<Digest>,
}

/// cosign's payload ("simple signing"), as far as it binds: who it says the image is called is left unread.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// A payload and the text of its signature, as the annotation has it.
pub fn payload(keys: &Keys, payload: &[u8], signature: &str, is_certified: bool) -> Result<Claim, Flaw> {
    let signature = decoded(signature)?;
    if payload.is_empty() {
        return Err(Flaw::EmptyPayload);
    }
    let key = maker(keys, payload, &signature, is_certified)?;
    let parsed: Payload = serde_json::from_slice(payload).map_err(|_| Flaw::BadPayload)?;
    if parsed.critical.kind != PAYLOAD_TYPE {
        return Err(Flaw::OtherStatement);
    }
    let about = parsed.critical.image.digest.parse().map_err(|_| Flaw::BadPayload)?;
    Ok(Claim { key, about: vec![about] })
}

/// A bundle (sigstore's protobuf-specs, `sigstore_bundle.proto`, as JSON). What else is in it, such as entries of a
/// transparency log, adds nothing to a key that is pinned.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
    message_signature: Option<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
}

/// DSSE 1.0.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    #[serde(default)]
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    #[serde(default)]
    signature: String,
}

/// in-toto's statement.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digests,
}

#[derive(Deserialize)]
struct Digests {
    sha256: Option<String>,
}

/// A bundle. Its signature may be over one of `manifests` itself, whose digests are the caller's to know.
pub fn bundle(keys: &Keys, bytes: &[u8], manifests: &[(Digest, &[u8])]) -> Result<Claim, Flaw> {
    if bytes.is_empty() {
        return Err(Flaw::EmptyPayload);
    }
    let bundle: Bundle = serde_json::from_slice(bytes).map_err(|_| Flaw::Malformed)?;
    if !BUNDLES.contains(&bundle.media_type.as_str()) {
        return Err(Flaw::Malformed);
    }
    let material = bundle.verification_material;
    let is_certified = material.certificate.is_some() || material.x509_certificate_chain.is_some();
    match (bundle.dsse_envelope, bundle.message_signature) {
        (Some(envelope), None) => enveloped(keys, &envelope, is_certified),
        (None, Some(message)) => {
            let signature = decoded(&message.signature)?;
            let makers = manifests.iter().map(|(digest, manifest)| {
                let key = maker(keys, manifest, &signature, is_certified)?;
                Ok(Claim { key, about: vec![*digest] })
            });
            // Of another digest or by another key: that cannot be told apart here.
            makers.reduce(Result::or).unwrap_or(Err(Flaw::OtherKey))
        }
        // Both, or neither.
        _ => Err(Flaw::Malformed),
    }
}

fn enveloped(keys: &Keys, envelope: &Envelope, is_certified: bool) -> Result<Claim, Flaw> {
    // "a bundle must have exactly one signature in its envelope" (`sigstore_bundle.proto`).
    let [signature] = envelope.signatures.as_slice() else { return Err(Flaw::Malformed) };
    let signature = decoded(&signature.sig)?;
    if envelope.payload.is_empty() {
        return Err(Flaw::EmptyPayload);
    }
    let payload = decoded(&envelope.payload)?;
    let message = pre_authentication(&envelope.payload_type, &payload);
    let key = maker(keys, &message, &signature, is_certified)?;
    if envelope.payload_type != IN_TOTO {
        return Err(Flaw::OtherStatement);
    }
    let statement: Statement = serde_json::from_slice(&payload).map_err(|_| Flaw::BadPayload)?;
    if !STATEMENTS.contains(&statement.kind.as_str()) || statement.predicate_type != SIGNED {
        return Err(Flaw::OtherStatement);
    }
    let digests = statement.subject.iter().filter_map(|subject| subject.digest.sha256.as_deref());
    let about: Vec<_> = digests.filter_map(|hex| Digest::from_hex(hex).ok()).collect();
    if about.is_empty() { Err(Flaw::BadPayload) } else { Ok(Claim { key, about }) }
}

/// DSSE's PAE: what is signed in an envelope's place.
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

fn maker(keys: &Keys, message: &[u8], signature: &[u8], is_certified: bool) -> Result<Digest, Flaw> {
    match keys.maker(message, signature) {
        Some(key) => Ok(key.fingerprint),
        None if is_certified => Err(Flaw::Certificate),
        None => Err(Flaw::OtherKey),
    }
}

/// Base64 in either alphabet, as DSSE has it; never empty.
fn decoded(text: &str) -> Result<Vec<u8>, Flaw> {
    let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| Flaw::BadBase64)?;
    if bytes.is_empty() { Err(Flaw::EmptySignature) } else { Ok(bytes) }
}
