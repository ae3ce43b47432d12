//! Signatures over a bundle's list, by a key pair that `cosign generate-key-pair` makes: ECDSA over P-256 and SHA-256, in
//! base64, as `cosign sign-blob` writes and `cosign verify-blob --key … --signature …` reads it. No certificate, no log.

use super::BundleError;
use super::index::{LIST, SIGNATURE};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Most that scrypt may be asked for: 2^20 blocks of 1 KiB are 1 GiB. cosign asks for 2^15 or 2^16.
const MOST_LOG_N: u8 = 20;
/// Largest block factor and parallelism of scrypt; cosign has 8 and 1.
const MOST_R: u32 = 8;
/// See [`MOST_R`].
const MOST_P: u32 = 4;

/// A public key that bundles have to be signed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyKey {
    point: Vec<u8>,
    pem: String,
}

/// A private key.
pub struct SignKey(EcdsaKeyPair);

/// What cosign writes into a private key's file.
#[derive(Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

fn bad_key(detail: impl Into<String>) -> BundleError {
    BundleError::new("bad_key", detail)
}

/// The one PEM section of a key's file.
fn section(pem: &[u8]) -> Result<Pem, BundleError> {
    let mut sections = Pem::iter_from_buffer(pem);
    match (sections.next(), sections.next()) {
        (Some(Ok(section)), None) => Ok(section),
        (Some(Ok(_)), Some(_)) => Err(bad_key("the file has more than one section")),
        _ => Err(bad_key("the file is no PEM")),
    }
}

impl VerifyKey {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// It is none, or of another kind than ECDSA P-256.
    pub fn read(pem: &[u8]) -> Result<Self, BundleError> {
        let section = section(pem)?;
        if section.label != "PUBLIC KEY" {
            return Err(bad_key(format!("a PUBLIC KEY is expected, and the file has a {}", section.label)));
        }
        let (_, key) = SubjectPublicKeyInfo::from_der(&section.contents)
            .map_err(|e| bad_key(format!("the file has no public key: {e}")))?;
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err(bad_key("the key is no ECDSA key over P-256"));
        }
        let point = key.subject_public_key.data.to_vec();
        Ok(Self { point, pem: String::from_utf8_lossy(pem).into_owned() })
    }

    /// As it was read.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Holds the signature of a bundle against its list.
    ///
    /// # Errors
    /// There is none, or it is of another key or list.
    pub fn verify(&self, list: Option<&[u8]>, signature: Option<&[u8]>) -> Result<(), BundleError> {
        let unsigned = |what| {
            let detail = format!("the bundle has no {what}, and has to be signed");
            BundleError::new("unsigned", detail).hint("larder export --sign-key KEY signs what it writes")
        };
        let list = list.ok_or_else(|| unsigned(LIST))?;
        let signature = signature.ok_or_else(|| unsigned(SIGNATURE))?;
        let invalid = || {
            let detail = format!("the signature {SIGNATURE} is not one of {LIST} by the key that is wanted");
            BundleError::new("signature_invalid", detail)
                .hint("was it signed by another key, or changed on its way?")
        };
        let signature = BASE64_STANDARD.decode(signature.trim_ascii()).map_err(|_| invalid())?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(list, &signature)
            .map_err(|_| invalid())
    }
}

impl SignKey {
    /// Reads a private key in PEM: cosign's, which `password` opens, or a PKCS #8 one without a password. Blocks, for a
    /// second or two.
    ///
    /// # Errors
    /// It is none, of another kind than ECDSA P-256, or of another password.
    pub fn read(pem: &[u8], password: &SecretString) -> Result<Self, BundleError> {
        let section = section(pem)?;
        let pkcs8 = match section.label.as_str() {
            "PRIVATE KEY" => section.contents,
            "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" => {
                opened(&section.contents, password)?
            }
            other => return Err(bad_key(format!("a private key is expected, and the file has a {other}"))),
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &SystemRandom::new());
        key.map(Self).map_err(|_| bad_key("the key is no ECDSA key over P-256 in PKCS #8"))
    }

    /// The signature file of a list.
    ///
    /// # Errors
    /// No random numbers.
    pub fn sign(&self, list: &[u8]) -> Result<Vec<u8>, BundleError> {
        let signed = self.0.sign(&SystemRandom::new(), list);
        let signed =
            signed.map_err(|_| BundleError::new("io", "there are no random numbers to sign with"))?;
        Ok(BASE64_STANDARD.encode(signed.as_ref()).into_bytes())
    }
}

/// What cosign closed: a JSON text with how.
fn opened(bytes: &[u8], password: &SecretString) -> Result<Vec<u8>, BundleError> {
    let told: Encrypted =
        serde_json::from_slice(bytes).map_err(|e| bad_key(format!("the key is none of cosign's: {e}")))?;
    if told.kdf.name != "scrypt" || told.cipher.name != "nacl/secretbox" {
        let (kdf, cipher) = (told.kdf.name, told.cipher.name);
        return Err(bad_key(format!("the key is closed by {kdf} and {cipher}, which larder does not know")));
    }
    let Params { n, r, p } = told.kdf.params;
    let log_n = n.trailing_zeros() as u8;
    if !n.is_power_of_two() || log_n > MOST_LOG_N || r > MOST_R || p > MOST_P {
        return Err(bad_key(format!("the key wants scrypt with N={n}, r={r}, p={p}, which is too much")));
    }
    let decoded = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| bad_key("the key is malformed"));
    let (salt, nonce, closed) =
        (decoded(&told.kdf.salt)?, decoded(&told.cipher.nonce)?, decoded(&told.ciphertext)?);
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| bad_key("the key is malformed"))?;
    let params = scrypt::Params::new(log_n, r, p, 32).map_err(|_| bad_key("the key is malformed"))?;
    let mut key = [0; 32];
    scrypt::scrypt(password.expose_secret().as_bytes(), &salt, &params, &mut key)
        .map_err(|_| bad_key("the key is malformed"))?;
    XSalsa20Poly1305::new(&key.into()).decrypt(&nonce.into(), closed.as_slice()).map_err(|_| {
        bad_key("the password does not open the key").hint("COSIGN_PASSWORD, or --sign-password-file FILE")
    })
}
