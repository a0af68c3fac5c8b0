//! Service addresses and node ports: who has which, in memory.
//!
//! Filled from the stored services at start; a create reserves before it stores, and a [`Reservation`] that is not kept
//! gives everything back. One API server owns the allocators; several servers over one datastore would have to agree through it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use rand::Rng;
use serde_json::Value;

use crate::registry::Registry;

/// Why nothing could be allocated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllocateError {
    /// Somebody else has it.
    #[error("provided {what} is already allocated")]
    Taken {
        /// "IP" or "port".
        what: &'static str,
    },
    /// It is not ours to give.
    #[error("provided {what} is not in the valid range. The range of valid {what}s is {range}")]
    OutOfRange {
        /// "IP" or "port".
        what: &'static str,
        /// The range in text.
        range: String,
    },
    /// Nothing left.
    #[error("range is full")]
    Full,
}

/// The pools of one API server.
#[derive(Debug)]
pub struct Allocators {
    /// One pool per service CIDR, in the configured order (the first is the primary family).
    pub service_ips: Vec<IpPool>,
    /// Node ports. One number serves both TCP and UDP here, as upstream's allocator has it.
    pub node_ports: PortPool,
}

impl Allocators {
    /// Pools over these ranges, with nothing taken.
    pub fn new(service_cidrs: &[IpNet], node_ports: RangeInclusive<u16>) -> Self {
        Self {
            service_ips: service_cidrs.iter().copied().map(IpPool::new).collect(),
            node_ports: PortPool { range: node_ports, taken: Taken::default() },
        }
    }

    /// Take what the stored services use. Twice the same address, or one out of range, is left as it is: refusing to start would help
    /// nobody.
    pub(crate) fn adopt(&self, objects: &Registry) {
        objects.for_each("", "services", "", |service| {
            for ip in service_ips(&service) {
                if let Some(Ok(taken)) = self.pool_for(ip).map(|pool| pool.allocate(ip)) {
                    taken.keep();
                }
            }
            for port in service_node_ports(&service) {
                if let Ok(taken) = self.node_ports.allocate(port) {
                    taken.keep();
                }
            }
        });
    }

    /// The pool that holds this address.
    pub fn pool_for(&self, ip: IpAddr) -> Option<&IpPool> {
        self.service_ips.iter().find(|pool| pool.net.contains(&ip))
    }
}

/// The cluster addresses of a service.
pub fn service_ips(service: &Value) -> Vec<IpAddr> {
    let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    ips.into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

/// The node ports of a service, the health check's included.
pub fn service_node_ports(service: &Value) -> Vec<u16> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let own = ports.into_iter().flatten().filter_map(|port| port.get("nodePort")?.as_u64());
    let health = service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
    own.chain(health).filter_map(|port| u16::try_from(port).ok()).filter(|port| *port > 0).collect()
}

/// What has been given out.
#[derive(Debug, Clone, Default)]
struct Taken(Arc<Mutex<HashSet<u128>>>);

impl Taken {
    fn lock(&self) -> MutexGuard<'_, HashSet<u128>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One number that was reserved; given back on drop unless kept.
#[derive(Debug)]
struct Lease {
    /// `None` once kept.
    from: Option<Taken>,
    number: u128,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(taken) = &self.from {
            taken.lock().remove(&self.number);
        }
    }
}

/// What one request has reserved so far. Dropping it gives everything back; [`Reservation::keep`] makes it permanent.
#[derive(Debug, Default)]
#[must_use = "a reservation that is dropped is given back"]
pub struct Reservation(Vec<Lease>);

impl Reservation {
    /// Nothing reserved.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything of both.
    pub fn join(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The object is stored: what it uses stays taken until it is released by name.
    pub fn keep(mut self) {
        for lease in &mut self.0 {
            lease.from = None;
        }
    }
}

/// A pool of addresses.
#[derive(Debug)]
pub struct IpPool {
    net: IpNet,
    taken: Taken,
}

impl IpPool {
    fn new(net: IpNet) -> Self {
        Self { net: net.trunc(), taken: Taken::default() }
    }

    /// The CIDR this pool gives from.
    pub fn net(&self) -> IpNet {
        self.net
    }

    /// Take exactly this address.
    pub fn allocate(&self, ip: IpAddr) -> Result<Reservation, AllocateError> {
        if !self.is_usable(ip) {
            return Err(AllocateError::OutOfRange { what: "IP", range: self.net.to_string() });
        }
        self.take(number(ip)).ok_or(AllocateError::Taken { what: "IP" })
    }

