//! A fetch: from a reference to a module that is verified and kept.
//!
//! Manifest, layer, module, in that order and each checked before the next is begun: the manifest against the digest
//! that was asked for, the layer against the manifest's digest and size, the module's first bytes, and only then is it
//! admitted under its own digest. Until then all bytes are in drafts that nobody else can see.

use super::error::{CacheError, DISK_FAILED, DISK_FULL};
use super::{ErrorKind, Parts};
use crate::artifact::extract::{self, Sink};
use crate::artifact::whiteout::Hidden;
use crate::artifact::{Limits, select};
use crate::oci::{Descriptor, Digest, Document, Manifest, Reference};
use crate::origin;
use crate::proof::{self, Step};
use crate::record::Present;
use crate::registry::{FetchedManifest, RegistryError};
use crate::store::{Draft, Sealed, StoreError};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 3;
/// Layers that are fetched in search of a module. Artifacts have one that could be it, images a few.
const MAX_LAYERS: usize = 8;
/// The code of a layer whose bytes are others than the manifest's.
const DIGEST_MISMATCH: &str = "digest_mismatch";
/// Received bytes are written in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

/// How far a fetch is.
#[derive(Default)]
pub struct Counters {
    received: AtomicU64,
    expected: AtomicU64,
    /// Where the layer comes from, by the registry's count.
    endpoint: AtomicUsize,
}

/// Fetches in progress.
#[derive(Default)]
pub struct Board(Arc<Mutex<HashMap<Reference, Arc<Counters>>>>);

/// A fetch's place on the board.
pub struct Progress {
    board: Arc<Mutex<HashMap<Reference, Arc<Counters>>>>,
    reference: Reference,
    counters: Arc<Counters>,
}

impl Board {
    /// Puts a fetch on the board until the result is dropped.
    pub fn begin(&self, reference: &Reference) -> Progress {
        let counters = Arc::<Counters>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.clone(), counters.clone());
        Progress { board: self.0.clone(), reference: reference.clone(), counters }
    }

    /// Reference, bytes received, bytes expected.
    pub fn list(&self) -> Vec<(Reference, u64, u64)> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        board.iter().map(|(reference, c)| (reference.clone(), read(&c.received), read(&c.expected))).collect()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.reference);
    }
}

/// Fetches `reference`. `usable` is what it resolved to before, where those bytes are still good: when the manifest is
/// the same, nothing more is fetched. When the disk fails in the middle it is tried once more, in memory.
pub async fn fill(
    parts: &Parts,
    limits: &Limits,
    reference: &Reference,
    usable: Option<&Present>,
    progress: &Progress,
) -> Result<Present, CacheError> {
    match try_fill(parts, limits, reference, usable, progress).await {
        Err(error) if matches!(error.code, DISK_FULL | DISK_FAILED) => {
            tracing::warn!(%reference, error = error.detail, "the disk failed; fetched once more");
            try_fill(parts, limits, reference, usable, progress).await
        }
        other => other,
    }
}

async fn try_fill(
    parts: &Parts,
    limits: &Limits,
    reference: &Reference,
    usable: Option<&Present>,
    progress: &Progress,
) -> Result<Present, CacheError> {
    let limit = limits.manifest.as_u64();
    let fetched = manifest(parts, reference, limit).await.map_err(|e| CacheError::registry(reference, e))?;
    let digest = fetched.digest;
    if let Some(present) = usable.filter(|present| present.manifest == digest) {
        return Ok(present.clone());
    }
    if let Some(present) = held_elsewhere(parts, &digest) {
        return Ok(present);
    }
    let manifest = resolve(parts, limits, reference, fetched).await?;
    let layers = select::layers(&manifest, limits);
    for verdict in parts.trace.is_listening().then(|| select::told(&manifest)).into_iter().flatten() {
        parts.trace.note("layer", || verdict);
    }
    let layers = layers.map_err(|e| CacheError::select(reference, &e))?;
    let mut first_error = None;
    let mut hidden = Hidden::default();
    for layer in layers.into_iter().take(MAX_LAYERS) {
        parts.trace.note("layer", || {
            format!("{} is fetched: {}, {} bytes", layer.digest, layer.media_type, layer.size)
        });
        let (mut outcome, mut below) = module(parts, limits, reference, layer, hidden, progress).await;
        // Once more: what changed it on its way may not be there again, or another mirror's bytes are right.
        if matches!(&outcome, Err(Failed::For(error)) if error.code == DIGEST_MISMATCH) {
            tracing::warn!(%reference, layer = %layer.digest, "other bytes than the manifest's; fetched once more");
            parts.registry.distrust(reference, progress.counters.endpoint.load(Ordering::Relaxed));
            (outcome, below) = module(parts, limits, reference, layer, below, progress).await;
        }
        hidden = below;
        match outcome {
            Ok(sealed) => {
                let module = sealed.module.clone();
                parts.trace.note("module", || {
                    let abi = module
                        .abi
                        .as_deref()
                        .map_or("no Proxy-Wasm ABI".into(), |abi| format!("Proxy-Wasm ABI {abi}"));
                    format!(
                        "{}, {} bytes, {abi}; verified against {}",
                        module.digest, module.size, layer.digest
                    )
                });
                let admitted = async { parts.store.admit(sealed).await.map_err(CacheError::from) };
                origin::leg("commit", |error: &CacheError| error.code, admitted).await?;
                return Ok(Present {
                    manifest: digest,
                    layer: layer.digest,
                    layer_media_type: crate::oci::error_code::shown(&layer.media_type),
                    module,
                    since: parts.clock.now(),
                    first: Some(parts.clock.now()),
                });
            }
            // Another layer may hold it; if none does, the likeliest one's error is the one to tell.
            Err(Failed::OtherContent(error)) => drop(first_error.get_or_insert(error)),
            Err(Failed::For(error)) => return Err(error),
        }
    }
    Err(first_error.unwrap_or_else(|| CacheError::internal("a manifest without layers was selected")))
}

