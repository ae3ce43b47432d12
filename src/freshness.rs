//! Freshness: how long what a registry said is taken for true (RFC 9111, section 4.2; RFC 5861).
//!
//! A registry gives no lifetime for a tag, so the operator does. A digest needs none: it cannot come to mean something
//! else.

use crate::clock::Timestamp;
use crate::record::{Record, State};
use serde::Deserialize;
use std::time::Duration;

/// How long answers stay fresh.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetimes {
    /// A tag that resolved.
    #[serde(with = "humantime_serde")]
    pub tag: Duration,
    /// A reference that the registry does not have, or not for us.
    #[serde(with = "humantime_serde")]
    pub absent: Duration,
    /// An artifact that is there and cannot be used.
    #[serde(with = "humantime_serde")]
    pub unusable: Duration,
    /// Any failure that may pass: network, time, overload.
    #[serde(with = "humantime_serde")]
    pub transient: Duration,
}

/// What a record's age means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// To be used without asking; still true for so long.
    Fresh(Duration),
    /// To be used and asked about; too old by so long.
    Stale(Duration),
}

impl Lifetimes {
    /// Judges `record` at `now`.
    ///
    /// A record from the future, left by a clock that was set back since, is stale: nothing is known of its age. So is one
    /// that no registry ever confirmed, such as what a bundle brought.
    pub fn judge(&self, record: &Record, now: Timestamp) -> Freshness {
        let lifetime = match record.state {
            State::Present(_) if !record.reference.is_mutable() => return Freshness::Fresh(Duration::MAX),
            State::Present(_) => self.tag,
            State::Absent(_) => self.absent,
        };
        if record.checked_at > now || record.checked_at == Timestamp::EPOCH {
            return Freshness::Stale(Duration::ZERO);
        }
        let age = now.since(record.checked_at);
        if age < lifetime { Freshness::Fresh(lifetime - age) } else { Freshness::Stale(age - lifetime) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Absence;

    const LIFETIMES: Lifetimes = Lifetimes {
        tag: Duration::from_secs(300),
        absent: Duration::from_secs(30),
        unusable: Duration::from_secs(60),
        transient: Duration::from_secs(3),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn an_absence_is_believed_for_its_own_lifetime_only() {
        let record = Record {
            reference: "h.example/a:1".parse().unwrap(),
            checked_at: at(1000),
            state: State::Absent(Absence::NotFound),
        };
        assert_eq!(LIFETIMES.judge(&record, at(1010)), Freshness::Fresh(Duration::from_secs(20)));
        assert_eq!(LIFETIMES.judge(&record, at(1030)), Freshness::Stale(Duration::ZERO));
        assert_eq!(LIFETIMES.judge(&record, at(1090)), Freshness::Stale(Duration::from_secs(60)));
        assert_eq!(LIFETIMES.judge(&record, at(999)), Freshness::Stale(Duration::ZERO), "from the future");
        let of_a_bundle = Record { checked_at: Timestamp::EPOCH, ..record };
        assert_eq!(LIFETIMES.judge(&of_a_bundle, at(1010)), Freshness::Stale(Duration::ZERO));
    }
}
