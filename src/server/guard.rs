//! Malformed and hostile requests end here, before they mean anything.
//!
//! pingora answers some of these itself and accepts others (both lengths at once, bare line feeds, bytes beyond ASCII,
//! any size up to 1 MiB); here is the one list of what we take.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Version};

/// Longest request target, in bytes.
const TARGET_BYTES: usize = 8 << 10;
/// Longest header section, in bytes. Gateways send 150, browsers 2 000.
const HEADER_BYTES: usize = 16 << 10;
/// Most header fields.
const HEADER_FIELDS: usize = 100;

/// A request's head as it came.
pub struct Head<'r> {
    /// Method.
    pub method: &'r Method,
    /// Request target, raw.
    pub target: &'r [u8],
    /// Protocol version.
    pub version: Version,
    /// Fields.
    pub headers: &'r HeaderMap,
    /// The whole head, raw; empty where its framing is beyond doubt, as for HTTP/2.
    pub raw: &'r [u8],
    /// False when the request line had a byte that none may have.
    pub is_clean: bool,
}

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// HTTP status.
    pub status: u16,
    /// Stable word.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub hint: &'static str,
    /// For 405: the methods that there are.
    pub allow: &'static str,
}

impl Rejected {
    /// Without advice.
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), hint: "", allow: "" }
    }
}

/// The methods that a path has, as `Allow` names them; `None` for a path that is none, whose answer is to say so.
pub type Methods = fn(&str) -> Option<&'static str>;

/// Those of a port where nothing can be changed.
pub fn read_only(_path: &str) -> Option<&'static str> {
    Some("GET, HEAD")
}

/// A request that is well-formed.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The path: absolute, ASCII, without query, empty segments, dots or escapes.
    pub path: String,
    /// What stands behind the first `?`, as it came.
    pub query: String,
    /// Whether a body comes with it. One that is not read ends the connection with the answer.
    pub has_body: bool,
    /// False when the client wants the connection to end with the answer.
    pub reusable: bool,
}

/// Checks a head, where paths have `methods`.
pub fn check(head: &Head<'_>, methods: Methods) -> Result<Accepted, Rejected> {
    let reject = |status, code, detail: &str| Err(Rejected::new(status, code, detail));
    if head.raw.len() > HEADER_BYTES || head.headers.len() > HEADER_FIELDS {
        if head.target.len() > TARGET_BYTES {
            return reject(414, "target_too_long", "the request target is over 8 KiB");
        }
        return reject(431, "headers_too_large", "the request's header is over 16 KiB or 100 fields");
    }
    if head.target.len() > TARGET_BYTES {
        return reject(414, "target_too_long", "the request target is over 8 KiB");
    }
    let Some(content_lengths) = content_lengths(head.raw) else {
        return reject(400, "bad_framing", "a header line ends without a carriage return");
    };
    let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next();
    match (encoding, encodings.next(), content_lengths) {
        (None, _, 0 | 1) => {}
        (Some(encoding), None, 0) if encoding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        (None, ..) => return reject(400, "bad_framing", "there is more than one Content-Length"),
        (Some(_), _, 0) => return reject(400, "bad_framing", "the Transfer-Encoding is not just chunked"),
        (Some(_), ..) => {
            return reject(400, "bad_framing", "both Content-Length and Transfer-Encoding are given");
        }
    }
    if !head.is_clean {
        return reject(400, "bad_path", "the request line has a byte that is not printable ASCII");
    }
    check_host(head)?;
    let path = check_path(head.target);
    let allow = path.as_ref().map_or_else(|_| read_only(""), |path| methods(path));
    if let Some(allow) = allow.filter(|allow| allow.split(", ").all(|method| method != head.method.as_str()))
    {
        let detail = format!("answered here: {allow}");
        return Err(Rejected { allow, ..Rejected::new(405, "method_not_allowed", detail) });
    }
    let length = head.headers.get(CONTENT_LENGTH);
    if length.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return reject(400, "bad_framing", "the Content-Length is no number");
    }
    // RFC 9112, section 9.3: HTTP/1.0 closes unless it is asked not to.
    let stays = head
        .headers
        .get(CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
    let is_closing = head.version < Version::HTTP_11 && !stays;
    let has_body = encoding.is_some() || length.is_some_and(|length| length.as_bytes() != b"0");
    Ok(Accepted { path: path?, query: query_of(head.target), has_body, reusable: !is_closing })
}

