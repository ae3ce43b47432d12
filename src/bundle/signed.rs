//! Gathering who signed what is exported: the manifests with signatures, under the tags that an import asks for.
//!
//! What travels is what an import under a policy would ask a registry for, of the manifest and of the child that is taken
//! from an index: cosign's tag as it is, and a list of referrers, made here of those that may be signatures, because
//! registries have it in two ways. What refers to a plugin and is no signature does not travel.

use super::collect::{Collector, Gathered};
use super::{BundleError, Signatures};
use crate::artifact::select;
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Contents, Digest, Document, Reference};
use crate::registry::{Kind, Registry, RegistryError};
use crate::signature::{Form, MOST_BYTES, listing};
use serde_json::json;
use std::collections::BTreeMap;

/// Manifests with signatures that travel with one manifest.
const MOST_SIGNATURES: usize = 64;
/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 3;
/// What an error says of a signature, and not of whoever was asked for it.
const FLAWS: [&str; 7] = [
    "not_found",
    "denied",
    "digest_mismatch",
    "digest_header",
    "size_mismatch",
    "manifest_too_large",
    "too_large",
];

/// What travels with a plugin.
#[derive(Default)]
pub struct Signed {
    /// Tags under which there are signatures.
    pub tags: Signatures,
    /// What those are made of.
    pub gathered: Gathered,
    /// What is named as a signature and does not travel, and why; for people.
    pub left: Vec<String>,
}

impl Signed {
    /// What was got of `what`; nothing where there is something wrong with it, which is whose it is and not the plugin's.
    fn unless_flawed<T: Default>(
        &mut self,
        what: &str,
        got: Result<T, BundleError>,
    ) -> Result<T, BundleError> {
        match got {
            Err(error) if FLAWS.contains(&error.code) || error.status == Some(404) => {
                self.left.push(format!("{what} does not travel: {}", error.detail));
                Ok(T::default())
            }
            got => got,
        }
    }
}

