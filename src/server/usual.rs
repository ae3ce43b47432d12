//! The usual request over HTTP/1.1, read from its bytes, and the head of an answer to it, as bytes.
//!
//! pingora reads whatever comes; here is what nearly all clients send, and that costs a quarter as much (measured): GET or
//! HEAD of a path, fields that are beyond doubt, no body. What is not taken here is not refused but left to pingora.

use super::guard::Head;
use super::respond::Answer;
use crate::clock;
use crate::http::trace_context::RequestId;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use std::cell::RefCell;
use std::time::UNIX_EPOCH;

/// Most bytes of a usual request's head.
pub const HEAD_BYTES: usize = 4 << 10;
/// Most fields of one.
const FIELDS: usize = 32;
/// Fields of an answer that are usual, in bytes.
const ANSWER_BYTES: usize = 1 << 10;

/// What bytes of a request's head are.
#[derive(Debug)]
pub enum Read {
    /// One that is usual.
    Usual(Request),
    /// The beginning of one.
    Begun,
    /// Anything else.
    Other,
}

/// A usual request.
#[derive(Debug)]
pub struct Request {
    /// GET or HEAD.
    pub method: Method,
    /// Its target, which begins with one slash and can be printed.
    pub target: Bytes,
    /// Its fields.
    pub headers: HeaderMap,
    /// Whether it is the last on its connection.
    pub is_last: bool,
}

impl Request {
    /// Its path, as it was sent.
    pub fn path(&self) -> &str {
        let path = self.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        // It can be printed.
        std::str::from_utf8(path).unwrap_or_default()
    }

    /// For the guard. How it is framed was seen when it was read.
    pub fn head(&self) -> Head<'_> {
        let Self { method, target, headers, .. } = self;
        Head { method, target, version: Version::HTTP_11, headers, raw: &[], is_clean: true }
    }
}

/// Reads a head that is all of `bytes`.
pub fn read(bytes: &Bytes) -> Read {
    // What the parser is lenient about: lines that end in a line feed alone, and empty ones in front.
    if bytes.len() > HEAD_BYTES {
        return Read::Other;
    }
    let is_bare = |end: usize| end == 0 || bytes[end - 1] != b'\r';
    if bytes.starts_with(b"\r") || memchr::memchr_iter(b'\n', bytes).any(is_bare) {
        return Read::Other;
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        // What comes behind it at once is no second one.
        Ok(httparse::Status::Complete(end)) if end == bytes.len() => {}
        Ok(httparse::Status::Partial) => return Read::Begun,
        Ok(httparse::Status::Complete(_)) | Err(_) => return Read::Other,
    }
    usual(bytes, &head).map_or(Read::Other, Read::Usual)
}

/// A request whose framing is beyond doubt.
fn usual(bytes: &Bytes, head: &httparse::Request<'_, '_>) -> Option<Request> {
    let method = match head.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    let target = head.path?.as_bytes();
    let is_path = target.starts_with(b"/") && !target.starts_with(b"//");
    // Of what can be printed, all that pingora takes in a target's path and in its query.
    let is_plain = target.iter().all(|byte| byte.is_ascii_graphic() && !b"#<>\"`".contains(byte));
    if head.version != Some(1) || !is_path || !is_plain {
        return None;
    }
    let (mut headers, mut is_last) = (HeaderMap::with_capacity(head.headers.len()), false);
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, UPGRADE].contains(&name) {
            return None;
        }
        if name == CONNECTION {
            match field.value {
                told if told.eq_ignore_ascii_case(b"close") => is_last = true,
                told if told.eq_ignore_ascii_case(b"keep-alive") => {}
                _ => return None,
            }
        }
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?);
    }
    Some(Request { method, target: bytes.slice_ref(target), headers, is_last })
}

