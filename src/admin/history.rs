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
    /// Requests for plugins answered with what is held, fresh or not, or with a local file.
    pub hits: u64,
    /// Requests for plugins answered with what had to be fetched.
    pub misses: u64,
    /// Of the hits, those past their lifetime.
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

impl Point {
    /// What happened from `before` to here, of two counts since the start.
    fn since(&self, before: &Self) -> Self {
        Self {
            at: self.at,
            hits: self.hits.saturating_sub(before.hits),
            misses: self.misses.saturating_sub(before.misses),
            stale: self.stale.saturating_sub(before.stale),
            errors: self.errors.saturating_sub(before.errors),
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            fetched_bytes: self.fetched_bytes.saturating_sub(before.fetched_bytes),
        }
    }
}

impl History {
    /// Takes in what was counted since the start.
    fn note(&self, counted: Point) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut kept.last, counted);
        kept.points.push_back(counted.since(&last));
        while kept.points.len() > STEPS {
            kept.points.pop_front();
        }
    }

    /// The steps that are over, and the one that is not.
    fn points(&self, counted: Point) -> Vec<Point> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.points.iter().copied().chain([counted.since(&kept.last)]).collect()
    }
}

impl Administration {
    /// Takes in what was counted; to be called once a [`STEP`].
    pub fn note_step(&self) {
        self.history.note(counted(&self.metrics, self.clock.now()));
    }

    /// The last hour. Its last step is not over.
    pub fn hour(&self) -> Hour {
        let points = self.history.points(counted(&self.metrics, self.clock.now()));
        Hour { step_seconds: STEP.as_secs(), points }
    }
}

/// Everything counted since the start.
fn counted(metrics: &Metrics, now: Timestamp) -> Point {
    let is_of_plugins = |route: &str| matches!(route, "plugin" | "metadata");
    let requests = |fits: &dyn Fn(&str, bool) -> bool| {
        sum(&metrics.requests, |label| {
            is_of_plugins(&label("route")) && fits(&label("cache"), *label("status") >= *"400")
        })
    };
    Point {
        at: now.millis() / 1000,
        hits: requests(&|cache, failed| !failed && matches!(cache, "hit" | "stale")),
        misses: requests(&|cache, failed| !failed && matches!(cache, "miss" | "collapsed")),
        stale: requests(&|cache, failed| !failed && cache == "stale"),
        errors: requests(&|_, failed| failed),
        sent_bytes: sum(&metrics.response_bytes, |label| is_of_plugins(&label("route"))),
        fetched_bytes: sum(&metrics.fetched_bytes, |_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_what_was_counted_in_it_each_request_once_and_an_hour_is_kept() {
        let metrics = Metrics::new();
        let history = History::default();
        let answered = |status: &str, cache: &str, times| {
            metrics.requests.with_label_values(&["plugin", status, cache]).inc_by(times);
        };
        answered("200", "hit", 3);
        answered("200", "miss", 1);
        answered("200", "collapsed", 1);
        answered("502", "error", 1);
        metrics.lookups.with_label_values(&["upstream"]).inc_by(3);
        metrics.requests.with_label_values(&["health", "503", "none"]).inc();
        metrics.response_bytes.with_label_values(&["plugin"]).inc_by(100);
        let at = |millis| counted(&metrics, Timestamp::from_millis(millis));
        let first = Point { at: 30, hits: 3, misses: 2, errors: 1, sent_bytes: 100, ..Point::default() };
        assert_eq!(history.points(at(30_000)), [first], "the step that is not over");
        history.note(at(30_000));
        answered("200", "hit", 4);
        answered("200", "stale", 1);
        history.note(at(60_000));
        let second = Point { at: 60, hits: 5, stale: 1, ..Point::default() };
        let now = Point { at: 61, ..Point::default() };
        assert_eq!(history.points(at(61_000)), [first, second, now]);
        for n in 3..=STEPS as u64 + 5 {
            history.note(at(n * 30_000));
        }
        let points = history.points(at(5_000_000));
        assert_eq!((points.len(), points[0].at), (STEPS + 1, 6 * 30));
    }
}
