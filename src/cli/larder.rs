//! The larder that a command is about: one that runs, by its administration API, or a cache directory that nobody uses,
//! by the same [`Administration`] in this process.

use super::remote::{self, Credentials, Remote};
use super::trouble::Trouble;
use super::{assemble, exit};
use crate::admin::Administration;
use crate::admin::change::{Purged, Selector};
use crate::admin::entries::{Entry, MOST, Page, Query};
use crate::admin::import::{self, How, Imported, Item};
use crate::admin::prefetch::{Job, Wanted};
use crate::admin::status::Status;
use crate::config::Loaded;
use crate::failures::Failure;
use crate::store::StoreError;
use crate::store::layout::Layout;
use clap::Args;
use http::HeaderValue;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;
use url::Url;

/// A file with tokens is not longer than this, in bytes.
const TOKEN_FILE_BYTES: u64 = 1 << 20;

/// Which larder, and as whom we come.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A running larder")]
pub struct Address {
    /// Its administration port, such as http://127.0.0.1:9090 [default: the cache directory of the settings; if a larder
    /// uses that, its listen.admin]
    #[arg(long, value_name = "URL", env = "LARDER_ADMIN", hide_env_values = true)]
    pub admin: Option<String>,
    /// File with a bearer token, of which the first is sent [default: the settings' admin.token_file]
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// PEM file with a client certificate
    #[arg(long, value_name = "FILE", requires = "admin_key")]
    admin_certificate: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", requires = "admin_certificate")]
    admin_key: Option<PathBuf>,
}

/// What a command wants of a cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To look; nothing is made.
    Look,
    /// To take away from what is there.
    Take,
    /// To put something in; it is made if need be.
    Fill,
}

/// See the module's text.
pub enum Larder {
    /// It runs.
    Running(Box<Remote>),
    /// Nobody uses its directory.
    Stopped(Stopped),
}

/// A cache directory, ours as long as this lives.
pub struct Stopped {
    administration: Arc<Administration>,
    /// The directory.
    pub dir: PathBuf,
}

/// A directory that another process uses.
struct Used {
    dir: PathBuf,
    /// What its lock says of that process: its number.
    holder: String,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dir, holder } = self;
        write!(f, "{} is used by another larder (process {holder})", dir.display())
    }
}

impl Address {
    /// The running larder that was named, if one was.
    ///
    /// # Errors
    /// What was named cannot be used.
    pub fn named(&self, loaded: &Loaded) -> Result<Option<Remote>, Trouble> {
        let Some(text) = self.admin.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        Remote::new(address(text)?, self.credentials(loaded)?, None).map(Some)
    }

    /// The larder to speak to.
    ///
    /// # Errors
    /// There is none, or it cannot be reached.
    pub fn find(&self, loaded: &Loaded, runtime: &Runtime, wish: Wish) -> Result<Larder, Trouble> {
        if let Some(remote) = self.named(loaded)? {
            return Ok(Larder::Running(Box::new(remote)));
        }
        match Stopped::open(loaded, runtime, wish)? {
            Ok(stopped) => Ok(Larder::Stopped(stopped)),
            Err(used) => {
                let remote = runtime.block_on(self.beside(loaded, &used))?;
                Ok(Larder::Running(Box::new(remote)))
            }
        }
    }

    /// The larder that uses the directory of the settings, by the port that the same settings name. Another one may
    /// listen there, which nobody meant.
    async fn beside(&self, loaded: &Loaded, used: &Used) -> Result<Remote, Trouble> {
        let config = &loaded.config;
        let why = used.to_string();
        let unasked = |why| Trouble::new(exit::TEMPFAIL, why).hint(remote::WHERE);
        if config.listen.admin.port() == 0 {
            return Err(unasked(why));
        }
        let scheme = if config.tls.admin.certificate.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", reachable(config.listen.admin));
        let remote = Remote::new(address(&url)?, self.credentials(loaded)?, Some(why.clone()))?;
        let process = remote.status().await?.process;
        if process.to_string() != used.holder {
            return Err(unasked(format!("{why}, and another larder (process {process}) answers at {url}")));
        }
        eprintln!("larder: {why}; asking it at {url}");
        Ok(remote)
    }

    fn credentials(&self, loaded: &Loaded) -> Result<Credentials, Trouble> {
        let certificate = self.admin_certificate.clone().zip(self.admin_key.clone());
        let mut credentials =
            Credentials { certificate, ca: loaded.config.registry.ca.clone(), ..Credentials::default() };
        match (&self.admin_token_file, &loaded.config.admin.token_file) {
            (Some(file), _) => {
                let token = token(file).map_err(|problem| Trouble::new(exit::NOINPUT, problem))?;
                credentials.token = Some((token, file.clone()));
            }
            // The server's own file may well be unreadable to whoever types this, and not be needed.
            (None, Some(file)) => match token(file) {
                Ok(token) => credentials.token = Some((token, file.clone())),
                Err(problem) => credentials.no_token = Some(problem),
            },
            (None, None) => {}
        }
        Ok(credentials)
    }
}

