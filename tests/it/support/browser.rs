//! A real browser, driven as a person would: Debian's Chromium, by the WebDriver protocol (W3C) of its own driver.

use super::client::{self, Reply};
use super::eventually;
use base64::Engine;
use serde_json::{Value, json};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How WebDriver names a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How long a person waits for the page, and the time between two looks.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Keys without a letter, as WebDriver writes them.
pub const ENTER: &str = "\u{e007}";
pub const ESCAPE: &str = "\u{e00c}";
pub const HOME: &str = "\u{e011}";

/// A running browser with one window. Ended with all its processes when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// Home and profile.
    _home: TempDir,
}

/// How often a driver is started that ends at once.
const STARTS: usize = 5;

/// A driver and its port; `None` when it ended at its start.
fn start_driver(home: &Path, log: &Path) -> Option<(Child, u16)> {
    let mut command = Command::new("chromedriver");
    for (name, _) in std::env::vars().filter(|(name, _)| name.to_ascii_uppercase().ends_with("_PROXY")) {
        command.env_remove(name);
    }
    // A group of its own, so that the browser's processes can be ended with it and no others.
    let mut driver = command
        .arg("--port=0")
        .env("HOME", home)
        .env("TMPDIR", home)
        .stdin(Stdio::null())
        .stdout(File::create(log).unwrap())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("chromedriver is installed (tests/needs.sh)");
    let port = eventually("chromedriver's start", || {
        if driver.try_wait().unwrap().is_some() {
            return Some(None);
        }
        let text = std::fs::read_to_string(log).ok()?;
        Some(Some(text.split("successfully on port ").nth(1)?.split('.').next()?.parse().ok()?))
    });
    port.map(|port| (driver, port))
}

impl Browser {
    /// With a window of 1280 × 900 points.
    pub fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("driver.log");
        // The port that it takes of IPv4 it takes of IPv6 too, and ends when somebody has that one.
        let started = (0..STARTS).find_map(|_| start_driver(home.path(), &log));
        let (driver, port) = started
            .unwrap_or_else(|| panic!("chromedriver ends: {}", std::fs::read_to_string(&log).unwrap()));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Self { driver, address, session: String::new(), _home: home };
        let profile = browser._home.path().join("profile");
        let profile = format!("--user-data-dir={}", profile.display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
            "--hide-scrollbars",
            "--lang=en",
            "--window-size=1280,900",
            profile.as_str(),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.post("/session", &wanted);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    pub fn goto(&self, url: &str) {
        self.command("url", &json!({"url": url}));
    }

    pub fn reload(&self) {
        self.command("refresh", &json!({}));
    }

    /// What the body of a function gives, run within the page; `arguments` are its arguments.
    pub fn script(&self, body: &str, arguments: Value) -> Value {
        self.command("execute/sync", &json!({"script": body, "args": arguments}))
    }

    /// Waits until an expression is true in the page.
    pub fn until(&self, what: &str, expression: &str) {
        let body = format!("return Boolean({expression})");
        let end = Instant::now() + PATIENCE;
        while self.script(&body, json!([])) != true {
            assert!(Instant::now() < end, "{what}: not in {PATIENCE:?}; the page:\n{}", self.text("body"));
            std::thread::sleep(PAUSE);
        }
    }

    /// The text that a person sees of the first element that a CSS selector finds; empty where there is none.
    pub fn text(&self, selector: &str) -> String {
        let body =
            "const e = document.querySelector(arguments[0]); return e?.checkVisibility() ? e.innerText : ''";
        self.script(body, json!([selector])).as_str().unwrap().to_owned()
    }

    /// Waits until a person sees `words` in what a CSS selector finds.
    pub fn sees(&self, selector: &str, words: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector);
            if text.contains(words) {
                return;
            }
            assert!(
                Instant::now() < end,
                "'{words}' is not seen in {selector}, but:\n{text}\n{:?}",
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Clicks, as a mouse does: what is covered or not seen cannot be clicked.
    pub fn click(&self, selector: &str) {
        self.act(selector, "click", &json!({}));
    }

    /// Types text into a field, key by key, or presses keys on what has a focus of its own.
    pub fn keys(&self, selector: &str, text: &str) {
        self.act(selector, "value", &json!({"text": text}));
    }

    fn act(&self, selector: &str, what: &str, body: &Value) {
        // An element may be made anew between finding and clicking it.
        let end = Instant::now() + PATIENCE;
        loop {
            let query = json!({"using": "css selector", "value": selector});
            let mut done = self.ask("POST", &format!("{}/element", self.base()), Some(&query));
            if let Some(element) = done["value"][ELEMENT].as_str() {
                let path = format!("{}/element/{element}/{what}", self.base());
                done = self.ask("POST", &path, Some(body));
            }
            let refused = &done["value"]["error"];
            if refused.is_null() {
                return;
            }
            assert!(Instant::now() < end, "{what} on {selector}: {}", done["value"]["message"]);
            std::thread::sleep(PAUSE);
        }
    }

    /// A command of the browser's developer tools.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// What the console says since it was last asked: errors and violations of the page's policy among it.
    pub fn log(&self) -> Vec<String> {
        let lines = self.command("se/log", &json!({"type": "browser"}));
        let lines = lines.as_array().unwrap().iter();
        lines.map(|line| format!("{} {}", line["level"], line["message"])).collect()
    }

    /// A PNG of the window.
    pub fn picture(&self) -> Vec<u8> {
        let path = format!("{}/screenshot", self.base());
        let text = self.ask("GET", &path, None)["value"].as_str().unwrap().to_owned();
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    }

    fn base(&self) -> String {
        format!("/session/{}", self.session)
    }

    fn command(&self, what: &str, body: &Value) -> Value {
        self.post(&format!("{}/{what}", self.base()), body)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.ask("POST", path, Some(body))["value"].take();
        assert!(answer["error"].is_null(), "{path}: {answer}");
        answer
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.reply(method, path, body).unwrap_or_else(|e| panic!("chromedriver, {method} {path}: {e}")).json()
    }

    fn reply(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Reply> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        client::raw(self.address, (head + &body).as_bytes())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.reply("DELETE", &self.base(), None);
        }
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
    }
}
