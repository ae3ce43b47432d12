//! What a hit asks the index, with few entries and with many: the cost stays the same within a tenth.

use crate::larder::Larder;
use divan::{Bencher, black_box};
use futures_util::FutureExt;
use larder::http::cache_status::CacheStatus;

const SIZE: usize = 1 << 10;
const MEMORY: u64 = 64 << 20;

/// Modules, each with its record. A test needs not write so many.
fn entries() -> Vec<usize> {
    if std::env::args().any(|told| told == "--bench") { vec![100, 10_000, 100_000] } else { vec![100] }
}

/// Looking up a reference and a module: one table each, and no walk.
#[divan::bench(args = entries())]
fn record_and_module(bencher: Bencher, entries: usize) {
    let larder = Larder::open(SIZE, entries, MEMORY);
    let reference = larder.plan.candidates[0].reference.clone();
    bencher.bench(|| {
        let record = larder.store.record(black_box(&reference)).unwrap();
        let module = &record.present().unwrap().module;
        assert!(larder.store.holds(module) && larder.store.uncached(module).is_none());
        record
    });
}

/// The whole decision of a hit from memory.
#[divan::bench(args = entries())]
fn cache_get(bencher: Bencher, entries: usize) {
    let larder = Larder::open(SIZE, entries, MEMORY);
    bencher.bench_local(|| {
        let served = larder.get().now_or_never().unwrap();
        assert!(matches!(served.found.status, CacheStatus::Hit { detail: "memory", .. }));
        served
    });
}
