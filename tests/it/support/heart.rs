//! A cache in this process, with the real client and store, a clock that stands, and a scripted registry.

use super::scripted::Scripted;
use super::stumbling::Stumbling;
use super::until;
use arc_swap::ArcSwap;
use larder::admin::Administration;
use larder::artifact::Limits;
use larder::cache::{self, Ask, Cache, CacheError, Parts, Rules, Served};
use larder::catalog::{self, Catalog};
use larder::clock::{Clock, ManualClock, Timestamp};
use larder::failures::Failures;
use larder::freshness::Lifetimes;
use larder::metrics::Metrics;
use larder::oci::Digest;
use larder::plugin::Request;
use larder::policy::Gate;
use larder::registry::breaker::Breakers;
use larder::registry::hosts::With;
use larder::registry::signatures;
use larder::registry::trace::Trace;
use larder::registry::{self, Client, Hosts, Retry, Surroundings};
use larder::store::overlay::Overlay;
use larder::store::{self, Body, Room, Tiered};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tempfile::TempDir;

pub const TAG_LIFETIME: Duration = Duration::from_secs(300);
pub const ABSENT_LIFETIME: Duration = Duration::from_secs(30);
pub const TRANSIENT_LIFETIME: Duration = Duration::from_secs(3);

/// What can be different.
pub struct Setup {
    pub hold: Duration,
    pub disk: u64,
    pub memory: u64,
    /// Memory for fetches and for what the disk does not take.
    pub room: u64,
    /// Time in which everything is read again.
    pub scrub: Duration,
    pub fallback: bool,
    pub lines: String,
    /// Further registries without TLS.
    pub plain_http: Vec<String>,
    /// Repositories of a plugin, in order.
    pub repositories: Vec<(&'static str, Vec<String>)>,
    pub hosts: BTreeMap<String, registry::HostConfig>,
    /// How often a question is asked in all. Once, so that tests count what they cause.
    pub attempts: u32,
    /// What stands below `policy:` in a site's settings.
    pub policy: String,
    /// Everything else about registries.
    pub tune: fn(&mut registry::Config),
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(30),
            disk: 1 << 30,
            memory: 1 << 20,
            room: 64 << 20,
            scrub: Duration::ZERO,
            fallback: true,
            lines: String::new(),
            plain_http: Vec::new(),
            repositories: Vec::new(),
            hosts: BTreeMap::new(),
            attempts: 1,
            policy: String::new(),
            tune: |_| {},
        }
    }
}

/// See the module's text.
pub struct Heart {
    pub registry: Scripted,
    pub clock: Arc<ManualClock>,
    pub metrics: Arc<Metrics>,
    pub cache: Arc<Cache>,
    /// What operators ask and do.
    pub administration: Arc<Administration>,
    /// Questions to the registry that panic, from now on.
    pub panics: Arc<AtomicUsize>,
    catalog: Arc<Catalog>,
    setup: Setup,
    dir: Arc<TempDir>,
}

impl Heart {
    pub fn new() -> Self {
        Self::with(|_| Setup::default())
    }

    /// With what `setup` makes of the registry's host.
    pub fn with(setup: impl FnOnce(&str) -> Setup) -> Self {
        let registry = Scripted::start();
        let setup = setup(&registry.host());
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        Self::open(registry, clock, setup, Arc::new(tempfile::tempdir().unwrap()))
    }

    fn open(registry: Scripted, clock: Arc<ManualClock>, setup: Setup, dir: Arc<TempDir>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = registry.host();
        let metrics = Arc::<Metrics>::default();
        let catalog = catalog::Config {
            builtin: false,
            files: Vec::new(),
            template: Some(format!("{host}/plugins/{{name}}:{{version}}")),
            fallback: setup.fallback,
            aliases: BTreeMap::new(),
            plugins: setup
                .repositories
                .iter()
                .map(|(name, repositories)| {
                    let rules =
                        catalog::PluginConfig { repositories: repositories.clone(), ..Default::default() };
                    (name.to_string(), rules)
                })
                .collect(),
        };
        let catalog = Arc::new(Catalog::build(&catalog, &[("lines".into(), setup.lines.clone())]).unwrap());
        let mut settings = larder::config::load(&Default::default()).unwrap().config.registry;
        settings.certs.clear();
        settings.plain_http = [host].into_iter().chain(setup.plain_http.clone()).collect();
        settings.hosts = setup.hosts.clone();
        (setup.tune)(&mut settings);
        let breakers = Breakers::new(clock.clone());
        let with = With {
            env: Surroundings::default(),
            place: Arc::new(|_| "a test".into()),
            trace: Trace::default(),
            breakers: breakers.clone(),
        };
        let hosts = Hosts::build(&settings, with).unwrap();
        let retry = Retry { attempts: setup.attempts, within: setup.hold / 2 };
        let client = Arc::new(Client::new(hosts, breakers, clock.clone(), metrics.clone(), retry));
        let config = store::Config {
            dir: None,
            disk: bytesize::ByteSize(setup.disk),
            memory: bytesize::ByteSize(setup.memory),
            retry: Duration::from_secs(5),
            scrub: setup.scrub,
        };
        let overlay = Overlay::open(Vec::new(), 0).live();
        let room = Room::new(setup.room);
        let panics = Arc::<AtomicUsize>::default();
        let recent = Arc::<Failures>::default();
        let store =
            Tiered::open(dir.path(), &config, room.clone(), overlay, clock.clone(), metrics.clone()).unwrap();
        let cache = Cache::new(Parts {
            registry: Arc::new(Stumbling { inner: client.clone(), left: panics.clone() }),
            store: Arc::new(store),
            clock: clock.clone(),
            metrics: metrics.clone(),
            rules: ArcSwap::from_pointee(rules(&setup, &catalog)),
            runtime: tokio::runtime::Handle::current(),
            room,
            unpacking: tokio::sync::Semaphore::new(cache::UNPACKING),
            streams: Arc::new(tokio::sync::Semaphore::new(cache::STREAMS)),
            trace: Trace::default(),
            recent: recent.clone(),
        });
        let names = catalog::Names { catalog: catalog.clone(), patterns: Vec::new() };
        let administration = Arc::new(Administration {
            cache: cache.clone(),
            client,
            names: Arc::new(ArcSwap::from_pointee(names)),
            clock: clock.clone(),
            metrics: metrics.clone(),
            failures: recent,
            history: Default::default(),
            jobs: Arc::default(),
            settings: Default::default(),
            scrub: Default::default(),
            imports: Default::default(),
            warm_up: larder::config::load(&Default::default()).unwrap().config.warm_up,
            started: clock.now(),
        });
        Self { registry, clock, metrics, cache, administration, panics, catalog, setup, dir }
    }

