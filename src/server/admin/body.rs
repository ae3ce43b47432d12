//! A request's body, read to its end within a limit and a time, and understood as JSON.

use crate::oci::error_code::bounded;
use crate::oci::{Digest, Hasher};
use crate::server::guard::Rejected;
use crate::server::wire::Link;
use crate::store::Spool;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Version};
use pingora::protocols::http::ServerSession;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{ErrorKind, Write};
use std::time::Duration;

/// Longest body, in bytes.
const MOST: usize = 1 << 20;
/// What is said of a body that ends early.
const CUT: &str = "the body is not framed as HTTP says, or is cut";
/// Longest text about what is wrong with one, in characters.
const TOLD_CHARACTERS: usize = 300;

/// A body that is still to be read.
pub struct Body<'s> {
    session: &'s mut ServerSession,
    link: &'s Link,
    /// For all of it.
    patience: Duration,
    /// Whether it was read to its end, so that another request may follow it.
    pub is_read: bool,
}

impl<'s> Body<'s> {
    /// That of the session's request; whoever does not send it within `patience` is refused.
    pub fn new(session: &'s mut ServerSession, link: &'s Link, patience: Duration) -> Self {
        Self { session, link, patience, is_read: false }
    }

    /// Reads it.
    pub async fn read(&mut self) -> Result<Vec<u8>, Rejected> {
        let too_large = || Err(Rejected::new(413, "body_too_large", "the body is over 1 MiB"));
        let head = self.session.req_header();
        let told = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if told.is_some_and(|length: u64| length > MOST as u64) {
            return too_large();
        }
        let waits =
            head.headers.get(EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let waits = waits && head.version >= Version::HTTP_11;
        let reading = async {
            if waits {
                self.session.write_continue_response().await?;
            }
            let mut read = Vec::new();
            while let Some(piece) = self.session.read_request_body().await? {
                // What counts as the head's bytes is over.
                self.link.head_ended();
                read.extend_from_slice(&piece);
                if read.len() > MOST {
                    return Ok(None);
                }
            }
            self.link.head_ended();
            Ok::<_, Box<pingora::Error>>(Some(read))
        };
        match tokio::time::timeout(self.patience, reading).await {
            Ok(Ok(Some(read))) => {
                self.is_read = true;
                Ok(read)
            }
            Ok(Ok(None)) => too_large(),
            Ok(Err(_)) => Err(Rejected::new(400, "bad_body", CUT)),
            Err(_) => Err(Rejected::new(408, "body_too_slow", "the body did not come in time")),
        }
    }

    /// Reads it into a spool, and tells its digest. There is time as long as some of it comes.
    pub async fn into_spool(&mut self, mut spool: Spool) -> Result<(Spool, Digest), Rejected> {
        let too_large = |spool: &Spool| {
            let most = spool.limit();
            let detail =
                format!("the body is over {most} bytes, which is what cache.disk and the disk leave for it");
            Rejected::new(413, "body_too_large", detail)
        };
        let head = self.session.req_header();
        let told = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if told.is_some_and(|length: u64| length > spool.limit()) {
            return Err(too_large(&spool));
        }
        self.go_on().await?;
        let mut digest = Hasher::new();
        loop {
            let piece = tokio::time::timeout(self.patience, self.session.read_request_body()).await;
            self.link.head_ended();
            let piece = match piece {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => break,
                Ok(Err(_)) => return Err(Rejected::new(400, "bad_body", CUT)),
                Err(_) => return Err(Rejected::new(408, "body_too_slow", "the body did not come in time")),
            };
            digest.update(&piece);
            let written = tokio::task::spawn_blocking(move || (spool.write_all(&piece), spool)).await;
            let Ok((written, returned)) = written else {
                return Err(Rejected::new(503, "no_spool", "the bundle cannot be kept while it is read"));
            };
            spool = returned;
            match written {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::FileTooLarge => return Err(too_large(&spool)),
                Err(e) => {
                    return Err(Rejected::new(503, "no_spool", format!("the bundle cannot be kept: {e}")));
                }
            }
        }
        self.is_read = true;
        Ok((spool, digest.finish()))
    }

    /// Tells a client that waits for it to go on.
    async fn go_on(&mut self) -> Result<(), Rejected> {
        let head = self.session.req_header();
        let waits =
            head.headers.get(EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if waits && head.version >= Version::HTTP_11 {
            let told = self.session.write_continue_response().await;
            told.map_err(|_| Rejected::new(400, "bad_body", CUT))?;
        }
        Ok(())
    }
}

/// Whether a body is what we read: JSON, as it is. A form that a page of others sends never is.
pub fn check_type(headers: &HeaderMap) -> Result<(), Rejected> {
    let told = headers.get(CONTENT_TYPE).and_then(|told| told.to_str().ok()).unwrap_or_default();
    let essence = told.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") || headers.get_all(CONTENT_TYPE).iter().count() != 1
    {
        let hint = "send Content-Type: application/json";
        return Err(Rejected { hint, ..Rejected::new(415, "not_json", "the body is not said to be JSON") });
    }
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Rejected::new(
            415,
            "encoded_body",
            "the body has a Content-Encoding; it is taken without",
        ));
    }
    Ok(())
}

/// What a JSON object means, and the object itself for the audit log.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Value), Rejected> {
    let bad = |code, detail: String| Err(Rejected::new(400, code, bounded(&detail, TOLD_CHARACTERS)));
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return bad("bad_json", format!("the body is no JSON: {error}")),
    };
    let Some(object) = value.as_object() else {
        return bad("bad_json", "the body is no JSON object".into());
    };
    if let Some((name, _)) = object.iter().find(|(_, member)| member.is_null()) {
        return bad("bad_member", format!("{name}: is null; leave out what is not meant"));
    }
    // From the text again: of a member that is there twice, the tree has one.
    match serde_json::from_slice(bytes) {
        Ok(parsed) => Ok((parsed, value)),
        Err(error) => bad("bad_member", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::change::Selector;

    #[test]
    fn a_body_is_one_object_whose_members_are_known_and_there_once() {
        let code = |text: &str| parse::<Selector>(text.as_bytes()).map(|_| "").unwrap_or_else(|r| r.code);
        assert_eq!(code(r#"{"plugin": "waf", "version": "1.*"}"#), "");
        for bad in ["", "{", "[]", "1", "null", "\"x\"", "{}{}", "{\"all\": true", &"[".repeat(10_000)] {
            assert_eq!(code(bad), "bad_json", "{bad}");
        }
        for bad in [
            r#"{"plugin": null}"#,
            r#"{"all": "true"}"#,
            r#"{"all": 1}"#,
            r#"{"keys": "a"}"#,
            r#"{"keys": [1]}"#,
            r#"{"plugins": "waf"}"#,
            r#"{"plugin": "a", "plugin": "b"}"#,
        ] {
            assert_eq!(code(bad), "bad_member", "{bad}");
        }
    }
}
