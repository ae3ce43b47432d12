//! Bundles that are taken in: each plugin by the road of a fetch, those that are no good named and left out.

use super::{Administration, Kind, Refused};
use crate::bundle::index::Offer;
use crate::bundle::registry::Offered;
use crate::bundle::said::Said;
use crate::bundle::sign::VerifyKey;
use crate::bundle::{Bundle, BundleError, Packing};
use crate::cache::CacheError;
use crate::cache::take::{Taken, Wanted};
use crate::oci::error_code::bounded;
use crate::store::spool::Spool;
use crate::store::unkept::Unkept;
use crate::store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest text about what is wrong, in characters.
const DETAIL: usize = 1000;
/// The first bytes of a file tell how it is packed.
const HEAD_BYTES: usize = 4;

/// What came of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Whether nothing was kept of it, as was asked.
    pub dry_run: bool,
    /// Plugins that are held now and were not before, or were others.
    pub imported: usize,
    /// Plugins that were held already.
    pub unchanged: usize,
    /// Plugins of which the cache has something else, as a registry said.
    pub kept: usize,
    /// What was left out.
    pub refused: usize,
    /// Each of them.
    pub items: Vec<Item>,
}

/// One plugin of a bundle, or something else in it that is no good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The plugin's name, or what stands there instead.
    pub plugin: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it is kept by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Digest of its manifest or index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// SHA-256 of its module, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of the module in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What came of it.
    pub state: State,
    /// Why it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Wrong>,
}

/// Why something was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// Stable word.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// What to do; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// What came of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum State {
    Imported,
    Unchanged,
    Kept,
    Refused,
}

/// How a bundle is taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct How {
    /// Everything is verified, and nothing is kept.
    pub dry_run: bool,
    /// What resolves already is left as it is, whatever the bundle has of it.
    pub missing_only: bool,
    /// A key by which it has to be signed, beside that of the settings.
    pub key: Option<VerifyKey>,
}

impl From<BundleError> for Wrong {
    fn from(error: BundleError) -> Self {
        Self { code: error.code.into(), detail: error.detail, hint: error.hint }
    }
}

impl From<CacheError> for Wrong {
    fn from(error: CacheError) -> Self {
        Self { code: error.code.into(), detail: bounded(&error.detail, DETAIL), hint: error.hint }
    }
}

impl Refused {
    /// A bundle of which nothing is taken.
    pub fn bundle(error: BundleError) -> Self {
        let kind = if error.code == "io" { Kind::Failed } else { Kind::Unusable };
        let hint: Cow<'static, str> = match error.hint.is_empty() {
            false => error.hint.into(),
            true if kind == Kind::Failed => "".into(),
            true => {
                "larder export writes bundles, and so do skopeo (oci-archive:), oras (--to-oci-layout) and crane"
                    .into()
            }
        };
        Self::new(kind, error.code, error.detail, hint)
    }
}

/// A bundle's file or folder, ready to be read. What is packed is unpacked into a spool of `store` first. Blocks for a
/// folder and an archive that is not packed.
///
/// # Errors
/// It cannot be read, or is none.
pub async fn open(path: &Path, store: &Arc<dyn Store>) -> Result<Arc<Bundle>, Refused> {
    let unreadable = |e: io::Error| {
        let detail = format!("{}: {e}", path.display());
        Refused::new(
            if e.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed },
            "unreadable",
            detail,
            "",
        )
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        let path = path.to_owned();
        return done(tokio::task::spawn_blocking(move || Bundle::folder(path)).await);
    }
    if !metadata.is_file() {
        let detail = format!("{} is neither a file nor a folder", path.display());
        return Err(Refused::new(Kind::Bad, "no_bundle", detail, ""));
    }
    open_file(File::open(path).map_err(unreadable)?, store).await
}

