//! One connection: pingora reads a request and writes an answer; what lies between is ours.

use super::access_log::{self, Line};
use super::admin::{self, Admin};
use super::data::Data;
use super::guard::{self, Head};
use super::listen::{Arrival, Drain};
use super::respond::{Answer, Asked, Content};
use super::tls::{Shown, Tls};
use super::wire::{HEAD_TOO_LARGE, Link, Wire};
use super::{Config, Live, refuse, spans};
use crate::http::trace_context::{RequestId, TraceParent};
use crate::metrics::Metrics;
use crate::oci::Digest;
use crate::origin;
use crate::registry::trust;
use crate::store::entry::{ModuleFile, PIECE_BYTES};
use crate::store::{Body, Room};
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HOST, RANGE, SERVER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
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

/// What is to be sent of a file.
struct FilePart {
    file: ModuleFile,
    first: u64,
    last: u64,
    digest: Digest,
    asked: Arc<Asked>,
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
        let config = **self.app.config.load();
        // One deadline for the whole head: the parser's own is for each read, so that a byte a minute would never end.
        let wait = if self.used.swap(true, Ordering::Relaxed) {
            self.idle_left()
        } else {
            config.header_timeout.saturating_sub(self.since.elapsed())
        };
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
        let span = spans::open(head, self.peer, parent);
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
        self.idle.store(self.since.elapsed().as_millis() as u64, Ordering::Relaxed);
        let (stream, settings) = kept.consume();
        if let Some(wire) = stream.as_any().downcast_ref::<Wire>() {
            tokio::time::timeout(self.idle_left(), wire.spoken()).await.ok()?;
        }
        Some(ReusedHttpStream::new(stream, settings))
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
        let head_only = session.req_header().method == http::Method::HEAD;
        let (answer, label, reusable) = self.app.answer(session, &raw, is_clean, self, id).await;

        // Whoever is known no longer has to show another certificate, on another connection.
        let is_known = self.shown.is_none() || self.shown().is_some();
        let reusable = reusable && is_known && !self.app.drain.is_draining() && !*shutdown.borrow();
        session.set_keepalive(reusable.then(|| config.idle_timeout.as_secs().max(1)));
        if !reusable && !session.is_http2() {
            self.link.linger();
        }
        session.set_min_send_rate(Some(config.send_rate.as_u64() as usize));
        if session.is_http2() {
            // There the least rate is not known; a piece has a time instead.
            session.set_write_timeout(Some(patience(&config)));
        }
        let Answer { status, headers, content, note } = answer;
        spans::answered(&span, session.req_header(), label, status, &note);
        let head = self.head(status, headers, id);
        let content = if head_only { Content::None } else { content };
        let (bytes, complete) = self.write(session, head, content, patience(&config)).await;
        let asked = session.req_header();
        let (method, target) =
            (asked.method.as_str(), admin::shown(String::from_utf8_lossy(asked.raw_path())));
        let agent = asked.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        if let Face::Data(data) = &self.app.face {
            data.note_failure(&target, status, &note);
        }

