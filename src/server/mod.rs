//! The face: HTTP in, HTTP out. The only folder that names pingora.
//!
//! pingora parses and writes HTTP/1 ([`app`]); the accept loop is ours ([`listen`]), because pingora's closes its
//! listener at the first SIGTERM, has no limit for connections and does not tell which port it was given. A request
//! goes through [`guard`] (is it well-formed), [`route`] (what does it mean), [`access`] (is it for them), the cache, and [`respond`] or, for any
//! error, [`refuse`]; between reading and writing nothing here knows of pingora either, so each step is a function from
//! values to values.

pub mod access;
pub mod access_log;
pub mod admin;
pub mod app;
pub mod crowd;
pub mod data;
pub mod guard;
pub mod handshake;
pub mod listen;
pub mod listing;
pub mod refuse;
pub mod respond;
pub mod route;
pub mod send;
pub mod spans;
pub mod talk;
pub mod tls;
pub mod tokens;
pub mod usual;
pub mod wire;

use arc_swap::ArcSwap;
use bytesize::ByteSize;
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where to listen.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Plugins.
    pub data: SocketAddr,
    /// Metrics and health.
    pub admin: SocketAddr,
}

/// Settings of connections.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Worker threads; 0 for one a core.
    pub threads: usize,
    /// Longest time for the first request's header to arrive.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Longest time a connection may stay idle, the next request's header included.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Least rate at which a client must take an answer, in bytes a second.
    pub send_rate: ByteSize,
    /// Bytes of an answer that the kernel holds for a connection; it doubles the number. 0 is the kernel's own choice.
    pub send_buffer: ByteSize,
    /// Most connections at once.
    pub connections: usize,
    /// Most of them from one address; the addresses below an IPv6 /64 are one.
    pub connections_per_address: usize,
    /// Most bytes of modules that were read from disk and that no client has taken yet, for all connections together.
    pub send_memory: ByteSize,
    /// Whether HTTP/2 is spoken too, without TLS (by prior knowledge, RFC 9113, section 3.3).
    pub h2c: bool,
    /// After SIGTERM: how long to go on serving while readiness says no.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// After that: how long to wait for answers in flight.
    #[serde(with = "humantime_serde")]
    pub finish: Duration,
}

/// The settings of connections in use. A connection that was accepted, and a request that has begun, end with what they
/// began with.
pub type Live = Arc<ArcSwap<Config>>;

/// Settings of URLs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesConfig {
    /// Patterns for modules, first match wins.
    pub patterns: Vec<String>,
}
