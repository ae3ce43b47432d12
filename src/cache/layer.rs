//! A layer on its way to a module: received, hashed, unpacked and written in one pass.
//!
//! What comes from the registry goes in pieces to a thread that hashes, unpacks and writes them while more is coming.
//! Whatever it finds counts only once the layer's digest is known: other bytes than the manifest's prove nothing of the
//! artifact. A transfer that breaks off is taken up again beneath this (`registry/blob`), and is one stream to it.
//!
//! What needs much memory to be unpacked, and what finds no thread free, is kept as a draft first and unpacked when its
//! turn comes.

use super::Parts;
use super::error::CacheError;
use super::fill::Progress;
use crate::artifact::Limits;
use crate::artifact::extract::{self, ExtractError, Packing, Sink};
use crate::artifact::whiteout::Hidden;
use crate::oci::{Descriptor, Digest, Hasher, Reference};
use crate::origin;
use crate::proof::{self, Step};
use crate::registry::RegistryError;
use crate::store::{Draft, Sealed, StoreError};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::io::{self, Read};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The code of a layer whose bytes are others than the manifest's.
pub(super) const DIGEST_MISMATCH: &str = "digest_mismatch";
/// Received bytes are handed on in pieces of this size: as many calls of the system whatever the network's are.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait between network and thread. With one at either end they are half of what a fetch may take.
const PIECES_WAITING: usize = 2;

/// Why a layer yields no module.
pub(super) enum Failed {
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

/// What is wanted, for those who work on it on another thread.
struct Task {
    reference: Reference,
    layer: Digest,
    size: u64,
    limits: Limits,
}

/// A module, or why there is none; and what this layer and those above it remove from those below.
type Unpacked = (Result<Sealed, Failed>, Hidden);

/// A layer that has come.
enum Come {
    /// It was unpacked on its way.
    Unpacking(JoinHandle<Unpacked>),
    /// It is kept, and to be unpacked.
    Kept(Box<(Draft, Task, Hidden)>),
}

/// Fetches a layer, verifies it and takes the module out of it. `hidden` is what the layers above removed, and comes
/// back with what this one does.
pub(super) async fn module(
    parts: &Parts,
    limits: &Limits,
    reference: &Reference,
    layer: &Descriptor,
    hidden: Hidden,
    progress: &Progress,
) -> Unpacked {
    let task = Task { reference: reference.clone(), layer: layer.digest, size: layer.size, limits: *limits };
    let come = receive(parts, task, hidden, progress);
    let come = match origin::leg("blob", |error: &CacheError| error.code, come).await {
        Ok(come) => come,
        Err(error) => return (Err(Failed::For(error)), Hidden::default()),
    };
    let unpacked = async {
        let unpacked = match come {
            Come::Unpacking(thread) => ended(thread).await,
            Come::Kept(kept) => unpack_later(parts, *kept).await,
        };
        match unpacked {
            Ok((Ok(sealed), hidden)) => Ok((sealed, hidden)),
            Ok((Err(failed), hidden)) => Err((failed, hidden)),
            Err(error) => Err((Failed::For(error), Hidden::default())),
        }
    };
    match origin::leg("extract", |(failed, _): &(Failed, Hidden)| failed.code(), unpacked).await {
        Ok((sealed, hidden)) => (Ok(sealed), hidden),
        Err((failed, hidden)) => (Err(failed), hidden),
    }
}

/// Receives a layer, and has it unpacked meanwhile where that can be.
async fn receive(parts: &Parts, task: Task, hidden: Hidden, progress: &Progress) -> Result<Come, CacheError> {
    let mut draft = parts.store.draft(task.size).await?;
    let mut pieces = Pieces::ask(parts, &task, progress).await?;
    let first = pieces.next().await?;
    let turn = parts.streams.clone().try_acquire_owned();
    let turn = turn.ok().filter(|_| extract::packing(&first) != Packing::Zstd);
    let Some(turn) = turn else {
        let mut piece = first;
        draft = draft.of_layer();
        while !piece.is_empty() {
            draft = write(draft, piece).await?;
            piece = pieces.next().await?;
        }
        return Ok(Come::Kept(Box::new((draft, task, hidden))));
    };
    let (feed, coming) = mpsc::channel(PIECES_WAITING);
    let thread = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        unpack(&task, Coming::new(first, coming), draft, hidden)
    });
    let fed = async {
        loop {
            let piece = pieces.next().await?;
            let is_last = piece.is_empty();
            // Who takes no more has failed, and tells at its end why.
            if feed.send(piece).await.is_err() || is_last {
                return Ok(());
            }
        }
    };
    if let Err(error) = fed.await {
        drop(feed);
        // So that its draft is gone when this is told.
        drop(ended(thread).await);
        return Err(error);
    }
    Ok(Come::Unpacking(thread))
}

