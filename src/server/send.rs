//! An answer's body on its way to the client: from memory at once, from disk piece by piece.

use super::Config;
use super::app::{Connection, Face};
use super::respond::{Asked, Content};
use super::wire::Wire;
use crate::oci::Digest;
use crate::store::Body;
use crate::store::entry::{ModuleFile, PIECE_BYTES};
use bytes::Bytes;
use futures_util::FutureExt;
use pingora::protocols::http::ServerSession;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Bytes that are written at a time. The least rate is judged by what is written at once, so that whoever takes nothing of a
/// large module is gone after a minute; in smaller pieces a server would do more for the same bytes (measured).
const WRITE_BYTES: usize = 1 << 20;

/// The time that a client has for what is not judged by its rate: a piece at the least rate.
pub fn patience(config: &Config) -> Duration {
    Duration::from_secs(PIECE_BYTES as u64 / config.send_rate.as_u64().max(1) + 1)
}

/// Who carries an answer whose head is written.
pub enum Carrier<'c> {
    /// pingora.
    Session(&'c mut ServerSession),
    /// Our own wire, over HTTP/1.1.
    Wire {
        /// Where the head may still wait.
        wire: &'c mut Wire,
        /// The least rate, in bytes a second.
        rate: u64,
        /// Bytes of body that it took.
        sent: u64,
    },
}

impl Carrier<'_> {
    /// Sends a part of the body; true when it could be.
    async fn send(&mut self, bytes: Bytes, is_last: bool) -> bool {
        match self {
            Self::Session(session) => session.write_response_body(bytes, is_last).await.is_ok(),
            Self::Wire { wire, rate, sent } => {
                // As pingora judges it.
                let time = Duration::from_millis((bytes.len() as u64 * 1000 / (*rate).max(1)).max(1000));
                let send = async {
                    wire.write_all(&bytes).await?;
                    if is_last { wire.flush().await } else { Ok(()) }
                };
                let is_sent = in_time(time, send).await;
                *sent += if is_sent { bytes.len() as u64 } else { 0 };
                is_sent
            }
        }
    }

    /// Sends what waits of an answer without a body; true when it could be.
    async fn end(&mut self, patience: Duration) -> bool {
        match self {
            Self::Session(session) => {
                let ended = tokio::time::timeout(patience, session.finish_body()).await;
                ended.is_ok_and(|ended| ended.is_ok())
            }
            Self::Wire { wire, .. } => in_time(patience, wire.flush()).await,
        }
    }

    /// Sends the rest of a body; true when all of it could be.
    async fn send_all(&mut self, mut bytes: Bytes) -> bool {
        let is_framed = matches!(self, Self::Session(session) if session.is_http2());
        let most = if is_framed { PIECE_BYTES } else { WRITE_BYTES };
        while bytes.len() > most {
            if !self.send(bytes.split_to(most), false).await {
                return false;
            }
        }
        self.send(bytes, true).await
    }

    /// Bytes of body that were sent.
    fn sent(&self) -> u64 {
        match self {
            Self::Session(session) => session.body_bytes_sent() as u64,
            Self::Wire { sent, .. } => *sent,
        }
    }
}

/// Whether `work` was done well within `time`. Mostly it is at once, and needs no timer.
async fn in_time(time: Duration, work: impl Future<Output = io::Result<()>>) -> bool {
    let mut work = pin!(work);
    let done = match work.as_mut().now_or_never() {
        Some(done) => Ok(done),
        None => tokio::time::timeout(time, work).await,
    };
    done.is_ok_and(|done| done.is_ok())
}

/// What is to be sent of a file.
struct FilePart {
    file: ModuleFile,
    first: u64,
    last: u64,
    digest: Digest,
    asked: Arc<Asked>,
}

impl Connection {
    /// Sends the content of an answer whose head is written: bytes of body sent, and whether that was all.
    pub async fn send(&self, mut carrier: Carrier<'_>, content: Content, patience: Duration) -> (u64, bool) {
        let bytes = match content {
            Content::None => Bytes::new(),
            Content::Bytes(bytes) => bytes,
            Content::File { file, first, last, digest, asked } => {
                let part = FilePart { file, first, last, digest, asked };
                // In a box, because what comes from memory needs none of it.
                return Box::pin(self.send_file(carrier, part)).await;
            }
        };
        if bytes.is_empty() {
            return (0, carrier.end(patience).await);
        }
        let is_sent = carrier.send_all(bytes).await;
        (carrier.sent(), is_sent)
    }

    /// Sends a file piece by piece, each checked before it leaves. When one proves damaged the answer goes on from another
    /// copy of the same module, if there is one to be had.
    async fn send_file(&self, mut carrier: Carrier<'_>, part: FilePart) -> (u64, bool) {
        let FilePart { mut file, first, last, digest, asked } = part;
        let piece_bytes = PIECE_BYTES as u64;
        let mut sent = 0;
        let mut replaced = false;
        let mut index = first / piece_bytes;
        while index <= last / piece_bytes {
            // Until it has left, over HTTP/2 too, whose library keeps it for a while. First of the own address's share, so
            // that who takes slowly holds up nobody else.
            let share = self.share.take(piece_bytes).await;
            let taken = self.app.sending.take(piece_bytes).await;
            let reader = file.clone();
            let read = tokio::task::spawn_blocking(move || reader.piece(index as usize)).await;
            let piece = match read.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
                Ok(piece) => taken.hold_both(share, piece),
                Err(error) => {
                    tracing::error!(%digest, %error, "a module proved damaged while it was sent");
                    let another = match &self.app.face {
                        Face::Data(data) if !replaced => {
                            data.another_copy(&digest, &file, error, &asked).await
                        }
                        _ => None,
                    };
                    match another {
                        Some(Body::File(another)) => {
                            file = another;
                            replaced = true;
                            continue;
                        }
                        Some(Body::Memory(bytes)) => {
                            let rest = bytes.slice((first + sent) as usize..last as usize + 1);
                            let is_sent = carrier.send_all(rest).await;
                            return (carrier.sent(), is_sent);
                        }
                        None => return (sent, false),
                    }
                }
            };
            let start = index * piece_bytes;
            let from = first.saturating_sub(start) as usize;
            let to = (last + 1 - start).min(piece.len() as u64) as usize;
            let part = piece.slice(from..to);
            let length = part.len() as u64;
            if !carrier.send(part, index == last / piece_bytes).await {
                return (sent, false);
            }
            sent += length;
            index += 1;
        }
        (sent, true)
    }
}
