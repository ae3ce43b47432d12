//! The policy in the road: what it leaves of a plan, and what it withholds of what is held.
//!
//! A candidate that the policy refuses is as if the catalog did not name it, as long as another one of its step is
//! allowed. A step of which none is allowed is the end, with the refusal: what it would have answered is not known, so
//! nothing of a later step may stand for it; unless it is known that it does not exist, and it is only not locked. A local
//! file that would be the answer and is refused is the end too.

use super::error::CacheError;
use super::{Answer, Ask, Cache, Decision, ErrorKind, Failure, Need, Outcome};
use crate::catalog::{Candidate, Plan, Why};
use crate::freshness::Freshness;
use crate::oci::Reference;
use crate::plugin::{PluginName, Version};
use crate::policy::lock::NOT_LOCKED;
use crate::policy::{Gate, Mode, Refusal, Subject};
use crate::record::Present;
use std::borrow::Cow;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What the policy leaves of a plan.
struct Narrowed<'p> {
    plan: Cow<'p, Plan>,
    /// Why nothing stands behind it.
    end: Option<CacheError>,
}

/// Whether registries may be asked for `candidate`, by a gate that is not open.
pub(super) fn mode(gate: Option<&Gate>, name: &PluginName, candidate: &Candidate) -> Mode {
    gate.map_or(Mode::Online, |gate| gate.mode(subject(name, candidate)))
}

/// Whether what is held of `candidate` is confirmed now and then.
pub(super) fn is_confirmed(gate: Option<&Gate>, name: &PluginName, candidate: &Candidate) -> bool {
    mode(gate, name, candidate) == Mode::Online
}

/// Whether `present`, to which `candidate` of `plan` points, may be served as `name`.
pub(super) fn takes(
    gate: &Gate,
    name: &PluginName,
    plan: &Plan,
    candidate: &Candidate,
    present: &Present,
) -> Result<(), Arc<CacheError>> {
    let itself = subject(name, candidate);
    let asked =
        plan.versions.first().map(|(version, _)| version).filter(|asked| **asked != candidate.version);
    let verdict = gate.takes(itself, present).and_then(|()| match asked {
        // What leads there is as it should be, and not what is asked for: nobody is asked about it again.
        Some(asked) => gate
            .keeps_to_lock(Subject { version: asked, ..itself }, present)
            .map_err(|refusal| Refusal { is_untrusted: false, ..refusal }),
        None => Ok(()),
    });
    verdict.map_err(|refusal| Arc::new(CacheError::refused(refusal).about(&candidate.reference)))
}

fn subject<'s>(name: &'s PluginName, candidate: &'s Candidate) -> Subject<'s> {
    Subject { name: Some(name), version: &candidate.version, reference: Some(&candidate.reference) }
}

impl Cache {
    /// The gate, unless nothing is to be judged.
    pub(super) fn gate(&self) -> Option<Arc<Gate>> {
        let rules = self.parts.rules.load();
        (!rules.gate.is_open()).then(|| rules.gate.clone())
    }

    /// Whether a registry may be asked for `reference`, whoever wants it.
    pub(super) fn may_ask(&self, reference: &Reference) -> Result<(), CacheError> {
        let Some(gate) = self.gate() else { return Ok(()) };
        gate.admits_reference(reference).map_err(|refusal| CacheError::refused(refusal).about(reference))?;
        match gate.mode_of(reference) {
            Mode::Offline => Err(CacheError::offline(reference)),
            Mode::Online | Mode::Fallback => Ok(()),
        }
    }

    /// What the policy decides from now on, each refusal once; for one listener.
    pub fn decisions(&self) -> mpsc::Receiver<Decision> {
        self.decided.listen()
    }

    /// Tells that listener that the policy is another one, in these keys of the settings.
    pub fn policy_changed(&self, keys: &[String]) {
        self.decided.changed(keys, self.parts.clock.now());
    }

    /// As [`Cache::search`], with what `gate` leaves of the plan.
    pub(super) async fn search_gated(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        need: Need,
        ask: Ask,
        gate: &Gate,
    ) -> Answer {
        let answer = self.search_narrowed(name, plan, need, ask, gate).await;
        if let Err(error) = &answer {
            self.decided.refused(Some(name), error, self.parts.clock.now());
        }
        answer
    }

