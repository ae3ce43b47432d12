//! A fetch: from a reference to a module that is verified and kept.
//!
//! Manifest, signatures, layer, module, in that order and each checked before the next is begun: the manifest against the
//! digest that was asked for, who signed it where the policy asks for it, the layer against the manifest's digest and size, the module's first bytes, and only then is it
//! admitted under its own digest. Until then all bytes are in drafts that nobody else can see.

use super::error::{CacheError, DISK_FAILED, DISK_FULL};
use super::layer::{self, DIGEST_MISMATCH, Failed};
use super::{ErrorKind, Parts, Rules, signed};
use crate::artifact::whiteout::Hidden;
use crate::artifact::{Limits, select};
use crate::oci::{Digest, Document, Manifest, Reference};
use crate::origin;
use crate::policy::lock::LOCK_MISMATCH;
use crate::record::Present;
use crate::registry::{FetchedManifest, RegistryError};
use crate::signature::{Octets, Subject};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 3;
/// Layers that are fetched in search of a module. Artifacts have one that could be it, images a few.
const MAX_LAYERS: usize = 8;

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

impl Progress {
    /// A layer of so many bytes is coming from `endpoint`, by the registry's count.
    pub(super) fn begun(&self, bytes: u64, endpoint: usize) {
        self.counters.received.store(0, Ordering::Relaxed);
        self.counters.expected.store(bytes, Ordering::Relaxed);
        self.counters.endpoint.store(endpoint, Ordering::Relaxed);
    }

    /// So many bytes of it are here.
    pub(super) fn received(&self, bytes: u64) {
        self.counters.received.store(bytes, Ordering::Relaxed);
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
    rules: &Rules,
    reference: &Reference,
    usable: Option<&Present>,
    progress: &Progress,
) -> Result<Present, CacheError> {
    fill_from(parts, rules, reference, reference, usable, progress).await
}

/// As [`fill`], of what is `at` a place.
async fn fill_from(
    parts: &Parts,
    rules: &Rules,
    reference: &Reference,
    at: &Reference,
    usable: Option<&Present>,
    progress: &Progress,
) -> Result<Present, CacheError> {
    match try_fill(parts, rules, reference, at, usable, progress).await {
        Err(error) if matches!(error.code, DISK_FULL | DISK_FAILED) => {
            tracing::warn!(%reference, error = error.detail, "the disk failed; fetched once more");
            try_fill(parts, rules, reference, at, usable, progress).await
        }
        other => other,
    }
}

/// As [`fill`]; and when that is not what is locked, or nothing that can be used, and nothing is held that is locked, that is
/// asked for by its digest.
pub async fn fill_or_locked(
    parts: &Parts,
    rules: &Rules,
    reference: &Reference,
    usable: Option<&Present>,
    progress: &Progress,
) -> Result<Present, CacheError> {
    match fill(parts, rules, reference, usable, progress).await {
        Err(error) if is_lasting(&error) => {
            let Some(at) = locked_instead(parts, reference, usable, &error) else { return Err(error) };
            match fill_from(parts, rules, reference, &at, None, progress).await {
                // Whether what is locked is there is not known yet.
                Err(other) if !is_lasting(&other) => Err(other),
                other => other.map_err(|_| error),
            }
        }
        other => other,
    }
}

/// True when the registry has said what it has: asked again at once, it would say the same.
fn is_lasting(error: &CacheError) -> bool {
    match error.kind {
        ErrorKind::NotFound
        | ErrorKind::Forbidden
        | ErrorKind::Refused
        | ErrorKind::Untrusted
        | ErrorKind::Unsupported
        | ErrorKind::TooLarge
        | ErrorKind::Corrupt => true,
        ErrorKind::Unproved
        | ErrorKind::Offline
        | ErrorKind::TimedOut
        | ErrorKind::Pending
        | ErrorKind::Unavailable
        | ErrorKind::RateLimited
        | ErrorKind::Overloaded
        | ErrorKind::Internal => false,
    }
}

/// What is locked, by its digest, where a fetch ended in `error`: a tag that has moved or is gone leaves it in its
/// repository. Nothing where what is `usable` is that.
fn locked_instead(
    parts: &Parts,
    reference: &Reference,
    usable: Option<&Present>,
    error: &CacheError,
) -> Option<Reference> {
    let gate = &parts.rules.load().gate;
    if usable.is_some_and(|present| !gate.has_locked_others(reference, present)) {
        return None;
    }
    let locked = gate.enforced()?;
    if error.absence().is_some() && locked.lock.is_answered_elsewhere(reference) {
        return None;
    }
    let manifest = locked.lock.manifest_of(reference)?;
    // Other bytes were told of when they came.
    if error.code != LOCK_MISMATCH {
        parts.tell_missing(locked.mode, reference, &manifest, error);
    }
    parts.trace.note("lock", || format!("{manifest} is asked for in place of {reference}"));
    Some(Reference::digested(&reference.repository(), manifest))
}

/// Fetches what is `at` a place, as what `reference` leads to.
async fn try_fill(
    parts: &Parts,
    rules: &Rules,
    reference: &Reference,
    at: &Reference,
    usable: Option<&Present>,
    progress: &Progress,
) -> Result<Present, CacheError> {
    let limits = &rules.limits;
    let limit = limits.manifest.as_u64();
    let fetched = manifest(parts, at, limit).await.map_err(|e| {
        let error = CacheError::registry(reference, e);
        // What is held would do, if only somebody told who signed it.
        match usable.is_some_and(|present| signed::is_unproved(&rules.gate, reference, present)) {
            true => error.into_unproved(reference),
            false => error,
        }
    })?;
    let digest = fetched.digest;
    parts.compare_manifest(reference, &digest)?;
    let own = usable.filter(|present| present.manifest == digest).cloned();
    let is_own = own.is_some();
    let known = own.or_else(|| held_elsewhere(parts, &digest));
    let taken = |present: Present| match is_own {
        true => Ok(present),
        false => takes(parts, reference, &present).map(|()| present),
    };
    // "Verified" is of a manifest and of keys, and stands as long as both are the same.
    if let Some(present) = known.as_ref().filter(|present| rules.gate.is_proved(reference, present)) {
        return taken(present.clone());
    }
    let (manifest, subjects) = resolve(parts, limits, reference, fetched).await?;
    let signatures = signed::judged(parts, reference, subjects).await?;
    if let Some(present) = known {
        return taken(Present { signatures: signatures.or(present.signatures), ..present });
    }
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
        let (mut outcome, mut below) = layer::module(parts, limits, reference, layer, hidden, progress).await;
        // Once more: what changed it on its way may not be there again, or another mirror's bytes are right.
        if matches!(&outcome, Err(Failed::For(error)) if error.code == DIGEST_MISMATCH) {
            tracing::warn!(%reference, layer = %layer.digest, "other bytes than the manifest's; fetched once more");
            parts.registry.distrust(reference, progress.counters.endpoint.load(Ordering::Relaxed));
            (outcome, below) = layer::module(parts, limits, reference, layer, below, progress).await;
        }
        hidden = below;
        match outcome {
            Ok(sealed) => {
                parts.trace.note("module", || {
                    let module = &sealed.module;
                    let abi = module
                        .abi
                        .as_deref()
                        .map_or("no Proxy-Wasm ABI".into(), |abi| format!("Proxy-Wasm ABI {abi}"));
                    format!(
                        "{}, {} bytes, {abi}; verified against {}",
                        module.digest, module.size, layer.digest
                    )
                });
                let mut present = Present {
                    manifest: digest,
                    layer: layer.digest,
                    layer_media_type: crate::oci::error_code::shown(&layer.media_type),
                    module: sealed.module.clone(),
                    since: parts.clock.now(),
                    first: Some(parts.clock.now()),
                    signatures,
                };
                // Verified, and nobody knows of it yet: what the policy refuses is never kept.
                takes(parts, reference, &present)?;
                let admitted = async { parts.store.admit(sealed).await.map_err(CacheError::from) };
                present.module = origin::leg("commit", |error: &CacheError| error.code, admitted).await?;
                return Ok(present);
            }
            // Another layer may hold it; if none does, the likeliest one's error is the one to tell.
            Err(Failed::OtherContent(error)) => drop(first_error.get_or_insert(error)),
            Err(Failed::For(error)) => return Err(error),
        }
    }
    Err(first_error.unwrap_or_else(|| CacheError::internal("a manifest without layers was selected")))
}

