//! Asking: candidate after candidate for a request that waits, or one reference behind a request that does not.
//!
//! Whoever asks, one reference is asked about by one task at a time, and what comes of it is written down (a record, or
//! a failure with its lifetime) before anybody is told.

use super::collapse::Waiting;
use super::error::CacheError;
use super::fill::{self, Progress};
use super::gated;
use super::known::Absent;
use super::{ATTEMPTS, Cache, Failure, Outcome, Reached, Rules};
use crate::catalog::{Candidate, Plan, Why};
use crate::clock::Timestamp;
use crate::freshness::Freshness;
use crate::http::trace_context::RequestId;
use crate::metrics::Metrics;
use crate::oci::Reference;
use crate::origin;
use crate::plugin::PluginName;
use crate::policy::{Gate, Mode};
use crate::record::{Absence, Record, State};
use crate::registry::{Confirmation, RegistryError};
use crate::store::Room;
use crate::store::room::Taken;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::field::DisplayValue;

/// Fetches that wait for their turn at one registry. Beyond it they are refused: whoever asks for that much is not
/// waiting for it.
const MOST_WAITING: usize = 1000;

/// What a running fetch takes of the memory for fetches: a manifest, or the pieces of a layer between network and disk.
/// Together with the number of fetches it is what a burst of them can cost.
pub(super) const FETCH_BYTES: u64 = 2 << 20;

/// Whom a fetch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// A request that waits.
    Front,
    /// Nobody yet: what is held is being confirmed.
    Behind,
}

/// Turns, of each registry and lane: a registry that stalls takes turns of those who ask it alone, and what is merely
/// confirmed takes none of a request's. The memory for fetches is everybody's: a few registries that stall together can
/// use it up.
pub struct Lanes(Mutex<Roads>);

struct Roads {
    at_once: usize,
    lanes: HashMap<(String, bool), Arc<Turns>>,
}

struct Turns {
    free: Room,
    waiting: AtomicUsize,
}

impl Lanes {
    /// With `at_once` turns for each registry.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Mutex::new(Roads { at_once, lanes: HashMap::new() }))
    }

    /// Makes all of them wider or narrower, for those too who wait already.
    pub(super) fn resize(&self, at_once: usize) {
        let mut roads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        roads.at_once = at_once;
        for ((_, behind), turns) in &roads.lanes {
            turns.free.resize(width(*behind, at_once));
        }
    }

    /// A turn; `None` when too many wait for one.
    async fn turn(&self, registry: &str, lane: Lane) -> Option<Taken> {
        let behind = lane == Lane::Behind;
        let turns = {
            let mut roads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let free = Room::new(width(behind, roads.at_once));
            let made = Arc::new(Turns { free, waiting: AtomicUsize::new(0) });
            roads.lanes.entry((registry.to_owned(), behind)).or_insert(made).clone()
        };
        if turns.waiting.fetch_add(1, Ordering::SeqCst) >= MOST_WAITING {
            turns.waiting.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        let turn = turns.free.take(1).await;
        turns.waiting.fetch_sub(1, Ordering::SeqCst);
        Some(turn)
    }
}

/// Turns of a lane.
fn width(behind: bool, at_once: usize) -> u64 {
    let number = if behind { at_once / 4 } else { at_once };
    number.max(1) as u64
}

/// Counts a fetch as long as it runs, however it ends.
struct Counted<'m>(&'m Metrics);

impl<'m> Counted<'m> {
    fn new(metrics: &'m Metrics) -> Self {
        metrics.fills_in_flight.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fills_in_flight.dec();
        if std::thread::panicking() {
            self.0.fill_panics.inc();
            tracing::error!(
                event = "fill_panic",
                "a fetch ended by a defect of larder; whoever waits begins it again"
            );
        }
    }
}

/// The request that a fetch is for, as its line has it.
fn shown_request() -> Option<DisplayValue<RequestId>> {
    origin::request().map(tracing::field::display)
}

