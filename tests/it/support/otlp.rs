//! A collector that reads what comes (OTLP over HTTP, protobuf) and answers as it is told.

use super::eventually;
use super::scripted::{Act, Ask, Scripted};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;
use std::collections::BTreeMap;

/// See the module's text.
pub struct Sink {
    pub server: Scripted,
}

/// A span as it came. Ids are in hexadecimal digits, empty where there is none.
#[derive(Debug, Clone)]
pub struct Told {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub is_error: bool,
    pub is_server: bool,
    pub attributes: BTreeMap<String, String>,
    pub begin: u64,
    pub end: u64,
    /// Of whoever tells.
    pub resource: BTreeMap<String, String>,
}

impl Told {
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

impl Sink {
    pub fn start() -> Self {
        let server = Scripted::start();
        server.script(|_, _| Act::status(200).header("Content-Type", "application/x-protobuf"));
        Self { server }
    }

    /// Lines of settings.
    pub fn settings(&self) -> String {
        format!("traces: {{endpoint: 'http://{}'}}\n", self.server.host())
    }

    /// What came, as it came.
    pub fn posts(&self) -> Vec<Ask> {
        self.server.asked()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Told> {
        let mut out = Vec::new();
        for post in self.posts() {
            assert_eq!((post.method.as_str(), post.path.as_str()), ("POST", "/v1/traces"));
            assert_eq!(post.headers["content-type"], "application/x-protobuf");
            let export = ExportTraceServiceRequest::decode(&post.body[..]).unwrap();
            for group in export.resource_spans {
                let resource = attributes(&group.resource.unwrap_or_default().attributes);
                for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    out.push(Told {
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        is_error: span.status.is_some_and(|status| status.code == 2),
                        is_server: span.kind == 2,
                        attributes: attributes(&span.attributes),
                        begin: span.start_time_unix_nano,
                        end: span.end_time_unix_nano,
                        name: span.name,
                        resource: resource.clone(),
                    });
                }
            }
        }
        out
    }

    /// The spans of a trace, once those that are called so are there: which one ends last is not said.
    pub fn trace(&self, trace: &str, names: &[&str]) -> Vec<Told> {
        eventually(&format!("the spans {names:?} of {trace}"), || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace == trace);
            names.iter().all(|name| spans.iter().any(|span| span.name == *name)).then_some(spans)
        })
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let shown = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |pair: &KeyValue| pair.value.as_ref().and_then(|any| any.value.as_ref()).map(shown);
    pairs.iter().map(|pair| (pair.key.clone(), value(pair).unwrap_or_default())).collect()
}
