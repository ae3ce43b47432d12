//! The lock file beside the road: bytes that are not those that are locked are told and counted, in every mode.

use super::{Cache, Parts};
use crate::oci::Reference;
use crate::policy::Gate;
use crate::policy::lock::{Mode, Other};
use crate::record::Present;

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

    fn tell(&self, mode: Mode, reference: &Reference, other: &Other) {
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
