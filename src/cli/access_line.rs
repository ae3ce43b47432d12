//! The access line as JSON. It is the one line that every hit writes, and the library's way to it would be a third of a hit's
//! work (measured); what it looks like is the library's.

use crate::clock;
use std::fmt::{self, Debug, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The target of access lines.
const TARGET: &str = "access";
/// Bytes of a usual line.
const USUAL_BYTES: usize = 512;

/// Writes access lines itself, and other lines as `others` does.
pub struct Lines<F> {
    others: F,
}

impl<F> Lines<F> {
    /// Beside a formatter of JSON lines with flattened fields.
    pub fn beside(others: F) -> Self {
        Self { others }
    }
}

impl<S, N, F> FormatEvent<S, N> for Lines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let told = event.metadata();
        if told.target() != TARGET {
            return self.others.format_event(context, to, event);
        }
        let mut line = Line { text: String::with_capacity(USUAL_BYTES) };
        line.text.push_str("{\"timestamp\":\"");
        // The library's own way to the same digits takes ten times as long.
        write!(line.text, "{}", humantime::format_rfc3339_micros(clock::shown()))?;
        line.text.push_str("\",\"level\":\"");
        line.text.push_str(told.level().as_str());
        line.text.push('"');
        event.record(&mut line);
        line.text.push_str(",\"target\":\"access\"}\n");
        to.write_str(&line.text)
    }
}

/// A line that is being written.
struct Line {
    text: String,
}

impl Line {
    fn name(&mut self, field: &Field) {
        self.text.push_str(",\"");
        self.text.push_str(field.name());
        self.text.push_str("\":");
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        // To a text, which takes everything.
        let _ = write!(self.text, "{value}");
    }
}

/// True when a JSON string has it as it is. All bytes are looked at, which is faster than to stop at the first that is not.
fn is_plain(value: &str) -> bool {
    let is_special = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    !value.bytes().fold(false, |found, byte| found | is_special(byte))
}

/// Puts `value` behind `text` as a JSON string.
fn quote(text: &mut String, value: &str) {
    if is_plain(value) {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        quote(&mut self.text, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.text.push_str(if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // As a Value, for numbers that JSON does not have.
        self.plain(field, serde_json::Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        let start = self.text.len();
        self.text.push('"');
        let _ = write!(self.text, "{value:?}");
        if is_plain(&self.text[start + 1..]) {
            self.text.push('"');
        } else {
            let shown = self.text.split_off(start);
            quote(&mut self.text, &shown[1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::log::tests::Written;
    use tracing_subscriber::layer::SubscriberExt;

    fn say() {
        let (some, none) = (Some("h/p/n:1"), None::<&str>);
        for agent in ["Go-http-client/1.1", "a \"quoted\" one", "a\\b", "tab\t", "\u{7f} and é", ""] {
            tracing::info!(
                target: "access", request_id = %"00ff", peer = %"[::1]:80", status = 200_u16, bytes = u64::MAX, less = -1,
                millis = 0.25, whole = 3.0, not = f64::NAN, complete = true, reference = some, matched = none, agent
            );
        }
        tracing::warn!(target: "access", detail = "what", code = ?Some("x\"y"), "malformed");
        tracing::info!(agent = "other lines", "are the library's");
    }

    /// What is written, without its times.
    fn written(subscriber: impl FnOnce(Written) -> Box<dyn Subscriber + Send + Sync>) -> Vec<String> {
        let written = Written::default();
        tracing::subscriber::with_default(subscriber(written.clone()), say);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let without = |line: &str| {
            let (time, rest) = line.split_once(",\"level\"").unwrap();
            let time =
                time.strip_prefix("{\"timestamp\":\"").and_then(|time| time.strip_suffix("Z\"")).unwrap();
            assert_eq!(time.len(), "2026-01-02T03:04:05.678901".len(), "{time}");
            rest.to_owned()
        };
        text.lines().map(without).collect()
    }

    #[test]
    fn a_line_is_byte_by_byte_the_librarys() {
        let library = |to: Written| {
            let to = move || to.clone();
            tracing_subscriber::fmt::layer().with_writer(to).json().flatten_event(true)
        };
        let theirs = written(|to| Box::new(tracing_subscriber::registry().with(library(to))));
        let ours = written(|to| {
            Box::new(tracing_subscriber::registry().with(library(to).map_event_format(Lines::beside)))
        });
        assert_eq!(ours.len(), 8);
        assert_eq!(ours, theirs);
    }
}
