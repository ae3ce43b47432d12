//! The store and the whole cache against models of a few lines: whatever happens in whatever order, right bytes or none,
//! and what must be there is there.

use crate::support::artifact::{module, raw};
use crate::support::faults::is_long;
use crate::support::heart::{Heart, Setup, files};
use larder::artifact::extract::Sink;
use larder::clock::{ManualClock, Timestamp};
use larder::oci::{Digest, Reference};
use larder::record::{Module, Present, Record, State};
use larder::store::disk::{Disk, Keep};
use larder::store::{Body, Room, fsck};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Names in play: few, so that things meet.
const NAMES: u8 = 5;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Get(u8),
    /// The process is killed, a draft half written, and another one starts.
    Crash,
    Corrupt(u8),
    Truncate(u8),
    Remove(u8),
    /// No draft can be made any more.
    Break,
    Mend,
    /// What is done every few seconds.
    Settle,
    Scrub,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..NAMES, 0..3u8).prop_map(|(name, content)| Step::Put(name, content)),
        5 => (0..NAMES).prop_map(Step::Get),
        2 => Just(Step::Crash),
        1 => (0..NAMES).prop_map(Step::Corrupt),
        1 => (0..NAMES).prop_map(Step::Truncate),
        1 => (0..NAMES).prop_map(Step::Remove),
        1 => Just(Step::Break),
        2 => Just(Step::Mend),
        2 => Just(Step::Settle),
        1 => Just(Step::Scrub),
    ];
    prop::collection::vec(step, 1..40)
}

/// So many cases in the short form; in the long one a hundred thousand.
fn run<T: std::fmt::Debug>(short: u32, long: u32, strategy: impl Strategy<Value = T>, test: impl Fn(T)) {
    let cases = if is_long() { long } else { short };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let ran = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    ran.unwrap_or_else(|e| panic!("{e}"));
}

fn content(name: u8, content: u8) -> Vec<u8> {
    module(&format!("{name} {content}"), 600 + usize::from(name) * 50)
}

/// Puts a file in the place of the folder for drafts: none can be made, whoever runs the test.
fn break_drafts(tmp: &Path) {
    // After it was mended it is made again when it is needed.
    let _ = std::fs::remove_dir_all(tmp);
    std::fs::write(tmp, "").unwrap();
}

fn reference(name: u8) -> Reference {
    format!("h.example/p/n{name}:1").parse().unwrap()
}

/// The directory under test, and what the model says of it.
struct Directory {
    dir: tempfile::TempDir,
    limit: u64,
    clock: Arc<ManualClock>,
    disk: Option<Arc<Disk>>,
    is_broken: bool,
    /// It was broken since it was last settled.
    is_doubted: bool,
    /// What each name leads to, if it must.
    must: HashMap<u8, Vec<u8>>,
    /// Those whose newest content is on disk for certain.
    lasting: HashMap<u8, Vec<u8>>,
    /// All that was ever put under a name.
    ever: HashMap<u8, HashSet<Vec<u8>>>,
}

