//! The last hour in steps, for the status page.

use super::Administration;
use crate::clock::Timestamp;
use crate::metrics::{Metrics, sum};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time of a step.
pub const STEP: Duration = Duration::from_secs(30);
/// Steps that are kept: an hour.
const STEPS: usize = 120;

/// What happened in the last hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    /// Seconds of a step.
    pub step_seconds: u64,
    /// The steps, the oldest first.
    pub points: Vec<Point>,
}

/// What happened in a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its end, in seconds since 1970.
    pub at: u64,
    /// Modules served from memory, disk or a local folder.
    pub hits: u64,
    /// Modules that had to be fetched.
    pub misses: u64,
    /// Of both, those served past their lifetime.
    pub stale: u64,
    /// Requests for plugins that were refused or failed.
    pub errors: u64,
    /// Bytes sent to clients.
    pub sent_bytes: u64,
    /// Bytes received from registries.
    pub fetched_bytes: u64,
}

/// Keeps the hour.
#[derive(Default)]
pub struct History(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    last: Point,
    points: VecDeque<Point>,
}

impl History {
    /// Takes in what was counted since the start; to be called once a [`STEP`].
    pub fn note(&self, counted: Point) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut kept.last, counted);
        kept.points.push_back(Point {
            at: counted.at,
            hits: counted.hits.saturating_sub(last.hits),
            misses: counted.misses.saturating_sub(last.misses),
            stale: counted.stale.saturating_sub(last.stale),
            errors: counted.errors.saturating_sub(last.errors),
            sent_bytes: counted.sent_bytes.saturating_sub(last.sent_bytes),
            fetched_bytes: counted.fetched_bytes.saturating_sub(last.fetched_bytes),
        });
        while kept.points.len() > STEPS {
            kept.points.pop_front();
        }
    }
}

impl Administration {
    /// Takes in what was counted; to be called once a [`STEP`].
    pub fn note_step(&self) {
        self.history.note(counted(&self.metrics, self.clock.now()));
    }

    /// The last hour.
    pub fn hour(&self) -> Hour {
        let kept = self.history.0.lock().unwrap_or_else(PoisonError::into_inner);
        Hour { step_seconds: STEP.as_secs(), points: kept.points.iter().copied().collect() }
    }
}

/// Everything counted since the start.
fn counted(metrics: &Metrics, now: Timestamp) -> Point {
    let is_of_plugins = |route: &str| matches!(route, "plugin" | "metadata");
    let is_miss = |tier: &str| tier == "upstream";
    Point {
        at: now.millis() / 1000,
        hits: sum(&metrics.lookups, |label| !is_miss(&label("tier"))),
        misses: sum(&metrics.lookups, |label| is_miss(&label("tier"))),
        stale: sum(&metrics.stale_served, |_| true),
        errors: sum(&metrics.requests, |label| is_of_plugins(&label("route")) && *label("status") >= *"400"),
        sent_bytes: sum(&metrics.response_bytes, |label| is_of_plugins(&label("route"))),
        fetched_bytes: sum(&metrics.fetched_bytes, |_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_what_was_counted_in_it_and_an_hour_is_kept() {
        let metrics = Metrics::new();
        let history = History::default();
        let points = || history.0.lock().unwrap().points.clone();
        metrics.lookups.with_label_values(&["disk"]).inc_by(3);
        metrics.lookups.with_label_values(&["upstream"]).inc_by(2);
        metrics.requests.with_label_values(&["plugin", "404", "error"]).inc();
        metrics.requests.with_label_values(&["plugin", "200", "hit"]).inc();
        metrics.requests.with_label_values(&["health", "503", "none"]).inc();
        metrics.response_bytes.with_label_values(&["plugin"]).inc_by(100);
        history.note(counted(&metrics, Timestamp::from_millis(30_000)));
        metrics.lookups.with_label_values(&["memory"]).inc_by(5);
        metrics.stale_served.with_label_values(&["connect"]).inc();
        history.note(counted(&metrics, Timestamp::from_millis(60_000)));
        let first = Point { at: 30, hits: 3, misses: 2, errors: 1, sent_bytes: 100, ..Point::default() };
        assert_eq!(points(), [first, Point { at: 60, hits: 5, stale: 1, ..Point::default() }]);
        for n in 3..=STEPS as u64 + 5 {
            history.note(Point { at: n * 30, ..Point::default() });
        }
        assert_eq!((points().len(), points()[0].at), (STEPS, 6 * 30));
    }
}
