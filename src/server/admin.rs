//! The administration port: metrics, health and explanations. Nothing here can change anything that is kept.

use super::guard::Accepted;
use super::listen::Drain;
use super::listing;
use super::refuse;
use super::respond::{self, Answer, Content, Note};
use super::tls::Shown;
use crate::admin::Administration;
use crate::admin::status::Reloaded;
use crate::cache::explain::Explanation;
use crate::metrics::Metrics;
use crate::plugin::Request;
use crate::registry::Client;
use crate::store::Store;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Walks a plugin's road aloud, or says why it cannot.
pub type Explain = Arc<dyn Fn(Request) -> BoxFuture<'static, Result<Explanation, String>> + Send + Sync>;

/// Reads the settings again, with all that they name.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<Reloaded, Unusable>> + Send + Sync>;

/// Why the settings are not in use as they are written now. Those of before are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// They are being read already.
    pub busy: bool,
    /// What is wrong with them, each with its place.
    pub faults: Vec<String>,
}

/// What it reads.
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
    /// What reads the settings again.
    pub reload: Reload,
    /// What is held.
    pub store: Arc<dyn Store>,
    /// Whether we are about to leave.
    pub drain: Drain,
}

impl Admin {
    /// Answers a well-formed request of who has `shown` a certificate.
    pub async fn answer(&self, headers: &HeaderMap, accepted: &Accepted, _shown: Option<&Shown>) -> Answer {
        match accepted.path.as_str() {
            "/" => {
                respond::plain("larder: /metrics /livez /readyz /explain?name=NAME&version=VERSION\n".into())
            }
            "/metrics" => self.metrics(),
            // Liveness asks nobody: a process that answers is alive.
            "/livez" => respond::plain("ok\n".into()),
            "/readyz" => self.ready(),
            "/explain" => self.explain(headers, &accepted.query).await,
            path => refuse::no_route(headers, path),
        }
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
        Answer { status: 200, headers, content: Content::Bytes(text.into()), note: Note::default() }
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

    /// Ready from the first moment, or when the plugins of the start are there, until the drain begins. A registry that is down is no reason to send nobody here:
    /// what is held is served.
    fn is_ready(&self) -> bool {
        !self.drain.is_draining() && self.administration.is_warm()
    }

    fn ready(&self) -> Answer {
        if self.is_ready() {
            // What is doubtful about being ready, for people.
            let open = self.client.unverified();
            let doubts = open.iter().map(|name| {
                format!("warning: certificates of {name} are not verified (insecure_skip_verify)\n")
            });
            let degraded = (self.metrics.store_degraded.get() > 0).then(|| {
                "warning: the cache directory takes nothing; what is new is held in memory\n".to_owned()
            });
            let lines = std::iter::once("ready\n".to_owned()).chain(degraded).chain(doubts);
            return respond::plain(lines.collect::<String>());
        }
        let text = if self.administration.is_warm() { "draining\n" } else { "warming up\n" };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        Answer { status: 503, headers, content: Content::Bytes(text.into()), note: Note::default() }
    }
}
