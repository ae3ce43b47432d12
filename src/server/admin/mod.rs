//! The administration port: metrics, health and the page for everybody; what is held, and every change of it, for those
//! who may.

mod api;
mod audit;
mod auth;
mod body;
mod import;
mod page;
mod routes;

pub use audit::Audit;
pub use auth::{Auth, Policy, shown};
pub use body::Body;
pub use routes::{ROUTES, methods};

use super::guard::Accepted;
use super::listen::Drain;
use super::listing;
use super::refuse;
use super::respond::{self, Answer, Content};
use crate::admin::Administration;
use crate::admin::status::Reloaded;
use crate::cache::explain::Explanation;
use crate::metrics::Metrics;
use crate::plugin::Request;
use crate::registry::Client;
use crate::registry::breaker::State;
use crate::store::Store;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Walks a plugin's road aloud, or says why it cannot.
pub type Explain = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Explanation, String>> + Send + Sync>;
/// Reads all settings again and uses them, or none.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<Reloaded, Unusable>> + Send + Sync>;
/// Sets the least important log line that is written: error, warn, info, debug or trace; or says why it cannot.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;
/// Tells it.
pub type Level = Arc<dyn Fn() -> String + Send + Sync>;

/// Why settings were not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// They are being read just now, because of another request or of a change.
    pub busy: bool,
    /// What is wrong with them, each with its place.
    pub faults: Vec<String>,
}

/// What it reads and changes.
pub struct Admin {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What asks registries.
    pub client: Arc<Client>,
    /// What walks a plugin's road aloud.
    pub explain: Explain,
    /// Turns for it.
    pub explaining: Semaphore,
    /// What operators ask and do.
    pub administration: Arc<Administration>,
    /// Who may.
    pub auth: Arc<Auth>,
    /// Where each change is written down.
    pub audit: Arc<Audit>,
    /// What reads settings again.
    pub reload: Reload,
    /// What is logged.
    pub level: Level,
    /// What changes that.
    pub set_level: SetLevel,
    /// What is held.
    pub store: Arc<dyn Store>,
    /// Whether we are about to leave.
    pub drain: Drain,
}

/// A request, without its body.
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub accepted: Accepted,
    /// Its fields.
    pub headers: HeaderMap,
    /// Whom it is for, as `Host` or `:authority` say.
    pub host: Option<String>,
    /// Who sent it.
    pub peer: SocketAddr,
    /// The name in the certificate that they showed, if its CA is one of `tls.admin.client_ca`.
    pub certificate: Option<String>,
    /// What its answer and the log call it.
    pub request_id: String,
}

impl Admin {
    /// Answers a well-formed request; the label is for the metrics.
    pub async fn answer(&self, asked: &Asked, body: &mut Body<'_>) -> (Answer, &'static str) {
        let (path, headers) = (asked.accepted.path.as_str(), &asked.headers);
        if let Some(action) = routes::action(path, &asked.method) {
            return (self.administer(action, asked, body).await, "admin");
        }
        let answer = match path {
            "/metrics" => self.metrics(),
            // Liveness asks nobody: a process that answers is alive.
            "/livez" => respond::plain("ok\n".into()),
            "/readyz" => self.ready(),
            routes::OPENAPI => respond::small(headers, api::JSON, api::OPENAPI.into()),
            path => page::answer(headers, path).unwrap_or_else(|| refuse::no_route(headers, path)),
        };
        (answer, "health")
    }

    fn metrics(&self) -> Answer {
        let usage = self.store.usage();
        for (tier, entries, bytes) in [
            ("memory", usage.memory_entries, usage.memory_bytes),
            ("disk", usage.disk_entries, usage.disk_bytes),
            ("held", usage.held_entries, usage.held_bytes),
        ] {
            self.metrics.cache_entries.with_label_values(&[tier]).set(entries as i64);
            self.metrics.cache_bytes.with_label_values(&[tier]).set(bytes as i64);
        }
        for (registry, state) in self.client.breakers() {
            self.metrics.breaker_state.with_label_values(&[registry.as_str()]).set(state as i64);
        }
        for (tier, limit) in
            [("memory", usage.memory_limit), ("disk", usage.disk_limit), ("held", usage.held_limit)]
        {
            self.metrics.cache_limit.with_label_values(&[tier]).set(limit as i64);
        }
        self.metrics.ready.set(i64::from(self.is_ready()));
        let text = self.metrics.render();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Answer::of(200, headers, Content::Bytes(text.into()))
    }

    /// One plugin's road, walked aloud.
    async fn explain(&self, headers: &HeaderMap, query: &str) -> Answer {
        let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
        let value = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_ref());
        let Some(name) = value("name") else {
            let detail = "which plugin? /explain?name=NAME&version=VERSION";
            return refuse::unexplained(headers, 400, "name_needed", detail);
        };
        let version = value("version").filter(|version| !version.is_empty());
        let parsed =
            name.parse().and_then(|name| Ok(Request { name, version: version.map(str::parse).transpose()? }));
        let request = match parsed {
            Ok(request) => request,
            Err(error) => return refuse::bad_name(headers, &error),
        };
        let Ok(_turn) = self.explaining.try_acquire() else {
            return refuse::unexplained(
                headers,
                503,
                "busy",
                "other explanations are being made; ask again in a few seconds",
            );
        };
        let explanation = match (self.explain)(request).await {
            Ok(explanation) => explanation,
            Err(problem) => return refuse::unexplained(headers, 500, "unexplained", &problem),
        };
        if listing::wants_json(headers) {
            let text = serde_json::to_string_pretty(&explanation)
                .unwrap_or_else(|e| unreachable!("plain fields: {e}"));
            let mut answer = respond::plain(text);
            answer.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return answer;
        }
        respond::plain(explanation.to_string())
    }

    /// Ready from the first moment, or when the plugins of the start are there, until the drain begins. A registry that is
    /// down is no reason to send nobody here: what is held is served.
    fn is_ready(&self) -> bool {
        !self.drain.is_draining() && self.administration.is_warm()
    }

    fn ready(&self) -> Answer {
        if self.is_ready() {
            // What is doubtful about being ready, for people.
            let mut lines = vec!["ready".to_owned()];
            if self.metrics.store_degraded.get() > 0 {
                lines
                    .push("warning: the cache directory takes nothing; what is new is held in memory".into());
            }
            let avoided = self.client.breakers().into_iter().filter(|(_, state)| *state != State::Closed);
            lines.extend(avoided.map(|(name, _)| format!("warning: {name} is left alone after failures")));
            if self.audit.is_failing() {
                lines.push("warning: the audit log cannot be written".into());
            }
            lines.extend(self.client.unverified().iter().map(|name| {
                format!("warning: certificates of {name} are not verified (insecure_skip_verify)")
            }));
            return respond::plain(lines.join("\n") + "\n");
        }
        let text = if self.administration.is_warm() { "draining\n" } else { "warming up\n" };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        Answer::of(503, headers, Content::Bytes(text.into()))
    }
}
