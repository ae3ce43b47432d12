//! A larder in this process: the real store in a folder of its own, the settings as shipped, and no registry.

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytesize::ByteSize;
use larder::cache::{self, Ask, Cache, Parts, Rules, Served};
use larder::catalog::{Catalog, Names, Plan};
use larder::clock::{Clock, SystemClock, Timestamp};
use larder::config::Config;
use larder::failures::Failures;
use larder::freshness::Lifetimes;
use larder::metrics::Metrics;
use larder::oci::{Digest, Reference};
use larder::plugin::Request;
use larder::policy::Gate;
use larder::record::{Module, Present, Record, State};
use larder::registry::trace::Trace;
use larder::registry::{Blob, Confirmation, FetchedManifest, Registry, RegistryError};
use larder::server::access::{Access, Rules as Whom};
use larder::server::data::{Data, Memo};
use larder::store::layout::Layout;
use larder::store::overlay::Overlay;
use larder::store::{Room, Store, Tiered};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// What is asked for: a plugin that the built-in catalog lists, in another version.
const NAME: &str = "ai-proxy";
const VERSION: &str = "1.9.9";
/// Its path.
pub const PATH: &str = "/plugins/ai-proxy/1.9.9/plugin.wasm";

static OPENED: AtomicBool = AtomicBool::new(false);

/// True once a bench has opened a larder.
pub fn was_opened() -> bool {
    OPENED.load(Ordering::Relaxed)
}

/// See the module's text.
pub struct Larder {
    pub config: Config,
    pub names: Arc<Names>,
    /// What asks for the module.
    pub request: Request,
    /// What may answer it.
    pub plan: Arc<Plan>,
    pub metrics: Arc<Metrics>,
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub data: Data,
    pub runtime: Runtime,
    _dir: TempDir,
}

impl Larder {
    /// Holds a module of `size` bytes, and `others` of a few bytes, each with its record. `memory` is the size of the memory
    /// tier in bytes.
    pub fn open(size: usize, others: usize, memory: u64) -> Self {
        OPENED.store(true, Ordering::Relaxed);
        let mut config = larder::config::load(&Default::default()).unwrap().config;
        // No bench outlives it.
        config.lifetimes = Lifetimes { tag: Duration::from_secs(24 * 3600), ..config.lifetimes };
        config.cache.memory = ByteSize(memory);
        let catalog = Arc::new(Catalog::build(&config.catalog, &[]).unwrap());
        let patterns = config.routes.patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let names = Arc::new(Names { catalog, patterns });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::<Metrics>::default();
        let room = Room::new(config.fill.memory.as_u64());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();

        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let overlay = Overlay::open(Vec::new(), 0).live();
            Tiered::open(dir.path(), &config.cache, room.clone(), overlay, clock.clone(), metrics.clone())
                .unwrap()
        };
        drop(open());
        let plan = |version: &str| {
            let request = Request { name: NAME.parse().unwrap(), version: Some(version.parse().unwrap()) };
            (names.catalog.plan(&request), request)
        };
        let put = |plan: &Plan, bytes: &[u8]| {
            put(dir.path(), &plan.candidates[0].reference, bytes, clock.now());
        };
        for n in 0..others {
            put(&plan(&format!("9.9.{n}")).0, n.to_string().as_bytes());
        }
        let (plan, request) = plan(VERSION);
        put(&plan, &module(size));
        let store: Arc<dyn Store> = Arc::new(open());
        assert_eq!(store.usage().disk_entries as usize, others + 1, "all modules were taken in");

        let recent = Arc::<Failures>::default();
        let cache = Cache::new(Parts {
            registry: Arc::new(Nobody),
            store: store.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            rules: ArcSwap::from_pointee(Rules {
                config: config.fill,
                lifetimes: config.lifetimes,
                limits: config.limits,
                gate: Arc::new(Gate::open()),
            }),
            runtime: runtime.handle().clone(),
            room,
            unpacking: tokio::sync::Semaphore::new(cache::UNPACKING),
            streams: Arc::new(tokio::sync::Semaphore::new(cache::STREAMS)),
            trace: Trace::default(),
            recent: recent.clone(),
        });
        let data = Data {
            cache: cache.clone(),
            access: Access::new(names.clone(), Whom::default()),
            memo: Memo::default(),
            failures: recent,
            clock,
        };
        let plan = Arc::new(plan);
        let larder = Self { config, names, request, plan, metrics, store, cache, data, runtime, _dir: dir };
        // Verified once, and loaded where there is room: from here on everything is a hit.
        assert_eq!(larder.runtime.block_on(larder.get()).body.size(), size as u64);
        larder
    }

    /// Its module, if that is held.
    pub async fn get(&self) -> Served {
        self.cache.get(&self.request.name, &self.plan, Ask::Forbidden).await.unwrap()
    }
}

/// A module of `size` bytes: a custom section, and the export by which its ABI is known.
pub fn module(size: usize) -> Vec<u8> {
    let export = [&[7, 27, 1, 23], b"proxy_abi_version_0_2_1".as_slice(), &[0, 0]].concat();
    let rest = size - 8 - 1 - 5 - export.len();
    let mut bytes = b"\0asm\x01\0\0\0\0".to_vec();
    // Its size in five bytes of LEB128, so that any total can be met.
    bytes.extend((0..5).map(|n| (rest >> (7 * n)) as u8 & 0x7f | if n < 4 { 0x80 } else { 0 }));
    // The section's name, and then what packs by a half, as code does.
    bytes.extend_from_slice(b"\x03any");
    let mut state = Digest::of(b"any");
    while bytes.len() < size - export.len() {
        bytes.extend_from_slice(state.bytes());
        bytes.extend_from_slice(&[0; 32]);
        state = Digest::of(state.bytes());
    }
    bytes.truncate(size - export.len());
    bytes.extend_from_slice(&export);
    bytes
}

/// Puts a module and its record where a larder that ran before would have left them.
fn put(dir: &Path, reference: &Reference, bytes: &[u8], now: Timestamp) {
    let layout = Layout::new(dir);
    let digest = Digest::of(bytes);
    let module = Module { digest, size: bytes.len() as u64, md5: "0".repeat(32), abi: Some("0.2.1".into()) };
    let present = Present {
        manifest: digest,
        layer: digest,
        layer_media_type: "application/vnd.module.wasm.content.layer.v1+wasm".into(),
        module,
        since: now,
        first: None,
        signatures: None,
    };
    let record = Record { reference: reference.clone(), checked_at: now, state: State::Present(present) };
    fs::create_dir_all(layout.module(&digest).parent().unwrap()).unwrap();
    fs::write(layout.module(&digest), bytes).unwrap();
    fs::write(layout.record(reference), record.encode()).unwrap();
}

/// The registry that is never asked.
struct Nobody;

#[async_trait]
impl Registry for Nobody {
    async fn confirm(&self, _: &Reference, _: &Digest) -> Result<Confirmation, RegistryError> {
        unreachable!("everything is fresh")
    }

    async fn manifest(&self, _: &Reference, _: u64) -> Result<FetchedManifest, RegistryError> {
        unreachable!("everything is held")
    }

    async fn blob(&self, _: &Reference, _: &Digest, _: u64) -> Result<Blob, RegistryError> {
        unreachable!("everything is held")
    }

    fn distrust(&self, _: &Reference, _: usize) {
        unreachable!("nothing is fetched")
    }
}
