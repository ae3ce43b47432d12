//! `larder check`: everything that a start would read, and every fault in it.

use super::{assemble, front, machine, print, report};
use crate::config::{self, Sources};
use crate::server::tls::PortConfig;
use std::process::ExitCode;

/// Reports all faults, or what a start would do.
pub fn run(sources: &Sources) -> ExitCode {
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
        format!(
            "cache         {}, {} on disk, {} in memory",
            assemble::cache_dir(config).display(),
            config.cache.disk,
            config.cache.memory
        ),
    ];
    for dir in &config.overlay.dirs {
        let there = if dir.is_dir() { "" } else { " (not there)" };
        lines.push(format!("overlay       {}{there}", dir.display()));
    }
    print(&(lines.join("\n") + "\n"))
}

fn scheme(port: &PortConfig) -> &'static str {
    if port.certificate.is_some() { "https" } else { "http" }
}
