//! What is reloaded, in this process: who asks while it goes on, what other parts say, files that change meanwhile.

use super::*;
use crate::cli::Cli;
use clap::Parser;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Settings in a folder, and what takes them.
struct Home {
    dir: TempDir,
    runtime: Runtime,
    reload: Arc<Reload>,
}

impl Home {
    /// With a catalog of one line and `others`; `prepare` gets the folder before anything is read.
    fn new(others: impl FnOnce(&Path) -> Vec<Part>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "1h", "waf");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let words = ["larder", "--config", &at("larder.yaml"), "--cache-dir", &at("cache")];
        let options = Cli::try_parse_from(words).unwrap().options;
        let loaded = config::load(&options.sources().unwrap()).unwrap();
        let read = assemble::read(&loaded).unwrap();
        let others = others(dir.path());
        let seen = ArcSwap::from_pointee(Seen::at_start(&loaded, &read.hosts, &options, &others));
        let runtime = Runtime::new().unwrap();
        let cache = dir.path().join("cache");
        let parts = assemble::assemble(&loaded.config, &cache, read, runtime.handle().clone()).unwrap();
        let reload = Reload {
            options,
            current: watch::channel(Arc::new(loaded.clone())).0,
            parts,
            server: Arc::new(ArcSwap::from_pointee(loaded.config.server)),
            sending: [Room::new(1), Room::new(1)],
            others,
            seen,
            turn: Arc::default(),
            started: loaded,
        };
        Self { dir, runtime, reload: Arc::new(reload) }
    }

    fn ask(&self) -> tokio::task::JoinHandle<Result<Reloaded, Unusable>> {
        self.runtime.spawn(self.reload.asked(self.runtime.handle().clone())())
    }

    fn asked(&self) -> Result<Reloaded, Unusable> {
        self.runtime.block_on(self.ask()).unwrap()
    }

    fn tag(&self) -> u64 {
        self.reload.current.borrow().config.lifetimes.tag.as_secs()
    }

    fn lists(&self, name: &str) -> bool {
        self.reload.parts.names.load().catalog.lists(name)
    }
}

/// Settings with that lifetime of a tag, and a catalog with that name.
fn write(dir: &Path, tag: &str, name: &str) {
    let (catalog, settings) = (dir.join("p.properties"), dir.join("larder.yaml"));
    std::fs::write(&catalog, format!("{name}=r.example/plugins/{name}:1\n")).unwrap();
    let text = format!(
        "catalog: {{builtin: false, template: null, files: ['{}']}}\noverlay: {{dirs: []}}\n\
         registry: {{certs: []}}\nlifetimes: {{tag: {tag}}}\n",
        catalog.display()
    );
    std::fs::write(settings, text).unwrap();
}

fn part(read: impl Fn(&Loaded) -> Result<Apply, Vec<Fault>> + Send + Sync + 'static) -> Part {
    Part { files: |_| Vec::new(), read: Box::new(read) }
}

#[test]
fn the_second_who_asks_while_settings_are_read_is_told_so_and_the_first_gets_its_answer() {
    let (begun, reading) = mpsc::channel();
    let (go_on, gate) = mpsc::channel();
    let gate = std::sync::Mutex::new(gate);
    let home = Home::new(|_| {
        vec![part(move |_| {
            begun.send(()).unwrap();
            gate.lock().unwrap().recv_timeout(Duration::from_secs(20)).unwrap();
            Ok(Box::new(|_| {}))
        })]
    });
    write(home.dir.path(), "2h", "waf");
    let first = home.ask();
    reading.recv().unwrap();
    assert_eq!(home.asked(), Err(Unusable { busy: true, faults: Vec::new() }));
    go_on.send(()).unwrap();
    let first = home.runtime.block_on(first).unwrap().unwrap();
    assert_eq!(first.changed[0], "lifetimes.tag");
    assert_eq!(home.tag(), 7200);
    go_on.send(()).unwrap();
    assert!(home.asked().unwrap().changed.is_empty(), "and then nothing has changed");
}

#[test]
fn what_another_part_finds_wrong_leaves_everything_as_it_was() {
    let used = Arc::<AtomicUsize>::default();
    let counted = used.clone();
    let home = Home::new(|dir| {
        let file = dir.join("token");
        std::fs::write(&file, "good").unwrap();
        let read = move |_: &Loaded| {
            let text = std::fs::read_to_string(&file).unwrap();
            if text != "good" {
                return Err(vec![Fault { place: "token".into(), problem: format!("is {text}") }]);
            }
            let used = counted.clone();
            Ok(Box::new(move |_: &_| {
                used.fetch_add(1, Ordering::SeqCst);
            }) as Apply)
        };
        vec![Part { files: |config| vec![config.catalog.files[0].with_file_name("token")], ..part(read) }]
    });
    let token = home.dir.path().join("token");
    write(home.dir.path(), "2h", "ai-proxy");
    std::fs::write(&token, "bad").unwrap();
    let refused = home.asked().unwrap_err();
    assert_eq!((refused.busy, refused.faults), (false, vec!["token: is bad".to_owned()]));
    assert_eq!((home.tag(), home.lists("waf"), home.lists("ai-proxy")), (3600, true, false));
    assert_eq!(used.load(Ordering::SeqCst), 0);
    let settings = &home.reload.parts.administration.settings;
    assert_eq!(settings.load().refused.as_deref(), Some("token: is bad"));
    std::fs::write(&token, "good").unwrap();
    let reloaded = home.asked().unwrap();
    let file = |name: &str| home.dir.path().join(name).display().to_string();
    // That of the catalog changed before what was refused, and is in use only now.
    assert_eq!(reloaded.changed, ["lifetimes.tag", &file("p.properties"), &file("token")]);
    assert_eq!((home.tag(), home.lists("waf"), home.lists("ai-proxy")), (7200, false, true));
    assert_eq!(used.load(Ordering::SeqCst), 1);
    assert_eq!(settings.load().refused, None);
}

#[test]
fn what_changes_while_it_is_read_is_read_again_so_that_what_belongs_together_is_used_together() {
    let reads = Arc::<AtomicUsize>::default();
    let counted = reads.clone();
    let home = Home::new(|dir| {
        let dir = dir.to_owned();
        vec![part(move |_| {
            // Behind the settings and the catalog: what was read is not what lies there now.
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                write(&dir, "3h", "third");
            }
            Ok(Box::new(|_| {}))
        })]
    });
    write(home.dir.path(), "2h", "second");
    let reloaded = home.asked().unwrap();
    assert_eq!((home.tag(), home.lists("second"), home.lists("third")), (10_800, false, true));
    assert_eq!(reads.load(Ordering::SeqCst), 2);
    assert!(reloaded.changed.contains(&"lifetimes.tag".to_owned()), "{reloaded:?}");
    assert!(home.asked().unwrap().changed.is_empty());
}

#[test]
fn files_that_never_stay_the_same_are_told_and_nothing_of_them_is_used() {
    let turns = AtomicUsize::new(2);
    let home = Home::new(|dir| {
        let dir = dir.to_owned();
        vec![part(move |_| {
            write(&dir, &format!("{}h", turns.fetch_add(1, Ordering::SeqCst)), "other");
            Ok(Box::new(|_| {}))
        })]
    });
    let refused = home.asked().unwrap_err();
    assert_eq!(refused.faults, ["files change while they are read"]);
    assert_eq!((home.tag(), home.lists("waf")), (3600, true));
}