/// Whether the policy lets a reference come to point there: that in use by now, which may be why somebody waits for it.
fn takes(parts: &Parts, reference: &Reference, present: &Present) -> Result<(), CacheError> {
    let gate = &parts.rules.load().gate;
    parts.compare(gate, reference, present);
    if gate.is_open() {
        return Ok(());
    }
    gate.takes_reference(reference, present).map_err(|refusal| CacheError::refused(refusal).about(reference))
}

/// The module of another reference that points to the same manifest.
fn held_elsewhere(parts: &Parts, manifest: &Digest) -> Option<Present> {
    let record = parts.store.record_of(manifest)?;
    let held = record.present().filter(|present| parts.store.holds(&present.module))?;
    let now = parts.clock.now();
    Some(Present { since: now, first: Some(now), ..held.clone() })
}

async fn manifest(parts: &Parts, of: &Reference, limit: u64) -> Result<FetchedManifest, RegistryError> {
    origin::leg("manifest", |error: &RegistryError| error.code, parts.registry.manifest(of, limit)).await
}

/// From an index to a manifest, if it is one; and all of them on the way, of which one has to be signed where that is asked.
async fn resolve(
    parts: &Parts,
    limits: &Limits,
    reference: &Reference,
    mut fetched: FetchedManifest,
) -> Result<(Manifest, Vec<Subject>), CacheError> {
    let mut subjects = Vec::new();
    for _ in 0..=MAX_DEPTH {
        subjects.push(Subject { digest: fetched.digest, manifest: Octets(fetched.bytes.clone()) });
        let document = Document::parse(&fetched.bytes, fetched.media_type.as_deref());
        match document.map_err(|e| CacheError::manifest(reference, &e))? {
            Document::Manifest(manifest) => return Ok((manifest, subjects)),
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