/// The same of an open file, from its beginning.
///
/// # Errors
/// As [`open`].
pub async fn open_file(mut file: File, store: &Arc<dyn Store>) -> Result<Arc<Bundle>, Refused> {
    let failed = |e: io::Error| Refused::new(Kind::Failed, "unreadable", format!("the bundle: {e}"), "");
    let packing = packing_of(&mut file).map_err(failed)?;
    if packing == Packing::Plain {
        return done(tokio::task::spawn_blocking(move || Bundle::archive(file)).await);
    }
    let spool = store.spool().await.map_err(spooled)?;
    done(tokio::task::spawn_blocking(move || Bundle::archive(unpacked(file, packing, spool)?)).await)
}

fn done(read: Result<Result<Bundle, BundleError>, tokio::task::JoinError>) -> Result<Arc<Bundle>, Refused> {
    match read {
        Ok(read) => read.map(Arc::new).map_err(Refused::bundle),
        Err(_) => Err(Refused::bundle(BundleError::new("io", "a worker ended early"))),
    }
}

/// A spool that cannot be had.
pub fn spooled(error: StoreError) -> Refused {
    Refused::new(Kind::Failed, "no_spool", error.to_string(), error.hint())
}

/// Unpacks a bundle. Blocks.
fn unpacked(file: File, packing: Packing, mut spool: Spool) -> Result<File, BundleError> {
    let copied = packing.reader(file).and_then(|mut bytes| io::copy(&mut bytes, &mut spool));
    match copied {
        Ok(_) => spool.into_file().map_err(|e| BundleError::io("unpacking", &e)),
        Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            let detail = format!("the bundle unpacks to {e}");
            Err(BundleError::new("unpacked_too_large", detail))
        }
        // An error number is our own disk's; a decoder has none.
        Err(e) if e.raw_os_error().is_some() => Err(BundleError::io("unpacking", &e)),
        Err(e) => Err(BundleError::new("bad_packing", format!("the bundle's packing is damaged: {e}"))),
    }
}

impl Administration {
    /// The turn to import. It is to be had before anything of a bundle is spooled: two spools together may be more than
    /// the disk has.
    ///
    /// # Errors
    /// Another bundle is being taken in.
    pub fn import_turn(&self) -> Result<Turn<'_>, Refused> {
        let (detail, hint) = ("another bundle is being imported", "ask again when it is over");
        self.imports.one.try_lock().map_err(|_| Refused::new(Kind::Busy, "importing", detail, hint))
    }

    /// Takes a bundle in. What is no good is left out, and the rest is kept.
    ///
    /// # Errors
    /// It is not signed as the settings want it.
    pub async fn import(
        &self,
        _turn: &Turn<'_>,
        bundle: Arc<Bundle>,
        how: How,
        told: &(dyn Fn(&Item) + Sync),
    ) -> Result<Imported, Refused> {
        // Of the very bundle that is read from then on: another look at the file could see another one.
        let (list, signature) = bundle.said.signed();
        let wanted =
            self.imports.config.verify_key.as_deref().map(key_of).transpose().map_err(Refused::bundle)?;
        for key in wanted.iter().chain(&how.key) {
            key.verify(list, signature).map_err(Refused::bundle)?;
        }
        let catalog = self.names.load().catalog.clone();
        let (offers, bad) = bundle.offers(&catalog);
        let store = how.dry_run.then(|| Arc::new(Unkept(self.cache.store().clone())) as Arc<dyn Store>);
        let taking = self.cache.beside(Arc::new(Offered::new(bundle, &offers)), store);
        let mut items = Vec::new();
        for (plugin, error) in bad {
            let error = Some(Wrong::from(error));
            let (version, reference, manifest, digest, size) = Default::default();
            let state = State::Refused;
            items.push(Item { plugin, version, reference, manifest, digest, size, state, error });
        }
        items.iter().for_each(told);
        // What each is said to have, by its place.
        let mut held = Vec::new();
        for offer in &offers {
            if how.missing_only && taking.resolves(&offer.reference) {
                continue;
            }
            let wanted = Wanted {
                reference: &offer.reference,
                manifest: &offer.manifest,
                module: offer.module.as_ref(),
            };
            let taken = taking.take(wanted).await;
            if taken.is_ok() {
                self.cache.forget_failure(&offer.reference);
            }
            let noted = match &taken {
                Ok(_) => self.take_absences(&taking, offer).await,
                Err(_) => Ok(()),
            };
            if let Ok(Taken::New(module) | Taken::Unchanged(module) | Taken::Kept(module)) = &taken {
                held.push((items.len(), module.clone()));
            }
            let item = item(offer, taken.and_then(|taken| noted.map(|()| taken)));
            told(&item);
            items.push(item);
        }
        // One that came later may have pushed out one that came before.
        for (at, module) in held.into_iter().filter(|_| !how.dry_run) {
            if !self.cache.store().holds(&module) {
                items[at].leave();
            }
        }
        let number = |state| items.iter().filter(|item| item.state == state).count();
        let (imported, unchanged) = (number(State::Imported), number(State::Unchanged));
        let (kept, refused, dry_run) = (number(State::Kept), number(State::Refused), how.dry_run);
        tracing::info!(imported, unchanged, kept, refused, dry_run, "a bundle was read");
        Ok(Imported { dry_run, imported, unchanged, kept, refused, items })
    }

    async fn take_absences(&self, taking: &crate::cache::Cache, offer: &Offer) -> Result<(), CacheError> {
        for reference in &offer.absent {
            taking.take_absence(reference).await?;
        }
        Ok(())
    }
}

