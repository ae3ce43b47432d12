//! What the policy demands of signatures: who must stand for what a reference points to.
//!
//! What is known of a manifest is kept with the record ([`Judged`]), so that a hit costs a comparison of two digests. Where
//! it was judged by other keys, the evidence that was kept is judged again; where none was kept, or not enough, a registry
//! may have more by now. Local files are the operator's own, and nobody signs them.

use super::gate::{Gate, Refusal, Subject, any};
use super::rules::Config;
use crate::oci::{Digest, Reference};
use crate::record::Present;
use crate::signature::{self, Demand, Judged, Key, Keys, Mode, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The keys in each file that the settings name.
pub type KeyFiles = BTreeMap<PathBuf, Vec<Key>>;

/// What `config` demands, by the keys of its files.
pub(super) fn demand(config: &signature::Config, files: &KeyFiles) -> Demand {
    let keys = config.keys.iter().filter_map(|file| files.get(file)).flatten().cloned();
    Demand::new(config.mode, Keys::new(keys.collect()))
}

impl Config {
    /// The files with keys, each once.
    pub fn key_files(&self) -> BTreeSet<&PathBuf> {
        let rules = self.rules.iter().filter_map(|rule| rule.signatures.as_ref()?.keys.as_ref());
        self.signatures.keys.iter().chain(rules.flatten()).collect()
    }
}

impl Gate {
    /// What is demanded of `subject`.
    pub fn demand(&self, subject: Subject<'_>) -> &Demand {
        let rule = self.rule(subject).and_then(|(_, rule)| rule.signatures.as_ref());
        rule.unwrap_or(&self.signatures)
    }

    /// Whether what points to `manifest` is signed as it has to be, by what is known of it.
    ///
    /// # Errors
    /// `unsigned` or `signature_invalid`.
    pub fn trusts(
        &self,
        subject: Subject<'_>,
        manifest: &Digest,
        judged: Option<&Judged>,
    ) -> Result<(), Refusal> {
        let demand = self.demand(subject);
        let is_asked = demand.mode == Mode::Require && subject.reference.is_some();
        if !is_asked || demand.is_verified(manifest, judged) {
            return Ok(());
        }
        let verdict = demand.verdict(manifest, judged);
        let told = verdict.as_ref().map_or("it is not known to be signed".into(), Verdict::to_string);
        Err(Refusal {
            code: verdict.as_ref().and_then(Verdict::code).unwrap_or("unsigned"),
            is_untrusted: true,
            detail: format!("{subject}, manifest {manifest}: {told}; policy.signatures requires a signature"),
            hint: "sign it with a key that policy.signatures names: cosign sign --key cosign.key REFERENCE@DIGEST".into(),
        })
    }

    /// As [`Gate::trusts`], of a reference alone.
    ///
    /// # Errors
    /// As there.
    pub fn trusts_reference(
        &self,
        reference: &Reference,
        manifest: &Digest,
        judged: Option<&Judged>,
    ) -> Result<(), Refusal> {
        let trusts =
            |subject: Subject<'_>| self.admits(subject).and_then(|()| self.trusts(subject, manifest, judged));
        any(self.each(reference, trusts))
    }

    /// What is demanded of a reference by all that it stands for and that is allowed; what demands nothing is left out.
    pub fn demands_of(&self, reference: &Reference) -> Vec<Demand> {
        let demand = |subject: Subject<'_>| {
            let demand = self.demand(subject);
            (!demand.is_off() && self.admits(subject).is_ok()).then(|| demand.clone())
        };
        self.each(reference, demand).into_iter().flatten().collect()
    }

    /// True where a registry need not be asked who signed what a reference points to.
    pub fn is_proved(&self, reference: &Reference, present: &Present) -> bool {
        let is_verified =
            |demand: &Demand| demand.is_verified(&present.manifest, present.signatures.as_deref());
        self.is_open() || self.demands_of(reference).iter().all(is_verified)
    }

    /// What is known of the signatures of what a reference points to, by the keys of now where they are asked for.
    pub fn verdict(&self, reference: &Reference, present: &Present) -> Option<Verdict> {
        let judged = present.signatures.as_deref();
        match self.demands_of(reference).first() {
            Some(demand) => demand.verdict(&present.manifest, judged),
            None => judged.map(|judged| judged.verdict.clone()),
        }
    }
}
