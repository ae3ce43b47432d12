//! A layer on its way: watched for silence and slowness, and resumed where it broke.
//!
//! What comes is one stream to its reader, however often the connection was lost: the next request asks for the rest
//! (RFC 9110, section 14, `Range`). A registry that does not know ranges sends the whole again, and what was there
//! already is passed over. Pieces of different answers can only fit together if they are of one blob, which the reader's
//! digest decides.

use super::client::Inner;
use super::diagnose;
use super::error::{Kind, RegistryError};
use super::route::{Endpoint, Host};
use super::transport::Answer;
use crate::oci::{Digest, Reference};
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How often a transfer is taken up again in all, however far it came each time.
const MOST_RESUMES: u32 = 20;
/// The rate is judged over so many times the longest silence.
const RATE_WINDOW: u32 = 3;

/// One transfer.
pub struct Transfer {
    inner: Arc<Inner>,
    reference: Reference,
    digest: Digest,
    what: String,
    host: Arc<Host>,
    answer: Option<Answer>,
    /// Held as long as bytes come.
    turn: Option<OwnedSemaphorePermit>,
    /// Bytes that the reader has.
    received: u64,
    /// Bytes of the present answer that the reader has already.
    skip: u64,
    /// The blob's size, by the first answer.
    size: Option<u64>,
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
    turn: Option<OwnedSemaphorePermit>,
    host: Arc<Host>,
    skip: u64,
}

/// Asks `endpoint` for a blob, from byte `from` on.
pub async fn open(
    inner: &Inner,
    endpoint: &Endpoint,
    reference: &Reference,
    digest: &Digest,
    from: u64,
) -> Result<Opened, RegistryError> {
    let host = endpoint.host.clone();
    let turn = inner.turn(&host).await;
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
    Ok(Opened { answer, turn, host, skip })
}

/// The first byte of a `Content-Range: bytes first-last/size`.
fn begins_at(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

impl Transfer {
    /// Of what was opened.
    pub fn new(inner: Arc<Inner>, reference: &Reference, digest: &Digest, opened: Opened) -> Self {
        let Opened { answer, turn, host, .. } = opened;
        let now = Instant::now();
        Self {
            inner,
            reference: reference.clone(),
            digest: *digest,
            what: format!("GET the blob {digest} of {}", reference.repository()),
            end: now + host.limits.pull,
            host,
            size: answer.response.content_length(),
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

    /// The size that the registry names.
    pub fn size(&self) -> Option<u64> {
        self.size
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
            let Some(answer) = self.answer.as_mut() else { return Ok(None) };
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
                Ok(Ok(None)) if self.size.is_some_and(|size| self.received < size) => {
                    return Err(self.cut(RegistryError::new(Kind::Connect, self.what.clone())));
                }
                Ok(Ok(None)) => return Ok(None),
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
        let of = self.size.map(|size| format!(" of {size}")).unwrap_or_default();
        let detail = format!("{}: cut after {}{of} bytes ({})", self.what, self.received, error.detail);
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
        let mut error = error;
        loop {
            self.attempts += 1;
            self.resumes += 1;
            self.slow += u32::from(error.kind == Kind::TimedOut);
            let most = self.inner.retry.attempts;
            let spent = self.attempts >= most || self.slow >= most || self.resumes > MOST_RESUMES;
            if !error.may_pass() || spent || Instant::now() >= self.end {
                return Err(error);
            }
            self.inner.pause(&self.reference, self.attempts, &error).await;
            let (inner, reference, digest, from) = (&self.inner, &self.reference, self.digest, self.received);
            let digest = &digest;
            let ask = |endpoint: Arc<Endpoint>| -> BoxFuture<'_, _> {
                Box::pin(async move { open(inner, &endpoint, reference, digest, from).await })
            };
            match inner.once(reference, true, &ask).await {
                Ok(Opened { answer, turn, host, skip }) => {
                    let (from, size) = (self.received, self.size);
                    tracing::info!(reference = %self.reference, registry = host.name, from, size, "transfer resumed");
                    (self.answer, self.turn, self.host, self.skip) = (Some(answer), turn, host, skip);
                    (self.window, self.window_bytes) = (Instant::now(), 0);
                    return Ok(());
                }
                Err(other) => error = other,
            }
        }
    }
}
