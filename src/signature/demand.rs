//! What the settings demand of signatures, and whether what is known of a manifest is enough.

use super::{Judged, Keys, Mode, Verdict};
use crate::oci::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Verdicts that are remembered at once. Beyond it all are forgotten, which costs a few signatures' verification.
const MOST_REMEMBERED: usize = 10_000;

/// A demand of the settings.
#[derive(Debug, Clone)]
pub struct Demand {
    /// What a missing or wrong signature means.
    pub mode: Mode,
    /// Who is believed.
    pub keys: Arc<Keys>,
    /// What other keys' evidence is worth by these: by manifest, and by when it was gathered, in milliseconds.
    remembered: Arc<Mutex<HashMap<(Digest, u64), Verdict>>>,
}

impl Demand {
    /// Of `mode`, by `keys`.
    pub fn new(mode: Mode, keys: Keys) -> Self {
        Self { mode, keys: Arc::new(keys), remembered: Arc::default() }
    }

    /// Nothing is demanded.
    pub fn none() -> Self {
        Self::new(Mode::Off, Keys::default())
    }

    /// True where nobody looks.
    pub fn is_off(&self) -> bool {
        self.mode == Mode::Off
    }

    /// What is known of `manifest` by these keys; `None` where a registry must be asked to know. What was judged by other
    /// keys is judged again by the evidence that was kept, once.
    pub fn verdict(&self, manifest: &Digest, judged: Option<&Judged>) -> Option<Verdict> {
        let judged = judged?;
        if self.stands(judged) {
            return Some(judged.verdict.clone());
        }
        let case = judged.case.as_ref()?;
        let key = (*manifest, judged.at.millis());
        let of = |lock: &Mutex<HashMap<_, _>>| {
            lock.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
        };
        if let Some(verdict) = of(&self.remembered) {
            return Some(verdict);
        }
        let verdict = case.judge(&self.keys);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, verdict.clone());
        Some(verdict)
    }

    /// True where `manifest` is known to be signed by one of the keys. Costs no more than a comparison where it was judged
    /// by the same keys.
    pub fn is_verified(&self, manifest: &Digest, judged: Option<&Judged>) -> bool {
        match judged {
            Some(judged) if self.stands(judged) => judged.verdict.is_verified(),
            judged => self.verdict(manifest, judged).is_some_and(|verdict| verdict.is_verified()),
        }
    }

    /// True where a verdict is these keys' too: they are the same, or whoever signed it is believed still.
    fn stands(&self, judged: &Judged) -> bool {
        judged.keys == self.keys.digest()
            || matches!(&judged.verdict, Verdict::Verified(proof) if self.keys.believes(&proof.key))
    }
}
