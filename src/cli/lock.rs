//! `larder lock`: which bytes each plugin is, written down.

use super::get::write_whole;
use super::import::LEFT_OUT;
use super::known::{Known, Withheld};
use super::larder::{Address, Larder, Wish};
use super::output::{self, DETAIL};
use super::trouble::Trouble;
use super::{assemble, exit, print, runtime, show};
use crate::admin::entries::Query;
use crate::bundle::Plugin;
use crate::catalog::{Catalog, version_of};
use crate::config::{Config, Fault, Loaded};
use crate::oci::Digest;
use crate::oci::Reference;
use crate::oci::error_code::bounded;
use crate::plugin::{PluginName, Request, Version};
use crate::policy::Refusal;
use crate::policy::lock::{self, Entry, Lock as File, Locked, Unlisted};
use clap::{ArgGroup, Args};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Names of plugins that are told of in a line.
const MOST_NAMED: usize = 5;

/// Write down which bytes each plugin is, so that none changes unnoticed
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("wanted").required(true).multiple(true).args(["plugins", "all"]),
    after_long_help = "\
Nothing is asked of registries: what is written is what is held, under the versions that were asked for and, where another \
one answers for them, with the reference of that. The same content gives the same bytes. lock.file and lock.mode in the \
settings are what makes use of it. What is not held, or is held and withheld by the policy, by signatures or by a lock file \
that is enforced, is named and left out; then the exit code is 1. With --all, what the lock file of the settings has and \
is not written anew stays as it is locked, and is named.

An enforced lock keeps nothing of a change. One that is meant takes lock.mode: record, larder prefetch --used, larder lock, \
and enforce again.

Examples:
  larder lock --all -o larder.lock.json
  larder lock ai-proxy ai-cache@2.0.0 --admin http://127.0.0.1:9090
  larder prefetch --all && larder lock --all -o larder.lock.json"
)]
pub struct Lock {
    /// Plugins; without a version, that of the catalog
    #[arg(value_name = "NAME[@VERSION]", value_parser = show::plugin)]
    plugins: Vec<Request>,
    /// All that is held
    #[arg(long)]
    all: bool,
    /// Where to write it; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    address: Address,
}

/// What is locked, and what is not held.
#[derive(Default)]
struct Found {
    entries: BTreeMap<(PluginName, Version), Entry>,
    left_out: Vec<(String, String)>,
    /// What stays as it is locked.
    kept: Vec<String>,
}

