//! larder: Wasm plugins over plain HTTP, pulled lazily from OCI registries and kept.
//!
//! A plugin URL names a plugin and a version; the [`catalog`] turns that into candidate references. A reference by tag
//! is a pointer with a freshness lifetime, and its manifest digest is its validator. What is served is a module, kept
//! by its SHA-256, verified when it is written and when it is read, never stale. So there are two memories that never
//! mix: [`record`]s by reference (small, mutable, they age) and modules by digest (large, immutable).
//!
//! The folders are floors, and imports go down only: words ([`oci`], [`plugin`], [`clock`]), rules ([`catalog`],
//! [`signature`], [`record`], [`freshness`], [`http`], [`artifact`], [`failures`], [`metrics`], [`policy`]), hands ([`origin`],
//! [`registry`],
//! [`store`], [`bundle`]), heart ([`cache`],
//! [`admin`]), face ([`server`]), frame ([`config`], [`cli`]). `ARCHITECTURE.md` says more.

pub mod admin;
pub mod artifact;
pub mod bundle;
pub mod cache;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod failures;
pub mod freshness;
pub mod http;
pub mod lock;
pub mod metrics;
pub mod oci;
pub mod origin;
pub mod plugin;
pub mod policy;
pub mod proof;
pub mod record;
pub mod registry;
pub mod server;
pub mod signature;
pub mod store;
