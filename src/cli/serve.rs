//! `larder serve`: opens the ports and stays until it is told to leave.

use super::front::{self, Front};
use super::reload::{Reload, Seen};
use super::{Options, assemble, certificates, exit, log, machine, report, traces};
use crate::admin::history;
use crate::config::{Config, Fault, Loaded};
use crate::plugin::Request;
use crate::policy::Mode;
use crate::server::admin::{Admin, Audit, Explain};
use crate::server::app::{App, Connection, Face};
use crate::server::data::{Data, Memo};
use crate::server::listen::{Drain, Port};
use crate::server::tls::Tls;
use crate::store::{Room, StoreError};
use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Time between two looks at the number of dropped log lines.
const COUNTING: Duration = Duration::from_secs(5);
/// Longest time for what is written down at the end.
const CLOSING: Duration = Duration::from_secs(3);
/// Descriptors for everything but connections: files, registries, the runtime.
const OTHER_DESCRIPTORS: u64 = 512;
/// Explanations at once: each makes a client of its own and fetches a plugin.
const EXPLAINING: usize = 2;
/// Threads that fetch: they wait for networks and hand hashing and unpacking to threads of their own.
const FETCH_THREADS: usize = 2;
/// Threads for blocking work, of each runtime. Beyond them it queues.
const BLOCKING_THREADS: usize = 16;
/// How long such a thread waits for more to do. What is done once a second wakes one after the other, so that with a longer
/// time none would ever end, and each keeps its stack and what the allocator lends it.
const BLOCKING_PATIENCE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
pub fn run(loaded: Loaded, options: Options) -> ExitCode {
    let config = &loaded.config;
    // Two runtimes: requests are answered though fetches are busy, and the administration port is where they are not.
    let threads = match config.server.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let (front, behind) = match (runtime("front", threads), runtime("fetch", FETCH_THREADS)) {
        (Ok(front), Ok(behind)) => (front, behind),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("larder: threads cannot be started: {error}");
            return ExitCode::from(exit::OSERR);
        }
    };
    let (traces, spans) = match traces::start(config, behind.handle()) {
        Ok(started) => started,
        Err(problem) => {
            let place = loaded.place("traces.endpoint");
            return report(&[Fault { place, problem: format!("traces.endpoint: {problem}") }]);
        }
    };
    let log = log::start(&config.log, spans);
    raise_descriptor_limit(config.server.connections);
    for warning in loaded.warnings.iter().chain(&machine::doubts(&loaded)) {
        tracing::warn!(place = warning.place, "{}", warning.problem);
    }
    let read = match assemble::read(&loaded) {
        Ok(read) => read,
        Err(faults) => return report(&faults),
    };
    let clients = match front::read(&loaded) {
        Ok(clients) => clients,
        Err(faults) => return report(&faults),
    };
    for warning in read.hosts.told().chain(&clients.told()) {
        tracing::warn!("{warning}");
    }
    let clients = Front::new(clients, read.names.clone(), read.metrics.clone());
    let others = vec![clients.part(), log.dial.part(config.log.level), traces.part()];
    let seen = Seen::at_start(&loaded, &read.hosts, &options, &others);
    // From here on it asks for another reading, where it would have ended the process.
    let hangup = {
        let _within = behind.enter();
        signal(SignalKind::hangup())
    };
    let hangup = match hangup {
        Ok(hangup) => hangup,
        Err(error) => {
            eprintln!("larder: signals cannot be waited for: {error}");
            return ExitCode::from(exit::OSERR);
        }
    };
    let dir = assemble::cache_dir(config);
    let parts = match assemble::assemble(config, &dir, read, behind.handle().clone()) {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("larder: {error}");
            return ExitCode::from(match error {
                StoreError::Locked { .. } => exit::TEMPFAIL,
                StoreError::Format { .. } | StoreError::Exposed { .. } => exit::CONFIG,
                _ => exit::CANTCREAT,
            });
        }
    };
    parts.metrics.settings_loaded.set((parts.clock.now().millis() / 1000) as i64);
    let (current, _) = watch::channel(Arc::new(loaded.clone()));
    let sending = || Room::new(config.server.send_memory.as_u64());
    let reload = Arc::new(Reload {
        options,
        started: loaded.clone(),
        current: current.clone(),
        parts,
        server: Arc::new(ArcSwap::from_pointee(config.server)),
        sending: [sending(), sending()],
        others,
        seen: ArcSwap::from_pointee(seen),
        turn: Arc::default(),
    });
    let parts = &reload.parts;
    let drain = Drain::new();
    let [data_sending, admin_sending] = reload.sending.clone();
    let app = |face, tls: &Arc<Tls>, sending| {
        let (config, metrics) = (reload.server.clone(), parts.metrics.clone());
        Arc::new(App { face, config, metrics, drain: drain.clone(), tls: tls.clone(), sending })
    };
    let data = Face::Data(Data {
        cache: parts.cache.clone(),
        access: clients.access.clone(),
        memo: Memo::default(),
        failures: parts.administration.failures.clone(),
        clock: parts.clock.clone(),
    });
    let store = parts.cache.store().clone();
    let audit = match Audit::open(&config.admin.audit, parts.metrics.clone()) {
        Ok(audit) => Arc::new(audit),
        Err((key, problem)) => {
            return report(&[Fault { place: loaded.place(key), problem: format!("{key}: {problem}") }]);
        }
    };
    let (told, set) = (log.dial.clone(), log.dial.clone());
    let admin = Face::Admin(Box::new(Admin {
        metrics: parts.metrics.clone(),
        client: parts.client.clone(),
        explain: explainer(current.subscribe(), parts, behind.handle().clone()),
        explaining: Semaphore::new(EXPLAINING),
        administration: parts.administration.clone(),
        auth: clients.auth.clone(),
        audit: audit.clone(),
        reload: reload.asked(behind.handle().clone()),
        level: Arc::new(move || told.level()),
        set_level: Arc::new(move |level| set.set_level(level)),
        store: store.clone(),
        drain: drain.clone(),
    }));
    let (data, admin) = (app(data, &clients.data, data_sending), app(admin, &clients.admin, admin_sending));

    let opened = open(&front, config, config.listen.data, "data", &clients.data)
        .and_then(|port| Ok((port, open(&behind, config, config.listen.admin, "admin", &clients.admin)?)));
    let (data_port, admin_port) = match opened {
        Ok(ports) => ports,
        Err(code) => return code,
    };
    // Whoever reads that it listens may tell it to leave.
    let told = {
        let _within = behind.enter();
        Told::new()
    };
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            eprintln!("larder: signals cannot be waited for: {error}");
            return ExitCode::from(exit::OSERR);
        }
    };
    announce(config, parts, &dir, &data_port, &admin_port);
    parts.cache.compare_held();

    let make = |app: Arc<App>| move |arrival| Arc::new(Connection::new(app.clone(), arrival));
    let (counted, left) = (parts.metrics.clone(), drain.clone());
    front.spawn(data_port.accept(reload.server.clone(), left.clone(), counted.clone(), make(data)));
    let admin_port = admin_port.until_the_end();
    behind.spawn(admin_port.accept(reload.server.clone(), left, counted, make(admin)));
    let overlay = parts.overlay.clone();
    behind.spawn(again(
        current.subscribe(),
        |config| config.overlay.poll,
        move || {
            let overlay = overlay.load_full();
            async move { drop(tokio::task::spawn_blocking(move || overlay.refresh()).await) }
        },
    ));
    let steps = parts.administration.clone();
    behind.spawn(async move {
        loop {
            steps.note_step();
            tokio::time::sleep(history::STEP).await;
        }
    });
    let starting = parts.administration.clone();
    behind.spawn(async move {
        starting.import_at_start().await;
        starting.begin_warm_up();
    });
    let (metrics, dropped, lost) = (parts.metrics.clone(), log.dropped.clone(), traces.lost.clone());
    behind.spawn(async move {
        loop {
            tokio::time::sleep(COUNTING).await;
            dropped.count(&metrics);
            lost.count(&metrics);
        }
    });
    let (metrics, client) = (parts.metrics.clone(), parts.client.clone());
    let reminded = move || {
        // Of several in a file another one may be the next by now.
        certificates::count(&metrics, &client.expiries());
        clients.count();
        clients.warn();
    };
    behind.spawn(certificates::watch(parts.metrics.clone(), reminded, certificates::DAY));
    let kept = parts.cache.clone();
    behind.spawn(again(
        current.subscribe(),
        |config| config.cache.retry,
        move || {
            let kept = kept.clone();
            async move { kept.maintain().await }
        },
    ));
    let mut decisions = parts.cache.decisions();
    behind.spawn(async move {
        while let Some(decision) = decisions.recv().await {
            audit.decided(&decision).await;
        }
    });
    behind.spawn(reload.clone().run(hangup));
    behind.block_on(leave(told, &current, &drain));
    // A disk that hangs is no reason to stay.
    let closed = behind.block_on(async { tokio::time::timeout(CLOSING, store.close()).await });
    if closed.is_err() {
        tracing::warn!("the cache directory does not answer; last uses are not written down");
    }
    traces.close(CLOSING);
    tracing::info!("stopped");
    // What is left are idle connections and fetches nobody waits for; drafts are removed at the next start.
    front.shutdown_background();
    behind.shutdown_background();
    ExitCode::SUCCESS
}

