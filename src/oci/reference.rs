//! References: `[oci://]host[:port]/repository[:tag][@digest]`.

use super::digest::{Digest, DigestError};
use std::fmt;
use std::str::FromStr;

/// Where an artifact lives: a registry, a repository in it, and a tag or a digest.
///
/// Unlike a docker client we never guess a registry: the first component is always the host, so that `registry/foo:1`
/// means the host `registry` of one's own cluster and not a repository somewhere on the internet.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No `/` between a host and a repository.
    #[error("'{0}' names no registry: expected [oci://]host[:port]/repository[:tag][@digest]")]
    NoRegistry(String),
    /// The host or its port is malformed, or credentials stand before it.
    #[error(
        "'{0}' is no registry host: expected name, name:port or [IPv6]:port, without scheme or credentials"
    )]
    BadRegistry(String),
    /// The repository breaks the distribution spec's rule for `<name>`.
    #[error(
        "'{0}' is no repository: lower-case letters, digits and . _ - between single slashes are allowed"
    )]
    BadRepository(String),
    /// The tag breaks the distribution spec's rule for `<reference>` as a tag.
    #[error("'{0}' is no tag: at most 128 of letters, digits and . _ -, beginning with a letter, digit or _")]
    BadTag(String),
    /// What stands behind `@` is no digest.
    #[error(transparent)]
    BadDigest(#[from] DigestError),
    /// Neither a tag nor a digest.
    #[error("'{0}' has neither a tag nor a digest: add :tag or @sha256:…")]
    NoVersion(String),
}

impl Reference {
    /// A reference to `tag` in `repository` (`host[:port]/path`).
    pub fn tagged(repository: &Repository, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::BadTag(super::error_code::shown(tag)));
        }
        Ok(Self {
            registry: repository.registry.clone(),
            repository: repository.path.clone(),
            tag: Some(tag.into()),
            digest: None,
        })
    }

    /// A reference to the manifest with `digest` in `repository`.
    pub fn digested(repository: &Repository, digest: Digest) -> Self {
        Self {
            registry: repository.registry.clone(),
            repository: repository.path.clone(),
            tag: None,
            digest: Some(digest),
        }
    }

    /// The registry as written, `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path within its registry.
    pub fn repository_path(&self) -> &str {
        &self.repository
    }

    /// The repository with its registry.
    pub fn repository(&self) -> Repository {
        Repository { registry: self.registry.clone(), path: self.repository.clone() }
    }

    /// The tag, if one is written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest digest, if one is written. It decides where a tag stands beside it.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What the distribution spec calls `<reference>`: the digest if there is one, else the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => unreachable!("a reference is made with a tag or a digest"),
        }
    }

    /// True when what it points to can change: a tag without a digest.
    pub fn is_mutable(&self) -> bool {
        self.digest.is_none()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bare = text.strip_prefix("oci://").unwrap_or(text);
        let (name, digest) = match bare.split_once('@') {
            // `user:password@host/…`: never echoed, the part before the @ may be a secret.
            Some((before, after)) if !before.contains('/') => {
                return Err(ReferenceError::BadRegistry(super::error_code::shown(&format!("…@{after}"))));
            }
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (bare, None),
        };
        // The tag's colon stands behind the last slash; a colon before it belongs to the port.
        let (name, tag) = match (name.rfind(':'), name.rfind('/')) {
            (Some(colon), Some(slash)) if colon > slash => (&name[..colon], Some(&name[colon + 1..])),
            _ => (name, None),
        };
        let repository: Repository = name.parse()?;
        if let Some(bad) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::BadTag(super::error_code::shown(bad)));
        }
        if tag.is_none() && digest.is_none() {
            return Err(ReferenceError::NoVersion(masked(text)));
        }
        Ok(Self {
            registry: repository.registry,
            repository: repository.path,
            tag: tag.map(Into::into),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A repository with its registry: `host[:port]/path`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// The registry as written, `host[:port]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// True when `reference` points into this repository.
    pub fn holds(&self, reference: &Reference) -> bool {
        self.registry == reference.registry && self.path == reference.repository
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bare = text.strip_prefix("oci://").unwrap_or(text);
        let (registry, path) =
            bare.split_once('/').ok_or_else(|| ReferenceError::NoRegistry(masked(text)))?;
        if !is_registry(registry) {
            return Err(ReferenceError::BadRegistry(masked(registry)));
        }
        if !is_repository(path) {
            return Err(ReferenceError::BadRepository(masked(path)));
        }
        Ok(Self { registry: registry.to_ascii_lowercase(), path: path.into() })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `text` for a message: what stands before an `@` in the first part may be a password, and is not shown.
pub fn masked(text: &str) -> String {
    let is_scheme = |scheme: &str| scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", text));
    // A reference's own @ stands before a digest. A password may have slashes in it.
    let before = rest.rsplit_once('@').filter(|(_, digest)| digest.parse::<Digest>().is_ok());
    let before = before.map_or(rest, |(before, _)| before);
    let shown = match before.rfind('@') {
        Some(at) => format!("…{}", &rest[at..]),
        None => rest.to_owned(),
    };
    let shown = if scheme.is_empty() { shown } else { format!("{scheme}://{shown}") };
    super::error_code::shown(&shown)
}

/// True for `name`, `name:port`, `[IPv6]`, `[IPv6]:port`.
pub fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                match port.strip_prefix(':') {
                    Some(port) => ("v6", Some(port)),
                    None if port.is_empty() => ("v6", None),
                    None => return false,
                }
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    // One look at each byte, for every request has one: labels of letters, digits, '-' and '_', none of them empty and no '-'
    // at their ends.
    let mut before = b'.';
    let host_ok = host.len() <= 253
        && host.bytes().all(|byte| {
            let at_edge = matches!(before, b'.' | b'-');
            let fits = match byte {
                b'.' => !at_edge,
                b'-' => before != b'.',
                byte => byte.is_ascii_alphanumeric() || byte == b'_',
            };
            before = byte;
            fits
        })
        && !matches!(before, b'.' | b'-');
    let port_ok =
        port.is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n > 0));
    host_ok && port_ok
}