impl Lock {
    /// Looks and writes.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        match self.lock(loaded) {
            Ok(code) => code,
            Err(trouble) => trouble.tell(),
        }
    }

    fn lock(&self, loaded: &Loaded) -> Result<ExitCode, Trouble> {
        let runtime = runtime()?;
        let larder: Larder = self.address.find(loaded, &runtime, Wish::Look)?;
        let unusable = |faults: Vec<Fault>| {
            Trouble::new(exit::CONFIG, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let names = assemble::names(loaded).map_err(unusable)?;
        let gate = assemble::gate_of(loaded, &names.catalog).map_err(unusable)?;
        let entries = runtime.block_on(larder.entries(&Query::default(), None))?.entries;
        let (known, withheld) = Known::judged(entries, &gate);
        let mut found = self.found(&names.catalog, &known, &withheld);
        if let Some(locked) = gate.locked().filter(|_| self.all) {
            found.keep(&locked.lock);
        }
        let Found { entries, left_out, kept } = found;
        for (name, why) in &left_out {
            eprintln!("larder: {}: left out: {}", bounded(name, DETAIL), bounded(why, DETAIL));
        }
        for name in &kept {
            eprintln!("larder: {name}: stays as it is locked: nothing else is held that may be served");
        }
        let left = left_out.len();
        if entries.is_empty() {
            eprintln!("larder: nothing was written, {left} left out");
            return Ok(ExitCode::from(LEFT_OUT));
        }
        let number = output::count(entries.len() as u64, "plugin", "plugins");
        let text = lock::encode(entries.into_values().collect());
        let written = if self.output == Path::new("-") {
            print(&String::from_utf8_lossy(&text))
        } else {
            let to = self.output.display();
            write_whole(&self.output, &text)
                .map_err(|e| Trouble::new(exit::CANTCREAT, format!("{to}: {e}")))?;
            eprintln!("larder: {number} locked in {to}, {left} left out");
            ExitCode::SUCCESS
        };
        Ok(if left > 0 { ExitCode::from(LEFT_OUT) } else { written })
    }

    fn found(&self, catalog: &Catalog, known: &Known, withheld: &Withheld) -> Found {
        let mut found = Found::default();
        for request in &self.plugins {
            match known.held(catalog, request) {
                Some(reference) => {
                    let version = request.version.clone().unwrap_or_else(|| version_of(&reference));
                    found.add(request.name.clone(), version, known.plugin(catalog, &reference));
                }
                None => {
                    let candidates = catalog.plan(request).candidates;
                    let refusal = candidates.iter().find_map(|at| withheld.get(&at.reference));
                    let why = refusal.map_or("it is not held", |refusal| &refusal.detail);
                    found.left_out.push((request.to_string(), why.into()));
                }
            }
        }
        if self.all {
            for reference in known.references() {
                found.add_held(catalog, known, &reference);
            }
            let why = |(reference, refusal): (&Reference, &Refusal)| {
                (reference.to_string(), refusal.detail.clone())
            };
            found.left_out.extend(withheld.iter().map(why));
        }
        found
    }
}

impl Found {
    /// A reference that is held, as the plugin that it is and as those that it answers for.
    fn add_held(&mut self, catalog: &Catalog, known: &Known, reference: &Reference) {
        let Some(entry) = known.of(reference) else { return };
        let named = (entry.plugin.parse::<PluginName>(), entry.version.parse::<Version>());
        let (Ok(name), Ok(version)) = named else {
            self.left_out.push((reference.to_string(), "its repository's name is no plugin's".into()));
            return;
        };
        let plugin = known.plugin(catalog, reference);
        let aliases = plugin.iter().flat_map(|plugin| &plugin.aliases).filter_map(|text| text.parse().ok());
        for version in std::iter::once(version).chain(aliases.collect::<Vec<_>>()) {
            // Of several places of one version it is the one that gateways are served from.
            let request = Request { name: name.clone(), version: Some(version.clone()) };
            let served = known.held(catalog, &request);
            if served.is_none_or(|served| served == *reference) {
                self.add(name.clone(), version, plugin.clone());
            }
        }
    }

    /// What is locked and was not found stays so: without a line other bytes would be let in.
    fn keep(&mut self, lock: &File) {
        let differ =
            |one: Option<Digest>, other: Option<Digest>| one.is_some() && other.is_some() && one != other;
        for entry in lock.entries() {
            let key = (entry.name.clone(), entry.version.clone());
            if self.entries.contains_key(&key) {
                continue;
            }
            let plugin = format!("{}@{}", entry.name, entry.version);
            let contradicts = |other: &&Entry| {
                entry.reference.is_some()
                    && entry.reference == other.reference
                    && (differ(entry.manifest, other.manifest) || differ(entry.module, other.module))
            };
            if entry.reference.is_none() || entry.manifest.is_none() || entry.module.is_none() {
                let why = "it is not held, and the lock file of another tool has not all of it";
                self.left_out.push((plugin, why.into()));
                continue;
            }
            match self.entries.values().find(contradicts) {
                Some(other) => {
                    let why = format!(
                        "its reference is locked to other bytes, as {}@{}",
                        other.name, other.version
                    );
                    self.left_out.push((plugin, why));
                }
                None => {
                    self.kept.push(plugin);
                    self.entries.insert(key, entry.clone());
                }
            }
        }
    }

    fn add(&mut self, name: PluginName, version: Version, plugin: Option<Plugin>) {
        let Some(Plugin { reference, manifest, module, .. }) = plugin else { return };
        let key = (name.clone(), version.clone());
        let (reference, manifest, module) = (Some(reference), Some(manifest), Some(module));
        self.entries.entry(key).or_insert(Entry { name, version, reference, manifest, module });
    }
}

/// A line on the lock file in use, and on what it leaves out of the catalog.
pub fn told(locked: &Locked, config: &Config, catalog: &Catalog) -> String {
    let lock = locked.lock.clone().placed(catalog);
    let is_left_out = |name: &&PluginName| {
        let plan = catalog.plan(&Request { name: (*name).clone(), version: None });
        !plan.candidates.iter().any(|at| lock.lists(Some((name, &at.version)), &at.reference))
    };
    let left_out: Vec<_> = catalog.names().filter(is_left_out).map(PluginName::as_str).collect();
    let number = output::count(lock.entries().len() as u64, "plugin", "plugins");
    let file = config.lock.file().map(|file| file.display().to_string()).unwrap_or_default();
    let mode = locked.mode.as_str();
    let mut line = format!("lock          {file}, {mode}, {number}");
    if !left_out.is_empty() {
        let shown = left_out[..left_out.len().min(MOST_NAMED)].join(", ");
        let more = if left_out.len() > MOST_NAMED { ", …" } else { "" };
        let become_of =
            if locked.is_enforced() && locked.unlisted == Unlisted::Deny { "refused" } else { "served" };
        line += &format!("; {} of the catalog are not in it and {become_of} ({shown}{more})", left_out.len());
    }
    line
}
