//! System calls on the directory that fail, one at a time, while larder serves and when it starts.

use crate::support::artifact::{Artifact, OCI_MANIFEST, TAR_GZIP, artifact, module, raw, tar};
use crate::support::client::{self, Reply};
use crate::support::faults::is_long;
use crate::support::kept::{self, Kept};
use crate::support::larder::{Home, Larder, settings};
use crate::support::scripted::Scripted;
use crate::support::strace::{self, Call, Strace};
use crate::support::{eventually, fsck};
use larder::oci::Digest;
use larder::store::layout::Layout;
use std::io;
use std::path::PathBuf;

/// What the kernel answers instead.
const ERRORS: [&str; 6] =
    ["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EROFS", "error=EMFILE", "error=EINTR"];
/// A write that wrote nothing.
const NOTHING: &str = "retval=0";
/// More plugins than the disk may hold, so that every fetch evicts.
const PLUGINS: usize = 12;
/// How many of them it holds.
const HELD: usize = 3;
/// What is done when a call fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scene {
    /// A plugin is fetched; failures count from the request.
    Fetch,
    /// The same; they count from when its layer is asked for.
    Layer,
    /// The same of a layer that is kept and unpacked later.
    Kept,
    /// Another tag of a plugin that is held is asked for, so that only a record is written.
    Record,
    /// A plugin that is held is asked for.
    Hit,
}

/// The file that the call is about. Of drafts only the first has a name that can be known.
#[derive(Debug, Clone, Copy, PartialEq)]
enum File {
    Any,
    Draft,
    Modules,
    Folder,
    Module,
    Records,
    Record,
    OldRecord,
    OldModule,
}

/// The calls that fetching, evicting and serving make on the directory. A record's write is not among them: threads write
/// to wake each other too, and the name of a record's draft is not known before it is written.
const CALLS: [(Scene, &str, File); 27] = [
    (Scene::Fetch, "openat", File::Any),
    (Scene::Layer, "write", File::Draft),
    (Scene::Kept, "write", File::Draft),
    (Scene::Kept, "openat", File::Any),
    (Scene::Kept, "unlink", File::Draft),
    (Scene::Kept, "read", File::Draft),
    (Scene::Layer, "lseek", File::Draft),
    (Scene::Layer, "read", File::Draft),
    (Scene::Layer, "fsync", File::Any),
    (Scene::Layer, "statx", File::Folder),
    (Scene::Layer, "mkdir", File::Folder),
    (Scene::Layer, "openat", File::Modules),
    (Scene::Layer, "fsync", File::Modules),
    (Scene::Layer, "renameat", File::Module),
    (Scene::Layer, "openat", File::Folder),
    (Scene::Layer, "fsync", File::Folder),
    (Scene::Layer, "unlink", File::OldRecord),
    (Scene::Layer, "openat", File::Records),
    (Scene::Layer, "fsync", File::Records),
    (Scene::Layer, "unlink", File::OldModule),
    (Scene::Record, "openat", File::Any),
    (Scene::Record, "fsync", File::Any),
    (Scene::Record, "renameat", File::Record),
    (Scene::Record, "fsync", File::Records),
    (Scene::Hit, "openat", File::Module),
    (Scene::Hit, "statx", File::Module),
    (Scene::Hit, "pread64", File::Module),
];

/// An image of a module whose layer is kept as it came before it is unpacked.
fn kept_first(module: &[u8]) -> Artifact {
    let layer = zstd::encode_all(&tar(&[("plugin.wasm", module)])[..], 1).unwrap();
    let config = "application/vnd.oci.image.config.v1+json";
    artifact(OCI_MANIFEST, config, &[(TAR_GZIP, layer)], module)
}

/// A larder whose every request is a fetch that evicts.
struct Busy {
    larder: Larder,
    layout: Layout,
    registry: Scripted,
    plugins: Vec<Vec<u8>>,
    /// The plugin that was not asked for for longest.
    next: usize,
    /// The tag that was not asked for yet.
    tag: usize,
}

