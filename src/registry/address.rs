//! Addresses that are never connected to, checked when a name has been resolved and before it is connected.
//!
//! Whoever answers a registry's DNS or sends its redirects must not thereby reach this machine's neighbours: link-local
//! addresses (the metadata service of every cloud is one), multicast, the unspecified and the broadcast address, also in
//! the forms that IPv6 has for IPv4. This machine itself is reached by a name that says so (`localhost`) or an address
//! that is written in the settings; a name of the network that resolves to it is refused. `registry.allow_addresses`
//! has the exceptions.

use super::trace::Trace;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use url::Host;

/// Metadata services at addresses that no other rule has: Alibaba's, Azure's, Oracle's, and Google's in IPv6. All of
/// Amazon's in IPv6 are in `fd00:ec2::/32`.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Names that are looked up at once, each: a lookup takes a thread that cannot be told to stop.
const LOOKUPS: usize = 2;
/// Names whose lookups are counted at once.
const COUNTED_NAMES: usize = 256;

/// What may be connected to.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
    lookups: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A name that was not resolved in time.
#[derive(Debug)]
pub struct Unresolved(String, Duration);

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not resolved within {}", self.0, humantime::format_duration(self.1))
    }
}

impl std::error::Error for Unresolved {}

/// An address that may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The name that resolved to it, or its own text.
    pub host: String,
    /// The address.
    pub address: IpAddr,
    /// What kind of address that is.
    pub what: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, what } = self;
        if host.trim_matches(['[', ']']) == address.to_string() {
            write!(f, "{address} is {what}, which is never connected to")
        } else {
            write!(f, "{host} resolves to {address}, {what}, which is never connected to")
        }
    }
}

impl std::error::Error for Refused {}

impl Guard {
    /// With exceptions.
    pub fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: allowed.into(), ..Self::default() }
    }

    /// Judges an address that `host` resolved to. `names_itself` is true where `host` is an address or says that it is
    /// this machine.
    fn judge(&self, host: &str, address: IpAddr, names_itself: bool) -> Result<(), Refused> {
        if self.allowed.iter().any(|net| net.contains(&address)) {
            return Ok(());
        }
        let plain = embedded(address);
        let what = match plain {
            IpAddr::V6(v6) if v6.segments()[..2] == [0xfd00, 0xec2] => "a metadata service's address",
            _ if METADATA.contains(&plain) => "a metadata service's address",
            IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
            _ if plain.is_multicast() => "a multicast address",
            _ if plain.is_unspecified() => "the unspecified address",
            IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
            _ if plain.is_loopback() && (!names_itself || plain != address) => "this machine's own address",
            _ => return Ok(()),
        };
        Err(Refused { host: host.into(), address, what })
    }

    /// Judges a URL's host where that is an address. `from_here` is true where the URL was written in the settings, or
    /// led to from one on this machine.
    ///
    /// # Errors
    /// The address, where it is not connected to.
    pub fn literal(&self, host: &Host<&str>, from_here: bool) -> Result<(), Refused> {
        let address = match host {
            Host::Domain(name) => {
                let own = is_this_machine(name) && !from_here;
                let refused = || Refused {
                    host: (*name).into(),
                    address: Ipv4Addr::LOCALHOST.into(),
                    what: "this machine's own address",
                };
                let allowed = self.allowed.iter().any(|net| net.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
                return if own && !allowed { Err(refused()) } else { Ok(()) };
            }
            Host::Ipv4(address) => IpAddr::V4(*address),
            Host::Ipv6(address) => IpAddr::V6(*address),
        };
        self.judge(&address.to_string(), address, from_here)
    }
}

