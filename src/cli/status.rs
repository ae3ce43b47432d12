//! `larder status`: is it well.

use super::larder::{Address, Larder, Wish};
use super::output::{self, DETAIL, Now, Output};
use super::trouble::Trouble;
use super::{prefetch, print, runtime, show};
use crate::admin::prefetch::{Job, WARM_UP};
use crate::admin::status::{Registry, Status, Store};
use crate::config::Loaded;
use crate::failures::Failure;
use crate::oci::error_code::bounded;
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

/// Failures that are shown unless all are wanted.
const LAST: usize = 5;
/// It is not as it should be.
const WARNED: u8 = 1;

/// Tell whether it is well: what is held, registries, what failed lately and why
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exit code 0 says that it is well, 1 that there are warnings, 69 that it cannot be reached.

Examples:
  larder status --admin http://127.0.0.1:9090
  larder status --failures                         all failures that are remembered
  larder status -o json | jq .warnings")]
pub struct StatusCommand {
    /// Only what failed lately: all of it
    #[arg(long)]
    failures: bool,
    /// text, or json as the administration API has it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// As the API lists them.
#[derive(Serialize)]
pub struct Listed<'l> {
    /// The last one first.
    pub failures: &'l [Failure],
}

impl StatusCommand {
    /// Asks and prints.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        self.told(loaded).unwrap_or_else(|trouble| trouble.tell())
    }

    fn told(&self, loaded: &Loaded) -> Result<ExitCode, Trouble> {
        let runtime = runtime()?;
        let larder = self.address.find(loaded, &runtime, Wish::Look)?;
        let failures = runtime.block_on(larder.failures())?;
        if self.failures {
            return Ok(print(&match self.output {
                Output::Json => output::json(&Listed { failures: &failures }),
                Output::Text => failed(&failures),
            }));
        }
        let status = runtime.block_on(larder.status())?;
        let printed = print(&match self.output {
            Output::Json => output::json(&status),
            Output::Text => shown(&larder, &status, &runtime.block_on(larder.jobs())?, &failures),
        });
        Ok(if status.warnings.is_empty() { printed } else { ExitCode::from(WARNED) })
    }
}

fn shown(larder: &Larder, status: &Status, jobs: &[Job], failures: &[Failure]) -> String {
    let now = Now::read();
    let mut text = match larder {
        Larder::Running(remote) => format!(
            "larder {} at {}: {}, for {}\n",
            status.version,
            remote.address(),
            if status.ready { "ready" } else { "not ready" },
            Now::between(&status.started_at, &status.now)
        ),
        Larder::Stopped(stopped) => {
            format!("{}: no larder uses it\n", bounded(&stopped.dir.display().to_string(), DETAIL))
        }
    };
    for warning in &status.warnings {
        text += &format!("warning: {}\n", bounded(warning, DETAIL));
    }
    text += &held(&status.store);
    if let Some(job) = &status.warm_up {
        let going = if job.finished_at.is_some() { "" } else { ", going on" };
        text += &format!("warm-up   {}{going}\n", far(job));
    }
    for job in jobs.iter().filter(|job| job.kind != WARM_UP && job.finished_at.is_none()) {
        text += &format!("prefetch  job {}: {}, begun {}\n", job.id, far(job), now.seen(&job.started_at));
    }
    if let Some(scrub) = &status.scrub {
        let when = match &scrub.finished_at {
            Some(ended) => format!("ended {}", now.seen(ended)),
            None => "going on".into(),
        };
        let (done, total) = (scrub.done, scrub.total);
        text += &format!("scrub     {done} of {total} read, {} damaged, {when}\n", scrub.damaged);
    }
    if let Larder::Running(_) = larder {
        let settings = &status.settings;
        text +=
            &format!("settings  read {}, log level {}\n", now.seen(&settings.loaded_at), settings.log_level);
    }
    let failed_there = |error: &Option<Failure>| {
        error.as_ref().map_or_else(|| "-".into(), |e| format!("{}, {}", e.code, now.seen(&e.last_at)))
    };
    let registries = status.registries.iter();
    let rows = registries.map(|r| vec![r.name.clone(), state(r), failed_there(&r.error)]);
    text += &section(&["REGISTRY", "STATE", "LAST FAILURE"], rows.collect());
    let fetching = status.fetching.iter().map(|fetch| {
        let expected =
            if fetch.expected > 0 { format!(" of {}", output::size(fetch.expected)) } else { String::new() };
        vec![fetch.reference.clone(), format!("{}{expected}", output::size(fetch.received))]
    });
    text += &section(&["FETCHING", "RECEIVED"], fetching.collect());
    let certificates =
        status.certificates.iter().map(|c| vec![c.file.clone(), c.role.clone(), now.seen(&c.not_after)]);
    text += &section(&["CERTIFICATE", "FOR", "RUNS OUT"], certificates.collect());
    if status.warm_up.as_ref().is_some_and(|job| job.failed > 0) {
        text += "\nNOT FETCHED AT THE START\n";
        for item in status.warm_up.iter().flat_map(|job| &job.items) {
            let told = item.error.as_ref().map(|error| show::failure(error, now));
            text += &told.map(|told| format!("{}\n{told}", prefetch::name(item))).unwrap_or_default();
        }
    }
    if !failures.is_empty() {
        text += "\nFAILED LATELY\n";
        text += &failed(&failures[..failures.len().min(LAST)]);
        if failures.len() > LAST {
            text += &format!("and {} more: larder status --failures\n", failures.len() - LAST);
        }
    }
    text
}

/// A table with an empty line before it; nothing where it has no rows.
fn section(header: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { String::new() } else { format!("\n{}", output::table(header, &[], rows)) }
}

fn held(store: &Store) -> String {
    let plugins = |number| output::count(number, "plugin", "plugins");
    let (size, of) =
        (output::size, |bytes, limit| format!("{} of {}", output::size(bytes), output::size(limit)));
    let mut text = format!(
        "disk      {}, {}; {} free\nmemory    {}, {}\n",
        plugins(store.disk_entries),
        of(store.disk_bytes, store.disk_limit_bytes),
        size(store.disk_free_bytes),
        plugins(store.memory_entries),
        of(store.memory_bytes, store.memory_limit_bytes),
    );
    if store.held_entries > 0 {
        let held = plugins(store.held_entries);
        text += &format!(
            "unsaved   {held}, {}: in memory alone, until the disk takes them\n",
            size(store.held_bytes)
        );
    }
    if store.local_entries > 0 {
        text += &format!("local     {}\n", output::count(store.local_entries, "file", "files"));
    }
    text
}

/// How far a list of plugins is.
fn far(job: &Job) -> String {
    format!("{} of {} held, {} failed", job.held, job.total, job.failed)
}

/// How a registry stands, for people.
fn state(registry: &Registry) -> String {
    match registry.state.as_str() {
        "closed" if registry.error.is_some() => "last question failed",
        "closed" => "well",
        "open" => "left alone for a while",
        "half_open" => "asked by one at a time",
        "unasked" => "not asked yet",
        other => other,
    }
    .into()
}

/// Failures, each with what to do.
pub fn failed(failures: &[Failure]) -> String {
    let now = Now::read();
    let each = failures.iter();
    each.map(|one| format!("{}\n{}", bounded(&one.subject, DETAIL), show::failure(one, now))).collect()
}
