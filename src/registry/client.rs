//! The distribution client: manifests and blobs, asked of a registry's endpoints in their order, and again where that
//! may help.

use super::auth::Auth;
use super::blob::{self, Transfer, Wanted};
use super::breaker::{Breakers, State};
use super::error::{Kind, RegistryError};
use super::hosts::Hosts;
use super::push::{self, Pusher};
use super::referrers;
use super::retry::{self, PATIENCE, Retry, Silence, together};
use super::route::{Endpoint, Host, Route};
use super::scope::Scope;
use super::transport::{self, Answer};
use super::{Blob, Confirmation, FetchedManifest, NotFound, Referrers, Registry};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::oci::{Digest, Reference, media_type};
use crate::proof::{self, Step};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// The registry's own word for a manifest's digest.
pub const CONTENT_DIGEST: &str = "docker-content-digest";
/// A turn at a host, where the settings limit them.
pub type Turn = Option<OwnedSemaphorePermit>;

/// Reads from real registries.
pub struct Client {
    inner: Arc<Inner>,
}

/// What the client and its transfers share.
pub struct Inner {
    settings: ArcSwap<Settings>,
    breakers: Arc<Breakers>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// What a change of the settings replaces. Conversations that have begun end with what they began with.
struct Settings {
    hosts: Hosts,
    auth: Auth,
    retry: Retry,
}

impl Client {
    /// Speaks to `hosts`, which share `breakers`; tokens age by `clock`.
    pub fn new(
        hosts: Hosts,
        breakers: Arc<Breakers>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        retry: Retry,
    ) -> Self {
        let auth = Auth::new(clock.clone(), metrics.clone());
        let settings = ArcSwap::from_pointee(Settings { hosts, auth, retry });
        let client = Self { inner: Arc::new(Inner { settings, breakers, clock, metrics }) };
        client.tell_unverified();
        client
    }

    /// From now on speaks to `hosts`. Failures and tokens of before are forgotten.
    pub fn replace(&self, hosts: Hosts, retry: Retry) {
        let auth = Auth::new(self.inner.clock.clone(), self.inner.metrics.clone());
        self.inner.settings.store(Arc::new(Settings { hosts, auth, retry }));
        self.inner.breakers.forget();
        self.tell_unverified();
    }

    /// One that asks `hosts` beside this one's requests, and heeds what was refused to it.
    pub fn beside(&self, hosts: Hosts, breakers: Arc<Breakers>, metrics: Arc<Metrics>, retry: Retry) -> Self {
        let auth = self.inner.settings.load().auth.beside(metrics.clone());
        let settings = ArcSwap::from_pointee(Settings { hosts, auth, retry });
        Self { inner: Arc::new(Inner { settings, breakers, clock: self.inner.clock.clone(), metrics }) }
    }

    /// Rules, and folders of certificates, whose certificates are not verified.
    pub fn unverified(&self) -> Vec<String> {
        self.inner.settings.load().hosts.unverified()
    }

    /// When the certificates end that registries are met with.
    pub fn expiries(&self) -> super::expiry::Expiries {
        self.inner.settings.load().hosts.expiries.clone()
    }

    /// What writes to `registry`, by the same settings: to itself and to none of its mirrors.
    ///
    /// # Errors
    /// The settings cannot be used, or say that the registry itself is never asked.
    pub fn pusher(&self, registry: &str, options: push::Options) -> Result<Pusher, RegistryError> {
        let auth = Auth::new(self.inner.clock.clone(), self.inner.metrics.clone());
        let route = self.inner.route(registry)?;
        Pusher::new(&route, auth, self.inner.metrics.clone(), self.inner.retry(), options)
    }

    /// Which registries are left alone.
    pub fn breakers(&self) -> Vec<(String, State)> {
        self.inner.breakers.list()
    }

    fn tell_unverified(&self) {
        let gauge = &self.inner.metrics.tls_unverified;
        gauge.reset();
        for name in self.unverified() {
            gauge.with_label_values(&[name.as_str()]).set(1);
        }
    }
}

impl Inner {
    /// How often.
    pub fn retry(&self) -> Retry {
        self.settings.load().retry
    }

    /// Where `registry` is asked.
    pub fn route(&self, registry: &str) -> Result<Arc<Route>, RegistryError> {
        let route = self.settings.load().hosts.route(registry);
        route.map_err(|problem| {
            let detail = format!("the settings for {registry} cannot be used: {problem}");
            RegistryError::new(Kind::Settings, detail).hint("larder check names every fault")
        })
    }

