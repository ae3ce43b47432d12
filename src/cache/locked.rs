//! The lock file beside the road: bytes that are not those that are locked are told and counted, in every mode.

use super::{Cache, CacheError, Parts};
use crate::oci::{Digest, Reference};
use crate::policy::lock::{Mode, Other};
use crate::policy::{Gate, Refusal};
use crate::record::Present;
use std::fmt::Display;

/// Something held that is not what is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where it is from.
    pub reference: Reference,
    /// How it differs.
    pub other: Other,
}

impl Parts {
    /// Compares what a reference leads to with the lock file. Whether it is refused is for the gate to say.
    pub(super) fn compare(&self, gate: &Gate, reference: &Reference, present: &Present) {
        let Some(locked) = gate.locked() else { return };
        if let Some(other) = locked.differs(None, reference, present) {
            self.tell(locked.mode, reference, &other);
        }
    }

    /// The same of a manifest of which nothing more was fetched, and refused, where an enforced lock knows no more than that.
    pub(super) fn compare_manifest(
        &self,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<(), CacheError> {
        let gate = &self.rules.load().gate;
        let Some(locked) = gate.enforced() else { return Ok(()) };
        let Some(other) = locked.lock.differs_already(reference, manifest) else { return Ok(()) };
        self.tell(locked.mode, reference, &other);
        Err(CacheError::refused(Refusal::lock_mismatch(reference, &other)).about(reference))
    }

    /// Tells that a reference does not lead to what is locked any more, and why.
    pub(super) fn tell_missing(
        &self,
        mode: Mode,
        reference: &Reference,
        manifest: &Digest,
        error: &CacheError,
    ) {
        let detail = format!(
            "the lock file has manifest {manifest} for it, and it does not lead there: {}",
            error.detail
        );
        self.tell(mode, reference, &detail);
    }

    fn tell(&self, mode: Mode, reference: &Reference, other: &dyn Display) {
        self.trace.note("lock", || format!("{reference}: {other}"));
        if !self.trace.is_listening() {
            let mode = mode.as_str();
            self.metrics.lock_mismatch.with_label_values(&[mode]).inc();
            tracing::warn!(%reference, mode, detail = %other, "lock_mismatch");
        }
    }
}

impl Cache {
    /// What is locked is what leaves last.
    pub(super) fn pin(&self) {
        let gate = self.parts.rules.load().gate.clone();
        self.parts.store.pin(gate.locked().map(|locked| locked.lock.digests()).unwrap_or_default());
    }

    /// Compares all that is held with the lock file, when another one has come into use.
    pub fn compare_held(&self) {
        let gate = self.parts.rules.load().gate.clone();
        for Mismatch { reference, other } in self.mismatches() {
            if let Some(locked) = gate.locked() {
                self.parts.tell(locked.mode, &reference, &other);
            }
        }
    }

    /// What is held and is not what is locked, in order.
    pub fn mismatches(&self) -> Vec<Mismatch> {
        let gate = self.parts.rules.load().gate.clone();
        let Some(locked) = gate.locked() else { return Vec::new() };
        let differs = |reference: &Reference, present: &Present| {
            let other = locked.differs(None, reference, present)?;
            Some(Mismatch { reference: reference.clone(), other })
        };
        let mut found: Vec<_> = self
            .parts
            .store
            .records()
            .iter()
            .filter_map(|record| differs(&record.reference, record.present()?))
            .collect();
        found.sort_by(|one, other| one.reference.cmp(&other.reference));
        found
    }
}
