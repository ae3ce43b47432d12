//! Text from outside, on its way into answers and logs.

#![cfg_attr(fuzzing, no_main)]

use larder::http::problem::Problem;
use larder::oci::error_code::{bounded, shown, summary};
use serde_json::Value;

/// What is shown has no control characters and nothing that turns the direction of writing, and is bounded; a problem
/// document is one JSON document with the text in it.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (told, most) in [(shown(&text), 200), (bounded(&text, 7), 7), (bounded(&text, 0), 0)] {
        is_clean(&told);
        // An escape is at most ten characters: \u{10ffff}
        assert!(told.chars().count() <= most * 10 + 1, "{told:?}");
    }
    if let Some(told) = summary(bytes) {
        is_clean(&told);
    }
    let problem = Problem { status: 502, code: "x".into(), detail: text.to_string(), ..Problem::default() };
    let json: Value = serde_json::from_str(&problem.to_json()).unwrap();
    assert_eq!(json["detail"], text.as_ref());
}

fn is_clean(text: &str) {
    let turns = |c: char| ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c);
    assert!(!text.contains(char::is_control) && !text.contains(turns), "{text:?}");
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
