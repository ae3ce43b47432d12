//! One request and the redirects behind it, by our own rules.
//!
//! `Authorization` is for the registry's own host: blob stores sign their URLs, and whoever can send a redirect must not
//! thereby collect a password. A redirect may lead to another host, where the settings allow that host, but not from
//! https to http, not to another scheme, not to a port that speaks something else, and not to an address that is never
//! connected to.

use super::address;
use super::credentials::Lookup;
use super::diagnose;
use super::egress::Choice;
use super::error::{Kind, RegistryError};
use super::names::{authority, listed};
use super::payload::Payload;
use super::route::{Endpoint, Host};
use crate::metrics::Metrics;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{RequestBuilder, Response};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use url::Url;

/// Redirects followed for one request. Real registries need one.
const MAX_HOPS: usize = 5;
/// The longest body of a refusal that is read for its text, in bytes.
const ERROR_BODY_BYTES: usize = 64 << 10;
/// The longest wait for that text.
const ERROR_BODY_TIME: Duration = Duration::from_secs(2);
/// A `Retry-After` beyond this is believed only so far.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// What Go and nginx say to plain http on a port for TLS.
const PLAIN_TO_TLS: &[&str] =
    &["Client sent an HTTP request to an HTTPS server", "The plain HTTP request was sent to HTTPS port"];
/// What nginx says to a client without a certificate, or with one that it does not accept.
const CERTIFICATE_WANTED: &[&str] = &["No required SSL certificate was sent", "The SSL certificate error"];

/// An answer, and whether it came from the registry itself.
pub struct Answer {
    /// Status, headers, and a body still to be read.
    pub response: Response,
    /// False when a redirect led to another host: what that refuses is not the registry's word, and its 401 no challenge.
    pub from_registry: bool,
    /// Whom it came from, as `host[:port]`.
    pub from: String,
}

impl Answer {
    /// True where the registry itself asks who we are.
    pub fn is_challenge(&self) -> bool {
        self.response.status() == StatusCode::UNAUTHORIZED && self.from_registry
    }
}

/// A request.
pub struct Asked<'p> {
    /// What is told of it.
    pub what: String,
    /// Its method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, if it has one.
    pub payload: Option<&'p Payload>,
}

/// How one exchange is made.
#[derive(Clone, Copy)]
pub struct Terms<'p> {
    /// True for a URL that was written in the settings, or that this machine itself led to.
    pub from_here: bool,
    /// True where our certificate may be shown.
    pub as_ourselves: bool,
    /// Bytes of the request's body that have left, if it has one: as long as they do, there is no silence.
    pub taken: Option<&'p AtomicU64>,
}

/// Sends a request to `endpoint` and follows redirects, each counted in `metrics`.
pub async fn send(
    metrics: &Metrics,
    endpoint: &Endpoint,
    method: Method,
    path: &str,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
) -> Result<Answer, RegistryError> {
    let what = format!("{method} {}{path}", endpoint.base);
    let url = format!("{}{path}", endpoint.base)
        .parse()
        .map_err(|e| RegistryError::new(Kind::Upstream, format!("{what}: {e}")))?;
    follow(metrics, endpoint, &Asked { what, method, url, headers, payload: None }, authorization).await
}

/// The same, to any URL that `endpoint` led to. `authorization` is for the endpoint's own host.
pub async fn follow(
    metrics: &Metrics,
    endpoint: &Endpoint,
    asked: &Asked<'_>,
    authorization: Option<HeaderValue>,
) -> Result<Answer, RegistryError> {
    let host = &*endpoint.host;
    let Asked { what, method, headers, payload, .. } = asked;
    let home: Url =
        endpoint.base.parse().map_err(|e| RegistryError::new(Kind::Upstream, format!("{what}: {e}")))?;
    let mut url = asked.url.clone();
    let mut authorization = authorization;
    let mut from_here = is_home(&home, &url) || home.host().is_some_and(|host| address::is_here(&host));
    for hop in 0..=MAX_HOPS {
        let is_home = is_home(&home, &url);
        if !is_home {
            authorization = None;
        }
        let body = payload.map(|payload| {
            let again = || RegistryError::new(Kind::Connect, format!("{what}: a stream is sent once"));
            payload.body().ok_or_else(again).map(|body| (body, payload.length))
        });
        let body = body.transpose()?;
        let taken = payload.map(Payload::taken);
        let terms = Terms { from_here, as_ourselves: is_home, taken };
        let response = exchange(metrics, host, what, &url, terms, |client| {
            let request = client.request(method.clone(), url.clone()).headers(headers.clone());
            let request =
                if hop == 0 && is_home { request.headers(endpoint.headers.clone()) } else { request };
            let request = match body {
                Some((body, length)) => request.header(CONTENT_LENGTH, length).body(body),
                None => request,
            };
            match &authorization {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            }
        })
        .await?;
        if !is_redirect(response.status()) {
            return Ok(Answer { response, from_registry: is_home, from: authority(&url) });
        }
        from_here = url.host().is_some_and(|host| address::is_here(&host));
        let to = next(what, &url, response.headers())?;
        allowed(host, what, &home, &to)?;
        host.trace.note("request", || format!("redirected to {}://{}", to.scheme(), authority(&to)));
        url = to;
    }
    Err(RegistryError::new(Kind::RedirectRefused, format!("{what}: more than {MAX_HOPS} redirects")))
}

