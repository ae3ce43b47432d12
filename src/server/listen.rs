//! Accepting connections, and leaving without letting anybody down.
//!
//! SIGTERM begins a drain: readiness says no at once, but connections are accepted for a while longer, because those
//! who send them here learn of it late; each answer now asks its client to come back on another connection. Then the
//! listener closes, answers in flight are finished, and the process ends.

use super::app::Connection;
use super::crowd::{Crowd, Most};
use super::handshake::Door;
use super::tls::{Shown, Tls};
use super::wire::{Line, Link, Wire};
use super::{Config, Live};
use crate::metrics::Metrics;
use crate::store::Room;
use pingora::prelude::fast_timeout::set_fast_timeout_to_tokio_threshold;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: u32 = 4096;
/// One address has this part of the bytes that are on their way: who takes slowly waits for his own kind.
const SHARES: u64 = 2;
/// After a failed accept, mostly for want of descriptors: others must finish first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far the leaving is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Closing,
}

/// The leaving, as everybody sees it.
#[derive(Clone)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    in_flight: Arc<AtomicUsize>,
    /// For pingora, which wants a channel of its own.
    stop: watch::Sender<bool>,
}

/// A request that is being answered.
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drain {
    /// Nothing is leaving.
    pub fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            in_flight: Arc::default(),
            stop: watch::Sender::new(false),
        }
    }

    /// True from the signal on.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Counts a request until the result is dropped.
    pub fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self.in_flight.clone())
    }

    /// Goes through with it; returns when nothing is in flight or the time is over.
    pub async fn run(&self, config: &Config) {
        self.phase.send_replace(Phase::Draining);
        tokio::time::sleep(config.drain).await;
        self.phase.send_replace(Phase::Closing);
        self.stop.send_replace(true);
        let all_done = async {
            // Twice in a row: a connection accepted a moment ago has not begun its request yet.
            let mut quiet = 0;
            while quiet < 2 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                quiet = if self.in_flight.load(Ordering::SeqCst) == 0 { quiet + 1 } else { 0 };
            }
        };
        if tokio::time::timeout(config.finish, all_done).await.is_err() {
            let left = self.in_flight.load(Ordering::SeqCst);
            tracing::warn!(left, "answers in flight are cut off; server.finish is over");
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// A connection that has come, and is ready to be answered.
pub struct Arrival {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Whose certificate they showed, if they did.
    pub shown: Option<Arc<Shown>>,
    /// When they came.
    pub since: Instant,
    /// What its wire is to know.
    pub link: Arc<Link>,
    /// Its address's part of the bytes that are on their way.
    pub share: Room,
}

/// An open port.
pub struct Port {
    tcp: TcpListener,
    name: &'static str,
    /// What it speaks with.
    tls: Arc<Tls>,
    /// Who watches us leave must be able to ask until the end.
    stays: bool,
}

impl Port {
    /// Opens `address`, where `tls` is spoken. Must run within the runtime that will accept. `send_buffer` bounds what the
    /// kernel takes of an answer before the client does, in bytes; 0 leaves that to the kernel.
    ///
    /// # Errors
    /// The operating system's, as it is.
    pub fn open(
        address: SocketAddr,
        name: &'static str,
        send_buffer: u32,
        tls: Arc<Tls>,
    ) -> io::Result<Self> {
        // pingora's own timers are looked at by a thread that wakes a hundred times a second for ever; the runtime's are not.
        set_fast_timeout_to_tokio_threshold(Some(Duration::ZERO));
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        if send_buffer > 0 {
            // Accepted connections inherit it.
            socket.set_send_buffer_size(send_buffer)?;
        }
        socket.bind(address)?;
        Ok(Self { tcp: socket.listen(BACKLOG)?, name, tls, stays: false })
    }

    /// The same port, open until the process ends and not only until the drain closes it.
    pub fn until_the_end(self) -> Self {
        Self { stays: true, ..self }
    }

    /// The address with the port that was given.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the drain closes it. `app` makes what answers a connection.
    pub async fn accept(
        self,
        config: Live,
        drain: Drain,
        metrics: Arc<Metrics>,
        app: impl Fn(Arrival) -> Arc<Connection> + Send + Sync + 'static,
    ) {
        let open = metrics.connections.with_label_values(&[self.name]);
        let crowd = Crowd::new(open);
        let mut phase = drain.phase.subscribe();
        let door = Arc::new(Door::new(self.name, metrics.clone(), drain.clone()));
        let app = Arc::new(app);
        metrics.expect_listener(self.name, self.tls.current().is_some());
        loop {
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                _ = phase.wait_for(|phase| *phase == Phase::Closing), if !self.stays => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let config = **config.load();
            let most = Most {
                total: config.connections,
                each: config.connections_per_address,
                share: config.send_memory.as_u64() / SHARES,
            };
            let place = match crowd.enter(peer.ip(), most) {
                Ok(place) => place,
                Err(full) => {
                    metrics.connections_refused.with_label_values(&[self.name, full.as_str()]).inc();
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (tls, door, app) = (self.tls.current(), door.clone(), app.clone());
            let (since, shutdown) = (Instant::now(), drain.stop.subscribe());
            tokio::spawn(async move {
                let (line, shown) = match tls {
                    None => (Line::Plain(stream), None),
                    // In a box, because what a handshake needs would be kept as long as the connection.
                    Some(tls) => match Box::pin(door.greet(stream, tls, peer, config.header_timeout)).await {
                        Some(greeted) => greeted,
                        None => return,
                    },
                };
                // What it takes to read and answer is made when there is something to read.
                let patience = || config.header_timeout.saturating_sub(since.elapsed());
                if tokio::time::timeout(patience(), line.begun()).await.is_err() {
                    return;
                }
                let (link, share, is_h2) = (Arc::<Link>::default(), place.share.clone(), line.is_h2());
                let patience = patience();
                let mut wire = Wire::new(line, link.clone(), patience, place);
                if is_h2 && wire.begin_frames().await.is_err() {
                    return;
                }
                let app = app(Arrival { peer, shown, since, link, share });
                app.talk(wire, shutdown).await;
            });
        }
    }
}
