//! `larder check`: everything that a start would read, and every fault in it; with `--policy`, what the policy refuses of
//! what is cached ([`check_policy`]).

use super::larder::Address;
use super::output::Output;
use super::{assemble, check_policy, front, lock, machine, print, report};
use crate::config::{self, Sources};
use crate::server::tls::PortConfig;
use clap::Args;
use std::process::ExitCode;

/// Read all settings and files, report every fault, start nothing
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  larder check                          every fault of the settings, with its place
  larder check --policy                 what the policy refuses of what is cached
  larder check --policy --admin http://127.0.0.1:9090 -o json

With --policy nothing changes: the settings as they are read now are held against what a larder has, before it uses them.")]
pub struct Check {
    /// Show what the settings' policy refuses of what is cached; ends with 1 if it refuses something
    #[arg(long)]
    policy: bool,
    /// text, or json for scripts
    #[arg(short, long, value_enum, default_value_t = Output::Text, requires = "policy")]
    output: Output,
    #[command(flatten)]
    address: Address,
}

impl Check {
    /// Looks and tells.
    pub fn run(&self, sources: &Sources) -> ExitCode {
        if !self.policy {
            return settings(sources);
        }
        match config::load(sources) {
            Ok(loaded) => check_policy::run(&loaded, &self.address, self.output),
            Err(faults) => report(&faults),
        }
    }
}

/// Reports all faults, or what a start would do.
fn settings(sources: &Sources) -> ExitCode {
    let (loaded, mut faults) = config::load_all(sources);
    let Some(loaded) = loaded else { return report(&faults) };
    for warning in loaded.warnings.iter().chain(&machine::doubts(&loaded)) {
        eprintln!("larder: warning: {warning}");
    }
    // What the good part of the settings names is read too, so that one look shows everything.
    let read = assemble::read(&loaded).map_err(|more| faults.extend(more));
    let clients = front::read(&loaded).map_err(|more| faults.extend(more));
    let (Ok(read), Ok(clients), true) = (read, clients, faults.is_empty()) else { return report(&faults) };
    let hosts = &read.hosts;
    for warning in hosts.told().chain(&clients.told()) {
        eprintln!("larder: warning: {warning}");
    }
    let config = &loaded.config;
    let registries: Vec<_> = read.names.catalog.registries().into_iter().collect();
    let mut lines = vec![
        "The configuration is valid.".to_owned(),
        format!("plugins at    {}://{}", scheme(&config.tls.data), config.listen.data),
        format!("metrics at    {}://{}/metrics", scheme(&config.tls.admin), config.listen.admin),
        format!(
            "administered  {}",
            config.admin.told(config.listen.admin.ip(), !config.tls.admin.client_ca.is_empty())
        ),
        format!(
            "names         {} listed; others {}",
            read.names.catalog.names().count(),
            if read.names.catalog.is_open() { "by the template" } else { "refused" }
        ),
        format!(
            "registries    {}",
            if registries.is_empty() { "none".into() } else { registries.join(", ") }
        ),
        format!("policy        {}", config.policy.told()),
        format!(
            "cache         {}, {} on disk, {} in memory",
            assemble::cache_dir(config).display(),
            config.cache.disk,
            config.cache.memory
        ),
    ];
    lines.extend(read.lock.as_ref().map(|locked| lock::told(locked, config, &read.names.catalog)));
    for dir in &config.overlay.dirs {
        let there = if dir.is_dir() { "" } else { " (not there)" };
        lines.push(format!("overlay       {}{there}", dir.display()));
    }
    print(&(lines.join("\n") + "\n"))
}

fn scheme(port: &PortConfig) -> &'static str {
    if port.certificate.is_some() { "https" } else { "http" }
}