fn is_home(home: &Url, url: &Url) -> bool {
    url.scheme() == home.scheme()
        && url.host() == home.host()
        && url.port_or_known_default() == home.port_or_known_default()
}

/// One request and its answer's head. Every exchange passes here and is counted, under the name that the settings have for
/// the host: where a registry redirects to is no label.
pub async fn exchange(
    metrics: &Metrics,
    host: &Host,
    what: &str,
    url: &Url,
    terms: Terms<'_>,
    build: impl FnOnce(&reqwest::Client) -> RequestBuilder,
) -> Result<Response, RegistryError> {
    let began = Instant::now();
    let answered = answer(host, what, url, terms, build).await;
    let outcome = match &answered {
        Ok(response) => outcome(response.status()),
        Err(error) => error.code,
    };
    metrics.upstream(&host.name, outcome, began.elapsed());
    answered
}

/// What `request` comes to; `None` when nothing happened for `limit`.
async fn unless_silent<T>(
    limit: Duration,
    taken: Option<&AtomicU64>,
    request: impl Future<Output = T>,
) -> Option<T> {
    let mut request = std::pin::pin!(request);
    let count = || taken.map_or(0, |taken| taken.load(Ordering::Relaxed));
    loop {
        let before = count();
        match tokio::time::timeout(limit, &mut request).await {
            Ok(done) => return Some(done),
            Err(_) if count() == before => return None,
            Err(_) => {}
        }
    }
}

/// The word for metrics. What is not modified is as good as sent again.
fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        304 => "ok",
        300..=399 => "redirect",
        400..=499 => "client_error",
        500.. => "server_error",
        _ => "ok",
    }
}

async fn answer(
    host: &Host,
    what: &str,
    url: &Url,
    terms: Terms<'_>,
    build: impl FnOnce(&reqwest::Client) -> RequestBuilder,
) -> Result<Response, RegistryError> {
    let Terms { from_here, as_ourselves, taken } = terms;
    // Here, because nothing passes by: no redirect, no login, no copy.
    host.breaker.is_online()?;
    let shown = authority(url);
    if let Some(Err(refused)) = url.host().map(|name| host.guard.literal(&name, from_here)) {
        let error = RegistryError::new(Kind::AddressRefused, format!("{what}: {refused}"));
        return Err(error.hint(diagnose::address_hint(&refused)));
    }
    let way = host.egress.way(url);
    host.trace.note("proxy", || match (way, host.egress.choose(url)) {
        (Some(way), _) => format!("{shown} through {} ({})", way.shown, way.from),
        (None, Choice::Direct(why)) => format!("{shown} directly: {why}"),
        (None, Choice::Proxied) => format!("{shown} directly"),
    });
    let request = build(host.client(url, as_ourselves)).send();
    let limit = host.limits.first_byte;
    let sent = match unless_silent(limit, taken, request).await {
        Some(sent) => sent.map_err(|e| diagnose::transport(host, what, &shown, way, &e)),
        None => Err(diagnose::timed_out(host, what, way, "first_byte_timeout")),
    };
    let response = sent.inspect_err(|error| {
        host.trace.note("request", || {
            format!("{} → {}: {}", shown_url(url, as_ourselves), error.code, error.detail)
        });
    })?;
    host.trace.note("request", || {
        let version = response.version();
        format!("{} → {} ({version:?})", shown_url(url, as_ourselves), response.status())
    });
    if let Some(way) = way.filter(|_| response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED) {
        let error = RegistryError::new(Kind::Proxy, format!("{what}: the proxy {} answers 407", way.shown));
        return Err(error.code("proxy_auth").hint(diagnose::proxy_credentials(way)));
    }
    Ok(response)
}

