//! The program: see `larder::cli`.

use std::process::ExitCode;

/// Log lines are made by one thread and freed by another, and with the system's allocator the two wait for each other.
/// And what a burst has freed goes back to the system by a thread of its own: an idle larder allocates nothing.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before anything builds a TLS client: with no default the library panics, and only one is compiled in.
    let _ = rustls::crypto::ring::default_provider().install_default();
    larder::cli::run()
}
