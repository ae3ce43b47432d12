//! What libraries say of a fault, in words for the person who wrote the settings.

/// Their words and ours.
const WORDS: [(&str, &str); 10] = [
    (", set DuplicateKeyPolicy in Options if acceptable", ""),
    ("duplicate mapping key: ", "duplicate key: "),
    ("expected integer overflow", "expected a size such as 64MiB"),
    ("expected parsable string", "expected a size such as 64MiB"),
    (" rejected by the configured policy", " is no number"),
    ("expected usize", "expected a whole number"),
    ("expected a sequence", "expected a list such as [one, two]"),
    ("expected u64", "expected a whole number"),
    ("expected u32", "expected a whole number"),
    ("invalid socket address syntax", "expected an address such as 0.0.0.0:8080 or [::1]:8080"),
];

/// `text` in our words.
pub fn ours(text: &str) -> String {
    let said = WORDS.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours));
    match said.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected keys of its own below it"),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_fault_is_told_in_words_of_this_program() {
        for (theirs, ours) in [
            ("duplicate mapping key: a, set DuplicateKeyPolicy in Options if acceptable", "duplicate key: a"),
            (
                "invalid type: integer `3`, expected struct Config",
                "invalid type: integer `3`, expected keys of its own below it",
            ),
            (
                "invalid value: integer `-1`, expected usize",
                "invalid value: integer `-1`, expected a whole number",
            ),
            (
                "invalid type: string, expected a sequence",
                "invalid type: string, expected a list such as [one, two]",
            ),
            ("something else", "something else"),
        ] {
            assert_eq!(super::ours(theirs), ours);
        }
    }
}
