//! Debian's `prometheus` and `promtool`.

use super::client;
use super::eventually;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Time between two scrapes and between two looks at the rules.
const SCRAPING: &str = "200ms";

/// A Prometheus that scrapes. Ended when dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

/// One value of an answer, with its labels.
pub type Sample = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// Scrapes `targets` as the job `larder`, and goes by `rules`.
    pub fn start(targets: &[SocketAddr], rules: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
        let settings = serde_json::json!({
            "global": {"scrape_interval": SCRAPING, "scrape_timeout": SCRAPING, "evaluation_interval": SCRAPING},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "larder", "static_configs": [{"targets": targets}], "scrape_timeout": SCRAPING}],
        });
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, settings.to_string()).unwrap();
        Self::run(&file, dir)
    }

    /// Does what a file says.
    pub fn reading(file: &Path) -> Self {
        Self::run(file, tempfile::tempdir().unwrap())
    }

    /// Goes by `file`, and keeps what it has in `dir`.
    fn run(file: &Path, dir: TempDir) -> Self {
        let log = dir.path().join("log");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("prometheus is installed");
        let address = eventually("the start of Prometheus", || {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Ok(Some(status)) = child.try_wait() {
                panic!("Prometheus ended at its start: {status}\n{text}");
            }
            let line = text.lines().find(|line| line.contains("msg=\"Listening on\""))?;
            line.rsplit("address=").next()?.trim().parse().ok()
        });
        let prometheus = Self { child, address, _dir: dir };
        eventually("a Prometheus that is ready", || (prometheus.get("/-/ready").0 == 200).then_some(()));
        prometheus
    }

    /// Status and body. In HTTP/1.0, whose bodies are never in chunks.
    fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let ask = format!("GET {path} HTTP/1.0\r\nHost: prometheus.test\r\n\r\n");
        let reply = client::raw(self.address, ask.as_bytes()).unwrap();
        (reply.status, reply.body)
    }

    fn api(&self, path: &str) -> Value {
        let (status, body) = self.get(&format!("/api/v1/{path}"));
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, answer["status"].as_str()), (200, Some("success")), "{path}: {answer}");
        answer["data"].clone()
    }

    /// What an expression is now.
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let data = self.api(&format!("query?query={query}"));
        let samples = data["result"].as_array().unwrap().iter().map(|sample| {
            let labels = serde_json::from_value(sample["metric"].clone()).unwrap();
            (labels, sample["value"][1].as_str().unwrap().parse().unwrap())
        });
        samples.collect()
    }

    /// The one value that an expression is now; 0 when it is none.
    pub fn value(&self, expression: &str) -> f64 {
        self.query(expression).first().map_or(0.0, |(_, value)| *value)
    }

    /// What it makes of its rules: for each its name, and what is wrong with it.
    pub fn rules(&self) -> Vec<(String, String)> {
        let data = self.api("rules");
        let groups = data["groups"].as_array().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        rules.map(|rule| (text(&rule["name"]), text(&rule["health"]) + &text(&rule["lastError"]))).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the files for Prometheus are.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

/// Runs promtool there; fails with what it says unless it is content.
pub fn promtool(words: &[&str], input: &[u8]) {
    let mut child = Command::new("promtool")
        .args(words)
        .current_dir(deploy())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {words:?}: {said}");
}
