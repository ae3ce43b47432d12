//! `larder diff`: what one bundle has and another, or the cache, has not.

use super::larder::{Address, Larder, Wish};
use super::output::{self, Output};
use super::trouble::Trouble;
use super::{exit, print, runtime};
use crate::admin::entries::{Query, State};
use crate::admin::import::said;
use crate::bundle::BundleError;
use crate::catalog::Catalog;
use crate::config::Loaded;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// They differ, as of diff(1).
const DIFFERENT: u8 = 1;
/// The word for the cache; a bundle of that name is `./cache`.
const CACHE: &str = "cache";

/// Compare two bundles, or a bundle with the cache
#[derive(Debug, Args)]
#[command(after_long_help = "\
`added` is what the second alone has, `removed` what the first alone has, `changed` what points to another manifest. The exit \
code is 0 when they are the same and 1 when they differ.

Examples:
  larder diff plugins.tar                        from the bundle to what the cache holds
  larder diff cache plugins.tar                  what an import would change
  larder diff january.tar.zst february.tar.zst")]
pub struct Diff {
    /// A bundle, or `cache`
    #[arg(value_name = "BUNDLE")]
    first: PathBuf,
    /// Another bundle, or `cache`
    #[arg(value_name = "BUNDLE|cache", default_value = CACHE)]
    second: PathBuf,
    /// text, or json
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// One reference on a side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    plugin: String,
    version: String,
    manifest: String,
}

/// One reference on both.
#[derive(Debug, Serialize)]
struct Line {
    state: Word,
    plugin: String,
    version: String,
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Added,
    Removed,
    Changed,
    Same,
}

impl Diff {
    /// Compares and prints.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let lines = match self.lines(loaded) {
            Ok(lines) => lines,
            Err(trouble) => return trouble.tell(),
        };
        let printed = print(&match self.output {
            Output::Json => output::json(&lines),
            Output::Text => table(&lines),
        });
        if lines.iter().all(|line| line.state == Word::Same) { printed } else { ExitCode::from(DIFFERENT) }
    }

    fn lines(&self, loaded: &Loaded) -> Result<Vec<Line>, Trouble> {
        let names = super::assemble::names(loaded).map_err(|faults| {
            Trouble::new(exit::CONFIG, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let (first, second) = (
            self.side(&self.first, &names.catalog, loaded)?,
            self.side(&self.second, &names.catalog, loaded)?,
        );
        Ok(compared(first, second))
    }

    /// What one side has, by reference.
    fn side(&self, of: &Path, catalog: &Catalog, loaded: &Loaded) -> Result<BTreeMap<String, Side>, Trouble> {
        if of.as_os_str() == CACHE {
            return self.cached(loaded);
        }
        let (offers, bad) = said(of, loaded.config.cache.disk.as_u64())?.offers(catalog);
        for (what, BundleError { detail, .. }) in bad {
            eprintln!("larder: {}: {what}: {detail}", of.display());
        }
        let side = offers.into_iter().map(|offer| {
            let (plugin, version) = (offer.name, offer.version);
            (offer.reference.to_string(), Side { plugin, version, manifest: offer.manifest.to_string() })
        });
        Ok(side.collect())
    }

    fn cached(&self, loaded: &Loaded) -> Result<BTreeMap<String, Side>, Trouble> {
        let runtime = runtime()?;
        let larder: Larder = self.address.find(loaded, &runtime, Wish::Look)?;
        let entries = runtime.block_on(larder.entries(&Query::default(), None))?.entries;
        let held = entries.into_iter().filter(|entry| matches!(entry.state, State::Fresh | State::Stale));
        let side = held.filter_map(|entry| {
            let (plugin, version) = (entry.plugin, entry.version);
            Some((entry.key, Side { plugin, version, manifest: entry.manifest? }))
        });
        Ok(side.collect())
    }
}

fn compared(first: BTreeMap<String, Side>, mut second: BTreeMap<String, Side>) -> Vec<Line> {
    let line = |state, reference, side: &Side, from, to| Line {
        state,
        plugin: side.plugin.clone(),
        version: side.version.clone(),
        reference,
        from,
        to,
    };
    let mut lines = Vec::new();
    for (reference, old) in first {
        let from = Some(old.manifest.clone());
        lines.push(match second.remove(&reference) {
            None => line(Word::Removed, reference, &old, from, None),
            Some(new) => {
                let state = if new.manifest == old.manifest { Word::Same } else { Word::Changed };
                line(state, reference, &old, from, Some(new.manifest))
            }
        });
    }
    lines.extend(
        second
            .into_iter()
            .map(|(reference, new)| line(Word::Added, reference, &new, None, Some(new.manifest.clone()))),
    );
    lines.sort_by(|a, b| (&a.plugin, &a.version, &a.reference).cmp(&(&b.plugin, &b.version, &b.reference)));
    lines
}

fn table(lines: &[Line]) -> String {
    let short = |digest: &Option<String>| {
        digest.as_ref().map_or_else(|| "-".into(), |d| d.chars().take(19).collect())
    };
    let rows = lines.iter().map(|line: &Line| {
        let state = output::word(&line.state);
        vec![
            state,
            line.plugin.clone(),
            line.version.clone(),
            short(&line.from),
            short(&line.to),
            line.reference.clone(),
        ]
    });
    let of = |word| lines.iter().filter(|line| line.state == word).count();
    let (added, removed) = (of(Word::Added), of(Word::Removed));
    let (changed, same) = (of(Word::Changed), of(Word::Same));
    let sum = format!("{added} added, {removed} removed, {changed} changed, {same} same\n");
    match lines.is_empty() {
        true => sum,
        false => {
            output::table(&["STATE", "PLUGIN", "VERSION", "FROM", "TO", "REFERENCE"], &[], rows.collect())
                + &sum
        }
    }
}