fn item(offer: &Offer, taken: Result<Taken, CacheError>) -> Item {
    let (state, module, error) = match taken {
        Ok(Taken::New(module)) => (State::Imported, Some(module), None),
        Ok(Taken::Unchanged(module)) => (State::Unchanged, Some(module), None),
        Ok(Taken::Kept(module)) => (State::Kept, Some(module), None),
        Err(error) => (State::Refused, None, Some(Wrong::from(error))),
    };
    if let Some(Wrong { code, detail, .. }) = &error {
        tracing::warn!(reference = %offer.reference, code, error = detail, "left out of what a bundle has");
    }
    Item {
        plugin: offer.name.clone(),
        version: Some(offer.version.clone()),
        reference: Some(offer.reference.to_string()),
        manifest: Some(offer.manifest.to_string()),
        digest: module.as_ref().map(|module| module.digest.to_string()),
        size: module.map(|module| module.size),
        state,
        error,
    }
}

impl Item {
    /// Says that it left the cache again, unless it is told of already.
    fn leave(&mut self) {
        let name = self.reference.as_deref().unwrap_or(&self.plugin);
        let detail = format!("{name}: its module left the cache again for others that came behind it");
        tracing::warn!(error = detail, "left out of what a bundle has");
        self.state = State::Refused;
        let hint = "raise cache.disk, and import the bundle again".into();
        self.error.get_or_insert(Wrong { code: "evicted".into(), detail, hint });
    }
}

/// One import at a time.
pub type Turn<'i> = tokio::sync::MutexGuard<'i, ()>;

/// What the settings say of bundles, and whether one is being taken in.
#[derive(Debug, Default)]
pub struct Imports {
    config: Config,
    one: tokio::sync::Mutex<()>,
}

impl Imports {
    /// By these settings.
    pub fn new(config: Config) -> Self {
        Self { config, one: tokio::sync::Mutex::default() }
    }
}

/// The public key in a file. Blocks.
///
/// # Errors
/// It cannot be read, or is none.
pub fn key_of(file: &Path) -> Result<VerifyKey, BundleError> {
    let of = |error: BundleError| BundleError::new(error.code, format!("{}: {error}", file.display()));
    let pem = fs::read(file).map_err(|e| of(BundleError::new("io", e.to_string())))?;
    VerifyKey::read(&pem).map_err(of)
}

