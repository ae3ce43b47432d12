//! Answers as values: a status, fields, a body still to be read. `app` writes them.

use crate::cache::{Found, Origin, Served};
use crate::catalog::Plan;
use crate::clock::Timestamp;
use crate::http::cache_status::CacheStatus;
use crate::http::conditional::{self, Validators, Verdict};
use crate::http::range::{self, Wanted};
use crate::oci::Digest;
use crate::plugin::PluginName;
use crate::store::Body;
use base64::Engine;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION,
    RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

/// RFC 9211.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// RFC 9530.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The reference or file that the module came from.
const REFERENCE: HeaderName = HeaderName::from_static("larder-reference");
/// The manifest's digest.
const MANIFEST_DIGEST: HeaderName = HeaderName::from_static("larder-manifest-digest");
/// Which step of the search answered: exact, alias or fallback.
const MATCH: HeaderName = HeaderName::from_static("larder-match");

/// Fields of an answer for a module, so that their map need not grow.
const FIELDS: usize = 24;

/// What goes back to the client.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Fields, `Content-Length` among them.
    pub headers: HeaderMap,
    /// The body.
    pub content: Content,
    /// What the access log says of it.
    pub note: Note,
}

/// A body.
pub enum Content {
    /// None, as for 304.
    None,
    /// Small, and complete.
    Bytes(Bytes),
    /// Bytes `first..=last` of a module.
    Module {
        /// The module.
        body: Body,
        /// First byte.
        first: u64,
        /// Last byte, included.
        last: u64,
        /// Whose bytes they are.
        digest: Digest,
        /// What was asked for, to find another copy.
        asked: Box<Asked>,
    },
}

/// What a module was asked for by.
pub struct Asked {
    /// The plugin.
    pub name: PluginName,
    /// What may answer.
    pub plan: Arc<Plan>,
}

/// Facts for the access log and the metrics.
#[derive(Default, Clone)]
pub struct Note {
    /// How the cache answered.
    pub cache: Option<&'static str>,
    /// Where the module came from.
    pub reference: Option<String>,
    /// Which step of the search answered.
    pub matched: Option<&'static str>,
    /// The error's code.
    pub code: Option<String>,
    /// The error's text.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A small, complete answer, with validators of its own. What has no time of change of its own has none here.
pub fn small(
    request: &HeaderMap,
    content_type: &'static str,
    content: String,
    modified: Option<Timestamp>,
) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let digest = Digest::of(content.as_bytes());
    headers.insert(ETAG, value(&format!("\"{digest}\"")));
    headers.insert(REPR_DIGEST, repr_digest(&digest));
    if let Some(modified) = modified {
        headers.insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified.system())));
    }
    let size = content.len() as u64;
    let bytes = Bytes::from(content);
    negotiate(request, headers, modified, size, |first, last| {
        Content::Bytes(bytes.slice(first as usize..last as usize + 1))
    })
}

/// A text without validators, for probes.
pub fn plain(content: String) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answer { status: 200, headers, content: Content::Bytes(content.into()), note: Note::default() }
}

/// To the same place with a slash. The place is relative: behind a proxy we do not know our own name.
pub fn redirect(to: &str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, value(to));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    // A permanent redirect may be kept for ever by whoever is told nothing (RFC 9110, section 15.4.2).
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    Answer { status: 301, headers, content: Content::None, note: Note::default() }
}

/// The fields of a module that do not change from answer to answer, made once: most of an answer's work otherwise.
#[derive(Clone)]
pub struct Label {
    etag: HeaderValue,
    modified: HeaderValue,
    digest: HeaderValue,
    reference: HeaderValue,
    manifest: Option<HeaderValue>,
}

impl Label {
    /// For a module that was found.
    pub fn new(found: &Found) -> Self {
        let (reference, manifest) = match &found.origin {
            Origin::Registry { reference, manifest } => {
                (reference.to_string(), Some(value(&manifest.to_string())))
            }
            Origin::Overlay(path) => (path.display().to_string(), None),
        };
        let digest = found.module.digest;
        Self {
            etag: value(&format!("\"{digest}\"")),
            modified: value(&httpdate::fmt_http_date(found.modified.system())),
            digest: repr_digest(&digest),
            reference: value(&reference),
            manifest,
        }
    }

