//! What may be served, and whether anybody may be asked for it: rules, which know neither registry nor disk.
//!
//! [`rules`] has the settings; [`gate`] is what the cache asks: before anybody is asked ([`Gate::admits`]), of what was
//! fetched and of what is held ([`Gate::takes`]), and whether a registry may be asked at all ([`Gate::mode`]). [`trust`] is
//! what it says of signatures.

pub mod gate;
pub mod lock;
pub mod rules;
pub mod trust;

pub use gate::{Gate, Judged, Refusal, Subject};
pub use rules::{Config, FloatingTags, Mode, RuleConfig};
pub use trust::KeyFiles;