/// What `--admin` names.
fn address(text: &str) -> Result<Url, Trouble> {
    // The text is not repeated: it may hold a password.
    let wrong = |why: &str| {
        let example = "expected an address such as http://127.0.0.1:9090 or https://larder.corp:9090";
        Err(Trouble::new(exit::USAGE, format!("--admin (LARDER_ADMIN): {why}")).hint(example))
    };
    let url = match text.parse::<Url>() {
        Ok(url) => url,
        Err(error) => return wrong(&format!("is no URL: {error}")),
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return wrong("is neither an http:// nor an https:// URL");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("holds credentials, which belong into --admin-token-file");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has more than a path behind its host");
    }
    Ok(url)
}

/// Where this machine reaches a port that is bound to `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The first token of a file, as a header's value that is never printed.
fn token(file: &Path) -> Result<HeaderValue, String> {
    let shown = file.display();
    let size = std::fs::metadata(file).map_err(|e| format!("{shown}: {e}"))?.len();
    if size > TOKEN_FILE_BYTES {
        return Err(format!("{shown}: {size} bytes are no file of tokens"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| format!("{shown}: {e}"))?;
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let first = first.ok_or_else(|| format!("{shown}: holds no token"))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {first}"))
        .map_err(|_| format!("{shown}: its first line is no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What this user may not look into, of a directory that may be there.
fn unreadable(layout: &Layout) -> Option<(PathBuf, io::Error)> {
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let opened = |path: PathBuf| (path.clone(), File::open(path).map(drop));
    let tried = [
        (layout.root().to_owned(), fs::read_dir(layout.root()).map(drop)),
        opened(layout.lock()),
        opened(layout.format()),
    ];
    tried.into_iter().find_map(|(path, looked)| Some((path, looked.err().filter(denied)?)))
}

impl Stopped {
    /// Opens the directory of the settings. The inner error says who uses it.
    fn open(loaded: &Loaded, runtime: &Runtime, wish: Wish) -> Result<Result<Self, Used>, Trouble> {
        let mut config = loaded.config.clone();
        // Nobody retries for a person: wait as long as the fetch may take.
        config.fill.hold = config.fill.timeout;
        let dir = assemble::cache_dir(&config);
        let layout = Layout::new(&dir);
        // Whether somebody uses it, and who, is not to be seen; a larder that answers somewhere need not be that one.
        if let Some((path, error)) = unreadable(&layout) {
            let problem =
                format!("{}: {error}; whether a larder uses the cache is not to be seen", path.display());
            return Err(Trouble::new(exit::NOPERM, problem)
                .hint("--admin URL asks a running larder; else this is for the user whose directory it is"));
        }
        if wish != Wish::Fill && !layout.root().is_dir() {
            return Err(Trouble::new(
                exit::NOINPUT,
                format!("{}: there is no such cache directory", dir.display()),
            )
            .hint("--cache-dir DIR names it; --admin URL asks a running larder"));
        }
        let read = assemble::read(loaded).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            Trouble::new(exit::CONFIG, faults.join("\nlarder: "))
        })?;
        let parts = match assemble::assemble(&config, &dir, read, runtime.handle().clone()) {
            Ok(parts) => parts,
            Err(StoreError::Locked { path, holder }) => {
                return Ok(Err(Used { dir: path, holder }));
            }
            Err(error @ (StoreError::Format { .. } | StoreError::Exposed { .. })) => {
                return Err(Trouble::new(exit::CONFIG, error.to_string()));
            }
            Err(error) => return Err(Trouble::new(exit::CANTCREAT, error.to_string()).hint(error.hint())),
        };
        if parts.metrics.store_degraded.get() > 0 {
            let problem = format!("{} cannot be read or written to as it should", dir.display());
            if wish != Wish::Look {
                return Err(Trouble::new(exit::CANTCREAT, problem).hint("whose is it, and is its disk well?"));
            }
            eprintln!("larder: warning: {problem}; what is told may not be all");
        }
        Ok(Ok(Self { administration: parts.administration, dir }))
    }
}

impl Larder {
    /// All entries that `query` asks for, from as many pages as it takes; at most `limit` of them.
    ///
    /// # Errors
    /// As of every method here: no answer, or a refusal.
    pub async fn entries(&self, query: &Query, limit: Option<usize>) -> Result<Page, Trouble> {
        let mut all = Page { total: 0, entries: Vec::new(), next: None };
        loop {
            let left = limit.map_or(MOST, |limit| limit - all.entries.len()).min(MOST);
            let query = Query { limit: Some(left), skip: all.entries.len(), ..query.clone() };
            let page = match self {
                Self::Running(remote) => remote.entries(&query, all.next.as_deref()).await?,
                Self::Stopped(stopped) => stopped.administration.entries(&query)?,
            };
            all.entries.extend(page.entries);
            (all.total, all.next) = (page.total, page.next);
            let wanted = limit.map_or(all.total, |limit| limit.min(all.total));
            if all.next.is_none() || all.entries.len() >= wanted {
                return Ok(all);
            }
        }
    }

    /// One entry.
    pub async fn entry(&self, key: &str) -> Result<Entry, Trouble> {
        match self {
            Self::Running(remote) => remote.entry(key).await,
            Self::Stopped(stopped) => Ok(stopped.administration.entry(key)?),
        }
    }

    /// What failed lately.
    pub async fn failures(&self) -> Result<Vec<Failure>, Trouble> {
        match self {
            Self::Running(remote) => remote.failures().await,
            Self::Stopped(stopped) => Ok(stopped.administration.failures.list()),
        }
    }

    /// Whether it is well.
    pub async fn status(&self) -> Result<Status, Trouble> {
        match self {
            Self::Running(remote) => remote.status().await,
            Self::Stopped(stopped) => Ok(stopped.administration.status(false)),
        }
    }

    /// Takes entries away.
    pub async fn purge(&self, which: &Selector) -> Result<Purged, Trouble> {
        match self {
            Self::Running(remote) => remote.purge(which).await,
            Self::Stopped(stopped) => Ok(stopped.administration.purge(which).await?),
        }
    }

    /// Takes a bundle in; `told` hears of each plugin as it is done, or when all are.
    pub async fn import(
        &self,
        bundle: &Path,
        how: How,
        told: &(dyn Fn(&Item) + Sync),
    ) -> Result<Imported, Trouble> {
        match self {
            Self::Running(remote) => {
                let imported = remote.import(bundle, &how).await?;
                imported.items.iter().for_each(told);
                Ok(imported)
            }
            Self::Stopped(stopped) => {
                let administration = &stopped.administration;
                let turn = administration.import_turn()?;
                let bundle = import::open(bundle, administration.cache.store()).await?;
                Ok(administration.import(&turn, bundle, how, told).await?)
            }
        }
    }

    /// Begins to fetch plugins.
    pub async fn prefetch(&self, wanted: &Wanted) -> Result<Job, Trouble> {
        match self {
            Self::Running(remote) => remote.prefetch(wanted).await,
            Self::Stopped(stopped) => Ok(stopped.administration.prefetch(wanted)?),
        }
    }

    /// The last lists of plugins that are fetched or were, newest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, Trouble> {
        match self {
            Self::Running(remote) => remote.jobs().await,
            Self::Stopped(stopped) => Ok(stopped.administration.jobs()),
        }
    }

    /// How far that is.
    pub async fn job(&self, id: u64) -> Result<Job, Trouble> {
        match self {
            Self::Running(remote) => remote.job(id).await,
            Self::Stopped(stopped) => Ok(stopped.administration.job(id)?),
        }
    }

    /// Writes down what would be lost. What a disk did not take is an error.
    ///
    /// # Errors
    /// It is told how much that is.
    pub async fn close(&self) -> Result<(), Trouble> {
        let Self::Stopped(stopped) = self else { return Ok(()) };
        let store = stopped.administration.cache.store();
        store.close().await;
        match store.usage().held_entries {
            0 => Ok(()),
            lost => Err(Trouble::new(
                exit::IOERR,
                format!("{}: the disk did not take {lost} of what was fetched", stopped.dir.display()),
            )
            .hint("is it full, or failing?")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_without_credentials_and_is_not_repeated_where_it_is_none() {
        for good in ["http://127.0.0.1:9090", "https://larder.corp/below/", "http://[::1]:9090"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in
            ["127.0.0.1:9090", "ftp://s3cret/", "http://u:s3cret@h", "http://h/?token=s3cret", "s3cret"]
        {
            let trouble = address(bad).unwrap_err();
            assert_eq!(trouble.code, exit::USAGE, "{bad}");
            assert!(!trouble.problem.contains("s3cret") && !trouble.hint.contains("s3cret"), "{trouble:?}");
        }
    }

    #[test]
    fn a_port_that_is_bound_to_every_address_is_reached_on_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(at("[::]:9090"), "[::1]:9090");
        assert_eq!(at("10.0.0.7:9090"), "10.0.0.7:9090");
    }
}
