//! Many clients, one of good will among them, and the larder that they come to.

use super::artifact::{module, raw};
use super::larder::{Home, Larder, settings};
use super::process::{descriptors, resident};
use super::scripted::Scripted;
use super::{client, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub const SMALL: &str = "/plugins/small/1/plugin.wasm";
pub const LARGE: &str = "/plugins/large/1/plugin.wasm";
/// As the largest that gateways load every day.
pub const LARGE_BYTES: usize = 8 << 20;
/// What a gateway waits for one attempt.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A larder that holds a small and a large plugin and has seen both, with settings as variables.
pub fn stocked(variables: &[(&str, &str)]) -> (Larder, Vec<u8>, Vec<u8>) {
    let registry = Scripted::start();
    let (small, large) = (module("small", 5000), module("large", LARGE_BYTES));
    registry.put("plugins/small", "1", &raw(&small));
    registry.put("plugins/large", "1", &raw(&large));
    let larder = Home::new(&settings(&registry.host())).start_with(&[], variables);
    // Twice: the second time from where it stays.
    for _ in 0..2 {
        assert_eq!(larder.get(SMALL).body, small);
        assert_eq!(larder.get(LARGE).body, large);
    }
    (larder, small, large)
}

/// Does the work while a client of good will asks for the small plugin over and over: every answer must be right, and
/// come while a gateway would wait.
pub fn served_meanwhile<T>(larder: &Larder, small: &[u8], work: impl FnOnce() -> T) -> T {
    /// Ends the client, when the work fails too.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = End(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let reply = client::get(larder.data, SMALL);
                assert_eq!((reply.status, &reply.body[..]), (200, small));
                assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
            }
        });
        let done = work();
        drop(end);
        done
    })
}

pub fn open_connections(larder: &Larder) -> f64 {
    larder.metric("larder_connections{listener=\"data\"}")
}

/// Nobody is connected any more, and nothing that was opened for anybody is open.
pub fn at_rest(larder: &Larder, descriptors_before: usize) {
    eventually("the end of every connection", || (open_connections(larder) == 0.0).then_some(()));
    eventually("descriptors being closed", || {
        // The administration port's own connection, which asks and is asked about.
        (descriptors(larder.id()) <= descriptors_before + 1).then_some(())
    });
}

/// False once the other end has closed. What came is thrown away.
pub fn is_open(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1024]) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Five hundred ask for the large plugin and take 1 KiB a second of it; memory may grow by so many bytes.
pub fn slow_readers(variables: &[(&str, &str)], most: u64) {
    let variables = [&[("LARDER_SERVER_SEND_RATE", "2MiB")], variables].concat();
    let (larder, small, large) = stocked(&variables);
    let (before, memory) = (descriptors(larder.id()), resident(larder.id()));
    let mut peak = 0;
    served_meanwhile(&larder, &small, || {
        let mut slow = crowd(larder.data, 500);
        for stream in &mut slow {
            stream.write_all(format!("GET {LARGE} HTTP/1.1\r\nHost: l\r\n\r\n").as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
        }
        let begun = Instant::now();
        // One that is cut off still finds what the kernel holds for it, so the log is asked.
        let cut_off = || {
            let is_cut = |line: &serde_json::Value| line["path"] == LARGE && line["complete"] == false;
            larder.log().into_iter().filter(is_cut).count()
        };
        while cut_off() < slow.len() {
            let round = Instant::now();
            for stream in &mut slow {
                is_open(stream);
            }
            peak = peak.max(resident(larder.id()));
            assert!(begun.elapsed() < Duration::from_secs(60), "{} are cut off", cut_off());
            std::thread::sleep(Duration::from_millis(500).saturating_sub(round.elapsed()));
        }
    });
    at_rest(&larder, before);
    let grown = peak.saturating_sub(memory);
    assert!(grown < most, "{} MiB more for 500 slow readers", grown >> 20);
    assert_eq!(larder.get(LARGE).body, large, "who reads at once has it whole");
}

/// Connections that one address of `crowd` has at most: fewer than a larder allows an address.
const A_CROWD_S_PART: usize = 500;

/// So many connections at once, from as many addresses of this machine as a larder wants to see.
pub fn crowd(to: SocketAddr, number: usize) -> Vec<TcpStream> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).unwrap();
    }
    assert!(wanted > number as u64 + 500, "{number} connections need more than {wanted} descriptors");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let connect = async |n: usize| {
        let part = u8::try_from(n / A_CROWD_S_PART).unwrap();
        connected_from(Ipv4Addr::new(127, 1, 0, 1 + part), to).await.unwrap()
    };
    runtime.block_on(async {
        let mut streams = Vec::with_capacity(number);
        for n in 0..number {
            streams.push(connect(n).await);
        }
        streams
    })
}

/// One connection from an address of this machine.
pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(connected_from(from, to)).unwrap()
}

/// One connection that takes little of what it does not read.
pub fn connect_narrow(to: SocketAddr) -> TcpStream {
    const TAKEN: u32 = 4 << 10;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let connect = async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(TAKEN)?;
        let stream = socket.connect(to).await?.into_std()?;
        stream.set_nonblocking(false)?;
        std::io::Result::Ok(stream)
    };
    runtime.block_on(connect).unwrap()
}

async fn connected_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}
