//! A blob as it is read to be sent on: hashed on its way, so that its end is given to nobody unless all of it is right.

use super::Registry;
use super::error::{Kind, RegistryError};
use super::upload::Broken;
use crate::oci::{Descriptor, Digest, Hasher, Reference};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are read at a time of a blob that goes in one piece.
const PIECE: usize = 256 << 10;

/// A blob where it comes from.
pub struct Origin<'o> {
    /// Who has it.
    pub registry: &'o dyn Registry,
    /// Whose blob it is there.
    pub reference: &'o Reference,
    /// Its digest and size.
    pub blob: &'o Descriptor,
}

/// See the module's text.
pub struct Reading {
    stream: BoxStream<'static, Result<Bytes, RegistryError>>,
    endpoint: usize,
    what: String,
    /// What came and was not taken yet.
    rest: Bytes,
    /// Bytes that were not taken yet.
    pub left: u64,
    hasher: Hasher,
    digest: Digest,
}

impl Reading {
    /// Asks for it.
    pub async fn open(origin: &Origin<'_>) -> Result<Self, Broken> {
        let Descriptor { digest, size, .. } = origin.blob;
        let what = format!("the blob {digest} of {}", origin.reference.repository());
        let opened = origin.registry.blob(origin.reference, digest, *size).await.map_err(Broken::Over)?;
        Ok(Self {
            stream: opened.stream,
            endpoint: opened.endpoint,
            what,
            rest: Bytes::new(),
            left: *size,
            hasher: Hasher::new(),
            digest: *digest,
        })
    }

    /// The next bytes, `most` or all that are left. The last are given only if all were the digest's.
    pub async fn piece(&mut self, most: usize) -> Result<Bytes, Broken> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(most);
        let mut piece = BytesMut::with_capacity(wanted);
        while piece.len() < wanted {
            if self.rest.is_empty() {
                self.rest = match self.stream.next().await {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(error)) => return Err(Broken::Over(error)),
                    None => return Err(self.other("ends early")),
                };
            }
            let taken = self.rest.len().min(wanted - piece.len());
            piece.extend_from_slice(&self.rest[..taken]);
            self.rest.advance(taken);
        }
        self.hasher.update(&piece);
        self.left -= piece.len() as u64;
        if self.left == 0 {
            let found = std::mem::take(&mut self.hasher).finish();
            if found != self.digest {
                return Err(self.other(&format!("is {found}")));
            }
        }
        Ok(piece.freeze())
    }

    fn other(&self, how: &str) -> Broken {
        let detail = format!("{} {how}: the source has other bytes than it says", self.what);
        Broken::Other(RegistryError::new(Kind::Corrupt, detail), self.endpoint)
    }

    /// The same as a stream, which says in `failed` why it ends early.
    pub fn stream(
        self,
        failed: Arc<Mutex<Option<Broken>>>,
    ) -> BoxStream<'static, Result<Bytes, RegistryError>> {
        unfold(Some(self), move |reading| {
            let failed = failed.clone();
            async move {
                let mut reading = reading.filter(|reading| reading.left > 0)?;
                match reading.piece(PIECE).await {
                    Ok(piece) => Some((Ok(piece), Some(reading))),
                    Err(broken) => {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(broken);
                        let error = RegistryError::new(Kind::Corrupt, "the source failed");
                        Some((Err(error), None))
                    }
                }
            }
        })
        .boxed()
    }
}
