//! `larder fsck`: every byte and every record of the cache directory, whether a larder uses it or not.

use super::{assemble, exit, get::fail, print};
use crate::config::Loaded;
use crate::oci::Digest;
use crate::store::{StoreError, fsck};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check the cache directory: bytes, records, strangers, left drafts
#[derive(Debug, Args)]
pub struct Fsck {
    /// Move to quarantine what is wrong, and remove left drafts
    #[arg(long)]
    repair: bool,
    /// File with digests (sha256:HEX), one a line, of modules that must be there
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
}

/// What is wrong and was not repaired, in the manner of `fsck(8)`.
const PROBLEMS: u8 = 1;

impl Fsck {
    /// Looks and tells, one line a problem.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let expected = match self.expected() {
            Ok(expected) => expected,
            Err(problem) => return fail(exit::NOINPUT, &problem, ""),
        };
        let dir = assemble::cache_dir(&loaded.config);
        let report = match fsck::check(&dir, self.repair, &expected) {
            Ok(report) => report,
            Err(error @ StoreError::Format { .. }) => return fail(exit::CONFIG, &error.to_string(), ""),
            Err(error) => return fail(exit::NOINPUT, &error.to_string(), "which directory: --cache-dir"),
        };
        let mut text = String::new();
        for problem in &report.problems {
            let repaired = if problem.is_repaired { "; repaired" } else { "" };
            text +=
                &format!("{} {}: {}{repaired}\n", problem.invariant, problem.path.display(), problem.what);
        }
        let number = report.problems.len();
        text += &format!(
            "{}: {} modules, {} records, {number} problem{}{}\n",
            dir.display(),
            report.modules,
            report.records,
            if number == 1 { "" } else { "s" },
            if report.in_use { "; a larder is using it" } else { "" }
        );
        let printed = print(&text);
        if report.is_clean() { printed } else { ExitCode::from(PROBLEMS) }
    }

    fn expected(&self) -> Result<Vec<Digest>, String> {
        let Some(path) = &self.expect else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(n, line)| {
                let parsed = line.trim().parse();
                parsed.map_err(|_| {
                    format!("{}:{}: '{line}' is no digest; expected sha256:…", path.display(), n + 1)
                })
            })
            .collect()
    }
}