/// The module of another reference that points to the same manifest.
fn held_elsewhere(parts: &Parts, manifest: &Digest) -> Option<Present> {
    let records = parts.store.records();
    let mut same =
        records.iter().filter_map(|record| record.present()).filter(|present| present.manifest == *manifest);
    let held = same.find(|present| parts.store.holds(&present.module))?;
    let now = parts.clock.now();
    Some(Present { since: now, first: Some(now), ..held.clone() })
}

async fn manifest(parts: &Parts, of: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError> {
    origin::leg("manifest", |error: &RegistryError| error.code, parts.registry.manifest(of, limit)).await
}

/// From an index to a manifest, if it is one.
async fn resolve(
    parts: &Parts,
    limits: &Limits,
    reference: &Reference,
    mut fetched: FetchedManifest,
) -> Result<Manifest, CacheError> {
    for _ in 0..=MAX_DEPTH {
        let document = Document::parse(&fetched.bytes, fetched.media_type.as_deref());
        match document.map_err(|e| CacheError::manifest(reference, &e))? {
            Document::Manifest(manifest) => return Ok(manifest),
            Document::Index(children) => {
                let child = select::child(&children).map_err(|e| CacheError::select(reference, &e))?;
                parts.trace.note("manifest", || {
                    let platform = child.platform.as_ref().map(|(os, arch)| format!("{os}/{arch}"));
                    let platform = platform.unwrap_or_else(|| "no platform".into());
                    format!(
                        "an index of {}; its child for {platform} is taken, {}",
                        children.len(),
                        child.digest
                    )
                });
                let child = Reference::digested(&reference.repository(), child.digest);
                let limit = limits.manifest.as_u64();
                fetched = manifest(parts, &child, limit).await.map_err(|e| {
                    let mut error = CacheError::registry(reference, e);
                    // The index is there and names it: the registry is incomplete, not empty.
                    if error.kind == ErrorKind::NotFound {
                        error.kind = ErrorKind::Unavailable;
                        error.code = "upstream";
                    }
                    error
                })?;
            }
        }
    }
    let detail = format!("{reference}: indexes are nested over {MAX_DEPTH} deep");
    Err(CacheError::new(ErrorKind::Unsupported, "index_depth", detail).about(reference))
}

enum Failed {
    /// This layer is good and something else.
    OtherContent(CacheError),
    /// There is no use in going on.
    For(CacheError),
}

impl Failed {
    fn code(&self) -> &'static str {
        let (Self::OtherContent(error) | Self::For(error)) = self;
        error.code
    }
}

