//! What a registry has by way of signatures: asked for, bounded, and not yet believed.
//!
//! They are looked for where they are written: in the list of referrers (OCI distribution spec 1.1), in the index under
//! the tag `sha256-<hex>` where a registry has no such list, and under cosign's tag `sha256-<hex>.sig`. "Not found" from all
//! of them means unsigned. Whoever could not be asked leaves an error beside what was found: no answer is no signature, and
//! no lack of one either.

use super::error::{Kind, RegistryError};
use super::{FetchedManifest, Registry};
use crate::oci::reference::Repository;
use crate::oci::{Digest, Reference};
use crate::signature::listing::{self, Named};
use crate::signature::{Case, Evidence, Flaw, Form, Found, Key, MOST_BYTES, MOST_TRIED, Octets, Subject};
use bytes::BytesMut;
use futures_util::StreamExt;
use std::path::Path;

/// Manifests that are looked into for signatures: attestations may stand before them, unmarked.
const MOST_LISTED: usize = 64;

/// The keys of a PEM file.
///
/// # Errors
/// A text that names the file.
pub fn keys(file: &Path) -> Result<Vec<Key>, String> {
    let label = file.display().to_string();
    super::pem::read(file).and_then(|pem| Key::parse(&label, &pem))
}

/// Gets what the registry has for `subjects` of `repository`; and, where it could not tell all, what kept it from that.
pub async fn gather(
    registry: &dyn Registry,
    repository: &Repository,
    subjects: Vec<Subject>,
) -> (Case, Result<(), RegistryError>) {
    let mut search = Search { registry, repository, evidence: Vec::new() };
    let mut ended = Ok(());
    for subject in &subjects {
        ended = search.look_for(&subject.digest).await;
        if ended.is_err() {
            break;
        }
    }
    (Case { subjects, evidence: search.evidence }, ended)
}

struct Search<'a> {
    registry: &'a dyn Registry,
    repository: &'a Repository,
    evidence: Vec<Evidence>,
}

