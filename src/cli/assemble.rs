//! Where registry, store, clock and cache meet.

use crate::cache::{self, Cache, Parts};
use crate::catalog::Catalog;
use crate::catalog::patterns::Pattern;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Fault, Loaded};
use crate::metrics::Metrics;
use crate::registry::Client;
use crate::registry::hosts::Hosts;
use crate::store::overlay::Overlay;
use crate::store::{Store, StoreError, Tiered};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What the settings name, read and checked.
pub struct Read {
    /// Names.
    pub catalog: Catalog,
    /// URLs.
    pub patterns: Vec<Pattern>,
    /// Registries.
    pub hosts: Hosts,
}

/// Reads the files that the settings name.
///
/// # Errors
/// All faults.
pub fn read(loaded: &Loaded) -> Result<Read, Vec<Fault>> {
    let config = &loaded.config;
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for path in &config.catalog.files {
        match std::fs::read_to_string(path) {
            Ok(text) => files.push((path.display().to_string(), text)),
            Err(e) => faults.push(Fault {
                place: loaded.place("catalog.files"),
                problem: format!("catalog.files: {}: {e}", path.display()),
            }),
        }
    }
    let catalog = Catalog::build(&config.catalog, &files).map_err(|found| {
        faults.extend(found.into_iter().map(|fault| {
            if fault.place.starts_with("catalog") {
                let place = loaded.place(&fault.place);
                Fault { place, problem: format!("{}: {}", fault.place, fault.problem) }
            } else {
                Fault { place: fault.place, problem: fault.problem }
            }
        }));
    });
    let mut patterns = Vec::new();
    for pattern in &config.routes.patterns {
        match pattern.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => {
                let place = loaded.place("routes.patterns");
                faults.push(Fault { place, problem: format!("routes.patterns: {problem}") });
            }
        }
    }
    let hosts = Hosts::build(&config.registry).map_err(|found| {
        let fault = |(key, problem): (String, String)| Fault {
            place: loaded.place(&key),
            problem: format!("{key}: {problem}"),
        };
        faults.extend(found.into_iter().map(fault));
    });
    match (catalog, hosts) {
        (Ok(catalog), Ok(hosts)) if faults.is_empty() => Ok(Read { catalog, patterns, hosts }),
        _ => Err(faults),
    }
}

/// The directory of the cache.
pub fn cache_dir(config: &Config) -> PathBuf {
    if let Some(dir) = &config.cache.dir {
        return dir.clone();
    }
    let in_container =
        ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| std::path::Path::new(mark).exists())
            || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let user =
        std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    match user {
        Some(user) if !in_container => user.join("larder"),
        _ => "/var/lib/larder".into(),
    }
}

/// A working cache.
pub struct Assembled {
    /// The heart.
    pub cache: Arc<Cache>,
    /// Names.
    pub catalog: Arc<Catalog>,
    /// URLs.
    pub patterns: Vec<Pattern>,
    /// Local folders, to be looked at again.
    pub overlay: Arc<Overlay>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Puts the parts together. Blocks. Fetches will run on `runtime`.
pub fn assemble(
    config: &Config,
    dir: &std::path::Path,
    read: Read,
    runtime: Handle,
) -> Result<Assembled, StoreError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Arc::<Metrics>::default();
    let overlay = Arc::new(Overlay::open(config.overlay.dirs.clone(), config.limits.module.as_u64()));
    let store = Tiered::open(dir, &config.cache, overlay.clone(), clock.clone(), metrics.clone())?;
    let store: Arc<dyn Store> = Arc::new(store);
    let registry = Arc::new(Client::new(
        read.hosts,
        clock.clone(),
        config.registry.connect_timeout + config.registry.read_timeout,
    ));
    let cache = Cache::new(Parts {
        registry,
        store,
        clock: clock.clone(),
        metrics: metrics.clone(),
        config: config.fill,
        lifetimes: config.lifetimes,
        limits: config.limits,
        runtime,
        unpacking: tokio::sync::Semaphore::new(cache::UNPACKING),
    });
    Ok(Assembled { cache, catalog: Arc::new(read.catalog), patterns: read.patterns, overlay, metrics, clock })
}
