//! The real program: started with settings, asked over HTTP, its log read.

use super::client::{self, Reply};
use super::eventually;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_larder");

/// A running larder. Killed when dropped.
pub struct Larder {
    child: Child,
    pub data: SocketAddr,
    pub admin: SocketAddr,
    log: PathBuf,
    /// The cache and the settings; kept for a restart.
    pub home: Home,
}

/// A folder with settings and a cache.
pub struct Home {
    pub dir: TempDir,
    settings: String,
    starts: usize,
    /// What the program is started by.
    starter: Vec<String>,
}

impl Home {
    /// Settings in YAML, without ports and directories.
    pub fn new(settings: &str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), settings: settings.into(), starts: 0, starter: Vec::new() }
    }

    /// The same in memory, for what need not outlast the machine: on a busy disk every sync takes its time.
    pub fn in_memory(settings: &str) -> Self {
        Self { dir: memory(), ..Self::new(settings) }
    }

    /// The same folder with other settings, such as those that name a file in it.
    pub fn with(self, settings: &str) -> Self {
        Self { settings: settings.into(), ..self }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn cache(&self) -> PathBuf {
        self.path().join("cache")
    }

    /// The same folder with other settings.
    pub fn saying(self, settings: &str) -> Self {
        Self { settings: settings.into(), ..self }
    }

    /// The same folder with more settings.
    pub fn and(self, settings: &str) -> Self {
        Self { settings: self.settings.clone() + settings, ..self }
    }

    /// Starts larder by another program, whose arguments end in it.
    pub fn under(self, starter: &[String]) -> Self {
        Self { starter: starter.to_vec(), ..self }
    }

    /// The program with these settings and this cache, run by `tool` and its arguments if there is one.
    pub fn command(&self, tool: &[&str]) -> Command {
        let settings = self.path().join("larder.yaml");
        std::fs::write(&settings, &self.settings).unwrap();
        let words = [tool, &[PROGRAM]].concat();
        let mut command = without_surroundings(words[0]);
        command.args(&words[1..]).env("HOME", self.path());
        command.arg("--config").arg(&settings).arg("--cache-dir").arg(self.cache());
        command
    }

    /// Starts larder in this folder.
    pub fn start(self) -> Larder {
        self.start_with(&[], &[])
    }

    /// Starts larder with further flags and variables.
    pub fn start_with(mut self, flags: &[&str], variables: &[(&str, &str)]) -> Larder {
        self.starts += 1;
        let log = self.path().join(format!("log.{}", self.starts));
        let starter: Vec<&str> = self.starter.iter().map(String::as_str).collect();
        let mut command = self.command(&starter);
        if !flags.contains(&"--admin-listen") {
            command.args(["--admin-listen", "127.0.0.1:0"]);
        }
        command
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(flags)
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let (data, admin) = eventually("larder's start", || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("larder ended at its start: {status}\n{}", std::fs::read_to_string(&log).unwrap());
            }
            let line = lines(&log).into_iter().find(|line| line["message"] == "listening")?;
            let address = |key: &str| line[key].as_str()?.parse().ok();
            Some((address("data")?, address("admin")?))
        });
        Larder { child, data, admin, log, home: self }
    }
}

/// A folder in memory.
pub fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// The program without anything of this machine's environment that it would read.
pub fn program() -> Command {
    without_surroundings(PROGRAM)
}

fn without_surroundings(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        let proxy = name.to_ascii_uppercase().ends_with("_PROXY");
        if proxy || name.starts_with("LARDER_") || name == "DOCKER_CONFIG" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

impl Larder {
    /// In a new folder, with the template of a registry that speaks plain http.
    pub fn before(registry: &str) -> Self {
        Home::new(&settings(registry)).start()
    }

    pub fn get(&self, path: &str) -> Reply {
        client::get(self.data, path)
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        client::request(self.data, method, path, headers)
    }

    /// The log so far, a JSON object a line.
    pub fn log(&self) -> Vec<serde_json::Value> {
        lines(&self.log)
    }

    /// The log so far, as it was written.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last line of the log that is so, once there is one: what is counted or answered may be written a little later.
    pub fn line(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        eventually(what, || self.log().into_iter().rfind(&is_so))
    }

    /// The value of a metric with its labels, as `/metrics` prints it.
    pub fn metric(&self, name: &str) -> f64 {
        let text = client::get(self.admin, "/metrics").text();
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("larder's end", || self.child.try_wait().unwrap())
    }

    /// kill -9, and the folder for a new start.
    pub fn kill(mut self) -> Home {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let empty = Home {
            dir: tempfile::tempdir().unwrap(),
            settings: String::new(),
            starts: 0,
            starter: Vec::new(),
        };
        std::mem::replace(&mut self.home, empty)
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(log: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Settings for one registry that speaks plain http, all names by template.
pub fn settings(registry: &str) -> String {
    format!(
        "catalog:\n  builtin: false\n  template: {registry}/plugins/{{name}}:{{version}}\n\
         registry:\n  plain_http: ['{registry}']\nserver:\n  drain: 0s\n"
    )
}