impl Directory {
    fn new(limit: u64) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        let dir = tempfile::tempdir().unwrap();
        let (must, lasting, ever) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut directory =
            Self { dir, limit, clock, disk: None, is_broken: false, is_doubted: false, must, lasting, ever };
        directory.open();
        directory
    }

    fn open(&mut self) {
        let room = Room::new(8 << 20);
        let disk = Disk::open(
            self.dir.path(),
            Keep { limit: self.limit, retry: Duration::from_secs(5) },
            room,
            self.clock.clone(),
            Arc::default(),
        );
        self.disk = Some(Arc::new(disk.unwrap()));
    }

    fn disk(&self) -> &Arc<Disk> {
        self.disk.as_ref().unwrap()
    }

    fn tmp(&self) -> PathBuf {
        self.dir.path().join("v1/tmp")
    }

    fn put(&mut self, name: u8, bytes: Vec<u8>) {
        let mut draft = self.disk().draft(bytes.len() as u64).unwrap();
        draft.write(&bytes).unwrap();
        let sealed = draft.seal().unwrap();
        let module = sealed.module.clone();
        self.disk().admit(sealed).unwrap();
        let digest = module.digest;
        let layer_media_type = "application/wasm".into();
        let since = Timestamp::from_millis(0);
        let present = Present {
            manifest: digest,
            layer: digest,
            layer_media_type,
            module,
            since,
            first: None,
            signatures: None,
        };
        let state = State::Present(present);
        // Known, if not written.
        let _ = self.disk().put_record(Record { reference: reference(name), checked_at: since, state });
        self.ever.entry(name).or_default().insert(bytes.clone());
        // While the disk may still be left alone, either may be found after a crash.
        match self.is_doubted {
            true => self.lasting.remove(&name),
            false => self.lasting.insert(name, bytes.clone()),
        };
        self.must.insert(name, bytes);
    }

    /// What a name leads to; the record, and the bytes if they are there.
    fn get(&self, name: u8) -> Option<Vec<u8>> {
        let record = self.disk().record(&reference(name))?;
        let module: &Module = &record.present()?.module;
        let bytes = match self.disk().body(module).unwrap()? {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File(file) => file.read().ok()?,
        };
        assert_eq!(Digest::of(&bytes), module.digest, "wrong bytes");
        assert!(self.ever[&name].contains(&bytes), "another's bytes");
        Some(bytes)
    }

    /// The file of a name's module, if it has one.
    fn file(&self, name: u8) -> Option<PathBuf> {
        let record = self.disk().record(&reference(name))?;
        let hex = record.present()?.module.digest.hex();
        let path = self.dir.path().join("v1/modules/sha256").join(&hex[..2]).join(&hex);
        path.is_file().then_some(path)
    }

    fn damage(&mut self, name: u8, damage: impl FnOnce(&Path)) {
        if let Some(path) = self.file(name) {
            damage(&path);
            self.must.remove(&name);
            self.lasting.remove(&name);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(name, which) => self.put(name, content(name, which)),
            Step::Get(name) => {
                let got = self.get(name);
                if let Some(must) = self.must.get(&name) {
                    let (got, must) = (got.map(|got| Digest::of(&got)), Digest::of(must));
                    assert_eq!(got, Some(must), "{name} must be there");
                }
            }
            Step::Crash => {
                if let Ok(mut draft) = self.disk().draft(100) {
                    draft.write(b"half").unwrap();
                    // Its file is not removed by a process that is killed.
                    std::fs::write(self.tmp().join("half"), b"half").ok();
                }
                self.disk = None;
                self.open();
                self.must = self.lasting.clone();
                if !self.is_broken {
                    assert!(files(&self.tmp()).is_empty(), "drafts stay");
                }
            }
            Step::Corrupt(name) => self.damage(name, |path| {
                let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(b"\xff\xfe\xfd", 300).unwrap();
            }),
            Step::Truncate(name) => self.damage(name, |path| {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap();
            }),
            Step::Remove(name) => self.damage(name, |path| std::fs::remove_file(path).unwrap()),
            Step::Break if !self.is_broken => {
                break_drafts(&self.tmp());
                (self.is_broken, self.is_doubted) = (true, true);
            }
            Step::Mend if self.is_broken => {
                std::fs::remove_file(self.tmp()).unwrap();
                self.is_broken = false;
            }
            Step::Break | Step::Mend => {}
            Step::Settle => {
                self.clock.advance(Duration::from_secs(5));
                self.disk().settle();
                if !self.is_broken {
                    self.lasting = self.must.clone();
                    self.is_doubted = false;
                }
            }
            Step::Scrub => {
                self.clock.advance(Duration::from_secs(60));
                self.disk().scrub(Duration::from_secs(5));
            }
        }
        let (_, bytes) = self.disk().usage();
        let largest = content(NAMES, 0).len() as u64;
        assert!(bytes <= self.limit.max(largest), "{bytes} bytes are held");
    }

    /// What is on disk in the end, seen from outside. What the model knows to be damaged may be.
    fn check(self, is_whole: bool) {
        drop(self.disk);
        let report = fsck::check(self.dir.path(), false, &[]).unwrap();
        let serious = report.problems.iter().filter(|problem| {
            let is_tmp = problem.path.starts_with(self.dir.path().join("v1/tmp"));
            !(is_tmp || problem.path.ends_with("v1/tmp")) && (is_whole || problem.invariant == "I3")
        });
        assert_eq!(serious.collect::<Vec<_>>().len(), 0, "{:?}", report.problems);
    }
}

#[test]
fn a_directory_gives_right_bytes_or_none_and_all_that_it_must_whatever_happens_to_it() {
    run(300, 100_000, steps(), |steps| {
        let mut directory = Directory::new(1 << 20);
        let is_whole =
            !steps.iter().any(|s| matches!(s, Step::Corrupt(_) | Step::Truncate(_) | Step::Remove(_)));
        for step in steps {
            directory.take(step);
        }
        directory.check(is_whole);
    });
}

#[test]
fn a_directory_that_is_too_small_gives_right_bytes_or_none_and_keeps_to_its_limit() {
    run(100, 20_000, steps(), |steps| {
        let mut directory = Directory::new(1800);
        for step in steps {
            directory.take(step);
            // Anything may have been evicted.
            directory.must.clear();
            directory.lasting.clear();
        }
    });
}

