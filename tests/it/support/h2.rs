//! HTTP/2 in frames, as RFC 9113 has them and as nobody should send them.

use super::client;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// The largest frame that is allowed without asking.
pub const FRAME_BYTES: usize = 16 << 10;

/// One frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is not to be remembered (RFC 7541, section 6.2.2), in plain octets.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], octets(name.as_bytes()), octets(value.as_bytes())].concat()
}

/// A string: its length, then itself.
pub fn octets(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend(text);
    out
}

/// The fields of a request.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "l"), (":path", path)];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A connection that has said what HTTP/2 begins with.
pub struct Connection<S = TcpStream> {
    pub stream: S,
}

/// What can be told that nothing follows.
pub trait End {
    fn end(&mut self);
}

impl End for TcpStream {
    fn end(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Connection {
    /// `settings` are pairs of a setting's number and its value.
    pub fn open(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = client::connect(to).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        Self::over(stream, settings)
    }
}

impl<S: Read + Write + End> Connection<S> {
    /// Begins on a connection that is there.
    pub fn over(mut stream: S, settings: &[(u16, u32)]) -> Self {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(number, value)| [&number.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &payload)).unwrap();
        Self { stream }
    }

    /// The next frame; `None` when the other end has closed.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(_) => return Ok(None),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if self.stream.read_exact(&mut payload).is_err() {
            return Ok(None);
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload }))
    }

    /// Sends GET on a stream and reads its answer to the end: status and body. 0 is a stream or connection that was
    /// ended without one. Good for one answer, not for large bodies: it never widens the window.
    pub fn get(&mut self, stream: u32, fields: &[u8]) -> (u16, Vec<u8>) {
        let sent = self.stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream, fields));
        if sent.is_err() { (0, Vec::new()) } else { self.answer(stream) }
    }

    /// The same with a body.
    pub fn send(&mut self, stream: u32, fields: &[u8], body: &[u8]) -> (u16, Vec<u8>) {
        self.stream.write_all(&frame(HEADERS, END_HEADERS, stream, fields)).unwrap();
        self.stream.write_all(&frame(DATA, END_STREAM, stream, body)).unwrap();
        self.answer(stream)
    }

    fn answer(&mut self, stream: u32) -> (u16, Vec<u8>) {
        let (mut status, mut body) = (0, Vec::new());
        while let Some(frame) = self.next().unwrap() {
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    let _ = self.stream.write_all(&super::h2::frame(SETTINGS, ACK, 0, &[]));
                }
                HEADERS if frame.stream == stream => status = status_of(&frame.payload),
                DATA if frame.stream == stream => body.extend(&frame.payload),
                RST_STREAM if frame.stream == stream => return (0, body),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0
            {
                return (status, body);
            }
        }
        (status, body)
    }

    /// Sends piece after piece, reading nothing; true when the other end has closed before the last.
    pub fn flood(&mut self, times: usize, bytes: &mut dyn FnMut(usize) -> Vec<u8>) -> bool {
        (0..times).any(|n| match self.stream.write_all(&bytes(n)) {
            Ok(()) => false,
            Err(error) => {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "nobody reads, and nobody closes");
                true
            }
        })
    }

    /// Reads to the end: true when the other end said goodbye or closed.
    pub fn is_ended(&mut self) -> bool {
        self.stream.end();
        loop {
            match self.next() {
                Ok(None) => return true,
                Ok(Some(frame)) if frame.kind == GOAWAY => return true,
                Ok(Some(_)) => {}
                Err(_) => return false,
            }
        }
    }
}

/// `:status`, which is the first field of an answer.
fn status_of(block: &[u8]) -> u16 {
    // The encoder may say first that its table is smaller.
    let block = block.iter().position(|byte| byte & 0xe0 != 0x20).map_or(block, |at| &block[at..]);
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        _ => digits(&block[1..]),
    }
}

/// Three digits, plain or in Huffman's code (RFC 7541, appendix B: 0 to 2 have five bits, the others six).
fn digits(text: &[u8]) -> u16 {
    if text[0] == 3 {
        return std::str::from_utf8(&text[1..4]).unwrap().parse().unwrap();
    }
    let bits: String =
        text[1..=usize::from(text[0] & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut number) = (&bits[..], 0);
    for _ in 0..3 {
        let short = u16::from_str_radix(&rest[..5], 2).unwrap();
        let (digit, length) =
            if short <= 2 { (short, 5) } else { (u16::from_str_radix(&rest[..6], 2).unwrap() - 0x16, 6) };
        number = number * 10 + digit;
        rest = &rest[length..];
    }
    number
}
