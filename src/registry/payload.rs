//! The body of a request: bytes that can be sent again, or a stream that can not; and how much of it has left.

use super::error::RegistryError;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use reqwest::Body;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are handed to the connection at a time: small enough for silence to be told from slowness.
const PIECE: usize = 64 << 10;

/// See the module's text.
pub struct Payload {
    /// Bytes in all, `Content-Length`.
    pub length: u64,
    content: Content,
    taken: Arc<AtomicU64>,
}

enum Content {
    Bytes(Bytes),
    Stream(Mutex<Option<BoxStream<'static, Result<Bytes, RegistryError>>>>),
}

impl Payload {
    /// Of bytes in memory.
    pub fn bytes(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, content: Content::Bytes(bytes), taken: Arc::default() }
    }

    /// Of a stream of `length` bytes, which is sent once. An error of it ends the request before its end.
    pub fn stream(stream: BoxStream<'static, Result<Bytes, RegistryError>>, length: u64) -> Self {
        Self { length, content: Content::Stream(Mutex::new(Some(stream))), taken: Arc::default() }
    }

    /// Bytes that the connection has taken, over all times that it was sent.
    pub fn taken(&self) -> &AtomicU64 {
        &self.taken
    }

    /// The body; `None` for a stream that was sent before.
    pub fn body(&self) -> Option<Body> {
        let pieces = match &self.content {
            Content::Bytes(bytes) => {
                let bytes = bytes.clone();
                let starts = (0..bytes.len()).step_by(PIECE);
                let pieces = starts.map(move |at| Ok(bytes.slice(at..bytes.len().min(at + PIECE))));
                stream::iter(pieces).boxed()
            }
            Content::Stream(stream) => stream.lock().unwrap_or_else(PoisonError::into_inner).take()?,
        };
        let taken = self.taken.clone();
        Some(Body::wrap_stream(pieces.inspect(move |piece| {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            taken.fetch_add(bytes as u64, Ordering::Relaxed);
        })))
    }
}
