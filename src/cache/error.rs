//! Why there is no module: a closed list, each with a lifetime, because an error is an answer too.

use super::signed::UNREACHABLE;
use crate::artifact::extract::ExtractError;
use crate::artifact::select::SelectError;
use crate::freshness::Lifetimes;
use crate::oci::Reference;
use crate::oci::manifest::ManifestError;
use crate::policy::Refusal;
use crate::record::Absence;
use crate::registry::{Kind, RegistryError};
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// The longest text of an error, in characters: a screen.
const MOST_DETAIL: usize = 1000;

/// The code of an error that room on the disk would mend.
pub(super) const DISK_FULL: &str = "disk_full";
/// The code of any other error of the disk.
pub(super) const DISK_FAILED: &str = "store";

/// The code of what is not held while nobody may be asked.
pub const OFFLINE: &str = "offline";

/// The kinds that an answer is decided by. `server::refuse` maps each to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Said with authority: there is no such name or version.
    NotFound,
    /// The registry refuses us.
    Forbidden,
    /// The policy does not allow it.
    Refused,
    /// Nobody who is believed stands for what is there.
    Untrusted,
    /// Whether anybody stands for it could not be asked.
    Unproved,
    /// It is not held, and nobody may be asked.
    Offline,
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
            _ if error.code == OFFLINE => ErrorKind::Offline,
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
            | Kind::Token
            | Kind::RealmRefused
            | Kind::RedirectRefused
            | Kind::AddressRefused
            | Kind::Settings => ErrorKind::Unavailable,
        };
        Self { retry_after: error.retry_after, ..Self::new(kind, error.code, error.detail).hint(error.hint) }
            .about(reference)
    }

    /// The policy wants to know who signed it, and nobody could be asked.
    pub(super) fn unproved(reference: &Reference, error: RegistryError) -> Self {
        Self::registry(reference, error).into_unproved(reference)
    }

    /// The same of an error on the way there, if it is of a kind that passes.
    pub(super) fn into_unproved(self, reference: &Reference) -> Self {
        match self.kind {
            ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::RateLimited => {}
            _ => return self,
        }
        let detail = format!("whether {reference} is signed could not be asked: {}", self.detail);
        Self { retry_after: self.retry_after, ..Self::new(ErrorKind::Unproved, UNREACHABLE, detail) }
            .hint(self.hint)
            .about(reference)
    }

    /// What the policy says.
    pub fn refused(refusal: Refusal) -> Self {
        let kind = if refusal.is_untrusted { ErrorKind::Untrusted } else { ErrorKind::Refused };
        Self::new(kind, refusal.code, refusal.detail).hint(refusal.hint)
    }

    /// It is not held, and the policy's mode is that nobody is asked.
    pub(super) fn offline(reference: &Reference) -> Self {
        let detail = format!(
            "{reference} is not held, and larder is offline (policy.mode, or a rule's mode): nobody is asked for it"
        );
        let hint = "ask for a version that is held, or import a bundle that has it (larder import)";
        Self::new(ErrorKind::Offline, OFFLINE, detail).hint(hint).about(reference)
    }

    /// All candidates are absent.
    pub(super) fn absent(absences: &[super::known::Absent]) -> Self {
        let tell = |absent: &super::known::Absent| match (&absent.told, absent.absence) {
            (Some(told), _) => told.detail.clone(),
            (None, Absence::NotFound) => format!("{} does not exist", absent.reference),
            (None, Absence::Denied) => format!("{} does not exist or is not for us", absent.reference),
        };
        let told: Vec<_> = absences.iter().map(tell).collect();
        let denied = absences.iter().find(|absent| absent.absence == Absence::Denied);
        let (kind, code) = match denied {
            Some(_) => (ErrorKind::Forbidden, "denied"),
            None => (ErrorKind::NotFound, "not_found"),
        };
        let about = denied.or(absences.first());
        let hint =
            about.and_then(|absent| absent.told.as_ref()).map(|told| told.hint.clone()).unwrap_or_default();
        let error = Self::new(kind, code, told.join("; ")).hint(hint);
        Self { reference: about.map(|absent| absent.reference.clone()), ..error }
    }

    /// Only what is held was wanted, and it is not (RFC 9111, section 5.2.1.7).
    pub(super) fn not_held(plan: &crate::catalog::Plan) -> Self {
        let error = Self::new(
            ErrorKind::TimedOut,
            "only_if_cached",
            "it is not held, and the request forbids to fetch it",
        );
        Self { reference: plan.candidates.first().map(|candidate| candidate.reference.clone()), ..error }
    }

    /// Fetched, and gone again before it could be served.
    pub(super) fn crowded_out(plan: &crate::catalog::Plan) -> Self {
        let detail = "what was fetched was evicted or lost before it could be served";
        let hint = "raise cache.disk if it is smaller than what is asked for at once";
        let error = Self::new(ErrorKind::Overloaded, "crowded_out", detail).hint(hint);
        Self { reference: plan.candidates.first().map(|candidate| candidate.reference.clone()), ..error }
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
        let error = match error {
            ExtractError::Io(e) => {
                return Self::from(StoreError::of_draft("unpacking", e)).about(reference);
            }
            other => other,
        };
        let kind = match &error {
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
    pub fn bad_local_file(path: &Path, problem: &str) -> Self {
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
            ErrorKind::Refused
            | ErrorKind::Untrusted
            | ErrorKind::Unsupported
            | ErrorKind::TooLarge
            | ErrorKind::Corrupt => lifetimes.unusable,
            ErrorKind::RateLimited => {
                self.retry_after.unwrap_or(lifetimes.transient).max(lifetimes.transient)
            }
            ErrorKind::TimedOut
            | ErrorKind::Pending
            | ErrorKind::Offline
            | ErrorKind::Unproved
            | ErrorKind::Unavailable
            | ErrorKind::Overloaded
            | ErrorKind::Internal => lifetimes.transient,
        }
    }
}

impl From<StoreError> for CacheError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NoRoom { .. } => "no_room",
            error if error.is_full() => DISK_FULL,
            _ => DISK_FAILED,
        };
        Self::new(ErrorKind::Overloaded, code, error.to_string()).hint(error.hint())
    }
}
