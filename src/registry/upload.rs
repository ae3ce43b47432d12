//! A blob on its way to a registry (distribution spec, "Pushing blobs").
//!
//! It is sent in chunks, each of which is in memory until the registry has it: when a connection breaks, the registry is
//! asked how far it came (GET on the upload, `Range`), and the rest of the chunk is sent. A registry that refuses chunks
//! gets the blob in one piece. The bytes are hashed on their way, and the last of them are sent only when all of them are
//! what the digest says: no registry ever gets a whole blob of other bytes, and the upload is cancelled.

use super::error::{Kind, RegistryError};
use super::payload::Payload;
use super::push::{Pusher, Sending};
pub use super::reading::Origin;
use super::reading::Reading;
use super::retry::{persist, wait};
use super::scope::Scope;
use super::transport::{self, Answer};
use crate::oci::{Descriptor, Digest};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use url::Url;

/// Where a registry says how small a chunk must not be, but for the last (distribution spec, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// One that wants larger chunks than this gets blobs in one piece: a chunk is held in memory.
const MOST_CHUNK: u64 = 64 << 20;
/// How often a chunk is taken up again in all, however far it came each time.
const MOST_RESUMES: u32 = 20;
/// The longest time for cancelling an upload that nobody waits for any more.
const CANCEL: Duration = Duration::from_secs(5);
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How a blob came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It was there.
    There,
    /// From another repository of the same registry.
    Mounted,
    /// It was sent.
    Sent,
}

/// Why an upload did not come to its end.
pub(super) enum Broken {
    /// The registry takes no chunks.
    NoChunks(RegistryError),
    /// It is lost, and may be begun again.
    Lost(RegistryError),
    /// The source has other bytes than it says; those of `endpoint`.
    Other(RegistryError, usize),
    /// That is the end.
    Over(RegistryError),
}

enum Begun {
    Mounted,
    Session { url: Url, least: u64 },
}

impl Pusher {
    /// Sees to it that `repository` has a blob: looks whether it is there, else mounts it from the repository `mount`, else
    /// sends it. Bytes that the registry has taken are added to `taken`.
    ///
    /// # Errors
    /// Why not. `Corrupt` when the source has other bytes than it says.
    pub async fn put_blob(
        &self,
        repository: &str,
        origin: &Origin<'_>,
        mount: Option<&str>,
        taken: &AtomicU64,
    ) -> Result<Arrived, RegistryError> {
        let Descriptor { digest, size, .. } = origin.blob;
        let arrived = if self.holds(repository, digest).await? {
            Arrived::There
        } else {
            self.bring(repository, origin, mount, taken).await?
        };
        if arrived != Arrived::Sent {
            taken.fetch_add(*size, Ordering::Relaxed);
        }
        self.note(digest, repository);
        Ok(arrived)
    }

    async fn bring(
        &self,
        repository: &str,
        origin: &Origin<'_>,
        mount: Option<&str>,
        taken: &AtomicU64,
    ) -> Result<Arrived, RegistryError> {
        let (mut attempts, mut distrusted) = (0, false);
        loop {
            let before = taken.load(Ordering::Relaxed);
            let upload = Upload { pusher: self, scope: Scope::push(repository), origin, taken };
            let broken = match upload.run(mount).await {
                Ok(arrived) => return Ok(arrived),
                Err(broken) => broken,
            };
            // What was sent is to be sent again.
            taken.store(before, Ordering::Relaxed);
            match broken {
                Broken::NoChunks(error) => {
                    let registry = &self.endpoint.host.name;
                    tracing::info!(
                        registry,
                        error = error.detail,
                        "takes no chunks: blobs are sent in one piece"
                    );
                    self.takes_no_chunks.store(true, Ordering::Relaxed);
                }
                // Once more: another mirror's bytes may be right.
                Broken::Other(_, endpoint) if !distrusted => {
                    origin.registry.distrust(origin.reference, endpoint);
                    distrusted = true;
                }
                Broken::Lost(error) if attempts + 1 < self.attempts => {
                    attempts += 1;
                    wait(attempts, error).await?;
                }
                Broken::Lost(error) | Broken::Other(error, _) | Broken::Over(error) => return Err(error),
            }
        }
    }
}

