//! Registries: the only folder that opens outward connections.
//!
//! A small client of the OCI distribution specification: resolve a tag, get a manifest, get a blob, and push them. Larger
//! clients were measured and ask more often than needed, keep expired tokens, or follow redirects with credentials.
//!
//! The road of a question: [`client`] takes the registry's route ([`hosts`]) and asks its endpoints, mirrors first, while
//! [`breaker`] lets it; [`transport`] sends one request and follows its redirects; [`egress`] chooses the way out,
//! [`address`] what is never connected to, [`trust`] whom to believe, of what [`pem`] reads ([`expiry`]: for how long); [`auth`] answers a challenge ([`challenge`]) with
//! what [`credentials`] finds; [`blob`] takes a broken transfer up again; [`diagnose`] turns what went wrong into a cause and
//! a hint. [`config`] has the settings, [`certs_d`] and [`docker_config`] read what other programs left, and [`trace`]
//! tells all of it to `larder explain`. [`copying`] carries an artifact to another registry: [`push`] writes, `upload` sends a
//! blob of which `payload` and `reading` hold no more than a chunk, and `refused` says what a registry means that refuses. [`signatures`] asks for what was
//! signed. One conversation is not with a registry: [`collector`].
//!
//! What leaves the house is bounded by three rules. Credentials and tokens go to the registry's own host; to a token
//! service only where that is of the registry's own host, of its registrable domain, or configured ([`auth`]); never
//! along a redirect ([`transport`]). The scheme never falls from https to http. Every text that comes back is bounded
//! before it is read and cleaned before it is shown.

pub mod address;
pub mod auth;
pub mod blob;
pub mod breaker;
pub mod certs_d;
pub mod challenge;
pub mod client;
pub mod collector;
pub mod config;
pub mod copying;
pub mod credentials;
mod diagnose;
pub mod docker_config;
pub mod egress;
pub mod error;
pub mod expiry;
pub mod hosts;
pub mod names;
mod payload;
pub mod pem;
pub mod push;
mod reading;
mod referrers;
mod refused;
mod retry;
pub mod route;
pub mod scope;
pub mod signatures;
pub mod trace;
pub mod transport;
pub mod trust;
mod upload;

use crate::oci::{Digest, Reference};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use client::Client;
pub use config::{Config, HostConfig, MirrorConfig, NotFound, ProxyConfig, Surroundings};
pub use error::{Kind, RegistryError};
pub use hosts::Hosts;
pub use retry::{Retry, persist};

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

/// What refers to a manifest, as the registry lists it.
#[derive(Debug, Clone, Default)]
pub struct Referrers {
    /// Indexes, one a page.
    pub pages: Vec<Bytes>,
    /// False where all types are listed, although one was asked for.
    pub is_filtered: bool,
}

/// A blob on its way.
pub struct Blob {
    /// Which of the registry's endpoints it comes from, for [`Registry::distrust`].
    pub endpoint: usize,
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

    /// Opens the blob `digest` of `size` bytes of the repository of `reference`. Bytes are not verified here.
    async fn blob(&self, reference: &Reference, digest: &Digest, size: u64) -> Result<Blob, RegistryError>;

    /// Lists what refers to the manifest `of`, which names a digest, and is of `artifact_type`, or of any for an empty one
    /// (OCI distribution spec 1.1, "Listing Referrers"); at most `limit` bytes a page. `None` where nobody lists that: there
    /// may be a tag in its place.
    async fn referrers(
        &self,
        of: &Reference,
        artifact_type: &str,
        limit: u64,
    ) -> Result<Option<Referrers>, RegistryError> {
        let _ = (of, artifact_type, limit);
        Ok(None)
    }

    /// Says that the bytes of a blob were wrong that came from `endpoint`: others are asked first, where there are some.
    fn distrust(&self, reference: &Reference, endpoint: usize);
}