impl Busy {
    fn start() -> Self {
        let registry = Scripted::start();
        let plugins: Vec<_> = (0..PLUGINS).map(|n| module(&format!("busy {n}"), 300_000 + n)).collect();
        for (n, bytes) in plugins.iter().enumerate() {
            registry.put(&format!("plugins/p{n}"), "1", &raw(bytes));
            registry.put(&format!("plugins/p{n}"), "0", &kept_first(bytes));
        }
        let more = "cache: {disk: 1MiB, memory: 64KiB, retry: 50ms}\nlimits: {module: 1MiB}\noverlay: {dirs: []}\n\
                    lifetimes: {transient: 0s, unusable: 0s}\n";
        let larder = Home::in_memory(&(settings(&registry.host()) + more)).start();
        let layout = Layout::new(&larder.home.cache());
        Self { larder, layout, registry, plugins, next: HELD, tag: 1 }
    }

    /// The `n`th plugin before the next one.
    fn earlier(&self, n: usize) -> usize {
        (self.next - n) % PLUGINS
    }

    /// An error is a connection that broke off.
    fn get(&self, plugin: usize, tag: usize) -> io::Result<Reply> {
        let request = format!(
            "GET /plugins/p{plugin}/{tag}/plugin.wasm HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        );
        client::raw(self.larder.data, request.as_bytes())
    }

    /// With a disk that works everything is right, whatever was before; and what is held are the last three.
    fn settle(&mut self) {
        eventually("the disk being used again", || {
            (self.larder.metric("larder_store_degraded") == 0.0).then_some(())
        });
        for _ in 0..HELD {
            self.next += 1;
            let n = self.earlier(1);
            let reply = self.get(n, 1).unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert!(reply.body == self.plugins[n]);
        }
        // A draft that could not be removed stays until the next start.
        for draft in std::fs::read_dir(self.layout.tmp()).unwrap() {
            std::fs::remove_file(draft.unwrap().path()).unwrap();
        }
        // An empty folder that is there already would not be made.
        let _ = std::fs::remove_dir(self.path(File::Folder).unwrap());
    }

    fn path(&self, file: File) -> Option<PathBuf> {
        let (new, old) = (self.earlier(0), self.earlier(HELD));
        let module = |n: usize| self.layout.module(&Digest::of(&self.plugins[n]));
        let record = |n, tag| format!("{}/plugins/p{n}:{tag}", self.registry.host()).parse().unwrap();
        Some(match file {
            File::Any => return None,
            File::Draft => std::fs::read_dir(self.layout.tmp()).unwrap().next().unwrap().unwrap().path(),
            File::Modules => self.layout.modules(),
            File::Folder => module(new).parent().unwrap().into(),
            File::Module => module(new),
            File::Records => self.layout.records(),
            File::Record => self.layout.record(&record(self.earlier(1), self.tag)),
            File::OldRecord => self.layout.record(&record(old, 1)),
            File::OldModule => module(old),
        })
    }

    /// Lets a call fail, and checks what comes of it. `None` when it was not made.
    fn fail(&mut self, scene: Scene, call: &str, file: File, error: &str) -> Option<()> {
        self.settle();
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{error}:when=1"));
        let begin = |file: Option<PathBuf>| {
            let file = file.map(|path| path.to_str().unwrap().to_owned());
            let mut options = vec!["-e", &trace, "-e", &inject];
            options.extend(file.iter().flat_map(|path| ["-P", path]));
            Strace::process(self.larder.id(), &options)
        };
        let (plugin, tag, strace, reply);
        match scene {
            Scene::Fetch => {
                (plugin, tag) = (self.earlier(0), 1);
                strace = begin(self.path(file));
                reply = self.get(plugin, tag);
            }
            Scene::Layer | Scene::Kept => {
                (plugin, tag) = (self.earlier(0), usize::from(scene == Scene::Layer));
                self.registry.close_gate();
                self.registry.forget();
                (strace, reply) = std::thread::scope(|scope| {
                    let reply = scope.spawn(|| self.get(plugin, tag));
                    let asked = || self.registry.count(|ask| ask.is_blob()) > 0;
                    eventually("the layer's being asked for", || asked().then_some(()));
                    let strace = begin(self.path(file));
                    self.registry.open_gate();
                    (strace, reply.join().unwrap())
                });
            }
            Scene::Record => {
                self.tag += 1;
                (plugin, tag) = (self.earlier(1), self.tag);
                let artifact = raw(&self.plugins[plugin]);
                self.registry.put(&format!("plugins/p{plugin}"), &tag.to_string(), &artifact);
                strace = begin(self.path(file));
                reply = self.get(plugin, tag);
            }
            Scene::Hit => {
                (plugin, tag) = (self.earlier(1), 1);
                self.next -= 1;
                strace = begin(self.path(file));
                self.next += 1;
                reply = self.get(plugin, tag);
            }
        }
        let failed: Vec<_> = strace.end().into_iter().filter(Call::is_injected).collect();
        // Each thread's first; that of whoever looks at the settings may be among them.
        let call = failed.iter().find(|call| call.label(&self.larder.home.cache()).is_some())?;
        let when = format!("{error} of {} {}, {} times", call.name, call.arguments, failed.len());
        match reply {
            // What is held and cannot be opened for a reason of ours is not taken for damaged.
            Ok(reply) if (failed.len() > 1 || scene == Scene::Hit) && reply.status != 200 => {
                check_refusal(&reply, &when);
            }
            Ok(reply) => check_answer(&reply, &self.plugins[plugin], &when),
            // strace counts for each thread: who reads again may fail again, and what was sent cannot be taken back.
            Err(error) => assert!(scene == Scene::Hit && failed.len() > 1, "{when}: {error}"),
        }
        assert!(!self.larder.log_text().contains("panicked"), "{when}: {}", self.larder.log_text());
        assert_eq!(self.larder.get("/healthz").status, 200, "{when}: larder lives");
        fsck::check(&self.larder.home.cache(), &when);
        Some(())
    }
}

/// What comes while the disk fails: the right bytes.
fn check_answer(reply: &Reply, right: &[u8], when: &str) {
    assert_eq!(reply.status, 200, "{when}: {}", reply.text());
    assert!(reply.body == right, "{when}: wrong bytes");
}

/// What may come when it failed again when it was tried again: that is said.
fn check_refusal(reply: &Reply, when: &str) {
    assert_eq!(reply.status, 503, "{when}: {}", reply.text());
    assert!(reply.json()["code"].is_string(), "{when}: {}", reply.text());
}

#[test]
fn a_disk_that_fails_at_any_call_costs_no_wrong_byte_and_not_the_process() {
    let mut busy = Busy::start();
    // All errors at each call; or two, and the next two at the next call.
    let errors_at = |n: usize| match is_long() {
        true => ERRORS.to_vec(),
        false => vec![ERRORS[2 * n % ERRORS.len()], ERRORS[(2 * n + 1) % ERRORS.len()]],
    };
    for (n, (scene, call, file)) in CALLS.into_iter().enumerate() {
        let more = (call == "write").then_some(NOTHING);
        for error in errors_at(n / 2 + n).into_iter().chain(more) {
            let hit = busy.fail(scene, call, file, error).is_some();
            assert!(hit, "{call} of {file:?} was not made when {scene:?}");
        }
    }
}

/// The calls of a start, by the file that they are about.
fn calls_of_a_start(kept: &Kept, home: &Home) -> Vec<(PathBuf, &'static str)> {
    let layout = Layout::new(&home.cache());
    let module = layout.module(&Digest::of(&kept::bytes("b")));
    let record = layout.record(&kept.reference("b").parse().unwrap());
    let of = |path: PathBuf, calls: &[&'static str]| {
        calls.iter().map(move |c| (path.clone(), *c)).collect::<Vec<_>>()
    };
    let folder = ["openat", "getdents64"];
    let parts = [
        of(layout.lock(), &["openat", "flock", "write"]),
        of(layout.format(), &["openat", "read"]),
        of(layout.tmp(), &folder),
        of(layout.modules(), &folder),
        of(module.parent().unwrap().into(), &["statx", "openat", "getdents64"]),
        of(module, &["statx"]),
        of(layout.records(), &folder),
        of(record, &["openat", "read"]),
    ];
    parts.concat()
}

#[test]
fn a_start_at_which_any_call_fails_takes_away_nothing_that_was_answered() {
    let kept = Kept::new("1h");
    let number = calls_of_a_start(&kept, &kept.copy()).len();
    for n in 0..number {
        for error in if is_long() { &ERRORS[..] } else { &ERRORS[n % 2 * 4..][..1] } {
            let home = kept.copy();
            let (path, call) = calls_of_a_start(&kept, &home).remove(n);
            let (trace, inject) = (home.path().join("calls"), format!("inject={call}:{error}:when=1"));
            // Files of which there are many are opened and looked at by their names, in folders that are open.
            let name = path.file_name().unwrap().to_str().unwrap();
            let file = ["-o", trace.to_str().unwrap(), "-P", path.to_str().unwrap(), "-P", name];
            let what = format!("trace={call}");
            let tool = [&["strace", "-f", "-y"], &file[..], &["-e", &what, "-e", &inject]].concat();
            let status = kept::get(&home, &tool, "a").wait().unwrap();
            let when = format!("{error} of {call} {}: {status}", path.display());
            assert!(strace::calls(&trace).iter().any(Call::is_injected), "{when} was not made");
            // Codes are of sysexits.h; a panic has another, and a signal none.
            assert!(matches!(status.code(), Some(0 | 64..=78)), "{when}");
            kept.check(home, &["a", "b", "c"], &when);
        }
    }
}

/// What is answered when calls, on its draft alone or all, fail from when a layer is asked for; and the calls.
fn while_a_layer_comes(
    larder: &Larder,
    registry: &Scripted,
    name: &str,
    options: &[&str],
    of_draft: bool,
) -> (Reply, Vec<Call>) {
    registry.close_gate();
    registry.forget();
    std::thread::scope(|scope| {
        let reply = scope.spawn(|| larder.get(&format!("/plugins/{name}/1/plugin.wasm")));
        let asked = || registry.count(|ask| ask.is_blob()) > 0;
        eventually("the layer's being asked for", || asked().then_some(()));
        let tmp = Layout::new(&larder.home.cache()).tmp();
        let draft = std::fs::read_dir(tmp).unwrap().next().unwrap().unwrap().path();
        let only = ["-P", draft.to_str().unwrap()];
        let only = if of_draft { &only[..] } else { &[] };
        let strace = Strace::process(larder.id(), &[options, only].concat());
        registry.open_gate();
        (reply.join().unwrap(), strace.end())
    })
}

#[test]
fn a_piece_of_a_layer_that_the_disk_swallowed_is_noticed_and_the_next_try_is_in_memory() {
    let registry = Scripted::start();
    let more =
        "cache: {memory: 64KiB, retry: 1h}\noverlay: {dirs: []}\nlifetimes: {transient: 0s, unusable: 0s}\n";
    let bytes = module("swallowed", 3_500_000);
    // One is written as the module that it is.
    for (name, artifact) in [("taken-over", raw(&bytes)), ("kept", kept_first(&bytes))] {
        registry.put(&format!("plugins/{name}"), "1", &artifact);
        let larder = Home::in_memory(&(settings(&registry.host()) + more)).start();
        // The kernel says that it wrote them and did not, in a thread's second write: the file's beginning is right.
        let options = ["-e", "trace=write", "-e", "inject=write:retval=4096:when=2"];
        let (reply, calls) = while_a_layer_comes(&larder, &registry, name, &options, true);
        assert!(calls.iter().any(Call::is_injected), "{name}: no write was swallowed");
        check_answer(&reply, &bytes, name);
        let status = reply.header("cache-status");
        assert!(status.contains("detail=uncached-disk_error"), "{name}: {status}");
    }
}

#[test]
fn a_verified_layer_is_kept_though_its_draft_cannot_be_opened_once_more() {
    let registry = Scripted::start();
    let bytes = module("scarce", 300_000);
    registry.put("plugins/scarce", "1", &raw(&bytes));
    let larder = Home::in_memory(&(settings(&registry.host()) + "overlay: {dirs: []}\n")).start();
    // Of no file there is a second descriptor.
    let options = ["-e", "trace=fcntl", "-e", "inject=fcntl:error=EMFILE"];
    let (reply, calls) = while_a_layer_comes(&larder, &registry, "scarce", &options, false);
    let refused = |call: &Call| call.is_injected() && call.arguments.contains("F_DUPFD_CLOEXEC");
    assert!(calls.iter().any(refused), "{calls:?}");
    check_answer(&reply, &bytes, "EMFILE");
    assert!(!reply.header("cache-status").contains("uncached"), "{}", reply.header("cache-status"));
    assert_eq!(larder.metric("larder_store_degraded"), 0.0);
}
