//! Range requests (RFC 9110, section 14): one byte range, or the whole.

/// What a `Range` asks for of a representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: no range, one that is not understood, or several, which a server may decline.
    Whole,
    /// 206 with these bytes, both ends included.
    Part {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
    /// 416: understood, and nothing of it is there.
    Unsatisfiable,
}

/// Judges the value of a `Range` header for a representation of `size` bytes.
///
/// A malformed value is ignored (section 14.2). Several ranges get the whole: nobody who loads a module wants parts
/// of it, and a list of ranges is a way to make a server work.
pub fn judge(value: &str, size: u64) -> Wanted {
    let Some((unit, set)) = value.split_once('=') else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else {
        return Wanted::Whole;
    };
    match (number(first), number(last)) {
        (Number::None, Number::Is(suffix)) => {
            if suffix == 0 || size == 0 {
                return Wanted::Unsatisfiable;
            }
            Wanted::Part { first: size - suffix.min(size), last: size - 1 }
        }
        (Number::Is(first), last @ (Number::None | Number::Is(_))) => {
            let last = if let Number::Is(last) = last { last } else { u64::MAX };
            if last < first {
                return Wanted::Whole;
            }
            if first >= size {
                return Wanted::Unsatisfiable;
            }
            Wanted::Part { first, last: last.min(size - 1) }
        }
        _ => Wanted::Whole,
    }
}

enum Number {
    None,
    Bad,
    Is(u64),
}

/// A number too large for us is larger than any module, not malformed.
fn number(text: &str) -> Number {
    if text.is_empty() {
        Number::None
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        Number::Is(text.parse().unwrap_or(u64::MAX))
    } else {
        Number::Bad
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted::*;
    use super::*;

    #[test]
    fn ranges_are_judged_as_rfc_9110_asks() {
        for (value, expected) in [
            ("bytes=0-0", Part { first: 0, last: 0 }),
            ("bytes=2-5", Part { first: 2, last: 5 }),
            ("bytes=5-", Part { first: 5, last: 9 }),
            ("bytes=5-100", Part { first: 5, last: 9 }),
            ("bytes=-3", Part { first: 7, last: 9 }),
            ("bytes=-100", Part { first: 0, last: 9 }),
            ("BYTES=0-1", Part { first: 0, last: 1 }),
            ("bytes=10-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=99999999999999999999-", Unsatisfiable),
            ("bytes=5-2", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=--5", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=0-0,2-3", Whole),
            ("items=0-1", Whole),
            ("bytes", Whole),
            ("", Whole),
        ] {
            assert_eq!(judge(value, 10), expected, "{value}");
        }
        assert_eq!(judge("bytes=-1", 0), Unsatisfiable);
        assert_eq!(judge("bytes=0-", 0), Unsatisfiable);
    }

    proptest::proptest! {
        #[test]
        fn a_part_lies_within_the_representation(value in "(bytes=)?[0-9a-z,-]{0,24}", size in 0u64..1000) {
            if let Part { first, last } = judge(&value, size) {
                assert!(first <= last && last < size);
            }
        }
    }
}
