//! What may be served: rules, which know neither the registry nor the disk.
//!
//! So far there is one: who must have signed ([`signature`]).

pub mod signature;
