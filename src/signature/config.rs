//! The settings `policy.signatures`.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::path::PathBuf;

/// `policy.signatures`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What a missing or wrong signature means.
    pub mode: Mode,
    /// PEM files with public keys; a signature by any of them is enough.
    pub keys: Vec<PathBuf>,
    /// Who may sign without a key of their own (keyless).
    pub identities: Vec<Identity>,
    /// The trusted root that keyless signatures are held against.
    pub trusted_root: Option<PathBuf>,
}

/// What a missing or wrong signature means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nobody looks.
    Off,
    /// It is told, and the module is served.
    Warn,
    /// The module is refused.
    Require,
}

/// The words of the settings.
const MODES: [&str; 3] = ["off", "warn", "require"];

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Mode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("off, warn or require")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Mode, E> {
                match word {
                    "off" => Ok(Mode::Off),
                    "warn" => Ok(Mode::Warn),
                    "require" => Ok(Mode::Require),
                    _ => Err(E::unknown_variant(word, &MODES)),
                }
            }

            // To YAML 1.1 `off` is a word for false.
            fn visit_bool<E: Error>(self, on: bool) -> Result<Mode, E> {
                if on { Err(E::invalid_type(Unexpected::Bool(on), &self)) } else { Ok(Mode::Off) }
            }
        }
        deserializer.deserialize_any(Words)
    }
}

/// Somebody whom an issuer vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The certificate's subject alternative name.
    pub subject: String,
    /// The URL of the OpenID Connect issuer.
    pub issuer: String,
}

/// `policy.rules[].signatures`: what is not written is as it is for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// What a missing or wrong signature means.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// PEM files with public keys, in place of those for all.
    #[serde(default)]
    pub keys: Option<Vec<PathBuf>>,
    /// Who may sign without a key of their own (keyless).
    #[serde(default)]
    pub identities: Vec<Identity>,
    /// The trusted root that keyless signatures are held against.
    #[serde(default)]
    pub trusted_root: Option<PathBuf>,
}

impl RuleConfig {
    /// What a rule says and does not do, as [`Config::faults`] tells it; `all` is what is said for all.
    pub fn fault(&self, all: &Config) -> Option<(&'static str, String)> {
        let text = "names keys, and the mode for all is off: write mode: warn or mode: require beside it, or mode: off";
        (self.mode.is_none() && self.keys.is_some() && all.with(self).is_idle())
            .then(|| ("keys", text.into()))
    }
}

impl Config {
    /// True where keys are named and nobody looks for what they signed.
    pub fn is_idle(&self) -> bool {
        self.mode == Mode::Off && !self.keys.is_empty()
    }

    /// The same with what a rule says.
    pub fn with(&self, rule: &RuleConfig) -> Self {
        Self {
            mode: rule.mode.unwrap_or(self.mode),
            keys: rule.keys.clone().unwrap_or_else(|| self.keys.clone()),
            identities: rule.identities.clone(),
            trusted_root: rule.trusted_root.clone(),
        }
    }

    /// What cannot be used: the key below `policy.signatures`, and a text.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        // Half a verification would be worse than none: without its trusted root a certificate proves nothing.
        let keyless = "keyless signatures are not supported; only those by key are: name public keys in keys";
        if !self.identities.is_empty() {
            faults.push(("identities", keyless.into()));
        }
        if self.trusted_root.is_some() {
            faults.push(("trusted_root", keyless.into()));
        }
        if self.mode != Mode::Off && self.keys.is_empty() && faults.is_empty() {
            let text = "wants signatures, and keys is empty: name a PEM file with a public key there";
            faults.push(("mode", text.into()));
        }
        faults
    }
}
