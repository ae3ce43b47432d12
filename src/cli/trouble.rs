//! Why a command ends without what was asked: what is said, what to do, and the exit code.

use super::exit;
use crate::admin::{Kind, Refused};
use crate::failures::{Failure, Whose};
use std::process::ExitCode;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One of [`exit`].
    pub code: u8,
    /// What was tried, and what came of it.
    pub problem: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl Trouble {
    /// Without a hint.
    pub fn new(code: u8, problem: impl Into<String>) -> Self {
        Self { code, problem: problem.into(), hint: String::new() }
    }

    /// With what to do.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Says it and ends.
    pub fn tell(&self) -> ExitCode {
        super::get::fail(self.code, &self.problem, &self.hint)
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        let code = match refused.kind {
            Kind::Bad | Kind::TooMany => exit::USAGE,
            Kind::NotFound => exit::NOINPUT,
            Kind::Busy => exit::TEMPFAIL,
            Kind::Unusable => exit::DATAERR,
            Kind::Failed => exit::IOERR,
        };
        Self::new(code, refused.detail).hint(hint_of(refused.code, &refused.hint))
    }
}

/// What to do about a refusal of the administration: on a command line, that is a command.
pub fn hint_of<'h>(code: &str, hint: &'h str) -> &'h str {
    match code {
        "certificate_needed" => {
            "--admin-certificate and --admin-key, of a CA that its tls.admin.client_ca has"
        }
        "unknown_entry" => "larder list --keys shows what there is",
        _ => hint,
    }
}

/// The exit code for a plugin that was not fetched: that of `larder get`, by whose failure it is.
pub fn of_failure(failure: &Failure) -> u8 {
    match failure.whose() {
        Whose::Name => exit::NOINPUT,
        Whose::Right => exit::NOPERM,
        Whose::Larder => exit::SOFTWARE,
        Whose::Disk => exit::IOERR,
        Whose::Artifact => exit::DATAERR,
        Whose::Registry => exit::UNAVAILABLE,
    }
}
