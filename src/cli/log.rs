//! Logs to standard error, as lines for people or as JSON.
//!
//! Lines go through a bounded queue to a thread of their own: whoever reads them may stall, and requests must not. Lines
//! beyond the queue are dropped and counted.
//!
//! The level is for larder's own lines. Libraries below it write warnings and errors, whatever the level is: what they say
//! beyond that is requests with their fields, and among those are passwords and tokens.

use super::access_line::Lines;
use super::reload::{Apply, Part};
use crate::config::{Fault, Loaded, LogConfig, LogFormat, LogLevel};
use crate::metrics::Metrics;
use crate::origin::SPANS;
use arc_swap::ArcSwap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{Filtered, LevelFilter, Targets};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines that wait to be written; some megabytes at most.
const QUEUED_LINES: usize = 8192;
/// Bytes that are written at once when lines come faster than they are written.
const BATCH_BYTES: usize = 64 << 10;
/// Time between two looks at the queue. To write each line by itself, and to wake the writer for each, would cost a busy
/// server more than the answer does.
const PAUSE: Duration = Duration::from_millis(5);

/// What writes lines; what takes spans stands on it.
pub type Logged = Layered<Filtered<Box<dyn Layer<Registry> + Send + Sync>, Filter, Registry>, Registry>;
type Filter = reload::Layer<Targets, Registry>;

/// A running log. Dropped, it writes what is queued.
pub struct Log {
    /// How many lines were dropped.
    pub dropped: Dropped,
    /// What is written, which may change.
    pub dial: Dial,
    _guard: WorkerGuard,
}

/// Lines that were dropped.
#[derive(Clone)]
pub struct Dropped {
    queue: ErrorCounter,
    refused: Arc<AtomicU64>,
}

/// Sets the level of a log while it runs.
#[derive(Clone)]
pub struct Dial {
    filter: reload::Handle<Targets, Registry>,
    level: Arc<ArcSwap<LogLevel>>,
}

impl Dial {
    fn new(level: LogLevel) -> (Filter, Self) {
        let (layer, handle) = reload::Layer::new(filter(level));
        (layer, Self { filter: handle, level: Arc::new(ArcSwap::from_pointee(level)) })
    }

    /// The level's name.
    pub fn level(&self) -> String {
        self.level.load().as_str().into()
    }

    /// What a reload reads of it. A level that was set by hand stays, until the settings have another one than before.
    pub fn part(&self, written: LogLevel) -> Part {
        let (dial, last) = (self.clone(), Arc::new(ArcSwap::from_pointee(written)));
        let read = move |loaded: &Loaded| -> Result<Apply, Vec<Fault>> {
            let (dial, last, level) = (dial.clone(), last.clone(), loaded.config.log.level);
            Ok(Box::new(move |_| {
                if *last.swap(Arc::new(level)) != level
                    && let Err(error) = dial.set_level(level.as_str())
                {
                    tracing::warn!("{error}");
                }
            }))
        };
        Part { files: |_| Vec::new(), read: Box::new(read) }
    }

    /// From now on writes what is of this level or more important.
    ///
    /// # Errors
    /// A text, when `level` is none, or when another log was begun before this one.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let level: LogLevel = level.parse()?;
        self.filter.reload(filter(level)).map_err(|e| format!("the level cannot be changed: {e}"))?;
        self.level.store(Arc::new(level));
        Ok(())
    }
}

/// What is written at a level.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Changes are written down whatever else is.
    let audit = level.max(LevelFilter::INFO);
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets([
        ("larder", level),
        ("access", level),
        ("audit", audit),
        (SPANS, LevelFilter::OFF),
    ])
}

/// Standard error, many lines at a time. What it refuses is counted: behind it may be a disk that is full.
struct Batch<W> {
    to: W,
    lines: Vec<u8>,
    count: u64,
    refused: Arc<AtomicU64>,
}

impl<W: Write> Batch<W> {
    fn new(to: W, refused: Arc<AtomicU64>) -> Self {
        Self { to, lines: Vec::with_capacity(2 * BATCH_BYTES), count: 0, refused }
    }

    fn send(&mut self) {
        // All of them count as lost, though the first may have been written.
        let is_refused = self.to.write_all(&self.lines).is_err();
        self.lines.clear();
        if is_refused {
            self.refused.fetch_add(self.count, Ordering::Relaxed);
            // One may have been cut; the next one is a line again.
            self.lines.push(b'\n');
        }
        self.count = 0;
    }
}

