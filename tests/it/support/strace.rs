//! strace: what a process asks of the kernel, and what the kernel answers instead.

use super::eventually;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A system call that returned, or at which the process ended.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: String,
    /// With the paths of descriptors, as strace writes them.
    pub arguments: String,
    /// `0`, `-1 EIO (Input/output error) (INJECTED)`; `?` where the process ended.
    pub result: String,
}

impl Call {
    /// The paths below `root` that it is about, relative to it.
    pub fn paths(&self, root: &Path) -> Vec<String> {
        let root = format!("{}/", root.display());
        let below = self.arguments.split(&root).skip(1);
        below.map(|rest| rest.split(['"', '>']).next().unwrap().to_owned()).collect()
    }

    /// What it does to what below `root`. A draft's name, which is another in every run, is left out.
    pub fn label(&self, root: &Path) -> Option<String> {
        let path = self.paths(root).pop()?;
        let path = if path.starts_with("v1/tmp/") { "v1/tmp/*".into() } else { path };
        Some(format!("{} {path}", self.name))
    }

    pub fn failed(&self) -> bool {
        self.result.starts_with('-')
    }

    pub fn is_injected(&self) -> bool {
        self.result.ends_with("(INJECTED)")
    }
}

/// strace at work on a process that runs. Ended when dropped, and the process goes on.
pub struct Strace {
    child: Child,
    dir: TempDir,
}

impl Strace {
    /// Follows all threads of a process.
    pub fn process(process: u32, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let told = dir.path().join("told");
        let mut command = Command::new("strace");
        let file = dir.path().join("calls");
        command.args(["-f", "-y", "-p", &process.to_string(), "-o"]).arg(file).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child =
            command.stderr(std::fs::File::create(&told).unwrap()).spawn().expect("strace is installed");
        eventually("strace's attachment", || {
            let text = std::fs::read_to_string(&told).unwrap();
            assert!(child.try_wait().unwrap().is_none() || text.contains("attached"), "strace: {text}");
            text.contains("attached").then_some(())
        });
        Self { child, dir }
    }

    /// What was begun so far of what is about something below `root`, in order. A call is here before the kernel has
    /// done it as long as it is delayed.
    pub fn begun(&self, root: &Path) -> Vec<String> {
        let text = String::from_utf8_lossy(&std::fs::read(self.file()).unwrap()).into_owned();
        let begun = text.lines().filter(|line| !line.contains(" resumed>"));
        begun.filter_map(|line| call(&format!("{} = ", unnumbered(line).1))?.label(root)).collect()
    }

    /// Waits until `number` calls were begun on what lies below `root`, or `is_over`. Looked at more often than other
    /// things: the process is to be met within the call.
    pub fn await_begun(&self, root: &Path, number: usize, mut is_over: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.begun(root).len() < number && !is_over() {
            assert!(Instant::now() < until, "the process did not end, having begun {:#?}", self.begun(root));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("calls")
    }

    /// Lets go of the process, if it is there still, and tells what it did.
    pub fn end(mut self) -> Vec<Call> {
        self.let_go();
        calls(&self.file())
    }

    fn let_go(&mut self) {
        // At SIGTERM it detaches; killed, it might leave a thread stopped.
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        eventually("strace's end", || self.child.try_wait().unwrap());
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.let_go();
        }
    }
}

/// What strace wrote to a file, in the order in which calls returned.
pub fn calls(file: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    let (mut calls, mut begun) = (Vec::new(), HashMap::<u32, String>::new());
    for line in text.lines() {
        let (thread, rest) = unnumbered(line);
        let whole = if let Some(beginning) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning.into());
            continue;
        } else if let Some((_, end)) =
            rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"))
        {
            begun.remove(&thread).unwrap_or_default() + end
        } else {
            rest.to_owned()
        };
        calls.extend(call(&whole));
    }
    // The process ended before they returned.
    calls.extend(begun.into_values().filter_map(|text| call(&(text + ") = ?"))));
    calls
}

/// A line without the number of its thread, which is left out where only one is followed.
fn unnumbered(line: &str) -> (u32, &str) {
    let (thread, rest) = line.split_once(' ').unwrap_or_default();
    thread.parse().map_or((0, line), |thread| (thread, rest.trim_start()))
}

fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().trim_end_matches(')').to_owned();
    Some(Call { name: name.to_owned(), arguments, result: result.to_owned() })
}
