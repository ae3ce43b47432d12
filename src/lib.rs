pub mod artifact;
pub mod catalog;
pub mod clock;
pub mod freshness;
pub mod http;
pub mod oci;
pub mod plugin;
pub mod record;
