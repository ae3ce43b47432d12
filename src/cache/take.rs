//! Taking from elsewhere than the registries: what a bundle has of a reference is fetched from it as from a registry, into
//! the same store, by the same rules, and becomes a record that no registry has confirmed yet: it is served, and asked about
//! behind the request.

use super::fetch::FETCH_BYTES;
use super::{Cache, CacheError, Parts, UNPACKING, fill};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::record::{Absence, Module, Present, Record, State};
use crate::registry::Registry;
use crate::registry::trace::Trace;
use crate::store::{Purge, Store};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// What is taken.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'w> {
    /// Under which reference.
    pub reference: &'w Reference,
    /// Which manifest or index it is to point to.
    pub manifest: &'w Digest,
    /// The SHA-256 that the module is to have, if it is told.
    pub module: Option<&'w Digest>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The reference points there already, and its module is held.
    Unchanged(Module),
    /// It does now.
    New(Module),
    /// It points elsewhere, as a registry said, and stays so.
    Kept(Module),
}

impl Cache {
    /// A cache of the same store and rules that asks `registry`, counted apart but for what the lock file and the policy
    /// say of it. With another `store` in its place, such as one that keeps nothing, nothing of it is told elsewhere.
    pub fn beside(&self, registry: Arc<dyn Registry>, store: Option<Arc<dyn Store>>) -> Arc<Self> {
        let Parts { clock, rules, runtime, room, .. } = &self.parts;
        let (mut metrics, mut decided) = (Metrics::new(), Arc::default());
        if store.is_none() {
            metrics.lock_mismatch = self.parts.metrics.lock_mismatch.clone();
            decided = self.decided.clone();
        }
        let parts = Parts {
            registry,
            store: store.unwrap_or_else(|| self.parts.store.clone()),
            clock: clock.clone(),
            metrics: Arc::new(metrics),
            rules: ArcSwap::new(rules.load_full()),
            runtime: runtime.clone(),
            room: room.clone(),
            unpacking: tokio::sync::Semaphore::new(UNPACKING),
            streams: self.parts.streams.clone(),
            trace: Trace::default(),
            recent: Arc::default(),
        };
        // What is pinned stays: those rules may be old by now.
        Self::deciding(parts, decided)
    }

    /// What is known of a reference whose module is held. What the policy withholds is as if it were not: a bundle may
    /// have what the policy takes.
    fn usable(&self, reference: &Reference) -> Option<Arc<Record>> {
        let record = self.parts.store.record(reference)?;
        let present = record.present().filter(|present| self.parts.store.holds(&present.module))?;
        let gate = self.parts.rules.load().gate.clone();
        let is_taken = gate.is_open() || gate.takes_reference(reference, present).is_ok();
        is_taken.then_some(record)
    }

    /// The module of a reference that points to `manifest`, as long as it is held and not withheld.
    fn has(&self, reference: &Reference, manifest: &Digest) -> Option<Module> {
        let record = self.usable(reference)?;
        let present = record.present().filter(|present| present.manifest == *manifest)?;
        Some(present.module.clone())
    }

    /// Whether a reference points to anything that is held and not withheld.
    pub fn resolves(&self, reference: &Reference) -> bool {
        self.usable(reference).is_some()
    }

    /// The module that a registry confirmed for a reference, as long as it is held and not withheld.
    fn confirmed(&self, reference: &Reference) -> Option<Module> {
        let record = self.usable(reference).filter(|record| record.checked_at > Timestamp::EPOCH)?;
        Some(record.present()?.module.clone())
    }

    /// Fetches what this cache's registry has of a reference, and writes it down. What a registry said of it stays, unless
    /// the policy withholds it: nobody knows how old this is.
    ///
    /// # Errors
    /// As of a fetch; and `module_mismatch` where the module is another one than was told.
    pub async fn take(&self, wanted: Wanted<'_>) -> Result<Taken, CacheError> {
        let taken = self.taken(wanted).await;
        if let Err(error) = &taken {
            self.decided.refused(None, error, self.parts.clock.now());
        }
        taken
    }

    async fn taken(&self, wanted: Wanted<'_>) -> Result<Taken, CacheError> {
        let (parts, reference) = (&self.parts, wanted.reference);
        if let Some(module) = self.has(reference, wanted.manifest) {
            is_told(&wanted, &module)?;
            return Ok(Taken::Unchanged(module));
        }
        if let Some(module) = self.confirmed(reference) {
            return Ok(Taken::Kept(module));
        }
        let _room = parts.room.take(FETCH_BYTES).await;
        let rules = parts.rules.load_full();
        let admitted = rules.gate.admits_reference(reference);
        admitted.map_err(|refusal| CacheError::refused(refusal).about(reference))?;
        let progress = self.progress.begin(reference);
        let filled = fill::fill(parts, &rules, reference, None, &progress);
        let mut new = match tokio::time::timeout(rules.config.timeout, filled).await {
            Ok(filled) => filled?,
            Err(_) => return Err(CacheError::timed_out(reference, rules.config.timeout)),
        };
        if let Err(error) = is_told(&wanted, &new.module) {
            // Nothing leads to it, unless something did before.
            let unused = Purge { modules: vec![new.module.digest], ..Purge::default() };
            let _ = parts.store.purge(unused).await;
            return Err(error);
        }
        let known = parts.store.record(reference);
        if let Some(old) = known.as_deref().and_then(Record::present) {
            if old.module.digest == new.module.digest {
                new.since = old.since;
            }
            new.first = old.first.or(Some(old.since));
        }
        let module = new.module.clone();
        self.note(reference, State::Present(Present { ..new })).await?;
        Ok(Taken::New(module))
    }

    /// Writes down that a reference does not exist, where nothing is known of it: what stands behind it may answer then.
    ///
    /// # Errors
    /// The disk's.
    pub async fn take_absence(&self, reference: &Reference) -> Result<(), CacheError> {
        match self.parts.store.record(reference) {
            None => self.note(reference, State::Absent(Absence::NotFound)).await,
            Some(_) => Ok(()),
        }
    }

    async fn note(&self, reference: &Reference, state: State) -> Result<(), CacheError> {
        let record = Record { reference: reference.clone(), checked_at: Timestamp::EPOCH, state };
        Ok(self.parts.store.put_record(record).await?)
    }
}

/// A bundle's list may be signed, and what it says of a module is heeded.
fn is_told(wanted: &Wanted<'_>, module: &Module) -> Result<(), CacheError> {
    match wanted.module.filter(|told| **told != module.digest) {
        None => Ok(()),
        Some(told) => {
            let Wanted { reference, .. } = wanted;
            let detail = format!("{reference}: the module should be {told} and is {}", module.digest);
            Err(CacheError::corrupt(reference, "module_mismatch", detail).hint("make the bundle again"))
        }
    }
}
