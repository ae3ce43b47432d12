//! The last hour in steps, for the status page.

use super::Administration;
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
    /// The last hour.
    pub fn hour(&self) -> Hour {
        let kept = self.history.0.lock().unwrap_or_else(PoisonError::into_inner);
        Hour { step_seconds: STEP.as_secs(), points: kept.points.iter().copied().collect() }
    }
}
