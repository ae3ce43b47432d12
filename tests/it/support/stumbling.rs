//! A registry client that panics on command: a defect of ours, where no real part would show one.

use async_trait::async_trait;
use larder::oci::{Digest, Reference};
use larder::registry::{Blob, Confirmation, FetchedManifest, Registry, RegistryError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Panics as often as it is told to, and then is what it wraps.
pub struct Stumbling {
    pub inner: Arc<dyn Registry>,
    pub left: Arc<AtomicUsize>,
}

impl Stumbling {
    fn stumble(&self) {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "as the test wants");
    }
}

#[async_trait]
impl Registry for Stumbling {
    async fn confirm(&self, reference: &Reference, known: &Digest) -> Result<Confirmation, RegistryError> {
        self.stumble();
        self.inner.confirm(reference, known).await
    }

    async fn manifest(&self, reference: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError> {
        self.stumble();
        self.inner.manifest(reference, limit).await
    }

    async fn blob(&self, reference: &Reference, digest: &Digest, size: u64) -> Result<Blob, RegistryError> {
        self.inner.blob(reference, digest, size).await
    }

    fn distrust(&self, reference: &Reference, endpoint: usize) {
        self.inner.distrust(reference, endpoint);
    }
}
