//! `larder check --policy`: what the policy of these settings refuses of what is cached, before any larder goes by it.

use super::larder::{Address, Larder, Wish};
use super::output::{self, DETAIL, Output};
use super::trouble::Trouble;
use super::{assemble, exit, print, runtime};
use crate::admin::entries::{Entry, Query};
use crate::clock::Timestamp;
use crate::config::{Fault, Loaded};
use crate::oci::error_code::bounded;
use crate::oci::{Digest, Reference};
use crate::policy::{Gate, Judged, Refusal, Subject};
use crate::record::{Module, Present};
use crate::signature::{self, Form, Proof, Verdict};
use serde::Serialize;
use std::process::ExitCode;

/// Something is refused.
const REFUSED: u8 = 1;

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// What is held: references by each name that they stand for, and local files.
    held: usize,
    /// What of that would not be served.
    refused: Vec<Refused>,
}

/// Something that would not be served.
#[derive(Debug, Serialize)]
struct Refused {
    plugin: String,
    version: String,
    /// The reference, or the local file's path.
    key: String,
    code: &'static str,
    detail: String,
    hint: String,
}

/// Judges and tells.
pub fn run(loaded: &Loaded, address: &Address, output: Output) -> ExitCode {
    let report = match judged(loaded, address) {
        Ok(report) => report,
        Err(trouble) => return trouble.tell(),
    };
    for warning in loaded.warnings.iter().filter(|warning| warning.problem.starts_with("policy")) {
        eprintln!("larder: warning: {warning}");
    }
    let printed = print(&match output {
        Output::Json => output::json(&report),
        Output::Text => shown(&report),
    });
    if report.refused.is_empty() { printed } else { ExitCode::from(REFUSED) }
}

fn judged(loaded: &Loaded, address: &Address) -> Result<Report, Trouble> {
    let unusable = |faults: Vec<Fault>| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        Trouble::new(exit::CONFIG, faults.join("\nlarder: "))
    };
    let names = assemble::names(loaded).map_err(unusable)?;
    let gate = assemble::gate_of(loaded, &names.catalog).map_err(unusable)?;
    let runtime = runtime()?;
    let larder: Larder = address.find(loaded, &runtime, Wish::Look)?;
    let entries = runtime.block_on(larder.entries(&Query::default(), None))?.entries;
    let mut report = Report { held: 0, refused: Vec::new() };
    for entry in &entries {
        for Judged { name, version, verdict } in verdicts(&gate, entry) {
            report.held += 1;
            if let Err(Refusal { code, detail, hint, .. }) = verdict {
                let plugin = name.map_or_else(|| entry.plugin.clone(), |name| name.to_string());
                let (version, key) = (version.to_string(), entry.key.clone());
                report.refused.push(Refused { plugin, version, key, code, detail, hint });
            }
        }
    }
    Ok(report)
}

/// What is said of an entry, by each name that it stands for; nothing of what is not held.
pub fn verdicts(gate: &Gate, entry: &Entry) -> Vec<Judged> {
    let local = || {
        let (name, version) = (entry.plugin.parse().ok()?, entry.version.parse().ok()?);
        let verdict = gate.admits(Subject { name: Some(&name), version: &version, reference: None });
        Some(Judged { name: Some(name), version, verdict })
    };
    match entry.registry {
        None => local().into_iter().collect(),
        Some(_) => {
            let held = present(entry).zip(entry.key.parse::<Reference>().ok());
            held.map(|(present, reference)| gate.verdicts(&reference, &present)).unwrap_or_default()
        }
    }
}

/// What a policy needs to know of what is held.
fn present(entry: &Entry) -> Option<Present> {
    let digest = |text: &Option<String>| text.as_ref()?.parse().ok();
    let is_held = entry.tier.as_deref().is_some_and(|tier| tier != "missing");
    let (manifest, layer, module) = (digest(&entry.manifest)?, digest(&entry.layer)?, digest(&entry.digest)?);
    is_held.then(|| Present {
        manifest,
        layer,
        layer_media_type: String::new(),
        module: Module {
            digest: module,
            size: entry.size.unwrap_or_default(),
            md5: String::new(),
            abi: entry.abi.clone(),
        },
        since: Timestamp::EPOCH,
        first: None,
        signatures: signed(entry, manifest),
    })
}

/// Who signed an entry, as far as it tells. Evidence is the larder's own, so other keys may find more in it.
fn signed(entry: &Entry, manifest: Digest) -> Option<Box<signature::Judged>> {
    let key = entry.signature.as_ref()?.key.as_ref()?.parse().ok()?;
    let proof = Proof { key, subject: manifest, form: Form::Payload, signature: manifest };
    let (verdict, keys) = (Verdict::Verified(proof), Digest::of(b""));
    Some(Box::new(signature::Judged { verdict, keys, at: Timestamp::EPOCH, case: None }))
}

fn shown(report: &Report) -> String {
    let Report { held, refused } = report;
    let summary = format!(
        "{} of {} would be refused\n",
        refused.len(),
        output::count(*held as u64, "plugin", "plugins")
    );
    if refused.is_empty() {
        return summary;
    }
    let row = |refused: &Refused| {
        vec![
            refused.plugin.clone(),
            refused.version.clone(),
            refused.code.into(),
            bounded(&refused.detail, DETAIL),
        ]
    };
    output::table(&["PLUGIN", "VERSION", "CODE", "WHY"], &[], refused.iter().map(row).collect()) + &summary
}