/// Waits for a thread.
async fn ended(thread: JoinHandle<Unpacked>) -> Result<Unpacked, CacheError> {
    thread.await.map_err(|ended| match ended.try_into_panic() {
        // A defect of ours: counted and begun again like any other of a fetch.
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => CacheError::internal("a worker ended early"),
    })
}

async fn write(mut draft: Draft, bytes: Vec<u8>) -> Result<Draft, CacheError> {
    let written = tokio::task::spawn_blocking(move || draft.write(&bytes).map(|()| draft)).await;
    let written = written.map_err(|_| CacheError::internal("a worker ended early"))?;
    Ok(written.map_err(|e| StoreError::of_draft("writing", e))?)
}

/// Takes the module out of a layer that was kept, when it is its turn.
async fn unpack_later(
    parts: &Parts,
    (layer, task, hidden): (Draft, Task, Hidden),
) -> Result<Unpacked, CacheError> {
    let out = parts.store.draft(task.most_unpacked()).await?;
    // Decoders are where memory goes.
    let _turn = parts.unpacking.acquire().await;
    let unpack = move || {
        let mut hidden = hidden;
        (unpack_kept(&task, layer, out, &mut hidden), hidden)
    };
    ended(tokio::task::spawn_blocking(unpack)).await
}

/// Blocks.
fn unpack_kept(task: &Task, layer: Draft, mut out: Draft, hidden: &mut Hidden) -> Result<Sealed, Failed> {
    let (found, mut bytes) = layer.into_reader().map_err(|e| task.disk(e))?;
    task.verify(&found)?;
    let extracted = extract::extract(&mut bytes, &task.limits, hidden, &mut out);
    // What a disk made of the layer says nothing of the layer.
    bytes.verify().map_err(|e| task.disk(e))?;
    task.seal(extracted, out)
}

/// Takes the module out of a layer that is still coming. Blocks.
fn unpack(task: &Task, mut layer: Coming, mut out: Draft, hidden: Hidden) -> Unpacked {
    if task.size <= task.limits.module.as_u64() && extract::is_module(&layer.piece) {
        return (take_over(task, layer, out), hidden);
    }
    out.expect(task.most_unpacked());
    let mut below = hidden.clone();
    let extracted = extract::extract(&mut layer, &task.limits, &mut below, &mut out);
    // Our disk's, which says nothing of the layer: the rest of it need not come.
    if let Err(ExtractError::Io(error)) = extracted {
        return (Err(task.disk(error)), hidden);
    }
    match layer.finish().map_err(|e| task.disk(e)).and_then(|found| task.verify(&found)) {
        Ok(()) => (task.seal(extracted, out), below),
        Err(failed) => (Err(failed), hidden),
    }
}

/// The layer is the module: what is hashed while it is written is both. Blocks.
fn take_over(task: &Task, mut layer: Coming, mut out: Draft) -> Result<Sealed, Failed> {
    loop {
        out.write(&layer.piece).map_err(|e| task.disk(e))?;
        if !layer.advance().map_err(|e| task.disk(e))? {
            break;
        }
    }
    task.verify(&out.digest())?;
    task.seal(Ok(()), out)
}

impl Task {
    /// What is unpacked is known when it is; packed, modules are seldom a fourth of themselves.
    fn most_unpacked(&self) -> u64 {
        self.size.saturating_mul(4).min(self.limits.module.as_u64())
    }

    fn disk(&self, error: io::Error) -> Failed {
        Failed::For(CacheError::extract(&self.reference, ExtractError::Io(error)))
    }

    /// Whether the layer is what the manifest names. Nothing is said of what is in it before.
    fn verify(&self, found: &Digest) -> Result<(), Failed> {
        if proof::takes(Step::VerifyLayer) && *found != self.layer {
            let (about, expected) = (&self.reference, &self.layer);
            let detail = format!("{about}: the layer should be {expected} and is {found}");
            return Err(Failed::For(CacheError::corrupt(about, DIGEST_MISMATCH, detail)));
        }
        Ok(())
    }