/// Does `work` again and again, each time after the pause that the settings in use have for it.
async fn again<F>(
    mut settings: watch::Receiver<Arc<Loaded>>,
    pause: fn(&Config) -> Duration,
    work: impl Fn() -> F,
) where
    F: Future<Output = ()>,
{
    let mut last = Instant::now();
    loop {
        let due = last + pause(&settings.borrow_and_update().config);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {
                work().await;
                last = Instant::now();
            }
            changed = settings.changed() => if changed.is_err() { return },
        }
    }
}

/// What the administration port explains with: the settings as their files have them now.
fn explainer(current: watch::Receiver<Arc<Loaded>>, parts: &assemble::Assembled, runtime: Handle) -> Explain {
    let (names, running) = (parts.names.clone(), assemble::Running::of(parts));
    Arc::new(move |request: Request| {
        let catalog = names.load().catalog.clone();
        let (running, loaded) = (running.clone(), current.borrow().clone());
        let work = async move { assemble::explain(&loaded, &catalog, &request, Some(&running)).await };
        let task = runtime.spawn(work);
        Box::pin(async move { task.await.unwrap_or_else(|_| Err("the explanation ended early".into())) })
    })
}

/// A connection is a descriptor. Many systems give a process 1024 and let it ask for more.
pub(super) fn raise_descriptor_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = connections as u64 * 2 + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if soft >= wanted {
        return;
    }
    let raised = wanted.min(hard);
    let set = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum });
    if set.is_err() || raised < wanted {
        let now = if set.is_ok() { raised } else { soft };
        tracing::warn!(now, wanted, "few file descriptors: raise the limit, or lower server.connections");
    }
}

