//! What records, local files and remembered failures say of a plan, before anybody is asked.

use super::Cache;
use super::answer::Resolved;
use super::error::CacheError;
use super::gated;
use crate::catalog::{Plan, Why};
use crate::clock::Timestamp;
use crate::freshness::Freshness;
use crate::oci::Reference;
use crate::plugin::PluginName;
use crate::policy::Gate;
use crate::record::{Absence, State};
use std::sync::Arc;

/// A candidate that a registry does not have, and what it said.
pub(super) struct Absent {
    pub reference: Reference,
    pub absence: Absence,
    pub told: Option<Arc<CacheError>>,
}

/// What the records say of a plan.
pub(super) enum Known {
    /// The candidate at that place.
    Held {
        at: usize,
        record: Resolved,
        absences: Vec<Absent>,
    },
    Local(Why),
    Failed(Arc<CacheError>),
    Unknown,
}

impl Cache {
    /// What the records and the remembered failures say of the plan; nothing is asked.
    pub(super) fn known(&self, name: &PluginName, plan: &Plan, gate: Option<&Gate>) -> Known {
        let now = || self.parts.clock.now();
        // The step beyond which nothing may be looked at, and the failure that says so, if it is one.
        let mut blocked: Option<(Why, Option<Arc<CacheError>>)> = None;
        let mut absences = Vec::new();
        let mut doubtful = false;
        let mut step = Why::Exact;
        for (at, candidate) in plan.candidates.iter().enumerate() {
            if blocked.as_ref().is_some_and(|(step, _)| *step != candidate.why) {
                break;
            }
            if candidate.why != step && self.is_local(name, plan, candidate.why) {
                return Known::Local(candidate.why);
            }
            step = candidate.why;
            let reference = &candidate.reference;
            if let Some(record) = self.parts.store.record(reference) {
                if let State::Absent(absence) = record.state {
                    doubtful |= matches!(self.judge(&record, now()), Freshness::Stale(_));
                    let told = self.remembered(reference, now());
                    absences.push(Absent { reference: reference.clone(), absence, told });
                } else if let Some(record) = Resolved::of(record) {
                    match gate
                        .map_or(Ok(()), |gate| gated::takes(gate, name, plan, candidate, record.present()))
                    {
                        Ok(()) => return Known::Held { at, record, absences },
                        // As where nothing is held, for others of its step may be the answer.
                        Err(error) => {
                            let mode = gated::mode(gate, name, candidate);
                            let reason = self.withheld(reference, error, mode);
                            blocked.get_or_insert((candidate.why, reason));
                        }
                    }
                }
                continue;
            }
            match self.remembered(reference, now()) {
                Some(error) => match error.absence() {
                    Some(absence) => {
                        absences.push(Absent { reference: reference.clone(), absence, told: Some(error) });
                    }
                    None if matches!(blocked, Some((_, None))) => {}
                    None => drop(blocked.get_or_insert((candidate.why, Some(error)))),
                },
                // Unknown: only something held of the same step can still be the answer.
                None => blocked = Some((candidate.why, None)),
            }
        }
        match blocked {
            Some((_, Some(error))) => Known::Failed(error),
            Some((_, None)) => Known::Unknown,
            None if self.is_local(name, plan, Why::Fallback) => Known::Local(Why::Fallback),
            None if doubtful || absences.is_empty() => Known::Unknown,
            None => Known::Failed(Arc::new(CacheError::absent(&absences))),
        }
    }

    pub(super) fn remembered(&self, reference: &Reference, now: Timestamp) -> Option<Arc<CacheError>> {
        self.failures.get(reference).filter(|failure| failure.until > now).map(|failure| failure.error)
    }

    /// True when a local file has a version of the plan's steps up to `reached`.
    pub(super) fn is_local(&self, name: &PluginName, plan: &Plan, reached: Why) -> bool {
        let index = self.parts.store.overlay();
        let mut fitting = plan.versions.iter().filter(|(_, why)| *why <= reached);
        !index.is_empty() && fitting.any(|(version, _)| index.contains_key(&(name.clone(), version.clone())))
    }
}
