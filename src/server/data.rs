//! The data port: from a well-formed request to an answer about plugins.

use super::access::{Access, Rules, Verdict};
use super::guard::Accepted;
use super::listing::{self, Listing};
use super::refuse;
use super::respond::{self, Answer, Asked, Content, Label, Note};
use super::route::{self, Route};
use super::tls::Shown;
use crate::artifact::metadata_txt::{self, Metadata};
use crate::cache::{Ask, Cache, CacheError, ErrorKind, Found, Origin};
use crate::catalog::{Names, Plan, Why};
use crate::clock::Clock;
use crate::failures::{Failures, Seen, What};
use crate::oci::Digest;
use crate::plugin::{Request, Version};
use crate::record::Record;
use crate::store::{Body, ModuleFile};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderValue};
use std::sync::{Arc, Weak};

/// What answers plugin requests.
pub struct Data {
    /// The heart.
    pub cache: Arc<Cache>,
    /// What may be asked for, which paths are modules, and whom they are for.
    pub access: Arc<Access>,
    /// What was worked out before.
    pub memo: Memo,
    /// What failed lately.
    pub failures: Arc<Failures>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Paths that were worked out before, and what their answers have in common. A path is believed as long as the names by which
/// it was worked out are in use. What is not asked for leaves.
pub struct Memo(moka::sync::Cache<String, Arc<Planned>>);

/// Entries: a few times what a large site has.
const MEMO: u64 = 4096;

impl Default for Memo {
    fn default() -> Self {
        Self(moka::sync::Cache::new(MEMO))
    }
}

/// What a path asks for, and what may answer it.
struct Planned {
    /// By which names. They are not held any longer than they are in use.
    names: Weak<Names>,
    request: Request,
    form: Form,
    asked: Arc<Asked>,
    made: ArcSwapOption<Made>,
}

/// What is told of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Module,
    /// `metadata.txt`
    Text,
    /// `metadata.json`
    Json,
}

