//! A bundle that is copied from: opened, unpacked where it is packed, and asked as a registry.

use crate::bundle::registry::Offered;
use crate::bundle::sign::VerifyKey;
use crate::bundle::{Bundle, BundleError, Offer, Packing};
use crate::catalog::{Catalog, Why};
use crate::cli::exit;
use crate::cli::trouble::Trouble;
use crate::oci::Reference;
use crate::plugin::Request;
use crate::registry::{Registry, RegistryError};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use super::choose::Chosen;

/// The first bytes of a file tell how it is packed.
const HEAD_BYTES: u64 = 4;

/// See the module's text.
pub struct Carried {
    /// What it has.
    pub offers: Vec<Offer>,
    /// The same, to be asked.
    pub source: Arc<dyn Registry>,
    /// What is no good in it, each with what it is and why.
    pub bad: Vec<(String, String)>,
}

impl Carried {
    /// The bundle at `path`, a file or a folder. A packed one is unpacked into a file of at most `limit` bytes, which nobody
    /// else finds. It has to be signed by all of `keys`.
    ///
    /// # Errors
    /// It cannot be read, is none, or is not signed so.
    pub fn open(path: &Path, catalog: &Catalog, keys: &[VerifyKey], limit: u64) -> Result<Self, Trouble> {
        let shown = path.display();
        let unreadable = |error: io::Error| {
            let code = if error.kind() == io::ErrorKind::NotFound { exit::NOINPUT } else { exit::IOERR };
            Trouble::new(code, format!("{shown}: {error}"))
        };
        let bundle = if path.is_dir() {
            Bundle::folder(path.to_owned())
        } else {
            Bundle::archive(plain(path, limit).map_err(unreadable)?)
        };
        let no_good =
            |e: BundleError| Trouble::new(exit::DATAERR, format!("{shown}: {}", e.detail)).hint(e.hint);
        let bundle = bundle.map_err(no_good)?;
        let (list, signature) = bundle.said.signed();
        for key in keys {
            key.verify(list, signature).map_err(no_good)?;
        }
        let (offers, bad) = bundle.offers(catalog);
        let source = Arc::new(Offered::new(Arc::new(bundle), &offers));
        let bad = bad.into_iter().map(|(what, error)| (what, error.detail)).collect();
        Ok(Self { offers, source, bad })
    }

    /// Whether it carries its registry's word that there is no such thing.
    pub fn is_absent(&self, reference: &Reference) -> bool {
        self.offers.iter().any(|offer| offer.absent.contains(reference))
    }

    /// What it has under a name of its own and the version that is asked for, or the only one if none is; with nothing of
    /// the kind, the catalog says what else may be meant.
    ///
    /// # Errors
    /// It is no good.
    pub async fn choose(&self, request: &Request, limit: u64) -> Option<Result<Chosen, RegistryError>> {
        let version = request.version.as_ref().map(ToString::to_string);
        let mut fitting = self.offers.iter().filter(|offer| {
            offer.name == request.name.as_str()
                && version.as_ref().is_none_or(|version| *version == offer.version)
        });
        let reference = fitting.next()?.reference.clone();
        if version.is_none() && fitting.next().is_some() {
            return None;
        }
        let manifest = self.source.manifest(&reference, limit).await;
        Some(manifest.map(|manifest| Chosen { reference, why: Why::Exact, manifest }))
    }
}

/// The archive, not packed.
fn plain(path: &Path, limit: u64) -> io::Result<File> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&file).take(HEAD_BYTES).read_to_end(&mut head)?;
    file.rewind()?;
    let packing = Packing::of(&head);
    if packing == Packing::Plain {
        return Ok(file);
    }
    let mut unpacked = tempfile::tempfile()?;
    let size = io::copy(&mut packing.reader(file)?.take(limit + 1), &mut unpacked)?;
    if size > limit {
        let text = format!("it unpacks to more than {limit} bytes (cache.disk)");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    unpacked.rewind()?;
    Ok(unpacked)
}