impl Search<'_> {
    fn is_full(&self) -> bool {
        self.evidence.len() >= MOST_TRIED
    }

    fn add(&mut self, digest: Digest, form: Form, found: Found) {
        if !self.is_full() {
            self.evidence.push(Evidence { digest, form, found });
        }
    }

    /// Everything that is written of `subject`.
    async fn look_for(&mut self, subject: &Digest) -> Result<(), RegistryError> {
        let named = self.referrers(subject).await?;
        for named in named.into_iter().take(MOST_LISTED) {
            match named {
                Ok(named) => self.manifest(&named).await?,
                Err(flaw) => self.add(*subject, Form::Bundle, Found::Nothing(flaw)),
            }
            if self.is_full() {
                return Ok(());
            }
        }
        match self.tagged(&format!("sha256-{}.sig", subject.hex())).await? {
            Ok(Some(manifest)) => self.layers(&manifest).await,
            Ok(None) => Ok(()),
            Err(flaw) => {
                self.add(*subject, Form::Payload, Found::Nothing(flaw));
                Ok(())
            }
        }
    }

    /// The manifests with signatures that refer to `subject`.
    async fn referrers(&mut self, subject: &Digest) -> Result<Vec<Result<Named, Flaw>>, RegistryError> {
        let of = Reference::digested(self.repository, *subject);
        let mut named: Vec<Result<Named, Flaw>> = Vec::new();
        for kind in [listing::BUNDLE, listing::OLDER] {
            let listed = match self.registry.referrers(&of, kind, MOST_BYTES).await {
                Ok(Some(listed)) => listed,
                Ok(None) => return self.referrers_by_tag(subject).await,
                Err(error) => {
                    named.push(Err(flaw_of(error)?));
                    return Ok(named);
                }
            };
            for page in &listed.pages {
                named.extend(listing::referrers(page).unwrap_or_else(|flaw| vec![Err(flaw)]));
            }
            if !listed.is_filtered {
                break;
            }
        }
        Ok(named)
    }

    /// The same of a registry that lists no referrers ("Referrers Tag Schema").
    async fn referrers_by_tag(
        &mut self,
        subject: &Digest,
    ) -> Result<Vec<Result<Named, Flaw>>, RegistryError> {
        Ok(match self.tagged(&format!("sha256-{}", subject.hex())).await? {
            Ok(Some(index)) => listing::referrers(&index.bytes).unwrap_or_else(|flaw| vec![Err(flaw)]),
            Ok(None) => Vec::new(),
            Err(flaw) => vec![Err(flaw)],
        })
    }

    /// What stands under a tag. One that is not for us is not there: the manifest itself was.
    async fn tagged(&self, tag: &str) -> Result<Result<Option<FetchedManifest>, Flaw>, RegistryError> {
        let Ok(reference) = Reference::tagged(self.repository, tag) else {
            unreachable!("a digest's digits and a suffix are a tag")
        };
        match self.registry.manifest(&reference, MOST_BYTES).await {
            Ok(manifest) => Ok(Ok(Some(manifest))),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Denied) => Ok(Ok(None)),
            Err(error) => flaw_of(error).map(Err),
        }
    }

    async fn manifest(&mut self, named: &Named) -> Result<(), RegistryError> {
        let reference = Reference::digested(self.repository, named.digest);
        match self.registry.manifest(&reference, MOST_BYTES).await {
            // Only one that says what it is has to have a signature.
            Ok(manifest) if !named.is_sure && listing::layers(&manifest.bytes).is_err() => Ok(()),
            Ok(manifest) => self.layers(&manifest).await,
            Err(error) => {
                self.add(named.digest, named.form, Found::Nothing(flaw_of(error)?));
                Ok(())
            }
        }
    }

    /// The signatures in a manifest's layers.
    async fn layers(&mut self, manifest: &FetchedManifest) -> Result<(), RegistryError> {
        let named = listing::layers(&manifest.bytes).unwrap_or_else(|flaw| vec![Err(flaw)]);
        for named in named {
            if self.is_full() {
                break;
            }
            match named {
                Ok(named) => {
                    let found = self.blob(&named).await?;
                    self.add(named.digest, named.form, found);
                }
                Err(flaw) => self.add(manifest.digest, Form::Payload, Found::Nothing(flaw)),
            }
        }
        Ok(())
    }

    async fn blob(&self, named: &Named) -> Result<Found, RegistryError> {
        if named.size > MOST_BYTES {
            return Ok(Found::Nothing(Flaw::TooLarge));
        }
        // Nobody needs to be asked for what has no bytes.
        if named.size == 0 {
            return Ok(Found::Nothing(Flaw::EmptyPayload));
        }
        let bytes = match self.receive(named).await {
            Ok(bytes) => bytes,
            Err(error) => return flaw_of(error).map(Found::Nothing),
        };
        if Digest::of(&bytes) != named.digest {
            return Ok(Found::Nothing(Flaw::Corrupt));
        }
        let bytes = Octets(bytes.freeze());
        Ok(match named.form {
            Form::Payload => Found::Payload {
                payload: bytes,
                signature: named.signature.clone(),
                is_certified: named.is_certified,
            },
            Form::Bundle => Found::Bundle(bytes),
        })
    }

    async fn receive(&self, named: &Named) -> Result<BytesMut, RegistryError> {
        let reference = Reference::digested(self.repository, named.digest);
        let mut blob = self.registry.blob(&reference, &named.digest, named.size).await?;
        let mut bytes = BytesMut::with_capacity(named.size as usize);
        while let Some(piece) = blob.stream.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > named.size {
                return Err(RegistryError::new(Kind::Corrupt, "more bytes than the manifest says"));
            }
        }
        Ok(bytes)
    }
}

/// What a failure says of a signature that something names. A registry that does not answer says nothing of it.
fn flaw_of(error: RegistryError) -> Result<Flaw, RegistryError> {
    match error.kind {
        Kind::NotFound | Kind::Denied => Ok(Flaw::Missing),
        Kind::Upstream if error.status == Some(404) => Ok(Flaw::Missing),
        Kind::Corrupt => Ok(Flaw::Corrupt),
        Kind::TooLarge => Ok(Flaw::TooLarge),
        _ => Err(error),
    }
}