    /// Take any free address, above the static band (upstream's KEP-3070: the first `min(max(16, size/16), 256)` addresses are for
    /// people who choose) and from the band only when nothing else is left.
    pub fn allocate_next(&self) -> Result<(IpAddr, Reservation), AllocateError> {
        let (first, last) = self.bounds();
        let size = last - first + 1;
        let band = (size / 16).clamp(16, 256).min(size);
        let upper = first + band..=last;
        let lower = first..=(first + band - 1).min(last);
        self.scan(upper).or_else(|| self.scan(lower)).ok_or(AllocateError::Full)
    }

    /// Give this address back.
    pub fn release(&self, ip: IpAddr) {
        self.taken.lock().remove(&number(ip));
    }

    fn scan(&self, range: RangeInclusive<u128>) -> Option<(IpAddr, Reservation)> {
        if range.is_empty() {
            return None;
        }
        let start = rand::rng().random_range(range.clone());
        // A full set of a /8 would make this long, but a set that large is not reachable in practice.
        (start..=*range.end())
            .chain(*range.start()..start)
            .find_map(|n| self.take(n).map(|lease| (self.address(n), lease)))
    }

    fn take(&self, n: u128) -> Option<Reservation> {
        let fresh = self.taken.lock().insert(n);
        fresh.then(|| Reservation(vec![Lease { from: Some(self.taken.clone()), number: n }]))
    }

    /// First and last address that may be given: not the network's own, and not IPv4's broadcast.
    fn bounds(&self) -> (u128, u128) {
        let first = number(self.net.network()) + 1;
        let last = number(self.net.broadcast());
        let last = if matches!(self.net, IpNet::V4(_)) { last.saturating_sub(1) } else { last };
        (first, last.max(first))
    }

    fn is_usable(&self, ip: IpAddr) -> bool {
        let (first, last) = self.bounds();
        self.net.contains(&ip) && (first..=last).contains(&number(ip))
    }

    fn address(&self, n: u128) -> IpAddr {
        match self.net {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX))),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(n)),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// A pool of ports.
#[derive(Debug)]
pub struct PortPool {
    range: RangeInclusive<u16>,
    taken: Taken,
}

impl PortPool {
    /// The ports this pool gives.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.range.clone()
    }

    /// Take exactly this port.
    pub fn allocate(&self, port: u16) -> Result<Reservation, AllocateError> {
        if !self.range.contains(&port) {
            let range = format!("{}-{}", self.range.start(), self.range.end());
            return Err(AllocateError::OutOfRange { what: "port", range });
        }
        self.take(port).ok_or(AllocateError::Taken { what: "port" })
    }

    /// Take any free port.
    pub fn allocate_next(&self) -> Result<(u16, Reservation), AllocateError> {
        let start = rand::rng().random_range(self.range.clone());
        (start..=*self.range.end())
            .chain(*self.range.start()..start)
            .find_map(|port| self.take(port).map(|lease| (port, lease)))
            .ok_or(AllocateError::Full)
    }

    /// Give this port back.
    pub fn release(&self, port: u16) {
        self.taken.lock().remove(&port.into());
    }

    fn take(&self, port: u16) -> Option<Reservation> {
        let fresh = self.taken.lock().insert(port.into());
        fresh.then(|| Reservation(vec![Lease { from: Some(self.taken.clone()), number: port.into() }]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_that_is_dropped_is_given_back() {
        let pools = Allocators::new(&["10.43.0.0/30".parse().unwrap()], 30000..=30000);
        let pool = &pools.service_ips[0];
        let first = pool.allocate("10.43.0.1".parse().unwrap()).unwrap();
        let (ip, second) = pool.allocate_next().unwrap();
        assert_eq!(ip, "10.43.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(pool.allocate_next().unwrap_err(), AllocateError::Full);
        drop(second);
        assert!(pool.allocate_next().is_ok());
        first.keep();
        assert_eq!(
            pool.allocate("10.43.0.1".parse().unwrap()).unwrap_err(),
            AllocateError::Taken { what: "IP" }
        );
        pool.release("10.43.0.1".parse().unwrap());
        assert!(pool.allocate("10.43.0.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn addresses_nobody_asked_for_come_from_above_the_static_band() {
        let pools = Allocators::new(&["10.43.0.0/16".parse().unwrap()], 30000..=32767);
        for _ in 0..50 {
            let (ip, kept) = pools.service_ips[0].allocate_next().unwrap();
            kept.keep();
            assert!(number(ip) > number("10.43.0.255".parse().unwrap()), "{ip} is in the static band");
        }
    }
}
