//! The command line: one file a command.
//!
//! Exit codes are those of `sysexits.h`, so that a script can tell a typing error (64) from a bad configuration (78)
//! and a plugin that does not exist (66) from a registry that is down (69).

pub mod access_line;
pub mod assemble;
mod certificates;
pub mod check;
mod check_policy;
pub mod completions;
pub mod copy;
mod curl;
pub mod diff;
pub mod explain;
pub mod export;
pub mod front;
pub mod fsck;
pub mod get;
pub mod import;
pub mod known;
pub mod larder;
pub mod list;
pub mod lock;
pub mod log;
pub mod machine;
pub mod man;
pub mod output;
pub mod prefetch;
pub mod purge;
pub mod reload;
pub mod remote;
pub mod serve;
pub mod show;
pub mod status;
pub mod traces;
pub mod trouble;

use crate::config::{self, Fault, Loaded, Mode, Setting, Sources};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use trouble::Trouble;

/// Exit codes of `sysexits.h`.
#[expect(missing_docs, reason = "the names are the standard's")]
pub mod exit {
    pub const USAGE: u8 = 64;
    pub const DATAERR: u8 = 65;
    pub const NOINPUT: u8 = 66;
    pub const UNAVAILABLE: u8 = 69;
    pub const SOFTWARE: u8 = 70;
    pub const OSERR: u8 = 71;
    pub const CANTCREAT: u8 = 73;
    pub const IOERR: u8 = 74;
    pub const TEMPFAIL: u8 = 75;
    pub const NOPERM: u8 = 77;
    pub const CONFIG: u8 = 78;
}

/// The end of the help and of the manual page.
const EXIT_CODES: &str = "\
Exit codes are those of sysexits.h: 64 typing error, 65 the artifact holds no usable plugin, 66 no such plugin, entry or \
file, 69 the registry or larder does not answer, 70 a defect of larder, 71 a port cannot be opened, 73 the cache directory \
or the output cannot be created, 74 the disk fails, 75 the cache directory is in use by another larder, or try again \
later, 77 refused, 78 a fault in the configuration. 1: fsck found something, status has warnings, purge was declined, export or \
import left something out, lock found something not held or withheld, diff found a difference, copy left a tag alone.";

/// Serves Wasm plugins over plain HTTP, pulled lazily from OCI registries and kept.
#[derive(Debug, Parser)]
#[command(name = "larder", version, max_term_width = 100, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that every command knows.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Settings")]
pub struct Options {
    /// Settings in YAML; `larder config` prints the defaults
    #[arg(long, value_name = "FILE", global = true, env = "LARDER_CONFIG")]
    config: Option<PathBuf>,
    /// Where plugins are served [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS", global = true)]
    listen: Option<String>,
    /// Where metrics and health are served [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin_listen: Option<String>,
    /// Where plugins are kept
    #[arg(long, value_name = "DIR", global = true)]
    cache_dir: Option<String>,
    /// File with lines name=reference (repeatable; later ones win)
    #[arg(long, value_name = "FILE", global = true)]
    catalog: Vec<String>,
    /// PEM file or folder with CAs to trust beside the system's (repeatable)
    #[arg(long, value_name = "FILE", global = true)]
    ca: Vec<String>,
    /// Registry that speaks plain http (repeatable)
    #[arg(long, value_name = "HOST[:PORT]", global = true)]
    plain_http: Vec<String>,
    /// Folder of <name>/<version>/plugin.wasm that wins over registries (repeatable)
    #[arg(long, value_name = "DIR", global = true)]
    overlay: Vec<String>,
    /// human, json or auto
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve plugins (what happens without a command)
    Serve,
    /// Read all settings and files, report every fault, start nothing
    Check(check::Check),
    /// Print the default settings with their explanations
    Config,
    /// Fetch one plugin the way the server would
    Get(get::Get),
    /// Walk the road of one plugin aloud: rules, mirrors, proxy, TLS, login, manifest, layer
    Explain(explain::Explain),
    /// List what is known and held: plugin, version, state, size, where, last use
    List(list::List),
    /// Show all that is known of an entry: digests, sizes, times, its last failure
    Show(show::Show),
    /// Tell whether it is well: what is held, registries, what failed lately and why
    Status(status::StatusCommand),
    /// Fetch plugins before anybody asks for them
    Prefetch(prefetch::Prefetch),
    /// Write plugins into one file, for where no registry is
    Export(export::Export),
    /// Take the plugins of a bundle into the cache
    Import(import::Import),
    /// Compare two bundles, or a bundle with the cache
    Diff(diff::Diff),
    /// Write down which bytes each plugin is, so that none changes unnoticed
    Lock(lock::Lock),
    /// Copy plugins into a registry of your own, unchanged: manifests, layers, signatures
    Copy(copy::Copy),
    /// Take entries away, and the modules that nothing else leads to
    Purge(purge::Purge),
    /// Check the cache directory, in use or not: every module's bytes, every record
    Fsck(fsck::Fsck),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Print the manual page, or write one a command
    Man(man::Man),
    /// Print the version
    Version,
}

