//! `larder copy`: plugins into a registry of one's own, unchanged.

mod carried;
mod choose;
mod shown;
mod told;

use super::larder::{Address, Wish};
use super::output::{self, DETAIL, Output};
use super::trouble::Trouble;
use super::{assemble, exit, print, runtime, show};
use crate::admin::entries::Query;
use crate::admin::import::key_of;
use crate::catalog::template::Template;
use crate::config::Loaded;
use crate::oci::error_code::bounded;
use crate::oci::reference::Repository;
use crate::oci::{Digest, Reference};
use crate::plugin::Request;
use crate::registry::copying::{Copying, Item};
use crate::registry::{Client, Kind, Registry, RegistryError, Retry, push};
use bytesize::ByteSize;
use carried::Carried;
use choose::{Choosing, Chosen, Known};
use clap::{ArgGroup, Args};
use futures_util::StreamExt;
use shown::Shown;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use told::{Problem, Report, Row};

/// Plugins that are copied at once.
const AT_ONCE: usize = 3;
/// A layer is read as fast as it can be sent: what bounds it is silence alone.
const PULL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Copy plugins into a registry of your own, unchanged
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("wanted").required(true).multiple(true).args(["plugins", "all"]),
    group = ArgGroup::new("where").required(true).args(["to", "template"]),
    after_long_help = "\
Manifests, layers and signatures go byte for byte, an index with all its children, so that every digest stays what it is. \
What the registry has is not sent again, so that a copy that broke off is simply begun again. Where the cache knows what a \
tag means, that is copied, which is what is served here.

What policy.rules, policy.floating_tags or lock.unlisted refuse is not copied, and nobody is asked for what a rule has \
offline; under a lock that is enforced the manifest that it has is copied, whatever its tag means. Sizes, ABIs and \
signatures are not judged: what is signed arrives with its signatures, for whoever serves it to verify.

Standard output is a catalog file for a larder that uses the copies.

Exit code 0 says that all are there; 1 that a tag of the registry means something else and was left alone; otherwise it is \
that of the worst failure, as of `larder get`.

Examples:
  larder copy ai-proxy ai-cache@2.0.0 --to harbor.corp/plugins
  larder copy --all --to harbor.corp/plugins --dry-run
  larder copy --all --to harbor.corp/plugins > plugins.properties"
)]
pub struct Copy {
    /// Plugins; without a version, that of the catalog
    #[arg(value_name = "NAME[@VERSION]", value_parser = show::plugin)]
    plugins: Vec<Request>,
    /// All that the catalog lists
    #[arg(long)]
    all: bool,
    /// Where to: NAME becomes REGISTRY/PREFIX/NAME, under the tag that it has
    #[arg(long, value_name = "REGISTRY[/PREFIX]")]
    to: Option<String>,
    /// The same for other names: such as oci://harbor.corp/plugins/{name}-wasm:{version}
    #[arg(long = "as", value_name = "TEMPLATE")]
    template: Option<String>,
    /// Copy from a bundle, and ask no other registry; --all is all that it has
    #[arg(long, value_name = "FILE", conflicts_with = "fresh")]
    from: Option<PathBuf>,
    /// A public key (PEM, ECDSA P-256, such as cosign.pub) by which the bundle has to be signed; import.verify_key counts too
    #[arg(long, value_name = "FILE", requires = "from")]
    verify_key: Option<PathBuf>,
    /// Ask registries what tags mean now, whatever the cache knows
    #[arg(long)]
    fresh: bool,
    /// Replace tags that mean something else
    #[arg(long)]
    overwrite: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Copy without signatures and other manifests that refer to it
    #[arg(long)]
    no_signatures: bool,
    /// How much of a layer is sent at a time, and held in memory for each of 3 plugins at once
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = chunk)]
    chunk_size: ByteSize,
    /// text, or json
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    address: Address,
}

/// A size that is something.
fn chunk(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    // Larger ones are only memory.
    match size.as_u64() {
        1024..=0x1000_0000 => Ok(size),
        _ => Err("expected a size from 1KiB to 256MiB".into()),
    }
}

