//! What is told of copies: a line each, a catalog file with remarks, the same as JSON, and the exit code.

use crate::catalog::version_of;
use crate::cli::exit;
use crate::cli::output::{self, DETAIL};
use crate::oci::error_code::bounded;
use crate::oci::{Digest, Reference};
use crate::registry::copying::{Done, Outcome};
use crate::registry::{Kind, RegistryError};
use serde::Serialize;

/// A tag was left alone.
const LEFT: u8 = 1;

/// What to do where nobody is asked.
const OFFLINE: &str =
    "LARDER_POLICY_MODE=online larder copy … asks for it, unless a rule (policy.rules) has it offline";

/// All that was done.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where another larder finds them: `catalog.template`.
    pub catalog_template: String,
    /// The same for a Higress Console whose gateways pull by themselves.
    pub image_url_pattern: String,
    pub dry_run: bool,
    /// Lines of a catalog file for those that are there; of a dry run, that would be.
    pub properties: Vec<String>,
    pub items: Vec<Row>,
}

/// One plugin.
#[derive(Debug, Serialize)]
pub struct Row {
    pub plugin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// By which step of the search it was found: `exact`, `alias` or `fallback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<&'static str>,
    /// What is copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Reference>,
    #[serde(flatten)]
    pub done: Option<Done>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

/// Why one is not there.
#[derive(Debug, Serialize)]
pub struct Problem {
    pub code: &'static str,
    pub detail: String,
    pub hint: String,
    #[serde(skip)]
    pub exit: u8,
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let exit = match error.kind {
            Kind::NotFound => exit::NOINPUT,
            Kind::Denied => exit::NOPERM,
            Kind::Corrupt | Kind::TooLarge => exit::DATAERR,
            Kind::Settings => exit::CONFIG,
            _ => exit::UNAVAILABLE,
        };
        let hint = if error.code == "offline" { OFFLINE.into() } else { error.hint };
        Self { code: error.code, detail: error.detail, hint, exit }
    }
}

pub fn is_there(done: &Done) -> bool {
    done.outcome != Outcome::Conflict
}

pub fn name(row: &Row) -> String {
    let version = row.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
    format!("{}{version}", row.plugin)
}

/// A line of how one ended.
pub fn outcome(row: &Row) -> String {
    let name = name(row);
    if let Some(error) = &row.error {
        return format!("{name}: failed: {}", bounded(&error.detail, DETAIL));
    }
    let (Some(done), Some(source), Some(target)) = (&row.done, &row.source, &row.target) else { return name };
    let other = match row.matched {
        Some(step) if step != "exact" => format!(" as {} ({step})", version_of(source)),
        _ => String::new(),
    };
    let sent = format!("{} sent", output::count(done.sent, "blob", "blobs"));
    let sent = match done.bytes {
        0 => sent,
        bytes => format!("{sent} ({})", output::size(bytes)),
    };
    let blobs = format!("{sent}, {} mounted, {} there already", done.mounted, done.present);
    let mut line = match done.outcome {
        Outcome::Copied => format!("{name}: copied{other} to {target}: {blobs}"),
        Outcome::Replaced => {
            format!("{name}: copied{other} to {target}, which meant {}: {blobs}", before(done))
        }
        Outcome::There => format!("{name}: there already{other} at {target}"),
        Outcome::Conflict => {
            format!("{name}: left alone{other}: {target} means {}; --overwrite replaces it", before(done))
        }
        Outcome::WouldCopy => format!("{name}: would be copied{other} to {target}: {blobs}"),
        Outcome::WouldReplace => {
            format!("{name}: would replace{other} {target}, which means {}: {blobs}", before(done))
        }
    };
    if done.signatures > 0 {
        line += &format!(", {}", output::count(done.signatures, "signature", "signatures"));
    }
    for tag in &done.left {
        line += &format!("; {tag} means something else there and was left alone; --overwrite replaces it");
    }
    line
}

fn before(done: &Done) -> String {
    done.before.map(|digest| digest.to_string()).unwrap_or_default()
}

/// A catalog file, with all else in remarks.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    for row in &report.items {
        if let Some(error) = &row.error {
            text += &format!("# {}: {}: {}\n", name(row), error.code, bounded(&error.detail, DETAIL));
            if !error.hint.is_empty() {
                text += &format!("#   next step: {}\n", bounded(&error.hint, DETAIL));
            }
        }
    }
    let number = |outcomes: &[Outcome]| {
        let done = report.items.iter().filter_map(|row| row.done.as_ref());
        done.filter(|done| outcomes.contains(&done.outcome)).count() as u64
    };
    let copied = number(&[Outcome::Copied, Outcome::Replaced, Outcome::WouldCopy, Outcome::WouldReplace]);
    let (one, many) = match report.dry_run {
        true => ("plugin would be copied", "plugins would be copied"),
        false => ("plugin copied", "plugins copied"),
    };
    text += &format!(
        "# {}, {} there already, {} left alone, {} failed\n",
        output::count(copied, one, many),
        number(&[Outcome::There]),
        number(&[Outcome::Conflict]),
        report.items.iter().filter(|row| row.error.is_some()).count()
    );
    text += &format!("# catalog.template: {}\n", report.catalog_template);
    text += &format!("# HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN={}\n", report.image_url_pattern);
    // What is not there yet is nothing that a larder can use.
    let remark = if report.dry_run { "# " } else { "" };
    text + &report.properties.iter().map(|line| format!("{remark}{line}\n")).collect::<String>()
}

/// The code of the worst that happened: the registry before a refusal, the artifact, a name that is not, a tag that stays.
pub fn worst(report: &Report) -> Option<u8> {
    let order = [exit::CONFIG, exit::UNAVAILABLE, exit::NOPERM, exit::DATAERR, exit::NOINPUT, LEFT];
    let codes = report.items.iter().filter_map(|row| match (&row.error, &row.done) {
        (Some(error), _) => Some(error.exit),
        (None, Some(done)) if !is_there(done) || !done.left.is_empty() => Some(LEFT),
        _ => None,
    });
    codes.min_by_key(|code| order.iter().position(|other| other == code))
}