    fn describe(&self, headers: &mut HeaderMap, matched: &'static str, status: &CacheStatus) -> Note {
        headers.insert(CACHE_STATUS, value(&status.to_string()));
        headers.insert(MATCH, HeaderValue::from_static(matched));
        if let Some(manifest) = &self.manifest {
            headers.insert(MANIFEST_DIGEST, manifest.clone());
        }
        headers.insert(REFERENCE, self.reference.clone());
        let reference = self.reference.to_str().ok().map(Into::into);
        Note { cache: Some(status.label()), reference, matched: Some(matched), ..Note::default() }
    }
}

/// A module.
pub fn module(request: &HeaderMap, served: Served, label: &Label, asked: Asked, immutable: bool) -> Answer {
    let Served { body, found: Found { module, modified, why, status, .. } } = served;
    let mut headers = HeaderMap::with_capacity(FIELDS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
    let lifetime = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(lifetime));
    let note = label.describe(&mut headers, why.as_str(), &status);
    headers.insert(LAST_MODIFIED, label.modified.clone());
    headers.insert(ETAG, label.etag.clone());
    headers.insert(REPR_DIGEST, label.digest.clone());
    let (size, digest) = (module.size, module.digest);
    let mut answer = negotiate(request, headers, Some(modified), size, |first, last| Content::Module {
        body,
        first,
        last,
        digest,
        asked: Box::new(asked),
    });
    answer.note = note;
    answer
}

/// Adds the fields that tell where an answer about a module came from.
pub fn describe(answer: &mut Answer, found: &Found, label: &Label) {
    answer.note = label.describe(&mut answer.headers, found.why.as_str(), &found.status);
}

/// Nobody between us and who asked may keep it.
pub fn keep_private(headers: &mut HeaderMap) {
    let held = headers.get(CACHE_CONTROL).and_then(|held| held.to_str().ok()).unwrap_or_default();
    if held == "no-store" {
        return;
    }
    let rest = held.strip_prefix("public, ").unwrap_or(held);
    headers.insert(CACHE_CONTROL, value(&format!("private, {rest}")));
}

/// `Cache-Status` of a refusal.
pub fn failed(headers: &mut HeaderMap, code: &'static str) -> &'static str {
    let status = CacheStatus::Failed { detail: code };
    headers.insert(CACHE_STATUS, value(&status.to_string()));
    status.label()
}

fn repr_digest(digest: &Digest) -> HeaderValue {
    let encoded = base64::engine::general_purpose::STANDARD.encode(digest.bytes());
    value(&format!("sha-256=:{encoded}:"))
}

/// Judges conditions and ranges and completes the answer, whose `ETag` is there already.
fn negotiate(
    request: &HeaderMap,
    mut headers: HeaderMap,
    modified: Option<Timestamp>,
    size: u64,
    content: impl FnOnce(u64, u64) -> Content,
) -> Answer {
    let etag = headers.get(ETAG).cloned();
    let etag = etag.as_ref().and_then(|etag| etag.to_str().ok()).unwrap_or_default();
    let validators = Validators { etag, modified };
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let answer = |status, headers, content| Answer { status, headers, content, note: Note::default() };
    match conditional::judge(request, validators) {
        Verdict::NotModified => {
            headers.remove(CONTENT_TYPE);
            return answer(304, headers, Content::None);
        }
        Verdict::Failed => {
            headers.remove(CONTENT_TYPE);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            return answer(412, headers, Content::None);
        }
        Verdict::Proceed => {}
    }
    let range = request.get(RANGE).and_then(|range| range.to_str().ok());
    let range = range.filter(|_| conditional::range_applies(request, validators));
    match range.map_or(Wanted::Whole, |range| range::judge(range, size)) {
        Wanted::Unsatisfiable => {
            headers.remove(CONTENT_TYPE);
            headers.insert(CONTENT_RANGE, value(&format!("bytes */{size}")));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            answer(416, headers, Content::None)
        }
        Wanted::Part { first, last } => {
            headers.insert(CONTENT_RANGE, value(&format!("bytes {first}-{last}/{size}")));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(last - first + 1));
            answer(206, headers, content(first, last))
        }
        Wanted::Whole if size == 0 => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            answer(200, headers, Content::None)
        }
        Wanted::Whole => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
            answer(200, headers, content(0, size - 1))
        }
    }
}

/// Our own texts are ASCII; a path of the operator's may not be.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}