/// Fields by the name of `Content-Length` in a raw head; `None` when a line ends without a carriage return. The parser drops
/// them beside `Transfer-Encoding` and folds equal ones, so the head is asked as it came.
fn content_lengths(raw: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (mut count, mut start) = (0, 0);
    for end in memchr::memchr_iter(b'\n', raw) {
        let line = &raw[start..end];
        if line.last() != Some(&b'\r') {
            return None;
        }
        count += usize::from(line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)));
        start = end + 1;
    }
    Some(count)
}

fn check_host(head: &Head<'_>) -> Result<(), Rejected> {
    let bad = |detail: &str| Err(Rejected::new(400, "bad_host", detail));
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_11 => bad("HTTP/1.1 asks for a Host field"),
        (None, _) => Ok(()),
        (Some(_), Some(_)) => bad("there is more than one Host field"),
        (Some(host), None) => {
            let ok = host.to_str().is_ok_and(is_host);
            if ok {
                Ok(())
            } else {
                bad("the Host field is no host: expected name, name:port or [IPv6]:port")
            }
        }
    }
}

/// RFC 3986's host and port, where the port may be empty and a name may end in the root's dot.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_registry = crate::oci::reference::is_registry;
    match host.strip_suffix('.') {
        Some(name) if !port.is_empty() => is_registry(&format!("{name}:{port}")),
        Some(name) => is_registry(name),
        None if port.is_empty() => is_registry(host),
        None => is_registry(text),
    }
}

fn query_of(target: &[u8]) -> String {
    if memchr::memchr(b'?', target).is_none() {
        return String::new();
    }
    let target = String::from_utf8_lossy(target);
    let target = target.split('#').next().unwrap_or_default();
    target.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default()
}

fn check_path(target: &[u8]) -> Result<String, Rejected> {
    match as_it_came(target) {
        Some(path) => Ok(path.to_owned()),
        None => check_closely(target),
    }
}

fn check_closely(target: &[u8]) -> Result<String, Rejected> {
    let bad = |detail: &str| Err(Rejected::new(400, "bad_path", detail));
    let path = target.split(|byte| *byte == b'?' || *byte == b'#').next().unwrap_or_default();
    // The query means nothing here, and what no target may hold is refused all the same.
    if target.iter().any(|byte| !byte.is_ascii_graphic()) {
        return bad("the path or the query has a byte that is not printable ASCII");
    }
    let path = String::from_utf8_lossy(path);
    // An absolute form (RFC 9112, section 3.2.2) means its path.
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| path.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let path = match scheme.map(|scheme| &path[scheme.len()..]) {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => &path,
    };
    if !path.starts_with('/') {
        return bad("the path does not begin with '/'");
    }
    if is_unexpanded(path) {
        let detail = "the path holds a template such as ${name} that was never expanded";
        return Err(Rejected {
            hint: "HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN is expanded by Higress Console and nowhere else; \
                   elsewhere write the plugin's name and version",
            ..Rejected::new(400, "unexpanded_template", detail)
        });
    }
    if path.contains(['%', '\\']) {
        return bad("the path has an escape (%) or a backslash; names and versions need neither");
    }
    let mut clean = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if segment == "." || segment == ".." {
            return bad("the path has a '.' or '..' segment");
        }
        clean.push('/');
        clean.push_str(segment);
    }
    if path.ends_with('/') {
        clean.push('/');
    }
    Ok(clean)
}

