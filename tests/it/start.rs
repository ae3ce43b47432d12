//! What a start costs, by the entry.

use crate::support::larder::{Home, settings};
use crate::support::strace::{self, Call};
use larder::clock::Timestamp;
use larder::oci::Digest;
use larder::record::{Module, Present, Record, State};
use larder::store::layout::Layout;

/// Entries of a cache.
const ENTRIES: usize = 300;
/// Calls for each: to look at a module; to open, read and close a record.
const CALLS: usize = 4;
/// Puts modules and their records where a larder keeps them.
fn fill(layout: &Layout) {
    std::fs::create_dir_all(layout.records()).unwrap();
    for n in 0..ENTRIES {
        let bytes = format!("module {n}").into_bytes();
        let digest = Digest::of(&bytes);
        let path = layout.module(&digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        let module = Module { digest, size: bytes.len() as u64, md5: "0".repeat(32), abi: None };
        let since = Timestamp::from_millis(1_700_000_000_000);
        let (layer_media_type, first) = ("application/wasm".into(), None);
        let present = Present {
            manifest: digest,
            layer: digest,
            layer_media_type,
            module,
            since,
            first,
            signatures: None,
        };
        let reference = format!("registry.invalid/plugins/p{n}:1").parse().unwrap();
        let record = Record { reference, checked_at: since, state: State::Present(present) };
        std::fs::write(layout.record(&record.reference), record.encode()).unwrap();
    }
}

#[test]
fn a_start_asks_the_kernel_for_each_entry_four_times_and_finds_them_all() {
    let home = Home::in_memory(&settings("registry.invalid"));
    fill(&Layout::new(&home.cache()));
    let trace = home.path().join("calls");
    let tool = ["strace", "-f", "-y", "-o", trace.to_str().unwrap()];
    let mut command = home.command(&tool);
    let told = command.args(["list", "--limit", "1", "--output", "json"]).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{text}{}", String::from_utf8_lossy(&told.stderr));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["total"], ENTRIES, "{text}");
    // Files of entries are named by digests.
    let named = |text: &str| text.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == 64);
    // A debug build looks whether a descriptor is open before it closes it.
    let of_ours = |call: &&Call| call.name != "fcntl" && named(&call.arguments);
    let about = strace::calls(&trace).iter().filter(of_ours).count();
    assert!(about >= ENTRIES * 2, "{about} calls: are they those of a start?");
    assert!(about <= ENTRIES * CALLS, "{about} calls for {ENTRIES} entries");
}
