//! Bundles that are taken in: each plugin by the road of a fetch, those that are no good named and left out.

use super::{Administration, Kind, Refused};
use crate::bundle::index::Offer;
use crate::bundle::registry::Offered;
use crate::bundle::{Bundle, BundleError, Packing};
use crate::cache::CacheError;
use crate::cache::take::{Taken, Wanted};
use crate::oci::error_code::bounded;
use crate::store::spool::Spool;
use crate::store::unkept::Unkept;
use crate::store::{Store, StoreError};
use serde::{Deserialize, Serialize};
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
    Refused,
}

/// How a bundle is taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// Everything is verified, and nothing is kept.
    pub dry_run: bool,
    /// What resolves already is left as it is, whatever the bundle has of it.
    pub missing_only: bool,
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
        let hint =
            "larder export writes bundles, and so do skopeo (oci-archive:), oras (--to-oci-layout) and crane";
        Self::new(
            if error.code == "io" { Kind::Failed } else { Kind::Unusable },
            error.code,
            error.detail,
            hint,
        )
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
    let mut head = Vec::new();
    (&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
    io::Seek::rewind(&mut file).map_err(failed)?;
    let packing = Packing::of(&head);
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
    Refused { hint: error.hint(), ..Refused::new(Kind::Failed, "no_spool", error.to_string(), "") }
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
    /// Takes a bundle in. What is no good is left out, and the rest is kept.
    ///
    /// # Errors
    /// Another one is being taken in.
    pub async fn import(
        &self,
        bundle: Arc<Bundle>,
        how: How,
        told: &(dyn Fn(&Item) + Sync),
    ) -> Result<Imported, Refused> {
        let busy = || {
            Refused::new(
                Kind::Busy,
                "importing",
                "another bundle is being imported",
                "ask again when it is over",
            )
        };
        let _one = self.importing.try_lock().map_err(|_| busy())?;
        let catalog = self.names.load().catalog.clone();
        let (offers, bad) = bundle.offers(&catalog);
        let store = how.dry_run.then(|| Arc::new(Unkept(self.cache.store().clone())) as Arc<dyn Store>);
        let taking = self.cache.beside(Arc::new(Offered::new(bundle, &offers)), store);
        let mut all =
            Imported { dry_run: how.dry_run, imported: 0, unchanged: 0, refused: 0, items: Vec::new() };
        let mut add = |item: Item| {
            match item.state {
                State::Imported => all.imported += 1,
                State::Unchanged => all.unchanged += 1,
                State::Refused => all.refused += 1,
            }
            told(&item);
            all.items.push(item);
        };
        for (plugin, error) in bad {
            let error = Some(Wrong::from(error));
            let (version, reference, manifest, digest, size) = Default::default();
            add(Item { plugin, version, reference, manifest, digest, size, state: State::Refused, error });
        }
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
            add(item(offer, taken.and_then(|taken| noted.map(|()| taken))));
        }
        let Imported { imported, unchanged, refused, dry_run, .. } = all;
        tracing::info!(imported, unchanged, refused, dry_run, "a bundle was read");
        Ok(all)
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

/// Settings of bundles.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A folder of bundles that are taken in at the start.
    pub dir: Option<PathBuf>,
    /// A public key in PEM by which every bundle has to be signed.
    pub verify_key: Option<PathBuf>,
}
