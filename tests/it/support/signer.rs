//! Signatures as cosign writes them, by keys that a test makes: the real one takes three minutes to build, so it signs in
//! the long form of the tests alone (`support/cosign`), and the vectors that it made hold the shapes here.

use super::artifact::{Artifact, Manifest, OCI_INDEX, OCI_MANIFEST};
use super::scripted::Scripted;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use larder::oci::Digest;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A key pair.
pub struct Signer(KeyPair);

/// The manifest of a signature with its blobs, and what it is kept by.
pub struct Signed {
    /// The tag: of cosign's own, or of the list of referrers.
    pub tag: String,
    /// What stands under it.
    pub artifact: Artifact,
}

impl Signer {
    /// Of ECDSA P-256, as `cosign generate-key-pair` makes it.
    pub fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    pub fn ed25519() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    /// Its public key, written into `folder` as PEM.
    pub fn public(&self, folder: &Path, name: &str) -> PathBuf {
        let file = folder.join(name);
        std::fs::write(&file, self.0.public_key_pem()).unwrap();
        file
    }

    fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(message).unwrap())
    }

    /// cosign's older form: a payload under the tag `sha256-<hex>.sig`.
    pub fn older(&self, digest: &Digest) -> Signed {
        let payload = json!({"critical": {"identity": {"docker-reference": "anything"},
            "image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}, "optional": null});
        let payload = payload.to_string().into_bytes();
        let mut layer = descriptor(PAYLOAD, &payload);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": self.sign(&payload)});
        let document = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(CONFIG, b"{}"),
            "layers": [layer]});
        let artifact = Artifact {
            blobs: vec![b"{}".to_vec(), payload],
            children: Vec::new(),
            manifest: manifest(OCI_MANIFEST, &document),
            module: Vec::new(),
        };
        Signed { tag: format!("sha256-{}.sig", digest.hex()), artifact }
    }

    /// sigstore's bundle: a referrer, and the index that lists it where the registry does not.
    pub fn bundle(&self, of: &Manifest) -> Signed {
        let statement = json!({"_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": of.digest().hex()}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": {}});
        let (kind, payload) = ("application/vnd.in-toto+json", statement.to_string());
        let message = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
        let bundle = json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {"payload": STANDARD.encode(&payload), "payloadType": kind,
                "signatures": [{"sig": self.sign(message.as_bytes())}]}});
        let bundle = bundle.to_string().into_bytes();
        let subject = descriptor(of.media_type, &of.bytes);
        let referrer = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": BUNDLE,
            "config": descriptor(EMPTY, b"{}"), "layers": [descriptor(BUNDLE, &bundle)], "subject": subject});
        let referrer = manifest(OCI_MANIFEST, &referrer);
        let mut entry = descriptor(OCI_MANIFEST, &referrer.bytes);
        entry["artifactType"] = json!(BUNDLE);
        let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        let artifact = Artifact {
            blobs: vec![b"{}".to_vec(), bundle],
            children: vec![referrer],
            manifest: manifest(OCI_INDEX, &list),
            module: Vec::new(),
        };
        Signed { tag: format!("sha256-{}", of.digest().hex()), artifact }
    }

    /// Signs a manifest of a scripted registry's repository in cosign's older form.
    pub fn sign_in(&self, registry: &Scripted, repository: &str, digest: &Digest) {
        let Signed { tag, artifact } = self.older(digest);
        registry.put(repository, &tag, &artifact);
    }
}

impl Signed {
    /// A bundle's referrer alone, for a registry that lists referrers by itself.
    pub fn referrer(&self) -> Artifact {
        Artifact {
            children: Vec::new(),
            manifest: self.artifact.children[0].clone(),
            ..self.artifact.clone()
        }
    }
}

fn manifest(media_type: &'static str, document: &Value) -> Manifest {
    Manifest { media_type, bytes: document.to_string().into_bytes() }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}