/// A URL for people. Of other hosts than the registry's own no more than the name: the rest may be a signature.
fn shown_url(url: &Url, as_ourselves: bool) -> String {
    let (scheme, host) = (url.scheme(), authority(url));
    let path = if as_ourselves { url.path() } else { "/…" };
    crate::oci::error_code::shown(&format!("{scheme}://{host}{path}"))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads, if it is one that we follow.
pub fn next(what: &str, from: &Url, headers: &HeaderMap) -> Result<Url, RegistryError> {
    let refuse =
        |why: String| Err(RegistryError::new(Kind::RedirectRefused, format!("{what}: redirected {why}")));
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return refuse("without a Location".into());
    };
    let Ok(to) = from.join(location) else {
        return refuse("to something that is no URL".into());
    };
    let shown = to.host_str().unwrap_or_default();
    match (from.scheme(), to.scheme()) {
        ("https", "http") => return refuse(format!("from https to http, at {shown}")),
        (_, "http" | "https") => {}
        (_, other) => return refuse(format!("to the scheme {other}")),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return refuse(format!("to a URL with credentials, at {shown}"));
    }
    if to.port().is_some_and(|port| port < 1024 && port != 80 && port != 443) {
        return refuse(format!("to {shown}, port {}", to.port().unwrap_or_default()));
    }
    Ok(to)
}

/// Whether the settings let a redirect lead to `to`.
pub fn allowed(host: &Host, what: &str, home: &Url, to: &Url) -> Result<(), RegistryError> {
    let Some(list) = &host.blob_hosts else { return Ok(()) };
    let shown = to.host_str().unwrap_or_default();
    if to.host() == home.host() || listed(list, shown) || listed(list, &authority(to)) {
        return Ok(());
    }
    let error = RegistryError::new(Kind::RedirectRefused, format!("{what}: redirected to {shown}"));
    Err(error.hint(format!("if {shown} is where it keeps its layers, add it to {}.blob_hosts", host.key)))
}

/// Reads a body of at most `limit` bytes.
pub async fn bounded(
    what: &str,
    host: &Host,
    mut answer: Answer,
    limit: u64,
) -> Result<Bytes, RegistryError> {
    let too_large = || {
        let text = format!("{what}: the manifest has more than {limit} bytes (limits.manifest)");
        RegistryError::new(Kind::TooLarge, text)
    };
    if answer.response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let way = host.egress.way(answer.response.url()).cloned();
    let mut body = BytesMut::new();
    let read = async {
        while let Some(piece) = answer
            .response
            .chunk()
            .await
            .map_err(|e| diagnose::transport(host, what, &answer.from, way.as_ref(), &e))?
        {
            body.extend_from_slice(&piece);
            if body.len() as u64 > limit {
                return Err(too_large());
            }
        }
        Ok(())
    };
    // One byte at a time is silence too: a manifest is small.
    match tokio::time::timeout(host.limits.idle, read).await {
        Ok(read) => read.map(|()| body.freeze()),
        Err(_) => Err(diagnose::timed_out(host, what, way.as_ref(), "idle_timeout")),
    }
}

