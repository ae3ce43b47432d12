//! References, repositories, digests, names and versions: each line of the input as each of them.

#![cfg_attr(fuzzing, no_main)]

use larder::oci::error_code::shown as escaped;
use larder::oci::reference::{Repository, is_registry, is_repository, is_tag, masked};
use larder::oci::{Digest, Reference};
use larder::plugin::{PluginName, Version};
use std::fmt::Display;
use std::str::FromStr;

/// What parses is printed as something that parses to the same; what does not is told in one line, and nothing that may
/// be a password is repeated.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(reference) = same::<Reference>(text) {
        assert!(is_registry(reference.registry()) && is_repository(reference.repository_path()), "{text:?}");
        assert!(reference.tag().is_none_or(is_tag), "{text:?}");
        assert_eq!(reference.is_mutable(), reference.digest().is_none());
        assert!(reference.repository().holds(&reference));
    }
    same::<Repository>(text);
    same::<Digest>(text);
    same::<PluginName>(text);
    same::<Version>(text);

    let shown = masked(text);
    assert!(!shown.contains(char::is_control), "{shown:?}");
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let is_scheme = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+');
    let rest = if is_scheme { rest } else { text };
    // A digest's own @ hides nothing.
    if let Some((before, after)) = rest.rsplit_once('@')
        && after.parse::<Digest>().is_err()
        && before.len() > 5
    {
        let may_be = escaped(&format!("…@{after}"));
        let repeats = shown.contains(before) && !may_be.contains(before);
        assert!(!repeats, "{shown:?} repeats what stands before an @");
    }
}

fn same<T: FromStr<Err: Display> + Display + PartialEq>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(parsed) => {
            let printed = parsed.to_string();
            let again =
                printed.parse::<T>().unwrap_or_else(|e| panic!("{text:?} is printed as {printed:?}: {e}"));
            assert!(again == parsed && again.to_string() == printed, "{text:?} is printed as {printed:?}");
            Some(parsed)
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.chars().count() < 2500 && !told.contains(char::is_control), "{told:?}");
            None
        }
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
