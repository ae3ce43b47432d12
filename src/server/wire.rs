//! A connection, over TLS or not, as pingora wants one, with a write buffer, a limit for a request's head, and an end that
//! loses no answer.
//!
//! pingora's own stream gets its buffers from pingora's own listener only. Without one, an answer's head and body leave
//! in two sends, which costs a third of the requests a second (measured); with one, a small answer is one send, and
//! what is larger than the buffer passes it by.

use super::crowd::Place;
use super::tls::H2;
use super::usual;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, raw_connect::ProxyDigest,
};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Room for an answer's head and a small body.
const WRITE_BUFFER_BYTES: usize = 8 << 10;

/// Most bytes of one request's head that are read at all: what is over it is neither kept nor looked at. Twice what
/// [`super::guard`] takes, so that it can still say what is too long.
const HEAD_BYTES: usize = 32 << 10;
/// The text of the error when there are more.
pub const HEAD_TOO_LARGE: &str = "the head is too large";
/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After an answer that ends a connection, what the client still sends is read and thrown away for so long, and so many
/// bytes of it: closed with bytes unread, the kernel would take the answer back.
const LINGER: Duration = Duration::from_secs(1);
/// How long a client may take to be told that nothing more comes.
const FAREWELL: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 1 << 20;

/// States of a request line; before them, the number of its spaces.
const WHOLE_LINE: usize = 3;
const BAD_LINE: usize = 4;

/// What a connection's two ends of the program tell each other.
#[derive(Debug, Default)]
pub struct Link {
    /// Bytes read since the last request was read.
    read: AtomicUsize,
    /// Frames have lengths of their own.
    is_framed: AtomicBool,
    /// What the request line is so far; see [`Link::scan`].
    line: AtomicUsize,
    /// We end it, and the client may not have said all.
    lingers: AtomicBool,
}

impl Link {
    /// A request's head is read; the next one begins from nothing. True when its first line had no byte that none may have:
    /// the parser writes those as escapes, so that they cannot be seen later.
    pub fn head_ended(&self) -> bool {
        self.read.store(0, Ordering::Relaxed);
        self.line.swap(0, Ordering::Relaxed) != BAD_LINE
    }

    /// Looks at bytes of a request line (RFC 9112, section 3): two spaces and otherwise what can be printed, to its end.
    fn scan(&self, bytes: &[u8]) {
        let mut line = self.line.load(Ordering::Relaxed);
        for byte in bytes {
            // Nearly all of them, and wherever they stand nothing changes.
            if byte.is_ascii_graphic() && line < WHOLE_LINE {
                continue;
            }
            line = match (line, byte) {
                (BAD_LINE | WHOLE_LINE, _) => break,
                (_, b'\n') => WHOLE_LINE,
                (_, b'\r') => line,
                (0 | 1, b' ') => line + 1,
                _ => BAD_LINE,
            };
        }
        self.line.store(line, Ordering::Relaxed);
    }

    /// The connection will be closed by us.
    pub fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }
}

