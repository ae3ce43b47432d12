//! Checks a whole directory from outside, in use or not: every byte and every record of it.
//!
//! What must hold at any instant, also after a crash:
//! - I1 each module's bytes have the digest that is its name;
//! - I2 each record is whole, lies under its reference's name, and leads to a module of its size;
//! - I3 nothing else lies in the directory;
//! - I4 drafts belong to a larder that is running;
//! - I5 what is expected to be there is there.
//!
//! A directory in use changes while it is looked at, so what is wrong there is looked at twice.

use super::entry::{ModuleFile, OpenError};
use super::error::StoreError;
use super::layout::Layout;
use super::recover::{listed, quarantine, read_record};
use crate::oci::Digest;
use crate::record::{Module, RecordError};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What was looked at and found.
#[derive(Debug, Default)]
pub struct Report {
    /// Modules whose bytes were compared.
    pub modules: u64,
    /// Records that were read.
    pub records: u64,
    /// True when a larder is using the directory.
    pub in_use: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// Which of the invariants is broken: `I1` to `I5`.
    pub invariant: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// True when it is no longer.
    pub is_repaired: bool,
}

impl Report {
    /// True when nothing is wrong any more.
    pub fn is_clean(&self) -> bool {
        self.problems.iter().all(|problem| problem.is_repaired)
    }
}

/// Looks through `dir` and, if `repair`, moves to quarantine what is wrong; left drafts are removed. `expected` modules
/// must be there.
///
/// # Errors
/// When it cannot be looked at, or is of a format that this larder does not know.
pub fn check(dir: &Path, repair: bool, expected: &[Digest]) -> Result<Report, StoreError> {
    let layout = Layout::new(dir);
    fs::metadata(layout.root()).map_err(|e| StoreError::io("looking at", layout.root(), e))?;
    super::disk::known_format(&layout)?;
    let lock = File::open(layout.lock()).ok();
    let in_use =
        lock.as_ref().is_some_and(|lock| matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
    let mut looking = Looking { layout, repair, report: Report { in_use, ..Report::default() } };
    let (root, modules) = (looking.layout.root().to_owned(), looking.layout.modules().with_file_name(""));
    looking.strangers(&root, &["lock", "format", "imported", "modules", "records", "tmp", "quarantine"])?;
    looking.strangers(&modules, &["sha256"])?;
    looking.modules()?;
    looking.records()?;
    looking.drafts()?;
    for digest in expected {
        let path = looking.layout.module(digest);
        if !path.is_file() {
            looking.found("I5", path, "is expected and not there".into(), |_| false);
        }
    }
    // Closing it would not be enough: a process that is being started has it too, until it has become its program.
    if let Some(lock) = lock {
        let _ = lock.unlock();
    }
    Ok(looking.report)
}

/// What is wrong with a record.
enum Wrong {
    /// It is none.
    Damaged(String),
    /// Nobody knows.
    Unread(String),
}

struct Looking {
    layout: Layout,
    repair: bool,
    report: Report,
}

impl Looking {
    fn found(
        &mut self,
        invariant: &'static str,
        path: PathBuf,
        what: String,
        mend: impl FnOnce(&Self) -> bool,
    ) {
        let is_repaired = self.repair && mend(self);
        self.report.problems.push(Problem { invariant, path, what, is_repaired });
    }

    fn put_aside(&mut self, invariant: &'static str, path: PathBuf, what: String) {
        let why = what.clone();
        let from = path.clone();
        self.found(invariant, path, what, move |looking| {
            quarantine(&looking.layout, &from, &why);
            fs::symlink_metadata(&from).is_err()
        });
    }

    /// What is in `folder` under other names.
    fn strangers(&mut self, folder: &Path, known: &[&str]) -> Result<(), StoreError> {
        for path in listed(folder)? {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(&name)) {
                self.put_aside("I3", path, "does not belong there".into());
            }
        }
        Ok(())
    }

    fn modules(&mut self) -> Result<(), StoreError> {
        for folder in listed(&self.layout.modules())? {
            if !folder.is_dir() || folder.is_symlink() {
                self.put_aside("I3", folder, "is no folder of modules".into());
                continue;
            }
            for path in listed(&folder)? {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let digest = super::is_digest_name(name).filter(|digest| self.layout.module(digest) == path);
                let Some(digest) = digest else {
                    self.put_aside("I3", path, "is no module's name".into());
                    continue;
                };
                self.module(&digest, path);
            }
        }
        Ok(())
    }

    fn module(&mut self, digest: &Digest, path: PathBuf) {
        let Ok(metadata) = fs::symlink_metadata(&path) else { return };
        match ModuleFile::open(&path, digest, metadata.len(), None) {
            Ok(_) => self.report.modules += 1,
            // Evicted meanwhile.
            Err(_) if fs::symlink_metadata(&path).is_err() => {}
            Err(OpenError::Damaged(damage, _)) => self.put_aside("I1", path, damage.to_string()),
            Err(OpenError::Refused(error) | OpenError::Unreadable(error)) => {
                self.found("I1", path, error.to_string(), |_| false)
            }
        }
    }

    fn records(&mut self) -> Result<(), StoreError> {
        for path in listed(&self.layout.records())? {
            let mut wrong = self.wrong_with(&path);
            if wrong.is_some() && self.report.in_use {
                wrong = self.wrong_with(&path);
            }
            match wrong {
                None => self.report.records += 1,
                Some(Wrong::Damaged(what)) => self.put_aside("I2", path, what),
                Some(Wrong::Unread(what)) => self.found("I2", path, what, |_| false),
            }
        }
        Ok(())
    }

    fn wrong_with(&self, path: &Path) -> Option<Wrong> {
        let record = match read_record(path) {
            Ok(Ok(record)) => record,
            _ if fs::symlink_metadata(path).is_err() => return None,
            // Another larder's, which may come back.
            Ok(Err(RecordError::Version(_))) => return None,
            Ok(Err(error)) => return Some(Wrong::Damaged(error.to_string())),
            Err(error) => return Some(Wrong::Unread(format!("cannot be read: {error}"))),
        };
        if self.layout.record(&record.reference) != path {
            return Some(Wrong::Damaged(format!(
                "is the record of {} under another's name",
                record.reference
            )));
        }
        let Module { digest, size, .. } = &record.present()?.module;
        let found = fs::symlink_metadata(self.layout.module(digest)).ok().filter(|found| found.is_file());
        match found.map(|found| found.len()) {
            Some(found) if found == *size => None,
            Some(found) => {
                let what =
                    format!("{} leads to {digest} with {found} bytes instead of {size}", record.reference);
                Some(Wrong::Damaged(what))
            }
            None => {
                Some(Wrong::Damaged(format!("{} leads to {digest}, which is not there", record.reference)))
            }
        }
    }

    fn drafts(&mut self) -> Result<(), StoreError> {
        if self.report.in_use {
            return Ok(());
        }
        for path in listed(&self.layout.tmp())? {
            let draft = path.clone();
            self.found("I4", path, "is a draft that nobody writes to".into(), move |_| {
                fs::remove_file(&draft).or_else(|_| fs::remove_dir_all(&draft)).is_ok()
            });
        }
        Ok(())
    }
}
