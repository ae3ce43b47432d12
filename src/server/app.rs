//! One connection: pingora reads a request and writes an answer; what lies between is ours.

use super::access_log::{self, Line};
use super::admin::{self, Admin};
use super::data::Data;
use super::guard::{self, Head};
use super::listen::{Arrival, Drain};
use super::respond::{Answer, Common, Content, Note};
use super::send::{Carrier, patience};
use super::tls::{Shown, Tls};
use super::wire::{HEAD_TOO_LARGE, Link, Wire};
use super::{Live, refuse, spans};
use crate::http::trace_context::{RequestId, TraceParent};
use crate::metrics::Metrics;
use crate::origin;
use crate::registry::trust;
use crate::store::Room;
use crate::store::entry::PIECE_BYTES;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HOST, RANGE, SERVER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::{Instrument, Span};

/// Which of the two ports a connection is on.
pub enum Face {
    /// Plugins.
    Data(Data),
    /// Metrics and health.
    Admin(Box<Admin>),
}

/// What all connections of a port share.
pub struct App {
    /// What answers.
    pub face: Face,
    /// How to treat connections.
    pub config: Live,
    /// What to count.
    pub metrics: Arc<Metrics>,
    /// Whether we are about to leave.
    pub drain: Drain,
    /// What is spoken, and whose certificates count.
    pub tls: Arc<Tls>,
    /// Memory for what was read from disk and is not sent yet.
    pub sending: Room,
}

/// One connection.
pub struct Connection {
    /// The port's.
    pub app: Arc<App>,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// The same, as the log has it.
    pub peer_text: Box<str>,
    /// Whose certificate they showed, if they did.
    pub shown: Option<Arc<Shown>>,
    /// By which reading of the certificates it was found good last.
    pub vouched: AtomicU64,
    /// When they came.
    pub since: Instant,
    /// True once it had a request.
    pub used: AtomicBool,
    /// When it became idle last, in milliseconds after `since`.
    pub idle: AtomicU64,
    /// What its wire is to know.
    pub link: Arc<Link>,
    /// Its address's part of `App::sending`.
    pub share: Room,
    /// How pingora is to treat it.
    pub options: HttpServerOptions,
}

#[async_trait]
impl HttpServerApp for Connection {
    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_concurrent_streams(STREAMS).max_header_list_size(HEADER_LIST_BYTES);
        options.max_send_buffer_size(PIECE_BYTES);
        Some(options)
    }

    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // One deadline for the whole head: the parser's own is for each read, so that a byte a minute would never end.
        let wait = self.patience_for_head();
        self.used.store(true, Ordering::Relaxed);
        // The parser's own time for a next request is not asked for: this deadline is the shorter one.
        session.set_keepalive(Some(0));
        match tokio::time::timeout(wait, session.read_request()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return None,
            Ok(Err(error)) => {
                self.link.linger();
                // Never the error's own text: it quotes what was sent, credentials too.
                let text = error.to_string();
                let (status, error) = if [HEAD_TOO_LARGE, "header larger than", "too many headers"]
                    .iter()
                    .any(|told| text.contains(told))
                {
                    (431, "header too large")
                } else {
                    (400, "no HTTP")
                };
                let id = request_id(None);
                tracing::info!(target: "access", request_id = %id, peer = %self.peer, status, error, "malformed request");
                let status_text = status.to_string();
                self.app.metrics.requests.with_label_values(&["none", status_text.as_str(), "none"]).inc();
                self.app.refused(if status == 431 { "headers_too_large" } else { "no_http" });
                let mut refused = ServerSession::generate_error(status);
                let _ = refused.insert_header(REQUEST_ID, id.value());
                let _ = session.write_error_response(refused, Bytes::new()).await;
                return None;
            }
        }
        let is_clean = self.link.head_ended();
        let in_flight = self.app.drain.begin();
        let head = session.req_header();
        let parent = TraceParent::of(&head.headers);
        let span = spans::open(&head.method, head.uri.path(), self.peer, parent);
        let id = request_id(parent);
        let work = self.serve(&mut session, shutdown, is_clean, id, span.clone()).instrument(span);
        // In a box, because what an answer needs would be kept while the connection is idle.
        if !Box::pin(origin::on_behalf_of(id, work)).await {
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        drop(in_flight);
        self.until_spoken(ReusedHttpStream::from_reusable_stream(stream, settings)).await
    }
}

