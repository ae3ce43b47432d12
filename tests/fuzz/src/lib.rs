//! What every target is run with: libFuzzer, and an allocator that ends a run which takes too much.

pub use cap::Cap;
pub use libfuzzer_sys;

/// Most bytes that a target may hold at once. An input is at most a few kilobytes, and larder's own buffers are smaller
/// than this: whatever needs more was led to it by the input. (What zlib and zstd take is theirs and counted by
/// libFuzzer's own limit.)
pub const MOST_BYTES: usize = 64 << 20;

/// Makes a program of a target's `check`.
#[macro_export]
macro_rules! feed {
    ($check:path) => {
        #[global_allocator]
        static ALLOCATOR: $crate::Cap<std::alloc::System> =
            $crate::Cap::new(std::alloc::System, $crate::MOST_BYTES);

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $check(bytes));
    };
}