fn runtime(name: &str, threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_PATIENCE)
        .thread_name(name)
        .enable_all()
        .build()
}

fn open(
    runtime: &Runtime,
    config: &Config,
    address: SocketAddr,
    name: &'static str,
    tls: &Arc<Tls>,
) -> Result<Port, ExitCode> {
    let _within = runtime.enter();
    let send_buffer = u32::try_from(config.server.send_buffer.as_u64()).unwrap_or(u32::MAX);
    Port::open(address, name, send_buffer, tls.clone()).map_err(|error| {
        eprintln!("larder: cannot listen on {address}: {error}; another address is set by --listen or --admin-listen");
        ExitCode::from(exit::OSERR)
    })
}

/// A few lines that tell what was started.
fn announce(config: &Config, parts: &assemble::Assembled, dir: &std::path::Path, data: &Port, admin: &Port) {
    let shown = |port: &Port| port.address().map(|a| a.to_string()).unwrap_or_default();
    tracing::info!(
        data = shown(data),
        admin = shown(admin),
        version = env!("CARGO_PKG_VERSION"),
        administration = config.admin.told(config.listen.admin.ip(), !config.tls.admin.client_ca.is_empty()),
        "listening"
    );
    let catalog = parts.names.load().catalog.clone();
    let registries: Vec<_> = catalog.registries().into_iter().collect();
    let how = match config.policy.mode {
        Mode::Online | Mode::Fallback => "registries are asked when a plugin is first asked for",
        Mode::Offline => "offline: nobody is asked, and what is held is served",
    };
    tracing::info!(
        names = catalog.names().count(),
        others = catalog.is_open(),
        registries = registries.join(", "),
        mode = config.policy.mode.as_str(),
        rules = config.policy.rules.len(),
        "serving the catalog; {how}"
    );
    let local = parts.overlay.load();
    let overlay: Vec<_> =
        local.dirs().iter().filter(|dir| dir.is_dir()).map(|dir| dir.display().to_string()).collect();
    tracing::info!(
        cache = %dir.display(), disk = %config.cache.disk, memory = %config.cache.memory, overlay = overlay.join(", "),
        local_plugins = local.index().len(),
        "keeping"
    );
}

/// What systemd waits for, where it is what started larder: sd_notify(3). Nobody else hears of it.
fn tell_starter(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "NOTIFY_SOCKET takes no word of how larder is");
    }
}

/// The signals to leave. From when this is made they no longer end the process by themselves.
struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

/// Waits for the signal and goes through with the drain. SIGINT, from a keyboard, does not wait for load balancers; a
/// second signal waits for nothing.
async fn leave(told: Told, current: &watch::Sender<Arc<Loaded>>, drain: &Drain) {
    let Told { mut terminate, mut interrupt } = told;
    // Both ports are open, and whoever may now tell it to leave is heard.
    tell_starter(NotifyState::Ready);
    let at_once = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    let mut server = current.borrow().config.server;
    if at_once {
        server.drain = Duration::ZERO;
    }
    tell_starter(NotifyState::Stopping);
    tracing::info!(drain = ?server.drain, finish = ?server.finish, "told to leave");
    tokio::select! {
        () = drain.run(&server) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
