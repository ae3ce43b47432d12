//! A cache with plugins in it, to be copied and broken: `a`, `b` and `c` were acknowledged in this order and fill it, so
//! that whatever is fetched next evicts `a`.

use super::artifact::{module, raw};
use super::fsck;
use super::larder::{Home, Larder, settings};
use super::scripted::Scripted;
use larder::oci::Digest;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const HELD: [&str; 3] = ["a", "b", "c"];
/// In the registry and not in the cache.
pub const NEW: &str = "d";
const SIZE: usize = 300_000;

/// See the module's text.
pub struct Kept {
    pub registry: Scripted,
    settings: String,
    home: Home,
    /// What may come under each name.
    right: HashMap<String, Vec<Vec<u8>>>,
}

impl Kept {
    /// With a lifetime of tags.
    pub fn new(tag: &str) -> Self {
        let registry = Scripted::start();
        // No memory, so that every answer is read from the disk; no folders of local plugins, which are looked at.
        let more = "cache: {disk: 1MiB, memory: 64KiB}\nlimits: {module: 1MiB}\noverlay: {dirs: []}\n";
        let lifetimes = format!("lifetimes: {{tag: {tag}, transient: 0s, absent: 0s, unusable: 0s}}\n");
        let settings = settings(&registry.host()) + more + &lifetimes;
        let mut kept = Self { registry, home: Home::in_memory(&settings), settings, right: HashMap::new() };
        for name in HELD.into_iter().chain([NEW]) {
            kept.put(name, bytes(name));
        }
        for name in HELD {
            let status = get(&kept.home, &[], name).wait().unwrap();
            assert!(status.success(), "{name} is fetched");
        }
        kept
    }

    /// From now on the registry has `bytes` under `name`. What it had is still right, for it may be held.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.registry.put(&format!("plugins/{name}"), "1", &raw(&bytes));
        self.right.entry(name.into()).or_default().push(bytes);
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/plugins/{name}:1", self.registry.host())
    }

    /// A folder with nothing in it.
    pub fn empty(&self) -> Home {
        Home::in_memory(&self.settings)
    }

    /// A folder with a copy of the cache.
    pub fn copy(&self) -> Home {
        let home = self.empty();
        copy(&self.home.cache(), &home.cache());
        home
    }

    /// What must be true of a directory when larder ended in the middle of something: it has no fault, it holds `held`,
    /// and a start makes of it a cache that serves that without the registry, and anything else with it.
    pub fn check(&self, home: Home, held: &[&str], when: &str) {
        fsck::check(&home.cache(), when);
        let found = fsck::held(&home.cache());
        for name in held {
            let digest = found.get(&self.reference(name));
            assert!(digest.is_some_and(|d| self.is_right(name, d)), "{when}: {name} is lost: {digest:?}");
        }
        let larder = home.start();
        let is_empty = |folder: &str| {
            std::fs::read_dir(larder.home.cache().join("v1").join(folder)).unwrap().next().is_none()
        };
        assert!(is_empty("tmp"), "{when}: drafts are removed at the start");
        assert!(is_empty("quarantine"), "{when}: nothing was damaged");
        self.registry.down();
        for name in held {
            self.check_answer(&larder, name, when);
        }
        self.registry.heal();
        for name in HELD.into_iter().chain([NEW]) {
            self.check_answer(&larder, name, when);
        }
    }

    fn check_answer(&self, larder: &Larder, name: &str, when: &str) {
        let reply = larder.get(&path(name));
        assert_eq!(reply.status, 200, "{when}: {name}: {}", reply.text());
        assert!(self.is_right(name, &Digest::of(&reply.body)), "{when}: {name} has other bytes");
    }

    /// What the registry has now.
    pub fn newest(&self, name: &str) -> &[u8] {
        self.right[name].last().unwrap()
    }

    /// Whether these may be the bytes of a plugin.
    pub fn is_right(&self, name: &str, digest: &Digest) -> bool {
        self.right[name].iter().any(|bytes| Digest::of(bytes) == *digest)
    }
}

/// The right bytes of a plugin.
pub fn bytes(name: &str) -> Vec<u8> {
    module(name, SIZE)
}

pub fn path(name: &str) -> String {
    format!("/plugins/{name}/1/plugin.wasm")
}

/// `larder get`, run by `tool`. The plugin goes to its standard output.
pub fn get(home: &Home, tool: &[&str], name: &str) -> Child {
    let mut command = home.command(tool);
    command.args(["get", name, "1", "-o", "-"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Copies a folder with the times of its files, by which an eviction chooses.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success(), "{} is copied", from.display());
}
