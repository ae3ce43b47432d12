//! Plugins that are fetched before anybody asks for them: on request, and at the start.

use super::{Administration, Kind, ReadyWhen, Refused};
use crate::cache::asked::Asked;
use crate::cache::{Ask, ErrorKind};
use crate::failures::{Failure, What};
use crate::metrics::Metrics;
use crate::oci::Reference;
use crate::origin;
use crate::plugin::{PluginError, Request};
use crate::record::Record;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most plugins of one request.
pub const MOST: usize = 1000;

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// `all` (of the catalog), `used` (known of already), names, and names with versions (`NAME@VERSION`).
    pub plugins: Vec<String>,
}

/// A list of plugins that is being fetched, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number, from 1.
    pub id: u64,
    /// Why: `prefetch` or `warm_up`.
    pub kind: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// When all were fetched or had failed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// How many there are.
    pub total: usize,
    /// How many are held.
    pub held: usize,
    /// How many have failed.
    pub failed: usize,
    /// Each of them.
    pub items: Vec<Item>,
}

/// One plugin of a [`Job`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The plugin's name.
    pub plugin: String,
    /// The version, where one was asked for or the catalog has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How far it is.
    pub state: Progress,
    /// What it was fetched by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Bytes received of a layer that is being fetched.
    pub received: u64,
    /// Bytes expected of it; 0 until that is known.
    pub expected: u64,
    /// Size of the module in bytes, once it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Which step of the search it was found by: `exact`, `alias` or `fallback`; none for what was known of already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// How far a plugin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Progress {
    Waiting,
    Fetching,
    Held,
    Failed,
}

/// Jobs that are remembered.
const JOBS: usize = 20;
/// Jobs that run at once: gateways ask the same registries, and come first.
const MOST_RUNNING: usize = 4;
/// Time between two looks at a fetch that takes longer than a request would wait.
const LOOK: Duration = Duration::from_millis(200);
/// Plugins that a job has fetched at once.
const AT_ONCE: usize = 4;
/// The word for a job at the start.
pub const WARM_UP: &str = "warm_up";

/// The last jobs, the newest last.
#[derive(Default)]
pub struct Jobs(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    begun: u64,
    jobs: VecDeque<Arc<Running>>,
}

/// A job, and what is needed to tell how far it is.
struct Running {
    job: Mutex<Job>,
    /// What each item may be fetched by.
    candidates: Vec<Vec<Reference>>,
}

/// What an item is fetched by.
enum Target {
    /// As a gateway would ask for it.
    Plugin(Request),
    /// What is known of already.
    Known(Reference),
}

/// What was fetched: by which reference or file, its size, and by which step of the search.
struct Found {
    from: String,
    size: u64,
    matched: Option<String>,
}

impl Running {
    fn job(&self) -> MutexGuard<'_, Job> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an item to another state.
    fn turn(&self, at: usize, metrics: &Metrics, change: impl FnOnce(&mut Item)) {
        let mut job = self.job();
        let item = &mut job.items[at];
        let before = item.state;
        change(item);
        let after = item.state;
        for (state, by) in [(before, -1), (after, 1)] {
            if matches!(state, Progress::Waiting | Progress::Fetching) {
                metrics.prefetching.with_label_values(&[state.as_str()]).add(by);
            }
        }
        if matches!(after, Progress::Held | Progress::Failed) {
            metrics.prefetched.with_label_values(&[after.as_str()]).inc();
        }
        job.held = job.items.iter().filter(|item| item.state == Progress::Held).count();
        job.failed = job.items.iter().filter(|item| item.state == Progress::Failed).count();
    }
}

impl Progress {
    /// The word for metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

impl Administration {
    /// Begins to fetch plugins, and tells what was begun.
    ///
    /// # Errors
    /// None is named, too many are, or one is no name.
    pub fn prefetch(self: &Arc<Self>, wanted: &Wanted) -> Result<Job, Refused> {
        if wanted.plugins.is_empty() {
            let hint = "all, used, or names: NAME or NAME@VERSION";
            return Err(Refused::new(Kind::Bad, "nothing_named", "no plugin is named", hint));
        }
        if wanted.plugins.len() > MOST {
            let detail = format!("more than {MOST} plugins are named");
            return Err(Refused::new(Kind::TooMany, "too_many", detail, "name them in parts, or say all"));
        }
        let targets = self.targets(&wanted.plugins)?;
        if self.jobs().iter().filter(|job| job.finished_at.is_none()).count() >= MOST_RUNNING {
            let detail = format!("{MOST_RUNNING} lists of plugins are being fetched already");
            return Err(Refused::new(
                Kind::Busy,
                "prefetching",
                detail,
                "ask again when one of them is over",
            ));
        }
        Ok(self.begin("prefetch", targets, AT_ONCE))
    }

