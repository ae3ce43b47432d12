//! One connection: pingora reads a request and writes an answer; what lies between is ours.

use super::access_log::{self, Line};
use super::admin::Admin;
use super::guard::{self, Accepted, Head};
use super::listen::Drain;
use super::listing::{self, Listing};
use super::respond::{self, Answer, Content};
use super::route::{self, Route};
use super::{Config, refuse};
use crate::artifact::metadata_txt::{self, Metadata};
use crate::cache::{Cache, Origin};
use crate::catalog::patterns::Pattern;
use crate::catalog::{Catalog, Plan, Why};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::plugin::{Request, Version};
use crate::store::entry::{ModuleFile, PIECE_BYTES};
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What answers plugin requests.
pub struct Data {
    /// The heart.
    pub cache: Arc<Cache>,
    /// What may be asked for.
    pub catalog: Arc<Catalog>,
    /// Which paths are modules.
    pub patterns: Vec<Pattern>,
    /// When this process began, as the age of listings.
    pub started: Timestamp,
}

/// Which of the two ports a connection is on.
pub enum Face {
    /// Plugins.
    Data(Data),
    /// Metrics and health.
    Admin(Admin),
}

/// What all connections of a port share.
pub struct App {
    /// What answers.
    pub face: Face,
    /// How to treat connections.
    pub config: Config,
    /// What to count.
    pub metrics: Arc<Metrics>,
    /// Whether we are about to leave.
    pub drain: Drain,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// One connection.
pub struct Connection {
    /// The port's.
    pub app: Arc<App>,
    /// Who is at the other end.
    pub peer: SocketAddr,
}

#[async_trait]
impl HttpServerApp for Connection {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let config = &self.app.config;
        // One deadline for the whole head: the parser's own is for each read, so that a byte a minute would never end.
        let patience = if session.get_keepalive().is_some() {
            config.idle_timeout
        } else {
            config.header_timeout
        };
        match tokio::time::timeout(patience, session.read_request()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return None,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "no HTTP request");
                let _ = session.respond_error(400).await;
                return None;
            }
        }
        let _in_flight = self.app.drain.begin();
        let began = Instant::now();
        let raw = session.to_h1_raw();
        let head = session.req_header();
        let head_only = head.method == http::Method::HEAD;
        let (answer, label, reusable) = self.app.answer(head, &raw).await;
        let target = String::from_utf8_lossy(session.req_header().raw_path()).into_owned();
        let method = session.req_header().method.as_str().to_owned();
        let agent = session
            .get_header(http::header::USER_AGENT)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());

        let reusable = reusable && !self.app.drain.is_draining() && !*shutdown.borrow();
        session.set_keepalive(reusable.then(|| config.idle_timeout.as_secs().max(1)));
        session.set_min_send_rate(Some(config.send_rate.as_u64() as usize));
        let (status, note) = (answer.status, answer.note.clone());
        let (bytes, complete) = self.write(&mut session, answer, head_only).await;

        let took = began.elapsed();
        let status_text = status.to_string();
        let cache = note.cache.unwrap_or("none");
        let metrics = &self.app.metrics;
        metrics
            .requests
            .with_label_values(&[label, status_text.as_str(), cache])
            .inc();
        metrics
            .request_duration
            .with_label_values(&[label])
            .observe(took.as_secs_f64());
        metrics.response_bytes.with_label_values(&[label]).inc_by(bytes);
        if label != "health" {
            access_log::write(&Line {
                peer: self.peer,
                method: &method,
                target: &target,
                status,
                bytes,
                took,
                complete,
                agent: agent.as_deref().unwrap_or_default(),
                note: &note,
            });
        }
        if !complete {
            // The client must see that this was not all.
            session.shutdown().await;
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

impl Connection {
    /// Writes an answer: bytes of body sent, and whether that was all.
    async fn write(&self, session: &mut ServerSession, answer: Answer, head_only: bool) -> (u64, bool) {
        let Ok(mut header) = ResponseHeader::build_no_case(answer.status, Some(answer.headers.len() + 2))
        else {
            return (0, false);
        };
        for (name, value) in &answer.headers {
            if header.append_header(name.clone(), value.clone()).is_err() {
                return (0, false);
            }
        }
        if header.insert_header("server", "larder").is_err()
            || session.write_response_header(Box::new(header)).await.is_err()
        {
            return (0, false);
        }
        let bytes = match answer.content {
            _ if head_only => Bytes::new(),
            Content::None => Bytes::new(),
            Content::Bytes(bytes) => bytes,
            Content::Module {
                body: crate::store::Body::Memory(bytes),
                first,
                last,
                ..
            } => bytes.slice(first as usize..last as usize + 1),
            Content::Module {
                body: crate::store::Body::File(file),
                first,
                last,
                digest,
            } => {
                return self.write_file(session, file, first, last, &digest).await;
            }
        };
        let length = bytes.len() as u64;
        if bytes.is_empty() {
            return (0, session.finish_body().await.is_ok());
        }
        match session.write_response_body(bytes, true).await {
            Ok(()) => (length, true),
            Err(_) => (session.body_bytes_sent() as u64, false),
        }
    }

    /// Sends a file piece by piece, each checked before it leaves.
    async fn write_file(
        &self,
        session: &mut ServerSession,
        file: ModuleFile,
        first: u64,
        last: u64,
        digest: &crate::oci::Digest,
    ) -> (u64, bool) {
        let piece_bytes = PIECE_BYTES as u64;
        let mut sent = 0;
        for index in first / piece_bytes..=last / piece_bytes {
            let reader = file.clone();
            let read = tokio::task::spawn_blocking(move || reader.piece(index as usize)).await;
            let piece = match read.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                Ok(piece) => piece,
                Err(error) => {
                    tracing::error!(%digest, %error, "an answer is cut off: the module is damaged");
                    if let Face::Data(data) = &self.app.face {
                        data.cache.store().damaged(digest, error).await;
                    }
                    return (sent, false);
                }
            };
            let start = index * piece_bytes;
            let from = first.saturating_sub(start) as usize;
            let to = (last + 1 - start).min(piece.len() as u64) as usize;
            let part = piece.slice(from..to);
            let length = part.len() as u64;
            if session
                .write_response_body(part, index == last / piece_bytes)
                .await
                .is_err()
            {
                return (sent, false);
            }
            sent += length;
        }
        (sent, true)
    }
}

