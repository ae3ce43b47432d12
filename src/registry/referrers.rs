//! What refers to a manifest, as a registry lists it (OCI distribution spec 1.1, "Listing Referrers").

use super::Referrers;
use super::client::Inner;
use super::error::{Kind, RegistryError};
use super::route::Endpoint;
use super::transport;
use crate::oci::{Reference, media_type};
use http::header::{ACCEPT, LINK};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// Pages of a list of referrers that are read. With a filter there is seldom a second one.
const MOST_PAGES: usize = 8;
/// By which a registry says that it listed no other types.
const FILTERS: &str = "oci-filters-applied";

/// Asks `endpoint` what refers to `of` and is of `artifact_type`, or of any for an empty one. One that has no such list is
/// "not found", as the specification has it.
pub async fn list(
    inner: &Inner,
    endpoint: &Endpoint,
    of: &Reference,
    artifact_type: &str,
    limit: u64,
) -> Result<Referrers, RegistryError> {
    let what = format!("GET the referrers of {of}");
    let path = endpoint.path(of.repository_path(), &format!("referrers/{}", of.selector()));
    let filter: String = url::form_urlencoded::byte_serialize(artifact_type.as_bytes()).collect();
    let filter = if filter.is_empty() { filter } else { format!("artifactType={filter}") };
    let mut listed = Referrers { pages: Vec::new(), is_filtered: true };
    let mut next = Some(filter);
    while let Some(query) = next.take().filter(|_| listed.pages.len() < MOST_PAGES) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
        let separator = match (query.is_empty(), path.contains('?')) {
            (true, _) => "",
            (_, true) => "&",
            _ => "?",
        };
        let asked = format!("{path}{separator}{query}");
        let answer = inner.send(endpoint, of, Method::GET, &asked, headers).await?;
        let status = answer.response.status();
        // Who does not know the question has other words for it too, and pages of its own.
        let is_page = transport::is_web_page(answer.response.headers());
        if matches!(status.as_u16(), 400 | 404 | 405 | 406 | 501) || (status == StatusCode::OK && is_page) {
            return Err(RegistryError::new(Kind::NotFound, format!("{what}: {status}")));
        }
        if status != StatusCode::OK {
            // What another host says that a redirect led to is no reason to leave the registry alone.
            let is_its_own = answer.from_registry;
            let error = inner.refusal(&what, endpoint, of, answer).await;
            return Err(RegistryError { was_asked: is_its_own, ..error });
        }
        let headers = answer.response.headers();
        let applied = headers.get(FILTERS).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_applied = applied.split(',').any(|word| word.trim() == "artifactType");
        listed.is_filtered &= is_applied || artifact_type.is_empty();
        next = headers.get(LINK).and_then(|value| value.to_str().ok()).and_then(next_page);
        listed.pages.push(transport::bounded(&what, &endpoint.host, answer, limit).await?);
    }
    Ok(listed)
}

/// The query of a `Link: <…?query>; rel="next"` (RFC 8288). The path stays the one that was asked: where the rest of the
/// list is, is not the answer's to say.
fn next_page(link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|part| matches!(part.trim(), "rel=\"next\"" | "rel=next"));
    let (_, query) = target.split_once('?')?;
    let is_plain = query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    (is_next && is_plain).then(|| query.to_owned())
}
