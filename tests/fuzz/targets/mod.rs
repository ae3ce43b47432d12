//! Every target, for the tests that run the corpus without cargo-fuzz.

pub mod access_log;
pub mod bundle;
pub mod certificate;
pub mod challenge;
pub mod conditional;
pub mod configuration;
pub mod docker_config;
pub mod error_text;
pub mod head;
pub mod hosts_toml;
pub mod layer;
pub mod listing;
pub mod lock;
pub mod manifest;
pub mod module;
pub mod path;
pub mod pattern;
pub mod pem;
pub mod properties;
pub mod proxy;
pub mod range;
pub mod record;
pub mod redirect;
pub mod reference;
pub mod secret;
pub mod signature;
pub mod template;
pub mod token;

/// What takes an input and fails where a promise is broken.
type Check = fn(&[u8]);

/// The targets by name.
pub const ALL: &[(&str, Check)] = &[
    ("access_log", access_log::check),
    ("bundle", bundle::check),
    ("certificate", certificate::check),
    ("challenge", challenge::check),
    ("conditional", conditional::check),
    ("configuration", configuration::check),
    ("docker_config", docker_config::check),
    ("error_text", error_text::check),
    ("head", head::check),
    ("hosts_toml", hosts_toml::check),
    ("layer", layer::check),
    ("listing", listing::check),
    ("lock", lock::check),
    ("manifest", manifest::check),
    ("module", module::check),
    ("path", path::check),
    ("pattern", pattern::check),
    ("pem", pem::check),
    ("properties", properties::check),
    ("proxy", proxy::check),
    ("range", range::check),
    ("record", record::check),
    ("redirect", redirect::check),
    ("reference", reference::check),
    ("secret", secret::check),
    ("signature", signature::check),
    ("template", template::check),
    ("token", token::check),
];
