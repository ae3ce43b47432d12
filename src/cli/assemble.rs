//! Where registry, store, clock and cache meet.

use super::certificates;
use crate::admin::Administration;
use crate::admin::history::History;
use crate::admin::import::{self, Imports};
use crate::admin::status::Settings;
use crate::cache::explain::Explanation;
use crate::cache::{self, Cache, Parts, Rules};
use crate::catalog::{self, Catalog, Names};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Fault, Loaded};
use crate::failures::Failures;
use crate::metrics::Metrics;
use crate::plugin::Request;
use crate::policy::lock::{Lock, Locked};
use crate::policy::{Gate, KeyFiles};
use crate::registry::breaker::Breakers;
use crate::registry::hosts::With;
use crate::registry::trace::Trace;
use crate::registry::{Client, Hosts, Retry, Surroundings, signatures};
use crate::store::overlay::{self, Overlay};
use crate::store::{Room, Store, StoreError, Tiered};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// A lock file is not longer than this, in bytes.
const LOCK_BYTES: u64 = 16 << 20;

/// What the settings name, read and checked.
pub struct Read {
    /// Names and URLs.
    pub names: Arc<Names>,
    /// The lock file, where there is one.
    pub lock: Option<Locked>,
    /// Keys of whoever must have signed.
    pub keys: KeyFiles,
    /// Registries.
    pub hosts: Hosts,
    /// Which of them are left alone.
    pub breakers: Arc<Breakers>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counters, at zero.
    pub metrics: Arc<Metrics>,
}

/// Reads the files that the settings name.
///
/// # Errors
/// All faults.
pub fn read(loaded: &Loaded) -> Result<Read, Vec<Fault>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let breakers = Breakers::new(clock.clone());
    breakers.go_offline(loaded.config.policy.is_offline());
    let mut faults = Vec::new();
    let names = names(loaded).map_err(|found| faults.extend(found));
    let hosts = hosts(loaded, breakers.clone(), Trace::default()).map_err(|found| faults.extend(found));
    let key = loaded.config.import.verify_key.as_deref().map(import::key_of).transpose().map_err(|error| {
        let place = loaded.place("import.verify_key");
        faults.push(Fault { place, problem: format!("import.verify_key: {error}") });
    });
    let lock = lock(loaded).map_err(|found| faults.extend(found));
    let keys = keys(loaded).map_err(|found| faults.extend(found));
    match (names, hosts, lock, keys, key) {
        (Ok(names), Ok(hosts), Ok(lock), Ok(keys), Ok(_)) => {
            Ok(Read { names: Arc::new(names), lock, keys, hosts, breakers, clock, metrics: Arc::default() })
        }
        _ => Err(faults),
    }
}

/// Reads what the settings say of names and URLs, and the catalog's files.
///
/// # Errors
/// All faults.
pub fn names(loaded: &Loaded) -> Result<Names, Vec<Fault>> {
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
    match catalog {
        Ok(catalog) if faults.is_empty() => Ok(Names { catalog: Arc::new(catalog), patterns }),
        _ => Err(faults),
    }
}

/// Reads the files with keys that the policy names.
///
/// # Errors
/// All faults.
pub fn keys(loaded: &Loaded) -> Result<KeyFiles, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut files = KeyFiles::new();
    for file in loaded.config.policy.key_files() {
        match signatures::keys(file) {
            Ok(keys) => drop(files.insert(file.clone(), keys)),
            Err(error) => {
                let of_all = loaded.config.policy.signatures.keys.contains(file);
                let key = if of_all { "policy.signatures.keys" } else { "policy.rules" };
                faults.push(Fault { place: loaded.place(key), problem: format!("{key}: {error}") });
            }
        }
    }
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

/// Reads what the settings say of registries.
///
/// # Errors
/// All faults.
pub fn hosts(loaded: &Loaded, breakers: Arc<Breakers>, trace: Trace) -> Result<Hosts, Vec<Fault>> {
    let places = loaded.places();
    let with =
        With { env: Surroundings::of_process(), place: Arc::new(move |key| places.of(key)), trace, breakers };
    Hosts::build(&loaded.config.registry, with).map_err(|found| {
        let fault = |(key, problem): (String, String)| Fault {
            place: loaded.place(&key),
            problem: format!("{key}: {problem}"),
        };
        found.into_iter().map(fault).collect()
    })
}

