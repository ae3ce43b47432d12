//! Settings: a file, or, where the first byte is odd, environment variables, a line each.

#![cfg_attr(fuzzing, no_main)]

use larder::catalog::Catalog;
use larder::config::{Sources, load_all};

/// Each fault has a place; and without faults there are settings, of which a catalog can be made or not.
pub fn check(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let in_file = mode % 2 == 0;
    let sources = if in_file {
        Sources { file: Some(("f.yaml".into(), text.into())), ..Sources::default() }
    } else {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let variables = pairs.map(|(name, value)| (format!("LARDER_{name}"), value.to_owned())).collect();
        Sources { variables, ..Sources::default() }
    };
    let (loaded, faults) = load_all(&sources);
    for fault in &faults {
        let known = if in_file { "f.yaml" } else { "LARDER_" };
        // What is wrong with two settings together is told where the one is, and it may be the default's.
        assert!(fault.place.starts_with(known) || fault.place == "default", "{fault}");
        assert!(!fault.problem.is_empty(), "{fault}");
        if let Some(line) = fault.place.strip_prefix("f.yaml:").and_then(|at| at.split(':').next()) {
            let line: usize = line.parse().unwrap();
            // YAML ends a line at a carriage return too.
            let ends = text.matches(['\n', '\r']).count();
            assert!((1..=ends + 1).contains(&line), "{fault}");
        }
    }
    let loaded = loaded.unwrap_or_else(|| panic!("no settings at all: {faults:?}"));
    if let Err(faults) = Catalog::build(&loaded.config.catalog, &[]) {
        assert!(faults.iter().all(|fault| fault.place.starts_with("catalog")), "{faults:?}");
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