/// A target that is its own clean path, as nearly all are: segments of the bytes that names and versions have, none of them
/// empty or beginning with a dot. Anything else is looked at closely.
fn as_it_came(target: &[u8]) -> Option<&str> {
    let mut before = 0;
    for byte in target {
        let is_plain = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'+' | b':' => before != 0,
            b'.' => before != b'/' && before != 0,
            b'/' => before != b'/',
            _ => false,
        };
        if !is_plain {
            return None;
        }
        before = *byte;
    }
    std::str::from_utf8(target).ok().filter(|path| !path.is_empty())
}

/// `${name}`, `{version}` and the like, plain or escaped.
fn is_unexpanded(path: &str) -> bool {
    if !path.contains(['$', '%', '{']) {
        return false;
    }
    let plain = path.to_ascii_lowercase().replace("%24", "$").replace("%7b", "{").replace("%7d", "}");
    plain.contains("${") || plain.contains("{name}") || plain.contains("{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, target: &[u8], lines: &[&str]) -> Result<Accepted, (u16, &'static str)> {
        let mut headers = HeaderMap::new();
        let mut raw = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\n"].concat();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            raw.extend_from_slice(format!("{line}\r\n").as_bytes());
        }
        let head = Head {
            method: &method.parse().unwrap(),
            target,
            version: Version::HTTP_11,
            headers: &headers,
            raw: &raw,
            is_clean: true,
        };
        check(&head, read_only).map_err(|r| (r.status, r.code))
    }

    fn path(target: &str) -> Result<String, &'static str> {
        checked("GET", target.as_bytes(), &["Host: l"]).map(|a| a.path).map_err(|(_, code)| code)
    }

    #[test]
    fn paths_lose_their_query_and_empty_segments() {
        for (target, expected) in [
            ("/plugins/a/1/plugin.wasm", "/plugins/a/1/plugin.wasm"),
            ("/plugins/a/1/plugin.wasm?v=2&x=/../", "/plugins/a/1/plugin.wasm"),
            ("//plugins///a/1/plugin.wasm", "/plugins/a/1/plugin.wasm"),
            ("/plugins//", "/plugins/"),
            ("/", "/"),
            ("http://l:8080/a.wasm", "/a.wasm"),
            ("http://l", "/"),
            ("HTTPS://l/b.wasm", "/b.wasm"),
        ] {
            assert_eq!(path(target).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn paths_that_mean_mischief_are_refused_and_not_normalised() {
        for target in [
            "/plugins/../../etc/passwd/plugin.wasm",
            "/plugins/a/../b/plugin.wasm",
            "/./a.wasm",
            "/%2e%2e/a.wasm",
            "/%2E%2e%2fa.wasm",
            "/..%2f",
            "/..%5c",
            "/%252e%252e",
            "/a\\b",
            "/plugin.wasm%00.txt",
            "*",
            "l:443",
            "a.wasm",
            "",
            "/a\u{7f}",
            "/é.wasm",
            "/a b",
            "/a\tb",
        ] {
            assert_eq!(path(target), Err("bad_path"), "{target}");
        }
        assert_eq!(checked("GET", b"/a\0b", &["Host: l"]), Err((400, "bad_path")));
        assert_eq!(checked("GET", b"/a\xffb", &["Host: l"]), Err((400, "bad_path")));
    }

    #[test]
    fn an_unexpanded_template_is_told_as_such() {
        for target in [
            "/plugins/${name}/${version}/plugin.wasm",
            "/%24%7Bname%7D.wasm",
            "/{name}.wasm",
            "/a/%7bversion%7d.wasm",
        ] {
            assert_eq!(path(target), Err("unexpanded_template"), "{target}");
        }
    }

    #[test]
    fn only_get_and_head_are_taken() {
        assert!(checked("HEAD", b"/", &["Host: l"]).is_ok());
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "get", "FOO"] {
            assert_eq!(checked(method, b"/", &["Host: l"]), Err((405, "method_not_allowed")), "{method}");
        }
    }

    #[test]
    fn hosts_are_checked() {
        for host in [
            "l",
            "larder.svc:8080",
            "[::1]:80",
            "[::1]",
            "10.0.0.1",
            "l.",
            "larder.higress-system.svc.cluster.local.:8080",
            "l:",
            "[::1]:",
        ] {
            assert!(checked("GET", b"/", &[&format!("Host: {host}")]).is_ok(), "{host}");
        }
        for host in
            ["", ".", ":", "a..", "a b", "evil/x", "a:99999", "a:b", "u@h", "a,b", "a:1:2", "a.:b", "[::1"]
        {
            assert_eq!(checked("GET", b"/", &[&format!("Host: {host}")]), Err((400, "bad_host")), "{host}");
        }
        assert_eq!(checked("GET", b"/", &[]), Err((400, "bad_host")));
        assert_eq!(checked("GET", b"/", &["Host: a", "Host: b"]), Err((400, "bad_host")));
    }

    #[test]
    fn ambiguous_framing_is_refused_and_a_body_ends_the_connection() {
        let both = ["Host: l", "Content-Length: 5", "Transfer-Encoding: chunked"];
        assert_eq!(checked("GET", b"/", &both), Err((400, "bad_framing")));
        for bad in [
            &["Content-Length: 5", "Content-Length: 5"][..],
            &["Content-Length: 5,5"],
            &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            &["Transfer-Encoding: gzip, chunked"],
        ] {
            let lines = [&["Host: l"][..], bad].concat();
            assert_eq!(checked("GET", b"/", &lines), Err((400, "bad_framing")), "{bad:?}");
        }
        assert_eq!(checked("GET", b"/", &["Host: l", "Content-Length: 5"]).map(|a| a.has_body), Ok(true));
        assert_eq!(checked("GET", b"/", &["Host: l", "Content-Length: 0"]).map(|a| a.has_body), Ok(false));
        let raw = b"GET / HTTP/1.1\nHost: l\r\n\r\n";
        let headers = [(HOST, "l".parse().unwrap())].into_iter().collect();
        let head = Head {
            method: &Method::GET,
            target: b"/",
            version: Version::HTTP_11,
            headers: &headers,
            raw,
            is_clean: true,
        };
        assert_eq!(check(&head, read_only).unwrap_err().code, "bad_framing");
    }

    #[test]
    fn sizes_are_bounded() {
        let long = format!("/{}", "a".repeat(9000));
        assert_eq!(checked("GET", long.as_bytes(), &["Host: l"]), Err((414, "target_too_long")));
        let huge = format!("/{}", "a".repeat(100_000));
        assert_eq!(checked("GET", huge.as_bytes(), &["Host: l"]), Err((414, "target_too_long")));
        let line = format!("X: {}", "a".repeat(17_000));
        assert_eq!(checked("GET", b"/", &["Host: l", &line]), Err((431, "headers_too_large")));
        let many: Vec<_> = std::iter::once("Host: l").chain(std::iter::repeat_n("X: y", 100)).collect();
        assert_eq!(checked("GET", b"/", &many), Err((431, "headers_too_large")));
    }

    proptest::proptest! {
        #[test]
        fn a_target_that_is_taken_as_it_came_is_what_a_close_look_makes_of_it(target in "/?[/a.~+:-]{0,8}") {
            if let Some(path) = as_it_came(target.as_bytes()) {
                proptest::prop_assert_eq!(check_closely(target.as_bytes()), Ok(path.to_owned()));
            }
        }

        #[test]
        fn no_target_makes_it_panic_and_what_passes_is_clean(target in "[/a-z.%{}$\\\\?#é\u{0}]{0,40}") {
            if let Ok(path) = path(&target) {
                proptest::prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains(['%', '?', '#', '\\']));
                proptest::prop_assert!(!path.split('/').any(|s| s == ".." || s == "."));
            }
        }
    }
}
