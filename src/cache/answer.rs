//! What the heart answers: a module, and how it came to be served.

use crate::catalog::Why;
use crate::clock::Timestamp;
use crate::http::cache_status::CacheStatus;
use crate::oci::{Digest, Reference};
use crate::record::{Module, Present};
use crate::store::Body;
use std::path::PathBuf;

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
    /// Its facts.
    pub module: Module,
    /// Since when it has been what is asked for.
    pub modified: Timestamp,
    /// Where it came from.
    pub origin: Origin,
    /// Which step of the plan it answers.
    pub why: Why,
    /// How.
    pub status: CacheStatus,
}

/// Where a module came from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A registry.
    Registry {
        /// The reference that resolved to it.
        reference: Reference,
        /// What the reference resolved to.
        manifest: Digest,
    },
    /// A local folder.
    Overlay(PathBuf),
}

impl Found {
    /// What a reference resolved to.
    pub(super) fn resolved(reference: &Reference, present: &Present, why: Why, status: CacheStatus) -> Self {
        let origin = Origin::Registry { reference: reference.clone(), manifest: present.manifest };
        Self { module: present.module.clone(), modified: present.since, origin, why, status }
    }
}
