//! What an operator asks for: a reference again, whatever its age, and what is past its lifetime.

use super::error::CacheError;
use super::fetch::Lane;
use super::{Cache, Outcome};
use crate::catalog::Plan;
use crate::clock::Timestamp;
use crate::freshness::Freshness;
use crate::oci::{Digest, Reference};
use crate::policy::{Gate, Mode};
use crate::record::Record;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

/// What came of asking about a reference.
#[derive(Debug, Clone)]
pub enum Asked {
    /// It is what it was.
    Unchanged,
    /// It is another one now, which was fetched.
    Updated,
    /// The registry does not have it.
    Absent,
    /// There was no usable answer. What is held stays.
    Failed(Arc<CacheError>),
}

impl Cache {
    /// Where fetches run.
    pub fn runtime(&self) -> &Handle {
        &self.parts.runtime
    }

    /// Asks the registry about `reference` now, and fetches it if it is not held or is another one.
    pub async fn ask_again(self: &Arc<Self>, reference: &Reference) -> Asked {
        let before = self.manifest_of(reference);
        match self.fetch(reference.clone(), Lane::Behind).done().await {
            Some(Ok(Outcome::Present)) if before.is_some() && before == self.manifest_of(reference) => {
                Asked::Unchanged
            }
            Some(Ok(Outcome::Present)) => Asked::Updated,
            Some(Ok(Outcome::Absent(_))) => Asked::Absent,
            Some(Err(error)) => Asked::Failed(error),
            None => Asked::Failed(Arc::new(CacheError::internal("the fetch ended early"))),
        }
    }

    /// The manifest that a reference is known to point to, as long as its module is held.
    fn manifest_of(&self, reference: &Reference) -> Option<Digest> {
        let record = self.parts.store.record(reference)?;
        let present = record.present().filter(|present| self.parts.store.holds(&present.module))?;
        Some(present.manifest)
    }

    /// Forgets why things could not be had: the settings have changed, and what was refused may be granted now. What is
    /// held stays.
    pub fn doubt(&self) {
        // Counted first: what a fetch by the old settings remembers from here on, it forgets itself.
        self.doubts.fetch_add(1, Ordering::SeqCst);
        self.failures.invalidate_all();
        self.doubted.store(self.parts.clock.now().millis(), Ordering::SeqCst);
    }

    /// Where settings are counted: what was begun at another number went by others.
    pub(super) fn epoch(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }

    /// Forgets why the plan's candidates could not be had a moment ago.
    pub fn forget_failures(&self, plan: &Plan) {
        plan.candidates.iter().for_each(|candidate| self.forget_failure(&candidate.reference));
    }

    /// Forgets why `reference` could not be had a moment ago.
    pub fn forget_failure(&self, reference: &Reference) {
        self.failures.invalidate(reference);
        self.parts.recent.forget(&reference.to_string());
    }

    /// Whether a record is within its lifetime, and when it ends; `None` for one that never does.
    pub fn lifetime(&self, record: &Record) -> (bool, Option<Timestamp>) {
        let now = self.parts.clock.now();
        // What is never confirmed does not age.
        let is_confirmed = |gate: &Gate| gate.mode_of(&record.reference) == Mode::Online;
        if record.present().is_some() && !self.gate().is_none_or(|gate| is_confirmed(&gate)) {
            return (true, None);
        }
        match self.judge(record, now) {
            Freshness::Fresh(left) if left == std::time::Duration::MAX => (true, None),
            Freshness::Fresh(left) => (true, Some(now.plus(left))),
            Freshness::Stale(by) => (false, Some(now.minus(by))),
        }
    }

    /// Reads the next module again, for a reading of all that began at `since`: whether it was damaged, and then it is
    /// fetched again. `None` when all were read.
    pub async fn verify_next(self: &Arc<Self>, since: Timestamp) -> Option<bool> {
        let verified = self.parts.store.verify_next(since).await?;
        for reference in verified.lost {
            drop(self.fetch(reference, Lane::Behind));
        }
        Some(verified.damaged)
    }
}
