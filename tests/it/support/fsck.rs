//! What must be true of a cache directory at any instant, and what it holds.

use larder::oci::Digest;
use larder::record::Record;
use larder::store::layout::Layout;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Everything that is wrong with a directory, a line each: a module that is not what its name says, a record that is
/// torn, lies under another's name or leads to nothing, whatever is outside the layout, and drafts that are no files.
pub fn problems(cache: &Path) -> Vec<String> {
    let (root, layout) = (cache.join("v1"), Layout::new(cache));
    let (mut wrong, mut modules, mut records) = (Vec::new(), HashMap::new(), Vec::new());
    for path in all_below(&root) {
        // A draft of a larder that is at work may have got its name since.
        let Ok(kind) = std::fs::symlink_metadata(&path).map(|found| found.file_type()) else {
            wrong.push(format!("{}: it is gone", path.display()));
            continue;
        };
        let names: Vec<_> = path.strip_prefix(&root).unwrap().iter().map(|n| n.to_str().unwrap()).collect();
        let name = *names.last().unwrap();
        match names.as_slice() {
            ["lock" | "format"] | ["tmp", _] if kind.is_file() => {}
            ["modules" | "records" | "tmp" | "quarantine"] | ["modules", "sha256"] if kind.is_dir() => {}
            ["modules", "sha256", two] if kind.is_dir() && is_hex(two, 2) => {}
            ["modules", "sha256", two, _] if kind.is_file() && is_hex(name, 64) && name.starts_with(two) => {
                let bytes = std::fs::read(&path).unwrap();
                if Digest::of(&bytes).hex() != name {
                    wrong.push(format!("{}: its {} bytes are another's", path.display(), bytes.len()));
                }
                modules.insert(name.to_owned(), bytes.len() as u64);
            }
            ["records", _] if kind.is_file() => match Record::decode(&std::fs::read(&path).unwrap()) {
                Ok(record) if layout.record(&record.reference) == path => records.push(record),
                Ok(record) => wrong.push(format!("{}: it is {}'s", path.display(), record.reference)),
                Err(problem) => wrong.push(format!("{}: {problem}", path.display())),
            },
            ["quarantine", ..] => {}
            _ => wrong.push(format!("{}: it does not belong here", path.display())),
        }
    }
    for record in &records {
        if let Some(present) = record.present()
            && modules.get(&present.module.digest.hex()) != Some(&present.module.size)
        {
            wrong.push(format!("{}: its record leads to nothing", record.reference));
        }
    }
    wrong
}

/// Fails with what is wrong, and when `larder fsck` is of another opinion. Drafts of a killed larder are no fault here.
pub fn check(cache: &Path, when: &str) {
    // Where a larder is at work, a module may come between a look at modules and one at records. What is wrong stays.
    let mut wrong = problems(cache);
    for _ in 0..50 {
        if wrong.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        wrong = problems(cache);
    }
    assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
    if cache.join("v1").is_dir() {
        let report = larder::store::fsck::check(cache, false, &[]).unwrap();
        let told: Vec<_> = report.problems.iter().filter(|problem| problem.invariant != "I4").collect();
        assert!(told.is_empty(), "{when}: larder fsck finds {told:?}");
    }
}

/// The references that lead to a module, and to which.
pub fn held(cache: &Path) -> BTreeMap<String, Digest> {
    let records = all_below(&cache.join("v1/records"));
    let records = records.iter().filter_map(|path| Record::decode(&std::fs::read(path).ok()?).ok());
    records.filter_map(|r| Some((r.reference.to_string(), r.present()?.module.digest))).collect()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Files and folders; links are not followed. What goes away meanwhile was there.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(all_below(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}
