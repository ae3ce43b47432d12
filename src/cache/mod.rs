//! The heart: one decision, top to bottom, for every request for a module.
//!
//! 1. **Overlay.** A local file of that name and version is the answer.
//! 2. **Known.** The candidates' records are looked at in order. The first that resolves is the answer: fresh, or stale
//!    and confirmed behind the request. An absence passes on to the next candidate; an absence past its lifetime does
//!    too, as long as something behind it is held, and is asked about behind the request. A failure of a moment ago is
//!    the answer where nothing is held.
//! 3. **Unknown.** The candidates are asked, by one task for any number of requests. The request waits for it so long
//!    (`fill.hold`) and then says that it is pending; the task goes on.
//!
//! Two rules keep a wrong version from being served. A step of the plan (exact, alias, fallback) is left only when the
//! registry said of all its candidates that they do not exist or are not for us. And what a reference once resolved to
//! stays until the registry shows something newer that was verified: neither silence nor "not found" takes it away.
//!
//! This folder knows neither HTTP nor the server, and no clock but the one it is given. With registry, store and clock
//! replaced it is a deterministic machine.

pub mod collapse;
pub mod error;
pub mod fill;

use crate::artifact::Limits;
use crate::catalog::{Plan, Why};
use crate::clock::{Clock, Timestamp};
use crate::freshness::{Freshness, Lifetimes};
use crate::http::cache_status::CacheStatus;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference};
use crate::plugin::PluginName;
use crate::record::{Absence, Module, Present, Record, State};
use crate::registry::{Confirmation, Registry};
use crate::store::{Body, Store};
use collapse::Collapse;
use fill::Progress;
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use error::{CacheError, ErrorKind};

/// Failures that are remembered at once. Beyond it the least recently used are forgotten, which costs a request to a
/// registry.
const REMEMBERED_FAILURES: u64 = 10_000;

/// Settings of fetching.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Longest time that a request waits for a fetch; the fetch goes on.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Longest time of a fetch.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Most fetches at once; others wait their turn.
    pub at_once: usize,
}

/// What the cache works with.
pub struct Parts {
    /// Where to ask.
    pub registry: Arc<dyn Registry>,
    /// Where to keep.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What to count.
    pub metrics: Arc<Metrics>,
    /// How to fetch.
    pub config: Config,
    /// How long to believe.
    pub lifetimes: Lifetimes,
    /// How much to accept.
    pub limits: Limits,
    /// Where fetches run. It must outlive requests.
    pub runtime: Handle,
}

/// See the module's text.
pub struct Cache {
    parts: Parts,
    walks: Collapse<Vec<Reference>, Result<Reference, Arc<CacheError>>>,
    fills: Collapse<Reference, Result<Outcome, Arc<CacheError>>>,
    failures: moka::sync::Cache<Reference, Failure>,
    slots: Arc<Semaphore>,
    progress: fill::Board,
}

/// How a fetch of one reference ended, other than in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Present,
    Absent(Absence),
}

/// A failure of a moment ago.
#[derive(Clone)]
struct Failure {
    error: Arc<CacheError>,
    until: Timestamp,
}

/// A module, and how it came to be served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its bytes.
    pub body: Body,
    /// Its facts.
    pub module: Module,
    /// Since when it has been what is asked for.
    pub modified: Timestamp,
    /// Where it came from.
    pub origin: Origin,
    /// Which step of the plan it answers.
    pub why: Why,
    /// How.
    pub status: CacheStatus,
}

/// Where a module came from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A registry.
    Registry {
        /// The reference that resolved to it.
        reference: Reference,
        /// What the reference resolved to.
        manifest: Digest,
    },
    /// A local folder.
    Overlay(PathBuf),
}

/// What the records say of a plan.
enum Known {
    Held {
        reference: Reference,
        record: Arc<Record>,
        why: Why,
    },
    Failed(Arc<CacheError>),
    Unknown,
}

