//! The one table from errors to statuses, and the text that goes with them.
//!
//! The status is all that the gateway's log shows, and it decides whether it tries again: every 4xx ends it at once, a
//! 502, 503 or 504 is retried. So 4xx is for what another try cannot change, and for nothing else.

use super::guard::Rejected;
use super::respond::{self, Answer, Content, Note};
use crate::admin::{Kind, Refused};
use crate::cache::{CacheError, ErrorKind};
use crate::http::problem::Problem;
use crate::plugin::{PluginError, Request};
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// When to come back after a 503 that names no time of its own.
const COME_BACK: Duration = Duration::from_secs(3);

/// The status for a kind of error.
pub fn status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Offline => 404,
        ErrorKind::Forbidden | ErrorKind::Refused | ErrorKind::Untrusted => 403,
        ErrorKind::Unsupported | ErrorKind::TooLarge => 422,
        ErrorKind::Corrupt | ErrorKind::Unavailable => 502,
        ErrorKind::Pending | ErrorKind::RateLimited | ErrorKind::Overloaded | ErrorKind::Unproved => 503,
        ErrorKind::TimedOut => 504,
        ErrorKind::Internal => 500,
    }
}

fn title(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

/// An error of the cache, with what is known of the plugin.
pub fn cache_error(
    headers: &HeaderMap,
    request: &Request,
    error: &CacheError,
    versions: Vec<String>,
    nearest: Vec<String>,
) -> Answer {
    let status = status(error.kind);
    let absent = matches!(status, 403 | 404);
    let hint = if error.hint.is_empty() {
        next_step(error.kind, !versions.is_empty(), !nearest.is_empty())
    } else {
        &error.hint
    };
    let problem = Problem {
        status,
        code: error.code.into(),
        title: title(status).into(),
        detail: error.detail.clone(),
        hint: hint.into(),
        plugin: Some(request.name.to_string()),
        version: request.version.as_ref().map(ToString::to_string),
        reference: error.reference.as_ref().map(ToString::to_string),
        versions: if absent { versions } else { Vec::new() },
        nearest: if absent { nearest } else { Vec::new() },
        faults: Vec::new(),
    };
    let mut answer = problem_answer(headers, &problem);
    answer.note.cache = Some(respond::failed(&mut answer.headers, error.code));
    answer.note.reference = problem.reference.map(Into::into);
    if status == 503 {
        // Rounded up: a little later is right, a little earlier is not.
        let wait = error.retry_after.unwrap_or(COME_BACK);
        let wait = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
        answer.headers.insert(RETRY_AFTER, HeaderValue::from(wait));
    }
    answer
}

/// What to do about an error that has no advice of its own.
fn next_step(kind: ErrorKind, has_versions: bool, has_nearest: bool) -> &'static str {
    match kind {
        ErrorKind::NotFound | ErrorKind::Forbidden if has_versions => "ask for one of the versions known",
        ErrorKind::NotFound | ErrorKind::Forbidden if has_nearest => "is one of the nearest names meant?",
        ErrorKind::NotFound | ErrorKind::Forbidden => "check name and version; /plugins/ lists what is known",
        ErrorKind::Refused | ErrorKind::Untrusted => "look at policy in the settings",
        ErrorKind::Offline => "ask for a version that is held, or import a bundle that has it",
        ErrorKind::Unsupported | ErrorKind::TooLarge => {
            "push an artifact that holds one plugin.wasm under this reference"
        }
        ErrorKind::Corrupt => "ask again in a minute; if it stays, push the artifact again",
        ErrorKind::TimedOut | ErrorKind::Unavailable | ErrorKind::Unproved => {
            "look at the registry and at the way to it; it is asked again in a few seconds"
        }
        ErrorKind::RateLimited => {
            "the registry limits us: wait, or use credentials or a registry of your own"
        }
        ErrorKind::Pending | ErrorKind::Overloaded => "ask again in a few seconds",
        ErrorKind::Internal => "this is a defect of larder; its log says more",
    }
}

/// A name or version that no rule lets us ask for.
pub fn unknown(
    headers: &HeaderMap,
    request: &Request,
    versions: Vec<String>,
    nearest: Vec<String>,
) -> Answer {
    let name = &request.name;
    let (code, detail, hint) = match &request.version {
        None => {
            let detail = format!("the URL has no version, and the catalog names none for '{name}'");
            (
                "version_needed",
                detail,
                "use /plugins/<name>/<version>/plugin.wasm, or add a line to a catalog file",
            )
        }
        Some(version) if !versions.is_empty() => {
            let detail = format!("version '{version}' of '{name}' is not known here");
            ("unknown_version", detail, "ask for one of the versions known")
        }
        Some(_) => {
            let detail = format!("'{name}' is not in the catalog, and no rule allows other names");
            ("unknown_name", detail, "check the spelling, or add a line to a catalog file (--catalog)")
        }
    };
    let problem = Problem {
        status: 404,
        code: code.into(),
        title: title(404).into(),
        detail,
        hint: hint.into(),
        plugin: Some(name.to_string()),
        version: request.version.as_ref().map(ToString::to_string),
        versions,
        nearest,
        ..Problem::default()
    };
    problem_answer(headers, &problem)
}