/// Settings of bundles.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder of bundles that are taken in at the start.
    pub dir: Option<PathBuf>,
    /// A public key in PEM by which every bundle has to be signed.
    pub verify_key: Option<PathBuf>,
}

impl Administration {
    /// Takes in what lies in `import.dir`, by name. A bundle that was taken in before only fills in what is missing by now:
    /// what came after it stays. One that is no good is told, and the next is looked at.
    pub async fn import_at_start(&self) {
        let Some(dir) = self.imports.config.dir.clone() else { return };
        let listed = tokio::task::spawn_blocking(move || (bundles_in(&dir), dir)).await;
        let Ok((listed, dir)) = listed else { return };
        let paths = match listed {
            Ok(paths) => paths,
            Err(error) => {
                let dir = dir.display();
                return tracing::error!(%dir, %error, "import.dir cannot be read; nothing is imported");
            }
        };
        for path in paths {
            let bundle = path.display().to_string();
            match self.import_mounted(path).await {
                Ok(Some(Imported { imported, unchanged, refused, .. })) => {
                    tracing::info!(bundle, imported, unchanged, refused, "imported at the start")
                }
                Ok(None) => tracing::info!(bundle, "was imported before, and all of it is held"),
                Err(Refused { code, detail, .. }) => {
                    tracing::error!(bundle, code, error = detail, "not imported")
                }
            }
        }
    }

    /// What came of a mounted bundle; nothing where there was no need to read it.
    async fn import_mounted(&self, path: PathBuf) -> Result<Option<Imported>, Refused> {
        let store = self.cache.store();
        let (looked, known, most) = (path.clone(), store.clone(), store.usage().disk_limit);
        let said =
            tokio::task::spawn_blocking(move || said(&looked, most).map(|said| (known.imported(), said)))
                .await;
        let (before, said) =
            said.map_err(|_| Refused::bundle(BundleError::new("io", "a worker ended early")))??;
        let missing_only = before.contains(&said.identity);
        let catalog = self.names.load().catalog.clone();
        if missing_only && said.offers(&catalog).0.iter().all(|offer| self.cache.resolves(&offer.reference)) {
            return Ok(None);
        }
        // Nobody would ask again for it: it waits until another one is over.
        let turn = self.imports.one.lock().await;
        let bundle = open(&path, store).await?;
        let identity = bundle.said.identity;
        let imported = self.import(&turn, bundle, How { missing_only, ..How::default() }, &|_| {}).await?;
        if let Err(error) = store.note_imported(identity).await {
            tracing::warn!(%error, "that a bundle was imported is not written down; the next start reads it again");
        }
        Ok(Some(imported))
    }
}

/// What a bundle says of itself, without being unpacked; of a packed one at most `most` bytes are looked through. Blocks.
///
/// # Errors
/// As [`open`].
pub fn said(path: &Path, most: u64) -> Result<Said, Refused> {
    let failed = |e: io::Error| Refused::bundle(BundleError::io(&path.display().to_string(), &e));
    if fs::metadata(path).map_err(failed)?.is_dir() {
        return Bundle::folder(path.into()).map(|bundle| bundle.said).map_err(Refused::bundle);
    }
    let mut file = File::open(path).map_err(failed)?;
    match packing_of(&mut file).map_err(failed)? {
        // Without reading what lies between the headers.
        Packing::Plain => Bundle::archive(file).map(|bundle| bundle.said).map_err(Refused::bundle),
        packing => Said::read(packing, io::BufReader::new(file), most).map_err(Refused::bundle),
    }
}

fn packing_of(file: &mut File) -> io::Result<Packing> {
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    io::Seek::rewind(file)?;
    Ok(Packing::of(&head))
}

/// Bundles of a folder by name: archives, and folders with an `index.json`. What begins with a dot is none, such as what a
/// kubelet turns beneath its links.
fn bundles_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_archive =
            [".tar", ".tar.zst", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) && path.is_file();
        if !name.starts_with('.') && (is_archive || path.join(crate::bundle::index::INDEX).is_file()) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