/// How often a registry is asked.
pub fn retry(config: &Config) -> Retry {
    // Half of what a request waits: an attempt that is begun by then can still end in time.
    Retry { attempts: config.registry.attempts, within: config.fill.hold / 2 }
}

/// Reads the lock file.
///
/// # Errors
/// Why it cannot be read, or its first fault.
pub fn lock(loaded: &Loaded) -> Result<Option<Locked>, Vec<Fault>> {
    let config = &loaded.config.lock;
    let Some(path) = config.file() else { return Ok(None) };
    let shown = path.display();
    let fault = |place, problem| vec![Fault { place, problem: format!("lock.file: {problem}") }];
    let unreadable = |problem: String| fault(loaded.place("lock.file"), format!("{shown}: {problem}"));
    let found = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    // A pipe would hold whoever reads it for as long as nobody writes into it.
    if !found.is_file() {
        return Err(unreadable("is no regular file".into()));
    }
    let size = found.len();
    if size > LOCK_BYTES {
        return Err(unreadable(format!("{size} bytes are no lock file; at most {LOCK_BYTES} are read")));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
    let lock = Lock::read(&bytes)
        .map_err(|found| fault(format!("{shown}:{}:{}", found.line, found.column), found.problem))?;
    Ok(Some(Locked { lock, mode: config.mode, unlisted: config.unlisted }))
}

/// What the policy and the lock file demand of what `catalog` names.
pub fn gate(config: &Config, keys: &KeyFiles, catalog: &Arc<Catalog>, lock: Option<Locked>) -> Gate {
    let lock = lock.map(|locked| Locked { lock: locked.lock.placed(catalog), ..locked });
    Gate::new(&config.policy, keys, catalog.clone()).with_lock(lock)
}

/// The same, with the files that the settings name.
///
/// # Errors
/// All faults of the lock file, or of the keys.
pub fn gate_of(loaded: &Loaded, catalog: &Arc<Catalog>) -> Result<Gate, Vec<Fault>> {
    let (lock, keys) = (lock(loaded)?, keys(loaded)?);
    Ok(gate(&loaded.config, &keys, catalog, lock))
}

/// What the cache goes by.
pub fn rules(config: &Config, keys: &KeyFiles, catalog: &Arc<Catalog>, lock: Option<Locked>) -> Rules {
    let gate = Arc::new(gate(config, keys, catalog, lock));
    Rules { config: config.fill, lifetimes: config.lifetimes, limits: config.limits, gate }
}

/// The local folders, looked through. Blocks.
pub fn overlay(config: &Config) -> Overlay {
    Overlay::open(config.overlay.dirs.clone(), config.limits.module.as_u64())
}

/// A running larder, as far as an explanation heeds it.
#[derive(Clone)]
pub struct Running {
    store: Arc<dyn Store>,
    client: Arc<Client>,
    breakers: Arc<Breakers>,
}

impl Running {
    /// That of `parts`.
    pub fn of(parts: &Assembled) -> Self {
        let (store, client) = (parts.cache.store().clone(), parts.client.clone());
        Self { store, client, breakers: parts.breakers.clone() }
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

/// Walks the road of a request aloud, with a client and a cache of its own. What registries asked of `running`, it heeds
/// too.
///
/// # Errors
/// A text, when no temporary folder can be had.
pub async fn explain(
    loaded: &Loaded,
    catalog: &Arc<Catalog>,
    request: &Request,
    running: Option<&Running>,
) -> Result<Explanation, String> {
    let trace = Trace::listening();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Arc::<Metrics>::default();
    let breakers = match running {
        Some(running) => running.breakers.beside(),
        None => {
            let breakers = Breakers::new(clock.clone());
            breakers.go_offline(loaded.config.policy.is_offline());
            breakers
        }
    };
    let all = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let hosts = hosts(loaded, breakers.clone(), trace.clone()).map_err(all)?;
    let lock = lock(loaded).map_err(all)?;
    let keys = keys(loaded).map_err(all)?;
    for warning in hosts.told() {
        trace.note("warning", || warning.clone());
    }
    let mut config = loaded.config.clone();
    // Nobody retries for whoever reads this: it waits as long as the fetch may take.
    config.fill.hold = config.fill.timeout;
    // A container may have nothing else that can be written to.
    let scratch = tempfile::tempdir().or_else(|_| tempfile::tempdir_in(cache_dir(&config)));
    let scratch = scratch.map_err(|e| format!("no temporary folder can be made: {e}"))?;
    let retry = retry(&loaded.config);
    let client = match running {
        Some(running) => running.client.beside(hosts, breakers, metrics.clone(), retry),
        None => Client::new(hosts, breakers, clock.clone(), metrics.clone(), retry),
    };
    // One plugin, looked at once.
    config.cache.memory = bytesize::ByteSize(0);
    let overlay = overlay(&config).live();
    let room = Room::new(config.fill.memory.as_u64());
    let store =
        Tiered::open(scratch.path(), &config.cache, room.clone(), overlay, clock.clone(), metrics.clone())
            .map_err(|e| e.to_string())?;
    let cache = Cache::new(Parts {
        registry: Arc::new(client),
        store: Arc::new(store),
        clock,
        metrics,
        rules: ArcSwap::from_pointee(rules(&config, &keys, catalog, lock)),
        runtime: Handle::current(),
        room,
        unpacking: tokio::sync::Semaphore::new(cache::UNPACKING),
        streams: Arc::new(tokio::sync::Semaphore::new(cache::STREAMS)),
        trace: trace.clone(),
        recent: Arc::default(),
    });
    Ok(crate::cache::explain::explain(
        request,
        catalog,
        &cache,
        &trace,
        running.map(|running| &*running.store),
    )
    .await)
}

/// Begins at 0 what is counted of registries, and of their mirrors, that the settings and the catalog name.
pub fn expect(metrics: &Metrics, hosts: &Hosts, names: &Names) {
    let routes = names.catalog.registries().into_iter().filter_map(|registry| hosts.route(&registry).ok());
    for route in routes.chain(hosts.routes()) {
        route.endpoints.iter().for_each(|endpoint| metrics.expect_registry(&endpoint.host.name));
    }
}

/// A working cache.
pub struct Assembled {
    /// The heart.
    pub cache: Arc<Cache>,
    /// What asks registries.
    pub client: Arc<Client>,
    /// Which of them are left alone.
    pub breakers: Arc<Breakers>,
    /// What keeps.
    pub store: Arc<Tiered>,
    /// Names and URLs.
    pub names: catalog::Live,
    /// Local folders, to be looked at again.
    pub overlay: overlay::Live,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What operators ask and do.
    pub administration: Arc<Administration>,
}

/// Puts the parts together. Blocks. Fetches will run on `runtime`.
pub fn assemble(
    config: &Config,
    dir: &std::path::Path,
    read: Read,
    runtime: Handle,
) -> Result<Assembled, StoreError> {
    let clock = read.clock;
    let recent = Arc::<Failures>::default();
    let metrics = read.metrics;
    expect(&metrics, &read.hosts, &read.names);
    certificates::count(&metrics, &read.hosts.expiries);
    let overlay = overlay(config).live();
    let room = Room::new(config.fill.memory.as_u64());
    let store =
        Tiered::open(dir, &config.cache, room.clone(), overlay.clone(), clock.clone(), metrics.clone())?;
    let store = Arc::new(store);
    let breakers = read.breakers;
    let client = Client::new(read.hosts, breakers.clone(), clock.clone(), metrics.clone(), retry(config));
    let client = Arc::new(client);
    let cache = Cache::new(Parts {
        registry: client.clone(),
        store: store.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        rules: ArcSwap::from_pointee(rules(config, &read.keys, &read.names.catalog, read.lock)),
        runtime,
        room,
        unpacking: tokio::sync::Semaphore::new(cache::UNPACKING),
        streams: Arc::new(tokio::sync::Semaphore::new(cache::STREAMS)),
        trace: Trace::default(),
        recent: recent.clone(),
    });
    let names = Arc::new(ArcSwap::new(read.names));
    let administration = Administration {
        cache: cache.clone(),
        client: client.clone(),
        names: names.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        failures: recent,
        history: History::default(),
        jobs: Arc::default(),
        settings: ArcSwap::from_pointee(Settings {
            loaded_at: clock.now().to_string(),
            log_level: config.log.level.as_str().into(),
            ..Settings::default()
        }),
        scrub: Mutex::default(),
        imports: Imports::new(config.import.clone()),
        warm_up: config.warm_up.clone(),
        started: clock.now(),
    };
    let administration = Arc::new(administration);
    Ok(Assembled { cache, client, breakers, store, names, overlay, metrics, clock, administration })
}
