//! Preconditions: a line a field, the first character of which says which field it is.

#![cfg_attr(fuzzing, no_main)]

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderValue};
use larder::clock::Timestamp;
use larder::http::conditional::{Validators, Verdict, judge, range_applies};

const ETAG: &str = "\"sha256:aa\"";
const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

/// Nobody is told "not modified" or "failed" without having sent the field for it, nor is a part sent to who holds
/// something else.
pub fn check(bytes: &[u8]) {
    let fields = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE];
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(20) {
        let Some((which, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(fields[usize::from(*which) % fields.len()].clone(), value);
        }
    }
    let modified = Some(Timestamp::from_millis(1_700_000_000_500));
    let validators = Validators { etag: ETAG, modified };
    let text = |name| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join("\n")
    };
    match judge(&headers, validators) {
        Verdict::Proceed => {}
        Verdict::NotModified if headers.contains_key(IF_NONE_MATCH) => {
            let list = text(IF_NONE_MATCH);
            assert!(list.contains(ETAG) || list.contains('*'), "{list:?}");
        }
        Verdict::NotModified => assert!(headers.contains_key(IF_MODIFIED_SINCE), "{headers:?}"),
        Verdict::Failed => {
            assert!(
                headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE),
                "{headers:?}"
            );
            assert!(!text(IF_MATCH).eq(ETAG), "the very tag failed");
        }
    }
    // A file without a time has no date to be right about.
    let timeless = Validators { etag: ETAG, modified: None };
    for validators in [validators, timeless] {
        if range_applies(&headers, validators)
            && let Some(condition) = headers.get(IF_RANGE)
        {
            let condition = condition.to_str().unwrap_or_default().trim();
            assert!(condition == ETAG || validators.modified.is_some(), "{condition:?}");
            assert!(condition == ETAG || !condition.contains('"'), "{condition:?}");
        }
    }
    let told: HeaderMap = [(IF_MODIFIED_SINCE, HeaderValue::from_static(DATE))].into_iter().collect();
    assert_eq!(judge(&told, validators), Verdict::NotModified);
}

#[cfg(fuzzing)]
larder_fuzz::feed!(check);
