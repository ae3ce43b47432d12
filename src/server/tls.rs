//! TLS for clients: certificates, and what clients must show.

use serde::Deserialize;
use std::path::PathBuf;

/// Settings of both ports.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The port for plugins.
    pub data: PortConfig,
    /// The port for administration.
    pub admin: PortConfig,
}

/// Settings of a port.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// PEM file with our certificate, and what stands between it and its CA; `None` for plain HTTP.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// PEM files, or folders of them, with the CAs of clients' certificates.
    pub client_ca: Vec<PathBuf>,
    /// Whether clients must show one.
    pub client_certificate: ClientCertificate,
}

/// Whether a client shows a certificate.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// If it likes.
    Optional,
    /// Else it is not heard.
    Required,
}
