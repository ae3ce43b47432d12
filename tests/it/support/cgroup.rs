//! A limit of memory that the kernel enforces, for one program.

use std::path::PathBuf;

/// A control group. Removed when dropped, by when the program in it has ended.
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// For at most `bytes` of memory, swap included.
    pub fn of(name: &str, bytes: u64) -> Self {
        let old = PathBuf::from("/sys/fs/cgroup/memory");
        let (root, limits) = match old.is_dir() {
            true => (old, &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"][..]),
            false => (PathBuf::from("/sys/fs/cgroup"), &["memory.max"][..]),
        };
        let dir = root.join(format!("larder-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a control group for memory can be made, which needs root");
        let cgroup = Self { dir };
        for limit in limits {
            // Swap is not counted everywhere.
            let written = std::fs::write(cgroup.dir.join(limit), bytes.to_string());
            assert!(limit.contains("memsw") || written.is_ok(), "{limit}: {written:?}");
        }
        cgroup
    }

    /// What to start a program with, so that it is in here.
    pub fn starter(&self) -> Vec<String> {
        let enter = r#"echo $$ >"$1/cgroup.procs"; shift; exec "$@""#;
        ["sh", "-c", enter, "sh", self.dir.to_str().unwrap()].map(Into::into).to_vec()
    }

    /// Processes that were killed for want of memory.
    pub fn kills(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"].map(|name| self.dir.join(name));
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
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
