//! Whether the disk takes what is written. While it does not, what is new is held in memory, and the disk is tried again
//! every few seconds.

use super::disk::Keep;
use super::error::StoreError;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module's text.
pub struct Health {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    trouble: Mutex<Option<Trouble>>,
    /// How often to try it.
    keep: Arc<ArcSwap<Keep>>,
}

/// Why the disk is left alone.
struct Trouble {
    detail: &'static str,
    since: Timestamp,
    next_try: Timestamp,
    /// What did not fit, in bytes.
    needed: u64,
}

impl Health {
    /// Of the disk at `dir`; well, as far as is known.
    pub fn new(dir: PathBuf, keep: Arc<ArcSwap<Keep>>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { dir, clock, metrics, trouble: Mutex::default(), keep }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `needed` bytes could not be written. Told once, until it is over.
    pub fn failed(&self, error: &StoreError, needed: u64) {
        self.count(error);
        let now = self.clock.now();
        let (detail, next_try) = (error.uncached(), now.plus(self.keep.load().retry));
        let mut trouble = self.trouble();
        let since = trouble.as_ref().map_or(now, |trouble| trouble.since);
        let needed = trouble.as_ref().map_or(needed, |trouble| trouble.needed.max(needed));
        if trouble.is_none() {
            let dir = self.dir.display();
            tracing::error!(event = "store_degraded", %dir, %error, hint = error.hint(), "the cache directory takes no more; what is new is held in memory");
        } else {
            tracing::debug!(%error, "the cache directory still fails");
        }
        *trouble = Some(Trouble { detail, since, next_try, needed });
        self.metrics.store_degraded.set(1);
    }

    /// The same, for what may have another cause than the disk.
    pub fn failed_if_io(&self, error: &StoreError, needed: u64) {
        /// `ENFILE` and `EMFILE`: too many open files say nothing of the disk.
        const TOO_MANY_FILES: [i32; 2] = [23, 24];
        let StoreError::Io { source, .. } = error else { return };
        match source.raw_os_error() {
            Some(number) if TOO_MANY_FILES.contains(&number) => self.count(error),
            _ => self.failed(error, needed),
        }
    }

    /// It was looked at, and is to be left alone for another while.
    pub fn put_off(&self) {
        let next = self.clock.now().plus(self.keep.load().retry);
        if let Some(trouble) = self.trouble().as_mut() {
            trouble.next_try = next;
        }
    }

    /// Counts a failed operation, by what was being done.
    pub fn count(&self, error: &StoreError) {
        let StoreError::Io { doing, .. } = error else { return };
        self.metrics.disk_errors.with_label_values(&[*doing]).inc();
    }

    /// The disk took something again.
    pub fn worked(&self) {
        let Some(trouble) = self.trouble().take() else { return };
        let seconds = self.clock.now().since(trouble.since).as_secs();
        self.metrics.store_degraded.set(0);
        let dir = self.dir.display();
        tracing::info!(event = "store_recovered", %dir, seconds, "the cache directory takes what is new again");
    }

    /// True when nothing is known to be wrong.
    pub fn is_well(&self) -> bool {
        self.trouble().is_none()
    }

    /// True when the disk may be written to: it is well, or to be tried again.
    pub fn may_try(&self) -> bool {
        let now = self.clock.now();
        self.trouble().as_ref().is_none_or(|trouble| trouble.next_try <= now)
    }

    /// Why it is left alone, as `Cache-Status` has it, and how many bytes did not fit.
    pub fn why(&self) -> Option<(&'static str, u64)> {
        self.trouble().as_ref().map(|trouble| (trouble.detail, trouble.needed))
    }
}
