//! Writing to a registry (distribution spec, "Push"): what is there, and manifests as they came.
//!
//! Blobs are [`super::upload`]'s, what a refusal means is [`super::refused`]'s, and a whole artifact is
//! [`super::copying`]'s. A registry's mirrors are not written to, and its own `at_once` does not count: whoever copies
//! within one registry would wait for the layer that it is reading.

use super::auth::Auth;
use super::client::CONTENT_DIGEST;
use super::error::{Kind, RegistryError};
use super::payload::Payload;
use super::refused;
use super::retry::{Retry, persist};
use super::route::{Endpoint, Route};
use super::scope::Scope;
use super::transport::bounded;
use super::transport::{self, Answer, Asked};
use crate::metrics::Metrics;
use crate::oci::{Digest, media_type};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use url::Url;

/// How a registry says that it lists a manifest as another's referrer (distribution spec, "Pushing Manifests with Subject").
const SUBJECT: &str = "oci-subject";

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of a blob that are sent at a time, and held in memory meanwhile; at least 1.
    pub chunk: usize,
    /// Largest manifest that is read, in bytes.
    pub manifest: u64,
}

/// Writes to one registry.
pub struct Pusher {
    registry: String,
    /// Where.
    pub(super) endpoint: Arc<Endpoint>,
    /// How.
    pub(super) options: Options,
    /// How often a question is asked.
    pub(super) attempts: u32,
    /// Set when the registry refused a chunk: blobs are sent in one piece from then on.
    pub(super) takes_no_chunks: AtomicBool,
    auth: Auth,
    metrics: Arc<Metrics>,
    /// In which repository a blob is.
    known: Mutex<HashMap<Digest, String>>,
}

/// What is sent, and to be told of it.
pub(super) struct Sending<'s> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub payload: Option<&'s Payload>,
}

impl Pusher {
    /// To the registry of `route`.
    ///
    /// # Errors
    /// The settings say that it is never asked.
    pub fn new(
        route: &Route,
        auth: Auth,
        metrics: Arc<Metrics>,
        retry: Retry,
        options: Options,
    ) -> Result<Self, RegistryError> {
        let origin = route.endpoints.iter().find(|endpoint| endpoint.is_origin);
        let endpoint = origin.cloned().ok_or_else(|| {
            let detail =
                format!("{}: the settings say that the registry itself is never asked", route.registry);
            let hint =
                format!("registry.hosts.{}.origin is false; mirrors are not written to", route.registry);
            RegistryError::new(Kind::Settings, detail).hint(hint)
        })?;
        Ok(Self {
            registry: route.registry.clone(),
            endpoint,
            options,
            attempts: retry.attempts.max(1),
            takes_no_chunks: AtomicBool::new(false),
            auth,
            metrics,
            known: Mutex::default(),
        })
    }

    /// The registry, as references write it.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// A repository in which `digest` is known to be.
    pub fn known(&self, digest: &Digest) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// Notes where `digest` is.
    pub(super) fn note(&self, digest: &Digest, repository: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(*digest).or_insert_with(|| repository.to_owned());
    }

    /// The URL of `rest` in `repository`.
    pub(super) fn url(&self, repository: &str, rest: &str) -> Result<Url, RegistryError> {
        let text = format!("{}{}", self.endpoint.base, self.endpoint.path(repository, rest));
        text.parse().map_err(|e| RegistryError::new(Kind::Settings, format!("{text}: {e}")))
    }

    /// Sends a request, with a token for `scope` where one is wanted.
    pub(super) async fn send(
        &self,
        what: &str,
        scope: &Scope,
        sending: Sending<'_>,
    ) -> Result<Answer, RegistryError> {
        let Sending { method, url, headers, payload } = sending;
        let asked = Asked { what: what.into(), method, url, headers, payload };
        let asked = &asked;
        let ask = |value| transport::follow(&self.metrics, &self.endpoint, asked, value);
        self.auth.answering(&self.endpoint, scope, ask).await
    }

