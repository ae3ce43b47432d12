//! The words of the OCI image and distribution specifications, parsed once at the edge.
//!
//! A [`Reference`] says where an artifact lives, a [`Digest`] what its bytes are, a [`Manifest`] what it is made of.
//! Everything here parses, prints and compares; nothing reads a file, a socket or a clock.
//! `oci-spec` does the JSON of manifests; our own types stand where its are bare strings, or where it would refuse
//! references that clusters really use (`registry/foo:1`, `[::1]:5000/foo`).

pub mod digest;
pub mod error_code;
pub mod manifest;
pub mod media_type;
pub mod reference;

pub use digest::{Digest, Hasher};
pub use manifest::{Contents, Descriptor, Document, Manifest};
pub use reference::Reference;