/// One attempt at a blob.
struct Upload<'u> {
    pusher: &'u Pusher,
    scope: Scope,
    origin: &'u Origin<'u>,
    taken: &'u AtomicU64,
}

impl Upload<'_> {
    async fn run(&self, mount: Option<&str>) -> Result<Arrived, Broken> {
        let (mut url, least) = match self.begin(mount).await.map_err(Broken::Over)? {
            Begun::Mounted => return Ok(Arrived::Mounted),
            Begun::Session { url, least } => (url, least),
        };
        let in_chunks = !self.pusher.takes_no_chunks.load(Ordering::Relaxed) && least <= MOST_CHUNK;
        let sent = if in_chunks { self.chunks(&mut url, least).await } else { self.whole(&url).await };
        if sent.is_err() {
            let cancel = self.send("DELETE", Method::DELETE, url, HeaderMap::new(), None);
            let _ = tokio::time::timeout(CANCEL, cancel).await;
        }
        sent.map(|()| Arrived::Sent)
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} the blob {} of {}", self.origin.blob.digest, self.scope.repository)
    }

    async fn send(
        &self,
        verb: &str,
        method: Method,
        url: Url,
        headers: HeaderMap,
        payload: Option<&Payload>,
    ) -> Result<Answer, RegistryError> {
        self.pusher.send(&self.what(verb), &self.scope, Sending { method, url, headers, payload }).await
    }

    async fn refusal(&self, verb: &str, answer: Answer) -> RegistryError {
        self.pusher.refusal(&self.what(verb), &self.scope, answer).await
    }

    /// Begins an upload, or has the blob mounted. A registry that does not mount begins one all the same, or refuses, and
    /// then it is asked without.
    async fn begin(&self, mount: Option<&str>) -> Result<Begun, RegistryError> {
        let url = self.pusher.url(&self.scope.repository, "blobs/uploads/")?;
        if let Some(from) = mount {
            let mut url = url.clone();
            let digest = self.origin.blob.digest.to_string();
            url.query_pairs_mut().append_pair("mount", &digest).append_pair("from", from);
            let scope = self.scope.clone().mounting(from);
            let sending = Sending { method: Method::POST, url, headers: empty(), payload: None };
            if let Ok(answer) = self.pusher.send(&self.what("mount"), &scope, sending).await
                && let Some(begun) = self.begun(&answer)?
            {
                return Ok(begun);
            }
        }
        persist(self.pusher.attempts, || async {
            let answer = self.send("POST", Method::POST, url.clone(), empty(), None).await?;
            match self.begun(&answer)? {
                Some(begun @ Begun::Session { .. }) => Ok(begun),
                _ => Err(self.refusal("POST", answer).await),
            }
        })
        .await
    }

    fn begun(&self, answer: &Answer) -> Result<Option<Begun>, RegistryError> {
        let headers = answer.response.headers();
        let least = || headers.get(CHUNK_MIN_LENGTH)?.to_str().ok()?.trim().parse().ok();
        Ok(match answer.response.status().as_u16() {
            201 => Some(Begun::Mounted),
            202 => Some(Begun::Session { url: self.location(answer)?, least: least().unwrap_or(0) }),
            _ => None,
        })
    }

    /// Where the upload goes on: relative or absolute, with all of its query.
    fn location(&self, answer: &Answer) -> Result<Url, RegistryError> {
        let endpoint = &self.pusher.endpoint;
        let from = answer.response.url();
        let mut headers = answer.response.headers().clone();
        let named = headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(|text| from.join(text));
        // A registry that does not know of the TLS before it names itself by http. It is the same one.
        if let Some(Ok(mut url)) = named
            && (from.scheme(), url.scheme()) == ("https", "http")
            && url.host() == from.host()
            && url.set_scheme("https").is_ok()
            && url.set_port(from.port()).is_ok()
            && let Ok(value) = HeaderValue::from_str(url.as_str())
        {
            headers.insert(LOCATION, value);
        }
        let what = self.what("upload");
        let to = transport::next(&what, from, &headers)?;
        let home =
            endpoint.base.parse().map_err(|e| RegistryError::new(Kind::Settings, format!("{what}: {e}")))?;
        transport::allowed(&endpoint.host, &what, &home, &to)?;
        Ok(to)
    }

    async fn chunks(&self, url: &mut Url, least: u64) -> Result<(), Broken> {
        let most = self.pusher.options.chunk.max(least as usize).max(1);
        let mut reading = Reading::open(self.origin).await?;
        while reading.left > 0 {
            let at = self.origin.blob.size - reading.left;
            let bytes = reading.piece(most).await?;
            self.chunk(url, at, bytes).await?;
        }
        self.finish(url).await
    }

    /// Sends `bytes`, which begin at `at`, and sees to it that the registry has them all.
    async fn chunk(&self, url: &mut Url, at: u64, bytes: Bytes) -> Result<(), Broken> {
        let end = at + bytes.len() as u64;
        let (mut from, mut attempts, mut resumes) = (at, 0, 0);
        while from < end {
            let rest = bytes.slice((from - at) as usize..);
            let error = match self.patch(url, from, rest).await {
                Ok(answer) if answer.response.status().is_success() => {
                    let is_short = end_of(&answer, end).is_some_and(|have| have < end);
                    if answer.response.headers().contains_key(LOCATION) {
                        *url = self.location(&answer).map_err(Broken::Over)?;
                    }
                    // container-registry counts each chunk by itself, and tells nothing when it is asked: the digest decides
                    // in the end.
                    let have = if is_short { self.received(url, end).await.unwrap_or(end) } else { end };
                    if have == end {
                        self.taken.fetch_add(end - from, Ordering::Relaxed);
                        return Ok(());
                    }
                    RegistryError::new(Kind::Upstream, self.what("PATCH") + ": a part of a chunk came")
                }
                Ok(answer) => {
                    let status = answer.response.status().as_u16();
                    let error = self.refusal("PATCH", answer).await;
                    match status {
                        404 | 405 | 415 | 416 | 501 if (from, attempts) == (0, 0) => {
                            return Err(Broken::NoChunks(error));
                        }
                        404 => return Err(Broken::Lost(lost(error))),
                        // Other bytes are there than we think.
                        416 => lost(error),
                        _ => error,
                    }
                }
                Err(error) => error,
            };
            (attempts, resumes) = (attempts + 1, resumes + 1);
            if attempts >= self.pusher.attempts || resumes > MOST_RESUMES {
                return Err(Broken::Over(error));
            }
            wait(attempts, error).await.map_err(Broken::Over)?;
            let have = self.received(url, end).await?;
            if !(at..=end).contains(&have) {
                let detail = format!("{}: the registry has {have} bytes, not {from}", self.what("PATCH"));
                return Err(Broken::Lost(RegistryError::new(Kind::Upstream, detail)));
            }
            if have > from {
                tracing::info!(registry = self.pusher.endpoint.host.name, have, end, "upload resumed");
                self.taken.fetch_add(have - from, Ordering::Relaxed);
                attempts = 0;
            }
            from = have;
        }
        Ok(())
    }

    async fn patch(&self, url: &Url, from: u64, bytes: Bytes) -> Result<Answer, RegistryError> {
        let range = HeaderValue::from_str(&format!("{from}-{}", from + bytes.len() as u64 - 1))
            .unwrap_or_else(|_| unreachable!("digits and a dash"));
        let headers = [(CONTENT_TYPE, OCTETS), (CONTENT_RANGE, range)].into_iter().collect();
        let payload = Payload::bytes(bytes);
        self.send("PATCH", Method::PATCH, url.clone(), headers, Some(&payload)).await
    }

    /// How many bytes the registry has, of `end` at most; and where the upload goes on.
    async fn received(&self, url: &mut Url, end: u64) -> Result<u64, Broken> {
        let asked = url.clone();
        let answer = persist(self.pusher.attempts, || async {
            let answer = self.send("GET", Method::GET, asked.clone(), HeaderMap::new(), None).await?;
            match answer.response.status().is_success() {
                true => Ok(answer),
                false => Err(self.refusal("GET the upload of", answer).await),
            }
        })
        .await
        // One that does not tell, or does not know of it any more.
        .map_err(|error| Broken::Lost(lost(error)))?;
        if answer.response.headers().contains_key(LOCATION) {
            *url = self.location(&answer).map_err(Broken::Over)?;
        }
        Ok(end_of(&answer, end).unwrap_or(0))
    }

    /// Says that the blob is whole.
    async fn finish(&self, url: &Url) -> Result<(), Broken> {
        let digest = &self.origin.blob.digest;
        let mut attempts = 0;
        loop {
            let put = self.send("PUT", Method::PUT, with_digest(url, digest), empty(), None).await;
            let error = match put {
                Ok(answer) if answer.response.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.response.status().as_u16();
                    let error = self.refusal("PUT", answer).await;
                    // What arrived is not what was sent, or the upload is gone.
                    if matches!(status, 400 | 404 | 416) { lost(error) } else { error }
                }
                Err(error) => error,
            };
            // The answer may be all that was lost.
            if self.pusher.holds(&self.scope.repository, digest).await.map_err(Broken::Over)? {
                return Ok(());
            }
            attempts += 1;
            if error.code == LOST {
                return Err(Broken::Lost(error));
            }
            if attempts >= self.pusher.attempts {
                return Err(Broken::Over(error));
            }
            wait(attempts, error).await.map_err(Broken::Over)?;
        }
    }

    /// Sends the blob in one piece.
    async fn whole(&self, url: &Url) -> Result<(), Broken> {
        let Descriptor { digest, size, .. } = self.origin.blob;
        let reading = Reading::open(self.origin).await?;
        let failed = Arc::<Mutex<Option<Broken>>>::default();
        let payload = Payload::stream(reading.stream(failed.clone()), *size);
        let headers = [(CONTENT_TYPE, OCTETS)].into_iter().collect();
        let sent = self.send("PUT", Method::PUT, with_digest(url, digest), headers, Some(&payload)).await;
        if let Some(broken) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(broken);
        }
        match sent {
            Ok(answer) if answer.response.status().is_success() => {
                self.taken.fetch_add(*size, Ordering::Relaxed);
                Ok(())
            }
            Ok(answer) => {
                let error = self.refusal("PUT", answer).await;
                Err(if error.may_pass() { Broken::Lost(error) } else { Broken::Over(error) })
            }
            Err(error) => Err(Broken::Lost(error)),
        }
    }
}

