//! Limits of memory and of processors that the kernel enforces, for one program.

use std::path::{Path, PathBuf};

const MOUNTED: &str = "/sys/fs/cgroup";

/// A control group. Removed when dropped, by when the program in it has ended.
pub struct Cgroup {
    /// One, or one a controller where each has a hierarchy of its own; the first counts memory.
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// For at most `bytes` of memory, swap included.
    pub fn of(name: &str, bytes: u64) -> Self {
        Self::with_processors(name, bytes, None)
    }

    /// The same, for at most so many processors, such as 0.5.
    pub fn with_processors(name: &str, bytes: u64, processors: Option<f64>) -> Self {
        let own = |root: PathBuf| {
            let dir = root.join(format!("larder-test-{name}-{}", std::process::id()));
            std::fs::create_dir(&dir).expect("a control group can be made, which needs root");
            dir
        };
        let (root, limits) = match old("memory") {
            Some(old) => (old, &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"][..]),
            None => (PathBuf::from(MOUNTED), &["memory.max"][..]),
        };
        let mut cgroup = Self { dirs: vec![own(root)] };
        for limit in limits {
            // Swap is not counted everywhere.
            let written = std::fs::write(cgroup.dirs[0].join(limit), bytes.to_string());
            assert!(limit.contains("memsw") || written.is_ok(), "{limit}: {written:?}");
        }
        if let Some(quota) = processors.map(|number| (number * 100_000.0) as u64) {
            let (file, value) = match old("cpu") {
                Some(old) => {
                    cgroup.dirs.push(own(old));
                    ("cpu.cfs_quota_us", quota.to_string())
                }
                None => ("cpu.max", format!("{quota} 100000")),
            };
            std::fs::write(cgroup.dirs.last().unwrap().join(file), value).unwrap();
        }
        cgroup
    }

    /// What to start a program with, so that it is in here.
    pub fn starter(&self) -> Vec<String> {
        let enter = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@""#;
        let mut words = ["sh", "-c", enter, "sh"].map(Into::into).to_vec();
        words.extend(self.dirs.iter().map(|dir| dir.to_str().unwrap().to_owned()));
        words.push("--".into());
        words
    }

    /// The files of its memory, and where a container finds its own.
    pub fn memory(&self) -> (&Path, &'static str) {
        (&self.dirs[0], if old("memory").is_some() { "/sys/fs/cgroup/memory" } else { MOUNTED })
    }

    /// Processes that were killed for want of memory.
    pub fn kills(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"].map(|name| self.dirs[0].join(name));
        let text = files.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap();
        let line =
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("the kernel counts kills");
        line.parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes may take a moment to be gone.
        for _ in 0..100 {
            self.dirs.retain(|dir| std::fs::remove_dir(dir).is_err());
            if self.dirs.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// The hierarchy of one controller, where each has one of its own.
fn old(controller: &str) -> Option<PathBuf> {
    Some(Path::new(MOUNTED).join(controller)).filter(|dir| dir.is_dir())
}