    /// Makes an error of an answer that is no success.
    pub(super) async fn refusal(&self, what: &str, scope: &Scope, answer: Answer) -> RegistryError {
        let host = &self.endpoint.host;
        let found = match answer.response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                host.credentials.get(&host.name, &scope.repository).await
            }
            _ => Default::default(),
        };
        let error = transport::refusal(what, host, answer, &found).await;
        refused::explained(error, what, host, &scope.repository, &found)
    }

    /// Whether `repository` has the blob.
    ///
    /// # Errors
    /// As of every method here: no answer, or a refusal.
    pub async fn holds(&self, repository: &str, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(repository, &format!("blobs/{digest}"))?;
        let (scope, what) = (Scope::push(repository), format!("HEAD the blob {digest} of {repository}"));
        persist(self.attempts, || async {
            let headers = HeaderMap::new();
            let sending = Sending { method: Method::HEAD, url: url.clone(), headers, payload: None };
            let answer = self.send(&what, &scope, sending).await?;
            match answer.response.status().as_u16() {
                200 => Ok(true),
                404 => Ok(false),
                // A store of blobs that signs its URLs for GET alone; the registry has what it leads to.
                403 if !answer.from_registry => Ok(true),
                _ => Err(self.refusal(&what, &scope, answer).await),
            }
        })
        .await
    }

    /// The digest of the manifest that `selector`, a tag or a digest, means; `None` if there is none.
    pub async fn manifest_digest(
        &self,
        repository: &str,
        selector: &str,
    ) -> Result<Option<Digest>, RegistryError> {
        let (scope, what) = (Scope::push(repository), format!("HEAD the manifest {repository}:{selector}"));
        let told = persist(self.attempts, || async {
            let answer = self.manifest_answer(&what, &scope, Method::HEAD, selector).await?;
            match answer.response.status().as_u16() {
                200 => Ok(Some(said(&answer))),
                404 => Ok(None),
                // It may still answer a GET.
                405 | 501 => Ok(Some(None)),
                _ => Err(self.refusal(&what, &scope, answer).await),
            }
        })
        .await?;
        match told {
            None => Ok(None),
            Some(Some(digest)) => Ok(Some(digest)),
            Some(None) => Ok(self.manifest(repository, selector).await?.map(|bytes| Digest::of(&bytes))),
        }
    }

    /// The bytes of a manifest; `None` if there is none.
    pub async fn manifest(&self, repository: &str, selector: &str) -> Result<Option<Bytes>, RegistryError> {
        let (scope, what) = (Scope::push(repository), format!("GET the manifest {repository}:{selector}"));
        persist(self.attempts, || async {
            let answer = self.manifest_answer(&what, &scope, Method::GET, selector).await?;
            match answer.response.status().as_u16() {
                200 => bounded(&what, &self.endpoint.host, answer, self.options.manifest).await.map(Some),
                404 => Ok(None),
                _ => Err(self.refusal(&what, &scope, answer).await),
            }
        })
        .await
    }

    /// Whether the registry lists by itself what refers to a manifest.
    pub async fn lists_referrers(&self, repository: &str, of: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(repository, &format!("referrers/{of}"))?;
        let (scope, what) = (Scope::push(repository), format!("GET the referrers of {of} of {repository}"));
        persist(self.attempts, || async {
            let headers = HeaderMap::new();
            let sending = Sending { method: Method::GET, url: url.clone(), headers, payload: None };
            let answer = self.send(&what, &scope, sending).await?;
            match answer.response.status().as_u16() {
                200 => Ok(!transport::is_web_page(answer.response.headers())),
                400..=428 => Ok(false),
                _ => Err(self.refusal(&what, &scope, answer).await),
            }
        })
        .await
    }

    async fn manifest_answer(
        &self,
        what: &str,
        scope: &Scope,
        method: Method,
        selector: &str,
    ) -> Result<Answer, RegistryError> {
        let url = self.url(&scope.repository, &format!("manifests/{selector}"))?;
        let headers = [(ACCEPT, HeaderValue::from_static(media_type::ACCEPT))].into_iter().collect();
        self.send(what, scope, Sending { method, url, headers, payload: None }).await
    }

    /// Puts a manifest as it is at `selector`, and compares what the registry calls it. True if the registry lists it as
    /// the referrer of its subject.
    pub async fn put_manifest(
        &self,
        repository: &str,
        selector: &str,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<bool, RegistryError> {
        let digest = Digest::of(bytes);
        let (scope, what) = (Scope::push(repository), format!("PUT the manifest {repository}:{selector}"));
        let url = self.url(repository, &format!("manifests/{selector}"))?;
        let content_type = HeaderValue::from_str(media_type)
            .map_err(|_| RegistryError::new(Kind::Corrupt, format!("{what}: its media type is none")))?;
        let payload = Payload::bytes(bytes.clone());
        let (called, is_listed) = persist(self.attempts, || async {
            let headers = [(CONTENT_TYPE, content_type.clone())].into_iter().collect();
            let sending = Sending { method: Method::PUT, url: url.clone(), headers, payload: Some(&payload) };
            let answer = self.send(&what, &scope, sending).await?;
            if !answer.response.status().is_success() {
                return Err(self.refusal(&what, &scope, answer).await);
            }
            Ok((said(&answer), answer.response.headers().contains_key(SUBJECT)))
        })
        .await?;
        let called = match called {
            Some(called) => Some(called),
            None => self.manifest_digest(repository, selector).await?,
        };
        if called == Some(digest) {
            return Ok(is_listed);
        }
        let called = called.map_or("nothing".to_owned(), |called| called.to_string());
        let detail = format!("{what}: {digest} was put, and the registry has {called} there");
        Err(RegistryError::new(Kind::Corrupt, detail)
            .code("digest_header")
            .hint("does it change manifests, or does somebody else push that tag at the same time?"))
    }
}

/// The registry's own word for a manifest's digest.
fn said(answer: &Answer) -> Option<Digest> {
    answer.response.headers().get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}