impl Collector {
    /// The signatures of what was gathered of `manifest`, in the repository of `reference`. Nothing where no registry is asked.
    ///
    /// # Errors
    /// The registry could not tell.
    pub async fn signatures(&self, reference: &Reference, manifest: Digest) -> Result<Signed, BundleError> {
        let mut signed = Signed::default();
        let Some(registry) = self.registry.as_deref() else { return Ok(signed) };
        for subject in self.subjects(reference, manifest).await? {
            let name = tag(&subject, ".sig");
            let found = tagged(registry, reference, &subject, ".sig").await;
            if let Some(digest) = signed.unless_flawed(&name, found)?
                && self.signature(reference, digest, &mut signed).await?.is_some()
            {
                signed.tags.insert(name, digest);
            }
            let mut listed = BTreeMap::new();
            let found = self.referrers(registry, reference, &subject).await;
            for (digest, form) in signed.unless_flawed(&format!("what refers to {subject}"), found)? {
                let sized = self.signature(reference, digest, &mut signed).await?;
                listed.extend(sized.map(|(size, media_type)| (digest, (size, media_type, form))));
            }
            if !listed.is_empty() {
                let entries = listed.iter().map(|(digest, (size, media_type, form))| {
                    let kind = if *form == Form::Bundle { listing::BUNDLE } else { listing::OLDER };
                    json!({"mediaType": media_type, "digest": digest, "size": size, "artifactType": kind})
                });
                let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
                    "manifests": entries.collect::<Vec<_>>()});
                let list = list.to_string().into_bytes();
                let digest = Digest::of(&list);
                signed.gathered.insert(digest, (list.len() as u64, Some(OCI_INDEX.into())));
                self.keep(reference, digest, list).await?;
                signed.tags.insert(tag(&subject, ""), digest);
            }
        }
        Ok(signed)
    }

    /// A manifest, and, where it is an index, the child that is taken from it.
    async fn subjects(&self, reference: &Reference, manifest: Digest) -> Result<Vec<Digest>, BundleError> {
        let mut subjects = vec![manifest];
        for _ in 0..MAX_DEPTH {
            let Some(last) = subjects.last() else { break };
            let bytes = self.manifest(reference, *last).await?;
            let Ok(Document::Index(children)) = Document::parse(&bytes, None) else { break };
            let Ok(child) = select::child(&children) else { break };
            subjects.push(child.digest);
        }
        Ok(subjects)
    }

    /// Takes a manifest with signatures and its blobs, and tells its size and media type. `None` for what is none, and for
    /// one that cannot be had whole.
    async fn signature(
        &self,
        reference: &Reference,
        digest: Digest,
        signed: &mut Signed,
    ) -> Result<Option<(u64, String)>, BundleError> {
        let whole = self.whole_signature(reference, digest).await;
        let whole = signed.unless_flawed(&format!("the signature {digest}"), whole)?;
        Ok(whole.map(|(sized, parts)| {
            signed.gathered.extend(parts);
            sized
        }))
    }

    async fn whole_signature(
        &self,
        reference: &Reference,
        digest: Digest,
    ) -> Result<Option<((u64, String), Gathered)>, BundleError> {
        let bytes = self.manifest(reference, digest).await?;
        let is_signature = listing::layers(&bytes).is_ok_and(|layers| !layers.is_empty());
        let Some(contents) = Contents::parse(&bytes, None).ok().filter(|_| is_signature) else {
            return Ok(None);
        };
        // No more than would be looked at.
        if contents.blobs.iter().any(|blob| blob.size > MOST_BYTES) || contents.blobs.len() > MOST_SIGNATURES
        {
            let detail = format!("it has a blob over 1 MiB, or over {MOST_SIGNATURES} of them");
            return Err(BundleError::new("too_large", detail));
        }
        let mut parts = Gathered::new();
        for blob in &contents.blobs {
            self.blob(reference, blob).await?;
            parts.insert(blob.digest, (blob.size, None));
        }
        let sized = (bytes.len() as u64, contents.media_type);
        parts.insert(digest, (sized.0, Some(sized.1.clone())));
        Ok(Some((sized, parts)))
    }

    /// What refers to `subject` and may be a signature.
    async fn referrers(
        &self,
        registry: &dyn Registry,
        reference: &Reference,
        subject: &Digest,
    ) -> Result<Vec<(Digest, Form)>, BundleError> {
        let of = Reference::digested(&reference.repository(), *subject);
        let pages =
            match registry.referrers(&of, "", MOST_BYTES).await.map(|listed| listed.map(|it| it.pages)) {
                Ok(Some(pages)) => pages,
                Ok(None) => match tagged(registry, reference, subject, "").await? {
                    Some(digest) => vec![self.manifest(reference, digest).await?.into()],
                    None => Vec::new(),
                },
                Err(error) => none(error)?,
            };
        let named = pages.iter().flat_map(|page| listing::referrers(page).unwrap_or_default()).flatten();
        Ok(named.take(MOST_SIGNATURES).map(|named| (named.digest, named.form)).collect())
    }
}

fn tag(subject: &Digest, end: &str) -> String {
    format!("sha256-{}{end}", subject.hex())
}

/// What stands under a tag of signatures, if anything does.
async fn tagged(
    registry: &dyn Registry,
    of: &Reference,
    subject: &Digest,
    end: &str,
) -> Result<Option<Digest>, BundleError> {
    let Ok(tagged) = Reference::tagged(&of.repository(), &tag(subject, end)) else {
        unreachable!("a digest's digits and a suffix are a tag")
    };
    match registry.manifest(&tagged, MOST_BYTES).await {
        // Some registries read `sha256-<hex>` as the digest.
        Ok(fetched) => Ok(Some(fetched.digest).filter(|found| found != subject)),
        Err(error) => none(error),
    }
}

/// Nothing, where that is what an error means: some registries refuse what does not exist.
fn none<T: Default>(error: RegistryError) -> Result<T, BundleError> {
    match error.kind {
        Kind::NotFound | Kind::Denied => Ok(T::default()),
        _ => Err(error.into()),
    }
}
