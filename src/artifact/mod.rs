//! From a manifest to a module: which child of an index, which layer, which bytes of it.
//!
//! Artifacts in the wild come in seven shapes and their media types lie. So types only decide the order in which layers
//! are looked at ([`select`]), and the bytes decide what they are ([`extract`]). Nothing is unpacked to disk by its own
//! name, no link is followed, nothing grows beyond a limit, and the module is never wholly in memory.

pub mod extract;
pub mod inspect;
pub mod metadata_txt;
mod reader;
pub mod select;
pub mod whiteout;

use bytesize::ByteSize;
use serde::Deserialize;

/// What an artifact may cost.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest manifest, in bytes.
    pub manifest: ByteSize,
    /// Largest module and largest layer, in bytes.
    pub module: ByteSize,
    /// Largest ratio of unpacked to packed bytes, once more than 64 MiB are unpacked.
    pub ratio: u64,
    /// Most entries of a tar archive.
    pub tar_entries: u64,
}
