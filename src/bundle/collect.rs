//! Gathering what artifacts are made of: from the parts that are there, from the cache, else from a registry by digest.
//!
//! Never by a tag: what is exported is what was served.

use super::parts::Part;
use super::{BundleError, Parts};
use crate::artifact::Limits;
use crate::oci::{Contents, Descriptor, Digest, Reference};
use crate::registry::{Registry, RegistryError};
use crate::store::layout::Layout;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 3;
/// Most blobs and manifests of an artifact.
const MOST_BLOBS: usize = 2000;
/// How often a blob is asked for whose bytes are others than its digest says.
const ATTEMPTS: usize = 2;
/// A module of the cache is read in pieces of this size, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Tells how many bytes more there are now.
pub type Told = Arc<dyn Fn(u64) + Send + Sync>;

/// Where to gather from, and where to put it.
#[derive(Clone)]
pub struct Collector {
    /// Who is asked for what is not here; `None` asks nobody.
    pub registry: Option<Arc<dyn Registry>>,
    /// The cache's directory, for layers that are modules.
    pub cache: Layout,
    /// What is there.
    pub parts: Arc<Parts>,
    /// Largest manifest and blob.
    pub limits: Limits,
    /// Who hears how far it is.
    pub told: Told,
}

/// What an artifact is made of, all of it among the parts: sizes by digest, and of manifests and indexes their media type.
pub type Gathered = BTreeMap<Digest, (u64, Option<String>)>;

impl Collector {
    /// All of the artifact `manifest` of the repository of `reference`: indexes with their children, configurations,
    /// layers.
    ///
    /// # Errors
    /// What could not be had, and why.
    pub async fn gather(&self, reference: &Reference, manifest: Digest) -> Result<Gathered, BundleError> {
        let mut gathered = Gathered::new();
        let mut level = vec![manifest];
        for _ in 0..=MAX_DEPTH {
            let mut below = Vec::new();
            for digest in std::mem::take(&mut level) {
                if gathered.contains_key(&digest) {
                    continue;
                }
                let bytes = self.manifest(reference, digest).await?;
                // By its own word alone: what a registry said beside it is not among the parts.
                let contents = Contents::parse(&bytes, None)
                    .map_err(|e| BundleError::new(e.code(), format!("{reference}: {digest}: {e}")))?;
                gathered.insert(digest, (bytes.len() as u64, Some(contents.media_type)));
                for blob in &contents.blobs {
                    self.blob(reference, blob).await?;
                    gathered.entry(blob.digest).or_insert((blob.size, None));
                }
                below.extend(contents.children.iter().map(|child| child.digest));
                if gathered.len() > MOST_BLOBS {
                    let detail = format!("{reference}: it is made of more than {MOST_BLOBS} blobs");
                    return Err(BundleError::new("too_many", detail));
                }
            }
            if below.is_empty() {
                return Ok(gathered);
            }
            level = below;
        }
        let detail = format!("{reference}: indexes are nested over {MAX_DEPTH} deep");
        Err(BundleError::new("index_depth", detail))
    }

    /// A manifest's bytes, kept among the parts.
    pub(super) async fn manifest(&self, of: &Reference, digest: Digest) -> Result<Vec<u8>, BundleError> {
        let limit = self.limits.manifest.as_u64();
        let there = self.blocking(move |parts| match parts.has(&digest) {
            Some(size) if size <= limit => {
                let mut bytes = Vec::new();
                parts.open(&digest)?.take(limit).read_to_end(&mut bytes)?;
                Ok((Digest::of(&bytes) == digest).then_some(bytes))
            }
            _ => Ok(None),
        });
        if let Some(bytes) = there.await? {
            return Ok(bytes);
        }
        let registry = self.registry(of, &digest)?;
        let fetched = registry.manifest(&Reference::digested(&of.repository(), digest), limit).await?;
        let bytes = fetched.bytes.to_vec();
        self.keep(of, digest, bytes.clone()).await?;
        (self.told)(bytes.len() as u64);
        Ok(bytes)
    }

