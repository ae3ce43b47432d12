//! The heart: one decision, top to bottom, for every request for a module.
//!
//! 1. **Overlay.** A local file of that name and version is the answer.
//! 2. **Known.** The candidates' records are looked at in order. The first that resolves is the answer: fresh, or stale
//!    and confirmed behind the request. An absence passes on to the next candidate; an absence past its lifetime does
//!    too, as long as something behind it is held, and is asked about behind the request. So does a candidate of which
//!    nothing is known, but only to others of its own step. A failure of a moment ago is the answer where nothing is
//!    held.
//! 3. **Unknown.** The candidates are asked, by one task for any number of requests. The request waits for it so long
//!    (`fill.hold`) and then says that it is pending; the task goes on.
//!
//! Two rules keep a wrong version from being served. A step of the plan (exact, alias, fallback) is left only when the
//! registry said of all its candidates that they do not exist or are not for us. And what a reference once resolved to
//! stays until the registry shows something newer that was verified: neither silence nor "not found" takes it away.
//!
//! This folder knows neither HTTP nor the server, and no clock but the one it is given. With registry, store and clock
//! replaced it is a deterministic machine.

mod answer;
pub mod asked;
pub mod collapse;
mod decided;
pub mod error;
pub mod explain;
mod fetch;
pub mod fill;
mod gated;
mod known;
mod layer;
pub mod locked;
mod signed;
pub mod take;

use crate::artifact::Limits;
use crate::catalog::{Candidate, Plan, Why};
use crate::clock::{Clock, Timestamp};
use crate::failures::{Failures, Seen, What};
use crate::freshness::{Freshness, Lifetimes};
use crate::http::cache_status::CacheStatus;
use crate::metrics::Metrics;
use crate::oci::Reference;
use crate::origin;
use crate::plugin::PluginName;
use crate::policy::Gate;
use crate::record::{Absence, Record};
use crate::registry::Registry;
use crate::registry::trace::Trace;
use crate::store::overlay::Problem;
use crate::store::{Body, Room, Store};
use arc_swap::ArcSwap;
use bytesize::ByteSize;
use collapse::Collapse;
use decided::Decided;
use fetch::Lane;
use known::{Absent, Known};
use moka::policy::EvictionPolicy;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use answer::{Found, Origin, Resolved, Served};
pub use decided::Decision;
pub use error::{CacheError, ErrorKind};

/// Layers that are unpacked at once. A zstd layer may take 32 MiB for its window, and two cores do two at a time.
pub const UNPACKING: usize = 2;

/// Layers that are unpacked at once while they come: each has a thread to itself for as long as its registry takes, and
/// half of a runtime's are left for others.
pub const STREAMS: usize = 2;

/// Failures that are remembered at once. Beyond it the least recently used are forgotten, which costs a request to a
/// registry.
const REMEMBERED_FAILURES: u64 = 10_000;

/// How often a request asks anew for what was fetched and lost again before it was served.
const ATTEMPTS: usize = 3;

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
    /// Most fetches at once from one registry; others wait their turn.
    pub at_once: usize,
    /// Most bytes of memory for all fetches in progress and for what the disk would not take; others wait their turn.
    pub memory: ByteSize,
}

/// What a change of the settings replaces, as a whole. A fetch ends with what it began with; one that came to nothing by
/// then is done once more.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How to fetch.
    pub config: Config,
    /// How long to believe.
    pub lifetimes: Lifetimes,
    /// How much to accept.
    pub limits: Limits,
    /// What may be served, and whether registries may be asked.
    pub gate: Arc<Gate>,
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
    /// By which rules.
    pub rules: ArcSwap<Rules>,
    /// Where fetches run. It must outlive requests.
    pub runtime: Handle,
    /// Memory for fetches in progress, and for what the disk would not take.
    pub room: Room,
    /// Layers that were kept and are unpacked at once; see [`UNPACKING`].
    pub unpacking: Semaphore,
    /// Layers that are unpacked at once while they come; see [`STREAMS`].
    pub streams: Arc<Semaphore>,
    /// Who listens to what is decided.
    pub trace: Trace,
    /// What failed lately, for operators.
    pub recent: Arc<Failures>,
}

