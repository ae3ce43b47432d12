//! Bearer tokens (RFC 6750) in a file, one a line, and whether a request shows one of them.
//!
//! Only digests are kept and compared, so that neither memory nor the time of a comparison tells of a token.

use crate::oci::Digest;
use base64::Engine;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::path::Path;

/// A longer file is something else.
const TOKENS_BYTES: u64 = 512 << 10;

/// Some tokens.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Digest>);

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearer {
    /// No bearer token.
    None,
    /// One that is not here, or more than one.
    Wrong,
    /// One that is, by its digest.
    Right(Digest),
}

impl Tokens {
    /// Reads a file whose tokens have `least` characters or more. Empty lines and those that begin with `#` say nothing.
    /// Blocks.
    ///
    /// # Errors
    /// A text that names the file and its line, and nothing of what stands there.
    pub fn read(file: &Path, least: usize) -> Result<Self, String> {
        let shown = file.display();
        let size = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}"))?.len();
        if size > TOKENS_BYTES {
            return Err(format!("{shown}: {size} bytes are no list of tokens"));
        }
        let text = std::fs::read(file).map_err(|e| format!("{shown}: {e}"))?;
        let mut tokens = Vec::new();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if !line.iter().all(u8::is_ascii_graphic) {
                return Err(format!(
                    "{shown}:{}: has a space or another character that no token has; expected a token alone",
                    at + 1
                ));
            }
            if line.len() < least {
                let problem = format!("{} characters are soon guessed; expected {least} or more", line.len());
                return Err(format!("{shown}:{}: {problem}", at + 1));
            }
            tokens.push(Digest::of(line));
        }
        if tokens.is_empty() {
            return Err(format!("{shown}: is empty; expected a token a line"));
        }
        Ok(Self(tokens))
    }

    /// What a request shows.
    pub fn judge(&self, headers: &HeaderMap) -> Bearer {
        self.judge_by(headers, bearer)
    }

    /// What a request shows, as a bearer token or as the password of Basic authentication (RFC 7617): a gateway that is
    /// given `user:password@` in a URL knows no other. Not for what browsers are shown, who would send it by themselves.
    pub fn judge_any(&self, headers: &HeaderMap) -> Bearer {
        self.judge_by(headers, |field| bearer(field).or_else(|| password(field)))
    }

    fn judge_by(&self, headers: &HeaderMap, token_of: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Bearer {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let (first, more) = (fields.next(), fields.next());
        let token = first.and_then(|field| token_of(field.as_bytes()));
        match (token, more) {
            (Some(token), None) => {
                let digest = Digest::of(&token);
                // All of them, whichever it is.
                let found = self.0.iter().fold(false, |found, known| is_same(known, &digest) | found);
                if found { Bearer::Right(digest) } else { Bearer::Wrong }
            }
            (None, None) => Bearer::None,
            (_, Some(_)) => Bearer::Wrong,
        }
    }
}

fn bearer(field: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii_start().to_vec())
}

fn password(field: &[u8]) -> Option<Vec<u8>> {
    let (scheme, pair) = field.split_at_checked(6)?;
    let pair = scheme.eq_ignore_ascii_case(b"basic ").then(|| pair.trim_ascii())?;
    let pair = base64::engine::general_purpose::STANDARD.decode(pair).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Takes as long for two that differ in the first byte as for two that are equal.
fn is_same(one: &Digest, other: &Digest) -> bool {
    one.bytes().iter().zip(other.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Tokens, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let name = file.path().display().to_string();
        Tokens::read(file.path(), 3).map_err(|fault| fault.replace(&name, "tokens"))
    }

    #[test]
    fn a_line_is_a_token_and_what_is_none_is_told_by_its_line_alone() {
        assert_eq!(read(b"a-token\r\n\n# of b\nb/token==").unwrap().0.len(), 2);
        for (text, told) in [
            (&b""[..], "tokens: is empty"),
            (b"\n\r\n#none\n", "tokens: is empty"),
            (b"good\nb4\n", "tokens:2: 2 characters"),
            (b"good\nb s3cret\n", "tokens:2: "),
            (b"s3cret\t\n", "tokens:1: "),
            (b"good\ngood\ns3cret\0", "tokens:3: "),
            ("s3cr\u{e9}t".as_bytes(), "tokens:1: "),
            (&vec![b'a'; 1 << 20], "tokens: 1048576 bytes"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.starts_with(told) && !fault.contains("s3cr"), "{fault}");
        }
        assert!(Tokens::read(Path::new("/not/there"), 1).unwrap_err().starts_with("/not/there: "));
    }

    #[test]
    fn one_authorization_with_one_of_the_tokens_is_right_and_nothing_else_is() {
        let tokens = read(b"one\ntwo\n").unwrap();
        let judge = |fields: &[&str]| {
            let fields = fields.iter().map(|field| (AUTHORIZATION, field.parse().unwrap()));
            tokens.judge(&HeaderMap::from_iter(fields))
        };
        for right in ["Bearer one", "bearer one", "BEARER   one"] {
            assert_eq!(judge(&[right]), Bearer::Right(Digest::of(b"one")), "{right}");
        }
        for wrong in
            [&["Bearer "][..], &["Bearer on"], &["Bearer onee"], &["Bearer One"], &["Bearer one two"]]
        {
            assert_eq!(judge(wrong), Bearer::Wrong, "{wrong:?}");
        }
        let two = HeaderMap::from_iter([(AUTHORIZATION, "Bearer one".parse().unwrap())]);
        let mut two = two;
        two.append(AUTHORIZATION, "Bearer two".parse().unwrap());
        assert_eq!(tokens.judge(&two), Bearer::Wrong, "two, of which others may believe the other");
        for none in [&[][..], &["Basic b25l"], &["Bearer"], &["one"], &[""]] {
            assert_eq!(judge(none), Bearer::None, "{none:?}");
        }
    }
}