impl Options {
    fn settings(&self) -> Vec<Setting> {
        let mut out = Vec::new();
        let mut one = |flag: &str, key: &str, value: &Option<String>| {
            if let Some(value) = value {
                let (key, value) = (key.into(), value.as_str().into());
                out.push(Setting { key, value, place: flag.into(), mode: Mode::Replace, inner: Vec::new() });
            }
        };
        one("--listen", "listen.data", &self.listen);
        one("--admin-listen", "listen.admin", &self.admin_listen);
        one("--cache-dir", "cache.dir", &self.cache_dir);
        one("--log-format", "log.format", &self.log_format);
        for (flag, key, mode, values) in [
            ("--catalog", "catalog.files", Mode::Append, &self.catalog),
            ("--ca", "registry.ca", Mode::Append, &self.ca),
            ("--plain-http", "registry.plain_http", Mode::Append, &self.plain_http),
            // The first folder wins, and a flag over what is written elsewhere.
            ("--overlay", "overlay.dirs", Mode::Prepend, &self.overlay),
        ] {
            for value in values {
                out.push(Setting {
                    key: key.into(),
                    value: value.as_str().into(),
                    place: flag.into(),
                    mode,
                    inner: Vec::new(),
                });
            }
        }
        out
    }

    /// The file with settings, if one is named.
    pub fn file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// What the file, the environment and the flags say.
    ///
    /// # Errors
    /// The file, when it cannot be read.
    pub fn sources(&self) -> Result<Sources, Vec<Fault>> {
        let file = match &self.config {
            None => None,
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some((path.clone(), text)),
                Err(e) => {
                    return Err(vec![Fault { place: path.display().to_string(), problem: e.to_string() }]);
                }
            },
        };
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Ok(Sources { file, variables: variables.collect(), flags: self.settings() })
    }

    fn load(&self) -> Result<Loaded, Vec<Fault>> {
        config::load(&self.sources()?)
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    if curl::is_meant() {
        return curl::run();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a closed pipe behind them is none either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    match cli.command {
        Some(Command::Config) => print(config::DEFAULT),
        Some(Command::Version) => print(concat!("larder ", env!("CARGO_PKG_VERSION"), "\n")),
        Some(Command::Check(check)) => match cli.options.sources() {
            Ok(sources) => check.run(&sources),
            Err(faults) => report(&faults),
        },
        Some(Command::Get(get)) => with(&cli.options, |loaded| get.run(&loaded)),
        Some(Command::Explain(explain)) => with(&cli.options, |loaded| explain.run(&loaded)),
        Some(Command::List(list)) => with(&cli.options, |loaded| list.run(&loaded)),
        Some(Command::Show(show)) => with(&cli.options, |loaded| show.run(&loaded)),
        Some(Command::Status(status)) => with(&cli.options, |loaded| status.run(&loaded)),
        Some(Command::Prefetch(prefetch)) => with(&cli.options, |loaded| prefetch.run(&loaded)),
        Some(Command::Export(export)) => with(&cli.options, |loaded| export.run(&loaded)),
        Some(Command::Import(import)) => with(&cli.options, |loaded| import.run(&loaded)),
        Some(Command::Diff(diff)) => with(&cli.options, |loaded| diff.run(&loaded)),
        Some(Command::Lock(lock)) => with(&cli.options, |loaded| lock.run(&loaded)),
        Some(Command::Copy(copy)) => with(&cli.options, |loaded| copy.run(&loaded)),
        Some(Command::Purge(purge)) => with(&cli.options, |loaded| purge.run(&loaded)),
        Some(Command::Fsck(fsck)) => with(&cli.options, |loaded| fsck.run(&loaded)),
        Some(Command::Completions(completions)) => completions.run(),
        Some(Command::Man(man)) => man.run(),
        Some(Command::Serve) | None => with(&cli.options, |loaded| serve::run(loaded, cli.options.clone())),
    }
}

/// Runs a command with what the settings say.
fn with(options: &Options, run: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    options.load().map_or_else(|faults| report(&faults), run)
}

/// Threads for a command that waits for networks and disks.
fn runtime() -> Result<tokio::runtime::Runtime, Trouble> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Trouble::new(exit::OSERR, format!("threads cannot be started: {error}")))
}

/// Writes to standard output; a reader that left is no error.
fn print(text: &str) -> ExitCode {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("larder: standard output: {error}");
            ExitCode::from(exit::IOERR)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints faults, one a line.
fn report(faults: &[Fault]) -> ExitCode {
    for fault in faults {
        eprintln!("larder: {fault}");
    }
    ExitCode::from(exit::CONFIG)
}
