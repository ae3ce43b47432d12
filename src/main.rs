//! The program: see `larder::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything builds a TLS client: with no default the library panics, and only one is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    larder::cli::run()
}
