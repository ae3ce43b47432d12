//! A registry that counts what it is asked and fails on command.

use super::artifact::Artifact;
use larder::oci::Digest;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: String,
    /// With its query.
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Ask {
    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }

    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Act {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send so many bytes of the body and close.
    pub cut: Option<usize>,
    /// Close without a word.
    pub hang_up: bool,
    /// Send so many bytes of the body at a time, with so long between.
    pub pace: Option<(usize, Duration)>,
}

impl Act {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, hang_up: false, pace: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Never says another word after so many bytes of the body, until the client leaves.
    pub fn stall(self, after: usize) -> Self {
        Self { pace: Some((after, Duration::from_secs(3600))), ..self }
    }

    pub fn hang_up() -> Self {
        Self { hang_up: true, ..Self::status(0) }
    }
}

/// What it does instead of answering truly. Gets the true answer too.
type Script = Arc<dyn Fn(&Ask, Act) -> Act + Send + Sync>;

struct State {
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    asked: Mutex<Vec<Ask>>,
    script: Mutex<Script>,
    /// Closed: blobs wait.
    gate: Mutex<bool>,
    opened: Condvar,
}

/// See the module's text.
#[derive(Clone)]
pub struct Scripted {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Scripted {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1")
    }

    /// On another address of this machine.
    pub fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            content: Mutex::default(),
            asked: Mutex::default(),
            script: Mutex::new(Arc::new(|_: &Ask, truth| truth)),
            gate: Mutex::new(true),
            opened: Condvar::new(),
        });
        let serving = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = serving.clone();
                std::thread::spawn(move || serve(&state, stream));
            }
        });
        Self { address, state }
    }

    /// The registry's name in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Makes an artifact available under a tag, and under its digest.
    pub fn put(&self, repository: &str, tag: &str, artifact: &Artifact) {
        let mut content = self.state.content.lock().unwrap();
        for blob in &artifact.blobs {
            let path = format!("/v2/{repository}/blobs/{}", Digest::of(blob));
            content.insert(path, ("application/octet-stream".into(), blob.clone()));
        }
        for manifest in artifact.children.iter().chain([&artifact.manifest]) {
            let value = (manifest.media_type.to_owned(), manifest.bytes.clone());
            content.insert(format!("/v2/{repository}/manifests/{}", manifest.digest()), value.clone());
            if manifest.bytes == artifact.manifest.bytes {
                content.insert(format!("/v2/{repository}/manifests/{tag}"), value);
            }
        }
    }

    /// Puts any bytes at any path.
    pub fn put_raw(&self, path: &str, content_type: &str, bytes: &[u8]) {
        self.state.content.lock().unwrap().insert(path.into(), (content_type.into(), bytes.to_vec()));
    }

    /// Takes away what is at a path.
    pub fn remove(&self, path: &str) {
        self.state.content.lock().unwrap().remove(path);
    }

    /// From now on the answers are what `script` makes of the true ones.
    pub fn script(&self, script: impl Fn(&Ask, Act) -> Act + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    /// From now on the answers are true again.
    pub fn heal(&self) {
        self.script(|_, truth| truth);
    }

    /// From now on every connection is closed without an answer.
    pub fn down(&self) {
        self.script(|_, _| Act::hang_up());
    }

    /// Blobs wait from now on.
    pub fn close_gate(&self) {
        *self.state.gate.lock().unwrap() = false;
    }

    /// Blobs wait no more.
    pub fn open_gate(&self) {
        *self.state.gate.lock().unwrap() = true;
        self.state.opened.notify_all();
    }

    /// Everything that was asked.
    pub fn asked(&self) -> Vec<Ask> {
        self.state.asked.lock().unwrap().clone()
    }

    /// How many requests please `which`.
    pub fn count(&self, which: impl Fn(&Ask) -> bool) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|ask| which(ask)).count()
    }

    pub fn forget(&self) {
        self.state.asked.lock().unwrap().clear();
    }
}

fn serve(state: &State, stream: TcpStream) {
    let mut reader = BufReader::new(match stream.try_clone() {
        Ok(stream) => stream,
        Err(_) => return,
    });
    let mut stream = stream;
    while let Some(ask) = read_ask(&mut reader) {
        state.asked.lock().unwrap().push(ask.clone());
        if ask.is_blob() {
            let gate = state.gate.lock().unwrap();
            drop(state.opened.wait_while(gate, |open| !*open).unwrap());
        }
        let truth = truth(state, &ask);
        let script = state.script.lock().unwrap().clone();
        let act = script(&ask, truth);
        if act.hang_up || write_act(&mut stream, &ask, &act).is_err() || act.cut.is_some() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_ask(reader: &mut BufReader<TcpStream>) -> Option<Ask> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length: &String| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Ask { method, path, headers, body })
}

fn truth(state: &State, ask: &Ask) -> Act {
    let content = state.content.lock().unwrap();
    // Who asks it as a proxy names a host too, and it is the registry of every host.
    let path = ask.path.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let path = path.unwrap_or(&ask.path).split('?').next().unwrap();
    let Some((content_type, bytes)) = content.get(path) else {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return Act::status(404).header("Content-Type", "application/json").body(body);
    };
    let digest = Digest::of(bytes).to_string();
    if ask.headers.get("if-none-match").is_some_and(|tags| tags.contains(&digest)) {
        return Act::status(304);
    }
    let range =
        ask.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    if let Some(from) = range.filter(|from| *from < bytes.len() && ask.is_blob()) {
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        return Act::status(206).header("Content-Range", &range).body(&bytes[from..]);
    }
    let act = Act::status(200).header("Content-Type", content_type).body(bytes.clone());
    act.header("Docker-Content-Digest", &digest)
}

/// Waits, or ends when the client has left.
fn wait(stream: &mut TcpStream, pause: Duration) -> std::io::Result<()> {
    let end = Instant::now() + pause;
    stream.set_nonblocking(true)?;
    while Instant::now() < end {
        if matches!(stream.peek(&mut [0]), Ok(0)) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        std::thread::sleep(Duration::from_millis(2).min(pause));
    }
    stream.set_nonblocking(false)
}

fn write_act(stream: &mut TcpStream, ask: &Ask, act: &Act) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", act.status);
    if !act.headers.iter().any(|(name, _)| name == "Content-Length" || name == "Transfer-Encoding")
        && act.status != 304
    {
        head.push_str(&format!("Content-Length: {}\r\n", act.body.len()));
    }
    for (name, value) in &act.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if ask.method != "HEAD" && act.status != 304 {
        let body = &act.body[..act.cut.unwrap_or(act.body.len())];
        match act.pace {
            None => stream.write_all(body)?,
            Some((bytes, pause)) => {
                for (n, piece) in body.chunks(bytes.max(1)).enumerate() {
                    if n > 0 {
                        wait(stream, pause)?;
                    }
                    stream.write_all(piece)?;
                }
            }
        }
    }
    stream.flush()
}
