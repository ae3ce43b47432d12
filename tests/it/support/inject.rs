//! Faults in a running program's system calls, by strace.

use super::eventually;
use std::process::{Child, Command, Stdio};

/// Faults that last until it is dropped.
pub struct Injected {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Injected {
    /// From now on `calls` (such as `fsync`, or `/rename.*`) of process `id` suffer `fault` (such as `error=EIO:when=1`).
    pub fn into(id: u32, calls: &str, fault: &str) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new("strace")
            .args(["-f", "-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{fault}")])
            .args(["-p", &id.to_string()])
            .stdin(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .expect("strace is installed");
        let injected = Self { child, log };
        eventually("strace's hold of the program", || injected.text().contains(" attached").then_some(()));
        injected
    }

    /// The calls so far, as strace tells them.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // It lets go of the program when it is asked to end, and not when it is killed.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
