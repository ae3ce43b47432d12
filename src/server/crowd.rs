//! Who is connected: how many in total, and how many from one address.

use crate::store::Room;
use prometheus::IntGauge;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bits of an IPv6 address that are one site's; it has all addresses below them.
const SITE_BITS: u32 = 64;

/// Places for connections.
pub struct Crowd {
    open: IntGauge,
    now: Mutex<Now>,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// In total.
    pub total: usize,
    /// From one address.
    pub each: usize,
    /// What one address may hold of the bytes that are on their way.
    pub share: u64,
}

#[derive(Default)]
struct Now {
    total: usize,
    by_address: HashMap<IpAddr, Here>,
}

/// One address.
struct Here {
    connections: usize,
    share: Room,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Too many are connected.
    Total,
    /// Too many are from that address.
    Address,
}

impl Full {
    /// The label for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
        }
    }
}

/// The place of one connection, until it is dropped, by a panic too.
pub struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
    /// Its address's share of the bytes that are on their way.
    pub share: Room,
}

impl Crowd {
    /// Nobody yet; `open` counts them.
    pub fn new(open: IntGauge) -> Arc<Self> {
        Arc::new(Self { open, now: Mutex::default() })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, if there are fewer than `most`. Nobody leaves for a lower number.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn enter(self: &Arc<Self>, address: IpAddr, most: Most) -> Result<Place, Full> {
        let address = site(address);
        let mut now = self.now();
        if now.total >= most.total {
            return Err(Full::Total);
        }
        let new = || Here { connections: 0, share: Room::new(most.share) };
        let here = now.by_address.entry(address).or_insert_with(new);
        if here.connections >= most.each {
            return Err(Full::Address);
        }
        here.connections += 1;
        here.share.resize(most.share);
        let share = here.share.clone();
        now.total += 1;
        self.open.inc();
        Ok(Place { crowd: self.clone(), address, share })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut now = self.crowd.now();
        now.total -= 1;
        if let Some(here) = now.by_address.get_mut(&self.address) {
            here.connections -= 1;
            if here.connections == 0 {
                now.by_address.remove(&self.address);
            }
        }
        self.crowd.open.dec();
    }
}

/// What counts as one address.
pub fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> SITE_BITS << SITE_BITS).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_total_and_by_address_and_given_back() {
        let open = IntGauge::new("open", "open").unwrap();
        let crowd = Crowd::new(open.clone());
        let most = Most { total: 3, each: 2, share: 1000 };
        let enter = |address: &str| crowd.enter(address.parse().unwrap(), most);
        let first = enter("10.0.0.1").unwrap();
        let _second = enter("::ffff:10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.1").err(), Some(Full::Address), "the same host over IPv6's form of IPv4");
        let _third = enter("2001:db8::1").unwrap();
        assert_eq!(enter("10.0.0.9").err(), Some(Full::Total));
        assert_eq!(open.get(), 3);
        drop(first);
        let _fourth = enter("2001:db8::ffff:1").unwrap();
        drop(_second);
        assert_eq!(enter("2001:db8::2").err(), Some(Full::Address), "all of a site's addresses are one");
        assert_eq!(open.get(), 2);
        assert_eq!(crowd.now().by_address.len(), 1, "who left is forgotten");
    }
}
