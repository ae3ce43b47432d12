//! Bundles: plugins in one file, carried to where no registry is.
//!
//! A bundle is an OCI image layout (OCI image spec, "OCI Image Layout Specification") as a tar archive, plain or packed:
//! `oci-layout`, `index.json` and `blobs/sha256/<hex>`, with every manifest, index, configuration and layer as it came,
//! so that digests hold and oras, skopeo and crane read it. Beside them lies larder's own list, `larder.json`
//! ([`index`]): which plugin and version an artifact is, by which reference it was served, the SHA-256 of its module, and
//! the tags of its signatures, which travel with it (`signed`);
//! and, where somebody signed it, the signature over that list ([`sign`]). All else hangs on the list by digests.
//!
//! **Writing.** What an artifact is made of is gathered into a folder of parts beside the output ([`collect`], [`parts`]),
//! each under its digest and verified; whatever was broken off goes on from there. Then the archive is written
//! ([`write`]): the lists first, then the blobs by digest, with fixed times, owners and modes, so that the same content
//! gives the same bytes.
//!
//! **Reading.** A first pass notes where what begins ([`read`]); entries may come in any order. Only the names above mean
//! anything, nothing is unpacked by its name, no link is followed, and every size is held against the file's. A packed
//! bundle is unpacked into a file first, within a limit. Then the bundle is a [`crate::registry::Registry`]
//! ([`registry`]): an import is a fetch that asks the bundle, so it selects, extracts, verifies and admits what a fetch
//! does. There is no second implementation.
//!
//! Bundles of others are read too: a name in `index.json` is a full reference, or what the catalog makes of it.

pub mod collect;
pub mod index;
pub mod parts;
pub mod read;
pub mod registry;
pub mod said;
pub mod sign;
mod signed;
pub mod write;

use crate::oci::error_code::bounded;
use crate::registry::RegistryError;

pub use index::{List, Offer, Plugin, Signatures};
pub use parts::Parts;
pub use read::{Bundle, Packing};

/// Largest `index.json`, `larder.json` and signature, in bytes.
const INDEX_BYTES: u64 = 4 << 20;
/// Longest text of an error, in characters.
const MOST_DETAIL: usize = 1000;

/// Why a bundle, or a plugin of it, is not taken or not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BundleError {
    /// Stable word.
    pub code: &'static str,
    /// What is wrong; cleaned and bounded.
    pub detail: String,
    /// What to do; may be empty.
    pub hint: String,
    /// The status of a registry's answer, where there was one.
    pub status: Option<u16>,
}

impl BundleError {
    /// Without a hint.
    pub fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, detail: bounded(&detail.into(), MOST_DETAIL), hint: String::new(), status: None }
    }

    /// With what to do.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Of a disk.
    pub fn io(doing: &str, error: &std::io::Error) -> Self {
        Self::new("io", format!("{doing}: {error}"))
    }
}

impl From<RegistryError> for BundleError {
    fn from(error: RegistryError) -> Self {
        Self { status: error.status, ..Self::new(error.code, error.detail).hint(error.hint) }
    }
}
