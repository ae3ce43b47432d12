//! Why there is no module: a closed list, each with a lifetime, because an error is an answer too.

use crate::artifact::extract::ExtractError;
use crate::artifact::select::SelectError;
use crate::freshness::Lifetimes;
use crate::oci::Reference;
use crate::oci::manifest::ManifestError;
use crate::record::Absence;
use crate::registry::{Kind, RegistryError};
use crate::store::StoreError;
use std::time::Duration;

/// The longest text of an error, in characters: a screen.
const MOST_DETAIL: usize = 1000;

/// The kinds that an answer is decided by. `server::refuse` maps each to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Said with authority: there is no such name or version.
    NotFound,
    /// The registry refuses us.
    Forbidden,
    /// The artifact is there and holds no usable module.
    Unsupported,
    /// The artifact is there and over a limit.
    TooLarge,
    /// What came does not match its digest or size.
    Corrupt,
    /// The registry is too slow.
    TimedOut,
    /// The fetch goes on and has taken longer than a request waits.
    Pending,
    /// No usable answer from the registry.
    Unavailable,
    /// The registry asked us to stay away.
    RateLimited,
    /// Our own disk or limits.
    Overloaded,
    /// A defect of ours.
    Internal,
}

/// A failure, with all that its reader needs.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct CacheError {
    /// What to decide by.
    pub kind: ErrorKind,
    /// Stable word for answers, logs and metrics.
    pub code: &'static str,
    /// What was asked of whom and what came back.
    pub detail: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// What it is about.
    pub reference: Option<Reference>,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

impl CacheError {
    /// An error without hint and reference.
    ///
    /// The text may quote what a registry or an archive says, so it is cleaned and bounded here, whatever the quoter did.
    pub fn new(kind: ErrorKind, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = crate::oci::error_code::bounded(&detail.into(), MOST_DETAIL);
        Self { kind, code, detail, hint: String::new(), reference: None, retry_after: None }
    }

    /// With what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// About `reference`.
    pub fn about(mut self, reference: &Reference) -> Self {
        self.reference = Some(reference.clone());
        self
    }

    /// What a registry said.
    pub fn registry(reference: &Reference, error: RegistryError) -> Self {
        let kind = match error.kind {
            Kind::NotFound => ErrorKind::NotFound,
            Kind::Denied => ErrorKind::Forbidden,
            Kind::RateLimited => ErrorKind::RateLimited,
            Kind::TimedOut => ErrorKind::TimedOut,
            Kind::Corrupt => ErrorKind::Corrupt,
            Kind::TooLarge => ErrorKind::TooLarge,
            Kind::Dns
            | Kind::Connect
            | Kind::Tls
            | Kind::Proxy
            | Kind::Upstream
            | Kind::RealmRefused
            | Kind::RedirectRefused => ErrorKind::Unavailable,
        };
        Self {
            retry_after: error.retry_after,
            ..Self::new(kind, error.kind.code(), error.detail).hint(error.hint)
        }
        .about(reference)
    }

    /// All candidates are absent.
    pub fn absent(absences: &[(Reference, Absence)]) -> Self {
        let tried: Vec<_> = absences
            .iter()
            .map(|(reference, absence)| match absence {
                Absence::NotFound => format!("{reference} does not exist"),
                Absence::Denied => format!("{reference} does not exist or is not for us"),
            })
            .collect();
        let denied = absences.iter().find(|(_, absence)| *absence == Absence::Denied);
        let (kind, code, about) = match denied {
            Some((reference, _)) => (ErrorKind::Forbidden, "denied", Some(reference)),
            None => (ErrorKind::NotFound, "not_found", absences.first().map(|(reference, _)| reference)),
        };
        let error = Self::new(kind, code, format!("the registry was asked: {}", tried.join("; ")));
        let error = match denied {
            Some((reference, _)) => {
                let host = reference.registry();
                error.hint(format!("check the version; if it is private, set registry.hosts.{host}.username and password_file"))
            }
            None => error,
        };
        Self { reference: about.cloned(), ..error }
    }

