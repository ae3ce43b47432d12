//! Where a registry's content is asked for, and in what order.
//!
//! A **route** is what a registry's name in a reference means: its mirrors and then the registry itself, each an
//! **endpoint**. An endpoint is on a **host**, and a host's own settings apply to it whoever leads there: its trust, its
//! credentials, its way out, its limits.

use super::address::{Guard, Resolver};
use super::breaker::Breaker;
use super::config::NotFound;
use super::credentials::Source;
use super::egress::{Egress, Way};
use super::trace::Trace;
use super::trust::Verifier;
use crate::clock::{Clock, Timestamp};
use http::HeaderMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use url::Url;

/// How long the endpoint that answered is asked first, before the order of the settings holds again.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Connections that are kept open to a host.
const IDLE_CONNECTIONS: usize = 8;
/// How long they are kept. Each keeps the largest buffer that it ever read into, and what is in front of a registry seldom
/// waits longer than a minute.
const IDLE: Duration = Duration::from_secs(20);

/// Limits of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// DNS, TCP, proxy and TLS together.
    pub connect: Duration,
    /// From the request to the first byte of its answer.
    pub first_byte: Duration,
    /// Silence within an answer.
    pub idle: Duration,
    /// A whole layer.
    pub pull: Duration,
    /// Bytes a second of a layer, over three times `idle`.
    pub least_rate: u64,
}

/// A host, ready to be asked.
pub struct Host {
    /// `host[:port]`.
    pub name: String,
    /// The key that settings for it have, or would have.
    pub key: String,
    /// The settings that apply, and where they were written.
    pub rule: String,
    /// As whom we come.
    pub credentials: Source,
    /// Hosts whose token service may be told it too.
    pub token_hosts: Vec<String>,
    /// Hosts that redirects may lead to; `None` for any.
    pub blob_hosts: Option<Vec<String>>,
    /// Limits.
    pub limits: Limits,
    /// The way out.
    pub egress: Egress,
    /// What is never connected to.
    pub guard: Guard,
    /// Whom we believe, and whom we saw.
    pub verifier: Arc<Verifier>,
    /// The file of our own certificate.
    pub identity: Option<String>,
    /// Where a CA would be put.
    pub certs: String,
    /// Whether it is left alone.
    pub breaker: Arc<Breaker>,
    /// Turns, where the settings limit them.
    pub turns: Option<Arc<Semaphore>>,
    /// Who listens.
    pub trace: Trace,
    /// For what belongs to it: with our certificate.
    pub own: Clients,
    /// For where it redirects to.
    pub others: Clients,
}

/// Clients by the way out.
pub struct Clients {
    /// Without a proxy.
    pub direct: reqwest::Client,
    /// Through the proxy for `http` URLs.
    pub http: Option<reqwest::Client>,
    /// Through the proxy for `https` URLs.
    pub https: Option<reqwest::Client>,
}

/// Where content is asked for.
pub struct Endpoint {
    /// Whom that is asked of.
    pub host: Arc<Host>,
    /// `scheme://authority[/prefix]/v2`.
    pub base: String,
    /// The repository there, with `{repository}` for the one that is asked for.
    pub repository: String,
    /// What a "not found" means.
    pub on_not_found: NotFound,
    /// True where it is only asked for what a digest names.
    pub digests_only: bool,
    /// The registry that a mirror of several is asked about (containerd's `ns`).
    pub namespace: Option<String>,
    /// Fields of every request.
    pub headers: HeaderMap,
    /// True for the registry itself.
    pub is_origin: bool,
}

/// See the module's text.
pub struct Route {
    /// The registry, as references write it.
    pub registry: String,
    /// The rule or the file that says so, and where it was written.
    pub rule: String,
    /// In the order of the settings.
    pub endpoints: Vec<Arc<Endpoint>>,
    answered: Mutex<Option<(usize, Timestamp)>>,
    /// The endpoint whose bytes were wrong, and until when it is asked last.
    distrusted: Mutex<Option<(usize, Timestamp)>>,
}

