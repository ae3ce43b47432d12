//! The data port: from a well-formed request to an answer about plugins.

use super::guard::Accepted;
use super::listing::{self, Listing};
use super::refuse;
use super::respond::{self, Answer, Asked, Label, Note};
use super::route::{self, Route};
use crate::artifact::metadata_txt::{self, Metadata};
use crate::cache::{Ask, Cache, CacheError, Found, Origin};
use crate::catalog::{self, Names, Plan, Why};
use crate::clock::{Clock, Timestamp};
use crate::failures::{Failures, Seen, What};
use crate::oci::{Digest, Reference};
use crate::plugin::{Request, Version};
use crate::store::{Body, ModuleFile};
use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderValue};
use std::sync::{Arc, Weak};

/// What answers plugin requests.
pub struct Data {
    /// The heart.
    pub cache: Arc<Cache>,
    /// What may be asked for, and which paths are modules.
    pub names: catalog::Live,
    /// What was worked out before.
    pub memo: Memo,
    /// What failed lately.
    pub failures: Arc<Failures>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Paths and labels that were worked out before. A label follows from content alone and does not grow old; a path is
/// believed as long as the names by which it was worked out are in use. What is not asked for leaves.
pub struct Memo {
    routes: moka::sync::Cache<String, Arc<Planned>>,
    labels: moka::sync::Cache<(Reference, Digest, Digest, Timestamp), Arc<Label>>,
}

/// Entries of each: a few times what a large site has.
const MEMO: u64 = 4096;

impl Default for Memo {
    fn default() -> Self {
        Self { routes: moka::sync::Cache::new(MEMO), labels: moka::sync::Cache::new(MEMO) }
    }
}

/// A module's path, and what may answer it.
struct Planned {
    /// By which names. They are not held any longer than they are in use.
    names: Weak<Names>,
    request: Request,
    plan: Arc<Plan>,
}

/// The label of `Route::Module`, for a path that was seen before.
const MODULE_LABEL: &str = "plugin";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Data {
    /// Remembers a request that was refused or failed, for operators.
    pub fn note_failure(&self, target: &[u8], answer: &Answer) {
        let Note { code: Some(code), detail, hint, reference, .. } = &answer.note else { return };
        let target = String::from_utf8_lossy(target);
        let seen = Seen {
            what: What::Request,
            subject: target.split('?').next().unwrap_or_default(),
            reference: reference.clone(),
            status: Some(answer.status),
            code,
            detail: detail.as_deref().unwrap_or_default(),
            hint: hint.as_deref().unwrap_or_default(),
        };
        self.failures.note(&seen, self.clock.now());
    }

    /// Answers a request; the label is for the metrics.
    pub async fn answer(&self, headers: &HeaderMap, accepted: &Accepted) -> (Answer, &'static str) {
        let path = &accepted.path;
        // To the answer's end: what takes their place meanwhile is for those who ask later.
        let names = self.names.load_full();
        if let Some(planned) = self.memo.routes.get(path.as_str())
            && std::ptr::eq(planned.names.as_ptr(), Arc::as_ptr(&names))
        {
            let (request, plan) = (&planned.request, planned.plan.clone());
            return (self.planned_module(headers, &names, request, plan).await, MODULE_LABEL);
        }
        let route = match route::route(path, &names.patterns, &|name| names.catalog.lists(name)) {
            Ok(route) => route,
            Err(error) => return (refuse::bad_name(headers, &error), "none"),
        };
        let label = route.label();
        let answer = match route {
            Route::Root => respond::plain(
                concat!("larder ", env!("CARGO_PKG_VERSION"), ": plugins are listed at /plugins/\n").into(),
            ),
            Route::Health => respond::plain("ok\n".into()),
            Route::Redirect(to) => respond::redirect(&to),
            Route::Plugins => self.list(headers, path, self.listing(&names).names()),
            Route::Versions(name) => {
                let versions = self.listing(&names).versions(&name);
                if versions.is_empty() && !names.catalog.lists(name.as_str()) {
                    self.unknown(headers, &names, &Request { name, version: None })
                } else {
                    self.list(headers, path, listing::items(&versions))
                }
            }
            Route::Files(name, version) => {
                let listing = self.listing(&names);
                if listing.versions(&name).contains(&version) {
                    self.list(headers, path, listing.files(&name, &version))
                } else {
                    self.unknown(headers, &names, &Request { name, version: Some(version) })
                }
            }
            Route::Inventory => {
                let text =
                    serde_json::to_string_pretty(&self.listing(&names).inventory()).unwrap_or_default();
                respond::small(headers, JSON, text + "\n", None)
            }
            Route::Module(request) => self.module(headers, &names, path, request).await,
            Route::Metadata(request, json) => self.metadata(headers, &names, &request, json).await,
            Route::None => refuse::no_route(headers, path),
        };
        (answer, label)
    }

    fn listing<'n>(&'n self, names: &'n Names) -> Listing<'n> {
        Listing { catalog: &names.catalog, store: self.cache.store().as_ref() }
    }

    fn list(&self, headers: &HeaderMap, path: &str, items: Vec<listing::Item>) -> Answer {
        let mut answer = if listing::wants_json(headers) {
            let text = serde_json::to_string_pretty(&items).unwrap_or_default();
            respond::small(headers, JSON, text + "\n", None)
        } else {
            respond::small(headers, HTML, listing::html(path, &items), None)
        };
        answer.headers.insert(VARY, HeaderValue::from_static("accept"));
        answer
    }

    fn versions(&self, names: &Names, request: &Request) -> Vec<String> {
        self.listing(names).versions(&request.name).iter().map(ToString::to_string).collect()
    }

    fn unknown(&self, headers: &HeaderMap, names: &Names, request: &Request) -> Answer {
        refuse::unknown(headers, request, self.versions(names, request), nearest(names, request))
    }

    /// Another copy of a module that proved damaged while it was sent.
    pub async fn another_copy(
        &self,
        digest: &Digest,
        file: &ModuleFile,
        problem: std::io::Error,
        asked: &Asked,
    ) -> Option<Body> {
        self.cache.store().damaged(digest, file, problem).await;
        let served = self.cache.get(&asked.name, &asked.plan, Ask::Allowed).await.ok()?;
        (served.found.module.digest == *digest).then_some(served.body)
    }

    /// What may answer; `None` when no rule and no local file does.
    fn plan(&self, names: &Names, request: &Request) -> Option<Plan> {
        let mut plan = names.catalog.plan(request);
        let listing = self.listing(names);
        if plan.versions.is_empty() {
            let local = listing.highest_local(&request.name)?;
            plan.versions.push((local, Why::Exact));
        }
        let local = || plan.versions.iter().any(|(version, _)| listing.is_local(&request.name, version));
        (!plan.candidates.is_empty() || local()).then_some(plan)
    }

    async fn module(&self, headers: &HeaderMap, names: &Arc<Names>, path: &str, request: Request) -> Answer {
        let Some(plan) = self.plan(names, &request) else {
            return self.unknown(headers, names, &request);
        };
        let plan = Arc::new(plan);
        // Without candidates the plan depends on the local files, and they change.
        if !plan.candidates.is_empty() {
            let planned =
                Planned { names: Arc::downgrade(names), request: request.clone(), plan: plan.clone() };
            self.memo.routes.insert(path.to_owned(), Arc::new(planned));
        }
        self.planned_module(headers, names, &request, plan).await
    }

    async fn planned_module(
        &self,
        headers: &HeaderMap,
        names: &Names,
        request: &Request,
        plan: Arc<Plan>,
    ) -> Answer {
        match self.cache.get(&request.name, &plan, ask(headers)).await {
            Ok(served) => {
                let label = self.label(&served.found);
                let immutable = matches!(request.version, Some(Version::Digest(_)));
                let asked = Asked { name: request.name.clone(), plan };
                respond::module(headers, served, &label, asked, immutable)
            }
            Err(error) => self.refused(headers, names, request, &error),
        }
    }

    fn label(&self, found: &Found) -> Arc<Label> {
        match &found.origin {
            Origin::Registry { reference, manifest } => {
                let key = (reference.clone(), *manifest, found.module.digest, found.modified);
                self.memo.labels.get_with(key, || Arc::new(Label::new(found)))
            }
            Origin::Overlay(_) => Arc::new(Label::new(found)),
        }
    }

    async fn metadata(&self, headers: &HeaderMap, names: &Names, request: &Request, json: bool) -> Answer {
        let Some(plan) = self.plan(names, request) else {
            return self.unknown(headers, names, request);
        };
        let found = match self.cache.facts(&request.name, &plan, ask(headers)).await {
            Ok(found) => found,
            Err(error) => return self.refused(headers, names, request, &error),
        };
        let version = request.version.as_ref().or(plan.versions.first().map(|(version, _)| version));
        let (reference, manifest) = match &found.origin {
            Origin::Registry { reference, manifest } => (reference.to_string(), Some(*manifest)),
            Origin::Overlay(path) => (path.display().to_string(), None),
        };
        let metadata = Metadata {
            name: request.name.as_str(),
            version: &version.map(ToString::to_string).unwrap_or_default(),
            module: &found.module,
            modified: found.modified,
            reference: &reference,
            manifest,
        };
        let mut answer = if json {
            let text = serde_json::to_string_pretty(&metadata).unwrap_or_default();
            respond::small(headers, JSON, text + "\n", Some(found.modified))
        } else {
            respond::small(headers, TEXT, metadata_txt::render(&metadata), Some(found.modified))
        };
        respond::describe(&mut answer, &found, &self.label(&found));
        answer
    }

    fn refused(&self, headers: &HeaderMap, names: &Names, request: &Request, error: &CacheError) -> Answer {
        let (versions, nearest) = (self.versions(names, request), nearest(names, request));
        refuse::cache_error(headers, request, error, versions, nearest)
    }
}

fn nearest(names: &Names, request: &Request) -> Vec<String> {
    if names.catalog.lists(request.name.as_str()) {
        return Vec::new();
    }
    names.catalog.nearest(request.name.as_str()).into_iter().map(ToString::to_string).collect()
}

/// RFC 9111, section 5.2.1.7: a client may ask for what is held and nothing else.
fn ask(headers: &HeaderMap) -> Ask {
    let mut values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let only_held =
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case("only-if-cached")));
    if only_held { Ask::Forbidden } else { Ask::Allowed }
}
