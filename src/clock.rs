//! Time, as the one thing that rules are handed and never ask for.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999Z.
const LAST_MILLIS: u64 = 253_402_300_799_999;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Earlier than any other; of a record: no registry ever confirmed it.
    pub const EPOCH: Self = Self(0);
    /// Later than any other.
    pub const END: Self = Self(u64::MAX);

    /// From milliseconds since the epoch.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From seconds since the epoch, as certificates have them; times before it become the epoch.
    pub fn from_unix(seconds: i64) -> Self {
        Self(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// `self + span`, at the end of time if it would be later.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// `self - span`, at the epoch if it would be earlier.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Time passed since `earlier`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The same as a `SystemTime`; what is later than the year 9999 as its end, because no form of a date goes beyond.
    pub fn system(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0.min(LAST_MILLIS))
    }

    /// From a `SystemTime`; times before the epoch become the epoch.
    pub fn from_system(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// RFC 3339 in UTC, to the second.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_seconds(self.system()))
    }
}

/// What the machine's clock shows, for a line of the log; never before 1970.
pub fn shown() -> SystemTime {
    SystemTime::now().max(UNIX_EPOCH)
}

/// Where the present comes from.
pub trait Clock: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> Timestamp;
}

/// The machine's clock, read once: from then on time advances by the monotonic clock, so that a step of the wall clock
/// neither ages nor rejuvenates everything that is kept.
pub struct SystemClock {
    start: Timestamp,
    since: Instant,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn new() -> Self {
        Self { start: Timestamp::from_system(SystemTime::now()), since: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.start.plus(self.since.elapsed())
    }
}

/// A clock that stands until it is told to advance, for tests and for replaying.
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Stands at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self(AtomicU64::new(start.millis()))
    }

    /// Moves forward by `span`.
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_printed_in_utc_and_never_runs_backwards() {
        let t = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(t.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(t.since(t.plus(Duration::from_secs(5))), Duration::ZERO);
        assert_eq!(t.plus(Duration::MAX), Timestamp::from_millis(u64::MAX));
        let clock = ManualClock::at(t);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now().since(t), Duration::from_millis(2));
    }
}
