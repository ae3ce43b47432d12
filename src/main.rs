//! The program: see `larder::cli`.

use std::process::ExitCode;

/// Log lines are made by one thread and freed by another, and with the system's allocator the two wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything builds a TLS client: with no default the library panics, and only one is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    larder::cli::run()
}
