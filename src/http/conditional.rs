//! Conditional requests (RFC 9110, section 13).

use crate::clock::Timestamp;
use http::HeaderMap;
use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};

/// The validators of what would be served.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// A strong entity tag with its quotes.
    pub etag: &'a str,
    /// `Last-Modified`, where there is one.
    pub modified: Option<Timestamp>,
}

impl Validators<'_> {
    /// HTTP's dates have whole seconds.
    fn seconds(&self) -> Option<u64> {
        self.modified.map(|modified| modified.millis() / 1000)
    }
}

/// What a request's preconditions ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Judges the preconditions of a GET or HEAD in the order of RFC 9110, section 13.2.2. Malformed ones are ignored.
///
/// `If-Modified-Since` is a match only when it is exactly the time that we gave: a file that is replaced by one with an
/// older time is another one all the same, and an answer too many harms nobody.
pub fn judge(headers: &HeaderMap, validators: Validators<'_>) -> Verdict {
    // Most requests have none, and one walk costs less than to look for each.
    if !headers.keys().any(|name| name.as_str().starts_with("if-")) {
        return Verdict::Proceed;
    }
    if headers.contains_key(IF_MATCH) {
        if !any_tag(headers, IF_MATCH, |tag| tag == "*" || tag == validators.etag) {
            return Verdict::Failed;
        }
    } else if let Some(since) = date(headers, IF_UNMODIFIED_SINCE)
        && validators.seconds().is_some_and(|modified| modified > since)
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        let weak = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == validators.etag;
        return if any_tag(headers, IF_NONE_MATCH, weak) { Verdict::NotModified } else { Verdict::Proceed };
    }
    match date(headers, IF_MODIFIED_SINCE) {
        Some(since) if validators.seconds() == Some(since) => Verdict::NotModified,
        _ => Verdict::Proceed,
    }
}

/// True when a `Range` is to be honoured: no `If-Range`, or one that matches strongly (RFC 9110, section 13.1.5).
pub fn range_applies(headers: &HeaderMap, validators: Validators<'_>) -> bool {
    match headers.get(IF_RANGE).map(|value| value.to_str().unwrap_or_default().trim()) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == validators.etag,
        Some(tag) if tag.starts_with("W/") => false,
        Some(_) => validators.seconds().is_some() && date(headers, IF_RANGE) == validators.seconds(),
    }
}

/// Whether any member of the header's lists of entity tags pleases `test`. Walks the text once; a tag may hold commas.
fn any_tag(headers: &HeaderMap, name: http::HeaderName, test: impl Fn(&str) -> bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|text| {
        let mut rest = text.trim_matches([' ', '\t', ',']);
        while !rest.is_empty() {
            let open = if rest.starts_with("W/\"") { 3 } else { usize::from(rest.starts_with('"')) };
            let end = if open == 0 {
                rest.find(',').unwrap_or(rest.len())
            } else {
                match rest[open..].find('"') {
                    Some(close) => open + close + 1,
                    None => return false,
                }
            };
            if test(rest[..end].trim_end()) {
                return true;
            }
            rest = rest[end..].trim_start_matches([' ', '\t', ',']);
        }
        false
    })
}

fn date(headers: &HeaderMap, name: http::HeaderName) -> Option<u64> {
    let time = httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()?;
    Some(Timestamp::from_system(time).millis() / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"sha256:aa\"";
    const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const LATER: &str = "Tue, 14 Nov 2023 22:13:21 GMT";
    const EARLIER: &str = "Tue, 14 Nov 2023 22:13:19 GMT";

    fn validators() -> Validators<'static> {
        Validators { etag: ETAG, modified: Some(Timestamp::from_millis(1_700_000_000_500)) }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn verdict(pairs: &[(&'static str, &str)]) -> Verdict {
        judge(&headers(pairs), validators())
    }

    #[test]
    fn if_none_match_compares_weakly_and_wins_over_dates() {
        let list = format!("\"a,b\", W/{ETAG}");
        let long = format!("{} {ETAG}", "\"x\",".repeat(1000));
        for (value, expected) in [
            (ETAG, Verdict::NotModified),
            ("*", Verdict::NotModified),
            (&list, Verdict::NotModified),
            (&long, Verdict::NotModified),
            ("\"other\"", Verdict::Proceed),
            ("sha256:aa", Verdict::Proceed),
            ("\"unterminated", Verdict::Proceed),
            ("\"a, \"sha256:aa\"", Verdict::Proceed),
            ("", Verdict::Proceed),
        ] {
            assert_eq!(verdict(&[("if-none-match", value)]), expected, "{value:.40}");
        }
        assert_eq!(verdict(&[("if-none-match", "\"other\""), ("if-modified-since", DATE)]), Verdict::Proceed);
    }

    #[test]
    fn dates_count_in_whole_seconds_and_garbage_is_ignored() {
        assert_eq!(verdict(&[("if-modified-since", DATE)]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-modified-since", EARLIER)]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-modified-since", LATER)]), Verdict::Proceed, "not ours");
        assert_eq!(verdict(&[("if-modified-since", "yesterday")]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-unmodified-since", EARLIER)]), Verdict::Failed);
        assert_eq!(verdict(&[("if-unmodified-since", DATE)]), Verdict::Proceed);
    }

    #[test]
    fn if_match_compares_strongly_and_is_judged_first() {
        assert_eq!(verdict(&[("if-match", ETAG)]), Verdict::Proceed);
        assert_eq!(verdict(&[("if-match", "*"), ("if-none-match", ETAG)]), Verdict::NotModified);
        assert_eq!(verdict(&[("if-match", "W/\"sha256:aa\"")]), Verdict::Failed);
        assert_eq!(verdict(&[("if-match", "\"b\""), ("if-none-match", ETAG)]), Verdict::Failed);
    }

    #[test]
    fn if_range_needs_a_strong_match() {
        for (value, applies) in [
            (ETAG, true),
            ("\"b\"", false),
            ("W/\"sha256:aa\"", false),
            (DATE, true),
            (EARLIER, false),
            ("x", false),
        ] {
            assert_eq!(range_applies(&headers(&[("if-range", value)]), validators()), applies, "{value}");
        }
        assert!(range_applies(&headers(&[]), validators()));
    }
}
