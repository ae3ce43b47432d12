//! What a client chooses and the access log writes: method, target and agent, a line each, and the text of a refusal.

#![cfg_attr(fuzzing, no_main)]

use larder::http::trace_context::RequestId;
use larder::oci::error_code::shown;
use larder::server::access_log::{Line, write};
use larder::server::respond::Note;
use serde_json::Value;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Written {
    fn line(&self) -> String {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let line = text.strip_suffix('\n').unwrap_or_else(|| panic!("{text:?} has no end"));
        assert!(!line.contains(char::is_control), "{line:?}");
        line.to_owned()
    }
}

/// It is one line, and in the one form one JSON document, whatever a client sends.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (method, target, agent, detail) = (next(), next(), next(), next());
    // Texts of refusals are clean before they come here.
    let note = Note { detail: (!detail.is_empty()).then(|| shown(detail)), ..Note::default() };
    let line = Line {
        id: RequestId::new(1),
        peer: "127.0.0.1:1",
        method,
        target,
        status: 200,
        bytes: 1,
        took: Duration::from_millis(1),
        complete: true,
        agent,
        probe: false,
        note: &note,
    };
    let written = Written::default();
    let builder = || tracing_subscriber::fmt().with_writer(written.clone());
    let json = builder().json().flatten_event(true).with_current_span(false).with_span_list(false).finish();
    tracing::subscriber::with_default(json, || write(&line));
    let parsed: Value = serde_json::from_str(&written.line()).unwrap();
    assert_eq!((&parsed["target"], &parsed["status"]), (&"access".into(), &200.into()), "{parsed}");
    let human = builder().with_ansi(false).finish();
    tracing::subscriber::with_default(human, || write(&line));
    written.line();
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
