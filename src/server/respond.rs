//! Answers as values: a status, fields, a body still to be read. `app` writes them.

use super::usual;
use crate::cache::{Found, Served};
use crate::catalog::Plan;
use crate::clock::Timestamp;
use crate::http::cache_status::CacheStatus;
use crate::http::conditional::{self, Validators, Verdict};
use crate::http::range::{self, Wanted};
use crate::oci::Digest;
use crate::plugin::PluginName;
use crate::store::{Body, ModuleFile};
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

/// What goes back to the client.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Fields, `Content-Length` among them.
    pub headers: HeaderMap,
    /// More of them, which others have too.
    pub common: Option<Arc<Common>>,
    /// The body.
    pub content: Content,
    /// What the access log says of it.
    pub note: Note,
}

impl Answer {
    /// With fields of its own alone, and nothing noted.
    pub fn of(status: u16, headers: HeaderMap, content: Content) -> Self {
        Self { status, headers, common: None, content, note: Note::default() }
    }
}

/// A body.
pub enum Content {
    /// None, as for 304.
    None,
    /// Small, and complete.
    Bytes(Bytes),
    /// Bytes `first..=last` of a module's file.
    File {
        /// The file.
        file: ModuleFile,
        /// First byte.
        first: u64,
        /// Last byte, included.
        last: u64,
        /// Whose bytes they are.
        digest: Digest,
        /// What was asked for, to find another copy.
        asked: Arc<Asked>,
    },
}

/// What a module was asked for by.
pub struct Asked {
    /// The plugin.
    pub name: PluginName,
    /// What may answer.
    pub plan: Plan,
}

/// Facts for the access log and the metrics.
#[derive(Default)]
pub struct Note {
    /// How the cache answered.
    pub cache: Option<&'static str>,
    /// Where the module came from.
    pub reference: Option<Arc<str>>,
    /// Which step of the search answered.
    pub matched: Option<&'static str>,
    /// The error's code.
    pub code: Option<String>,
    /// The error's text.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Fields that many answers have, made once.
pub struct Common {
    /// For HTTP/2.
    pub fields: HeaderMap,
    /// As HTTP/1 writes them, a line each.
    pub text: Vec<u8>,
}

impl Common {
    fn of(fields: HeaderMap) -> Arc<Self> {
        let mut text = Vec::new();
        usual::put_fields(&mut text, &fields);
        Arc::new(Self { fields, text })
    }
}

/// A small, complete answer. Its validator is its digest; it has no time of change of its own.
pub fn small(request: &HeaderMap, content_type: &'static str, content: String) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let etag = validators(&mut headers, &Digest::of(content.as_bytes()), None);
    let size = content.len() as u64;
    let bytes = Bytes::from(content);
    let validators = Validators { etag: &etag, modified: None };
    negotiate(request, headers, validators, content_type, size, |first, last| {
        Content::Bytes(bytes.slice(first as usize..last as usize + 1))
    })
}

/// A text without validators, for probes.
pub fn plain(content: String) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answer::of(200, headers, Content::Bytes(content.into()))
}

/// To the same place with a slash. The place is relative: behind a proxy we do not know our own name.
pub fn redirect(to: &str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, value(to));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    // A permanent redirect may be kept for ever by whoever is told nothing (RFC 9110, section 15.4.2).
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    Answer::of(301, headers, Content::None)
}

/// What answers about a module have in common, made once: most of an answer's work otherwise.
pub struct Label {
    content_type: &'static str,
    lifetime: &'static str,
    /// Of an answer with content, or in its place.
    whole: Arc<Common>,
    /// Of one that says that nothing has changed (RFC 9110, section 15.4.5): what a client that has the content needs to
    /// know it again, and what may be another although the content is the same.
    unchanged: Arc<Common>,
    etag: String,
    modified: Timestamp,
    matched: &'static str,
    reference: Arc<str>,
}

impl Label {
    /// For the module itself. By its digest it is `immutable`.
    pub fn module(found: &Found, immutable: bool) -> Self {
        let lifetime = if immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
        Self::new(found, "application/wasm", lifetime, &found.module().digest)
    }

    /// For a text about the module, whose digest is `digest`.
    pub fn text(found: &Found, content_type: &'static str, digest: &Digest) -> Self {
        Self::new(found, content_type, "no-cache", digest)
    }

