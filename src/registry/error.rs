//! What can go wrong on the way to a registry, told so that the reader knows what to change.

use std::error::Error as StdError;
use std::fmt;
use std::io;
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
    /// The token service failed.
    Token,
    /// The token service is on a host that credentials may not go to.
    RealmRefused,
    /// A redirect that is not followed.
    RedirectRefused,
    /// A name that resolves to an address that is not connected to.
    AddressRefused,
    /// The settings for this registry cannot be used.
    Settings,
}

impl Kind {
    /// The stable word for answers, logs and metrics, where nothing finer is known.
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
            Self::Token => "token",
            Self::RealmRefused => "realm_refused",
            Self::RedirectRefused => "redirect_refused",
            Self::AddressRefused => "address_refused",
            Self::Settings => "settings",
        }
    }

    /// True where the registry's own road is broken, and not merely the answer to one question.
    fn is_outage(self) -> bool {
        matches!(self, Self::Dns | Self::Connect | Self::Tls | Self::Proxy | Self::TimedOut)
    }
}

/// A failed conversation with a registry.
#[derive(Debug, Clone)]
pub struct RegistryError {
    /// The cause.
    pub kind: Kind,
    /// The cause in a stable word, finer than the kind.
    pub code: &'static str,
    /// What was asked of whom and what came back; without credentials.
    pub detail: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// How long the registry asks us to stay away.
    pub retry_after: Option<Duration>,
    /// The status of the answer, where there was one.
    pub status: Option<u16>,
    /// False where the registry was not asked, because it is being left alone, or where another host answered in its place.
    pub was_asked: bool,
}

impl RegistryError {
    /// An error without a hint.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            code: kind.code(),
            detail: detail.into(),
            hint: String::new(),
            retry_after: None,
            status: None,
            was_asked: true,
        }
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// With a finer word.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// True where asking again in a moment may end better.
    pub fn may_pass(&self) -> bool {
        let passing =
            matches!(self.kind, Kind::Dns | Kind::Connect | Kind::Proxy | Kind::TimedOut | Kind::Upstream);
        let said = self.status.is_some_and(|status| (400..500).contains(&status) && status != 408);
        // A proxy that asks for a password asks again.
        passing && self.was_asked && !said && self.code != "proxy_auth" && self.code != "pull_timeout"
    }

    /// True where nobody was asked because others just failed: it may be over in a moment.
    pub fn is_waiting_for_others(&self) -> bool {
        !self.was_asked && self.kind.is_outage()
    }

    /// True when the registry itself, and not one of its answers, is in trouble.
    pub fn is_outage(&self) -> bool {
        // A token service in trouble is not the registry.
        self.kind.is_outage() || (self.kind != Kind::Token && matches!(self.status, Some(502..=504)))
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for RegistryError {}

/// The first cause of type `T`, looking into the errors that I/O errors carry.
pub fn cause<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        // An I/O error's `source` is that of the error it carries, which would be passed over.
        if let Some(inner) = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            next = Some(inner);
        } else {
            next = current.source();
        }
    }
    None
}

/// The causes of an error, outermost first, without its URL (it may carry a signature or a token).
pub fn chain(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = StdError::source(error);
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