/// Makes an error of an answer that is not a success, reading its text as far as it is of the specification's form.
/// `found` is as whom we came.
pub async fn refusal(what: &str, host: &Host, answer: Answer, found: &Lookup) -> RegistryError {
    let Answer { mut response, from_registry, .. } = answer;
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let is_challenge = response.headers().contains_key(http::header::WWW_AUTHENTICATE);
    let is_html = is_web_page(response.headers());
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece[..piece.len().min(ERROR_BODY_BYTES - body.len())]);
            if body.len() == ERROR_BODY_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(ERROR_BODY_TIME, read).await;
    let has = |words: &[&str]| {
        let text = String::from_utf8_lossy(&body);
        words.iter().any(|words| text.contains(words))
    };
    let said = crate::oci::error_code::summary(&body);
    let detail = match &said {
        Some(said) => format!("{what}: {} ({said})", status.as_u16()),
        None => format!("{what}: {status}"),
    };
    let status = status.as_u16();
    let kind = match status {
        // A page for people, from whatever stands before the registry, is not its word.
        403 | 404 if is_html => Kind::Upstream,
        401 if is_html && !is_challenge => Kind::Upstream,
        // Nor is what a host says that a redirect led to: the registry itself had something to redirect to.
        401 | 403 | 404 if !from_registry => Kind::Upstream,
        404 => Kind::NotFound,
        // Not the registry's word on what it has: we could not say who we are.
        401 | 403 if found.owed => Kind::Settings,
        401 | 403 => Kind::Denied,
        429 => Kind::RateLimited,
        _ => Kind::Upstream,
    };
    let (name, key) = (&host.name, &host.key);
    let hint = match kind {
        Kind::Upstream if status == 400 && has(PLAIN_TO_TLS) => {
            format!(
                "{name} speaks TLS there: take it out of registry.plain_http, or write https:// where it is a mirror"
            )
        }
        Kind::Upstream if status == 400 && has(CERTIFICATE_WANTED) => match &host.identity {
            Some(file) => {
                format!("{name} refuses the client certificate in {file}: is it of a CA that {name} accepts?")
            }
            None => {
                format!("{name} wants a client certificate: {key}.client_certificate and {key}.client_key")
            }
        },
        Kind::Upstream if is_html => {
            format!("{name} answered with a web page; is there a registry at that address?")
        }
        Kind::NotFound => match said.as_deref().and_then(|said| said.split(':').next()) {
            Some("NAME_UNKNOWN") => {
                "the registry has no such repository: is it another project or path there?".into()
            }
            Some("MANIFEST_UNKNOWN") => {
                "the repository has no such tag; /plugins/<name>/ lists the versions that are known".into()
            }
            _ => String::new(),
        },
        Kind::RateLimited => {
            format!("{name} limits us: wait, use credentials ({key}), or a mirror ({key}.mirrors)")
        }
        Kind::Denied => match &found.credentials {
            None => format!(
                "it does not exist, or it needs credentials: {key}.username and password_file, or registry.docker_config"
            ),
            Some(own) => {
                format!(
                    "are the credentials for {name} right (from {}), and may they pull this repository?",
                    own.from
                )
            }
        },
        _ => String::new(),
    };
    let hint = match &found.trouble {
        Some(trouble) if kind == Kind::Denied => format!("{hint}; {trouble}"),
        Some(trouble) if kind == Kind::Settings => trouble.clone(),
        _ => hint,
    };
    let code = if kind == Kind::Settings { "credentials" } else { kind.code() };
    RegistryError {
        retry_after,
        status: Some(status),
        ..RegistryError::new(kind, detail).code(code).hint(hint)
    }
}

/// True for an answer made for people.
pub fn is_web_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
}

/// Seconds or a date (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(std::time::SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(from: &str, location: &str) -> Result<String, Kind> {
        let headers = [(LOCATION, location.parse().unwrap())].into_iter().collect();
        next("GET x", &from.parse().unwrap(), &headers).map(|url| url.to_string()).map_err(|e| e.kind)
    }

    #[test]
    fn redirects_are_followed_where_that_is_safe() {
        for (location, to) in [
            ("/other?sig=1", "https://r.example/other?sig=1"),
            ("https://blobs.example/x", "https://blobs.example/x"),
            ("//blobs.example/x", "https://blobs.example/x"),
            ("https://blobs.example:8443/x", "https://blobs.example:8443/x"),
        ] {
            assert_eq!(led("https://r.example/v2/", location).as_deref(), Ok(to));
        }
        assert!(led("http://r.example/v2/", "http://blobs.example/x").is_ok());
        for location in [
            "http://r.example/x",
            "ftp://r.example/x",
            "file:///etc/passwd",
            "https://u:p@r.example/",
            "https://r.example:22/",
            "https://[",
            "",
        ] {
            let expected = if location.is_empty() {
                Ok("https://r.example/v2/".to_owned())
            } else {
                Err(Kind::RedirectRefused)
            };
            assert_eq!(led("https://r.example/v2/", location), expected, "{location}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_date_and_bounded() {
        let read = |text: &str| retry_after(&[(RETRY_AFTER, text.parse().unwrap())].into_iter().collect());
        assert_eq!(read("30"), Some(Duration::from_secs(30)));
        assert_eq!(read("99999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(read("Tue, 14 Nov 2023 22:13:20 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn an_outcome_is_one_of_four_words_whatever_the_status() {
        for (statuses, word) in [
            (vec![200, 201, 206, 299, 304], "ok"),
            (vec![300, 301, 302, 303, 307, 308, 399], "redirect"),
            (vec![400, 401, 403, 404, 407, 429, 499], "client_error"),
            (vec![500, 503, 599, 600, 999], "server_error"),
        ] {
            for status in statuses {
                assert_eq!(outcome(StatusCode::from_u16(status).unwrap()), word, "{status}");
            }
        }
    }
}
