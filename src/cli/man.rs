//! `larder man`: manual pages, from the same words as the help texts.

use super::{Cli, exit, get, print};
use clap::{Args, CommandFactory};
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the manual page, or write one a command
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  larder man | man -l -
  larder man --dir /usr/local/share/man/man1")]
pub struct Man {
    /// Folder for larder.1, larder-serve.1 and the others
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    /// Prints or writes.
    pub fn run(&self) -> ExitCode {
        let command = Cli::command();
        if let Some(dir) = &self.dir {
            return match clap_mangen::generate_to(command, dir) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => get::fail(exit::CANTCREAT, &format!("{}: {error}", dir.display()), ""),
            };
        }
        let mut page = Vec::new();
        match clap_mangen::Man::new(command).render(&mut page) {
            Ok(()) => print(&String::from_utf8_lossy(&page)),
            Err(error) => get::fail(exit::SOFTWARE, &error.to_string(), ""),
        }
    }
}
