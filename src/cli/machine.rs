//! What the settings ask of this machine and it may not have: more memory than it gives us, a larger disk, a lasting one.
//!
//! Only warnings: a machine may change, and larder serves as well as it can.

use super::assemble;
use crate::config::{Fault, Loaded};
use bytesize::ByteSize;
use std::fs;
use std::path::{Path, PathBuf};

/// What larder needs beside its budgets, measured with some room: code, connections, the runtime.
const BESIDE_BUDGETS: ByteSize = ByteSize::mib(40);
/// A limit above this is none.
const NO_LIMIT: u64 = 1 << 50;

/// File systems on which a cache is not what it should be, by the magic number of statfs(2), and why.
const DOUBTFUL: [(i64, &str); 6] = [
    (
        0x0102_1994,
        "tmpfs: what is kept counts as memory, and is gone when the machine or the container restarts",
    ),
    (
        0x794c_7630,
        "a container's own layer (overlayfs): what is kept is gone with the container; mount a volume there",
    ),
    (0x6969, "a network file system (NFS): locks, and what is synced, may not hold there"),
    (0xff53_4d42, "a network file system (CIFS): locks, and what is synced, may not hold there"),
    (0xfe53_4d42, "a network file system (SMB): locks, and what is synced, may not hold there"),
    (0x6573_5546, "a FUSE file system: locks, and what is synced, may not hold there"),
];

/// What is doubtful, each with the setting that it is about.
pub fn doubts(loaded: &Loaded) -> Vec<Fault> {
    let config = &loaded.config;
    let mut doubts = Vec::new();
    let mut doubt = |key: &str, text: String| {
        doubts.push(Fault { place: loaded.place(key), problem: format!("{key}: {text}") });
    };
    let budgets = [config.cache.memory, config.fill.memory, config.server.send_memory];
    let needed = budgets.iter().map(ByteSize::as_u64).sum::<u64>() + BESIDE_BUDGETS.as_u64();
    if let Some(limit) = memory_limit().filter(|limit| needed > *limit) {
        let text = format!(
            "cache.memory, fill.memory and server.send_memory, with {} for everything else, are {}; this process may have {}: \
             lower them, or raise the container's limit",
            BESIDE_BUDGETS.display().iec(),
            ByteSize(needed).display().iec(),
            ByteSize(limit).display().iec()
        );
        doubt("cache.memory", text);
    }
    let dir = assemble::cache_dir(config);
    let there = existing(&dir);
    if let Ok(found) = rustix::fs::statfs(&there) {
        let all = found.f_blocks * u64::try_from(found.f_bsize).unwrap_or(0);
        if all > 0 && config.cache.disk.as_u64() > all {
            let (wanted, all) = (config.cache.disk.display().iec(), ByteSize(all).display().iec());
            doubt(
                "cache.disk",
                format!("is {wanted}; the file system of {} has {all} in all", dir.display()),
            );
        }
        if let Some((_, why)) = DOUBTFUL.iter().find(|(magic, _)| *magic == found.f_type) {
            doubt("cache.dir", format!("{} is on {why}", dir.display()));
        }
    }
    doubts
}

/// The folder itself, or the nearest one above it that is there.
fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|dir| dir.is_dir());
    found.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

/// The memory that this process may have by its control groups, in bytes: the least limit from its own up to the root.
fn memory_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut limits = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path may be the host's, and what is mounted the container's own.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(Path::new(root).join(group).join(file)).ok();
            limits.extend(text.and_then(|text| text.trim().parse::<u64>().ok()));
        }
    }
    limits.into_iter().min().filter(|limit| *limit < NO_LIMIT)
}
