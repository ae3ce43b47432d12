//! URL patterns: a pattern, a path, and then listed names, a line each.

#![cfg_attr(fuzzing, no_main)]

use larder::catalog::patterns::Pattern;

/// What is matched stands in the path, within one segment each, and a pattern without `**` makes the path of it again.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let (pattern, path) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let listed: Vec<&str> = lines.take(10).collect();
    let Ok(pattern) = pattern.parse::<Pattern>() else { return };
    let Some(found) = pattern.matches(path, &|name| listed.contains(&name)) else { return };
    assert!(!found.name.is_empty() && !found.name.contains('/'), "{pattern:?} {path} {found:?}");
    let version = found.version.unwrap_or("-");
    assert!(!version.is_empty() && !version.contains('/'), "{pattern:?} {path} {found:?}");
    let plain = pattern.as_str().replace("${", "{");
    assert_eq!(plain.contains("{version}"), found.version.is_some(), "{pattern:?} {path} {found:?}");
    if !plain.contains("**") {
        // The version first: a name may be the word {version} itself.
        let (before, after) = plain.split_once("{name}").unwrap();
        let with = |text: &str| text.replace("{version}", version);
        assert_eq!(format!("{}{}{}", with(before), found.name, with(after)), path, "{pattern:?} {found:?}");
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
