//! Signatures: whether somebody who is believed stands for an artifact.
//!
//! A signature counts when it was made by a key that the settings name, and what it is over says "signed" of the very
//! manifest that the module came from: the one that the reference points to, or, where that is an index, the child that
//! was taken, for the index names it by digest. Two forms are read: cosign's older one (a payload under the tag
//! `sha256-<hex>.sig`, or as a referrer) and sigstore's bundle (a referrer; in it an in-toto statement or a signature
//! over the manifest). Names in it, such as `docker-reference`, are whatever the signer wrote and are not read.
//!
//! What a registry has is a [`Case`]; [`Case::judge`] makes a [`Verdict`] of it, which is one of a closed list. There is
//! no third answer between "verified" and a refusal: whatever is missing, too large or unreadable is a [`Flaw`].
//! A case is kept with its verdict ([`Judged`]), so that other keys can judge it again without the registry; whether that is
//! enough for the settings is a [`Demand`]'s to say.
//!
//! Keyless signatures are refused: their chain, log entries and times are not for own code, and the library for them
//! weighs more than all else here together.

mod config;
mod demand;
mod key;
pub mod listing;
mod octets;
mod statement;

use crate::clock::Timestamp;
use crate::oci::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;

pub use config::{Config, Identity, Mode, RuleConfig};
pub use demand::Demand;
pub use key::{Key, Keys};
pub use octets::Octets;

/// How many signatures of an artifact are tried. Who signs again adds one, and cosign's own limit is not much larger.
pub const MOST_TRIED: usize = 16;
/// Most bytes of a signature, and of a document that names some. Payloads have 300 bytes, bundles up to 20 KiB.
pub const MOST_BYTES: u64 = 1 << 20;
/// A case that has more bytes as it is written is not kept with the record: the registry is asked again instead. With all
/// else it is less than the 64 KiB that a record may have.
const MOST_KEPT: usize = 48 << 10;
/// The code of a refusal where nobody says anything.
const UNSIGNED: &str = "unsigned";
/// The code of a refusal where no signature counts.
const INVALID: &str = "signature_invalid";

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// cosign's older one: a payload, and its signature as an annotation.
    Payload,
    /// sigstore's bundle.
    Bundle,
}

/// A manifest or index that a signature may be for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its digest, verified when it was fetched.
    pub digest: Digest,
    /// Its bytes, for a signature over them.
    pub manifest: Octets,
}

/// One signature, as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The digest of the payload or bundle, or of what should have led to it.
    pub digest: Digest,
    /// How it is written.
    pub form: Form,
    /// What is there.
    pub found: Found,
}

/// What is there of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// A payload and what was annotated to it.
    Payload {
        /// As it came.
        payload: Octets,
        /// In base64; empty where none was annotated.
        signature: String,
        /// A certificate came along.
        is_certified: bool,
    },
    /// A bundle as it came.
    Bundle(Octets),
    /// Nothing that could be tried.
    Nothing(Flaw),
}

/// Why a signature does not count. The further down, the nearer it came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// The registry names it and does not have it.
    Missing,
    /// Other bytes than its digest or size.
    Corrupt,
    /// More than [`MOST_BYTES`].
    TooLarge,
    /// A document that cannot be read.
    Malformed,
    /// The signature is no base64.
    BadBase64,
    /// There is no signature.
    EmptySignature,
    /// There is nothing that it could be over.
    EmptyPayload,
    /// No key that is believed made it.
    OtherKey,
    /// It comes with a certificate, current or not, and no key that is believed made it.
    Certificate,
    /// It is good, and what it is over cannot be read.
    BadPayload,
    /// It is good, and says something else than "signed".
    OtherStatement,
    /// It is good, and is for something else.
    OtherDigest,
}

impl Flaw {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "is named and not there",
            Self::Corrupt => "has other bytes than its digest says",
            Self::TooLarge => "is over 1 MiB",
            Self::Malformed => "cannot be read",
            Self::BadBase64 => "is no base64",
            Self::EmptySignature => "is empty",
            Self::EmptyPayload => "is over nothing",
            Self::OtherKey => "was made by another key, or over other bytes",
            Self::Certificate => "was made with a certificate; only keys are believed",
            Self::BadPayload => "is over something that cannot be read",
            Self::OtherStatement => "says something else than that the artifact is signed",
            Self::OtherDigest => "is for another digest",
        }
    }
}

/// What a registry has for an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What has to be signed; one of them is enough.
    pub subjects: Vec<Subject>,
    /// In the order in which they are tried, at most [`MOST_TRIED`].
    pub evidence: Vec<Evidence>,
}

