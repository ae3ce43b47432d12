//! What the settings ask of a machine that does not have it is told at the start and by `larder check`.

use crate::support::cgroup::Cgroup;
use crate::support::larder::{Home, PROGRAM, memory};
use std::path::Path;
use std::process::Command;

/// What `larder check` warns of, with these settings and this cache directory.
fn warnings(settings: &str, dir: &Path, starter: &[String]) -> Vec<String> {
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("larder.yaml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, settings).unwrap();
    let words: Vec<&str> = starter.iter().map(String::as_str).chain([PROGRAM]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("check").arg("--config").arg(&file).arg("--cache-dir").arg(dir);
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "a warning is no fault: {told}");
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    told.lines().filter_map(|line| Some(line.strip_prefix("larder: warning: ")?.to_owned())).collect()
}

#[test]
fn a_cache_in_memory_and_a_limit_beyond_the_disk_are_told_before_the_directory_is_there() {
    let shm = memory();
    let told = warnings("cache: {disk: 4PiB}", &shm.path().join("not/yet"), &[]);
    assert!(
        told.iter().any(|line| line.starts_with("--cache-dir: cache.dir: ") && line.contains("tmpfs")),
        "{told:?}"
    );
    let disk = told.iter().find(|line| line.contains("cache.disk: is 4.0 PiB"));
    assert!(disk.is_some_and(|line| line.contains("larder.yaml:1:")), "{told:?}");
    let about = |told: &[String], key: &str| told.iter().any(|line| line.contains(key));
    let told = warnings("cache: {disk: 256MiB}", shm.path(), &[]);
    assert!(!about(&told, "cache.disk: ") && !about(&told, "cache.memory: "), "{told:?}");
}

#[test]
fn budgets_beyond_the_memory_that_the_kernel_gives_are_told() {
    let cgroup = Cgroup::of("machine", 128 << 20);
    let dir = tempfile::tempdir().unwrap();
    let told = warnings("", dir.path(), &cgroup.starter());
    let memory = told.iter().find(|line| line.contains("cache.memory, fill.memory and server.send_memory"));
    assert!(
        memory.is_some_and(|line| line.contains("are 184.0 MiB; this process may have 128.0 MiB")),
        "{told:?}"
    );
    let less = "cache: {memory: 16MiB}\nfill: {memory: 32MiB}";
    let told = warnings(less, dir.path(), &cgroup.starter());
    assert!(!told.iter().any(|line| line.contains("cache.memory")), "{told:?}");
    let larder = Home::new("").under(&cgroup.starter()).start();
    let is_told = |line: &serde_json::Value| {
        line["level"] == "WARN"
            && line["message"].as_str().is_some_and(|text| text.contains("this process may have"))
    };
    assert!(larder.log().iter().any(is_told), "{}", larder.log_text());
    drop(larder);
}
