//! `larder get`: one plugin by the same road, without a server.

use super::{assemble, exit, report};
use crate::cache::{Ask, Cache, ErrorKind, Served};
use crate::config::{Config, Loaded};
use crate::http::cache_status::CacheStatus;
use crate::oci::Digest;
use crate::plugin::{PluginName, Request, Version};
use crate::store::{Body, StoreError};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Fetch one plugin the way the server would.
#[derive(Debug, Args)]
pub struct Get {
    /// The plugin's name
    name: PluginName,
    /// Its version, or sha256:HEX for a manifest digest
    version: Version,
    /// Where to write it [default: <NAME>.wasm; - is standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Get {
    /// Fetches and writes it.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let read = match assemble::read(loaded) {
            Ok(read) => read,
            Err(faults) => return report(&faults),
        };
        let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
        {
            Ok(runtime) => runtime,
            Err(error) => return fail(exit::OSERR, &error.to_string(), ""),
        };
        // Nobody retries for a person: wait as long as the fetch may take.
        let mut config = loaded.config.clone();
        config.fill.hold = config.fill.timeout;
        let dir = assemble::cache_dir(&config);
        let parts = match assemble::assemble(&config, &dir, read, runtime.handle().clone()) {
            Ok(parts) => parts,
            Err(StoreError::Locked { .. }) => return self.beside(loaded, &config, runtime),
            Err(error) => return fail(exit::CANTCREAT, &error.to_string(), error.hint()),
        };
        runtime.block_on(self.fetch(&parts))
    }

    /// A running larder has the directory: fetch into one that is removed again.
    fn beside(&self, loaded: &Loaded, config: &Config, runtime: tokio::runtime::Runtime) -> ExitCode {
        let scratch = match tempfile::tempdir() {
            Ok(scratch) => scratch,
            Err(error) => return fail(exit::CANTCREAT, &error.to_string(), ""),
        };
        eprintln!("larder: the cache is in use by a running larder; fetching without it");
        let read = match assemble::read(loaded) {
            Ok(read) => read,
            Err(faults) => return report(&faults),
        };
        match assemble::assemble(config, scratch.path(), read, runtime.handle().clone()) {
            Ok(parts) => runtime.block_on(self.fetch(&parts)),
            Err(error) => fail(exit::CANTCREAT, &error.to_string(), error.hint()),
        }
    }

    async fn fetch(&self, parts: &assemble::Assembled) -> ExitCode {
        let request = Request { name: self.name.clone(), version: Some(self.version.clone()) };
        let plan = parts.names.load().catalog.plan(&request);
        let local = parts.cache.store().overlay();
        let is_local = plan.versions.iter().any(|(v, _)| local.contains_key(&(self.name.clone(), v.clone())));
        if plan.candidates.is_empty() && !is_local {
            let near: Vec<_> = parts
                .names
                .load()
                .catalog
                .nearest(self.name.as_str())
                .iter()
                .map(ToString::to_string)
                .collect();
            let hint =
                if near.is_empty() { String::new() } else { format!("did you mean {}?", near.join(", ")) };
            return fail(exit::NOINPUT, &format!("'{}' is not in the catalog", self.name), &hint);
        }
        let shown = tokio::spawn(show(parts.cache.clone()));
        let mut got = parts.cache.get(&self.name, &plan, Ask::Allowed).await;
        if matches!(&got, Ok(served) if matches!(served.found.status, CacheStatus::Stale { .. })) {
            // What a server would do behind the request, a person waits for.
            while !parts.cache.is_idle() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            got = parts.cache.get(&self.name, &plan, Ask::Allowed).await;
        }
        shown.abort();
        let _ = shown.await;
        match got {
            Ok(served) => self.write(&served),
            Err(error) => fail(code(error.kind), &error.detail, &error.hint),
        }
    }

    fn write(&self, served: &Served) -> ExitCode {
        let bytes = match &served.body {
            Body::Memory(bytes) => bytes.to_vec(),
            Body::File(file) => match file.read() {
                Ok(bytes) => bytes,
                Err(error) => return fail(exit::IOERR, &error.to_string(), ""),
            },
        };
        debug_assert_eq!(Digest::of(&bytes), served.found.module().digest);
        let to = self.output.clone().unwrap_or_else(|| format!("{}.wasm", self.name).into());
        let written = if to.as_os_str() == "-" {
            std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush())
        } else {
            write_whole(&to, &bytes)
        };
        if let Err(error) = written {
            return fail(exit::CANTCREAT, &format!("{}: {error}", to.display()), "");
        }
        let origin = &served.found.origin;
        let from = match origin.manifest() {
            Some(manifest) => format!("{origin} ({manifest})"),
            None => origin.to_string(),
        };
        eprintln!("{}: {} bytes, sha256 {}", to.display(), bytes.len(), served.found.module().digest.hex());
        eprintln!("from {from}, {} match, {}", served.found.why.as_str(), served.found.status);
        ExitCode::SUCCESS
    }
}

/// Writes a file that is there whole or not at all. What is no file, such as a device or a pipe, is written into and stays.
pub fn write_whole(to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if std::fs::metadata(to).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return std::fs::OpenOptions::new().write(true).open(to)?.write_all(bytes);
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o644)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(to).map(drop).map_err(|e| e.error)
}

/// The exit code for a kind of error.
pub fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Offline => exit::NOINPUT,
        ErrorKind::Forbidden | ErrorKind::Refused | ErrorKind::Untrusted => exit::NOPERM,
        ErrorKind::Unsupported | ErrorKind::TooLarge => exit::DATAERR,
        ErrorKind::Corrupt
        | ErrorKind::Unproved
        | ErrorKind::TimedOut
        | ErrorKind::Pending
        | ErrorKind::Unavailable
        | ErrorKind::RateLimited => exit::UNAVAILABLE,
        ErrorKind::Overloaded => exit::IOERR,
        ErrorKind::Internal => exit::SOFTWARE,
    }
}

/// Says what is wrong and ends.
pub fn fail(code: u8, problem: &str, hint: &str) -> ExitCode {
    eprintln!("larder: {problem}");
    if !hint.is_empty() {
        eprintln!("larder: {hint}");
    }
    ExitCode::from(code)
}

/// Draws how far the fetch is, on a terminal, until it is aborted.
async fn show(cache: Arc<Cache>) {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let bar = Cleared(bar);
    loop {
        if let Some((reference, received, expected)) = cache.in_flight().into_iter().next() {
            bar.0.set_message(reference.to_string());
            bar.0.set_length(expected);
            bar.0.set_position(received);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Takes the bar off the screen when the drawing ends.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
