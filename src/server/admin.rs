//! The administration port: metrics and health. Nothing here can change anything.

use super::guard::Accepted;
use super::listen::Drain;
use super::refuse;
use super::respond::{self, Answer, Content, Note};
use crate::metrics::Metrics;
use crate::store::Store;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;

/// What it reads.
pub struct Admin {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What is held.
    pub store: Arc<dyn Store>,
    /// Whether we are about to leave.
    pub drain: Drain,
}

impl Admin {
    /// Answers a well-formed request.
    pub fn answer(&self, headers: &HeaderMap, accepted: &Accepted) -> Answer {
        match accepted.path.as_str() {
            "/" => respond::plain("larder: /metrics /livez /readyz\n".into()),
            "/metrics" => self.metrics(),
            // Liveness asks nobody: a process that answers is alive.
            "/livez" => respond::plain("ok\n".into()),
            "/readyz" => self.ready(),
            path => refuse::no_route(headers, path),
        }
    }

    fn metrics(&self) -> Answer {
        let usage = self.store.usage();
        for (tier, entries, bytes) in [
            ("memory", usage.memory_entries, usage.memory_bytes),
            ("disk", usage.disk_entries, usage.disk_bytes),
        ] {
            self.metrics.cache_entries.with_label_values(&[tier]).set(entries as i64);
            self.metrics.cache_bytes.with_label_values(&[tier]).set(bytes as i64);
        }
        let text = self.metrics.render();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        Answer { status: 200, headers, content: Content::Bytes(text.into()), note: Note::default() }
    }

    /// Ready from the first moment until the drain begins. A registry that is down is no reason to send nobody here:
    /// what is held is served.
    fn ready(&self) -> Answer {
        if !self.drain.is_draining() {
            return respond::plain("ready\n".into());
        }
        let text = "draining\n";
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        Answer { status: 503, headers, content: Content::Bytes(text.into()), note: Note::default() }
    }
}
