//! Whose request this is a part of: an id of ours, and what its sender says (W3C Trace Context).

use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// Where a sender tells (W3C Trace Context, section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The name of a request, in its answer, in the log and in its trace: 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u128);

/// What a sender says of its own span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not zero.
    pub trace: u128,
    /// The span that the request was sent in; not zero.
    pub span: u64,
    /// Whether the sender tells of it.
    pub is_sampled: bool,
}

impl RequestId {
    /// Of a trace's id, or of any number that is not zero.
    pub fn new(number: u128) -> Self {
        Self(number)
    }

    /// The same as a number.
    pub fn number(self) -> u128 {
        self.0
    }

    /// For a field of an answer.
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.digits())
            .unwrap_or_else(|_| unreachable!("digits may stand in a field"))
    }

    /// Its digits.
    pub fn digits(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            (pair[0], pair[1]) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
        }
        digits
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_else(|_| unreachable!("digits are ASCII")))
    }
}

impl TraceParent {
    /// Of a request's fields: one `traceparent` of version 00. Anything else is as if it were not there, as the
    /// specification has it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        let mut parts = value.to_str().ok()?.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_whole = version == "00" && parts.next().is_none();
        if !(is_whole && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2)) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn read(values: &[&str]) -> Option<TraceParent> {
        let fields = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        TraceParent::of(&headers)
    }

    #[test]
    fn a_traceparent_gives_its_ids_and_whether_it_is_told_of() {
        let told = read(&[&format!("00-{TRACE}-b7ad6b7169203331-01")]).unwrap();
        assert_eq!((told.span, told.is_sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(RequestId::new(told.trace).to_string(), TRACE);
        assert!(!read(&[&format!("00-{TRACE}-b7ad6b7169203331-00")]).unwrap().is_sampled);
        assert!(!read(&[&format!("00-{TRACE}-b7ad6b7169203331-fe")]).unwrap().is_sampled);
    }

    #[test]
    fn what_is_no_traceparent_is_as_if_it_were_not_there() {
        let (zero, span) = ("0".repeat(32), "b7ad6b7169203331");
        for value in [
            String::new(),
            format!("00-{TRACE}-{span}"),
            format!("00-{TRACE}-{span}-01-more"),
            format!("01-{TRACE}-{span}-01"),
            format!("ff-{TRACE}-{span}-01"),
            format!("00-{zero}-{span}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{span}-01", TRACE.to_uppercase()),
            format!("00-{}-{span}-01", &TRACE[1..]),
            format!("00-{TRACE}-{span}1-01"),
            format!("00-{TRACE}-{span}-1"),
            format!("00-+{}-{span}-01", &TRACE[1..]),
            format!(" 00-{TRACE}-{span}-01"),
            "\u{e9}".repeat(3),
        ] {
            assert_eq!(read(&[&value]), None, "{value}");
        }
        let good = format!("00-{TRACE}-{span}-01");
        assert_eq!(read(&[&good, &good]), None, "two of them");
    }

    #[test]
    fn an_id_is_32_digits_wherever_it_is_shown() {
        let id = RequestId::new(0xabc);
        assert_eq!(id.to_string(), format!("{}abc", "0".repeat(29)));
        assert_eq!(id.value().to_str().unwrap(), id.to_string());
        assert_eq!(RequestId::new(u128::MAX).value().to_str().unwrap(), "f".repeat(32));
    }
}