    /// Asks the endpoints in order until one answers. `by_digest` says that a digest names what is asked for.
    pub async fn once<'a, T, F>(
        &'a self,
        reference: &'a Reference,
        by_digest: bool,
        call: &F,
    ) -> Result<(T, usize), Silence>
    where
        F: Fn(Arc<Endpoint>, Turn) -> BoxFuture<'a, Result<T, RegistryError>> + Sync,
    {
        let route = self.route(reference.registry())?;
        if let Some(first) = route.endpoints.first() {
            first.host.trace.note("registry", || format!("{}: {}", route.registry, route.rule));
        }
        let mut failed = Vec::new();
        let mut waiting = Vec::new();
        for (index, endpoint) in route.order(self.clock.now()) {
            let host = endpoint.host.clone();
            if endpoint.digests_only && !by_digest {
                host.trace.note("endpoint", || {
                    format!("{} is passed over: it does not resolve tags", endpoint.base)
                });
                continue;
            }
            host.trace.note("endpoint", || {
                let what = if endpoint.is_origin { "the registry itself" } else { "a mirror" };
                let repository = endpoint.named(reference.repository_path());
                let rule = if endpoint.is_origin { String::new() } else { format!("; {}", host.rule) };
                format!("{}, {what}, repository {repository}{rule}", endpoint.base)
            });
            // First a turn: whoever may ask is not to wait behind layers that are being received.
            let turn = self.turn(&host).await;
            let result = match host.breaker.admit() {
                Err(error) => Err(error),
                Ok(pass) => {
                    let result = call(endpoint.clone(), turn).await;
                    pass.ended(&result);
                    result
                }
            };
            let state = host.breaker.state() as i64;
            self.metrics.breaker_state.with_label_values(&[&host.name]).set(state);
            match result {
                Ok(value) => {
                    route.answered(index, &*self.clock);
                    return Ok((value, index));
                }
                Err(error) if error.kind == Kind::NotFound && endpoint.on_not_found == NotFound::Final => {
                    return Err(error.into());
                }
                Err(error) => {
                    if error.is_waiting_for_others() {
                        waiting.push(host.breaker.clone());
                    }
                    tracing::debug!(%reference, endpoint = endpoint.base, code = error.code, error = error.detail, "no answer");
                    failed.push(error);
                }
            }
        }
        Err(Silence { error: together(reference, failed), waiting })
    }

    /// The same, and again where that may help.
    async fn again<'a, T, F>(
        &'a self,
        reference: &'a Reference,
        by_digest: bool,
        call: F,
    ) -> Result<(T, usize), RegistryError>
    where
        F: Fn(Arc<Endpoint>, Turn) -> BoxFuture<'a, Result<T, RegistryError>> + Sync,
    {
        let begun = Instant::now();
        let retry = self.retry();
        let mut attempts = 0;
        loop {
            let silence = match self.once(reference, by_digest, &call).await {
                Ok(value) => return Ok(value),
                Err(silence) => silence,
            };
            let waits = silence.error.is_waiting_for_others();
            // Those who are asking for others may find the registry back: that is worth a moment, and no attempt.
            if waits && silence.may_ask(begun + PATIENCE.min(retry.within)).await {
                continue;
            }
            let error = silence.error;
            attempts += 1;
            if !error.may_pass() || attempts >= retry.attempts || begun.elapsed() >= retry.within {
                return Err(error);
            }
            self.pause(reference, attempts, &error).await;
        }
    }

    /// Waits before attempt `attempts + 1`, with jitter.
    pub async fn pause(&self, reference: &Reference, attempts: u32, error: &RegistryError) {
        let pause = retry::pause(attempts);
        self.metrics.retries.with_label_values(&[reference.registry()]).inc();
        let millis = pause.as_millis() as u64;
        let request_id = crate::origin::request().map(tracing::field::display);
        tracing::info!(request_id, %reference, code = error.code, attempts, millis, error = error.detail, "asked again");
        if let Ok(route) = self.route(reference.registry())
            && let Some(endpoint) = route.endpoints.first()
        {
            endpoint.host.trace.note("retry", || format!("attempt {} after {millis} ms", attempts + 1));
        }
        tokio::time::sleep(pause).await;
    }

    /// A turn at a host whose settings limit them.
    async fn turn(&self, host: &Host) -> Turn {
        host.turns.clone()?.acquire_owned().await.ok()
    }

    /// Sends a request and answers at most one challenge; once more where the credentials have just changed.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Answer, RegistryError> {
        let auth = &self.settings.load_full().auth;
        let scope = Scope::pull(endpoint.named(reference.repository_path()));
        auth.answering(endpoint, &scope, |value| {
            transport::send(&self.metrics, endpoint, method.clone(), path, headers.clone(), value)
        })
        .await
    }

    /// Makes an error of an answer that is no success.
    pub async fn refusal(
        &self,
        what: &str,
        endpoint: &Endpoint,
        reference: &Reference,
        answer: Answer,
    ) -> RegistryError {
        let host = &endpoint.host;
        let repository = endpoint.named(reference.repository_path());
        let found = match answer.response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                host.credentials.get(&host.name, &repository).await
            }
            _ => Default::default(),
        };
        transport::refusal(what, host, answer, &found).await
    }

    async fn manifest_request(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        method: Method,
        validator: Option<&Digest>,
    ) -> Result<Answer, RegistryError> {
        let path = endpoint.path(reference.repository_path(), &format!("manifests/{}", reference.selector()));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(media_type::ACCEPT));
        if let Some(validator) = validator.and_then(|d| HeaderValue::from_str(&format!("\"{d}\"")).ok()) {
            headers.insert(IF_NONE_MATCH, validator);
        }
        self.send(endpoint, reference, method, &path, headers).await
    }

    async fn confirm(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        known: &Digest,
    ) -> Result<Confirmation, RegistryError> {
        let answer = self.manifest_request(endpoint, reference, Method::HEAD, Some(known)).await?;
        match answer.response.status().as_u16() {
            304 => Ok(Confirmation::Same),
            200 => Ok(match answer.response.headers().get(CONTENT_DIGEST) {
                Some(value) if value.as_bytes() == known.to_string().as_bytes() => Confirmation::Same,
                Some(_) => Confirmation::Moved,
                None => Confirmation::Unknown,
            }),
            405 | 501 => Ok(Confirmation::Unknown),
            _ => Err(self.refusal(&format!("HEAD {reference}"), endpoint, reference, answer).await),
        }
    }

    async fn manifest(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        limit: u64,
    ) -> Result<FetchedManifest, RegistryError> {
        let host = &endpoint.host;
        let what = format!("GET the manifest of {reference}");
        let answer = self.manifest_request(endpoint, reference, Method::GET, None).await?;
        if answer.response.status() != StatusCode::OK {
            return Err(self.refusal(&what, endpoint, reference, answer).await);
        }
        let headers = answer.response.headers();
        let said: Vec<_> = headers.get_all(CONTENT_DIGEST).iter().cloned().collect();
        let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(Into::into);
        if transport::is_web_page(headers) {
            let error =
                RegistryError::new(Kind::Upstream, format!("{what}: a web page instead of a manifest"));
            return Err(error
                .hint(format!("is there a registry at {}, or a proxy with a page of its own?", host.name)));
        }
        let bytes = transport::bounded(&what, host, answer, limit).await?;
        let digest = Digest::of(&bytes);
        if let Some(said) = said.iter().find(|said| said.as_bytes() != digest.to_string().as_bytes()) {
            let said = crate::oci::error_code::shown(&String::from_utf8_lossy(said.as_bytes()));
            let text = format!("{what}: the registry calls it {said}, and its bytes are {digest}");
            return Err(RegistryError::new(Kind::Corrupt, text).code("digest_header"));
        }
        let other = reference.digest().filter(|asked| **asked != digest);
        if let Some(asked) = other.filter(|_| proof::takes(Step::VerifyManifest)) {
            return Err(RegistryError::new(
                Kind::Corrupt,
                format!("{what}: asked for {asked}, got {digest}"),
            ));
        }
        host.trace.note("manifest", || {
            let kind: &Option<String> = &content_type;
            format!("{digest}, {} bytes, {}", bytes.len(), kind.as_deref().unwrap_or("no media type"))
        });
        Ok(FetchedManifest { bytes, digest, media_type: content_type })
    }
}