    /// The same directory and registry with a new process's memory.
    pub async fn restart(self) -> Self {
        let Self { registry, clock, cache, administration, setup, dir, .. } = self;
        // Fetches behind requests hold the cache, and it the lock.
        let weak = Arc::downgrade(&cache);
        drop((cache, administration));
        until("the end of every fetch", || weak.strong_count() == 0).await;
        Self::open(registry, clock, setup, dir)
    }

    /// Goes by another policy from now on, as after a change of the settings.
    pub fn policy(&mut self, policy: &str) {
        self.setup.policy = policy.into();
        self.cache.change(rules(&self.setup, &self.catalog));
        self.cache.doubt();
    }

    /// Asks for a version of a plugin.
    pub async fn get(&self, name: &str, version: &str) -> Result<Served, Arc<CacheError>> {
        let name = name.parse().unwrap();
        let request = Request { name, version: (!version.is_empty()).then(|| version.parse().unwrap()) };
        let plan = self.catalog.plan(&request);
        let served = self.cache.get(&request.name, &plan, Ask::Allowed).await?;
        // What the server does when a file proves damaged while it is sent.
        let served = match &served.body {
            Body::File(file) => match file.read() {
                Ok(_) => served,
                Err(damage) => {
                    self.cache.store().damaged(&served.found.module().digest, file, damage).await;
                    self.cache.get(&request.name, &plan, Ask::Allowed).await?
                }
            },
            Body::Memory(_) => served,
        };
        assert_eq!(Digest::of(&bytes(&served)), served.found.module().digest, "wrong bytes were served");
        Ok(served)
    }

    /// The bytes and the `Cache-Status` of a version.
    pub async fn ok(&self, name: &str, version: &str) -> (Vec<u8>, String) {
        let served = self.get(name, version).await.unwrap_or_else(|e| panic!("{name} {version}: {e:?}"));
        (bytes(&served), served.found.status.to_string())
    }

    /// The code of the error for a version.
    pub async fn code(&self, name: &str, version: &str) -> &'static str {
        match self.get(name, version).await {
            Ok(served) => panic!("{name} {version} was served: {}", served.found.status),
            Err(error) => error.code,
        }
    }

    /// Waits until nothing is being fetched.
    pub async fn settle(&self) {
        until("the end of every fetch", || self.cache.is_idle()).await;
    }

    /// The folder of the cache.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Files below a folder of the cache.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        files(&self.dir.path().join("v1").join(folder))
    }
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

pub fn bytes(served: &Served) -> Vec<u8> {
    match &served.body {
        Body::Memory(bytes) => bytes.to_vec(),
        Body::File(file) => file.read().unwrap(),
    }
}

/// What the cache goes by.
fn rules(setup: &Setup, catalog: &Arc<Catalog>) -> Rules {
    Rules {
        config: cache::Config {
            hold: setup.hold,
            timeout: Duration::from_secs(60),
            at_once: 16,
            memory: bytesize::ByteSize(setup.room),
        },
        lifetimes: Lifetimes {
            tag: TAG_LIFETIME,
            absent: ABSENT_LIFETIME,
            unusable: Duration::from_secs(60),
            transient: TRANSIENT_LIFETIME,
        },
        limits: Limits {
            manifest: bytesize::ByteSize::mib(4),
            module: bytesize::ByteSize::mib(64),
            ratio: 200,
            tar_entries: 1000,
        },
        gate: Arc::new(gate(&setup.policy, catalog)),
    }
}

/// What a site's policy demands, from what stands below `policy:` in its settings.
pub fn gate(policy: &str, catalog: &Arc<Catalog>) -> Gate {
    let policy: String = policy.lines().map(|line| format!("  {line}\n")).collect();
    let file = Some((PathBuf::from("larder.yaml"), format!("policy:\n{policy}")));
    let sources = larder::config::Sources { file, ..Default::default() };
    let loaded = larder::config::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"));
    let policy = &loaded.config.policy;
    let keys = policy.key_files().into_iter().map(|file| (file.clone(), signatures::keys(file).unwrap()));
    Gate::new(policy, &keys.collect(), catalog.clone())
}