/// Who signed what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The fingerprint of the key.
    pub key: Digest,
    /// What it was for, one of the case's subjects.
    pub subject: Digest,
    /// How it was written.
    pub form: Form,
    /// Digest of the payload or bundle.
    pub signature: Digest,
}

/// Why one signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Digest of the payload or bundle.
    pub signature: Digest,
    /// Why.
    pub flaw: Flaw,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Somebody who is believed stands for it.
    Verified(Proof),
    /// Nobody says anything of it.
    Unsigned,
    /// There are signatures, and none counts: why, for each; at least one.
    Invalid(Vec<Tried>),
}

impl Verdict {
    /// True for [`Verdict::Verified`] alone.
    pub fn is_verified(&self) -> bool {
        matches!(self, Self::Verified(_))
    }

    /// The stable word for a refusal in answers and logs.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Verified(_) => None,
            Self::Unsigned => Some(UNSIGNED),
            Self::Invalid(_) => Some(INVALID),
        }
    }

    /// Why the signature that came nearest does not count.
    pub fn flaw(&self) -> Option<Flaw> {
        match self {
            Self::Invalid(tried) => tried.iter().map(|tried| tried.flaw).max(),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified(proof) => write!(f, "{} is signed by the key {}", proof.subject, proof.key),
            Self::Unsigned => f.write_str("there is no signature"),
            Self::Invalid(tried) => {
                let best = tried.iter().max_by_key(|tried| tried.flaw);
                let Some(Tried { signature, flaw }) = best else {
                    return f.write_str("there is no signature");
                };
                let others = match tried.len() {
                    1 => String::new(),
                    number => format!(" (nor does any other of {number})"),
                };
                write!(f, "the signature {signature} {}{others}", flaw.text())
            }
        }
    }
}

impl Case {
    /// What `keys` say of it.
    pub fn judge(&self, keys: &Keys) -> Verdict {
        let mut tried = Vec::new();
        for evidence in self.evidence.iter().take(MOST_TRIED) {
            match self.try_one(keys, evidence) {
                Ok(proof) => return Verdict::Verified(proof),
                Err(flaw) => tried.push(Tried { signature: evidence.digest, flaw }),
            }
        }
        if tried.is_empty() { Verdict::Unsigned } else { Verdict::Invalid(tried) }
    }

    fn try_one(&self, keys: &Keys, evidence: &Evidence) -> Result<Proof, Flaw> {
        let is_large = |bytes: &[u8]| bytes.len() as u64 > MOST_BYTES;
        let claim = match &evidence.found {
            Found::Nothing(flaw) => return Err(*flaw),
            Found::Payload { payload, .. } if is_large(payload) => return Err(Flaw::TooLarge),
            Found::Bundle(bundle) if is_large(bundle) => return Err(Flaw::TooLarge),
            Found::Payload { payload, signature, is_certified } => {
                statement::payload(keys, payload, signature, *is_certified)?
            }
            Found::Bundle(bundle) => {
                // Named by what they are, not by what they are called.
                let manifests = self.subjects.iter().map(|it| (Digest::of(&it.manifest), &*it.manifest));
                statement::bundle(keys, bundle, &manifests.collect::<Vec<_>>())?
            }
        };
        let is_meant = |subject: &&Subject| claim.about.contains(&subject.digest);
        let subject = self.subjects.iter().find(is_meant).map(|subject| subject.digest);
        let subject = subject.ok_or(Flaw::OtherDigest)?;
        Ok(Proof { key: claim.key, subject, form: evidence.form, signature: evidence.digest })
    }

    /// True where it is small enough to be kept, as it is written: what a registry annotates may grow by that.
    fn is_small(&self) -> bool {
        serde_json::to_writer_pretty(vec![0; MOST_KEPT].as_mut_slice(), self).is_ok()
    }
}

/// A verdict as it is kept with a record. It is of one manifest digest and one set of keys, and as long as both are the
/// same "verified" stands: nobody takes a signature back. Any other verdict may change: signatures come later too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// What was found.
    pub verdict: Verdict,
    /// The keys by which ([`Keys::digest`]).
    pub keys: Digest,
    /// When.
    pub at: Timestamp,
    /// By what, where that is small enough to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<Case>,
}

impl Judged {
    /// Judges `case` by `keys`, at `now`.
    pub fn new(case: Case, keys: &Keys, now: Timestamp) -> Self {
        let verdict = case.judge(keys);
        let case = Some(case).filter(Case::is_small);
        Self { verdict, keys: keys.digest(), at: now, case }
    }
}

#[cfg(test)]
mod tests;
