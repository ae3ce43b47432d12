//! The smallest HTTP client that hides nothing: it sends what it is told, and returns what came.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
    }
}

/// GET on a connection of its own.
pub fn get(to: SocketAddr, path: &str) -> Reply {
    request(to, "GET", path, &[])
}

/// Any request on a connection of its own, with the two fields that HTTP asks for and `headers`.
pub fn request(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    raw(to, &head(method, path, headers)).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// The same with a body.
pub fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let length = body.len().to_string();
    let mut bytes = head(method, path, &[headers, &[("Content-Length", &length)]].concat());
    bytes.extend(body.as_bytes());
    raw(to, &bytes).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// The head of a request that is its connection's last. A `Host` among `headers` is the only one.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// Sends bytes and reads one answer to its end. An answer that is cut is an error.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> io::Result<Reply> {
    let mut stream = connect(to)?;
    stream.write_all(bytes)?;
    let head_only = bytes.starts_with(b"HEAD ");
    read_reply(&mut stream, head_only)
}

pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer.
pub fn read_reply(stream: &mut impl Read, head_only: bool) -> io::Result<Reply> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            let text = format!("closed after {} bytes of head", head.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.clone()))?;
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = Vec::new();
    if !head_only && status != 304 {
        match headers.get("content-length").and_then(|l| l.parse().ok()) {
            Some(length) => {
                body.resize(length, 0);
                stream.read_exact(&mut body)?;
            }
            None => drop(stream.read_to_end(&mut body)?),
        }
    }
    Ok(Reply { status, headers, body })
}
