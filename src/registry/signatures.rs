//! What a registry has by way of signatures: asked for, bounded, and not yet believed.
//!
//! They are looked for where they are written: in the list of referrers (OCI distribution spec 1.1), in the index under
//! the tag `sha256-<hex>` where a registry has no such list, and under cosign's tag `sha256-<hex>.sig`. "Not found" from all
//! of them means unsigned. Whoever could not be asked leaves an error beside what was found: no answer is no signature, and
//! no lack of one either. The other places are asked all the same: what is good there is good.

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
/// Questions without an answer after which the rest is not asked: each costs its attempts and their time.
const MOST_FAILED: usize = 8;

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
    let mut search = Search { registry, repository, evidence: Vec::new(), failed: 0, first: None };
    for subject in &subjects {
        search.look_for(&subject.digest).await;
    }
    (Case { subjects, evidence: search.evidence }, search.first.map_or(Ok(()), Err))
}

struct Search<'a> {
    registry: &'a dyn Registry,
    repository: &'a Repository,
    evidence: Vec<Evidence>,
    failed: usize,
    /// The first failure.
    first: Option<RegistryError>,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.evidence.len() >= MOST_TRIED || self.failed >= MOST_FAILED
    }

    /// What a question came to; `None` where nobody told.
    fn told<T>(&mut self, result: Result<T, RegistryError>) -> Option<T> {
        let error = match result {
            Ok(told) => return Some(told),
            Err(error) => error,
        };
        // While the registry is left alone, every further question would wait for it.
        self.failed = if error.is_waiting_for_others() { MOST_FAILED } else { self.failed + 1 };
        self.first.get_or_insert(error);
        None
    }

    fn add(&mut self, digest: Digest, form: Form, found: Found) {
        if self.evidence.len() < MOST_TRIED {
            self.evidence.push(Evidence { digest, form, found });
        }
    }

    /// Everything that is written of `subject`.
    async fn look_for(&mut self, subject: &Digest) {
        for named in self.referrers(subject).await.into_iter().take(MOST_LISTED) {
            if self.is_over() {
                return;
            }
            match named {
                Ok(named) => self.manifest(&named).await,
                Err(flaw) => self.add(*subject, Form::Bundle, Found::Nothing(flaw)),
            }
        }
        match self.tagged(subject, ".sig").await {
            Some(Ok(manifest)) => self.layers(&manifest).await,
            Some(Err(flaw)) => self.add(*subject, Form::Payload, Found::Nothing(flaw)),
            None => {}
        }
    }

    /// The manifests with signatures that refer to `subject`.
    async fn referrers(&mut self, subject: &Digest) -> Vec<Result<Named, Flaw>> {
        let of = Reference::digested(self.repository, *subject);
        let mut named: Vec<Result<Named, Flaw>> = Vec::new();
        for kind in [listing::BUNDLE, listing::OLDER] {
            if self.is_over() {
                break;
            }
            let listed = self.registry.referrers(&of, kind, MOST_BYTES).await;
            let listed = match self.told(listed.map(Ok).or_else(|error| flaw_of(error).map(Err))) {
                Some(Ok(Some(listed))) => listed,
                Some(Err(flaw)) => {
                    named.push(Err(flaw));
                    break;
                }
                // Nobody lists them, or nobody tells: there may be a tag in the list's place.
                Some(Ok(None)) | None => {
                    named.extend(self.referrers_by_tag(subject).await);
                    break;
                }
            };
            for page in &listed.pages {
                named.extend(listing::referrers(page).unwrap_or_else(|flaw| vec![Err(flaw)]));
            }
            if !listed.is_filtered {
                break;
            }
        }
        named
    }

    /// The same of a registry that lists no referrers ("Referrers Tag Schema").
    async fn referrers_by_tag(&mut self, subject: &Digest) -> Vec<Result<Named, Flaw>> {
        match self.tagged(subject, "").await {
            Some(Ok(index)) => listing::referrers(&index.bytes).unwrap_or_else(|flaw| vec![Err(flaw)]),
            Some(Err(flaw)) => vec![Err(flaw)],
            None => Vec::new(),
        }
    }

    /// What stands under a tag of `subject`, if anything does. One that is not for us is not there: the manifest itself was.
    /// Nor is the subject: some registries read `sha256-<hex>` as the digest.
    async fn tagged(&mut self, subject: &Digest, end: &str) -> Option<Result<FetchedManifest, Flaw>> {
        if self.is_over() {
            return None;
        }
        let Ok(reference) = Reference::tagged(self.repository, &format!("sha256-{}{end}", subject.hex()))
        else {
            unreachable!("a digest's digits and a suffix are a tag")
        };
        let told = match self.registry.manifest(&reference, MOST_BYTES).await {
            Ok(manifest) if manifest.digest == *subject => Ok(None),
            Ok(manifest) => Ok(Some(Ok(manifest))),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Denied) => Ok(None),
            Err(error) => flaw_of(error).map(|flaw| Some(Err(flaw))),
        };
        self.told(told)?
    }

    async fn manifest(&mut self, named: &Named) {
        let reference = Reference::digested(self.repository, named.digest);
        let got = self.registry.manifest(&reference, MOST_BYTES).await;
        match self.told(got.map(Ok).or_else(|error| flaw_of(error).map(Err))) {
            // Only one that says what it is has to have a signature.
            Some(Ok(manifest)) if !named.is_sure && listing::layers(&manifest.bytes).is_err() => {}
            Some(Ok(manifest)) => self.layers(&manifest).await,
            Some(Err(flaw)) => self.add(named.digest, named.form, Found::Nothing(flaw)),
            None => {}
        }
    }

    /// The signatures in a manifest's layers.
    async fn layers(&mut self, manifest: &FetchedManifest) {
        let named = listing::layers(&manifest.bytes).unwrap_or_else(|flaw| vec![Err(flaw)]);
        for named in named {
            if self.is_over() {
                break;
            }
            match named {
                Ok(named) => {
                    let found = self.blob(&named).await;
                    if let Some(found) = self.told(found) {
                        self.add(named.digest, named.form, found);
                    }
                }
                Err(flaw) => self.add(manifest.digest, Form::Payload, Found::Nothing(flaw)),
            }
        }
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
