//! A layer on its way: watched for silence and slowness, and resumed where it broke.
//!
//! What comes is one stream to its reader, however often the connection was lost: the next request asks for the rest
//! (RFC 9110, section 14, `Range`). A registry that does not know ranges sends the whole again, and what was there
//! already is passed over. Pieces of different answers can only fit together if they are of one blob, which the reader's
//! digest decides.

use super::client::{Inner, Turn};
use super::diagnose;
use super::error::{Kind, RegistryError};
use super::retry::{LOOK, Silence};
use super::route::{Endpoint, Host};
use super::transport::{self, Answer};
use crate::oci::{Digest, Reference};
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a transfer is taken up again in all, however far it came each time.
const MOST_RESUMES: u32 = 20;
/// The rate is judged over so many times the longest silence.
const RATE_WINDOW: u32 = 3;

/// How long a transfer waits for a registry that is left alone.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is to be received.
pub struct Wanted {
    /// Whose layer it is.
    pub reference: Reference,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, by the manifest.
    pub size: u64,
}

/// One transfer.
pub struct Transfer {
    inner: Arc<Inner>,
    wanted: Wanted,
    what: String,
    host: Arc<Host>,
    answer: Option<Answer>,
    /// Held as long as bytes come.
    turn: Turn,
    /// Bytes that the reader has.
    received: u64,
    /// Bytes of the present answer that the reader has already.
    skip: u64,
    resumes: u32,
    /// Attempts since the last byte.
    attempts: u32,
    /// Attempts that were too slow, whatever came of them.
    slow: u32,
    end: Instant,
    window: Instant,
    window_bytes: u64,
    over: bool,
}

/// An opened layer.
pub struct Opened {
    answer: Answer,
    turn: Turn,
    host: Arc<Host>,
    skip: u64,
}

/// Asks `endpoint` for a blob, from byte `from` on, while it has `turn`.
pub async fn open(
    inner: &Inner,
    endpoint: &Endpoint,
    wanted: &Wanted,
    from: u64,
    turn: Turn,
) -> Result<Opened, RegistryError> {
    let host = endpoint.host.clone();
    let Wanted { reference, digest, size } = wanted;
    let path = endpoint.path(reference.repository_path(), &format!("blobs/{digest}"));
    let what = format!("GET the blob {digest} of {}", reference.repository());
    let mut headers = HeaderMap::new();
    if from > 0 {
        let range = HeaderValue::from_str(&format!("bytes={from}-"));
        headers.extend(range.ok().map(|range| (RANGE, range)));
    }
    let mut answer = inner.send(endpoint, reference, Method::GET, &path, headers).await?;
    // One that knows ranges of some forms only (go-containerregistry wants both ends) has the whole all the same.
    if from > 0 && answer.response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        answer = inner.send(endpoint, reference, Method::GET, &path, HeaderMap::new()).await?;
    }
    let skip = match answer.response.status() {
        StatusCode::OK => from,
        StatusCode::PARTIAL_CONTENT if from > 0 && begins_at(answer.response.headers()) == Some(from) => 0,
        StatusCode::PARTIAL_CONTENT => {
            return Err(RegistryError::new(
                Kind::Upstream,
                format!("{what}: other bytes than those asked for"),
            ));
        }
        _ => {
            let mut error = inner.refusal(&what, endpoint, reference, answer).await;
            // The manifest is there and names it: the registry is incomplete, not empty.
            if matches!(error.kind, Kind::NotFound | Kind::Denied) {
                error.kind = Kind::Upstream;
                error.code = Kind::Upstream.code();
                error.hint = "the registry gives the manifest and not its layer; push the artifact again, or look at its storage".into();
            }
            return Err(error);
        }
    };
    if transport::is_web_page(answer.response.headers()) {
        let error = RegistryError::new(Kind::Upstream, format!("{what}: a web page instead of a layer"));
        return Err(
            error.hint(format!("is there a registry at {}, or a proxy with a page of its own?", host.name))
        );
    }
    // Told before a byte is taken, so that another endpoint may have the right one.
    let expected = size - (from - skip);
    if let Some(length) = answer.response.content_length().filter(|length| *length != expected) {
        let detail = format!("{what}: should have {expected} bytes and has {length}");
        return Err(RegistryError::new(Kind::Corrupt, detail).code("size_mismatch"));
    }
    Ok(Opened { answer, turn, host, skip })
}