    fn new(found: &Found, content_type: &'static str, lifetime: &'static str, digest: &Digest) -> Self {
        let (matched, modified) = (found.why.as_str(), found.modified());
        let reference = found.origin.to_string();
        let mut fields = HeaderMap::new();
        fields.insert(MATCH, HeaderValue::from_static(matched));
        if let Some(manifest) = found.origin.manifest() {
            fields.insert(MANIFEST_DIGEST, value(&manifest.to_string()));
        }
        fields.insert(REFERENCE, value(&reference));
        let mut unchanged = fields.clone();
        let etag = validators(&mut fields, digest, Some(modified));
        unchanged.insert(ETAG, value(&etag));
        let (whole, unchanged) = (Common::of(fields), Common::of(unchanged));
        let reference = reference.into();
        Self { content_type, lifetime, whole, unchanged, etag, modified, matched, reference }
    }

    /// The answer for `size` bytes, of which `content` makes those that are asked for.
    pub fn answer(
        &self,
        request: &HeaderMap,
        status: &CacheStatus,
        size: u64,
        content: impl FnOnce(u64, u64) -> Content,
    ) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(self.lifetime));
        headers.insert(CACHE_STATUS, value(&status.text()));
        let validators = Validators { etag: &self.etag, modified: Some(self.modified) };
        let mut answer = negotiate(request, headers, validators, self.content_type, size, content);
        answer.common = Some(if answer.status == 304 { &self.unchanged } else { &self.whole }.clone());
        answer.note = Note {
            cache: Some(status.label()),
            reference: Some(self.reference.clone()),
            matched: Some(self.matched),
            ..Note::default()
        };
        answer
    }
}

/// A module.
pub fn module(request: &HeaderMap, served: Served, label: &Label, asked: &Arc<Asked>) -> Answer {
    let Served { body, found } = served;
    let module = found.module();
    label.answer(request, &found.status, module.size, |first, last| match body {
        Body::Memory(bytes) => Content::Bytes(bytes.slice(first as usize..last as usize + 1)),
        Body::File(file) => Content::File { file, first, last, digest: module.digest, asked: asked.clone() },
    })
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
    headers.insert(CACHE_STATUS, value(&status.text()));
    status.label()
}

/// Puts in the fields by which a client knows a content again, and those that all contents have; the entity tag.
fn validators(fields: &mut HeaderMap, digest: &Digest, modified: Option<Timestamp>) -> String {
    if let Some(modified) = modified {
        fields.insert(LAST_MODIFIED, value(&httpdate::fmt_http_date(modified.system())));
    }
    let etag = format!("\"{digest}\"");
    fields.insert(ETAG, value(&etag));
    let encoded = base64::engine::general_purpose::STANDARD.encode(digest.bytes());
    fields.insert(REPR_DIGEST, value(&format!("sha-256=:{encoded}:")));
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    etag
}

/// Judges conditions and ranges and completes the answer.
fn negotiate(
    request: &HeaderMap,
    mut headers: HeaderMap,
    validators: Validators<'_>,
    content_type: &'static str,
    size: u64,
    content: impl FnOnce(u64, u64) -> Content,
) -> Answer {
    match conditional::judge(request, validators) {
        Verdict::NotModified => return Answer::of(304, headers, Content::None),
        Verdict::Failed => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            return Answer::of(412, headers, Content::None);
        }
        Verdict::Proceed => {}
    }
    let range = request.get(RANGE).and_then(|range| range.to_str().ok());
    let range = range.filter(|_| conditional::range_applies(request, validators));
    let wanted = range.map_or(Wanted::Whole, |range| range::judge(range, size));
    if wanted == Wanted::Unsatisfiable {
        headers.insert(CONTENT_RANGE, value(&format!("bytes */{size}")));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        return Answer::of(416, headers, Content::None);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Wanted::Part { first, last } = wanted {
        headers.insert(CONTENT_RANGE, value(&format!("bytes {first}-{last}/{size}")));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(last - first + 1));
        return Answer::of(206, headers, content(first, last));
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    Answer::of(200, headers, if size == 0 { Content::None } else { content(0, size - 1) })
}

/// Our own texts are ASCII; a path of the operator's may not be.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}
