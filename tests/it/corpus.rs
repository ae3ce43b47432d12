//! The corpus of the fuzz targets, as ordinary tests: what once was hard stays easy.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use crate::support::heart;
use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Most inputs of a target, and most bytes of one: the corpus is read by people too.
const MOST_INPUTS: usize = 40;
const MOST_BYTES: u64 = 8 << 10;

fn folder(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(below)
}

fn names_in(below: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder(below)).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_input_of_the_corpus_keeps_its_targets_promise() {
    let mut broken = Vec::new();
    for (name, check) in targets::ALL {
        for input in heart::files(&folder("corpus").join(name)) {
            let bytes = std::fs::read(&input).unwrap();
            if catch_unwind(|| check(&bytes)).is_err() {
                broken.push(input);
            }
        }
    }
    assert!(broken.is_empty(), "what each says stands above: {broken:#?}");
}

#[test]
fn every_target_has_a_small_corpus_and_is_built_by_cargo_fuzz() {
    let targets: BTreeSet<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in("corpus"), targets);
    let mut files = names_in("targets");
    files.remove("mod");
    assert_eq!(files, targets);
    let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    for name in &targets {
        let program = format!("[[bin]]\nname = \"{name}\"\npath = \"targets/{name}.rs\"\n");
        assert!(manifest.contains(&program), "tests/fuzz/Cargo.toml does not build {name}");
        let inputs = heart::files(&folder("corpus").join(name));
        assert!((1..=MOST_INPUTS).contains(&inputs.len()), "{name} has {} inputs", inputs.len());
        for input in inputs {
            assert!(std::fs::metadata(&input).unwrap().len() <= MOST_BYTES, "{} is large", input.display());
        }
    }
}

/// Otherwise a build that may not change it fails, which only the long form of the tests would tell.
#[test]
fn the_targets_lock_file_has_all_that_larder_is_built_of() {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    let manifest = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let lock = read(folder("Cargo.lock"));
    let mut packages = lock["package"].as_array().unwrap().iter();
    let larder = packages.find(|package| package["name"].as_str() == Some("larder")).unwrap();
    // With a version behind it where there are two.
    let named = |name: &toml::Value| name.as_str().unwrap().split(' ').next().unwrap().to_owned();
    let locked: BTreeSet<String> = larder["dependencies"].as_array().unwrap().iter().map(named).collect();
    let wanted = manifest["dependencies"].as_table().unwrap().iter();
    let wanted = wanted.filter(|(_, how)| how.get("optional").is_none()).map(|(name, _)| name.clone());
    let missing: Vec<_> = wanted.filter(|name| !locked.contains(name)).collect();
    assert!(missing.is_empty(), "tests/fuzz/Cargo.lock: run cargo metadata there; it lacks {missing:?}");
}