impl Endpoint {
    /// The URL's part behind the base, for `repository` of the route.
    pub fn path(&self, repository: &str, rest: &str) -> String {
        let repository = self.named(repository);
        match &self.namespace {
            Some(namespace) => format!("/{repository}/{rest}?ns={namespace}"),
            None => format!("/{repository}/{rest}"),
        }
    }

    /// The repository as this endpoint calls it.
    pub fn named(&self, asked: &str) -> String {
        self.repository.replace("{repository}", asked)
    }
}

impl Route {
    /// Of these endpoints, in the order of the settings.
    pub fn new(registry: &str, rule: String, endpoints: Vec<Endpoint>) -> Self {
        let endpoints = endpoints.into_iter().map(Arc::new).collect();
        Self {
            registry: registry.into(),
            rule,
            endpoints,
            answered: Mutex::default(),
            distrusted: Mutex::default(),
        }
    }

    /// The endpoints, the one that answered a moment ago first.
    pub fn order(&self, now: Timestamp) -> Vec<(usize, Arc<Endpoint>)> {
        let mut order: Vec<_> = self.endpoints.iter().cloned().enumerate().collect();
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((index, _)) = answered.filter(|(_, until)| *until > now) {
            order.sort_by_key(|(at, _)| *at != index);
        }
        let distrusted = *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((index, _)) = distrusted.filter(|(_, until)| *until > now) {
            order.sort_by_key(|(at, _)| *at == index);
        }
        order
    }

    /// Notes which endpoint answered. The first of the settings needs no note.
    pub fn answered(&self, index: usize, clock: &dyn Clock) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        *answered = match *answered {
            _ if index == 0 => None,
            // Not prolonged: the better one is to be tried again.
            Some((known, until)) if known == index && until > clock.now() => Some((known, until)),
            _ => Some((index, clock.now().plus(REMEMBERED))),
        };
    }
}

impl Route {
    /// Asks an endpoint behind the others for a while: its bytes were wrong.
    pub fn distrust(&self, index: usize, clock: &dyn Clock) {
        let until = clock.now().plus(REMEMBERED);
        *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, until));
    }
}

impl Clients {
    /// With what `tls` says, by the ways of `egress`. Names are looked up by what `resolver` makes for registries, or, with
    /// true, for proxies.
    ///
    /// # Errors
    /// A text, when the settings cannot be used.
    pub fn new(
        tls: impl Fn() -> Result<rustls::ClientConfig, String>,
        resolver: impl Fn(bool) -> Resolver,
        egress: &Egress,
        connect: Duration,
    ) -> Result<Self, String> {
        let client = |way: Option<&Way>| {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(connect)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE)
                .dns_resolver(Arc::new(resolver(way.is_some())))
                .tls_backend_preconfigured(tls()?)
                .no_proxy();
            let builder = match way {
                Some(way) => builder.proxy(way.proxy()?),
                None => builder,
            };
            builder.build().map_err(|e| {
                let cause = std::error::Error::source(&e).map(ToString::to_string);
                format!("no client can be made: {}", cause.unwrap_or_else(|| e.to_string()))
            })
        };
        let through = |way: &Option<Way>| way.as_ref().map(|way| client(Some(way))).transpose();
        Ok(Self { direct: client(None)?, http: through(&egress.http)?, https: through(&egress.https)? })
    }
}

impl Host {
    /// The client for `url`: as ourselves for what belongs to the host, as nobody for where it redirects to.
    pub fn client(&self, url: &Url, as_ourselves: bool) -> &reqwest::Client {
        let clients = if as_ourselves { &self.own } else { &self.others };
        let proxied = if url.scheme() == "http" { &clients.http } else { &clients.https };
        match (self.egress.way(url), proxied) {
            (Some(_), Some(client)) => client,
            _ => &clients.direct,
        }
    }
}