impl Copy {
    /// Copies, shows how far it is, and sums up.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let report = match self.copy(loaded) {
            Ok(Some(report)) => report,
            Ok(None) => return ExitCode::from(INTERRUPTED),
            Err(trouble) => return trouble.tell(),
        };
        let printed = print(&match self.output {
            Output::Json => output::json(&report),
            Output::Text => told::summary(&report),
        });
        told::worst(&report).map_or(printed, ExitCode::from)
    }

    /// How it ended; nothing if somebody did not want to wait.
    fn copy(&self, loaded: &Loaded) -> Result<Option<Report>, Trouble> {
        let runtime = runtime()?;
        let text = self.written();
        let template: Template = text.parse().map_err(|problem| Trouble::new(exit::USAGE, problem))?;
        let known =
            if self.fresh || self.from.is_some() { Known::new() } else { self.known(loaded, &runtime)? };
        let loaded = &patient(loaded);
        let read = assemble::read(loaded).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            Trouble::new(exit::CONFIG, faults.join("\nlarder: "))
        })?;
        let config = &loaded.config;
        let catalog = read.names.catalog.clone();
        let gate = assemble::gate(config, &read.keys, &catalog, read.lock);
        let retry = Retry { attempts: config.registry.attempts, within: config.fill.timeout };
        let client = Client::new(read.hosts, read.breakers, read.clock, read.metrics, retry);
        let limit = config.limits.manifest.as_u64();
        let options = push::Options { chunk: self.chunk_size.as_u64() as usize, manifest: limit };
        let target = client.pusher(template.registry(), options).map_err(|error| {
            let Problem { detail, hint, exit, .. } = error.into();
            Trouble::new(exit, detail).hint(hint)
        })?;
        let keys = config.import.verify_key.iter().chain(&self.verify_key).map(|file| key_of(file));
        let keys: Vec<_> =
            keys.collect::<Result<_, _>>().map_err(|e| Trouble::new(exit::NOINPUT, e.detail))?;
        let disk = config.cache.disk.as_u64();
        let carried = self.from.as_ref().map(|path| Carried::open(path, &catalog, &keys, disk));
        let carried = carried.transpose()?;
        for (what, problem) in carried.iter().flat_map(|carried| &carried.bad) {
            eprintln!("larder: {}: left out: {}", bounded(what, DETAIL), bounded(problem, DETAIL));
        }
        let source: Arc<dyn Registry> = match &carried {
            Some(carried) => carried.source.clone(),
            None => Arc::new(client),
        };
        let copying = Copying {
            source: source.clone(),
            target,
            limit,
            overwrite: self.overwrite,
            dry_run: self.dry_run,
            signatures: !self.no_signatures,
        };
        let mut requests = self.plugins.clone();
        if let Some(carried) = carried.as_ref().filter(|_| self.all) {
            let named = |(name, version): (&String, &String)| {
                Some(Request { name: name.parse().ok()?, version: Some(version.parse().ok()?) })
            };
            requests.extend(carried.offers.iter().filter_map(|offer| named((&offer.name, &offer.version))));
        } else if self.all {
            requests.extend(catalog.names().map(|name| Request { name: name.clone(), version: None }));
        }
        let mut seen = std::collections::HashSet::new();
        requests.retain(|request| seen.insert(request.clone()));
        let attempts = config.registry.attempts;
        let (catalog, known, carried) = (&*catalog, &known, carried.as_ref());
        let choosing = Choosing { catalog, gate: &gate, source: &*source, known, carried, limit, attempts };
        let shown = Shown::new(requests.len());
        let work = async {
            let each = requests.iter().map(|request| async {
                let row = self.one(request, &choosing, &copying, &template, &shown).await;
                shown.tell(&told::outcome(&row));
                row
            });
            futures_util::stream::iter(each).buffered(AT_ONCE).collect::<Vec<_>>().await
        };
        runtime.block_on(async {
            tokio::select! {
                items = work => Ok(Some(self.report(&text, items))),
                _ = tokio::signal::ctrl_c() => {
                    eprintln!("larder: stopped; what arrived stays, and the same command goes on from there");
                    Ok(None)
                }
            }
        })
    }

    /// The template that was written, or is meant.
    fn written(&self) -> String {
        match (&self.template, &self.to) {
            (Some(template), _) => template.clone(),
            (None, Some(to)) => format!("{}/{{name}}:{{version}}", to.trim_end_matches('/')),
            (None, None) => String::new(),
        }
    }

    /// What the cache knows, if there is one.
    fn known(&self, loaded: &Loaded, runtime: &Runtime) -> Result<Known, Trouble> {
        let entries = || {
            let larder = self.address.find(loaded, runtime, Wish::Look)?;
            runtime.block_on(larder.entries(&Query::default(), None))
        };
        match entries() {
            Ok(page) => Ok(choose::known(&page.entries)),
            Err(trouble) if self.address.admin.is_some() => Err(trouble),
            Err(trouble) if trouble.code == exit::NOINPUT => Ok(Known::new()),
            Err(trouble) => {
                eprintln!("larder: {}; so registries are asked what tags mean", trouble.problem);
                Ok(Known::new())
            }
        }
    }

    /// One plugin.
    async fn one(
        &self,
        request: &Request,
        choosing: &Choosing<'_>,
        copying: &Copying,
        template: &Template,
        shown: &Shown,
    ) -> Row {
        let mut row = Row {
            plugin: request.name.to_string(),
            version: request.version.as_ref().map(ToString::to_string),
            matched: None,
            source: None,
            manifest: None,
            target: None,
            done: None,
            error: None,
        };
        let Chosen { reference, why, manifest } = match choosing.choose(request).await {
            Ok(chosen) => chosen,
            Err(error) => return Row { error: Some(error.into()), ..row },
        };
        row.matched = Some(why.as_str());
        row.manifest = Some(manifest.digest);
        row.source = Some(reference.clone());
        let Some(repository) = template.repository(&request.name) else {
            let detail = format!("{} cannot be a part of a repository's name", request.name);
            let error = RegistryError::new(Kind::Settings, detail).hint("--as TEMPLATE gives it another one");
            return Row { error: Some(error.into()), ..row };
        };
        let (target, tag) = at(&repository, &reference, manifest.digest);
        row.target = Some(target.clone());
        let repository = target.repository_path().to_owned();
        let item = Item { from: reference, manifest, repository, tag };
        match shown.copy(&told::name(&row), copying, &item).await {
            Ok(done) => Row { done: Some(done), ..row },
            Err(error) => Row { error: Some(error.into()), ..row },
        }
    }

    fn report(&self, template: &str, items: Vec<Row>) -> Report {
        let bare = template.replace("${", "{");
        let bare = bare.strip_prefix("oci://").unwrap_or(&bare);
        let lines = items.iter().filter(|row| row.done.as_ref().is_some_and(told::is_there)).map(|row| {
            let version = row.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
            let target = row.target.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{}{version}=oci://{target}", row.plugin)
        });
        Report {
            catalog_template: format!("oci://{bare}"),
            image_url_pattern: format!("oci://{}", bare.replace('{', "${")),
            dry_run: self.dry_run,
            properties: lines.collect(),
            items,
        }
    }
}

/// The same reference at the target: under its tag, else by its digest.
fn at(repository: &Repository, reference: &Reference, digest: Digest) -> (Reference, Option<String>) {
    let tagged = reference.tag().and_then(|tag| Some((Reference::tagged(repository, tag).ok()?, tag)));
    match tagged {
        Some((target, tag)) => (target, Some(tag.to_owned())),
        None => (Reference::digested(repository, digest), None),
    }
}

/// Settings for whoever has time: a layer is taken only as fast as the target takes it.
fn patient(loaded: &Loaded) -> Loaded {
    let mut loaded = loaded.clone();
    let registry = &mut loaded.config.registry;
    (registry.pull_timeout, registry.least_rate) = (PULL_TIMEOUT, ByteSize(0));
    for host in registry.hosts.values_mut() {
        (host.pull_timeout, host.least_rate) = (None, None);
    }
    loaded
}