    /// What came of a layer that is the manifest's.
    fn seal(&self, extracted: Result<(), ExtractError>, out: Draft) -> Result<Sealed, Failed> {
        match extracted {
            Ok(()) => out.seal().map_err(|e| self.disk(e)),
            Err(e) if e.is_other_content() => {
                Err(Failed::OtherContent(CacheError::extract(&self.reference, e)))
            }
            Err(e) => Err(Failed::For(CacheError::extract(&self.reference, e))),
        }
    }
}

/// A layer as it comes from the registry.
struct Pieces<'a> {
    stream: BoxStream<'static, Result<Bytes, RegistryError>>,
    reference: Reference,
    layer: Digest,
    size: u64,
    parts: &'a Parts,
    progress: &'a Progress,
    received: u64,
    /// Received, and in no piece yet.
    rest: Bytes,
    over: bool,
}

impl<'a> Pieces<'a> {
    async fn ask(parts: &'a Parts, task: &Task, progress: &'a Progress) -> Result<Self, CacheError> {
        let Task { reference, layer, size, .. } = task;
        let blob = parts.registry.blob(reference, layer, *size).await;
        let blob = blob.map_err(|e| CacheError::registry(reference, e))?;
        progress.begun(*size, blob.endpoint);
        Ok(Self {
            stream: blob.stream,
            reference: reference.clone(),
            layer: *layer,
            size: *size,
            parts,
            progress,
            received: 0,
            rest: Bytes::new(),
            over: false,
        })
    }

    /// The next [`PIECE_BYTES`], or what is left; empty at the end. The size is compared here, the digest by the caller.
    async fn next(&mut self) -> Result<Vec<u8>, CacheError> {
        let left = self.size.saturating_sub(self.received) as usize + self.rest.len();
        let mut piece = Vec::with_capacity(PIECE_BYTES.min(left));
        while !self.over {
            let room = PIECE_BYTES - piece.len();
            piece.extend_from_slice(&self.rest.split_to(room.min(self.rest.len())));
            if piece.len() == PIECE_BYTES {
                break;
            }
            match self.stream.next().await {
                Some(bytes) => {
                    self.rest = bytes.map_err(|e| CacheError::registry(&self.reference, e))?;
                    self.received += self.rest.len() as u64;
                    let fetched = &self.parts.metrics.fetched_bytes;
                    fetched.with_label_values(&[self.reference.registry()]).inc_by(self.rest.len() as u64);
                    self.progress.received(self.received);
                    if self.received > self.size {
                        return Err(self.wrong_size("more".into()));
                    }
                }
                None if self.received != self.size => {
                    return Err(self.wrong_size(self.received.to_string()));
                }
                None => self.over = true,
            }
        }
        Ok(piece)
    }

    fn wrong_size(&self, got: String) -> CacheError {
        let Self { reference, layer, size, .. } = self;
        let detail = format!("{reference}: the layer {layer} should have {size} bytes and has {got}");
        CacheError::corrupt(reference, "size_mismatch", detail)
    }
}

/// The same on the other thread: read and hashed while more of it comes. An empty piece is the end.
struct Coming {
    piece: Vec<u8>,
    /// Bytes of the piece that were read.
    read: usize,
    pieces: mpsc::Receiver<Vec<u8>>,
    sha256: Hasher,
}

impl Coming {
    fn new(first: Vec<u8>, pieces: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { piece: first, read: 0, pieces, sha256: Hasher::new() }
    }

    /// Goes on to the next piece. False at the end.
    fn advance(&mut self) -> io::Result<bool> {
        if !self.piece.is_empty() {
            // The error is not told: whoever sends has one of its own.
            self.piece = self.pieces.blocking_recv().ok_or(io::ErrorKind::UnexpectedEof)?;
            self.read = 0;
        }
        Ok(!self.piece.is_empty())
    }

    /// The digest of the whole, when it has come.
    fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.sha256.finish())
    }
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.read == self.piece.len() && !self.advance()? {
            return Ok(0);
        }
        if self.read == 0 {
            self.sha256.update(&self.piece);
        }
        let n = buffer.len().min(self.piece.len() - self.read);
        buffer[..n].copy_from_slice(&self.piece[self.read..][..n]);
        self.read += n;
        Ok(n)
    }
}