    async fn search_narrowed(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        need: Need,
        ask: Ask,
        gate: &Gate,
    ) -> Answer {
        let Narrowed { plan, end } = self.narrowed(gate, name, plan);
        if plan.candidates.is_empty()
            && !self.is_local(name, &plan, Why::Fallback)
            && let Some(end) = end
        {
            return Err(Arc::new(end));
        }
        match (self.search(name, &plan, need, ask, Some(gate)).await, end) {
            // Nothing of what is left exists: why there is nothing else is the answer.
            (Err(error), Some(end)) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Forbidden) => {
                Err(Arc::new(end))
            }
            (answer, _) => answer,
        }
    }

    fn narrowed<'p>(&self, gate: &Gate, name: &PluginName, plan: &'p Plan) -> Narrowed<'p> {
        let is_whole = plan.candidates.iter().all(|candidate| gate.admits(subject(name, candidate)).is_ok());
        if is_whole {
            return Narrowed { plan: Cow::Borrowed(plan), end: None };
        }
        let mut left = Plan { versions: Vec::new(), candidates: Vec::new() };
        let mut end = None;
        for step in [Why::Exact, Why::Alias, Why::Fallback] {
            left.versions.extend(plan.versions.iter().filter(|(_, why)| *why == step).cloned());
            let before = left.candidates.len();
            let mut refused = None;
            let mut is_absent = true;
            for candidate in plan.candidates.iter().filter(|candidate| candidate.why == step) {
                match gate.admits(subject(name, candidate)) {
                    Ok(()) => left.candidates.push(candidate.clone()),
                    Err(refusal) => {
                        self.parts.trace.note("policy", || refusal.detail.clone());
                        is_absent &= refusal.code == NOT_LOCKED && self.is_absent(&candidate.reference);
                        refused = refused
                            .or_else(|| Some(CacheError::refused(refusal).about(&candidate.reference)));
                    }
                }
            }
            if let Some(error) = refused.filter(|_| left.candidates.len() == before) {
                end = end.or(Some(error));
                if !is_absent {
                    break;
                }
            }
        }
        Narrowed { plan: Cow::Owned(left), end }
    }

    /// True when it is written down that a registry does not have it.
    fn is_absent(&self, reference: &Reference) -> bool {
        self.parts.store.record(reference).is_some_and(|record| record.present().is_none())
    }

    /// Whether a local file of that version may be served, by the gate in use by now.
    pub(super) fn admits_local(&self, name: &PluginName, version: &Version) -> Result<(), Arc<CacheError>> {
        let Some(gate) = self.gate() else { return Ok(()) };
        gate.admits(Subject { name: Some(name), version, reference: None }).map_err(|refusal| {
            self.parts.trace.note("policy", || refusal.detail.clone());
            Arc::new(CacheError::refused(refusal))
        })
    }

    /// Why nothing is served of `reference`, of which what is held is withheld by `error`. Nothing, where that is not trusted
    /// and a registry may have what is: it is asked, as if nothing were held.
    pub(super) fn withheld(
        &self,
        reference: &Reference,
        error: Arc<CacheError>,
        mode: Mode,
    ) -> Option<Arc<CacheError>> {
        if error.kind != ErrorKind::Untrusted || mode == Mode::Offline {
            return Some(error);
        }
        let failed = self.remembered(reference, self.parts.clock.now())?;
        Some(if failed.absence().is_some() { error } else { failed })
    }

    /// What a registry's answer means, which was asked because what was held was withheld by `error`.
    pub(super) fn judged_again(
        &self,
        name: &PluginName,
        plan: &Plan,
        candidate: &Candidate,
        ended: Result<Outcome, Arc<CacheError>>,
        error: Arc<CacheError>,
    ) -> Result<Outcome, Arc<CacheError>> {
        let reference = &candidate.reference;
        match ended {
            Ok(Outcome::Present) => {}
            Err(failed) if failed.absence().is_none() => return Err(failed),
            _ => return Err(error),
        }
        let record = self.parts.store.record(reference);
        let (Some(present), Some(gate)) = (record.as_ref().and_then(|r| r.present()), self.gate()) else {
            return ended;
        };
        let verdict = takes(&gate, name, plan, candidate, present);
        if let Err(error) = &verdict {
            self.parts.compare(&gate, reference, present);
            // It has nothing else; it need not be asked by everybody.
            let until = self.parts.clock.now().plus(error.remembered_for(&self.parts.rules.load().lifetimes));
            self.failures.insert(reference.clone(), Failure { error: error.clone(), until });
        }
        verdict.map(|()| Outcome::Present)
    }

    /// Asks again, behind a request that was refused, about what is withheld and past its lifetime: it may have been
    /// replaced by what the policy allows. So does it with what did not exist and may by now, before which others stand that
    /// are withheld.
    pub(super) fn reconsider(self: &Arc<Self>, name: &PluginName, plan: &Plan, gate: Option<&Gate>) {
        let Some(gate) = gate else { return };
        let now = self.parts.clock.now();
        for candidate in &plan.candidates {
            let reference = &candidate.reference;
            let Some(record) = self.parts.store.record(reference) else { continue };
            let may_ask = match (record.present(), mode(Some(gate), name, candidate)) {
                (Some(_), mode) => mode == Mode::Online,
                (None, mode) => mode != Mode::Offline,
            };
            let is_stale = matches!(self.judge(&record, now), Freshness::Stale(_));
            if may_ask && is_stale && self.remembered(reference, now).is_none() {
                let _ = self.fetch(reference.clone(), super::Lane::Behind);
            }
        }
    }
}