impl App {
    /// The answer, its label for metrics, and whether the connection may go on.
    async fn answer(&self, head: &pingora::http::RequestHeader, raw: &[u8]) -> (Answer, &'static str, bool) {
        let headers = &head.headers;
        let checked = guard::check(&Head {
            method: &head.method,
            target: head.raw_path(),
            version: head.version,
            headers,
            raw,
        });
        match checked {
            Err(rejected) => (refuse::rejected(headers, &rejected), "none", false),
            Ok(accepted) => {
                let (answer, label) = match &self.face {
                    Face::Admin(admin) => (admin.answer(headers, &accepted), "health"),
                    Face::Data(data) => data.answer(headers, &accepted).await,
                };
                (answer, label, accepted.reusable)
            }
        }
    }
}

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Data {
    async fn answer(&self, headers: &HeaderMap, accepted: &Accepted) -> (Answer, &'static str) {
        let path = &accepted.path;
        let route = match route::route(path, &self.patterns, &|name| self.catalog.lists(name)) {
            Ok(route) => route,
            Err(error) => return (refuse::bad_name(headers, &error), "none"),
        };
        let label = route.label();
        let answer = match route {
            Route::Root => respond::plain(
                concat!(
                    "larder ",
                    env!("CARGO_PKG_VERSION"),
                    ": plugins are listed at /plugins/\n"
                )
                .into(),
            ),
            Route::Health => respond::plain("ok\n".into()),
            Route::Redirect(to) => respond::redirect(&to),
            Route::Plugins => self.list(headers, path, self.listing().names()),
            Route::Versions(name) => {
                let versions = self.listing().versions(&name);
                if versions.is_empty() && !self.catalog.lists(name.as_str()) {
                    self.unknown(headers, &Request { name, version: None })
                } else {
                    self.list(headers, path, listing::items(&versions))
                }
            }
            Route::Files(name, version) => {
                if self.listing().versions(&name).contains(&version) {
                    self.list(headers, path, self.listing().files(&name, &version))
                } else {
                    self.unknown(
                        headers,
                        &Request {
                            name,
                            version: Some(version),
                        },
                    )
                }
            }
            Route::Inventory => {
                let text = serde_json::to_string_pretty(&self.listing().inventory()).unwrap_or_default();
                respond::small(headers, JSON, text + "\n", self.started)
            }
            Route::Module(request) => self.module(headers, &request).await,
            Route::Metadata(request, json) => self.metadata(headers, &request, json).await,
            Route::None => refuse::no_route(headers, path),
        };
        (answer, label)
    }

    fn listing(&self) -> Listing<'_> {
        Listing {
            catalog: &self.catalog,
            store: self.cache.store().as_ref(),
        }
    }

    fn list(&self, headers: &HeaderMap, path: &str, items: Vec<listing::Item>) -> Answer {
        if listing::wants_json(headers) {
            let text = serde_json::to_string_pretty(&items).unwrap_or_default();
            respond::small(headers, JSON, text + "\n", self.started)
        } else {
            respond::small(headers, HTML, listing::html(path, &items), self.started)
        }
    }

    fn unknown(&self, headers: &HeaderMap, request: &Request) -> Answer {
        let versions = self
            .listing()
            .versions(&request.name)
            .iter()
            .map(ToString::to_string)
            .collect();
        let nearest = self
            .catalog
            .nearest(request.name.as_str())
            .into_iter()
            .map(ToString::to_string)
            .collect();
        refuse::unknown(
            headers,
            request,
            self.catalog.lists(request.name.as_str()),
            versions,
            nearest,
        )
    }

    /// What may answer; `None` when no rule and no local file does.
    fn plan(&self, request: &Request) -> Option<Plan> {
        let mut plan = self.catalog.plan(request);
        if plan.versions.is_empty() {
            let local = self.listing().highest_local(&request.name)?;
            plan.versions.push((local, Why::Exact));
        }
        let local = || {
            plan.versions
                .iter()
                .any(|(version, _)| self.listing().is_local(&request.name, version))
        };
        (!plan.candidates.is_empty() || local()).then_some(plan)
    }

    async fn module(&self, headers: &HeaderMap, request: &Request) -> Answer {
        let Some(plan) = self.plan(request) else {
            return self.unknown(headers, request);
        };
        match self.cache.get(&request.name, &plan).await {
            Ok(served) => respond::module(
                headers,
                served,
                matches!(request.version, Some(Version::Digest(_))),
            ),
            Err(error) => self.refused(headers, request, &error),
        }
    }

    async fn metadata(&self, headers: &HeaderMap, request: &Request, json: bool) -> Answer {
        let Some(plan) = self.plan(request) else {
            return self.unknown(headers, request);
        };
        let served = match self.cache.get(&request.name, &plan).await {
            Ok(served) => served,
            Err(error) => return self.refused(headers, request, &error),
        };
        let version = request
            .version
            .as_ref()
            .or(plan.versions.first().map(|(version, _)| version));
        let (reference, manifest) = match &served.origin {
            Origin::Registry { reference, manifest } => (reference.to_string(), Some(*manifest)),
            Origin::Overlay(path) => (path.display().to_string(), None),
        };
        let metadata = Metadata {
            name: request.name.as_str(),
            version: &version.map(ToString::to_string).unwrap_or_default(),
            module: &served.module,
            modified: served.modified,
            reference: &reference,
            manifest,
        };
        let mut answer = if json {
            let text = serde_json::to_string_pretty(&metadata).unwrap_or_default();
            respond::small(headers, JSON, text + "\n", served.modified)
        } else {
            respond::small(headers, TEXT, metadata_txt::render(&metadata), served.modified)
        };
        answer.note = respond::describe(
            &mut answer.headers,
            &served.origin,
            served.why.as_str(),
            &served.status,
        );
        answer
    }

    fn refused(&self, headers: &HeaderMap, request: &Request, error: &crate::cache::CacheError) -> Answer {
        let versions = self
            .listing()
            .versions(&request.name)
            .iter()
            .map(ToString::to_string)
            .collect();
        refuse::cache_error(headers, request, error, versions)
    }
}
