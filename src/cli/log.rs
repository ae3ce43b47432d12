//! Logs to standard error, as lines for people or as JSON.
//!
//! Lines go through a bounded queue to a thread of their own: whoever reads them may stall, and requests must not. Lines
//! beyond the queue are dropped and counted.

use crate::config::{LogConfig, LogFormat};
use crate::metrics::Metrics;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait to be written; some megabytes at most.
const QUEUED_LINES: usize = 8192;

/// A running log. Dropped, it writes what is queued.
pub struct Log {
    /// How many lines were dropped.
    pub dropped: Dropped,
    _guard: WorkerGuard,
}

/// Lines that were dropped.
#[derive(Clone)]
pub struct Dropped {
    queue: ErrorCounter,
    refused: Arc<AtomicU64>,
}

/// Standard error, whose refusals are counted: behind it may be a disk that is full.
struct Counted(Arc<AtomicU64>);

impl Write for Counted {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A line that is cut or refused is lost; the next one is a line again.
        if io::stderr().write_all(line).is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Dropped {
    /// Brings the metric up to date.
    pub fn count(&self, metrics: &Metrics) {
        let dropped = self.queue.dropped_lines() as u64 + self.refused.load(Ordering::Relaxed);
        metrics.log_lines_dropped.inc_by(dropped.saturating_sub(metrics.log_lines_dropped.get()));
    }
}

/// Begins to log. What the libraries below us log by `log` goes the same way.
pub fn start(config: &LogConfig) -> Log {
    let filter = EnvFilter::new(format!("{},pingora_core=warn,hyper_util=warn", config.level.as_str()));
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let queue =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES).thread_name("log");
    let refused = Arc::<AtomicU64>::default();
    let (writer, guard) = queue.finish(Counted(refused.clone()));
    let dropped = Dropped { queue: writer.error_counter(), refused };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start, as in tests, keeps the first.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    Log { dropped, _guard: guard }
}
