//! Settings of what larder tells of itself: lines of the log, and spans.

use crate::oci::reference::masked;
use serde::Deserialize;
use std::str::FromStr;
use url::Url;

/// Settings of logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// What is written.
    pub level: LogLevel,
}

/// Settings of spans.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// A collector's address, without `/v1/traces`.
    pub endpoint: Option<String>,
    /// The part of requests that is told, 0 to 1.
    pub sample: f64,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `Human` on a terminal, else `Json`.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The least important line that is written.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = Self::ALL.into_iter().find(|level| level.as_str() == text);
        level.ok_or_else(|| {
            let shown = crate::oci::error_code::shown(text);
            format!("'{shown}' is no level; expected error, warn, info, debug or trace")
        })
    }
}

impl TracesConfig {
    /// Where spans are sent to.
    pub fn url(&self) -> Option<String> {
        self.endpoint.as_ref().map(|endpoint| format!("{}/v1/traces", endpoint.trim_end_matches('/')))
    }

    /// What is wrong, by key.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Some(problem) = self.endpoint.as_deref().and_then(wrong_endpoint) {
            faults.push(("traces.endpoint", problem));
        }
        if !(0.0..=1.0).contains(&self.sample) {
            faults.push(("traces.sample", format!("{} is no part; expected 0 to 1", self.sample)));
        }
        faults
    }
}

fn wrong_endpoint(endpoint: &str) -> Option<String> {
    let told = |problem: &str| {
        // A key may stand behind the path. Cut afterwards: a password may have these characters too.
        let shown = masked(endpoint);
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        Some(format!("'{shown}' {problem}; expected http[s]://host[:port][/prefix]"))
    };
    let Ok(url) = endpoint.parse::<Url>() else {
        return told("is no URL");
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return told("is no collector");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return told("has credentials; they go into OTEL_EXPORTER_OTLP_HEADERS");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return told("has more than a path");
    }
    if url.path().trim_end_matches('/').ends_with("/v1/traces") {
        return told("ends in /v1/traces, which is put there");
    }
    None
}