/// What was made of a record, and is right as long as the record is the same; or of a local file, for one answer.
struct Made {
    record: Option<Arc<Record>>,
    why: Why,
    label: Label,
    /// The whole content, where it is not the module.
    text: Bytes,
}

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Data {
    /// Remembers a request that was refused or failed, for operators.
    pub fn note_failure(&self, target: &str, status: u16, note: &Note) {
        let Note { code: Some(code), detail, hint, reference, .. } = note else { return };
        let seen = Seen {
            what: What::Request,
            subject: target.split('?').next().unwrap_or_default(),
            reference: reference.as_deref().map(Into::into),
            status: Some(status),
            code,
            detail: detail.as_deref().unwrap_or_default(),
            hint: hint.as_deref().unwrap_or_default(),
        };
        self.failures.note(&seen, self.clock.now());
    }

    /// Answers a request of who has `shown` a certificate; the label is for the metrics.
    pub async fn answer(
        &self,
        headers: &HeaderMap,
        accepted: &Accepted,
        shown: Option<&Shown>,
    ) -> (Answer, &'static str) {
        let path = &accepted.path;
        // To the answer's end: what takes their place meanwhile is for those who ask later.
        let meaning = self.access.current();
        let (names, rules) = (meaning.names.clone(), &meaning.rules);
        let asker = Asker { headers, shown, rules, names: &names };
        if let Some(planned) = self.memo.0.get(path.as_str())
            && std::ptr::eq(planned.names.as_ptr(), Arc::as_ptr(&names))
        {
            let answer = match asker.may_have(planned.request.name.as_str()) {
                Ok(limits) => limits.put_on(self.planned(&asker, &planned).await),
                Err(refused) => refused,
            };
            return (answer, planned.form.label());
        }
        let route = match route::route(path, &names.patterns, &|name| names.catalog.lists(name)) {
            Ok(route) => route,
            Err(error) => return (refuse::bad_name(headers, &error), "none"),
        };
        let label = route.label();
        let answer = match route.name(path).map_or(Ok(Limits::None), |name| asker.may_have(name)) {
            // In a box, because it would be in the way of what was seen before.
            Ok(limits) => limits.put_on(Box::pin(self.routed(&asker, path, route)).await),
            Err(refused) => refused,
        };
        (answer, label)
    }

    async fn routed(&self, asker: &Asker<'_>, path: &str, route: Route) -> Answer {
        let headers = asker.headers;
        match route {
            Route::Root => respond::plain(
                concat!("larder ", env!("CARGO_PKG_VERSION"), ": plugins are listed at /plugins/\n").into(),
            ),
            Route::Health => respond::plain("ok\n".into()),
            Route::Redirect(to) => respond::redirect(&to),
            Route::Plugins => {
                let mut names = self.listing(asker.names).names();
                names.retain(|item| asker.may_see(&item.name));
                asker.limits().put_on(self.list(headers, path, names))
            }
            Route::Versions(name) => {
                let versions = self.listing(asker.names).versions(&name);
                if versions.is_empty() && !asker.names.catalog.lists(name.as_str()) {
                    self.unknown(asker, &Request { name, version: None })
                } else {
                    self.list(headers, path, listing::items(&versions))
                }
            }
            Route::Files(name, version) => {
                if self.listing(asker.names).versions(&name).contains(&version) {
                    self.list(headers, path, self.listing(asker.names).files(&name, &version))
                } else {
                    self.unknown(asker, &Request { name, version: Some(version) })
                }
            }
            Route::Inventory => {
                let mut inventory = self.listing(asker.names).inventory();
                inventory.retain(|name, _| asker.may_see(name));
                let text = serde_json::to_string_pretty(&inventory).unwrap_or_default();
                asker.limits().put_on(respond::small(headers, JSON, text + "\n"))
            }
            Route::Module(request) => self.module(asker, path, request, Form::Module).await,
            Route::Metadata(request, false) => self.module(asker, path, request, Form::Text).await,
            Route::Metadata(request, true) => self.module(asker, path, request, Form::Json).await,
            Route::None => refuse::no_route(headers, path),
        }
    }

    fn listing<'n>(&'n self, names: &'n Names) -> Listing<'n> {
        Listing { catalog: &names.catalog, store: self.cache.store().as_ref() }
    }

    fn list(&self, headers: &HeaderMap, path: &str, items: Vec<listing::Item>) -> Answer {
        let mut answer = if listing::wants_json(headers) {
            let text = serde_json::to_string_pretty(&items).unwrap_or_default();
            respond::small(headers, JSON, text + "\n")
        } else {
            respond::small(headers, HTML, listing::html(path, &items))
        };
        answer.headers.insert(VARY, HeaderValue::from_static("accept"));
        answer
    }

    fn nearest(&self, asker: &Asker<'_>, request: &Request) -> Vec<String> {
        if asker.names.catalog.lists(request.name.as_str()) {
            return Vec::new();
        }
        let nearest = asker.names.catalog.nearest(request.name.as_str()).into_iter().map(ToString::to_string);
        nearest.filter(|name| asker.may_see(name)).collect()
    }

    fn versions(&self, asker: &Asker<'_>, request: &Request) -> Vec<String> {
        self.listing(asker.names).versions(&request.name).iter().map(ToString::to_string).collect()
    }

    fn unknown(&self, asker: &Asker<'_>, request: &Request) -> Answer {
        refuse::unknown(asker.headers, request, self.versions(asker, request), self.nearest(asker, request))
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
        (served.found.module().digest == *digest).then_some(served.body)
    }

    /// What may answer; `None` when no rule and no local file does.
    fn plan(&self, names: &Names, request: &Request) -> Option<Plan> {
        let mut plan = names.catalog.plan(request);
        if plan.versions.is_empty() {
            let local = self.listing(names).highest_local(&request.name)?;
            plan.versions.push((local, Why::Exact));
        }
        let local =
            || plan.versions.iter().any(|(version, _)| self.listing(names).is_local(&request.name, version));
        (!plan.candidates.is_empty() || local()).then_some(plan)
    }

    async fn module(&self, asker: &Asker<'_>, path: &str, request: Request, form: Form) -> Answer {
        let Some(plan) = self.plan(asker.names, &request) else {
            return self.unknown(asker, &request);
        };
        // Without candidates the plan depends on the local files, and they change.
        let lasts = !plan.candidates.is_empty();
        let planned = Arc::new(Planned {
            names: Arc::downgrade(asker.names),
            asked: Arc::new(Asked { name: request.name.clone(), plan }),
            request,
            form,
            made: ArcSwapOption::empty(),
        });
        if lasts {
            self.memo.0.insert(path.to_owned(), planned.clone());
        }
        self.planned(asker, &planned).await
    }

    async fn planned(&self, asker: &Asker<'_>, planned: &Planned) -> Answer {
        let Planned { request, asked, .. } = planned;
        let (headers, ask) = (asker.headers, ask(asker.headers));
        let got = match planned.form {
            Form::Module => self.cache.get(&asked.name, &asked.plan, ask).await.map(|served| {
                let made = planned.made(&served.found);
                respond::module(headers, served, &made.label, asked)
            }),
            Form::Text | Form::Json => self.cache.facts(&asked.name, &asked.plan, ask).await.map(|found| {
                let Made { label, text, .. } = &*planned.made(&found);
                label.answer(headers, &found.status, text.len() as u64, |first, last| {
                    Content::Bytes(text.slice(first as usize..last as usize + 1))
                })
            }),
        };
        got.unwrap_or_else(|error| self.refused(asker, request, &error))
    }

    fn refused(&self, asker: &Asker<'_>, request: &Request, error: &CacheError) -> Answer {
        let versions = match error.kind {
            // Others would be asked for in vain.
            ErrorKind::Offline => {
                let held = self.listing(asker.names).held_versions(&request.name);
                held.iter().map(ToString::to_string).collect()
            }
            _ => self.versions(asker, request),
        };
        let nearest = self.nearest(asker, request);
        refuse::cache_error(asker.headers, request, error, versions, nearest)
    }
}