/// The code of an upload that is to be begun again.
const LOST: &str = "upload_lost";

/// An error after which the whole is tried again, whatever the registry's status was.
fn lost(error: RegistryError) -> RegistryError {
    RegistryError { kind: Kind::Upstream, code: LOST, status: None, ..error }
}

/// A request without a body, for servers that want to be told.
fn empty() -> HeaderMap {
    [(CONTENT_LENGTH, HeaderValue::from_static("0"))].into_iter().collect()
}

/// The URL that ends an upload; its own query stays.
fn with_digest(url: &Url, digest: &Digest) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

/// Bytes that a registry has by its `Range`, `0-<last>`. It says `0-0` of none too: that is one byte only where one was to
/// come.
fn end_of(answer: &Answer, end: u64) -> Option<u64> {
    received(answer.response.headers().get(RANGE)?.to_str().ok()?, end)
}

fn received(range: &str, end: u64) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes=");
    match range.split_once('-')? {
        ("0", "0") => Some(u64::from(end == 1)),
        ("0", last) => last.parse::<u64>().ok()?.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_tells_how_far_an_upload_came() {
        assert_eq!(received("0-1023", 4096), Some(1024));
        assert_eq!(received("bytes=0-1023", 4096), Some(1024));
        assert_eq!(received("0-0", 4096), Some(0), "which is said of nothing");
        assert_eq!(received("0-0", 1), Some(1));
        for other in ["", "x", "5-9", "0-", "0-18446744073709551615"] {
            assert_eq!(received(other, 4096), None, "{other}");
        }
    }

    #[test]
    fn the_query_of_an_upload_stays_as_it_is() {
        let url = "https://h.example/v2/a/blobs/uploads/1?_state=a%2Fb%3D&x".parse().unwrap();
        let digest = Digest::of(b"");
        let hex = digest.hex();
        assert_eq!(
            with_digest(&url, &digest).as_str(),
            format!("https://h.example/v2/a/blobs/uploads/1?_state=a%2Fb%3D&x&digest=sha256%3A{hex}")
        );
    }
}