impl Connection {
    /// The connection again, when its client says something more; `None` when it stays idle for too long.
    async fn until_spoken(&self, kept: ReusedHttpStream) -> Option<ReusedHttpStream> {
        self.rest();
        let (stream, settings) = kept.consume();
        if let Some(wire) = stream.as_any().downcast_ref::<Wire>() {
            tokio::time::timeout(self.idle_left(), wire.spoken()).await.ok()?;
        }
        Some(ReusedHttpStream::new(stream, settings))
    }

    /// It is idle from now on.
    pub fn rest(&self) {
        self.idle.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The time that there is for the next request's head, were its connection idle until then.
    pub fn patience_for_head(&self) -> Duration {
        if self.used.load(Ordering::Relaxed) {
            return self.idle_left();
        }
        self.app.config.load().header_timeout.saturating_sub(self.since.elapsed())
    }

    /// What is left of the time that it may be idle.
    fn idle_left(&self) -> Duration {
        let since = Duration::from_millis(self.idle.load(Ordering::Relaxed));
        let idle = self.since.elapsed().saturating_sub(since);
        self.app.config.load().idle_timeout.saturating_sub(idle)
    }
}

impl Connection {
    /// Answers a request that was read; true when all of the answer was written.
    async fn serve(
        &self,
        session: &mut ServerSession,
        shutdown: &ShutdownWatch,
        is_clean: bool,
        id: RequestId,
        span: Span,
    ) -> bool {
        let config = **self.app.config.load();
        let began = Instant::now();
        // Frames have no lines to be ambiguous about.
        let raw = if session.is_http2() { Bytes::new() } else { session.to_h1_raw() };
        let head_only = session.req_header().method == Method::HEAD;
        let (answer, label, reusable) = self.app.answer(session, &raw, is_clean, self, id).await;

        let reusable = reusable && self.stays(shutdown);
        session.set_keepalive(reusable.then(|| config.idle_timeout.as_secs().max(1)));
        if !reusable && !session.is_http2() {
            self.link.linger();
        }
        session.set_min_send_rate(Some(config.send_rate.as_u64() as usize));
        if session.is_http2() {
            // There the least rate is not known; a piece has a time instead.
            session.set_write_timeout(Some(patience(&config)));
        }
        let Answer { status, headers, common, content, note } = answer;
        spans::answered(&span, &session.req_header().method, label, status, &note);
        let head = session.write_response_header(Box::new(head(status, headers, common, id)));
        let patience = patience(&config);
        let content = if head_only { Content::None } else { content };
        let (bytes, complete) = match tokio::time::timeout(patience, head).await {
            Ok(Ok(())) => self.send(Carrier::Session(session), content, patience).await,
            Ok(Err(_)) | Err(_) => (0, false),
        };
        let asked = session.req_header();
        let (method, target, headers) = (&asked.method, asked.raw_path(), &asked.headers);
        self.tell(&Ended { id, method, target, headers, label, status, note: &note, bytes, complete, began });
        if !complete {
            // The client must see that this was not all. One that takes nothing would not take a farewell either.
            if session.is_http2() {
                session.shutdown().await;
            }
        }
        complete
    }

    /// Whether it may go on after the answer, as far as we are asked.
    pub fn stays(&self, shutdown: &ShutdownWatch) -> bool {
        // Whoever is known no longer has to show another certificate, on another connection.
        let is_known = self.shown.is_none() || self.shown().is_some();
        is_known && !self.app.drain.is_draining() && !*shutdown.borrow()
    }

    /// Tells the log, the metrics and the operators of an answer.
    pub fn tell(&self, ended: &Ended<'_>) {
        let Ended { id, method, target, headers, label, status, note, bytes, complete, began } = *ended;
        let target = admin::shown(String::from_utf8_lossy(target));
        let agent = headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        if let Face::Data(data) = &self.app.face {
            data.note_failure(&target, status, note);
        }
        let took = began.elapsed();
        self.app.metrics.answered(label, status, note.cache.unwrap_or("none"), took, bytes);
        if let Some(code) = &note.code {
            self.app.refused(code);
        }
        access_log::write(&Line {
            id,
            peer: &self.peer_text,
            method: method.as_str(),
            target: &target,
            status,
            bytes,
            took,
            complete,
            agent: agent.as_deref().unwrap_or_default(),
            // A page that is open asks every few seconds; what it changes is told.
            probe: label == "health" || (label == "admin" && *method == Method::GET && status < 400),
            note,
        });
    }
}

/// The head of an answer.
fn head(status: u16, mut headers: HeaderMap, common: Option<Arc<Common>>, id: RequestId) -> ResponseHeader {
    if let Some(common) = common {
        headers.extend(common.fields.clone());
    }
    headers.insert(SERVER, HeaderValue::from_static("larder"));
    headers.insert(REQUEST_ID, id.value());
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    parts.headers = headers;
    ResponseHeader::from(parts)
}

/// An answer that was written, or could not be, and what it answers.
pub struct Ended<'a> {
    /// The request's name.
    pub id: RequestId,
    /// Its method.
    pub method: &'a Method,
    /// Its target, raw.
    pub target: &'a [u8],
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// For the metrics.
    pub label: &'static str,
    /// The answer's status.
    pub status: u16,
    /// What the answer was about.
    pub note: &'a Note,
    /// Bytes of body sent.
    pub bytes: u64,
    /// Whether that was all.
    pub complete: bool,
    /// When the request had been read.
    pub began: Instant,
}

