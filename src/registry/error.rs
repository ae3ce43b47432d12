//! What can go wrong on the way to a registry, told so that the reader knows what to change.

use std::fmt;
use std::time::Duration;

/// The cause, coarse enough to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The registry says that there is no such repository, tag or blob.
    NotFound,
    /// The registry refuses, after authentication where there was any.
    Denied,
    /// 429.
    RateLimited,
    /// The name does not resolve.
    Dns,
    /// No connection, or it broke.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The egress proxy refused or failed.
    Proxy,
    /// Too slow.
    TimedOut,
    /// An answer that a registry does not give: 5xx, an HTML page, nonsense.
    Upstream,
    /// Bytes that do not match their digest or size.
    Corrupt,
    /// More than a limit allows.
    TooLarge,
    /// The token service is on a host that credentials may not go to.
    RealmRefused,
    /// A redirect that is not followed.
    RedirectRefused,
}

impl Kind {
    /// The stable word for answers, logs and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::TimedOut => "timeout",
            Self::Upstream => "upstream",
            Self::Corrupt => "digest_mismatch",
            Self::TooLarge => "manifest_too_large",
            Self::RealmRefused => "realm_refused",
            Self::RedirectRefused => "redirect_refused",
        }
    }
}

/// A failed conversation with a registry.
#[derive(Debug, Clone)]
pub struct RegistryError {
    /// The cause.
    pub kind: Kind,
    /// What was asked of whom and what came back; without credentials.
    pub detail: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// How long the registry asks us to stay away.
    pub retry_after: Option<Duration>,
}

impl RegistryError {
    /// An error without a hint.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), hint: String::new(), retry_after: None }
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Sorts an error of the HTTP client; `what` is the request, for the text.
    pub fn from_transport(what: &str, host: &str, error: &reqwest::Error) -> Self {
        let chain = chain(error);
        let has = |needle: &str| chain.contains(needle);
        // The client has no types for these; the words are those of its parts.
        let kind = if error.is_timeout() {
            Kind::TimedOut
        } else if has("dns error") || has("failed to lookup address") {
            Kind::Dns
        } else if has("tunnel error") || has("proxy") {
            Kind::Proxy
        } else if has("certificate")
            || has("InvalidContentType")
            || has("received fatal alert")
            || has("HandshakeFailure")
        {
            Kind::Tls
        } else {
            Kind::Connect
        };
        let hint = match kind {
            Kind::Tls if has("UnknownIssuer") => {
                format!(
                    "put the CA that signed {host}'s certificate into a PEM file and name it with --ca or registry.ca"
                )
            }
            Kind::Tls if has("InvalidContentType") => {
                format!("{host} seems to speak plain http there: --plain-http {host} or registry.plain_http")
            }
            Kind::Tls if has("NotValidForName") => {
                format!(
                    "{host}'s certificate is for another name: use that name in the reference, or renew it"
                )
            }
            Kind::Tls if has("Expired") => {
                format!("{host}'s certificate has expired, or this machine's clock is wrong")
            }
            Kind::Proxy => "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY".into(),
            Kind::Dns => format!("does {host} resolve on this machine?"),
            Kind::Connect => {
                format!("can this machine reach {host}? A proxy is taken from HTTPS_PROXY and HTTP_PROXY")
            }
            _ => String::new(),
        };
        Self { kind, detail: format!("{what}: {chain}"), hint, retry_after: None }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for RegistryError {}

/// The causes of an error, outermost first, without its URL (it may carry a signature or a token).
fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    if parts.is_empty() {
        parts.push(if error.is_timeout() { "timed out".into() } else { "the connection failed".into() });
    }
    crate::oci::error_code::shown(&parts.join(": "))
}
