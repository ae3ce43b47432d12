//! A bundle as a registry: whoever fetches from it selects, extracts, verifies and keeps as always.

use super::{Bundle, BundleError, Offer};
use crate::oci::{Digest, Reference};
use crate::registry::{Blob, Confirmation, FetchedManifest, Kind, Registry, RegistryError};
use async_trait::async_trait;
use futures_util::stream::{StreamExt, unfold};
use std::collections::HashMap;
use std::sync::Arc;

/// A blob is given in pieces of this size, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// See the module's text.
pub struct Offered {
    bundle: Arc<Bundle>,
    manifests: HashMap<Reference, Digest>,
}

impl Offered {
    /// What `offers` say of a bundle.
    pub fn new(bundle: Arc<Bundle>, offers: &[Offer]) -> Self {
        let tags = |offer: &Offer| {
            let repository = offer.reference.repository();
            let of = |(tag, digest): (&String, &Digest)| {
                Some((Reference::tagged(&repository, tag).ok()?, *digest))
            };
            offer.signatures.iter().filter_map(of).collect::<Vec<_>>()
        };
        let mut manifests: HashMap<_, _> = offers.iter().flat_map(tags).collect();
        // What is offered is what it is, whatever a list calls a signature.
        manifests.extend(offers.iter().map(|offer| (offer.reference.clone(), offer.manifest)));
        Self { bundle, manifests }
    }

    /// Reads from the bundle on a thread for that.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Bundle) -> Result<T, BundleError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let bundle = self.bundle.clone();
        let done = tokio::task::spawn_blocking(move || read(&bundle)).await;
        done.map_err(|_| RegistryError::new(Kind::Upstream, "a worker ended early"))?.map_err(refused)
    }
}

/// Nothing in a bundle is missing with a registry's authority: it is incomplete.
fn refused(error: BundleError) -> RegistryError {
    RegistryError::new(Kind::Corrupt, error.detail).code(error.code).hint("make the bundle again")
}

#[async_trait]
impl Registry for Offered {
    async fn confirm(&self, _: &Reference, _: &Digest) -> Result<Confirmation, RegistryError> {
        Ok(Confirmation::Unknown)
    }

    async fn manifest(&self, reference: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError> {
        let named = reference.digest().or_else(|| self.manifests.get(reference)).copied();
        let missing = || RegistryError::new(Kind::NotFound, format!("the bundle has no {reference}"));
        let expected = named.ok_or_else(missing)?;
        let bytes = self
            .read(move |bundle| {
                let span = bundle.blob(&expected)?;
                if span.size > limit {
                    let detail =
                        format!("the manifest {expected} has more than {limit} bytes (limits.manifest)");
                    return Err(BundleError::new("manifest_too_large", detail));
                }
                let read = span.read_at(0, span.size as usize);
                read.map_err(|e| BundleError::io(&format!("the manifest {expected}"), &e))
            })
            .await?;
        let digest = Digest::of(&bytes);
        if digest != expected {
            let detail = format!("the manifest {expected} has bytes whose digest is {digest}");
            return Err(RegistryError::new(Kind::Corrupt, detail));
        }
        Ok(FetchedManifest { bytes: bytes.into(), digest, media_type: None })
    }

    async fn blob(&self, _: &Reference, digest: &Digest, size: u64) -> Result<Blob, RegistryError> {
        let digest = *digest;
        let span = self.read(move |bundle| bundle.blob(&digest)).await?;
        if span.size != size {
            let detail = format!("the blob {digest} should have {size} bytes and has {}", span.size);
            return Err(RegistryError::new(Kind::Corrupt, detail).code("size_mismatch"));
        }
        let stream = unfold((span, 0), move |(span, at)| async move {
            if at >= span.size {
                return None;
            }
            let read = tokio::task::spawn_blocking(move || (span.read_at(at, PIECE_BYTES), span)).await;
            let failed = |detail: String| Err(RegistryError::new(Kind::Corrupt, detail).code("io"));
            match read {
                Ok((Ok(bytes), span)) => {
                    let next = at + bytes.len() as u64;
                    Some((Ok(bytes.into()), (span, next)))
                }
                Ok((Err(e), span)) => {
                    let end = span.size;
                    Some((failed(format!("the blob {digest} cannot be read: {e}")), (span, end)))
                }
                Err(_) => None,
            }
        });
        Ok(Blob { endpoint: 0, stream: stream.boxed() })
    }

    fn distrust(&self, _: &Reference, _: usize) {}
}