impl Cache {
    /// Asks candidate after candidate.
    pub(super) async fn walk(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
    ) -> Result<Reached, Arc<CacheError>> {
        let mut failed: Option<(Why, Arc<CacheError>)> = None;
        let mut absences = Vec::new();
        let mut step = Why::Exact;
        let gate = self.gate();
        for candidate in &plan.candidates {
            if failed.as_ref().is_some_and(|(step, _)| *step != candidate.why) {
                break;
            }
            if candidate.why != step && self.is_local(name, plan, candidate.why) {
                self.keep_absences(&absences).await;
                return Ok(Reached::Step(candidate.why));
            }
            step = candidate.why;
            let reference = &candidate.reference;
            self.parts.trace.note("candidate", || format!("{reference} ({} match)", step.as_str()));
            match self.look(name, plan, candidate, gate.as_deref()).await {
                Ok(Outcome::Present) => {
                    self.keep_absences(&absences).await;
                    return Ok(Reached::Reference(reference.clone()));
                }
                Ok(Outcome::Absent(absence)) => {
                    let told = self.remembered(reference, self.parts.clock.now());
                    absences.push(Absent { reference: reference.clone(), absence, told });
                }
                Err(error) => drop(failed.get_or_insert((candidate.why, error))),
            }
        }
        match failed {
            Some((_, error)) => Err(error),
            // A step may have a local file and no candidate of its own.
            None if self.is_local(name, plan, Why::Fallback) => Ok(Reached::Step(Why::Fallback)),
            None => Err(Arc::new(CacheError::absent(&absences))),
        }
    }

    /// What is known of a reference, or comes of asking.
    async fn look(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        candidate: &Candidate,
        gate: Option<&Gate>,
    ) -> Result<Outcome, Arc<CacheError>> {
        let reference = &candidate.reference;
        let now = self.parts.clock.now();
        let mode = gated::mode(gate, name, candidate);
        let mut distrusted = None;
        if let Some(record) = self.parts.store.record(reference) {
            match &record.state {
                State::Present(present) if self.parts.store.holds(&present.module) => {
                    match gate.map_or(Ok(()), |gate| gated::takes(gate, name, plan, candidate, present)) {
                        Ok(()) => return Ok(Outcome::Present),
                        Err(error) => match self.withheld(reference, error.clone(), mode) {
                            Some(error) => return Err(error),
                            None => distrusted = Some(error),
                        },
                    }
                }
                State::Absent(absence)
                    if mode == Mode::Offline || matches!(self.judge(&record, now), Freshness::Fresh(_)) =>
                {
                    return Ok(Outcome::Absent(*absence));
                }
                _ => {}
            }
        }
        if mode == Mode::Offline {
            self.parts.trace.note("policy", || format!("{reference}: offline, nobody is asked"));
            return Err(Arc::new(CacheError::offline(reference)));
        }
        if let Some(error) = self.remembered(reference, now) {
            return error.absence().map(Outcome::Absent).ok_or(error);
        }
        // Again when it ended by a defect of ours, which may have been of that moment.
        for _ in 0..ATTEMPTS {
            if let Some(ended) = self.fetch(reference.clone(), Lane::Front).done().await {
                return match distrusted {
                    Some(error) => self.judged_again(name, plan, candidate, ended, error),
                    None => ended,
                };
            }
        }
        Err(Arc::new(CacheError::internal("the fetch ended early, again and again")))
    }

    /// Writes down what does not exist, once something behind it was found: when the registry is silent later, this is
    /// what lets the other one answer. An absence with nothing behind it is remembered in memory alone.
    pub(super) async fn keep_absences(&self, absences: &[Absent]) {
        for Absent { reference, absence, .. } in absences {
            if self.parts.store.record(reference).is_none() {
                self.write(reference, State::Absent(*absence)).await;
            }
        }
    }

