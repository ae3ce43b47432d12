//! One request and the redirects behind it, by our own rules.
//!
//! `Authorization` is for the first hop alone: blob stores sign their URLs, and whoever can send a redirect must not
//! thereby collect a password. A redirect may lead to another host, but not from https to http, not to another scheme,
//! and not to a port that speaks something else.

use super::error::{Kind, RegistryError};
use super::hosts::Host;
use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;
use std::time::Duration;
use url::Url;

/// Redirects followed for one request. Real registries need one.
const MAX_HOPS: usize = 5;
/// The longest body of a refusal that is read for its text, in bytes.
const ERROR_BODY_BYTES: usize = 64 << 10;
/// The longest wait for that text.
const ERROR_BODY_TIME: Duration = Duration::from_secs(2);
/// A `Retry-After` beyond this is believed only so far.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// An answer, and whether it came from the registry itself.
pub struct Answer {
    /// Status, headers, and a body still to be read.
    pub response: Response,
    /// False when a redirect led elsewhere: then a 401 is no challenge to us.
    pub from_registry: bool,
}

/// Sends a request to `host` and follows redirects.
pub async fn send(
    host: &Host,
    method: Method,
    path: &str,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
) -> Result<Answer, RegistryError> {
    let what = format!("{method} {}{path}", host.base);
    let mut url: Url = format!("{}{path}", host.base)
        .parse()
        .map_err(|e| RegistryError::new(Kind::Upstream, format!("{what}: {e}")))?;
    let mut authorization = authorization;
    for hop in 0..=MAX_HOPS {
        let mut request = host.http.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(value) = authorization.take() {
            request = request.header(AUTHORIZATION, value);
        }
        // As it is written in settings, so that a hint can be followed to the letter.
        let shown = match url.port() {
            _ if hop == 0 => host.name.clone(),
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let response = request.send().await.map_err(|e| RegistryError::from_transport(&what, &shown, &e))?;
        if !is_redirect(response.status()) {
            return Ok(Answer { response, from_registry: hop == 0 });
        }
        url = next(&what, &url, response.headers())?;
    }
    Err(RegistryError::new(Kind::RedirectRefused, format!("{what}: more than {MAX_HOPS} redirects")))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads, if it is one that we follow.
fn next(what: &str, from: &Url, headers: &HeaderMap) -> Result<Url, RegistryError> {
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

/// Makes an error of an answer that is not a success, reading its text as far as it is of the specification's form.
pub async fn refusal(what: &str, host: &Host, answer: Answer) -> RegistryError {
    let Answer { mut response, from_registry } = answer;
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let is_html = is_web_page(response.headers());
    let is_challenge = response.headers().contains_key(http::header::WWW_AUTHENTICATE);
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > ERROR_BODY_BYTES {
                break;
            }
        }
    };
    // The text is a kindness; without it the status must do.
    let _ = tokio::time::timeout(ERROR_BODY_TIME, reading).await;
    let said = crate::oci::error_code::summary(&body);
    let detail = match &said {
        Some(said) => format!("{what}: {} ({said})", status.as_u16()),
        None => format!("{what}: {}", status.as_u16()),
    };
    let kind = match status.as_u16() {
        // A page for people is no registry's word that something does not exist or is not for us, unless it comes with
        // a challenge, as some fronts of registries send it.
        403 | 404 if is_html => Kind::Upstream,
        401 if is_html && !is_challenge => Kind::Upstream,
        // Nor is what a host says that a redirect led to: the registry itself had something to redirect to.
        401 | 403 | 404 if !from_registry => Kind::Upstream,
        404 => Kind::NotFound,
        401 | 403 => Kind::Denied,
        429 => Kind::RateLimited,
        _ => Kind::Upstream,
    };
    let name = &host.name;
    let hint = match kind {
        Kind::Upstream if is_html => {
            format!("{name} answered with a web page; is there a registry at that address?")
        }
        Kind::Upstream
            if status == 400 && body.starts_with(b"Client sent an HTTP request to an HTTPS server") =>
        {
            format!("{name} speaks TLS there: take it out of registry.plain_http")
        }
        Kind::Denied if host.credentials.is_none() => {
            format!(
                "it does not exist, or it needs credentials: registry.hosts.{name}.username and password_file"
            )
        }
        Kind::Denied => {
            format!("are the credentials in registry.hosts.{name} right, and may they pull this repository?")
        }
        _ => String::new(),
    };
    RegistryError { kind, detail, hint, retry_after }
}

/// True for an answer made for people.
pub fn is_web_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
}

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
}
