//! What an operator asks and does: what is held, why it failed, fetch it, ask about it again, take it away.
//!
//! Values in, values out: the server answers HTTP with them ([`crate::server`]), and the commands print them, from a
//! running larder or from a cache directory that nobody uses. The types here are the administration port's JSON, so
//! that both sides of it are one declaration.
//!
//! Nothing here decides what a gateway gets: every change goes through the cache, which verifies as always.

pub mod change;
pub mod entries;
pub mod history;
pub mod import;
pub mod prefetch;
pub mod status;

use crate::cache::Cache;
use crate::catalog;
use crate::clock::{Clock, Timestamp};
use crate::failures::Failures;
use crate::metrics::Metrics;
use crate::registry::Client;
use arc_swap::ArcSwap;
use history::History;
use prefetch::Jobs;
use serde::Deserialize;
use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Settings: who may do all this.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A file with bearer tokens, one a line.
    pub token_file: Option<PathBuf>,
    /// Where changes are written down.
    pub audit: AuditConfig,
}

impl Config {
    /// What makes no sense together: the key, and what is wrong with it.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        let AuditConfig { file, required } = &self.audit;
        (*required && file.is_none()).then_some(("admin.audit.required", "needs admin.audit.file"))
    }
}

impl Config {
    /// Who may administer on a port that is bound to `bound`, where clients are asked for `certificates` or not; for people.
    pub fn told(&self, bound: IpAddr, certificates: bool) -> &'static str {
        match (&self.token_file, certificates) {
            (Some(_), true) => "by token or client certificate",
            (Some(_), false) => "by token",
            (None, true) => "by client certificate",
            (None, false) if bound.is_loopback() => "open to this machine",
            (None, false) => "closed; set admin.token_file or tls.admin.client_ca",
        }
    }
}

/// Settings of the audit log.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// The file; `None` for the log alone.
    pub file: Option<PathBuf>,
    /// Whether a change that cannot be written down is refused.
    pub required: bool,
}

/// Settings: what is fetched at the start.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// `all`, `used`, names, and names with versions (`NAME@VERSION`).
    pub plugins: Vec<String>,
    /// Most of them at once.
    pub at_once: usize,
    /// When to be ready.
    pub ready_when: ReadyWhen,
}

/// When a start is over.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ReadyWhen {
    /// From the first moment.
    Always,
    /// When each plugin of the warm-up was fetched or has failed.
    Warmed,
}

/// What can be asked and done.
pub struct Administration {
    /// The heart.
    pub cache: Arc<Cache>,
    /// What asks registries.
    pub client: Arc<Client>,
    /// Which names there are.
    pub names: catalog::Live,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What failed lately.
    pub failures: Arc<Failures>,
    /// The last hour.
    pub history: History,
    /// Plugins that were asked for in advance.
    pub jobs: Arc<Jobs>,
    /// The settings in use.
    pub settings: ArcSwap<status::Settings>,
    /// Whether every module is being read again, and what came of it.
    pub scrub: Mutex<Option<change::Scrub>>,
    /// What is fetched at the start.
    pub warm_up: WarmUp,
    /// Bundles that are taken in.
    pub imports: import::Imports,
    /// When the process began.
    pub started: Timestamp,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// What to decide by.
    pub kind: Kind,
    /// Stable word.
    pub code: &'static str,
    /// What was asked, and what is wrong with it.
    pub detail: String,
    /// What to do; may be empty.
    pub hint: Cow<'static, str>,
}

/// The kinds of [`Refused`]; `server::refuse` maps each to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The question makes no sense.
    Bad,
    /// There is no such thing.
    NotFound,
    /// It is being done already.
    Busy,
    /// Too much at once.
    TooMany,
    /// What came is no good.
    Unusable,
    /// The disk would not.
    Failed,
}

impl Refused {
    fn new(
        kind: Kind,
        code: &'static str,
        detail: impl Into<String>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { kind, code, detail: detail.into(), hint: hint.into() }
    }
}
