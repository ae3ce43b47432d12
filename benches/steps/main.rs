//! The steps of a hit and of a miss, each by itself: `make steps`. See README.md.
//!
//! A bench is named by its step and says what it guards. Each looks at what it gets, so that no error's road is measured by
//! accident; `make test` runs all of them once, the small ones of [`growth`] alone. Allocations are counted beside the
//! times: those of a hit must not grow with the module. The allocator is the program's.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

mod growth;
mod hit;
mod larder;
mod miss;

use divan::AllocProfiler;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: AllocProfiler<Jemalloc> = AllocProfiler::new(Jemalloc);

fn main() {
    divan::main();
    // The linker collects the benches; had it lost them, nothing would have run and nobody would know.
    let is_filtered = std::env::args().len() > 1;
    assert!(is_filtered || larder::was_opened(), "no bench was found");
}