/// The head of the answer to the request `id`.
pub fn head(answer: &Answer, id: RequestId, stays: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(ANSWER_BYTES);
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = status.canonical_reason().unwrap_or_default();
    put(&mut head, &[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    put_fields(&mut head, &answer.headers);
    put(&mut head, &[answer.common.as_ref().map_or(&[], |common| &common.text)]);
    put(&mut head, &[b"server: larder\r\nlarder-request-id: ", &id.digits(), b"\r\ndate: "]);
    put_date(&mut head);
    let end: &[u8] = if stays { b"keep-alive\r\n\r\n" } else { b"close\r\n\r\n" };
    put(&mut head, &[b"\r\nconnection: ", end]);
    head
}

/// Puts fields behind `head`, a line each.
pub fn put_fields(head: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        put(head, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
}

fn put(head: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        head.extend_from_slice(part);
    }
}

thread_local! {
    /// The second that it is, and how HTTP writes it.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

fn put_date(head: &mut Vec<u8>) {
    let now = clock::shown();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    DATE.with_borrow_mut(|(made, text)| {
        if *made != second {
            (*made, *text) = (second, httpdate::fmt_http_date(now));
        }
        head.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(text: impl AsRef<[u8]>) -> Read {
        read(&Bytes::copy_from_slice(text.as_ref()))
    }

    #[test]
    fn what_nearly_all_clients_send_is_usual() {
        let text = b"HEAD /a/b.wasm?x=%00 HTTP/1.1\r\nhost: l:80\r\nX:\r\nUser-Agent: \t a \xe9 b\t \r\nX: y\r\nconnection: Keep-Alive\r\n\r\n";
        let Read::Usual(request) = read_of(text) else { panic!("not usual") };
        assert_eq!((&request.method, &request.target[..]), (&Method::HEAD, &b"/a/b.wasm?x=%00"[..]));
        assert_eq!(request.headers["host"], "l:80");
        assert_eq!(request.headers["user-agent"].as_bytes(), b"a \xe9 b");
        assert_eq!(request.headers.get_all("x").iter().collect::<Vec<_>>(), ["", "y"]);
        for end in 0..text.len() {
            assert!(matches!(read_of(&text[..end]), Read::Begun), "{end}");
        }
    }

    #[test]
    fn a_client_may_say_that_its_request_is_the_last() {
        for (told, last) in [("close", true), ("CLOSE", true), ("keep-alive", false)] {
            let text = format!("GET /a HTTP/1.1\r\nHost: l\r\nConnection: {told}\r\n\r\n");
            let Read::Usual(request) = read_of(&text) else { panic!("{text}") };
            assert_eq!(request.is_last, last, "{told}");
        }
    }

    #[test]
    fn what_is_beyond_that_is_left_to_pingora() {
        let usual = "GET /a HTTP/1.1\r\nHost: l\r\n\r\n";
        assert!(matches!(read_of(usual), Read::Usual(_)));
        for (from, to) in [
            ("GET", "get"),
            ("GET", "POST"),
            ("GET", "PRI"),
            ("GET", "\r\nGET"),
            ("GET ", "GET  "),
            ("/a", "a"),
            ("/a", "*"),
            ("/a", "//a"),
            ("/a", "/a#b"),
            ("/a", "/a b"),
            ("/a", "/a<b"),
            ("/a", "/a?b=\"c"),
            ("/a", "/a`"),
            ("/a", "/a\0"),
            ("/a", "/\u{e9}"),
            ("/a", "http://l/a"),
            ("1.1", "1.0"),
            ("1.1", "2.0"),
            ("1.1\r", "1.1"),
            ("l\r", "l"),
            ("l\r\n\r", "l\r\n"),
            ("l", "l\r"),
            ("l", "l\0"),
            ("l", "l\r\n folded"),
            ("Host:", "Host :"),
            ("Host:", "Host"),
            ("Host:", ":"),
            ("l", "l\r\nContent-Length: 0"),
            ("l", "l\r\ntransfer-encoding: chunked"),
            ("l", "l\r\nExpect: 100-continue"),
            ("l", "l\r\nUpgrade: h2c"),
            ("l", "l\r\nConnection: close, te"),
            ("l", "l\r\nConnection: keep-alive, te"),
            ("\r\n\r\n", "\r\n\r\nGET /b HTTP/1.1\r\nHost: l\r\n\r\n"),
            ("\r\n\r\n", "\r\n\r\n\r\n"),
        ] {
            let text = usual.replacen(from, to, 1);
            assert!(matches!(read_of(&text), Read::Other), "{text:?}");
        }
    }

    #[test]
    fn a_head_is_written_as_http_wants_it() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", HeaderValue::from(0));
        headers.append("vary", HeaderValue::from_static("a"));
        headers.append("vary", HeaderValue::from_static("b"));
        let answer = Answer::of(412, headers, super::super::respond::Content::None);
        let text = String::from_utf8(head(&answer, RequestId::new(10), false)).unwrap();
        let (begin, rest) = text.split_once("date: ").unwrap();
        assert_eq!(
            begin,
            format!(
                "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\nvary: a\r\nvary: b\r\nserver: larder\r\nlarder-request-id: {:032x}\r\n",
                10
            )
        );
        let (date, end) = rest.split_once("\r\n").unwrap();
        assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
        assert_eq!(end, "connection: close\r\n\r\n");
        assert!(head(&answer, RequestId::new(10), true).ends_with(b"\r\nconnection: keep-alive\r\n\r\n"));
    }
}
