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

impl Collector {
    /// Tags of the repository of `reference` under which there are signatures of what was gathered of `manifest`, and what
    /// those are made of. Nothing where no registry is asked.
    ///
    /// # Errors
    /// The registry could not tell.
    pub async fn signatures(
        &self,
        reference: &Reference,
        manifest: Digest,
    ) -> Result<(Signatures, Gathered), BundleError> {
        let (mut tags, mut gathered) = (Signatures::new(), Gathered::new());
        let Some(registry) = self.registry.as_deref() else { return Ok((tags, gathered)) };
        for subject in self.subjects(reference, manifest).await? {
            if let Some(digest) = tagged(registry, reference, &subject, ".sig").await?
                && self.signature(reference, digest, &mut gathered).await?.is_some()
            {
                tags.insert(tag(&subject, ".sig"), digest);
            }
            let mut listed = BTreeMap::new();
            for (digest, form) in self.referrers(registry, reference, &subject).await? {
                let sized = self.signature(reference, digest, &mut gathered).await?;
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
                gathered.insert(digest, (list.len() as u64, Some(OCI_INDEX.into())));
                self.keep(reference, digest, list).await?;
                tags.insert(tag(&subject, ""), digest);
            }
        }
        Ok((tags, gathered))
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

    /// A manifest with signatures and its blobs: its size and media type. `None` for what is none, or larger than one that
    /// would be looked at.
    async fn signature(
        &self,
        reference: &Reference,
        digest: Digest,
        gathered: &mut Gathered,
    ) -> Result<Option<(u64, String)>, BundleError> {
        let bytes = self.manifest(reference, digest).await?;
        let is_signature = listing::layers(&bytes).is_ok_and(|layers| !layers.is_empty());
        let Some(contents) = Contents::parse(&bytes, None).ok().filter(|_| is_signature) else {
            return Ok(None);
        };
        if contents.blobs.iter().any(|blob| blob.size > MOST_BYTES) || contents.blobs.len() > MOST_SIGNATURES
        {
            return Ok(None);
        }
        for blob in &contents.blobs {
            self.blob(reference, blob).await?;
            gathered.entry(blob.digest).or_insert((blob.size, None));
        }
        let size = bytes.len() as u64;
        gathered.insert(digest, (size, Some(contents.media_type.clone())));
        Ok(Some((size, contents.media_type)))
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
        Ok(fetched) => Ok(Some(fetched.digest)),
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
