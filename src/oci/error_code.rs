//! The JSON error body of a registry (distribution spec, "Error Codes"), made fit to be shown.

use serde::Deserialize;
use std::borrow::Cow;

/// The longest text of a registry that we repeat, in characters.
const SHOWN_CHARS: usize = 200;

#[derive(Deserialize)]
struct Body {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// The first error of a registry's body as `CODE: message`, or `None` when the body is not of the specification's form.
///
/// Control characters are escaped and the length is bounded: the text comes from outside and goes into logs and answers.
pub fn summary(body: &[u8]) -> Option<String> {
    let first = serde_json::from_slice::<Body>(body).ok()?.errors.into_iter().next()?;
    let text = match first.message {
        Some(message) if !message.is_empty() => format!("{}: {message}", first.code),
        _ => first.code,
    };
    Some(shown(&text))
}

/// `text` with control characters escaped, cut to a length that fits a line.
pub fn shown(text: &str) -> String {
    bounded(text, SHOWN_CHARS)
}

/// `text` with control characters escaped, cut to `most` characters.
pub fn bounded(text: &str, most: usize) -> String {
    if is_plain(text, most) { text.to_owned() } else { escaped(text, most) }
}

/// As [`shown`], without a copy of what may be shown as it is.
pub fn shown_of(text: &str) -> Cow<'_, str> {
    if is_plain(text, SHOWN_CHARS) { Cow::Borrowed(text) } else { Cow::Owned(escaped(text, SHOWN_CHARS)) }
}

fn is_plain(text: &str, most: usize) -> bool {
    text.len() <= most && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

fn escaped(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars().take(most) {
        if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_told_in_one_clean_line() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\nunknown","detail":{"Tag":"1"}}]}"#;
        assert_eq!(summary(body).as_deref(), Some("MANIFEST_UNKNOWN: manifest\\nunknown"));
        assert_eq!(summary(br#"{"errors":[{"code":"DENIED"}]}"#).as_deref(), Some("DENIED"));
    }

    #[test]
    fn other_bodies_have_no_summary() {
        for body in [&b""[..], b"<html>", b"{}", br#"{"errors":[]}"#, br#"{"errors":"x"}"#] {
            assert_eq!(summary(body), None);
        }
    }
}
