//! The policy in the road: what it leaves of a plan, and what it withholds of what is held.
//!
//! A candidate that the policy refuses is as if the catalog did not name it, as long as another one of its step is
//! allowed. A step of which none is allowed is the end, with the refusal: what it would have answered is not known, so
//! nothing of a later step may stand for it.

use super::error::CacheError;
use super::{Answer, Ask, Cache, Decision, ErrorKind, Failure, Need, Outcome};
use crate::catalog::{Candidate, Plan, Why};
use crate::freshness::Freshness;
use crate::oci::Reference;
use crate::plugin::PluginName;
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

/// Whether `present`, to which `candidate` points, may be served as `name`.
pub(super) fn takes(
    gate: &Gate,
    name: &PluginName,
    candidate: &Candidate,
    present: &Present,
) -> Result<(), Arc<CacheError>> {
    let verdict = gate.takes(subject(name, candidate), present);
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
        let local = |version| gate.admits(Subject { name: Some(name), version, reference: None });
        let is_whole = plan.candidates.iter().all(|candidate| gate.admits(subject(name, candidate)).is_ok())
            && plan.versions.iter().all(|(version, _)| local(version).is_ok());
        if is_whole {
            return Narrowed { plan: Cow::Borrowed(plan), end: None };
        }
        let told = |refusal: Refusal, reference: Option<&Reference>| {
            self.parts.trace.note("policy", || refusal.detail.clone());
            let error = CacheError::refused(refusal);
            reference.map_or(error.clone(), |reference| error.about(reference))
        };
        let mut left = Plan { versions: Vec::new(), candidates: Vec::new() };
        let mut end = None;
        for step in [Why::Exact, Why::Alias, Why::Fallback] {
            for version in plan.versions.iter().filter(|(_, why)| *why == step) {
                match local(&version.0) {
                    Ok(()) => left.versions.push(version.clone()),
                    Err(refusal) if self.is_local_version(name, &version.0) => {
                        end = end.or_else(|| Some(told(refusal, None)));
                    }
                    Err(_) => {}
                }
            }
            let before = left.candidates.len();
            let mut refused = None;
            for candidate in plan.candidates.iter().filter(|candidate| candidate.why == step) {
                match gate.admits(subject(name, candidate)) {
                    Ok(()) => left.candidates.push(candidate.clone()),
                    Err(refusal) => {
                        let error = told(refusal, Some(&candidate.reference));
                        refused = refused.or(Some(error));
                    }
                }
            }
            if let Some(error) = refused.filter(|_| left.candidates.len() == before) {
                return Narrowed { plan: Cow::Owned(left), end: Some(error) };
            }
        }
        Narrowed { plan: Cow::Owned(left), end }
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
        let verdict = takes(&gate, name, candidate, present);
        if let Err(error) = &verdict {
            self.parts.compare(&gate, reference, present);
            // It has nothing else; it need not be asked by everybody.
            let until = self.parts.clock.now().plus(error.remembered_for(&self.parts.rules.load().lifetimes));
            self.failures.insert(reference.clone(), Failure { error: error.clone(), until });
        }
        verdict.map(|()| Outcome::Present)
    }

    /// Asks again, behind a request that was refused, about what is withheld and past its lifetime: it may have been
    /// replaced by what the policy allows.
    pub(super) fn reconsider(self: &Arc<Self>, name: &PluginName, plan: &Plan, gate: Option<&Gate>) {
        let Some(gate) = gate else { return };
        let now = self.parts.clock.now();
        for candidate in plan.candidates.iter().filter(|at| is_confirmed(Some(gate), name, at)) {
            let reference = &candidate.reference;
            let record = self.parts.store.record(reference).filter(|record| record.present().is_some());
            let is_stale =
                record.is_some_and(|record| matches!(self.judge(&record, now), Freshness::Stale(_)));
            if is_stale && self.remembered(reference, now).is_none() {
                let _ = self.fetch(reference.clone(), super::Lane::Behind);
            }
        }
    }
}