impl Parts {
    /// Tells operators of a fetch that came to nothing.
    fn note(&self, reference: &Reference, error: &CacheError) {
        let subject = reference.to_string();
        let seen = Seen {
            what: What::Fetch,
            subject: &subject,
            reference: Some(subject.clone()),
            status: None,
            code: error.code,
            detail: &error.detail,
            hint: &error.hint,
        };
        self.recent.note(&seen, self.clock.now());
    }
}

/// See the module's text.
pub struct Cache {
    parts: Parts,
    walks: Collapse<(PluginName, Vec<Candidate>), Result<Reached, Arc<CacheError>>>,
    fills: Collapse<Reference, Result<Outcome, Arc<CacheError>>>,
    failures: moka::sync::Cache<Reference, Failure>,
    /// Absences that were noted up to then are asked about again, in milliseconds since 1970.
    doubted: AtomicU64,
    /// How often that was.
    doubts: AtomicU64,
    lanes: fetch::Lanes,
    progress: fill::Board,
    decided: Arc<Decided>,
}

/// How a fetch of one reference ended, other than in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Present,
    Absent(Absence),
}

/// Where a search ended.
#[derive(Debug, Clone)]
enum Reached {
    /// At a reference that resolves.
    Reference(Reference),
    /// At a step with a local file.
    Step(Why),
}

/// A failure of a moment ago.
#[derive(Clone)]
struct Failure {
    error: Arc<CacheError>,
    until: Timestamp,
}

/// Whether registries may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// As far as it takes.
    Allowed,
    /// Only what is held is wanted.
    Forbidden,
}

/// What a request needs of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Its bytes.
    Bytes,
    /// Only what is known of it; nothing is read.
    Facts,
}

