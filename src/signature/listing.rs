//! Where signatures are written: the registry's documents that name them.
//!
//! They are read leniently, for nothing in them is believed: what matters is inside of what they name.

use super::statement::SIGNED;
use super::{Flaw, Form};
use crate::oci::Digest;
use serde::Deserialize;
use std::collections::HashMap;

/// A bundle, as manifest and layer are typed.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What every version of a bundle's type begins with.
const ANY_BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// cosign's older form as a referrer (`COSIGN_EXPERIMENTAL` with OCI 1.1).
pub const OLDER: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// What a list calls everything whose type it does not know, such as go-containerregistry's: that of an empty configuration.
const UNTYPED: &str = "application/vnd.oci.empty.v1+json";
/// A payload of cosign's older form.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The signature over a payload, in base64.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The certificate of a keyless one.
const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// What a bundle says, where that is told beside it.
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// What is fetched to get a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Of the manifest, or of the layer.
    pub digest: Digest,
    /// In bytes, by whoever names it.
    pub size: u64,
    /// What it is.
    pub form: Form,
    /// False where that is a guess.
    pub is_sure: bool,
    /// With a payload: its signature.
    pub signature: String,
    /// With a payload: true where a certificate came along.
    pub is_certified: bool,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
    #[serde(default)]
    layers: Option<Vec<Entry>>,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: Option<String>,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// False where something says beside itself that it is no signature.
fn may_be_signed(annotations: &Option<HashMap<String, String>>) -> bool {
    annotations.as_ref().and_then(|all| all.get(PREDICATE)).is_none_or(|kind| kind == SIGNED)
}

impl Entry {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn named(&self, form: Form) -> Result<Named, Flaw> {
        Ok(Named {
            digest: self.digest.parse().map_err(|_| Flaw::Malformed)?,
            size: self.size,
            form,
            is_sure: true,
            signature: self.annotation(SIGNATURE).unwrap_or_default().into(),
            is_certified: self.annotation(CERTIFICATE).is_some(),
        })
    }
}

/// The manifests with signatures that a referrers list names (OCI distribution spec 1.1, "Listing Referrers"), those that say what they are
/// first. Others, such as bills of materials, and bundles that say beside themselves that they are no signature, are passed over.
///
/// # Errors
/// [`Flaw::Malformed`].
pub fn referrers(bytes: &[u8]) -> Result<Vec<Result<Named, Flaw>>, Flaw> {
    let document: Document = serde_json::from_slice(bytes).map_err(|_| Flaw::Malformed)?;
    let entries = document.manifests.ok_or(Flaw::Malformed)?;
    let form = |entry: &Entry| match entry.artifact_type.as_deref() {
        Some(OLDER) => Some((Form::Payload, true)),
        Some(kind) if kind.starts_with(ANY_BUNDLE) => Some((Form::Bundle, true)),
        None | Some("" | UNTYPED) => Some((Form::Bundle, false)),
        _ => None,
    };
    let mut named = Vec::new();
    for entry in entries.iter().filter(|entry| may_be_signed(&entry.annotations)) {
        let Some((form, is_sure)) = form(entry) else { continue };
        named.push(entry.named(form).map(|named| Named { is_sure, ..named }));
    }
    // Whatever says what it is comes first.
    named.sort_by_key(|named| matches!(named, Ok(Named { is_sure: false, .. })));
    Ok(named)
}

/// The layers with signatures that a manifest names, in its order; none of one that says that it is something else.
///
/// # Errors
/// [`Flaw::Malformed`], also where there are none.
pub fn layers(bytes: &[u8]) -> Result<Vec<Result<Named, Flaw>>, Flaw> {
    let document: Document = serde_json::from_slice(bytes).map_err(|_| Flaw::Malformed)?;
    let form = |entry: &Entry| match entry.media_type.as_str() {
        PAYLOAD => Some(Form::Payload),
        kind if kind.starts_with(ANY_BUNDLE) => Some(Form::Bundle),
        _ => None,
    };
    if !may_be_signed(&document.annotations) {
        return Ok(Vec::new());
    }
    let layers = document.layers.unwrap_or_default();
    let named: Vec<_> = layers.iter().filter_map(|entry| Some(entry.named(form(entry)?))).collect();
    if named.is_empty() { Err(Flaw::Malformed) } else { Ok(named) }
}
