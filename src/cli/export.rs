//! `larder export`: plugins are written into one file, for where no registry is.

use super::import::LEFT_OUT;
use super::known::{Known, Withheld};
use super::larder::{Address, Larder, Wish};
use super::output::{self, DETAIL};
use super::trouble::Trouble;
use super::{assemble, exit, prefetch, print, runtime, show};
use crate::admin::entries::Query;
use crate::admin::import::Wrong;
use crate::admin::prefetch::Wanted;
use crate::bundle::collect::{Collector, Gathered};
use crate::bundle::sign::SignKey;
use crate::bundle::{BundleError, List, Packing, Parts, Plugin, write};
use crate::catalog::Catalog;
use crate::config::Loaded;
use crate::oci::Reference;
use crate::oci::error_code::bounded;
use crate::plugin::Request;
use crate::policy::{Gate, Mode, Refusal};
use crate::registry::{Client, Registry};
use crate::store::layout::Layout;
use clap::{ArgGroup, Args};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Plugins that are gathered at once.
const AT_ONCE: usize = 4;
/// Where cosign takes a key's password from.
const PASSWORD: &str = "COSIGN_PASSWORD";
/// The output is written in pieces of this size, in bytes.
const WRITE_BYTES: usize = 1 << 20;

/// Write plugins into one file, for where no registry is
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("wanted").required(true).multiple(true).args(["plugins", "all", "used"]),
    after_long_help = "\
The file is an OCI image layout that oras, skopeo and crane read as well (by NAME, or NAME/VERSION where there are several \
of one name), with larder's own list in it. The same content gives the same bytes, but for the \
signature.

Artifacts are carried as they came. The cache keeps modules, not the layers that they were in: those are fetched by digest, \
where the layer is not the module itself, and lie in the folder FILE.parts until the file is complete. An export that was \
broken off, or that left something out, goes on from there.

Examples:
  larder export --all -o plugins.tar.zst
  larder export ai-proxy ai-cache@2.0.0 -o plugins.tar
  oras copy --from-oci-layout plugins.tar:ai-proxy harbor.corp/plugins/ai-proxy:2.0.0
  skopeo copy oci-archive:plugins.tar:ai-proxy docker://harbor.corp/plugins/ai-proxy:2.0.0"
)]
pub struct Export {
    /// Plugins; without a version, that of the catalog
    #[arg(value_name = "NAME[@VERSION]", value_parser = show::plugin)]
    plugins: Vec<Request>,
    /// All that the catalog lists
    #[arg(long)]
    all: bool,
    /// All that are known of, because they were asked for before
    #[arg(long)]
    used: bool,
    /// Where to write: FILE.tar, or FILE.tar.zst packed
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Ask no registry: what is neither in the cache nor among the parts of an earlier export is left out
    #[arg(long)]
    cached: bool,
    /// Sign larder's list with this key: cosign's (its password is in COSIGN_PASSWORD), or PKCS #8 in PEM; ECDSA P-256
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
    /// File with the key's password, in place of COSIGN_PASSWORD
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_password_file: Option<PathBuf>,
    /// Print what was exported as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: Address,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Exported {
    /// Plugins in the file.
    plugins: Vec<Plugin>,
    /// What is not in it, and why.
    left_out: BTreeMap<String, Wrong>,
    /// Size of the file in bytes; 0 where none was written.
    bytes: u64,
}

impl Export {
    /// Gathers, writes and sums up.
    pub fn run(&self, loaded: &Loaded) -> ExitCode {
        let exported = match self.export(loaded) {
            Ok(exported) => exported,
            Err(trouble) => return trouble.tell(),
        };
        let printed = print(&match self.json {
            true => output::json(&exported),
            false => self.summary(&exported),
        });
        if exported.left_out.is_empty() { printed } else { ExitCode::from(LEFT_OUT) }
    }

