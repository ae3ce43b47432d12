//! What a URL asks for: a plugin's name and, mostly, a version.

use crate::oci::Digest;
use crate::oci::reference::is_tag;
use std::fmt;
use std::str::FromStr;

/// A plugin's name: 1 to 64 of `a-z 0-9 . _ -`, beginning and ending with a letter or digit, without `..`.
///
/// A name becomes part of a reference, of a path in an overlay and of log lines; hence the narrow rule.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PluginName(String);

/// A version as gateways write it: an OCI tag, or `sha256:<hex>` for a manifest digest.
///
/// It is what the URL says, not what exists: the Console asks `1.0.0` for plugins that are tagged `2.0.0`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Version {
    /// A tag.
    Tag(String),
    /// A manifest digest.
    Digest(Digest),
}

/// A plugin, and its version where the URL has one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// The plugin's name.
    pub name: PluginName,
    /// The version asked for; `None` for URLs like `/ai-proxy.wasm`, which mean the catalog's.
    pub version: Option<Version>,
}

/// Why a text is no name or version; each is a 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// Breaks the rule of [`PluginName`].
    #[error("'{0}' is no plugin name: 1 to 64 of a-z 0-9 . _ -, beginning and ending with a letter or digit")]
    Name(String),
    /// Breaks the rule of tags.
    #[error(
        "'{0}' is no version: at most 128 of letters, digits and . _ -, beginning with a letter, digit or _"
    )]
    Version(String),
    /// Begins like a digest and is none.
    #[error("'{0}' is no digest: expected sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
}

impl PluginError {
    /// The stable word for this error in answers and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name(_) => "bad_name",
            Self::Version(_) => "bad_version",
            Self::Digest(_) => "bad_digest",
        }
    }
}

impl PluginName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PluginName {
    type Err = PluginError;

    fn from_str(text: &str) -> Result<Self, PluginError> {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let ok = bytes.len() <= 64
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b))
            && !text.contains("..");
        if ok { Ok(Self(text.into())) } else { Err(PluginError::Name(quoted(text))) }
    }
}

impl FromStr for Version {
    type Err = PluginError;

    fn from_str(text: &str) -> Result<Self, PluginError> {
        if text.contains(':') {
            return text.parse().map(Self::Digest).map_err(|_| PluginError::Digest(quoted(text)));
        }
        if is_tag(text) { Ok(Self::Tag(text.into())) } else { Err(PluginError::Version(quoted(text))) }
    }
}

/// At most 80 characters of what a client sent, with controls escaped.
fn quoted(text: &str) -> String {
    crate::oci::error_code::shown(&text.chars().take(80).collect::<String>())
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_ascii_and_bounded() {
        for good in ["a", "ai-proxy", "0x", "a.b_c-d", &"a".repeat(64)] {
            assert!(good.parse::<PluginName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "a-",
            "a..b",
            "a..",
            "A",
            "é",
            "е",
            "a\u{202e}b",
            "a b",
            "a\tb",
            "a/b",
            "a\\b",
            "a:b",
            "a@b",
            "a;b",
            "a$b",
            "a%2e",
            "${name}",
            &"a".repeat(65),
            "😀",
        ] {
            assert_eq!(bad.parse::<PluginName>().unwrap_err().code(), "bad_name", "{bad:?}");
        }
    }

    #[test]
    fn versions_are_tags_or_digests() {
        let digest = Digest::of(b"").to_string();
        for good in ["1.0.0", "v1", "latest", "_x", "1.0.0-rc.1", &"1".repeat(128), &digest] {
            assert_eq!(good.parse::<Version>().map(|v| v.to_string()).as_deref(), Ok(good));
        }
        for (bad, code) in [
            ("", "bad_version"),
            (".1", "bad_version"),
            ("-1", "bad_version"),
            ("1+build", "bad_version"),
            (&"1".repeat(129), "bad_version"),
            ("sha256:12", "bad_digest"),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", "bad_digest"),
            (&digest.to_uppercase(), "bad_digest"),
            ("sha256:../x", "bad_digest"),
        ] {
            assert_eq!(bad.parse::<Version>().unwrap_err().code(), code, "{bad:?}");
        }
    }
}