/// True for names that mean this machine (RFC 6761, section 6.3).
pub fn is_this_machine(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// True where a URL's host is this machine by name or address.
pub fn is_here(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => is_this_machine(name),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// The IPv4 address within an IPv6 one, where there is one: mapped, compatible, translated (RFC 2765), NAT64 (RFC 6052,
/// RFC 8215) and 6to4.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let last = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) => last(g, h),
        (0, 0, 0, 0, 0, 0) if (g, h) > (0, 1) => last(g, h),
        (0, 0, 0, 0, 0xffff, 0) => last(g, h),
        (0x64, 0xff9b, 0 | 1, ..) => last(g, h),
        (0x2002, ..) => last(b, c),
        _ => address,
    }
}

/// Resolves by the system's rules and lets through what may be connected to.
pub struct Resolver {
    guard: Guard,
    trace: Trace,
    /// True where the names are those of proxies, which the operator wrote.
    trusted: bool,
    limit: Duration,
}

impl Resolver {
    /// For names of registries; with `trusted`, for those of proxies.
    pub fn new(guard: Guard, trace: Trace, trusted: bool, limit: Duration) -> Self {
        Self { guard, trace, trusted, limit }
    }
}

/// Looks a name up. A name that nobody answers for holds up few threads, and no other name.
async fn look_up(guard: &Guard, host: &str) -> std::io::Result<Vec<SocketAddr>> {
    let turns = {
        let mut lookups = guard.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if lookups.len() >= COUNTED_NAMES {
            lookups.retain(|_, turns| turns.available_permits() < LOOKUPS);
        }
        lookups.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS))).clone()
    };
    let turn = turns.acquire_owned().await.map_err(std::io::Error::other)?;
    let name = host.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0)).map(Iterator::collect)
    });
    found.await.map_err(std::io::Error::other)?
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, trace, trusted) = (self.guard.clone(), self.trace.clone(), self.trusted);
        let limit = self.limit;
        Box::pin(async move {
            let host = name.as_str();
            let found = tokio::time::timeout(limit, look_up(&guard, host)).await;
            let found = found.map_err(|_| Unresolved(host.to_owned(), limit))??;
            let shown: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
            trace.note("address", || format!("{host} resolves to {}", shown.join(", ")));
            if !trusted {
                for address in &found {
                    guard.judge(host, address.ip(), is_this_machine(host))?;
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str, address: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<IpNet> = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Guard::new(&allowed).judge(host, address.parse().unwrap(), is_this_machine(host)).is_err()
    }

    #[test]
    fn link_local_metadata_and_multicast_addresses_are_refused_in_every_form() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "224.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "fe80::1",
            "ff02::1",
            "::",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "64:ff9b:1::a9fe:a9fe",
            "::ffff:0:169.254.169.254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            assert!(refused("r.example", address, &[]), "{address}");
            assert!(refused("localhost", address, &[]), "{address}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(!refused("r.example", address, &[]), "{address}");
        }
        assert!(!refused("r.example", "169.254.1.1", &["169.254.1.0/24"]), "an exception");
    }

    #[test]
    fn this_machine_is_reached_by_a_name_that_says_so() {
        for address in ["127.0.0.1", "127.8.8.8", "::1"] {
            assert!(refused("r.example", address, &[]), "{address}");
            assert!(!refused("localhost", address, &[]), "{address}");
            assert!(!refused("registry.localhost", address, &[]), "{address}");
        }
        assert!(refused("localhost", "::ffff:127.0.0.1", &[]), "in disguise");
        assert!(!refused("r.example", "127.0.0.1", &["127.0.0.0/8"]));
    }

    #[test]
    fn a_url_leads_to_this_machine_only_from_this_machine() {
        let guard = Guard::default();
        let at = |url: &str, from_here| {
            let url: url::Url = url.parse().unwrap();
            guard.literal(&url.host().unwrap(), from_here).is_ok()
        };
        for url in ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]:5000/"] {
            assert!(at(url, true), "{url}");
            assert!(!at(url, false), "{url}");
        }
        for url in ["http://169.254.169.254/", "http://[::ffff:169.254.169.254]/", "http://2852039166/"] {
            assert!(!at(url, true) && !at(url, false), "{url}");
        }
        assert!(at("https://10.0.0.1/", false) && at("https://blobs.example/", false));
    }
}