/// What carries a connection's bytes.
#[derive(Debug)]
pub enum Line {
    /// TCP as it is.
    Plain(TcpStream),
    /// After a handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Line {
    /// True when the handshake chose HTTP/2.
    pub fn is_h2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(H2))
    }

    /// Waits until a connection that was just accepted has something to read, were it the end.
    pub async fn begun(&self) {
        match self {
            // The library takes for granted that a new one can be read.
            Self::Plain(stream) => drop(stream.peek(&mut [0]).await),
            Self::Tls(_) => self.spoken().await,
        }
    }

    /// Waits until there is something to read, were it the end.
    pub async fn spoken(&self) {
        if let Self::Tls(stream) = self
            && !stream.get_ref().1.wants_read()
        {
            return;
        }
        // An error is told to whoever reads then.
        let _ = self.tcp().readable().await;
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Ends our half of a connection and lets the other end read what we said before it notices.
pub async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let rest = async {
        AsyncWriteExt::shutdown(&mut stream).await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Whatever comes of it, there is nobody to tell.
    let _ = tokio::time::timeout(LINGER, rest).await;
}

/// See the module's text.
pub struct Wire {
    /// `None` once it is dropped.
    line: Option<Line>,
    /// What was written and has not left yet. Of an idle connection it is no memory.
    waiting: Vec<u8>,
    /// How much of that has left.
    left: usize,
    link: Arc<Link>,
    /// Read to see what it is, and not yet taken.
    peeked: Bytes,
    /// True once a request was taken from there: from then on it is no HTTP/2.
    has_spoken: bool,
    patience: Duration,
    made: Instant,
    place: Option<Place>,
}

impl Wire {
    /// Takes over an accepted connection that holds `place`. Whoever does not say in `patience` what it speaks is gone.
    pub fn new(line: Line, link: Arc<Link>, patience: Duration, place: Place) -> Self {
        let (line, place) = (Some(line), Some(place));
        Self {
            line,
            waiting: Vec::new(),
            left: 0,
            link,
            peeked: Bytes::new(),
            has_spoken: false,
            patience,
            made: Instant::now(),
            place,
        }
    }

    /// Reads how HTTP/2 begins, for a connection that agreed on it: pingora would wait for it for ever.
    ///
    /// # Errors
    /// Something else came, or nothing in time.
    pub async fn begin_frames(&mut self) -> io::Result<()> {
        self.try_peek(&mut [0; PREFACE.len()]).await?;
        if self.link.is_framed.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    /// Waits until there is something to read. Meanwhile nothing is kept for it.
    pub async fn spoken(&self) {
        if let Some(line) = self.line.as_ref().filter(|_| self.peeked.is_empty()) {
            line.spoken().await;
        }
    }

    /// True when the handshake chose HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.line.as_ref().is_some_and(Line::is_h2)
    }

    /// What was read and not yet taken.
    pub fn heard(&self) -> &Bytes {
        &self.peeked
    }

    /// Reads once, behind what was read and not yet taken; how many bytes came, 0 at the end. Meanwhile nothing is kept for it.
    pub fn poll_hear(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [const { MaybeUninit::uninit() }; usual::HEAD_BYTES];
        let mut buffer = ReadBuf::uninit(&mut room);
        ready!(self.line().poll_read(context, &mut buffer))?;
        let came = buffer.filled();
        self.peeked = match self.peeked.len() {
            0 => Bytes::copy_from_slice(came),
            _ => [&self.peeked, came].concat().into(),
        };
        self.link.read.store(self.peeked.len(), Ordering::Relaxed);
        Poll::Ready(Ok(came.len()))
    }

    /// What was read is a request, and taken.
    pub fn take(&mut self) {
        self.peeked = Bytes::new();
        self.link.read.store(0, Ordering::Relaxed);
        self.has_spoken = true;
    }

    /// Begins an answer. Nothing waits at this time.
    pub fn begin(&mut self, head: Vec<u8>) {
        self.waiting = head;
    }

    fn line(&mut self) -> Pin<&mut Line> {
        match &mut self.line {
            Some(line) => Pin::new(line),
            None => unreachable!("only a dropped wire has none"),
        }
    }

    /// Sends what waits.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left < self.waiting.len() {
            let Some(line) = &mut self.line else { break };
            match ready!(Pin::new(line).poll_write(context, &self.waiting[self.left..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.left += n,
            }
        }
        (self.waiting, self.left) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wire").field(&self.line).finish()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let (Some(line), Some(place)) = (self.line.take(), self.place.take()) else { return };
        if !self.link.lingers.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _place = place;
                linger(line).await;
            });
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.peeked.is_empty() {
            let n = self.peeked.len().min(buffer.remaining());
            buffer.put_slice(&self.peeked[..n]);
            if !self.link.is_framed.load(Ordering::Relaxed) {
                self.link.scan(&self.peeked[..n]);
            }
            self.peeked = self.peeked.slice(n..);
            return Poll::Ready(Ok(()));
        }
        let is_framed = self.link.is_framed.load(Ordering::Relaxed);
        if !is_framed && self.link.read.load(Ordering::Relaxed) > HEAD_BYTES {
            return Poll::Ready(Err(io::Error::other(HEAD_TOO_LARGE)));
        }
        let before = buffer.filled().len();
        let polled = self.line().poll_read(context, buffer);
        if !is_framed {
            self.link.scan(&buffer.filled()[before..]);
        }
        self.link.read.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.len() + bytes.len() > WRITE_BUFFER_BYTES {
            ready!(self.poll_send(context))?;
        }
        if bytes.len() >= WRITE_BUFFER_BYTES {
            return self.line().poll_write(context, bytes);
        }
        if self.waiting.capacity() == 0 {
            self.waiting.reserve_exact(WRITE_BUFFER_BYTES);
        }
        self.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        self.line().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        self.line().poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        // The other end may be gone already; there is nobody to tell. Over TLS there are words for it, which somebody may not take.
        let _ = tokio::time::timeout(FAREWELL, AsyncWriteExt::shutdown(self)).await;
    }
}

impl UniqueID for Wire {
    fn id(&self) -> i32 {
        self.line.as_ref().map_or(-1, |line| line.tcp().as_raw_fd())
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::new(SocketDigest::from_raw_fd(self.id())))
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl Ssl for Wire {
    /// That there is one keeps pingora from looking for HTTP/2 without a handshake's word.
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let is_tls = matches!(self.line.as_ref()?, Line::Tls(_));
        is_tls.then(|| Arc::new(SslDigest::new("", "", None, None, Vec::new())))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.is_h2().then_some(ALPN::H2)
    }
}

#[async_trait]
impl Peek for Wire {
    /// Reads on as long as it may still be HTTP/2: HTTP/1 may begin with less than the preface is long.
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        if self.has_spoken {
            return Ok(true);
        }
        let patience = self.patience.saturating_sub(self.made.elapsed());
        let wanted = buffer.len().min(PREFACE.len());
        let read = async {
            let mut bytes = [0; PREFACE.len()];
            // Of what is read already none is lost.
            let mut n = wanted.min(self.peeked.len());
            bytes[..n].copy_from_slice(&self.peeked[..n]);
            while n < wanted && PREFACE.starts_with(&bytes[..n]) {
                match self.line().read(&mut bytes[n..wanted]).await? {
                    0 => break,
                    more => n += more,
                }
            }
            Ok(bytes[..n].to_vec())
        };
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let bytes: Vec<u8> = tokio::time::timeout(patience, read).await.map_err(late).flatten()?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.link.is_framed.store(bytes == PREFACE, Ordering::Relaxed);
        if bytes.len() > self.peeked.len() {
            self.peeked = bytes.into();
        }
        self.link.read.store(self.peeked.len(), Ordering::Relaxed);
        Ok(true)
    }
}
