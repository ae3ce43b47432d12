//! A catalog's properties file.

#![cfg_attr(fuzzing, no_main)]

use larder::catalog::{Catalog, Config, properties};
use larder::plugin::Request;
use std::collections::BTreeMap;

/// Every line is a meaning, a fault with its number, or nothing; a meaning written again is the same; and the catalog
/// made of them plans each name in the order of its steps.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut faults = Vec::new();
    let lines = properties::parse("f", text, &mut faults);
    let count = text.lines().count();
    assert!(lines.len() + faults.len() <= count);
    for fault in &faults {
        let number: usize = fault.place.strip_prefix("f:").unwrap().parse().unwrap();
        assert!((1..=count).contains(&number), "{fault:?}");
    }
    let mut again = String::new();
    for line in &lines {
        let version = line.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
        again.push_str(&format!("{}{version}=oci://{}\n", line.name, line.reference));
    }
    let mut none = Vec::new();
    assert_eq!(properties::parse("f", &again, &mut none), lines, "{again}");
    assert_eq!(none, [], "{again}");

    let config = Config {
        builtin: false,
        files: Vec::new(),
        template: None,
        fallback: true,
        aliases: BTreeMap::new(),
        plugins: BTreeMap::new(),
    };
    let catalog = Catalog::build(&config, &[("f".into(), again)]).unwrap();
    for line in &lines {
        let asked = Request { name: line.name.clone(), version: line.version.clone() };
        let plan = catalog.plan(&asked);
        assert!(plan.candidates.is_sorted_by_key(|candidate| candidate.why), "{plan:?}");
        assert!(catalog.lists(line.name.as_str()));
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