    fn export(&self, loaded: &Loaded) -> Result<Exported, Trouble> {
        let packing = match self.output.extension().and_then(|end| end.to_str()) {
            Some("tar") => Packing::Plain,
            Some("zst") => Packing::Zstd,
            _ => {
                let problem = format!("{}: is named neither .tar nor .tar.zst", self.output.display());
                return Err(Trouble::new(exit::USAGE, problem));
            }
        };
        // Before anything is fetched: a wrong password is told at once.
        let key = self.sign_key()?;
        let parts = Arc::new(Parts::beside(&self.output).map_err(unwritable)?);
        let runtime = runtime()?;
        let larder =
            self.address.find(loaded, &runtime, if self.cached { Wish::Look } else { Wish::Fill })?;
        let read = assemble::read(loaded).map_err(|faults| {
            Trouble::new(exit::CONFIG, faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let gate = assemble::gate(&loaded.config, &read.keys, &read.names.catalog, read.lock);
        let mut exported = Exported::default();
        let list = runtime.block_on(async {
            let wanted = self.wanted(&larder, &read.names.catalog, &gate, &mut exported).await?;
            larder.close().await?;
            Ok::<_, Trouble>(wanted)
        })?;
        let registry = (!self.cached).then(|| {
            let retry = assemble::retry(&loaded.config);
            Arc::new(Client::new(read.hosts, read.breakers, read.clock, read.metrics, retry))
                as Arc<dyn Registry>
        });
        let shown = Shown::new(list.len() as u64);
        let bar = shown.bar.clone();
        let collector = Collector {
            registry,
            cache: Layout::new(&assemble::cache_dir(&loaded.config)),
            parts: parts.clone(),
            limits: loaded.config.limits,
            told: Arc::new(move |bytes| bar.inc(bytes)),
        };
        // For what a rule keeps offline; where all is, the registries' client says so.
        let asks_nobody = Collector { registry: None, ..collector.clone() };
        let is_offline = |reference: &Reference| {
            !self.cached && !loaded.config.policy.is_offline() && gate.mode_of(reference) == Mode::Offline
        };
        let mut gathered = Gathered::new();
        runtime.block_on(async {
            let gather = |mut plugin: Plugin| async {
                let is_offline = is_offline(&plugin.reference);
                let collector = if is_offline { &asks_nobody } else { &collector };
                let got = async {
                    let mut got = collector.gather(&plugin.reference, plugin.manifest).await?;
                    let signed = collector.signatures(&plugin.reference, plugin.manifest).await?;
                    got.extend(signed.gathered);
                    Ok((signed.tags, signed.left, got))
                };
                let got = got.await.map(|(tags, left, got)| {
                    plugin.signatures = tags;
                    (left, got)
                });
                let got = got.map_err(|error: BundleError| match error.code {
                    "not_held" if is_offline => BundleError::new("offline", error.detail)
                        .hint("policy.rules has it offline; another mode lets it be fetched"),
                    _ => error,
                });
                (plugin, got)
            };
            let mut all = futures_util::stream::iter(list).map(gather).buffer_unordered(AT_ONCE);
            while let Some((plugin, got)) = all.next().await {
                let name = format!("{}@{}", plugin.name, plugin.version);
                shown.tell(&name, got.as_ref().err());
                match got {
                    Ok((left, more)) => {
                        left.iter().for_each(|left| shown.line(&format!("{name}: {left}")));
                        gathered.extend(more);
                        exported.plugins.push(plugin);
                    }
                    Err(error) => drop(exported.left_out.insert(name, error.into())),
                }
            }
        });
        drop((collector, asks_nobody));
        let list = List::new(std::mem::take(&mut exported.plugins));
        if !list.plugins.is_empty() {
            exported.bytes = self.write(packing, &list, key.as_ref(), &gathered, &parts, &shown)?;
        }
        exported.plugins = list.plugins;
        if exported.left_out.is_empty()
            && let Ok(parts) = Arc::try_unwrap(parts).map_err(|_| ())
        {
            parts.remove().map_err(|e| unwritable(BundleError::io("removing the parts", &e)))?;
        }
        Ok(exported)
    }

    fn sign_key(&self) -> Result<Option<SignKey>, Trouble> {
        let Some(file) = &self.sign_key else { return Ok(None) };
        let unreadable = |file: &Path, e| Trouble::new(exit::NOINPUT, format!("{}: {e}", file.display()));
        let pem = std::fs::read(file).map_err(|e| unreadable(file, e))?;
        let password = match &self.sign_password_file {
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|e| unreadable(file, e))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            None => std::env::var(PASSWORD).unwrap_or_default(),
        };
        let key = SignKey::read(&pem, &password.into());
        key.map(Some)
            .map_err(|e| Trouble::new(exit::DATAERR, format!("{}: {e}", file.display())).hint(e.hint))
    }

    /// The file, whole or not at all.
    fn write(
        &self,
        packing: Packing,
        list: &List,
        key: Option<&SignKey>,
        gathered: &Gathered,
        parts: &Parts,
        shown: &Shown,
    ) -> Result<u64, Trouble> {
        let failed = |e: std::io::Error| unwritable(BundleError::io(&self.output.display().to_string(), &e));
        shown.begin_writing(gathered.values().map(|(size, _)| size).sum());
        let mut draft = BufWriter::with_capacity(WRITE_BYTES, parts.draft().map_err(failed)?);
        let told = |bytes| shown.bar.inc(bytes);
        let signature = key.map(|key| key.sign(&list.encode())).transpose().map_err(unwritable)?;
        write::write(&mut draft, packing, list, signature.as_deref(), gathered, parts, &told)
            .map_err(unwritable)?;
        draft.flush().map_err(failed)?;
        let draft = draft.into_inner().map_err(|e| failed(e.into_error()))?;
        draft.as_file().sync_all().map_err(failed)?;
        let file = draft.persist(&self.output).map_err(|e| failed(e.error))?;
        Ok(file.metadata().map_err(failed)?.len())
    }

    /// The plugins that are wanted and known, fetched first if that is allowed; those that are not are left out.
    async fn wanted(
        &self,
        larder: &Larder,
        catalog: &Catalog,
        gate: &Gate,
        exported: &mut Exported,
    ) -> Result<Vec<Plugin>, Trouble> {
        let mut references = BTreeSet::new();
        if !self.cached {
            let mut plugins: Vec<_> = self.plugins.iter().map(ToString::to_string).collect();
            plugins.extend(self.all.then(|| "all".to_owned()));
            plugins.extend(self.used.then(|| "used".to_owned()));
            let job = larder.prefetch(&Wanted { plugins }).await?;
            for item in prefetch::watch(larder, job).await?.items {
                let name = prefetch::name(&item);
                match (item.reference.as_ref().and_then(|text| text.parse::<Reference>().ok()), item.error) {
                    (_, Some(error)) => {
                        let wrong = Wrong { code: error.code, detail: error.detail, hint: error.hint };
                        exported.left_out.insert(name, wrong);
                    }
                    (Some(reference), None) => drop(references.insert(reference)),
                    (None, None) => {
                        let detail = format!("{name} is a file of this machine and no artifact");
                        exported.left_out.insert(name, BundleError::new("local_file", detail).into());
                    }
                }
            }
        }
        let entries = larder.entries(&Query::default(), None).await?.entries;
        let (entries, withheld) = Known::judged(entries, gate);
        if self.cached {
            let all = catalog.names().map(|name| Request { name: name.clone(), version: None });
            let named = all.filter(|_| self.all).chain(self.plugins.iter().cloned());
            for request in named.collect::<Vec<_>>() {
                match entries.held(catalog, &request) {
                    Some(reference) => drop(references.insert(reference)),
                    None => {
                        let mut candidates = catalog.plan(&request).candidates.into_iter();
                        let wrong = candidates.find_map(|at| wrong(&withheld, &at.reference));
                        let not_held =
                            || BundleError::new("not_held", format!("{request} is not in the cache")).into();
                        exported.left_out.insert(request.to_string(), wrong.unwrap_or_else(not_held));
                    }
                }
            }
            references.extend(entries.references().chain(withheld.keys().cloned()).filter(|_| self.used));
        }
        let (mut list, mut seen) = (Vec::new(), BTreeSet::new());
        for reference in references {
            match entries.plugin(catalog, &reference) {
                Some(plugin) if seen.insert(plugin.reference.clone()) => list.push(plugin),
                Some(_) => {}
                // Withheld, or evicted meanwhile.
                None => {
                    let evicted =
                        || BundleError::new("not_held", format!("{reference} is not held any more")).into();
                    let wrong = wrong(&withheld, &reference).unwrap_or_else(evicted);
                    exported.left_out.insert(reference.to_string(), wrong);
                }
            }
        }
        Ok(list)
    }

    fn summary(&self, exported: &Exported) -> String {
        let mut text = String::new();
        for (name, wrong) in &exported.left_out {
            text += &format!("{name}: {}: {}\n", wrong.code, bounded(&wrong.detail, DETAIL));
            if !wrong.hint.is_empty() {
                text += &format!("  next step: {}\n", bounded(&wrong.hint, DETAIL));
            }
        }
        let number = output::count(exported.plugins.len() as u64, "plugin", "plugins");
        let (file, left) = (self.output.display(), exported.left_out.len());
        text += &match exported.bytes {
            0 => format!("nothing was written, {left} left out\n"),
            bytes => format!("{number} written to {file} ({}), {left} left out\n", output::size(bytes)),
        };
        if left > 0 {
            text += &format!("what came is kept in {file}.parts: the same command goes on from there\n");
        }
        text
    }
}

/// Why what is held is not exported.
fn wrong(withheld: &Withheld, reference: &Reference) -> Option<Wrong> {
    let Refusal { code, detail, hint, .. } = withheld.get(reference)?.clone();
    Some(Wrong { code: code.into(), detail, hint })
}

fn unwritable(error: BundleError) -> Trouble {
    let code = if error.code == "parts_in_use" { exit::TEMPFAIL } else { exit::CANTCREAT };
    Trouble::new(code, error.detail).hint(error.hint)
}

/// How far it is: a bar on a terminal, elsewhere a line for each plugin.
struct Shown {
    bar: ProgressBar,
    is_drawn: bool,
}

impl Shown {
    fn new(plugins: u64) -> Self {
        let is_drawn = std::io::stderr().is_terminal();
        let target = if is_drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style("{msg} {bytes} {bytes_per_sec}"));
        bar.set_message(format!("gathering {}", output::count(plugins, "plugin", "plugins")));
        Self { bar, is_drawn }
    }

    fn tell(&self, name: &str, error: Option<&BundleError>) {
        let name = bounded(name, DETAIL);
        self.line(&match error {
            None => format!("{name}: gathered"),
            Some(error) => format!("{name}: left out: {}", error.detail),
        });
    }

    fn line(&self, line: &str) {
        let line = bounded(line, 2 * DETAIL);
        if self.is_drawn { self.bar.println(line) } else { eprintln!("{line}") }
    }

    fn begin_writing(&self, bytes: u64) {
        self.bar.set_style(style("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"));
        self.bar.set_message("writing");
        self.bar.set_length(bytes);
        self.bar.set_position(0);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
