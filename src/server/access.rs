//! Whom plugins are for.

use serde::Deserialize;
use std::path::PathBuf;

/// Settings.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The first that has a plugin's name decides.
    pub rules: Vec<Rule>,
}

/// Whom some plugins are for.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names; `*` is any text.
    pub plugins: Vec<String>,
    /// A bearer token a line.
    #[serde(default)]
    pub tokens_file: Option<PathBuf>,
    /// Names in client certificates: DNS, URI or common name.
    #[serde(default)]
    pub client_certificates: Vec<String>,
}
