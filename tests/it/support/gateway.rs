//! A gateway's agent, as it asks for a plugin (the contract, section 1).

use super::client::{self, Reply};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Tries, and the pause after the first, which grows by half each time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// How long it waits for one try, its body included, and for all of them.
const ONE: Duration = Duration::from_secs(15);
const ALL: Duration = Duration::from_secs(30);

/// The head of its request.
pub fn head(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: higress-plugin-server.higress-system.svc\r\n\
         User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    )
}

/// Asks for a plugin as often as a gateway does. What it gives up on fails with what the last try met: an answer that breaks
/// or stalls after its head is never asked for again, and of answers only those of the server's own trouble are.
pub fn ask(at: SocketAddr, path: &str) -> Result<Reply, String> {
    let end = Instant::now() + ALL;
    let mut pause = PAUSE;
    for left in (0..TRIES).rev() {
        let met = match once(at, path, end.min(Instant::now() + ONE)) {
            Ok(reply) if reply.status == 200 => return Ok(reply),
            Ok(reply) if reply.status < 500 => return Err(format!("{}: {}", reply.status, reply.text())),
            Ok(reply) => format!("{}: {}", reply.status, reply.text()),
            Err(error) => error.to_string(),
        };
        if left == 0 || Instant::now() + pause >= end {
            return Err(met);
        }
        std::thread::sleep(pause);
        pause = pause * 3 / 2;
    }
    unreachable!("the last try ends it")
}

/// One try, until `end`.
fn once(at: SocketAddr, path: &str, end: Instant) -> io::Result<Reply> {
    let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&at, left)?;
    stream.write_all(head(path).as_bytes())?;
    client::read_reply(&mut Until { stream, end }, false)
}

/// A connection that is read until then.
struct Until {
    stream: TcpStream,
    end: Instant,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}
