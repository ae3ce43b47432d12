//! What the kernel says of a running program.

/// Bytes of memory that it has resident.
pub fn resident(id: u32) -> u64 {
    status(id, "VmRSS:")
}

/// The most bytes of memory that it had resident. Its own text is left out: the kernel takes that back when it must, and
/// of a build for tests there is more of it than anybody will run.
pub fn peak(id: u32) -> u64 {
    status(id, "VmHWM:") - status(id, "RssFile:")
}

/// A line with a size in the kernel's summary, in bytes.
fn status(id: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Descriptors that it has open.
pub fn descriptors(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}