    /// A request waited as long as it may.
    pub fn pending(hold: Duration, reference: Option<Reference>) -> Self {
        let detail = format!(
            "it is still being fetched after {}; the fetch goes on",
            humantime::format_duration(hold)
        );
        let error = Self::new(ErrorKind::Pending, "pending", detail).hint("ask again in a few seconds");
        Self { reference, retry_after: Some(Duration::from_secs(2)), ..error }
    }

    /// A fetch took longer than it may.
    pub fn timed_out(reference: &Reference, limit: Duration) -> Self {
        let detail = format!("fetching {reference} took over {}", humantime::format_duration(limit));
        Self::new(ErrorKind::TimedOut, "timeout", detail)
            .hint("raise fill.timeout for a slow line")
            .about(reference)
    }

    /// A defect of ours.
    pub fn internal(detail: &str) -> Self {
        Self::new(ErrorKind::Internal, "internal", detail)
            .hint("this is a defect of larder; its log says more")
    }

    /// A manifest that cannot be used.
    pub fn manifest(reference: &Reference, error: &ManifestError) -> Self {
        Self::new(ErrorKind::Unsupported, error.code(), format!("{reference}: {error}")).about(reference)
    }

    /// A manifest without a layer to use.
    pub fn select(reference: &Reference, error: &SelectError) -> Self {
        let kind = if matches!(error, SelectError::TooLarge { .. }) {
            ErrorKind::TooLarge
        } else {
            ErrorKind::Unsupported
        };
        Self::new(kind, error.code(), format!("{reference}: {error}")).about(reference)
    }

    /// A layer without a module.
    pub fn extract(reference: &Reference, error: ExtractError) -> Self {
        let kind = match &error {
            ExtractError::Io(_) => ErrorKind::Overloaded,
            ExtractError::TooLarge(_) | ExtractError::Bomb(_) => ErrorKind::TooLarge,
            _ => ErrorKind::Unsupported,
        };
        Self::new(kind, error.code(), format!("{reference}: {error}")).about(reference)
    }

    /// Bytes that are not what the manifest says.
    pub fn corrupt(reference: &Reference, code: &'static str, detail: String) -> Self {
        let hint =
            "something between here and the registry changes what passes; it is asked again in a minute";
        Self::new(ErrorKind::Corrupt, code, detail).hint(hint).about(reference)
    }

    /// A local file that is no module.
    pub fn bad_local_file(path: &std::path::Path, problem: &str) -> Self {
        let detail = format!("the local file {} cannot be served: {problem}", path.display());
        let hint = "replace or remove the file; it wins over every registry as long as it is there";
        Self::new(ErrorKind::Unsupported, "bad_local_file", detail).hint(hint)
    }

    /// A local file that is another one than a moment ago.
    pub fn changing_local_file(name: &crate::plugin::PluginName) -> Self {
        let detail = format!("the local file of {name} is being changed");
        let hint = "ask again in a few seconds";
        Self::new(ErrorKind::Overloaded, "local_file_changing", detail).hint(hint)
    }

    /// The absence that a registry's refusal amounts to.
    pub fn absence(&self) -> Option<Absence> {
        match self.kind {
            ErrorKind::NotFound => Some(Absence::NotFound),
            // Only the registry's own word; the token service's is a Denied too.
            ErrorKind::Forbidden => Some(Absence::Denied),
            _ => None,
        }
    }

    /// How long the same question is answered with this error.
    pub fn remembered_for(&self, lifetimes: &Lifetimes) -> Duration {
        match self.kind {
            ErrorKind::NotFound | ErrorKind::Forbidden => lifetimes.absent,
            ErrorKind::Unsupported | ErrorKind::TooLarge | ErrorKind::Corrupt => lifetimes.unusable,
            ErrorKind::RateLimited => {
                self.retry_after.unwrap_or(lifetimes.transient).max(lifetimes.transient)
            }
            ErrorKind::TimedOut
            | ErrorKind::Pending
            | ErrorKind::Unavailable
            | ErrorKind::Overloaded
            | ErrorKind::Internal => lifetimes.transient,
        }
    }
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> Self {
        Self::new(ErrorKind::Overloaded, "store", error.to_string()).hint(error.hint())
    }
}
