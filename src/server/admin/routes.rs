//! The paths of the administration, and what each means.

use http::Method;

/// The document that describes them.
pub const OPENAPI: &str = "/api/v1/openapi.json";

/// What of the administration is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Is it well.
    Status,
    /// The last hour.
    History,
    /// What is known and held.
    Entries,
    /// One of it.
    Entry,
    /// What failed lately.
    Failures,
    /// Names.
    Catalog,
    /// A plugin's road.
    Explain,
    /// How far lists of plugins are.
    Jobs,
    /// Fetch some.
    Prefetch,
    /// Ask about some again.
    Revalidate,
    /// Take a bundle in.
    Import,
    /// Take some away.
    Purge,
    /// How far the reading of all modules is.
    Scrubbing,
    /// Read all modules.
    Scrub,
    /// Read the settings.
    Reload,
    /// What is logged.
    Level,
    /// Log more, or less.
    SetLevel,
}

/// Every path and method that is not for everybody. `HEAD` goes with `GET`.
pub const ROUTES: [(&str, Method, Action); 18] = [
    ("/api/v1/status", Method::GET, Action::Status),
    ("/api/v1/history", Method::GET, Action::History),
    ("/api/v1/entries", Method::GET, Action::Entries),
    ("/api/v1/entry", Method::GET, Action::Entry),
    ("/api/v1/failures", Method::GET, Action::Failures),
    ("/api/v1/catalog", Method::GET, Action::Catalog),
    ("/api/v1/explain", Method::GET, Action::Explain),
    ("/explain", Method::GET, Action::Explain),
    ("/api/v1/prefetch", Method::GET, Action::Jobs),
    ("/api/v1/prefetch", Method::POST, Action::Prefetch),
    ("/api/v1/revalidate", Method::POST, Action::Revalidate),
    ("/api/v1/import", Method::POST, Action::Import),
    ("/api/v1/purge", Method::POST, Action::Purge),
    ("/api/v1/scrub", Method::GET, Action::Scrubbing),
    ("/api/v1/scrub", Method::POST, Action::Scrub),
    ("/api/v1/reload", Method::POST, Action::Reload),
    ("/api/v1/log", Method::GET, Action::Level),
    ("/api/v1/log", Method::PUT, Action::SetLevel),
];

impl Action {
    /// The word for metrics and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::History => "history",
            Self::Entries => "entries",
            Self::Entry => "entry",
            Self::Failures => "failures",
            Self::Catalog => "catalog",
            Self::Explain => "explain",
            Self::Jobs => "jobs",
            Self::Prefetch => "prefetch",
            Self::Revalidate => "revalidate",
            Self::Import => "import",
            Self::Purge => "purge",
            Self::Scrubbing => "scrubbing",
            Self::Scrub => "scrub",
            Self::Reload => "reload",
            Self::Level => "log_level",
            Self::SetLevel => "set_log_level",
        }
    }

    /// Whether something is another after it.
    pub fn is_change(self) -> bool {
        matches!(
            self,
            Self::Prefetch
                | Self::Import
                | Self::Revalidate
                | Self::Purge
                | Self::Scrub
                | Self::Reload
                | Self::SetLevel
        )
    }
}

/// What a request asks, if it is for the administration.
pub fn action(path: &str, method: &Method) -> Option<Action> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().find(|(at, by, _)| *at == path && by == method).map(|(.., action)| *action)
}

/// The methods of a path of this port, for `Allow`; `None` for one that it does not have.
pub fn methods(path: &str) -> Option<&'static str> {
    if matches!(path, "/" | "/metrics" | "/livez" | "/readyz" | OPENAPI) || path.starts_with("/assets/") {
        return Some("GET, HEAD");
    }
    let has = |method| ROUTES.iter().any(|(at, by, _)| *at == path && by == method);
    match (has(Method::GET), has(Method::POST), has(Method::PUT)) {
        (true, true, _) => Some("GET, HEAD, POST"),
        (true, _, true) => Some("GET, HEAD, PUT"),
        (true, ..) => Some("GET, HEAD"),
        (_, true, _) => Some("POST"),
        (.., true) => Some("PUT"),
        _ => None,
    }
}