impl<W: Write> Write for Batch<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(line);
        self.count += 1;
        if self.lines.len() >= BATCH_BYTES {
            self.send();
        }
        Ok(line.len())
    }

    /// Called by the queue's thread when nothing is queued.
    fn flush(&mut self) -> io::Result<()> {
        self.send();
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

impl Dropped {
    /// Brings the metric up to date.
    pub fn count(&self, metrics: &Metrics) {
        let dropped = self.queue.dropped_lines() as u64 + self.refused.load(Ordering::Relaxed);
        metrics.log_lines_dropped.inc_by(dropped.saturating_sub(metrics.log_lines_dropped.get()));
    }
}

/// Begins to log. What the libraries below us log by `log` goes the same way. `spans` is what takes spans, if anything
/// does.
pub fn start<S>(config: &LogConfig, spans: Option<S>) -> Log
where
    S: Layer<Logged> + Send + Sync,
{
    let (filter, dial) = Dial::new(config.level);
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Human => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let queue =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES).thread_name("log");
    let refused = Arc::<AtomicU64>::default();
    let (writer, guard) = queue.finish(Batch::new(io::stderr(), refused.clone()));
    let dropped = Dropped { queue: writer.error_counter(), refused };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = if json {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
        lines.map_event_format(Lines::beside).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let logged = tracing_subscriber::registry().with(lines.with_filter(filter));
    // A second start, as in tests, keeps the first. A layer that is not there would want spans all the same, and a hit would
    // make them.
    let _ = match spans {
        Some(spans) => logged.with(spans).try_init(),
        None => logged.try_init(),
    };
    Log { dropped, dial, _guard: guard }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Mutex;

    /// What was written, to be looked at.
    #[derive(Clone, Default)]
    pub struct Written(pub Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Which of these lines are written.
    fn said(written: &Written) -> Vec<String> {
        tracing::error!("error");
        tracing::info!("info");
        tracing::info!(target: "access", "access");
        tracing::info!(target: "audit", "audit");
        tracing::debug!("debug");
        tracing::trace!("trace");
        tracing::warn!(target: "h2::client", "library");
        tracing::info!(target: "hyper_util::client", "fields of a request");
        tracing::trace!(target: "h2::hpack", "fields of a request");
        tracing::info_span!(target: SPANS, "leg").in_scope(|| tracing::trace!(target: SPANS, "span"));
        let text = String::from_utf8(std::mem::take(&mut *written.0.lock().unwrap())).unwrap();
        text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
    }

    /// What is written to it, a write by itself; refuses what has an x.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.contains(&b'x') {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_come_together_leave_together_and_all_that_are_refused_are_counted() {
        let refused = Arc::<AtomicU64>::default();
        let mut batch = Batch::new(Writes::default(), refused.clone());
        for line in ["a\n", "b\n"] {
            batch.write_all(line.as_bytes()).unwrap();
        }
        batch.flush().unwrap();
        for line in ["x\n", "c\n"] {
            batch.write_all(line.as_bytes()).unwrap();
        }
        batch.flush().unwrap();
        let long = vec![b'l'; BATCH_BYTES];
        batch.write_all(&long).unwrap();
        assert_eq!(batch.to.0[0], b"a\nb\n");
        assert_eq!(
            batch.to.0[1],
            [b"\n", &long[..]].concat(),
            "a long one waits for nobody, and begins a line"
        );
        assert_eq!(refused.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_level_changes_while_the_log_runs_and_libraries_stay_at_warnings() {
        let (filter, dial) = Dial::new(LogLevel::Error);
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(lines.with_filter(filter));
        tracing::subscriber::with_default(log, || {
            assert_eq!(
                (dial.level(), said(&written)),
                ("error".into(), vec!["error".into(), "audit".into()])
            );
            dial.clone().set_level("trace").unwrap();
            assert_eq!(dial.level(), "trace");
            assert_eq!(said(&written), ["error", "info", "access", "audit", "debug", "trace", "library"]);
            for wrong in ["", "loud", "TRACE", "trace,h2=trace", "off"] {
                assert!(dial.set_level(wrong).unwrap_err().contains("expected error, warn, info"), "{wrong}");
            }
            assert_eq!(dial.level(), "trace");
            dial.set_level("info").unwrap();
            assert_eq!(said(&written), ["error", "info", "access", "audit", "library"]);
        });
        drop(written);
        assert!(dial.set_level("debug").unwrap_err().contains("cannot be changed"), "its log is gone");
        assert_eq!(dial.level(), "info");
    }
}
