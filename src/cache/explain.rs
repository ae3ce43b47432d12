//! The road of a request, walked aloud: for whoever asks why a plugin comes, or why it does not.
//!
//! It is the same road with the same code: a cache of its own, empty and thrown away afterwards, and a client of its own,
//! so that every connection, login and transfer is made before the reader's eyes. What is held is neither used nor
//! changed; it is told beside.

use super::{Ask, Cache, CacheError, ErrorKind, Served};
use crate::catalog::{Catalog, Plan};
use crate::clock::Timestamp;
use crate::oci::Reference;
use crate::plugin::Request;
use crate::record::{Absence, Record, State};
use crate::registry::trace::{Step, Trace};
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// What happened on the road.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    /// The plugin.
    pub plugin: String,
    /// The version that was asked for, if one was.
    pub version: Option<String>,
    /// What was done and seen, in order.
    pub steps: Vec<Step>,
    /// How it ended.
    pub result: Outcome,
}

/// How it ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// `ok`, or the error's code.
    pub code: Cow<'static, str>,
    /// In a sentence.
    pub detail: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// The kind of the failure, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ErrorKind>,
}

impl Outcome {
    fn of(result: Result<Served, Arc<CacheError>>) -> Self {
        match result {
            Ok(served) => {
                let (module, origin) = (served.found.module(), &served.found.origin);
                let from = match origin.manifest() {
                    Some(manifest) => format!("{origin} ({manifest})"),
                    None => origin.to_string(),
                };
                let why = served.found.why.as_str();
                let detail = format!(
                    "{} bytes, sha256 {}, {why} match, from {from}",
                    module.size,
                    module.digest.hex()
                );
                Self { code: "ok".into(), detail, hint: String::new(), kind: None }
            }
            Err(error) => Self {
                code: error.code.into(),
                detail: error.detail.clone(),
                hint: error.hint.clone(),
                kind: Some(error.kind),
            },
        }
    }
}

/// Walks the road of `request` with `cache`, which is empty and whose client tells `trace`. `held` is what a running
/// larder has.
pub async fn explain(
    request: &Request,
    catalog: &Catalog,
    cache: &Arc<Cache>,
    trace: &Trace,
    held: Option<&dyn Store>,
) -> Explanation {
    let plan = catalog.plan(request);
    trace.note("plan", || {
        let steps = plan.versions.iter().map(|(version, why)| format!("{version} ({})", why.as_str()));
        format!("versions in this order: {}", steps.collect::<Vec<_>>().join(", "))
    });
    for candidate in &plan.candidates {
        if let Some(record) = held.and_then(|store| store.record(&candidate.reference)) {
            trace.note("held", || told(&candidate.reference, &record));
        }
    }
    let result = if is_unknown(request, &plan, cache) {
        unknown(request, catalog)
    } else {
        Outcome::of(cache.get(&request.name, &plan, Ask::Allowed).await)
    };
    Explanation {
        plugin: request.name.to_string(),
        version: request.version.as_ref().map(ToString::to_string),
        steps: trace.take(),
        result,
    }
}

/// Nobody is asked, by the same words as the server's (`server/refuse.rs`).
pub fn unknown(request: &Request, catalog: &Catalog) -> Outcome {
    let name = &request.name;
    let near: Vec<_> = catalog.nearest(name.as_str()).iter().map(ToString::to_string).collect();
    let (code, detail, hint) = match &request.version {
        None => (
            "version_needed",
            format!("no version was asked for, and the catalog names none for '{name}'"),
            "name a version, or add a line to a catalog file (--catalog)".into(),
        ),
        Some(_) if near.is_empty() => (
            "unknown_name",
            format!("'{name}' is not in the catalog, and no rule allows other names"),
            "check the spelling, or add a line to a catalog file (--catalog)".into(),
        ),
        Some(_) => (
            "unknown_name",
            format!("'{name}' is not in the catalog, and no rule allows other names"),
            format!("did you mean {}?", near.join(", ")),
        ),
    };
    Outcome { code: code.into(), detail, hint, kind: Some(ErrorKind::NotFound) }
}

/// Whether no rule and no local file lets anybody be asked.
pub fn is_unknown(request: &Request, plan: &Plan, cache: &Cache) -> bool {
    let local = cache.store().overlay();
    let is_local = plan.versions.iter().any(|(v, _)| local.contains_key(&(request.name.clone(), v.clone())));
    plan.candidates.is_empty() && !is_local
}

fn told(reference: &Reference, record: &Record) -> String {
    let at = record.checked_at;
    match &record.state {
        State::Present(present) if at == Timestamp::EPOCH => format!(
            "{reference} is held: {}, from a bundle, and no registry confirmed it yet; it is served whatever comes of what follows",
            present.module.digest
        ),
        State::Absent(_) if at == Timestamp::EPOCH => format!("{reference} did not exist, as a bundle says"),
        State::Present(present) => format!(
            "{reference} is held: {}, confirmed {at}; it is served whatever comes of what follows",
            present.module.digest
        ),
        State::Absent(Absence::NotFound) => format!("{reference} did not exist at {at}"),
        State::Absent(Absence::Denied) => format!("{reference} was refused at {at}"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().map(|version| format!(" {version}")).unwrap_or_default();
        writeln!(f, "{}{version}", self.plugin)?;
        for Step { step, text } in &self.steps {
            writeln!(f, "  {step:<10} {text}")?;
        }
        writeln!(f, "{}: {}", self.result.code, self.result.detail)?;
        if !self.result.hint.is_empty() {
            writeln!(f, "next step: {}", self.result.hint)?;
        }
        Ok(())
    }
}