    /// Begins to confirm what of the plan is past its lifetime or not known, up to the candidate that is served.
    pub(super) fn revalidate_behind(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        at: usize,
        serving: Freshness,
        now: Timestamp,
        gate: Option<&Gate>,
    ) {
        let is_fresh = |record: &Record| matches!(self.judge(record, now), Freshness::Fresh(_));
        for (n, candidate) in plan.candidates.iter().enumerate().take(at + 1) {
            let reference = &candidate.reference;
            let is_fresh = match n == at {
                true => matches!(serving, Freshness::Fresh(_)),
                false => self.parts.store.record(reference).is_some_and(|record| is_fresh(&record)),
            };
            if !is_fresh
                && gated::is_confirmed(gate, name, candidate)
                && self.remembered(reference, now).is_none()
            {
                let _ = self.fetch(reference.clone(), Lane::Behind);
            }
        }
    }

    /// One fetch of a reference, whoever wants it.
    pub(super) fn fetch(
        self: &Arc<Self>,
        reference: Reference,
        lane: Lane,
    ) -> Waiting<Result<Outcome, Arc<CacheError>>> {
        let cache = self.clone();
        let key = reference.clone();
        let about = Some(reference.to_string());
        let work = async move {
            let epoch = cache.epoch();
            match cache.fetch_now(&reference, lane).await {
                // By settings that were changed meanwhile: those of now may grant it.
                Err(_) | Ok(Outcome::Absent(_)) if cache.epoch() != epoch => {
                    cache.fetch_now(&reference, lane).await
                }
                ended => ended,
            }
        };
        let work = origin::begun("fetch", about, |error: &Arc<CacheError>| error.code, work);
        self.fills.join(&self.parts.runtime, key, work).0
    }

    async fn fetch_now(
        self: &Arc<Self>,
        reference: &Reference,
        lane: Lane,
    ) -> Result<Outcome, Arc<CacheError>> {
        let (parts, epoch) = (&self.parts, self.epoch());
        if let Err(error) = self.may_ask(reference) {
            parts.note(reference, &error);
            return Err(Arc::new(error));
        }
        let turn = self.lanes.turn(reference.registry(), lane).await;
        let Some(_turn) = turn else {
            let detail = format!("more than {MOST_WAITING} fetches wait for {}", reference.registry());
            let error =
                CacheError::new(super::ErrorKind::Overloaded, "too_many_fetches", detail).about(reference);
            return Err(Arc::new(error));
        };
        // Last, so that what waits for a registry takes no memory from others.
        let _room = parts.room.take(FETCH_BYTES).await;
        let rules = parts.rules.load_full();
        let known = parts.store.record(reference);
        let counted = Counted::new(&parts.metrics);
        let begun = parts.clock.now();
        let progress = self.progress.begin(reference);
        let update = self.update(reference, known.as_deref(), &rules, &progress);
        let result = match tokio::time::timeout(rules.config.timeout, update).await {
            Ok(result) => result,
            Err(_) => Err(CacheError::timed_out(reference, rules.config.timeout)),
        };
        drop(counted);
        let took = parts.clock.now().since(begun);
        parts.metrics.fill_duration.observe(took.as_secs_f64());
        let label = match &result {
            Ok(label) => label,
            Err(error) => error.code,
        };
        parts.metrics.fills.with_label_values(&[reference.registry(), label]).inc();
        match result {
            Ok(result) => {
                self.failures.invalidate(reference);
                parts.recent.forget(&reference.to_string());
                if !parts.trace.is_listening() {
                    let (request_id, millis) = (shown_request(), took.as_millis() as u64);
                    tracing::info!(%reference, result, millis, request_id, "asked the registry");
                }
                Ok(Outcome::Present)
            }
            Err(error) => self.note_failure(reference, known.as_deref(), error, (took, epoch)).await,
        }
    }