impl Form {
    /// As `Route::label`, for a path that was seen before.
    fn label(self) -> &'static str {
        match self {
            Self::Module => "plugin",
            Self::Text | Self::Json => "metadata",
        }
    }
}

impl Planned {
    /// What is made of `found`, and was mostly made before.
    fn made(&self, found: &Found) -> Arc<Made> {
        let record = match &found.origin {
            Origin::Registry(resolved) => Some(resolved.record()),
            Origin::Overlay(_) => None,
        };
        let before = self.made.load();
        if let (Some(made), Some(record)) = (&*before, record)
            && made.record.as_ref().is_some_and(|before| Arc::ptr_eq(before, record))
            && made.why == found.why
        {
            return made.clone();
        }
        let (label, text) = self.make(found);
        let made = Arc::new(Made { record: record.cloned(), why: found.why, label, text });
        self.made.store(record.map(|_| made.clone()));
        made
    }

    fn make(&self, found: &Found) -> (Label, Bytes) {
        if self.form == Form::Module {
            let immutable = matches!(self.request.version, Some(Version::Digest(_)));
            return (Label::module(found, immutable), Bytes::new());
        }
        let first = self.asked.plan.versions.first().map(|(version, _)| version);
        let version = self.request.version.as_ref().or(first);
        let metadata = Metadata {
            name: self.request.name.as_str(),
            version: &version.map(ToString::to_string).unwrap_or_default(),
            module: found.module(),
            modified: found.modified(),
            reference: &found.origin.to_string(),
            manifest: found.origin.manifest(),
        };
        let (content_type, text) = match self.form {
            Form::Json => (JSON, serde_json::to_string_pretty(&metadata).unwrap_or_default() + "\n"),
            _ => (TEXT, metadata_txt::render(&metadata)),
        };
        (Label::text(found, content_type, &Digest::of(text.as_bytes())), text.into())
    }
}

/// Who asks, and what the rules in use say of them.
struct Asker<'r> {
    headers: &'r HeaderMap,
    shown: Option<&'r Shown>,
    rules: &'r Rules,
    /// The names in use when they asked.
    names: &'r Arc<Names>,
}

/// Who else may keep an answer.
enum Limits {
    None,
    /// Nobody between us and who asked (RFC 9111, section 5.2.2.7).
    Private,
}

impl Limits {
    fn put_on(self, mut answer: Answer) -> Answer {
        if matches!(self, Self::Private) {
            respond::keep_private(&mut answer.headers);
        }
        answer
    }
}

impl Asker<'_> {
    fn judge(&self, name: &str) -> Verdict {
        self.rules.judge(name, self.headers, self.shown.map(|shown| &shown.names[..]))
    }

    /// Whether the plugin `name` is for them, or the answer that it is not. Asked before anything else is.
    fn may_have(&self, name: &str) -> Result<Limits, Answer> {
        match self.judge(name) {
            Verdict::Open => Ok(Limits::None),
            Verdict::Allowed => Ok(Limits::Private),
            Verdict::Needed => Err(refuse::token_needed(self.headers)),
            Verdict::Denied => Err(refuse::not_for_you(self.headers)),
        }
    }

    /// Whether they are told that there is such a plugin.
    fn may_see(&self, name: &str) -> bool {
        matches!(self.judge(name), Verdict::Open | Verdict::Allowed)
    }

    /// Of an answer that names what they may see.
    fn limits(&self) -> Limits {
        if self.rules.is_empty() { Limits::None } else { Limits::Private }
    }
}

/// RFC 9111, section 5.2.1.7: a client may ask for what is held and nothing else.
fn ask(headers: &HeaderMap) -> Ask {
    let mut values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let only_held =
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case("only-if-cached")));
    if only_held { Ask::Forbidden } else { Ask::Allowed }
}