    /// Takes `bytes` among the parts.
    pub(super) async fn keep(
        &self,
        of: &Reference,
        digest: Digest,
        bytes: Vec<u8>,
    ) -> Result<(), BundleError> {
        self.blocking(move |parts| {
            let mut part = parts.begin()?;
            part.write(&bytes)?;
            parts.keep(part, &digest)
        })
        .await?
        .map_err(|found| mismatch(of, &digest, &found))
    }

    pub(super) async fn blob(&self, of: &Reference, blob: &Descriptor) -> Result<(), BundleError> {
        let Descriptor { digest, size, .. } = *blob;
        if size > self.limits.module.as_u64() {
            let detail = format!(
                "{of}: the blob {digest} has {size} bytes; at most {} are taken (limits.module)",
                self.limits.module
            );
            return Err(BundleError::new("too_large", detail));
        }
        if self.blocking(move |parts| Ok(parts.has(&digest))).await?.is_some_and(|there| there == size) {
            return Ok(());
        }
        let module = self.cache.module(&digest);
        if self
            .blocking(move |parts| {
                Ok(copied(parts, File::open(module)?, &digest, size).is_ok_and(|kept| kept))
            })
            .await
            .unwrap_or(false)
        {
            (self.told)(size);
            return Ok(());
        }
        let registry = self.registry(of, &digest)?;
        for attempt in 1.. {
            let opened = registry.blob(of, &digest, size).await?;
            let endpoint = opened.endpoint;
            let mut stream = opened.stream;
            let mut part = self.blocking(|parts| parts.begin()).await?;
            while let Some(piece) = stream.next().await {
                let piece = piece.map_err(|e: RegistryError| BundleError::from(e))?;
                if part.size + piece.len() as u64 > size {
                    let detail = format!("{of}: the blob {digest} has more than {size} bytes");
                    return Err(BundleError::new("size_mismatch", detail));
                }
                (self.told)(piece.len() as u64);
                part = self.blocking(move |_| part.write(&piece).map(|()| part)).await?;
            }
            let had = part.size;
            match self.blocking(move |parts| parts.keep(part, &digest)).await? {
                // The bytes are right, and what the manifest says of them is not.
                Ok(()) if had != size => {
                    let detail = format!("{of}: the blob {digest} should have {size} bytes and has {had}");
                    return Err(BundleError::new("size_mismatch", detail));
                }
                Ok(()) => return Ok(()),
                // What changed it on its way may not be there again, or another mirror's bytes are right.
                Err(_) if attempt < ATTEMPTS => registry.distrust(of, endpoint),
                Err(found) => return Err(mismatch(of, &digest, &found)),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn registry(&self, of: &Reference, digest: &Digest) -> Result<&Arc<dyn Registry>, BundleError> {
        self.registry.as_ref().ok_or_else(|| {
            let detail = format!("{of}: {digest} is not here, and no registry is to be asked");
            BundleError::new("not_held", detail).hint("without --cached it is fetched")
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Parts) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BundleError> {
        let parts = self.parts.clone();
        let folder = parts.folder().display().to_string();
        let done = tokio::task::spawn_blocking(move || work(&parts)).await;
        done.map_err(|_| BundleError::new("io", "a worker ended early"))?
            .map_err(|e| BundleError::io(&folder, &e))
    }
}

/// Takes a file of the cache among the parts, if it is what its name says, and of that size.
fn copied(parts: &Parts, mut file: File, digest: &Digest, size: u64) -> io::Result<bool> {
    let mut part: Part = parts.begin()?;
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => part.write(&buffer[..n])?,
        }
    }
    Ok(part.size == size && parts.keep(part, digest)?.is_ok())
}

fn mismatch(of: &Reference, digest: &Digest, found: &Digest) -> BundleError {
    BundleError::new("digest_mismatch", format!("{of}: {digest} came as {found}"))
}