/// The first byte of a `Content-Range: bytes first-last/size`.
pub fn begins_at(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

impl Transfer {
    /// Of what was opened.
    pub fn new(inner: Arc<Inner>, wanted: Wanted, opened: Opened) -> Self {
        let Opened { answer, turn, host, .. } = opened;
        let now = Instant::now();
        Self {
            inner,
            what: format!("GET the blob {} of {}", wanted.digest, wanted.reference.repository()),
            wanted,
            end: now + host.limits.pull,
            host,
            answer: Some(answer),
            turn,
            received: 0,
            skip: 0,
            resumes: 0,
            attempts: 1,
            slow: 0,
            window: now,
            window_bytes: 0,
            over: false,
        }
    }

    /// Its bytes.
    pub fn stream(self) -> BoxStream<'static, Result<Bytes, RegistryError>> {
        unfold(self, |mut transfer| async move {
            if transfer.over {
                return None;
            }
            let next = transfer.next().await;
            transfer.over = !matches!(next, Some(Ok(_)));
            next.map(|next| (next, transfer))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, RegistryError>> {
        loop {
            let error = match self.piece().await {
                Ok(Some(bytes)) => return Some(Ok(bytes)),
                Ok(None) => return None,
                Err(error) => error,
            };
            self.answer = None;
            self.turn = None;
            if let Err(error) = self.resume(error).await {
                return Some(Err(error));
            }
        }
    }

    /// The next bytes that the reader does not have.
    async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(answer) = self.answer.as_mut().filter(|_| self.received < self.wanted.size) else {
                return Ok(None);
            };
            let limits = self.host.limits;
            let now = Instant::now();
            if now >= self.end {
                return Err(
                    diagnose::timed_out(&self.host, &self.what, None, "pull_timeout").code("pull_timeout")
                );
            }
            let wait = limits.idle.min(self.end - now);
            let (url, from) = (answer.response.url().clone(), answer.from.clone());
            let got = tokio::time::timeout(wait, answer.response.chunk()).await;
            let mut bytes = match got {
                Err(_) if wait < limits.idle => continue,
                Err(_) => return Err(diagnose::timed_out(&self.host, &self.what, None, "idle_timeout")),
                Ok(Err(error)) => {
                    let way = self.host.egress.way(&url);
                    return Err(self.cut(diagnose::transport(&self.host, &self.what, &from, way, &error)));
                }
                Ok(Ok(None)) => {
                    return Err(self.cut(RegistryError::new(Kind::Connect, self.what.clone())));
                }
                Ok(Ok(Some(bytes))) => bytes,
            };
            self.rate(bytes.len() as u64)?;
            let known = self.skip.min(bytes.len() as u64);
            bytes.advance(known as usize);
            self.skip -= known;
            if !bytes.is_empty() {
                self.received += bytes.len() as u64;
                self.attempts = 0;
                return Ok(Some(bytes));
            }
        }
    }

    /// A connection that ended before the blob did.
    fn cut(&self, error: RegistryError) -> RegistryError {
        let (received, size) = (self.received, self.wanted.size);
        let detail = format!("{}: cut after {received} of {size} bytes ({})", self.what, error.detail);
        let code = if error.kind == Kind::Connect { "size_mismatch" } else { error.code };
        RegistryError { detail, code, ..error }
    }

    /// Ends a transfer that drips.
    fn rate(&mut self, bytes: u64) -> Result<(), RegistryError> {
        let limits = &self.host.limits;
        let window = limits.idle * RATE_WINDOW;
        self.window_bytes += bytes;
        let passed = self.window.elapsed();
        if passed < window {
            return Ok(());
        }
        let rate = (self.window_bytes as f64 / passed.as_secs_f64()) as u64;
        (self.window, self.window_bytes) = (Instant::now(), 0);
        if rate >= limits.least_rate {
            return Ok(());
        }
        let detail = format!("{}: {rate} bytes a second, less than registry.least_rate", self.what);
        let hint =
            format!("if the line is that slow, lower registry.least_rate or {}.least_rate", self.host.key);
        Err(RegistryError::new(Kind::TimedOut, detail).code("slow").hint(hint))
    }

    /// Opens the rest, or says why not.
    async fn resume(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let mut silence = Silence::from(error);
        let patience = Instant::now() + PATIENCE;
        loop {
            let error = &silence.error;
            // A registry that asks for a moment, or is asked by somebody else: to wait is no attempt.
            let asked_to_wait =
                error.retry_after.filter(|wait| Instant::now() + *wait < patience.min(self.end));
            if let Some(wait) = asked_to_wait {
                tokio::time::sleep(wait.max(LOOK)).await;
            } else if !(error.is_waiting_for_others() && silence.may_ask(patience.min(self.end)).await) {
                self.attempts += 1;
                self.resumes += 1;
                self.slow += u32::from(error.kind == Kind::TimedOut);
                let most = self.inner.retry().attempts;
                let spent = self.attempts >= most || self.slow >= most || self.resumes > MOST_RESUMES;
                if !error.may_pass() || spent || Instant::now() >= self.end {
                    return Err(silence.error);
                }
                self.inner.pause(&self.wanted.reference, self.attempts, error).await;
            }
            let (inner, wanted, from) = (&self.inner, &self.wanted, self.received);
            let ask = |endpoint: Arc<Endpoint>, turn: Turn| -> BoxFuture<'_, _> {
                Box::pin(async move { open(inner, &endpoint, wanted, from, turn).await })
            };
            match inner.once(&wanted.reference, true, &ask).await {
                Ok((Opened { answer, turn, host, skip }, _)) => {
                    let (reference, size) = (&wanted.reference, wanted.size);
                    tracing::info!(%reference, registry = host.name, from, size, "transfer resumed");
                    (self.answer, self.turn, self.host, self.skip) = (Some(answer), turn, host, skip);
                    (self.window, self.window_bytes) = (Instant::now(), 0);
                    return Ok(());
                }
                Err(other) => silence = other,
            }
        }
    }
}
