//! A store that keeps nothing: what would be written is verified as always, and dropped.

use super::overlay;
use super::{
    Body, Draft, ModuleFile, Purge, Purged, Sealed, Spool, Standing, Store, StoreError, Tier, Usage, Verified,
};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Record};
use async_trait::async_trait;
use std::collections::HashSet;
use std::sync::Arc;

/// Another store, from which nothing leaves and into which nothing comes.
pub struct Unkept(pub Arc<dyn Store>);

#[async_trait]
impl Store for Unkept {
    fn record(&self, reference: &Reference) -> Option<Arc<Record>> {
        self.0.record(reference)
    }

    fn records(&self) -> Vec<Arc<Record>> {
        self.0.records()
    }

    fn record_of(&self, manifest: &Digest) -> Option<Arc<Record>> {
        self.0.record_of(manifest)
    }

    async fn put_record(&self, _: Record) -> Result<(), StoreError> {
        Ok(())
    }

    async fn draft(&self, expected: u64) -> Result<Draft, StoreError> {
        self.0.draft(expected).await
    }

    async fn spool(&self) -> Result<Spool, StoreError> {
        self.0.spool().await
    }

    fn imported(&self) -> Vec<Digest> {
        self.0.imported()
    }

    async fn note_imported(&self, _: Digest) -> Result<(), StoreError> {
        Ok(())
    }

    async fn admit(&self, sealed: Sealed) -> Result<Module, StoreError> {
        let module = sealed.module.clone();
        // Its draft is removed from the disk.
        tokio::task::spawn_blocking(move || drop(sealed)).await.map_err(|_| StoreError::Lost)?;
        Ok(module)
    }

    fn holds(&self, module: &Module) -> bool {
        self.0.holds(module)
    }

    async fn module(&self, module: &Module) -> Result<Option<(Body, Tier)>, StoreError> {
        self.0.module(module).await
    }

    async fn damaged(&self, digest: &Digest, file: &ModuleFile, problem: std::io::Error) {
        self.0.damaged(digest, file, problem).await
    }

    fn uncached(&self, module: &Module) -> Option<&'static str> {
        self.0.uncached(module)
    }

    fn overlay(&self) -> Arc<overlay::Index> {
        self.0.overlay()
    }

    async fn overlay_module(&self, entry: Arc<overlay::Entry>) -> Result<Option<Body>, StoreError> {
        self.0.overlay_module(entry).await
    }

    async fn maintain(&self) -> Vec<Reference> {
        Vec::new()
    }

    fn standing(&self, module: &Module) -> Option<Standing> {
        self.0.standing(module)
    }

    async fn purge(&self, _: Purge) -> Result<Purged, StoreError> {
        Ok(Purged::default())
    }

    async fn verify_next(&self, _: Timestamp) -> Option<Verified> {
        None
    }

    async fn close(&self) {}

    fn pin(&self, _: HashSet<Digest>) {}

    fn usage(&self) -> Usage {
        self.0.usage()
    }
}
