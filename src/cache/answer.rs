//! What the heart answers: a module, and how it came to be served.

use crate::catalog::Why;
use crate::clock::Timestamp;
use crate::http::cache_status::CacheStatus;
use crate::oci::Digest;
use crate::record::{Module, Present, Record};
use crate::store::Body;
use crate::store::overlay::Entry;
use std::fmt;
use std::sync::Arc;

/// A module's bytes, and how they came to be served.
#[derive(Debug, Clone)]
pub struct Served {
    /// The bytes.
    pub body: Body,
    /// The rest.
    pub found: Found,
}

/// What is known of a module without its bytes.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it came from.
    pub origin: Origin,
    /// Which step of the plan it answers.
    pub why: Why,
    /// How.
    pub status: CacheStatus,
}

/// Where a module came from. Shown, it is the reference, or the file's path.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A registry.
    Registry(Resolved),
    /// A local folder, and a file in it that is a module.
    Overlay(Arc<Entry>),
}

/// The record of a reference that resolves to a module.
#[derive(Debug, Clone)]
pub struct Resolved(Arc<Record>);

impl Resolved {
    /// `None` when the record says that there is nothing.
    pub(super) fn of(record: Arc<Record>) -> Option<Self> {
        record.present().is_some().then_some(Self(record))
    }

    /// The record.
    pub fn record(&self) -> &Arc<Record> {
        &self.0
    }

    /// What the reference resolves to.
    pub fn present(&self) -> &Present {
        self.0.present().unwrap_or_else(|| unreachable!("it was looked at when this was made"))
    }
}

impl Found {
    /// The module's facts.
    pub fn module(&self) -> &Module {
        match &self.origin {
            Origin::Registry(resolved) => &resolved.present().module,
            Origin::Overlay(entry) => match &entry.module {
                Ok(module) => module,
                Err(_) => unreachable!("only a file that is a module is found"),
            },
        }
    }

    /// Since when the module has been what is asked for.
    pub fn modified(&self) -> Timestamp {
        match &self.origin {
            Origin::Registry(resolved) => resolved.present().since,
            Origin::Overlay(entry) => entry.modified,
        }
    }
}

impl Origin {
    /// What the reference resolves to; a file has none.
    pub fn manifest(&self) -> Option<Digest> {
        match self {
            Self::Registry(resolved) => Some(resolved.present().manifest),
            Self::Overlay(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(resolved) => resolved.record().reference.fmt(f),
            Self::Overlay(entry) => entry.path.display().fmt(f),
        }
    }
}