/// Every answer has its request's name, which the log and the trace have too.
const REQUEST_ID: HeaderName = HeaderName::from_static("larder-request-id");

/// The trace that the sender says it belongs to, or a name of its own.
pub fn request_id(parent: Option<TraceParent>) -> RequestId {
    RequestId::new(parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace))
}

/// Most streams of a connection at once, and most bytes of a request's fields: as much as over HTTP/1.
const STREAMS: u32 = 100;
const HEADER_LIST_BYTES: u32 = 16 << 10;

impl Connection {
    /// A connection from `peer`, by the settings in use now.
    pub fn new(app: Arc<App>, arrival: Arrival) -> Self {
        let mut options = HttpServerOptions::default();
        {
            let config = app.config.load();
            options.h2c = config.h2c;
            options.h2_idle_timeout = Some(config.idle_timeout);
        }
        let Arrival { peer, shown, since, link, share } = arrival;
        let (vouched, idle, used) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let peer_text = peer.to_string().into();
        Self { app, peer, peer_text, shown, vouched, since, used, idle, link, share, options }
    }
}

impl Connection {
    /// The certificate that was shown, as long as it would be taken now too.
    pub fn shown(&self) -> Option<&Shown> {
        self.shown.as_deref().filter(|shown| self.app.tls.vouches(shown, &self.vouched, trust::now()))
    }
}

impl App {
    /// Counts what was refused to a gateway.
    fn refused(&self, code: &str) {
        if matches!(self.face, Face::Data(_)) {
            self.metrics.refused.with_label_values(&[code]).inc();
        }
    }

    /// The answer, its label for metrics, and whether the connection may go on.
    async fn answer(
        &self,
        session: &mut ServerSession,
        raw: &[u8],
        is_clean: bool,
        connection: &Connection,
        id: RequestId,
    ) -> (Answer, &'static str, bool) {
        let head = session.req_header();
        let headers = &head.headers;
        let methods: guard::Methods = match &self.face {
            Face::Data(_) => guard::read_only,
            Face::Admin(_) => admin::methods,
        };
        let head_as_it_came = Head {
            method: &head.method,
            target: head.raw_path(),
            version: head.version,
            headers,
            raw,
            is_clean,
        };
        let accepted = match guard::check(&head_as_it_came, methods) {
            Ok(accepted) => accepted,
            Err(rejected) => return (refuse::rejected(headers, &rejected), "none", false),
        };
        // RFC 9110, section 14.2: a range is for GET alone.
        let without_range = (head.method == Method::HEAD && headers.contains_key(RANGE)).then(|| {
            let mut headers = headers.clone();
            headers.remove(RANGE);
            headers
        });
        let admin = match &self.face {
            Face::Admin(admin) => admin,
            Face::Data(data) => {
                let headers = without_range.as_ref().unwrap_or(headers);
                let (answer, label) = data.answer(headers, &accepted, connection.shown()).await;
                return (answer, label, accepted.reusable && !accepted.has_body);
            }
        };
        let host = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = host.or_else(|| headers.get(HOST).map(HeaderValue::as_bytes));
        let asked = admin::Asked {
            method: head.method.clone(),
            host: host.map(|host| String::from_utf8_lossy(host).into_owned()),
            peer: connection.peer,
            certificate: connection.shown().map(Shown::name),
            request_id: id.to_string(),
            headers: without_range.unwrap_or_else(|| headers.clone()),
            accepted,
        };
        let mut body = admin::Body::new(session, &connection.link, self.config.load().header_timeout);
        let (answer, label) = Box::pin(admin.answer(&asked, &mut body)).await;
        (answer, label, asked.accepted.reusable && (body.is_read || !asked.accepted.has_body))
    }
}