    /// Begins to fetch what the settings want at the start. A word that is no name was a fault of the settings.
    pub fn begin_warm_up(self: &Arc<Self>) {
        let targets = self.targets(&self.warm_up.plugins).unwrap_or_default();
        if targets.is_empty() {
            return self.metrics.warm_up_done.set(1);
        }
        tracing::info!(plugins = targets.len(), "fetching what is wanted at the start");
        self.begin(WARM_UP, targets, self.warm_up.at_once);
    }

    /// Whether the start is over, as far as `warm_up.ready_when` waits for it.
    pub fn is_warm(&self) -> bool {
        self.warm_up.ready_when == ReadyWhen::Always || self.metrics.warm_up_done.get() == 1
    }

    /// The last jobs, newest first.
    pub fn jobs(&self) -> Vec<Job> {
        let kept = self.jobs.0.lock().unwrap_or_else(PoisonError::into_inner).jobs.clone();
        kept.iter().rev().map(|running| self.told(running)).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that number, or no longer.
    pub fn job(&self, id: u64) -> Result<Job, Refused> {
        let found = self.jobs().into_iter().find(|job| job.id == id);
        found.ok_or_else(|| {
            let detail = format!("there is no list of plugins with number {id}");
            Refused::new(Kind::NotFound, "unknown_job", detail, "the last ones are remembered")
        })
    }

    /// The plugins of the start.
    pub(super) fn warm_up_job(&self) -> Option<Job> {
        self.jobs().into_iter().find(|job| job.kind == WARM_UP)
    }

    /// A job, with the bytes that are there by now.
    fn told(&self, running: &Running) -> Job {
        let in_flight = self.cache.in_flight();
        let mut job = running.job().clone();
        for (item, candidates) in job.items.iter_mut().zip(&running.candidates) {
            let fetching = || in_flight.iter().find(|(reference, ..)| candidates.contains(reference));
            if item.state == Progress::Fetching
                && let Some((_, received, expected)) = fetching()
            {
                (item.received, item.expected) = (*received, *expected);
            }
        }
        job
    }

    /// What the words mean, each once.
    fn targets(&self, words: &[String]) -> Result<Vec<Target>, Refused> {
        let catalog = self.names.load().catalog.clone();
        let mut requests = Vec::new();
        let mut known = Vec::new();
        for word in words {
            match word.as_str() {
                "all" => {
                    requests.extend(catalog.names().map(|name| Request { name: name.clone(), version: None }))
                }
                "used" => known.extend(self.used()),
                word => requests.push(parse(word)?),
            }
        }
        let mut seen = HashSet::new();
        requests.retain(|request| seen.insert(request.clone()));
        let mut seen = HashSet::new();
        known.retain(|reference| seen.insert(reference.clone()));
        Ok(requests.into_iter().map(Target::Plugin).chain(known.into_iter().map(Target::Known)).collect())
    }

    /// References that once led to a module.
    fn used(&self) -> Vec<Reference> {
        let records = self.cache.store().records();
        let present = records.iter().filter(|record| record.present().is_some());
        present.map(|record| record.reference.clone()).collect()
    }

    fn begin(self: &Arc<Self>, kind: &str, targets: Vec<Target>, at_once: usize) -> Job {
        let catalog = self.names.load().catalog.clone();
        let mut candidates = Vec::new();
        let items: Vec<_> = targets
            .iter()
            .map(|target| {
                let (plugin, version, references) = match target {
                    Target::Plugin(request) => {
                        let plan = catalog.plan(request);
                        let version = plan.versions.first().map(|(version, _)| version.to_string());
                        let references = plan.candidates.into_iter().map(|candidate| candidate.reference);
                        (request.name.to_string(), version, references.collect())
                    }
                    Target::Known(reference) => {
                        let named = self.entry_of(reference);
                        (named.plugin, Some(named.version), vec![reference.clone()])
                    }
                };
                candidates.push(references);
                Item {
                    plugin,
                    version,
                    state: Progress::Waiting,
                    reference: None,
                    received: 0,
                    expected: 0,
                    size: None,
                    matched: None,
                    error: None,
                }
            })
            .collect();
        self.metrics.prefetching.with_label_values(&["waiting"]).add(items.len() as i64);
        let mut kept = self.jobs.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.begun += 1;
        let job = Job {
            id: kept.begun,
            kind: kind.into(),
            started_at: self.clock.now().to_string(),
            finished_at: None,
            total: items.len(),
            held: 0,
            failed: 0,
            items,
        };
        let running = Arc::new(Running { job: Mutex::new(job.clone()), candidates });
        kept.jobs.push_back(running.clone());
        while kept.jobs.len() > JOBS {
            kept.jobs.pop_front();
        }
        drop(kept);
        let this = self.clone();
        let work = async move {
            let fetch = |(at, target)| this.fetch_item(&running, at, target);
            futures_util::stream::iter(targets.into_iter().enumerate())
                .for_each_concurrent(at_once.max(1), fetch)
                .await;
            let mut job = running.job();
            job.finished_at = Some(this.clock.now().to_string());
            tracing::info!(job = job.id, kind = job.kind, held = job.held, failed = job.failed, "prefetched");
            if job.kind == WARM_UP {
                this.metrics.warm_up_done.set(1);
            }
            Ok(())
        };
        let work = origin::begun("prefetch", None, |never: &Infallible| match *never {}, work);
        self.cache.runtime().spawn(work);
        job
    }

    async fn fetch_item(&self, running: &Running, at: usize, target: Target) {
        running.turn(at, &self.metrics, |item| item.state = Progress::Fetching);
        let fetched = match target {
            Target::Plugin(request) => self.fetch_plugin(&request).await,
            Target::Known(reference) => self.fetch_known(&reference).await,
        };
        running.turn(at, &self.metrics, |item| match fetched {
            Ok(Found { from, size, matched }) => {
                item.state = Progress::Held;
                (item.reference, item.size, item.matched) = (Some(from), Some(size), matched);
                (item.received, item.expected) = (size, size);
            }
            Err(error) => {
                let (plugin, version) = (&item.plugin, &item.version);
                tracing::warn!(
                    plugin,
                    version,
                    code = error.code,
                    error = error.detail,
                    hint = error.hint,
                    "not fetched in advance"
                );
                item.state = Progress::Failed;
                item.reference = error.reference.clone();
                item.error = Some(error);
            }
        });
    }

    /// Fetches what a gateway would get, however long it takes.
    async fn fetch_plugin(&self, request: &Request) -> Result<Found, Failure> {
        let catalog = self.names.load().catalog.clone();
        let plan = catalog.plan(request);
        if crate::cache::explain::is_unknown(request, &plan, &self.cache) {
            let explained = crate::cache::explain::unknown(request, &catalog);
            return Err(self.failure(request, None, &explained.code, &explained.detail, &explained.hint));
        }
        // What failed a moment ago is tried again: somebody asks for it by hand.
        self.cache.forget_failures(&plan);
        loop {
            match self.cache.facts(&request.name, &plan, Ask::Allowed).await {
                Ok(found) => {
                    let (from, size) = (found.origin.to_string(), found.module().size);
                    return Ok(Found { from, size, matched: Some(found.why.as_str().to_owned()) });
                }
                Err(error) if error.kind == ErrorKind::Pending => tokio::time::sleep(LOOK).await,
                Err(error) => {
                    let reference = error.reference.as_ref().map(ToString::to_string);
                    return Err(self.failure(request, reference, error.code, &error.detail, &error.hint));
                }
            }
        }
    }

    /// Confirms what is known of, and fetches it if it is not held.
    async fn fetch_known(&self, reference: &Reference) -> Result<Found, Failure> {
        let held = |record: Arc<Record>| {
            let size = record.present()?.module.size;
            self.cache.store().holds(&record.present()?.module).then_some(size)
        };
        let record = || self.cache.store().record(reference);
        let is_fresh = record().is_some_and(|record| self.cache.lifetime(&record).0);
        if !is_fresh || record().and_then(held).is_none() {
            self.cache.forget_failure(reference);
            let asked = self.cache.ask_again(reference).await;
            if let (Asked::Failed(error), None) = (asked, record().and_then(held)) {
                let named = self.entry_of(reference);
                let told = (named.plugin, reference.to_string());
                return Err(self.failed(&told.0, Some(told.1), error.code, &error.detail, &error.hint));
            }
        }
        match record().and_then(held) {
            Some(size) => Ok(Found { from: reference.to_string(), size, matched: None }),
            None => {
                let detail = format!("{reference} does not exist any more");
                Err(self.failed(
                    &reference.to_string(),
                    Some(reference.to_string()),
                    "not_found",
                    &detail,
                    "",
                ))
            }
        }
    }

    fn failure(
        &self,
        request: &Request,
        reference: Option<String>,
        code: &str,
        detail: &str,
        hint: &str,
    ) -> Failure {
        let version = request.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
        self.failed(&format!("{}{version}", request.name), reference, code, detail, hint)
    }

    fn failed(
        &self,
        subject: &str,
        reference: Option<String>,
        code: &str,
        detail: &str,
        hint: &str,
    ) -> Failure {
        let now = self.clock.now().to_string();
        Failure {
            what: What::Fetch,
            subject: subject.into(),
            reference,
            status: None,
            code: code.into(),
            detail: detail.into(),
            hint: hint.into(),
            count: 1,
            first_at: now.clone(),
            last_at: now,
        }
    }
}

/// `NAME` or `NAME@VERSION`.
///
/// # Errors
/// What is wrong with it.
pub fn parse(word: &str) -> Result<Request, Refused> {
    let (name, version) = word.split_once('@').map_or((word, None), |(name, version)| (name, Some(version)));
    let parsed =
        name.parse().and_then(|name| Ok(Request { name, version: version.map(str::parse).transpose()? }));
    parsed.map_err(|error: PluginError| {
        Refused::new(Kind::Bad, error.code(), error.to_string(), "all, used, NAME or NAME@VERSION")
    })
}