        let took = began.elapsed();
        self.app.metrics.answered(label, status, note.cache.unwrap_or("none"), took, bytes);
        if let Some(code) = &note.code {
            self.app.refused(code);
        }
        access_log::write(&Line {
            id,
            peer: &self.peer_text,
            method,
            target: &target,
            status,
            bytes,
            took,
            complete,
            agent: agent.as_deref().unwrap_or_default(),
            // A page that is open asks every few seconds; what it changes is told.
            probe: label == "health" || (label == "admin" && method == "GET" && status < 400),
            note: &note,
        });
        if !complete {
            // The client must see that this was not all. One that takes nothing would not take a farewell either.
            if session.is_http2() {
                session.shutdown().await;
            }
        }
        complete
    }

    /// The head of an answer.
    fn head(&self, status: u16, mut headers: HeaderMap, id: RequestId) -> ResponseHeader {
        headers.insert(SERVER, HeaderValue::from_static("larder"));
        headers.insert(REQUEST_ID, id.value());
        let mut parts = http::Response::new(()).into_parts().0;
        parts.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        parts.headers = headers;
        ResponseHeader::from(parts)
    }

    /// Writes an answer: bytes of body sent, and whether that was all.
    async fn write(
        &self,
        session: &mut ServerSession,
        head: ResponseHeader,
        content: Content,
        patience: Duration,
    ) -> (u64, bool) {
        let head = session.write_response_header(Box::new(head));
        if !tokio::time::timeout(patience, head).await.is_ok_and(|written| written.is_ok()) {
            return (0, false);
        }
        let bytes = match content {
            Content::None => Bytes::new(),
            Content::Bytes(bytes) => bytes,
            Content::File { file, first, last, digest, asked } => {
                let part = FilePart { file, first, last, digest, asked };
                // In a box, because what comes from memory needs none of it.
                return Box::pin(self.write_file(session, part)).await;
            }
        };
        if bytes.is_empty() {
            let ended = tokio::time::timeout(patience, session.finish_body()).await;
            return (0, ended.is_ok_and(|ended| ended.is_ok()));
        }
        let sent = write_bytes(session, bytes).await;
        (session.body_bytes_sent() as u64, sent)
    }

    /// Sends a file piece by piece, each checked before it leaves. When one proves damaged the answer goes on from another
    /// copy of the same module, if there is one to be had.
    async fn write_file(&self, session: &mut ServerSession, part: FilePart) -> (u64, bool) {
        let FilePart { mut file, first, last, digest, asked } = part;
        let piece_bytes = PIECE_BYTES as u64;
        let mut sent = 0;
        let mut replaced = false;
        let mut index = first / piece_bytes;
        while index <= last / piece_bytes {
            // Until it has left, over HTTP/2 too, whose library keeps it for a while. First of the own address's share, so
            // that who takes slowly holds up nobody else.
            let share = self.share.take(piece_bytes).await;
            let taken = self.app.sending.take(piece_bytes).await;
            let reader = file.clone();
            let read = tokio::task::spawn_blocking(move || reader.piece(index as usize)).await;
            let piece = match read.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                Ok(piece) => taken.hold_both(share, piece),
                Err(error) => {
                    tracing::error!(%digest, %error, "a module proved damaged while it was sent");
                    let another = match &self.app.face {
                        Face::Data(data) if !replaced => {
                            data.another_copy(&digest, &file, error, &asked).await
                        }
                        _ => None,
                    };
                    match another {
                        Some(Body::File(another)) => {
                            file = another;
                            replaced = true;
                            continue;
                        }
                        Some(Body::Memory(bytes)) => {
                            let rest = bytes.slice((first + sent) as usize..last as usize + 1);
                            let whole = write_bytes(session, rest).await;
                            return (session.body_bytes_sent() as u64, whole);
                        }
                        None => return (sent, false),
                    }
                }
            };
            let start = index * piece_bytes;
            let from = first.saturating_sub(start) as usize;
            let to = (last + 1 - start).min(piece.len() as u64) as usize;
            let part = piece.slice(from..to);
            let length = part.len() as u64;
            if session.write_response_body(part, index == last / piece_bytes).await.is_err() {
                return (sent, false);
            }
            sent += length;
            index += 1;
        }
        (sent, true)
    }
}

/// Every answer has its request's name, which the log and the trace have too.
const REQUEST_ID: HeaderName = HeaderName::from_static("larder-request-id");

/// The trace that the sender says it belongs to, or a name of its own.
fn request_id(parent: Option<TraceParent>) -> RequestId {
    RequestId::new(parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace))
}

/// Bytes that are written at a time. The least rate is judged by what is written at once, so that whoever takes nothing of a
/// large module is gone after a minute; in smaller pieces a server would do more for the same bytes (measured).
const WRITE_BYTES: usize = 1 << 20;

/// Writes the rest of a body; true when all of it was.
async fn write_bytes(session: &mut ServerSession, mut bytes: Bytes) -> bool {
    let most = if session.is_http2() { PIECE_BYTES } else { WRITE_BYTES };
    while bytes.len() > most {
        if session.write_response_body(bytes.split_to(most), false).await.is_err() {
            return false;
        }
    }
    session.write_response_body(bytes, true).await.is_ok()
}

/// Most streams of a connection at once, and most bytes of a request's fields: as much as over HTTP/1.
const STREAMS: u32 = 100;
const HEADER_LIST_BYTES: u32 = 16 << 10;

/// The time that a client has for what is not judged by its rate: a piece at the least rate.
fn patience(config: &Config) -> Duration {
    Duration::from_secs(PIECE_BYTES as u64 / config.send_rate.as_u64().max(1) + 1)
}

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
    fn shown(&self) -> Option<&Shown> {
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
        let without_range = (head.method == http::Method::HEAD && headers.contains_key(RANGE)).then(|| {
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
