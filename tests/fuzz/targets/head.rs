//! A request's head: a line with method and target, then a line a field.

#![cfg_attr(fuzzing, no_main)]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use larder::server::guard::{Head, check as guard, read_only};

/// What passes is a GET or HEAD with one host, and frames its body in one way only.
pub fn check(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next().unwrap_or_default().splitn(3, |byte| *byte == b' ');
    let Ok(method) = Method::from_bytes(words.next().unwrap_or_default()) else { return };
    let target = words.next().unwrap_or_default();
    let version = match words.next() {
        Some(b"HTTP/1.0") => Version::HTTP_10,
        Some(b"HTTP/2.0") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let head = Head { method: &method, target, version, headers: &headers, raw: bytes, is_clean: true };
    let accepted = match guard(&head, read_only) {
        Ok(accepted) => accepted,
        Err(rejected) => {
            assert!((400..500).contains(&rejected.status), "{rejected:?}");
            assert!(!rejected.detail.contains(char::is_control), "{rejected:?}");
            return;
        }
    };
    assert!(method == Method::GET || method == Method::HEAD);
    let count = |name: &str| headers.get_all(name).iter().count();
    assert!(count("host") == 1 || (count("host") == 0 && version != Version::HTTP_11), "{headers:?}");
    assert!(count("content-length") + count("transfer-encoding") <= 1, "{headers:?}");
    let is_bare = bytes.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
    assert!(!is_bare, "a bare line feed was taken");
    let has_body = headers.contains_key("transfer-encoding")
        || headers.get("content-length").is_some_and(|length| length != "0");
    assert!(accepted.has_body || !has_body, "a body is left in a connection that goes on");
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
