//! `Range`: the first eight bytes are the size, the rest is the header's value.

#![cfg_attr(fuzzing, no_main)]

use larder::http::range::{Wanted, judge};

/// A part lies within what there is, and an answer never has more bytes than the representation.
pub fn check(bytes: &[u8]) {
    let Some((size, value)) = bytes.split_first_chunk() else { return };
    let Ok(value) = std::str::from_utf8(value) else { return };
    let size = u64::from_le_bytes(*size);
    match judge(value, size) {
        Wanted::Whole => {}
        Wanted::Part { first, last } => {
            assert!(first <= last && last < size, "{value:?} of {size} bytes is {first}-{last}");
            assert!(!value.contains(','), "{value:?} asks for several and gets one");
        }
        Wanted::Unsatisfiable => {
            assert!(value.contains('-'), "{value:?} is no range and is called unsatisfiable");
        }
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