/// Distribution spec: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes, at most 255 characters in all.
pub fn is_repository(path: &str) -> bool {
    let component = |part: &str| {
        let bytes = part.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let separators_ok = part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'));
        edge(bytes.first()) && edge(bytes.last()) && separators_ok
    };
    path.len() <= 255 && path.split('/').all(component)
}

/// Distribution spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_that_clusters_use_are_parsed_and_printed_back() {
        for text in [
            "higress-registry.cn-hangzhou.cr.aliyuncs.com/plugins/ai-proxy:2.0.1",
            "registry/foo:1",
            "localhost:5000/mcp-server/all-in-one:1.0.0",
            "[::1]:5000/x:1",
            "[fd00::2]/x:1",
            "10.0.0.3/x:latest",
            "harbor.corp/a/b/c:v1.0.0-rc.1",
            &format!("harbor.corp/a/b@{DIGEST}"),
            &format!("harbor.corp/a/b:1@{DIGEST}"),
        ] {
            let parsed: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(parsed.to_string(), text);
            assert_eq!(format!("oci://{text}").parse::<Reference>().as_ref(), Ok(&parsed));
        }
    }

    #[test]
    fn a_digest_decides_beside_a_tag() {
        let reference: Reference = format!("h/a:1@{DIGEST}").parse().unwrap();
        assert_eq!(reference.selector(), DIGEST);
        assert!(!reference.is_mutable());
        assert!("h/a:1".parse::<Reference>().unwrap().is_mutable());
    }

    #[test]
    fn malformed_references_are_refused_and_never_echo_a_password() {
        for bad in [
            "",
            "foo",
            "foo:1",
            "/foo:1",
            "host/:1",
            "host/foo",
            "host/foo:",
            "host/Foo:1",
            "host/a//b:1",
            "host/a/:1",
            "host/../b:1",
            "host/a..b:1",
            "host/a:b:c",
            "host/a:-1",
            "ho st/a:1",
            "host:0/a:1",
            "host:99999/a:1",
            "host:x/a:1",
            "https://host/a:1",
            "[::1/a:1",
            "[nope]/a:1",
            "host/a@sha256:12",
            "-host/a:1",
            "host/a@md5:00",
            "host/a:1\n",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was accepted");
        }
        for secret in [
            "robot:s3cret@harbor.corp/a:1",
            "oci://robot:s3cret@harbor.corp/a:1",
            "robot:s3cret@harbor.corp",
            "robot:s3cret@h",
            "robot:p/s3cret/x@harbor.corp",
            "https://robot:p/s3cret@x@harbor.corp/a",
        ] {
            let told = secret.parse::<Reference>().unwrap_err().to_string();
            assert!(!told.contains("s3cret"), "{told}");
        }
        for secret in
            ["robot:p/s3cret@h", "http://u:12/s3cret@p:1", "https://u:s3cret/x@y@h/a", "u:s3cret@h/a"]
        {
            assert!(!masked(secret).contains("s3cret"), "{}", masked(secret));
        }
        assert_eq!(masked(&format!("h/a@{DIGEST}")), format!("h/a@{DIGEST}"));
        assert!(
            !"robot:s3cret@harbor.corp/a".parse::<Repository>().unwrap_err().to_string().contains("s3cret")
        );
    }
}