#[async_trait]
impl Registry for Client {
    async fn confirm(&self, reference: &Reference, known: &Digest) -> Result<Confirmation, RegistryError> {
        let inner = &*self.inner;
        let by_digest = !reference.is_mutable();
        inner
            .again(reference, by_digest, |endpoint, turn| {
                Box::pin(async move {
                    let _turn = turn;
                    inner.confirm(&endpoint, reference, known).await
                })
            })
            .await
            .map(|(confirmed, _)| confirmed)
    }

    async fn manifest(&self, reference: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError> {
        let inner = &*self.inner;
        let by_digest = !reference.is_mutable();
        inner
            .again(reference, by_digest, |endpoint, turn| {
                Box::pin(async move {
                    let _turn = turn;
                    inner.manifest(&endpoint, reference, limit).await
                })
            })
            .await
            .map(|(manifest, _)| manifest)
    }

    async fn blob(&self, reference: &Reference, digest: &Digest, size: u64) -> Result<Blob, RegistryError> {
        let inner = &*self.inner;
        let wanted = Wanted { reference: reference.clone(), digest: *digest, size };
        let asked = &wanted;
        let (opened, endpoint) = inner
            .again(reference, true, |endpoint, turn| {
                Box::pin(async move { blob::open(inner, &endpoint, asked, 0, turn).await })
            })
            .await?;
        Ok(Blob { endpoint, stream: Transfer::new(self.inner.clone(), wanted, opened).stream() })
    }

    async fn referrers(
        &self,
        of: &Reference,
        artifact_type: &str,
        limit: u64,
    ) -> Result<Option<Referrers>, RegistryError> {
        let inner = &*self.inner;
        let listed = inner.again(of, true, |endpoint, turn| {
            Box::pin(async move {
                let _turn = turn;
                referrers::list(inner, &endpoint, of, artifact_type, limit).await
            })
        });
        match listed.await {
            Ok((listed, _)) => Ok(Some(listed)),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Denied) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn distrust(&self, reference: &Reference, endpoint: usize) {
        if let Ok(route) = self.inner.route(reference.registry()) {
            route.distrust(endpoint, &*self.inner.clock);
        }
    }
}