    /// Remembers a failure for its lifetime, unless the settings have changed since `epoch`. What was served once is not
    /// taken away by a registry that forgot it; of anything else "not found" and "denied" are an absence.
    async fn note_failure(
        &self,
        reference: &Reference,
        known: Option<&Record>,
        error: CacheError,
        (took, epoch): (Duration, u64),
    ) -> Result<Outcome, Arc<CacheError>> {
        let parts = &self.parts;
        if self.epoch() == epoch {
            self.decided.refused(None, &error, parts.clock.now());
        }
        let is_held =
            known.and_then(Record::present).is_some_and(|present| parts.store.holds(&present.module));
        let absence: Option<Absence> = error.absence().filter(|_| !is_held);
        let (code, millis, request_id) = (error.code, took.as_millis() as u64, shown_request());
        match absence {
            // An explanation is told to whoever asked for it, and no gateway went without.
            _ if parts.trace.is_listening() => {}
            Some(_) => {
                let detail = &error.detail;
                tracing::info!(%reference, result = code, millis, request_id, detail, "asked the registry")
            }
            None => {
                let (detail, hint) = (&error.detail, &error.hint);
                tracing::warn!(%reference, code, millis, request_id, error = detail, hint, "not fetched")
            }
        }
        // What does not exist is no failure of the way there; a request that found nothing is told as one.
        if absence.is_none() {
            parts.note(reference, &error);
        }
        let until = parts.clock.now().plus(error.remembered_for(&parts.rules.load().lifetimes));
        let error = Arc::new(error);
        self.failures.insert(reference.clone(), Failure { error: error.clone(), until });
        // Looked at behind it: either this sees that the settings have changed, or whoever changed them forgets it.
        let is_of_now = self.epoch() == epoch;
        if !is_of_now {
            self.failures.invalidate(reference);
        }
        match absence {
            Some(absence) => {
                // One that is kept is kept up to date.
                if is_of_now && parts.store.record(reference).is_some() {
                    self.write(reference, State::Absent(absence)).await;
                }
                Ok(Outcome::Absent(absence))
            }
            None => Err(error),
        }
    }

    /// Confirms or fetches a reference and writes down what it resolves to.
    async fn update(
        &self,
        reference: &Reference,
        known: Option<&Record>,
        rules: &Rules,
        progress: &Progress,
    ) -> Result<&'static str, CacheError> {
        let parts = &self.parts;
        let present = known.and_then(Record::present).filter(|present| parts.store.holds(&present.module));
        // That a tag still leads to what is not locked is no answer: what is locked is looked for.
        let gate = parts.rules.load().gate.clone();
        let usable = present.filter(|present| !gate.has_locked_others(reference, present));
        // And who signed it is asked with the manifest at hand.
        if let Some(present) = usable.filter(|present| gate.is_proved(reference, present)) {
            let confirmed = parts.registry.confirm(reference, &present.manifest);
            let confirmed = origin::leg("confirm", |error: &RegistryError| error.code, confirmed).await;
            if confirmed.map_err(|e| CacheError::registry(reference, e))? == Confirmation::Same {
                self.write(reference, State::Present(present.clone())).await;
                return Ok("unchanged");
            }
        }
        let mut new = fill::fill_or_locked(parts, rules, reference, usable, progress).await?;
        if let Some(old) = present {
            if old.manifest != new.manifest {
                parts.metrics.tags_moved.with_label_values(&[reference.registry()]).inc();
                tracing::warn!(%reference, from = %old.manifest, to = %new.manifest, "the tag has moved");
            }
            if old.module.digest == new.module.digest {
                new.since = old.since;
            }
            new.first = old.first.or(Some(old.since));
        }
        self.write(reference, State::Present(new)).await;
        Ok("ok")
    }

    /// Keeps a record. When that fails it holds as long as this process does.
    async fn write(&self, reference: &Reference, state: State) {
        let record = Record { reference: reference.clone(), checked_at: self.parts.clock.now(), state };
        if let Err(error) = self.parts.store.put_record(record).await {
            tracing::warn!(%reference, %error, hint = error.hint(), "a record is kept in memory only");
        }
    }
}
