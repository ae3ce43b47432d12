//! The audit log: a line for each change, done or refused, and for what the policy decided.
//!
//! The file is opened for each line, so that whoever rotates it need not tell us. Before a change that has to be written
//! down is made, room for its line is asked of the file system: afterwards it would be too late to refuse it.

use crate::admin::AuditConfig;
use crate::cache::Decision;
use crate::metrics::Metrics;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Room for what a line has besides what was asked, in bytes.
const LINE_BYTES: usize = 4 << 10;

/// What is written down.
#[derive(Serialize)]
pub struct Line<'a> {
    /// When, RFC 3339.
    pub at: String,
    /// Who; none if nobody was known.
    pub who: Option<String>,
    /// From which address and port; empty of what the policy decided.
    pub peer: String,
    /// What the answer and the log call the request.
    pub request_id: &'a str,
    /// What was to be done.
    pub action: &'static str,
    /// To what: the request's body, as far as it was read and understood.
    pub what: Option<Value>,
    /// `ok`, or the code of the refusal.
    pub result: &'a str,
}

impl Line<'_> {
    /// Into the log, where there is no file or it takes nothing.
    fn log(&self) {
        let Line { at: _, who, peer, request_id, action, what, result } = self;
        let (who, what) = (who.as_deref(), what.as_ref().map(Value::to_string));
        tracing::info!(target: "audit", who, peer, request_id, action, what, result, "change");
    }
}

/// Where it is written.
pub struct Audit {
    file: Option<Arc<PathBuf>>,
    required: bool,
    metrics: Arc<Metrics>,
    /// The last line could not be written.
    failing: Arc<AtomicBool>,
}

impl Audit {
    /// Tries the file. Blocks.
    ///
    /// # Errors
    /// The key, and why a file that is required cannot be written.
    pub fn open(config: &AuditConfig, metrics: Arc<Metrics>) -> Result<Self, (&'static str, String)> {
        let audit = Self {
            file: config.file.clone().map(Arc::new),
            required: config.required,
            metrics,
            failing: Arc::default(),
        };
        match audit.file.as_deref().map(|file| (file, open(file))) {
            Some((file, Err(error))) if audit.required => {
                Err(("admin.audit.file", format!("{}: {error}", file.display())))
            }
            Some((file, Err(error))) => {
                audit.failed(file, &error);
                Ok(audit)
            }
            // Required without a file is a fault of the settings.
            None | Some((_, Ok(_))) => Ok(audit),
        }
    }

    /// Whether lines are lost just now.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Before a change with a body of `bytes`: an error if it has to be written down and cannot be.
    pub async fn prepare(&self, bytes: usize) -> io::Result<()> {
        let Some(path) = self.file.clone().filter(|_| self.required) else { return Ok(()) };
        // Escapes may make it longer.
        let room = 2 * bytes + LINE_BYTES;
        let tried = tokio::task::spawn_blocking(move || reserve(&open(&path)?, room)).await;
        tried.unwrap_or_else(|e| Err(io::Error::other(e))).inspect_err(|error| {
            if let Some(file) = &self.file {
                self.failed(file, error);
            }
        })
    }

    /// Writes what the policy decided: the first refusal of each thing, and changes of itself.
    pub async fn decided(&self, decision: &Decision) {
        let Decision { at, code, plugin, reference, detail, request_id } = decision;
        let line = Line {
            at: at.to_string(),
            who: None,
            peer: String::new(),
            request_id,
            action: if *code == "ok" { "policy_change" } else { "policy" },
            what: Some(json!({"plugin": plugin, "reference": reference, "detail": detail})),
            result: code,
        };
        self.write(&line).await;
    }

    /// Writes a line.
    pub async fn write(&self, line: &Line<'_>) {
        let text = serde_json::to_string(line).unwrap_or_else(|e| unreachable!("plain fields: {e}"));
        let Some(path) = self.file.clone() else { return line.log() };
        // Behind a line that was cut, a new one begins.
        let start = if self.is_failing() { "\n" } else { "" };
        let bytes = format!("{start}{text}\n");
        let written = tokio::task::spawn_blocking(move || append(&path, bytes.as_bytes())).await;
        match written.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the audit log is written again");
                }
            }
            Err(error) => {
                self.metrics.audit_lost.inc();
                line.log();
                if let Some(file) = &self.file {
                    self.failed(file, &error);
                }
            }
        }
    }

    /// Told once, until it goes well again.
    fn failed(&self, file: &Path, error: &io::Error) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(file = %file.display(), %error, "the audit log cannot be written");
        }
    }
}

/// A pipe that nobody reads is an error and no wait.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let mut file = open(path)?;
    file.write_all(line)?;
    if file.metadata()?.is_file() { file.sync_data() } else { Ok(()) }
}

/// Takes room behind the end; what cannot do that has to be believed.
fn reserve(file: &File, room: usize) -> io::Result<()> {
    let end = file.metadata()?.len();
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, end, room as u64) {
        Err(full @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO | Errno::ROFS)) => Err(full.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
