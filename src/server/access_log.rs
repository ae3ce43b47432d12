//! One line a request.

use super::respond::Note;
use crate::http::trace_context::RequestId;
use crate::oci::error_code::shown_of;
use std::time::Duration;

/// What a line says.
pub struct Line<'a> {
    /// The request's name.
    pub id: RequestId,
    /// Who asked.
    pub peer: &'a str,
    /// Method as sent.
    pub method: &'a str,
    /// Target as sent, query included.
    pub target: &'a str,
    /// HTTP status.
    pub status: u16,
    /// Bytes of body sent.
    pub bytes: u64,
    /// From the request's header to the answer's last byte.
    pub took: Duration,
    /// False when the client left or was too slow before the end.
    pub complete: bool,
    /// `User-Agent`.
    pub agent: &'a str,
    /// True for health, metrics and looks at the administration, which are asked for all the time: their lines are for `log.level: debug`.
    pub probe: bool,
    /// What the answer was about.
    pub note: &'a Note,
}

/// Writes the line. What a client chose is written with controls escaped, in either format.
pub fn write(line: &Line<'_>) {
    let Line { id, peer, method, target, status, bytes, took, complete, agent, probe, note } = line;
    let [method, target, agent] = [method, target, agent].map(|text| shown_of(text));
    let (method, target, agent) = (&*method, &*target, &*agent);
    // Whole micros divided once, so that it is written in three digits.
    let millis = took.as_micros() as f64 / 1000.0;
    let cache = note.cache.unwrap_or("none");
    let reference = note.reference.as_deref();
    let matched = note.matched;
    match &note.detail {
        None if *probe => {
            tracing::debug!(target: "access", request_id = %id, %peer, method, path = target, status, bytes, millis, agent)
        }
        None => tracing::info!(
            target: "access", request_id = %id, %peer, method, path = target, status, bytes, millis, complete, cache,
            reference, matched, agent
        ),
        Some(detail) => tracing::warn!(
            target: "access", request_id = %id, %peer, method, path = target, status, bytes, millis, complete, cache,
            reference, matched, agent, code = note.code.as_deref(), detail, hint = note.hint.as_deref()
        ),
    }
}
