//! The status page: files within the program, which ask the administration port they came from and nobody else.

use crate::server::respond::{self, Answer};
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Nothing from elsewhere, nothing within the page's own text, and no text that becomes markup or a script: names and
/// errors come from outside.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'",
);
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// A file of the page, if `path` is one. Its `ETag` is asked about at each visit, so that a new larder has its own page
/// at once.
pub fn answer(headers: &HeaderMap, path: &str) -> Option<Answer> {
    let (content_type, content) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/assets/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/assets/favicon.svg" => ("image/svg+xml", include_str!("page/favicon.svg")),
        _ => ("text/javascript; charset=utf-8", script(path.strip_prefix("/assets/")?)?),
    };
    let mut answer = respond::small(headers, content_type, content.to_owned());
    answer.headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    answer.headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // For what does not know `frame-ancestors`.
    answer.headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    answer.headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    Some(answer)
}

/// The modules of the page's script; `page.js` imports the others.
fn script(name: &str) -> Option<&'static str> {
    Some(match name {
        "page.js" => include_str!("page/page.js"),
        "ask.js" => include_str!("page/ask.js"),
        "changes.js" => include_str!("page/changes.js"),
        "chart.js" => include_str!("page/chart.js"),
        "elements.js" => include_str!("page/elements.js"),
        "plugins.js" => include_str!("page/plugins.js"),
        "sections.js" => include_str!("page/sections.js"),
        "words.js" => include_str!("page/words.js"),
        _ => return None,
    })
}