/// A malformed request.
pub fn rejected(headers: &HeaderMap, rejected: &Rejected) -> Answer {
    let mut answer = simple(headers, rejected.status, rejected.code, &rejected.detail, rejected.hint);
    let told = match rejected.status {
        // RFC 6750, section 3.
        401 => Some((WWW_AUTHENTICATE, "Bearer")),
        405 => Some((ALLOW, rejected.allow)),
        429 => Some((RETRY_AFTER, "1")),
        _ => None,
    };
    answer.headers.extend(told.map(|(name, value)| (name, HeaderValue::from_static(value))));
    answer
}

/// Something that an operator asked and that is not done.
pub fn not_done(headers: &HeaderMap, refused: &Refused) -> Answer {
    let status = match refused.kind {
        Kind::Bad => 400,
        Kind::NotFound => 404,
        Kind::Busy => 409,
        Kind::TooMany => 413,
        Kind::Unusable => 422,
        Kind::Failed => 503,
    };
    simple(headers, status, refused.code, &refused.detail, &refused.hint)
}

/// New settings that cannot be used, fault by fault.
pub fn unusable(headers: &HeaderMap, faults: Vec<String>) -> Answer {
    let problem = Problem {
        status: 422,
        code: "settings_refused".into(),
        title: title(422).into(),
        detail: "the settings cannot be used as they are; those of before go on".into(),
        hint: "mend what is listed; larder check tells the same".into(),
        faults,
        ..Problem::default()
    };
    problem_answer(headers, &problem)
}

/// A name or version that cannot be one.
pub fn bad_name(headers: &HeaderMap, error: &PluginError) -> Answer {
    simple(headers, 400, error.code(), &error.to_string(), "")
}

/// A plugin that is not for everybody, asked for by who shows nothing (RFC 6750, section 3). Says the same whether there is
/// such a plugin or not.
pub fn token_needed(headers: &HeaderMap) -> Answer {
    let mut answer = simple(
        headers,
        401,
        "token_needed",
        "plugins of this name are not for everybody",
        "send Authorization: Bearer TOKEN, or show a client certificate, as access.rules say",
    );
    answer.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic realm=\"larder\""));
    answer
}

/// The same, asked for by who shows what is not for it.
pub fn not_for_you(headers: &HeaderMap) -> Answer {
    simple(
        headers,
        403,
        "not_for_you",
        "plugins of this name are not for who shows this token or client certificate",
        "look at the rule of access.rules that has this name: its tokens_file and its client_certificates",
    )
}

/// A question about a plugin's road that is not answered.
pub fn unexplained(headers: &HeaderMap, status: u16, code: &str, detail: &str) -> Answer {
    simple(headers, status, code, detail, "")
}

/// A path that means nothing here.
pub fn no_route(headers: &HeaderMap, path: &str) -> Answer {
    let detail = format!("'{}' is no path of larder", crate::oci::error_code::shown(path));
    simple(
        headers,
        404,
        "no_route",
        &detail,
        "modules are at /plugins/<name>/<version>/plugin.wasm; /plugins/ lists them",
    )
}

fn simple(headers: &HeaderMap, status: u16, code: &str, detail: &str, hint: &str) -> Answer {
    let problem = Problem {
        status,
        code: code.into(),
        title: title(status).into(),
        detail: detail.into(),
        hint: hint.into(),
        ..Problem::default()
    };
    problem_answer(headers, &problem)
}

fn problem_answer(headers: &HeaderMap, problem: &Problem) -> Answer {
    let (content_type, text) = if wants_text(headers) {
        ("text/plain; charset=utf-8", problem.to_text())
    } else {
        ("application/problem+json", problem.to_json())
    };
    let mut out = HeaderMap::new();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    out.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    out.insert(VARY, HeaderValue::from_static("accept"));
    let note = Note {
        code: Some(problem.code.clone()),
        detail: Some(problem.detail.clone()),
        hint: Some(problem.hint.clone()).filter(|hint| !hint.is_empty()),
        ..Note::default()
    };
    Answer { note, ..Answer::of(problem.status, out, Content::Bytes(Bytes::from(text))) }
}

/// True when the client names text and not JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("text/") && !accept.contains("json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_told_to_come_back_only_for_what_may_pass() {
        use ErrorKind as K;
        let retried =
            [K::Corrupt, K::Unavailable, K::Pending, K::RateLimited, K::Overloaded, K::TimedOut, K::Internal];
        for kind in retried {
            assert!(matches!(status(kind), 500 | 502 | 503 | 504), "{kind:?}");
        }
        for kind in
            [K::NotFound, K::Forbidden, K::Refused, K::Untrusted, K::Offline, K::Unsupported, K::TooLarge]
        {
            assert!(matches!(status(kind), 403 | 404 | 422), "{kind:?}");
        }
    }
}
