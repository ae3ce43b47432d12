//! The span of a request, by OpenTelemetry's conventions for HTTP servers.

use super::respond::Note;
use crate::http::trace_context::TraceParent;
use crate::origin::SPANS;
use http::Method;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::net::SocketAddr;
use tracing::field::Empty;
use tracing::{Id, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// What is asked for all the time, by those who watch: nobody wants to be told.
const PROBES: [&str; 4] = ["/healthz", "/livez", "/readyz", "/metrics"];

/// Begins the span of a request, below its sender's if that one tells of itself.
pub fn open(asked: &Method, path: &str, peer: SocketAddr, parent: Option<TraceParent>) -> Span {
    if PROBES.contains(&path) {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: SPANS,
        parent: None::<Id>,
        "request",
        otel.kind = "server",
        otel.name = method(asked),
        otel.status_code = Empty,
        "error.type" = Empty,
        http.request.method = method(asked),
        http.response.status_code = Empty,
        url.path = %crate::oci::error_code::shown(path),
        client.address = %peer.ip(),
        larder.route = Empty,
        larder.cache = Empty,
        larder.reference = Empty,
    );
    if let Some(parent) = parent.filter(|_| !span.is_disabled()) {
        let flags = if parent.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        let (trace, above) = (TraceId::from(parent.trace), SpanId::from(parent.span));
        let told = SpanContext::new(trace, above, flags, true, TraceState::NONE);
        // Refused only where no collector is set.
        let _ = span.set_parent(Context::new().with_remote_span_context(told));
    }
    span
}

/// Says what came of it.
pub fn answered(span: &Span, asked: &Method, route: &'static str, status: u16, note: &Note) {
    if span.is_disabled() {
        return;
    }
    // A span that has begun cannot get a name as other facts do.
    span.context().span().update_name(format!("{} {route}", method(asked)));
    span.record("larder.route", route).record("http.response.status_code", status);
    span.record("larder.cache", note.cache).record("larder.reference", note.reference.as_deref());
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", note.code.as_deref().unwrap_or("server_error"));
    }
}

/// A closed set, as the conventions ask: clients invent methods.
fn method(method: &Method) -> &str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS];
    if known.contains(method) { method.as_str() } else { "_OTHER" }
}