#[derive(Debug, Clone)]
enum Event {
    /// New content under a tag.
    Push(u8, u8),
    Delete(u8),
    Ask(u8),
    Wait(u16),
    Down,
    Up,
    Restart,
    Corrupt,
    BreakDisk,
    MendDisk,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..3u8, 0..4u8).prop_map(|(name, content)| Event::Push(name, content)),
        1 => (0..3u8).prop_map(Event::Delete),
        8 => (0..3u8).prop_map(Event::Ask),
        3 => (1..700u16).prop_map(Event::Wait),
        1 => Just(Event::Down),
        2 => Just(Event::Up),
        1 => Just(Event::Restart),
        1 => Just(Event::Corrupt),
        1 => Just(Event::BreakDisk),
        1 => Just(Event::MendDisk),
    ];
    prop::collection::vec(event, 1..25)
}

/// The cache and what the model knows.
struct Played {
    heart: Heart,
    is_down: bool,
    is_broken: bool,
    pushed: HashMap<u8, HashSet<Vec<u8>>>,
    /// What the registry has.
    there: HashMap<u8, Vec<u8>>,
    /// What was served once and must be served again.
    served: HashSet<u8>,
}

impl Played {
    async fn take(mut self, event: Event) -> Self {
        match event {
            Event::Push(name, which) => {
                let bytes = content(name, which);
                self.heart.registry.put(&format!("plugins/n{name}"), "1", &raw(&bytes));
                self.pushed.entry(name).or_default().insert(bytes.clone());
                self.there.insert(name, bytes);
            }
            Event::Delete(name) => {
                self.heart.registry.remove(&format!("/v2/plugins/n{name}/manifests/1"));
                self.there.remove(&name);
            }
            Event::Ask(name) => self.ask(name).await,
            Event::Wait(seconds) => {
                self.heart.clock.advance(Duration::from_secs(seconds.into()));
                self.heart.cache.maintain().await;
                self.heart.settle().await;
            }
            Event::Down => {
                self.heart.registry.down();
                self.is_down = true;
            }
            Event::Up => {
                self.heart.registry.heal();
                self.is_down = false;
            }
            Event::Restart => {
                self.heart.settle().await;
                if self.is_broken {
                    // What was in memory alone is gone.
                    self.served.clear();
                }
                self.heart = self.heart.restart().await;
            }
            Event::Corrupt => {
                self.heart.settle().await;
                for path in self.heart.files("modules") {
                    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.write_all_at(b"\xff\xfe\xfd", 300).unwrap();
                }
                self.served.clear();
            }
            Event::BreakDisk if !self.is_broken => {
                self.heart.settle().await;
                break_drafts(&self.heart.path().join("v1/tmp"));
                self.is_broken = true;
            }
            Event::MendDisk if self.is_broken => {
                std::fs::remove_file(self.heart.path().join("v1/tmp")).unwrap();
                self.is_broken = false;
                self.heart.clock.advance(Duration::from_secs(5));
                self.heart.cache.maintain().await;
                self.heart.settle().await;
            }
            Event::BreakDisk | Event::MendDisk => {}
        }
        self
    }

    async fn ask(&mut self, name: u8) {
        match self.heart.get(&format!("n{name}"), "1").await {
            // That they are those of their digest is asserted by `get`.
            Ok(served) => {
                let bytes = crate::support::heart::bytes(&served);
                assert!(self.pushed[&name].contains(&bytes), "bytes that were never pushed under this name");
                self.served.insert(name);
            }
            Err(error) => {
                assert!(!self.served.contains(&name), "served once and now {}: {error}", error.code);
                // A failure of a moment ago is remembered for a moment.
                let was_absent = matches!(error.code, "not_found" | "connect" | "upstream" | "breaker_open");
                let may_fail = self.is_down || !self.there.contains_key(&name) || was_absent;
                assert!(may_fail, "there and not served: {}: {error}", error.code);
            }
        }
        self.heart.settle().await;
    }
}

#[test]
fn once_served_always_served_and_only_what_was_pushed_whatever_registry_and_disk_do() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    run(40, 4_000, events(), |events| {
        runtime.block_on(async {
            let heart = Heart::with(|_| Setup { memory: 0, ..Setup::default() });
            let (pushed, there, served) = (HashMap::new(), HashMap::new(), HashSet::new());
            let mut played = Played { heart, is_down: false, is_broken: false, pushed, there, served };
            for event in events {
                played = played.take(event).await;
            }
            // In the end everything is well, and the newest is served.
            for event in [Event::MendDisk, Event::Up, Event::Wait(600)] {
                played = played.take(event).await;
            }
            let there: Vec<_> = played.there.clone().into_iter().collect();
            for (name, newest) in there {
                for event in [Event::Ask(name), Event::Wait(600), Event::Ask(name)] {
                    played = played.take(event).await;
                }
                let (bytes, _) = played.heart.ok(&format!("n{name}"), "1").await;
                assert_eq!(Digest::of(&bytes), Digest::of(&newest), "the newest is served in the end");
            }
        });
    });
}
