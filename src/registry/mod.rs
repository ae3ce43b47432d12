//! Registries: the only folder that opens outward connections.
//!
//! A small client of the OCI distribution specification for reading: resolve a tag, get a manifest, get a blob. Larger
//! clients were measured and ask more often than needed, keep expired tokens, or follow redirects with credentials.
//!
//! What leaves the house is bounded by three rules. Credentials and tokens go to the registry's own host; to a token
//! service only where that is of the registry's own host, of its registrable domain, or configured ([`auth`]); never
//! along a redirect ([`transport`]). The scheme never falls from https to http. Every text that comes back is bounded
//! before it is read and cleaned before it is shown.

pub mod auth;
pub mod client;
pub mod credentials;
pub mod error;
pub mod hosts;
pub mod transport;

use crate::oci::{Digest, Reference};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use client::Client;
pub use error::{Kind, RegistryError};

/// Settings for all registries, and for single ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Files or directories of PEM certificates that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
    /// Hosts (`host[:port]`) that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// Longest time for DNS, TCP and TLS together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Longest silence within an answer, and before it.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
    /// Settings by `host[:port]` as references write it.
    pub hosts: BTreeMap<String, HostConfig>,
}

/// Settings for one registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Speak to it without TLS.
    pub plain_http: bool,
    /// Certificates trusted for this registry, its token service and its blob hosts, beside the system's and `ca`.
    pub ca: Vec<PathBuf>,
    /// User name for Basic and for the token service.
    pub username: Option<String>,
    /// File with the password; a line break at its end does not count.
    pub password_file: Option<PathBuf>,
    /// Further hosts whose token service may get the credentials.
    pub token_hosts: Vec<String>,
}

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct FetchedManifest {
    /// Raw bytes.
    pub bytes: Bytes,
    /// Their digest, computed here and compared with what the registry said and with what was asked.
    pub digest: Digest,
    /// `Content-Type`.
    pub media_type: Option<String>,
}

/// What a registry says of a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The reference still means this digest.
    Same,
    /// It means another one.
    Moved,
    /// The registry does not tell without sending the manifest.
    Unknown,
}

/// A blob on its way.
pub struct Blob {
    /// `Content-Length`, where the registry sends one.
    pub size: Option<u64>,
    /// The bytes, unverified.
    pub stream: BoxStream<'static, Result<Bytes, RegistryError>>,
}

/// Reading from registries, as the cache needs it.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Asks whether `reference` still means `known`, without fetching the manifest (HEAD, `If-None-Match`).
    async fn confirm(&self, reference: &Reference, known: &Digest) -> Result<Confirmation, RegistryError>;

    /// Gets the manifest or index that `reference` means; at most `limit` bytes.
    async fn manifest(&self, reference: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError>;

    /// Opens the blob `digest` of the repository of `reference`. Bytes are not verified here.
    async fn blob(&self, reference: &Reference, digest: &Digest) -> Result<Blob, RegistryError>;
}
