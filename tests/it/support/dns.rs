//! A DNS server that answers by a script and remembers what it was asked. UDP only.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const A: u16 = 1;
const AAAA: u16 = 28;

/// An answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Those of the family that was asked for; none of them means that the name has none of this family.
    Addresses(Vec<IpAddr>),
    NxDomain,
    ServFail,
    /// None at all.
    Silence,
    /// Another one, so much later.
    After(Duration, Box<Answer>),
}

/// A question as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the last dot.
    pub name: String,
    /// 1 is A, 28 is AAAA.
    pub kind: u16,
}

type Script = Box<dyn Fn(&str, bool, usize) -> Answer + Send>;

struct State {
    asked: Mutex<Vec<Question>>,
    script: Mutex<Script>,
    ended: AtomicBool,
}

/// See the module's text. Ended when dropped.
pub struct Dns {
    pub address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// `script` gets the name, whether IPv6 addresses are asked for, and the how-manieth question this is for this
    /// name and family, the first being 1.
    pub fn start(address: &str, script: impl Fn(&str, bool, usize) -> Answer + Send + 'static) -> Self {
        let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("a DNS server on {address}: {e}"));
        let state = Arc::new(State {
            asked: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            ended: AtomicBool::new(false),
        });
        let address = socket.local_addr().unwrap();
        let serving = state.clone();
        let thread = std::thread::spawn(move || serve(&serving, &socket));
        Self { address, state, thread: Some(thread) }
    }

    /// From now on another script. The count goes on.
    pub fn script(&self, script: impl Fn(&str, bool, usize) -> Answer + Send + 'static) {
        *self.state.script.lock().unwrap() = Box::new(script);
    }

    /// How many questions there were for a name, of either family.
    pub fn count(&self, name: &str) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|question| question.name == name).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Anything wakes it.
        let wake = UdpSocket::bind(SocketAddr::new(self.address.ip(), 0));
        let woken = wake.and_then(|socket| socket.send_to(&[], self.address));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn serve(state: &State, socket: &UdpSocket) {
    let mut counts: HashMap<(String, u16), usize> = HashMap::new();
    let mut late: Vec<(Instant, SocketAddr, Vec<u8>)> = Vec::new();
    let mut buffer = [0; 1500];
    loop {
        let now = Instant::now();
        late.retain(|(due, to, reply)| {
            let waits = *due > now;
            if !waits {
                let _ = socket.send_to(reply, to);
            }
            waits
        });
        let next = late.iter().map(|(due, ..)| due.saturating_duration_since(now)).min();
        socket.set_read_timeout(next).unwrap();
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(e) => panic!("the DNS server cannot receive: {e}"),
        };
        if state.ended.load(Ordering::SeqCst) {
            return;
        }
        let query = &buffer[..length];
        let Some((question, end)) = read_question(query) else { continue };
        state.asked.lock().unwrap().push(question.clone());
        let nth = counts.entry((question.name.clone(), question.kind)).or_default();
        *nth += 1;
        let mut answer = match question.kind {
            A | AAAA => (state.script.lock().unwrap())(&question.name, question.kind == AAAA, *nth),
            _ => Answer::Addresses(Vec::new()),
        };
        let mut due = now;
        while let Answer::After(delay, then) = answer {
            due += delay;
            answer = *then;
        }
        if let Some(reply) = reply(query, end, question.kind, &answer) {
            late.push((due, from, reply));
        }
    }
}

/// The question, and where it ends.
fn read_question(query: &[u8]) -> Option<(Question, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        let label = query.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    query.get(at + 2..at + 4)?;
    Some((Question { name: labels.join("."), kind }, at + 4))
}

fn reply(query: &[u8], end: usize, kind: u16, answer: &Answer) -> Option<Vec<u8>> {
    let (code, addresses): (u8, &[IpAddr]) = match answer {
        Answer::Addresses(addresses) => (0, addresses),
        Answer::ServFail => (2, &[]),
        Answer::NxDomain => (3, &[]),
        Answer::Silence | Answer::After(..) => return None,
    };
    let addresses: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
            IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut reply = query[..2].to_vec();
    // A response with authority, recursion available, and of the query's bits the wish for recursion.
    reply.extend([0x84 | query[2] & 1, 0x80 | code]);
    for count in [1, u16::try_from(addresses.len()).ok()?, 0, 0] {
        reply.extend(count.to_be_bytes());
    }
    reply.extend(&query[12..end]);
    for address in addresses {
        // The question's name, this kind, class IN, not to be kept.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0]);
        reply.extend(u16::try_from(address.len()).ok()?.to_be_bytes());
        reply.extend(address);
    }
    Some(reply)
}
