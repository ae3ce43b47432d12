//! The beginning of a connection over TLS: a handshake that ends within a time, or a reason.

use super::listen::Drain;
use super::tls::Shown;
use super::wire::{Line, linger};
use crate::metrics::Metrics;
use rustls::{Error, ServerConfig};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// What is said to who speaks plain HTTP here.
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nServer: larder\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Cache-Control: no-store\r\nContent-Length: 91\r\nConnection: close\r\n\r\n\
    400 Bad Request (https_needed)\nthis port speaks HTTPS\nnext: write https:// before the host\n";
/// Time between two lines of the log at `info`; who scans ports, or has the wrong CA, comes again and again.
const BETWEEN_LINES: Duration = Duration::from_secs(1);

/// How a handshake ended: the label for metrics, and for people.
#[derive(Debug)]
struct Failed {
    result: &'static str,
    reason: String,
}

impl Failed {
    fn new(result: &'static str, reason: impl Into<String>) -> Self {
        Self { result, reason: reason.into() }
    }

    /// Of what the library says.
    fn of(error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let result = match inner {
            None => "closed",
            Some(Error::NoCertificatesPresented) => "no_certificate",
            Some(Error::InvalidCertificate(_)) => "bad_certificate",
            // Mostly that our certificate is not believed.
            Some(Error::AlertReceived(_)) => "refused",
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => "incompatible",
            Some(_) => "malformed",
        };
        Self::new(result, crate::oci::error_code::shown(&error.to_string()))
    }

    /// Who came by mistake, or did not stay, is nobody's fault.
    fn is_usual(&self) -> bool {
        matches!(self.result, "closed" | "timeout")
    }
}

/// Where connections of a port begin.
pub struct Door {
    name: &'static str,
    metrics: Arc<Metrics>,
    drain: Drain,
    told: Mutex<Option<Instant>>,
    untold: AtomicU64,
}

impl Door {
    /// Of the port `name`.
    pub fn new(name: &'static str, metrics: Arc<Metrics>, drain: Drain) -> Self {
        Self { name, metrics, drain, told: Mutex::default(), untold: AtomicU64::new(0) }
    }

    /// Makes a handshake within `patience`: the connection, and whose certificate was verified. `None` where it failed, and all is said.
    pub async fn greet(
        &self,
        stream: TcpStream,
        config: Arc<ServerConfig>,
        peer: SocketAddr,
        patience: Duration,
    ) -> Option<(Line, Option<Arc<Shown>>)> {
        let made = tokio::time::timeout(patience, self.handshake(stream, config)).await;
        let made = made.unwrap_or_else(|_| Err(Failed::new("timeout", "server.header_timeout is over")));
        let result = made.as_ref().map_or_else(|failed| failed.result, |_| "ok");
        self.metrics.tls_handshakes.with_label_values(&[self.name, result]).inc();
        made.map_err(|failed| self.tell(peer, &failed)).ok()
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> Result<(Line, Option<Arc<Shown>>), Failed> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) => {}
            Ok(0) => return Err(Failed::new("closed", "closed before the first byte")),
            Err(error) => return Err(Failed::new("closed", error.to_string())),
        }
        // Who has begun to speak is not left when we leave.
        let _in_flight = self.drain.begin();
        // A method; a handshake begins with 22 (RFC 8446, section 5.1).
        if first[0].is_ascii_alphabetic() {
            let mut stream = stream;
            let _ = stream.write_all(PLAIN_HTTP).await;
            linger(stream).await;
            return Err(Failed::new("plain_http", "plain HTTP was spoken to the port for HTTPS"));
        }
        match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => {
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let shown = Shown::of(certificates).map(Arc::new);
                Ok((Line::Tls(Box::new(stream)), shown))
            }
            Err((error, stream)) => {
                // The reason is on its way to the client.
                linger(stream).await;
                Err(Failed::of(&error))
            }
        }
    }

    fn tell(&self, peer: SocketAddr, failed: &Failed) {
        let Failed { result, reason } = failed;
        let is_due = !failed.is_usual() && {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = told.is_none_or(|told| told.elapsed() >= BETWEEN_LINES);
            if is_due {
                *told = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            let others = self.untold.swap(0, Ordering::Relaxed);
            tracing::info!(listener = self.name, %peer, result, reason, others, "a TLS handshake failed");
        } else {
            if !failed.is_usual() {
                self.untold.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(listener = self.name, %peer, result, reason, "a TLS handshake failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PLAIN_HTTP;

    #[test]
    fn the_answer_to_plain_http_says_how_long_it_is() {
        let text = std::str::from_utf8(PLAIN_HTTP).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