impl Cache {
    /// Makes a cache of its parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(parts.config.at_once.max(1)));
        let failures = moka::sync::Cache::new(REMEMBERED_FAILURES);
        Arc::new(Self {
            parts,
            walks: Collapse::default(),
            fills: Collapse::default(),
            failures,
            slots,
            progress: fill::Board::default(),
        })
    }

    /// The store, for listings.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.parts.store
    }

    /// Fetches that are running: the reference, bytes received, bytes expected.
    pub fn in_flight(&self) -> Vec<(Reference, u64, u64)> {
        self.progress.list()
    }

    /// True when nothing is being asked or fetched, behind requests neither.
    pub fn is_idle(&self) -> bool {
        self.walks.is_empty() && self.fills.is_empty()
    }

    /// The module for `plan`, which was made for `name`.
    ///
    /// # Errors
    /// Why there is none; see [`ErrorKind`]. `Pending` when it is still being fetched.
    pub async fn get(self: &Arc<Self>, name: &PluginName, plan: &Plan) -> Result<Served, Arc<CacheError>> {
        if let Some(local) = self.local(name, plan, None).await? {
            return Ok(local);
        }
        match self.known(plan) {
            Known::Held {
                reference,
                record,
                why,
            } => {
                if let Some(local) = self.local(name, plan, Some(why)).await? {
                    return Ok(local);
                }
                self.revalidate_behind(plan, &reference);
                if let Some(served) = self.held(&reference, &record, why).await? {
                    return Ok(served);
                }
            }
            Known::Failed(error) => return Err(error),
            Known::Unknown => {}
        }
        self.parts.metrics.lookups.with_label_values(&["upstream"]).inc();
        self.ask(name, plan).await
    }

    /// A local file for the plan: for the asked version, or, once the registry has led the plan to step `reached`, for
    /// the version of that step.
    async fn local(
        &self,
        name: &PluginName,
        plan: &Plan,
        reached: Option<Why>,
    ) -> Result<Option<Served>, Arc<CacheError>> {
        let index = self.parts.store.overlay();
        if index.is_empty() {
            return Ok(None);
        }
        let fitting = plan.versions.iter().filter(|(_, why)| match reached {
            None => *why == Why::Exact,
            Some(reached) => *why <= reached,
        });
        for (version, why) in fitting {
            let Some(entry) = index.get(&(name.clone(), version.clone())) else {
                continue;
            };
            let broken = |problem: String| {
                let detail = format!(
                    "the local file {} cannot be served: {problem}",
                    entry.path.display()
                );
                let hint = "replace or remove the file; it wins over every registry as long as it is there";
                Arc::new(CacheError::new(ErrorKind::Unsupported, "bad_local_file", detail).hint(hint))
            };
            let module = entry.module.as_ref().map_err(|problem| broken(problem.clone()))?;
            let body = self
                .parts
                .store
                .overlay_module(entry.clone())
                .await
                .map_err(|e| Arc::new(e.into()))?;
            let Some(body) = body else {
                let detail = format!("the local file {} is being changed", entry.path.display());
                return Err(Arc::new(CacheError::new(
                    ErrorKind::Overloaded,
                    "local_file_changing",
                    detail,
                )));
            };
            self.parts.metrics.lookups.with_label_values(&["overlay"]).inc();
            return Ok(Some(Served {
                body,
                module: module.clone(),
                modified: entry.modified,
                origin: Origin::Overlay(entry.path.clone()),
                why: *why,
                status: CacheStatus::Hit {
                    ttl: None,
                    detail: "overlay",
                },
            }));
        }
        Ok(None)
    }

    /// What the records and the remembered failures say of the plan; nothing is asked.
    fn known(&self, plan: &Plan) -> Known {
        let now = self.parts.clock.now();
        let mut failed: Option<(Why, Arc<CacheError>)> = None;
        let mut absences = Vec::new();
        let mut doubtful = false;
        for candidate in &plan.candidates {
            if let Some((step, error)) = &failed
                && *step != candidate.why
            {
                return Known::Failed(error.clone());
            }
            match self.parts.store.record(&candidate.reference) {
                Some(record) => match record.state {
                    State::Present(_) => {
                        return Known::Held {
                            reference: candidate.reference.clone(),
                            record,
                            why: candidate.why,
                        };
                    }
                    State::Absent(absence) => {
                        doubtful |= matches!(self.parts.lifetimes.judge(&record, now), Freshness::Stale(_));
                        absences.push((candidate.reference.clone(), absence));
                    }
                },
                None => match self.remembered(&candidate.reference, now) {
                    Some(error) => drop(failed.get_or_insert((candidate.why, error))),
                    None => return Known::Unknown,
                },
            }
        }
        match failed {
            Some((_, error)) => Known::Failed(error),
            None if doubtful || absences.is_empty() => Known::Unknown,
            None => Known::Failed(Arc::new(CacheError::absent(&absences))),
        }
    }

    fn remembered(&self, reference: &Reference, now: Timestamp) -> Option<Arc<CacheError>> {
        self.failures
            .get(reference)
            .filter(|failure| failure.until > now)
            .map(|failure| failure.error)
    }

    /// Serves what is held. `None` when the bytes were lost.
    async fn held(
        &self,
        reference: &Reference,
        record: &Record,
        why: Why,
    ) -> Result<Option<Served>, Arc<CacheError>> {
        let Some(present) = record.present() else {
            return Ok(None);
        };
        let body = self
            .parts
            .store
            .module(&present.module)
            .await
            .map_err(|e| Arc::new(e.into()))?;
        let Some(body) = body else { return Ok(None) };
        let tier = if matches!(body, Body::Memory(_)) {
            "memory"
        } else {
            "disk"
        };
        self.parts.metrics.lookups.with_label_values(&[tier]).inc();
        let status = match self.parts.lifetimes.judge(record, self.parts.clock.now()) {
            Freshness::Fresh(ttl) => CacheStatus::Hit {
                ttl: Some(ttl),
                detail: tier,
            },
            Freshness::Stale(by) => {
                let failure = self.failures.get(reference);
                let reason = failure.map_or("while-revalidate", |failure| failure.error.code);
                self.parts.metrics.stale_served.with_label_values(&[reason]).inc();
                CacheStatus::Stale {
                    by,
                    detail: format!("stale-{reason}"),
                }
            }
        };
        Ok(Some(served(reference, present, body, why, status)))
    }

    /// Asks the registries for the plan and waits, no longer than `hold`.
    async fn ask(self: &Arc<Self>, name: &PluginName, plan: &Plan) -> Result<Served, Arc<CacheError>> {
        let key = plan
            .candidates
            .iter()
            .map(|candidate| candidate.reference.clone())
            .collect();
        let cache = self.clone();
        let work = plan.clone();
        let (waiting, collapsed) = self
            .walks
            .join(&self.parts.runtime, key, async move { cache.walk(&work).await });
        if collapsed {
            self.parts.metrics.fills_collapsed.inc();
        }
        let first = plan
            .candidates
            .first()
            .map(|candidate| candidate.reference.clone());
        let reference = match tokio::time::timeout(self.parts.config.hold, waiting.done()).await {
            Ok(Some(result)) => result?,
            Ok(None) => return Err(Arc::new(CacheError::internal("the fetch ended early"))),
            Err(_) => return Err(Arc::new(CacheError::pending(self.parts.config.hold, first))),
        };
        let why = plan
            .candidates
            .iter()
            .find(|c| c.reference == reference)
            .map_or(Why::Exact, |c| c.why);
        if let Some(local) = self.local(name, plan, Some(why)).await? {
            return Ok(local);
        }
        let lost = || Arc::new(CacheError::internal("what was just fetched is gone again"));
        let record = self.parts.store.record(&reference).ok_or_else(lost)?;
        let present = record.present().ok_or_else(lost)?;
        let body = self
            .parts
            .store
            .module(&present.module)
            .await
            .map_err(|e| Arc::new(e.into()))?
            .ok_or_else(lost)?;
        Ok(served(
            &reference,
            present,
            body,
            why,
            CacheStatus::Miss { collapsed },
        ))
    }

    /// Asks candidate after candidate; the reference that resolved.
    async fn walk(self: &Arc<Self>, plan: &Plan) -> Result<Reference, Arc<CacheError>> {
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
                        if let Ok(Some(_)) = self.parts.store.module(&present.module).await {
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
    fn revalidate_behind(self: &Arc<Self>, plan: &Plan, serving: &Reference) {
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
    fn fetch(self: &Arc<Self>, reference: Reference) -> collapse::Waiting<Result<Outcome, Arc<CacheError>>> {
        let cache = self.clone();
        let key = reference.clone();
        self.fills
            .join(&self.parts.runtime, key, async move {
                cache.fetch_now(&reference).await
            })
            .0
    }

    async fn fetch_now(self: &Arc<Self>, reference: &Reference) -> Result<Outcome, Arc<CacheError>> {
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
        parts
            .metrics
            .fills
            .with_label_values(&[reference.registry(), label])
            .inc();
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
                self.failures.insert(
                    reference.clone(),
                    Failure {
                        error: error.clone(),
                        until,
                    },
                );
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
            usable = matches!(parts.store.module(&present.module).await, Ok(Some(_)));
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
                        parts
                            .metrics
                            .tags_moved
                            .with_label_values(&[reference.registry()])
                            .inc();
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
        let record = Record {
            reference: reference.clone(),
            checked_at: self.parts.clock.now(),
            state,
        };
        if let Err(error) = self.parts.store.put_record(record).await {
            self.parts.metrics.store_errors.inc();
            tracing::warn!(%reference, %error, hint = error.hint(), "a record is kept in memory only");
        }
    }
}

fn served(reference: &Reference, present: &Present, body: Body, why: Why, status: CacheStatus) -> Served {
    let origin = Origin::Registry {
        reference: reference.clone(),
        manifest: present.manifest,
    };
    Served {
        body,
        module: present.module.clone(),
        modified: present.since,
        origin,
        why,
        status,
    }
}
