//! All promises, by what they are about. `support` has the parts: a scripted registry, a real one, a running larder.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

mod access;
mod administration;
mod agent;
mod artifacts;
mod auth;
mod cli;
mod commands;
mod corpus;
mod crash;
mod credentials;
mod crowd;
mod disk;
mod drain;
mod envoy;
mod errors;
mod freshness;
mod h2;
mod herd;
mod hostile;
mod inputs;
mod kill;
mod limits;
mod logs;
mod machine;
mod manifests;
mod matrix;
mod memory;
mod metrics;
mod mirrors;
mod model;
mod network;
mod overlay;
mod ports;
mod power;
mod registries;
mod reload;
mod reload_all;
mod reload_keys;
mod reorder;
mod routes;
mod scrub;
mod search;
mod second_opinions;
mod settings;
mod soak;
mod tidy;
mod tls;
mod traces;
mod trust;
mod upstream;
mod verdicts;
mod wall_clock;
