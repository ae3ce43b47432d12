//! What a registry's answer has in its head beside the challenge: `Location`, `Retry-After` and `Content-Range`.

#![cfg_attr(fuzzing, no_main)]

use http::header::{CONTENT_RANGE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};
use larder::registry::blob::begins_at;
use larder::registry::transport::{next, retry_after};
use std::time::Duration;
use url::Url;

/// A redirect never leads from https to http, to another scheme, to a port of something else or with credentials, and
/// no wait is longer than ten minutes.
pub fn check(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let fields = [LOCATION, RETRY_AFTER, CONTENT_RANGE];
    let headers: HeaderMap = fields.into_iter().map(|name| (name, value.clone())).collect();
    let here = ["https://r.example:5000/v2/a/blobs/x?y", "http://r.example/v2/"][usize::from(*which) % 2];
    let here: Url = here.parse().unwrap();
    match next("GET x", &here, &headers) {
        Ok(to) => {
            assert!(to.scheme() == "https" || (to.scheme() == "http" && here.scheme() == "http"), "{to}");
            assert!(to.username().is_empty() && to.password().is_none() && to.host_str().is_some(), "{to}");
            assert!(to.port().is_none_or(|port| port >= 1024 || port == 80 || port == 443), "{to}");
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.starts_with("redirect_refused") || told.contains("GET x: redirected"), "{told}");
            assert!(!told.contains(char::is_control), "{told:?}");
        }
    }
    assert!(retry_after(&headers).is_none_or(|wait| wait <= Duration::from_secs(600)));
    if let Some(first) = begins_at(&headers) {
        assert!(value.to_str().unwrap().contains(first.to_string().trim_start_matches('0')), "{value:?}");
    }
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
