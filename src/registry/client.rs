//! The distribution client: manifests and blobs, with authentication and redirects beneath.

use super::auth::Auth;
use super::error::{Kind, RegistryError};
use super::hosts::{Host, Hosts};
use super::transport::{self, Answer};
use super::{Blob, Confirmation, FetchedManifest, Registry};
use crate::clock::Clock;
use crate::oci::{Digest, Reference, media_type};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;

/// The registry's own word for a manifest's digest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Reads from real registries.
pub struct Client {
    hosts: Hosts,
    auth: Auth,
    /// Longest time for an answer that is small: a registry that drips one byte at a time is silent too.
    small: Duration,
}

impl Client {
    /// Speaks to `hosts`; tokens age by `clock`. A manifest, its token included, may take `small`.
    pub fn new(hosts: Hosts, clock: Arc<dyn Clock>, small: Duration) -> Self {
        Self { hosts, auth: Auth::new(clock), small }
    }

    async fn within<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let slow = || {
            let took = humantime::format_duration(self.small);
            let error =
                RegistryError::new(Kind::TimedOut, format!("{what}: no complete answer within {took}"));
            error
                .hint("the registry is too slow: registry.connect_timeout and registry.read_timeout bound it")
        };
        tokio::time::timeout(self.small, work).await.unwrap_or_else(|_| Err(slow()))
    }

    /// Sends a request and answers at most one challenge.
    async fn send(
        &self,
        host: &Host,
        reference: &Reference,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Answer, RegistryError> {
        let repository = reference.repository_path();
        let known = self.auth.known(host, repository).await;
        let answer = transport::send(host, method.clone(), path, headers.clone(), known.clone()).await?;
        if answer.response.status() != StatusCode::UNAUTHORIZED || !answer.from_registry {
            return Ok(answer);
        }
        let value = self.auth.answer(host, repository, answer.response.headers(), known.as_ref()).await?;
        transport::send(host, method, path, headers, Some(value)).await
    }

    async fn manifest_request(
        &self,
        host: &Host,
        reference: &Reference,
        method: Method,
        validator: Option<&Digest>,
    ) -> Result<Answer, RegistryError> {
        let path = format!("/v2/{}/manifests/{}", reference.repository_path(), reference.selector());
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(media_type::ACCEPT));
        if let Some(validator) = validator.and_then(|d| HeaderValue::from_str(&format!("\"{d}\"")).ok()) {
            headers.insert(IF_NONE_MATCH, validator);
        }
        self.send(host, reference, method, &path, headers).await
    }

    async fn confirm_now(
        &self,
        reference: &Reference,
        known: &Digest,
    ) -> Result<Confirmation, RegistryError> {
        let host = self.hosts.get(reference.registry());
        let answer = self.manifest_request(&host, reference, Method::HEAD, Some(known)).await?;
        match answer.response.status().as_u16() {
            304 => Ok(Confirmation::Same),
            200 => Ok(match answer.response.headers().get(CONTENT_DIGEST) {
                Some(value) if value.as_bytes() == known.to_string().as_bytes() => Confirmation::Same,
                Some(_) => Confirmation::Moved,
                None => Confirmation::Unknown,
            }),
            405 | 501 => Ok(Confirmation::Unknown),
            _ => Err(transport::refusal(&format!("HEAD {reference}"), &host, answer).await),
        }
    }

    async fn manifest_now(
        &self,
        reference: &Reference,
        limit: u64,
    ) -> Result<FetchedManifest, RegistryError> {
        let host = self.hosts.get(reference.registry());
        let what = format!("GET the manifest of {reference}");
        let answer = self.manifest_request(&host, reference, Method::GET, None).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(transport::refusal(&what, &host, answer).await);
        }
        let said = answer.response.headers().get(CONTENT_DIGEST).cloned();
        let content_type =
            answer.response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(Into::into);
        if transport::is_web_page(answer.response.headers()) {
            let error =
                RegistryError::new(Kind::Upstream, format!("{what}: a web page instead of a manifest"));
            return Err(error
                .hint(format!("is there a registry at {}, or a proxy with a page of its own?", host.name)));
        }
        let bytes = bounded(&what, &host, answer, limit).await?;
        let digest = Digest::of(&bytes);
        if let Some(said) = said.filter(|said| said.as_bytes() != digest.to_string().as_bytes()) {
            let said = crate::oci::error_code::shown(&String::from_utf8_lossy(said.as_bytes()));
            let text = format!("{what}: the registry calls it {said}, and its bytes are {digest}");
            return Err(RegistryError::new(Kind::Corrupt, text));
        }
        if let Some(asked) = reference.digest().filter(|asked| **asked != digest) {
            return Err(RegistryError::new(
                Kind::Corrupt,
                format!("{what}: asked for {asked}, got {digest}"),
            ));
        }
        Ok(FetchedManifest { bytes, digest, media_type: content_type })
    }
}

#[async_trait]
impl Registry for Client {
    async fn confirm(&self, reference: &Reference, known: &Digest) -> Result<Confirmation, RegistryError> {
        self.within(&format!("HEAD {reference}"), self.confirm_now(reference, known)).await
    }

    async fn manifest(&self, reference: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError> {
        self.within(&format!("GET the manifest of {reference}"), self.manifest_now(reference, limit)).await
    }

    async fn blob(&self, reference: &Reference, digest: &Digest) -> Result<Blob, RegistryError> {
        let host = self.hosts.get(reference.registry());
        let what = format!("GET the blob {digest} of {}", reference.repository());
        let path = format!("/v2/{}/blobs/{digest}", reference.repository_path());
        let answer = self.send(&host, reference, Method::GET, &path, HeaderMap::new()).await?;
        if answer.response.status() != StatusCode::OK {
            let mut error = transport::refusal(&what, &host, answer).await;
            // The manifest is there and names it: the registry is incomplete, not empty.
            if matches!(error.kind, Kind::NotFound | Kind::Denied) {
                error.kind = Kind::Upstream;
                error.hint = "the registry gives the manifest and not its layer; push the artifact again, or look at its storage".into();
            }
            return Err(error);
        }
        let size = answer.response.content_length();
        let stream = answer.response.bytes_stream();
        let stream =
            stream.map(move |piece| piece.map_err(|e| RegistryError::from_transport(&what, &host.name, &e)));
        Ok(Blob { size, stream: stream.boxed() })
    }
}

/// Reads a body of at most `limit` bytes.
async fn bounded(what: &str, host: &Host, mut answer: Answer, limit: u64) -> Result<Bytes, RegistryError> {
    let too_large = || {
        let text = format!("{what}: the manifest has more than {limit} bytes (limits.manifest)");
        RegistryError::new(Kind::TooLarge, text)
    };
    if answer.response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(piece) =
        answer.response.chunk().await.map_err(|e| RegistryError::from_transport(what, &host.name, &e))?
    {
        body.extend_from_slice(&piece);
        if body.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(body.freeze())
}