/// Fetches a layer, verifies it and takes the module out of it. `hidden` is what the layers above removed, and comes
/// back with what this one does.
async fn module(
    parts: &Parts,
    limits: &Limits,
    reference: &Reference,
    layer: &Descriptor,
    hidden: Hidden,
    progress: &Progress,
) -> (Result<Sealed, Failed>, Hidden) {
    // What is unpacked is known when it is; packed, modules are seldom a fourth of themselves.
    let unpacked = layer.size.saturating_mul(4).min(limits.module.as_u64());
    let drafts = async {
        let layer = download(parts, reference, layer, progress);
        let layer = origin::leg("blob", |error: &CacheError| error.code, layer).await?;
        Ok((layer, parts.store.draft(unpacked).await?))
    };
    let (draft, out) = match drafts.await {
        Ok(drafts) => drafts,
        Err(e) => return (Err(Failed::For(e)), hidden),
    };
    let limits = *limits;
    let expected = layer.digest;
    let about = reference.clone();
    // Decoders are where memory goes.
    let _turn = parts.unpacking.acquire().await;
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut hidden = hidden;
        (unpack(draft, out, &expected, &limits, &about, &mut hidden), hidden)
    });
    let extracted = async {
        match unpacked.await {
            Ok((Ok(sealed), hidden)) => Ok((sealed, hidden)),
            Ok((Err(failed), hidden)) => Err((failed, hidden)),
            // A defect of ours: counted and begun again like any other of a fetch.
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err((Failed::For(CacheError::internal("a worker ended early")), Hidden::default())),
        }
    };
    match origin::leg("extract", |(failed, _): &(Failed, Hidden)| failed.code(), extracted).await {
        Ok((sealed, hidden)) => (Ok(sealed), hidden),
        Err((failed, hidden)) => (Err(failed), hidden),
    }
}

/// Blocks.
fn unpack(
    draft: Draft,
    mut out: Draft,
    expected: &Digest,
    limits: &Limits,
    about: &Reference,
    hidden: &mut Hidden,
) -> Result<Sealed, Failed> {
    let store = |e| Failed::For(CacheError::extract(about, extract::ExtractError::Io(e)));
    let (found, mut bytes) = draft.into_reader().map_err(store)?;
    if proof::takes(Step::VerifyLayer) && found != *expected {
        let detail = format!("{about}: the layer should be {expected} and is {found}");
        return Err(Failed::For(CacheError::corrupt(about, DIGEST_MISMATCH, detail)));
    }
    let extracted = extract::extract(&mut bytes, limits, hidden, &mut out);
    // What a disk made of the layer says nothing of the layer.
    bytes.verify().map_err(store)?;
    match extracted {
        Ok(()) => out.seal().map_err(store),
        Err(e) if e.is_other_content() => Err(Failed::OtherContent(CacheError::extract(about, e))),
        Err(e) => Err(Failed::For(CacheError::extract(about, e))),
    }
}

/// Receives a layer into a draft, which hashes it. Its size is compared here, its digest by the caller.
async fn download(
    parts: &Parts,
    reference: &Reference,
    layer: &Descriptor,
    progress: &Progress,
) -> Result<Draft, CacheError> {
    let wrong_size = |got: String| {
        let detail =
            format!("{reference}: the layer {} should have {} bytes and has {got}", layer.digest, layer.size);
        CacheError::corrupt(reference, "size_mismatch", detail)
    };
    let from_registry = |e| CacheError::registry(reference, e);
    let mut draft = parts.store.draft(layer.size).await?;
    let blob = parts.registry.blob(reference, &layer.digest, layer.size).await;
    let mut blob = blob.map_err(from_registry)?;
    progress.counters.received.store(0, Ordering::Relaxed);
    progress.counters.expected.store(layer.size, Ordering::Relaxed);
    progress.counters.endpoint.store(blob.endpoint, Ordering::Relaxed);
    let fetched = parts.metrics.fetched_bytes.with_label_values(&[reference.registry()]);
    let mut waiting = Vec::with_capacity(WRITE_BYTES.min(layer.size as usize));
    let mut received = 0;
    while let Some(piece) = blob.stream.next().await {
        let piece = piece.map_err(from_registry)?;
        received += piece.len() as u64;
        fetched.inc_by(piece.len() as u64);
        progress.counters.received.store(received, Ordering::Relaxed);
        if received > layer.size {
            return Err(wrong_size("more".into()));
        }
        waiting.extend_from_slice(&piece);
        if waiting.len() >= WRITE_BYTES {
            draft = write(draft, std::mem::take(&mut waiting)).await?;
        }
    }
    if received != layer.size {
        return Err(wrong_size(received.to_string()));
    }
    write(draft, waiting).await
}

async fn write(mut draft: Draft, bytes: Vec<u8>) -> Result<Draft, CacheError> {
    let written = tokio::task::spawn_blocking(move || draft.write(&bytes).map(|()| draft)).await;
    let written = written.map_err(|_| CacheError::internal("a worker ended early"))?;
    Ok(written.map_err(|e| StoreError::of_draft("writing", e))?)
}
