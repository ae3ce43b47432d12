//! Public keys that are believed, and what they say of a signature.

use crate::oci::{Digest, Hasher};
use crate::proof::{self, Step};
use ed25519_dalek::{Digest as _, Sha512, Signature, VerifyingKey};
use ring::signature as ring;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// More keys in one file are a mistake.
const MOST_KEYS: usize = 64;
/// RSA keys shorter than this are no longer believed by anybody (NIST SP 800-131A).
const LEAST_RSA_BITS: usize = 2048;
/// What is verified at all; as ring has it.
const MOST_RSA_BITS: usize = 8192;

/// What is said of a key that is written in another way.
const POINT: &str =
    "holds a key that is no uncompressed point; openssl ec -pubin -conv_form uncompressed writes it so";

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it was read, for people.
    pub label: String,
    /// SHA-256 of its SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7). cosign's bundles call it the key's hint.
    pub fingerprint: Digest,
    scheme: Scheme,
    /// What ring wants: a point, 32 bytes, or an RSAPublicKey.
    public: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Key {
    /// The keys of a PEM text (`BEGIN PUBLIC KEY`), at least one. `label` says where it is from.
    ///
    /// # Errors
    /// A text that begins with `label`.
    pub fn parse(label: &str, pem: &[u8]) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for found in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let found = found.map_err(|e| format!("{label}: is no PEM: {e}"))?;
            let key = Self::from_spki(label, &found).map_err(|e| format!("{label}: {e}"))?;
            keys.push(key);
            if keys.len() > MOST_KEYS {
                return Err(format!("{label}: holds more than {MOST_KEYS} keys"));
            }
        }
        if keys.is_empty() {
            return Err(format!(
                "{label}: holds no public key (BEGIN PUBLIC KEY), such as cosign's cosign.pub"
            ));
        }
        Ok(keys)
    }

    fn from_spki(label: &str, der: &[u8]) -> Result<Self, String> {
        let unread = "holds a public key that cannot be read";
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|_| unread)?;
        if !rest.is_empty() {
            return Err(unread.into());
        }
        let algorithm = spki.algorithm.algorithm.to_id_string();
        let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string());
        let scheme = match (algorithm.as_str(), curve.as_deref()) {
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Scheme::P256,
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Scheme::P384,
            ("1.3.101.112", _) => Scheme::Ed25519,
            ("1.2.840.113549.1.1.1", _) => Scheme::Rsa,
            _ => {
                let known = "ECDSA P-256 and P-384, Ed25519 and RSA";
                return Err(format!("holds a key of a kind that is not supported; {known} are"));
            }
        };
        if scheme == Scheme::Rsa {
            match spki.parsed() {
                Ok(PublicKey::RSA(rsa)) if (LEAST_RSA_BITS..=MOST_RSA_BITS).contains(&rsa.key_size()) => {}
                _ => {
                    return Err(format!("holds no RSA key of {LEAST_RSA_BITS} to {MOST_RSA_BITS} bits"));
                }
            }
        }
        let public = spki.subject_public_key.data.to_vec();
        let is_point = |length| public.len() == length && public.first() == Some(&4);
        match scheme {
            // ring reads points as they are written in full (SEC 1, section 2.3.3), and no others.
            Scheme::P256 if !is_point(65) => return Err(POINT.into()),
            Scheme::P384 if !is_point(97) => return Err(POINT.into()),
            Scheme::Ed25519 => {
                let key = public.as_slice().try_into().ok().map(VerifyingKey::from_bytes);
                if !matches!(key, Some(Ok(_))) {
                    return Err("holds a key that is no point of Ed25519".into());
                }
            }
            _ => {}
        }
        Ok(Self { label: label.into(), fingerprint: Digest::of(der), scheme, public })
    }

    /// True where `signature` over `message` was made with it.
    ///
    /// A key fixes its algorithm, but for two choices: with P-384 older cosigns hash with SHA-256 as for every key, and
    /// with Ed25519 newer ones hash first (RFC 8032, section 5.1, Ed25519ph).
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithms: &[&'static dyn ring::VerificationAlgorithm] = match self.scheme {
            Scheme::P256 => &[&ring::ECDSA_P256_SHA256_ASN1],
            Scheme::P384 => &[&ring::ECDSA_P384_SHA384_ASN1, &ring::ECDSA_P384_SHA256_ASN1],
            Scheme::Ed25519 => &[&ring::ED25519],
            Scheme::Rsa => &[&ring::RSA_PKCS1_2048_8192_SHA256],
        };
        let with = |algorithm| ring::UnparsedPublicKey::new(algorithm, &self.public);
        algorithms.iter().any(|algorithm| with(*algorithm).verify(message, signature).is_ok())
            || (self.scheme == Scheme::Ed25519 && self.verifies_hashed(message, signature))
    }

    /// True for a signature of Ed25519ph without a context.
    fn verifies_hashed(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = self.public.as_slice().try_into().ok().and_then(|key| VerifyingKey::from_bytes(key).ok());
        let (Some(key), Ok(signature)) = (key, Signature::from_slice(signature)) else { return false };
        key.verify_prehashed_strict(Sha512::new_with_prefix(message), None, &signature).is_ok()
    }
}

/// All keys that are believed. Any of them is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<Key>,
    digest: Digest,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Keys {
    /// Of these; one that is there twice counts once.
    pub fn new(mut keys: Vec<Key>) -> Self {
        keys.sort_by_key(|key| key.fingerprint);
        keys.dedup_by_key(|key| key.fingerprint);
        let mut hasher = Hasher::new();
        keys.iter().for_each(|key| hasher.update(key.fingerprint.bytes()));
        Self { keys, digest: hasher.finish() }
    }

    /// The key that made `signature` over `message`.
    pub fn maker(&self, message: &[u8], signature: &[u8]) -> Option<&Key> {
        let left_out = !proof::takes(Step::VerifySignature);
        self.keys.iter().find(|key| left_out || key.verifies(message, signature))
    }

    /// True where the key of that fingerprint is one of them.
    pub fn believes(&self, fingerprint: &Digest) -> bool {
        self.keys.binary_search_by_key(fingerprint, |key| key.fingerprint).is_ok()
    }

    /// In the order of their fingerprints.
    pub fn iter(&self) -> std::slice::Iter<'_, Key> {
        self.keys.iter()
    }

    /// True where nothing can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The same for the same keys, wherever and in what order they were written.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}