impl Cache {
    /// Makes a cache of its parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let cache = Self::deciding(parts, Arc::default());
        cache.pin();
        cache
    }

    /// The same with what the policy `decided` already, and with what is pinned as it is.
    fn deciding(parts: Parts, decided: Arc<Decided>) -> Arc<Self> {
        let failures = moka::sync::Cache::builder()
            .max_capacity(REMEMBERED_FAILURES)
            .eviction_policy(EvictionPolicy::lru());
        let lanes = fetch::Lanes::new(parts.rules.load().config.at_once);
        Arc::new(Self {
            parts,
            walks: Collapse::default(),
            fills: Collapse::default(),
            failures: failures.build(),
            doubted: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            lanes,
            progress: fill::Board::default(),
            decided,
        })
    }

    /// The store, for listings.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.parts.store
    }

    /// What asks registries: a manifest as it came by [`Registry::manifest`], a blob by [`Registry::blob`]. Nothing of that
    /// is verified against more than the digest of a manifest, and nothing of it is kept.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.parts.registry
    }

    /// Goes by `rules` from now on.
    pub fn change(&self, rules: Rules) {
        let config = rules.config;
        self.parts.room.resize(config.memory.as_u64());
        let locked = rules.gate.locked().cloned();
        let before = self.parts.rules.swap(Arc::new(rules));
        self.lanes.resize(config.at_once);
        if before.gate.locked() != locked.as_ref() {
            self.pin();
            self.compare_held();
        }
    }

    /// Judges a record's age. An absence from before a change of the settings is past its lifetime.
    fn judge(&self, record: &Record, now: Timestamp) -> Freshness {
        let is_doubted =
            record.present().is_none() && record.checked_at.millis() <= self.doubted.load(Ordering::SeqCst);
        if is_doubted {
            Freshness::Stale(Duration::ZERO)
        } else {
            self.parts.rules.load().lifetimes.judge(record, now)
        }
    }

    /// Does what can wait; to be called every few seconds. What proved damaged is fetched again.
    pub async fn maintain(self: &Arc<Self>) {
        for reference in self.parts.store.maintain().await {
            let _ = self.fetch(reference, Lane::Behind);
        }
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
    pub async fn get(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        ask: Ask,
    ) -> Result<Served, Arc<CacheError>> {
        let (found, body) = self.find(name, plan, Need::Bytes, ask).await?;
        let body =
            body.ok_or_else(|| Arc::new(CacheError::internal("bytes were asked for and are not here")))?;
        Ok(Served { body, found })
    }

    /// What is known of the module for `plan`. It is fetched if need be, but its bytes are not read.
    ///
    /// # Errors
    /// As [`Cache::get`].
    pub async fn facts(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        ask: Ask,
    ) -> Result<Found, Arc<CacheError>> {
        self.find(name, plan, Need::Facts, ask).await.map(|(found, _)| found)
    }

    async fn find(self: &Arc<Self>, name: &PluginName, plan: &Plan, need: Need, ask: Ask) -> Answer {
        match self.gate() {
            None => self.search(name, plan, need, ask, None).await,
            // In a box, because it would be in the way of every hit.
            Some(gate) => Box::pin(self.search_gated(name, plan, need, ask, &gate)).await,
        }
    }

    async fn search(
        self: &Arc<Self>,
        name: &PluginName,
        plan: &Plan,
        need: Need,
        ask: Ask,
        gate: Option<&Gate>,
    ) -> Answer {
        // With no registry to ask, nothing stands between a request and a later step's local file.
        let reached = if plan.candidates.is_empty() { Why::Fallback } else { Why::Exact };
        if let Some(local) = self.local(name, plan, reached, need).await? {
            return Ok(local);
        }
        match self.known(name, plan, gate) {
            Known::Held { at, record, absences } => {
                // One look at the clock for all that is said of its age.
                let now = self.parts.clock.now();
                let mut age = self.judge(record.record(), now);
                self.revalidate_behind(name, plan, at, age, now, gate);
                self.keep_behind(absences);
                let why = plan.candidates.get(at).map_or(Why::Exact, |candidate| candidate.why);
                if plan.candidates.get(at).is_some_and(|at| !gated::is_confirmed(gate, name, at)) {
                    age = Freshness::Fresh(Duration::MAX);
                }
                if let Some(found) = self.held(record, age, why, need).await? {
                    return Ok(found);
                }
            }
            Known::Local(why) => {
                if let Some(local) = self.local(name, plan, why, need).await? {
                    return Ok(local);
                }
            }
            Known::Failed(error) => {
                self.reconsider(name, plan, gate);
                return Err(error);
            }
            Known::Unknown => {}
        }
        if ask == Ask::Forbidden {
            return Err(Arc::new(CacheError::not_held(plan)));
        }
        if need == Need::Bytes {
            self.parts.metrics.found("upstream");
        }
        // In a box, because what a fetch needs would be in every hit's way.
        Box::pin(self.ask(name, plan, need)).await
    }

    /// A local file for the plan: for the asked version, or, once the registry has led the plan to step `reached`, for
    /// the version of that step.
    async fn local(
        &self,
        name: &PluginName,
        plan: &Plan,
        reached: Why,
        need: Need,
    ) -> Result<Option<(Found, Option<Body>)>, Arc<CacheError>> {
        // A second time when the file is replaced in between.
        for _ in 0..2 {
            let index = self.parts.store.overlay();
            if index.is_empty() {
                return Ok(None);
            }
            let fitting = plan.versions.iter().filter(|(_, why)| *why <= reached);
            let mut entries =
                fitting.filter_map(|(v, why)| Some((index.get(&(name.clone(), v.clone()))?, v, *why)));
            let Some((entry, version, why)) = entries.next() else {
                return Ok(None);
            };
            self.admits_local(name, version)?;
            let wrong = |problem: &Problem| match problem {
                Problem::NoModule(text) => Arc::new(CacheError::bad_local_file(&entry.path, text)),
                Problem::Passing(_) => Arc::new(CacheError::changing_local_file(name)),
            };
            entry.module.as_ref().map_err(wrong)?;
            let body = match need {
                Need::Facts => None,
                Need::Bytes => match self
                    .parts
                    .store
                    .overlay_module(entry.clone())
                    .await
                    .map_err(|e| Arc::new(e.into()))?
                {
                    Some(body) => Some(body),
                    None => continue,
                },
            };
            if need == Need::Bytes {
                self.parts.metrics.found("overlay");
            }
            let status = CacheStatus::Hit { ttl: None, detail: "overlay" };
            let found = Found { origin: Origin::Overlay(entry.clone()), why, status };
            return Ok(Some((found, body)));
        }
        Err(Arc::new(CacheError::changing_local_file(name)))
    }

    /// Writes absences down behind the request, if any are in memory alone.
    fn keep_behind(self: &Arc<Self>, absences: Vec<Absent>) {
        if absences.iter().any(|absent| self.parts.store.record(&absent.reference).is_none()) {
            let cache = self.clone();
            self.parts.runtime.spawn(async move { cache.keep_absences(&absences).await });
        }
    }

    /// What is held, and is of such an `age`. `None` when the bytes were lost.
    async fn held(
        &self,
        record: Resolved,
        age: Freshness,
        why: Why,
        need: Need,
    ) -> Result<Option<(Found, Option<Body>)>, Arc<CacheError>> {
        let module = &record.present().module;
        let (body, detail) = match need {
            Need::Facts if self.parts.store.holds(module) => {
                (None, self.parts.store.uncached(module).unwrap_or("disk"))
            }
            Need::Facts => return Ok(None),
            Need::Bytes => match self.parts.store.module(module).await.map_err(|e| Arc::new(e.into()))? {
                Some((body, tier)) => {
                    self.parts.metrics.found(tier.as_str());
                    (Some(body), tier.detail())
                }
                None => return Ok(None),
            },
        };
        let status = match age {
            Freshness::Fresh(ttl) => CacheStatus::Hit { ttl: Some(ttl), detail },
            Freshness::Stale(by) => {
                let failure = self.failures.get(&record.record().reference);
                let reason = failure.map_or("while-revalidate", |failure| failure.error.code);
                self.parts.metrics.stale_served.with_label_values(&[reason]).inc();
                CacheStatus::Stale { by, detail: format!("stale-{reason}") }
            }
        };
        Ok(Some((Found { origin: Origin::Registry(record), why, status }, body)))
    }

    /// Asks the registries for the plan and waits, no longer than `hold`.
    async fn ask(self: &Arc<Self>, name: &PluginName, plan: &Plan, need: Need) -> Answer {
        let first = plan.candidates.first().map(|candidate| candidate.reference.clone());
        let hold = self.parts.rules.load().config.hold;
        let pending = || Arc::new(CacheError::pending(hold, first.clone()));
        tokio::time::timeout(hold, self.ask_until_held(name, plan, need))
            .await
            .unwrap_or_else(|_| Err(pending()))
    }

    async fn ask_until_held(self: &Arc<Self>, name: &PluginName, plan: &Plan, need: Need) -> Answer {
        // Again when what was fetched is gone before it could be taken: evicted by others, or found damaged on disk.
        for _ in 0..ATTEMPTS {
            let key = (name.clone(), plan.candidates.clone());
            let cache = self.clone();
            let work = (name.clone(), plan.clone());
            let walk = async move { cache.walk(&work.0, &work.1).await };
            let walk = origin::begun("search", None, |error: &Arc<CacheError>| error.code, walk);
            let (waiting, collapsed) = self.walks.join(&self.parts.runtime, key, walk);
            if collapsed {
                self.parts.metrics.fills_collapsed.inc();
            }
            let Some(reached) = waiting.done().await else {
                // A defect of ours, or the runtime is leaving.
                return Err(Arc::new(CacheError::internal("the search ended early")));
            };
            let reference = match reached? {
                Reached::Reference(reference) => reference,
                Reached::Step(why) => match self.local(name, plan, why, need).await? {
                    Some(local) => return Ok(local),
                    None => continue,
                },
            };
            let candidate = plan.candidates.iter().find(|candidate| candidate.reference == reference);
            let why = candidate.map_or(Why::Exact, |candidate| candidate.why);
            let Some(record) = self.parts.store.record(&reference).and_then(Resolved::of) else { continue };
            // By the gate in use by now: nothing is served that it withholds.
            if let (Some(candidate), Some(gate)) = (candidate, self.gate()) {
                gated::takes(&gate, name, plan, candidate, record.present())?;
            }
            let module = &record.present().module;
            let status = CacheStatus::Miss { collapsed, uncached: self.parts.store.uncached(module) };
            let body = match need {
                Need::Facts => None,
                Need::Bytes => {
                    match self.parts.store.module(module).await.map_err(|e| Arc::new(e.into()))? {
                        Some((body, _)) => Some(body),
                        None => continue,
                    }
                }
            };
            return Ok((Found { origin: Origin::Registry(record), why, status }, body));
        }
        Err(Arc::new(CacheError::crowded_out(plan)))
    }
}

/// A module with its bytes, where they were asked for.
type Answer = Result<(Found, Option<Body>), Arc<CacheError>>;
