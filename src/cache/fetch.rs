//! Asking: candidate after candidate for a request that waits, or one reference behind a request that does not.
//!
//! Whoever asks, one reference is asked about by one task at a time, and what comes of it is written down (a record, or
//! a failure with its lifetime) before anybody is told.

use super::collapse::Waiting;
use super::error::CacheError;
use super::fill::{self, Progress};
use super::{Cache, Failure, Outcome};
use crate::catalog::{Plan, Why};
use crate::freshness::Freshness;
use crate::oci::Reference;
use crate::record::{Record, State};
use crate::registry::Confirmation;
use std::sync::Arc;

impl Cache {
    /// Asks candidate after candidate; the reference that resolved.
    pub(super) async fn walk(self: &Arc<Self>, plan: &Plan) -> Result<Reference, Arc<CacheError>> {
        let mut failed: Option<(Why, Arc<CacheError>)> = None;
        let mut absences = Vec::new();
        for candidate in &plan.candidates {
            if failed.as_ref().is_some_and(|(step, _)| *step != candidate.why) {
                break;
            }
            let reference = &candidate.reference;
            let now = self.parts.clock.now();
            if let Some(record) = self.parts.store.record(reference) {
                match &record.state {
                    State::Present(present) => {
                        if self.parts.store.holds(&present.module) {
                            return Ok(reference.clone());
                        }
                    }
                    State::Absent(absence)
                        if matches!(self.parts.lifetimes.judge(&record, now), Freshness::Fresh(_)) =>
                    {
                        absences.push((reference.clone(), *absence));
                        continue;
                    }
                    State::Absent(_) => {}
                }
            }
            if let Some(error) = self.remembered(reference, now) {
                failed.get_or_insert((candidate.why, error));
                continue;
            }
            let fetch = self.fetch(reference.clone());
            match fetch.done().await {
                Some(Ok(Outcome::Present)) => return Ok(reference.clone()),
                Some(Ok(Outcome::Absent(absence))) => absences.push((reference.clone(), absence)),
                Some(Err(error)) => drop(failed.get_or_insert((candidate.why, error))),
                None => return Err(Arc::new(CacheError::internal("a fetch ended early"))),
            }
        }
        match failed {
            Some((_, error)) => Err(error),
            None => Err(Arc::new(CacheError::absent(&absences))),
        }
    }

    /// Begins to confirm what of the plan is past its lifetime, up to the candidate that is served.
    pub(super) fn revalidate_behind(self: &Arc<Self>, plan: &Plan, serving: &Reference) {
        let now = self.parts.clock.now();
        for candidate in &plan.candidates {
            let reference = &candidate.reference;
            if let Some(record) = self.parts.store.record(reference)
                && matches!(self.parts.lifetimes.judge(&record, now), Freshness::Stale(_))
                && self.remembered(reference, now).is_none()
            {
                let _ = self.fetch(reference.clone());
            }
            if reference == serving {
                break;
            }
        }
    }

    /// One fetch of a reference, whoever wants it.
    fn fetch(self: &Arc<Self>, reference: Reference) -> Waiting<Result<Outcome, Arc<CacheError>>> {
        let cache = self.clone();
        let key = reference.clone();
        self.fills.join(&self.parts.runtime, key, async move { cache.fetch_now(&reference).await }).0
    }

    pub(super) async fn fetch_now(
        self: &Arc<Self>,
        reference: &Reference,
    ) -> Result<Outcome, Arc<CacheError>> {
        let parts = &self.parts;
        let _slot = self.slots.acquire().await;
        let known = parts.store.record(reference);
        parts.metrics.fills_in_flight.inc();
        let begun = parts.clock.now();
        let progress = self.progress.begin(reference);
        let result = match tokio::time::timeout(
            parts.config.timeout,
            self.update(reference, known.as_deref(), &progress),
        )
        .await
        {
            Ok(result) => result,
            Err(_) => Err(CacheError::timed_out(reference, parts.config.timeout)),
        };
        parts.metrics.fills_in_flight.dec();
        let took = parts.clock.now().since(begun);
        parts.metrics.fill_duration.observe(took.as_secs_f64());
        let label = match &result {
            Ok((_, label)) => label,
            Err(error) => error.code,
        };
        parts.metrics.fills.with_label_values(&[reference.registry(), label]).inc();
        match result {
            Ok((outcome, result)) => {
                self.failures.invalidate(reference);
                tracing::info!(%reference, result, millis = took.as_millis() as u64, "asked the registry");
                Ok(outcome)
            }
            Err(error) => {
                tracing::warn!(%reference, code = error.code, error = error.detail, hint = error.hint, "not fetched");
                let lifetime = error.remembered_for(&parts.lifetimes);
                let error = Arc::new(error);
                let until = parts.clock.now().plus(lifetime);
                self.failures.insert(reference.clone(), Failure { error: error.clone(), until });
                Err(error)
            }
        }
    }

    /// Confirms or fetches a reference and writes down what is known of it then.
    async fn update(
        &self,
        reference: &Reference,
        known: Option<&Record>,
        progress: &Progress,
    ) -> Result<(Outcome, &'static str), CacheError> {
        let parts = &self.parts;
        let present = known.and_then(Record::present);
        let mut usable = false;
        if let Some(present) = present {
            usable = parts.store.holds(&present.module);
            if usable
                && parts
                    .registry
                    .confirm(reference, &present.manifest)
                    .await
                    .map_err(|e| CacheError::registry(reference, e))?
                    == Confirmation::Same
            {
                self.write(reference, State::Present(present.clone())).await;
                return Ok((Outcome::Present, "unchanged"));
            }
        }
        let usable = present.filter(|_| usable);
        match fill::fill(parts, reference, usable, progress).await {
            Ok(mut new) => {
                if let Some(old) = present {
                    if old.manifest != new.manifest {
                        parts.metrics.tags_moved.with_label_values(&[reference.registry()]).inc();
                        tracing::warn!(%reference, from = %old.manifest, to = %new.manifest, "the tag has moved");
                    }
                    if old.module.digest == new.module.digest {
                        new.since = old.since;
                    }
                }
                self.write(reference, State::Present(new)).await;
                Ok((Outcome::Present, "ok"))
            }
            // What was served once is not taken away by a registry that forgot it.
            Err(error) if present.is_some() => Err(error),
            Err(error) => match error.absence() {
                Some(absence) => {
                    self.write(reference, State::Absent(absence)).await;
                    Ok((Outcome::Absent(absence), error.code))
                }
                None => Err(error),
            },
        }
    }

    /// Keeps a record. When that fails it holds as long as this process does.
    async fn write(&self, reference: &Reference, state: State) {
        let record = Record { reference: reference.clone(), checked_at: self.parts.clock.now(), state };
        if let Err(error) = self.parts.store.put_record(record).await {
            self.parts.metrics.store_errors.inc();
            tracing::warn!(%reference, %error, hint = error.hint(), "a record is kept in memory only");
        }
    }
}
