//! Service addresses and node ports: who has which, in memory.
//!
//! Filled from the stored services and addresses at start; a create reserves before it stores, and a [`Reservation`] that is not
//! kept gives everything back. One API server owns the allocators; several servers over one datastore would have to agree through it.
//!
//! What is taken is one set for all ranges, because ranges may overlap. Ranges are those of the configuration and those of the
//! ServiceCIDR objects that are ready; whoever allocates says which ([`Allocators::ranges`]).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use machinery::meta;
use rand::Rng;
use serde_json::Value;
use tokio::sync::Notify;

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
    /// No range has it.
    #[error("the provided network does not match the current range")]
    NoRange,
    /// Nothing left.
    #[error("range is full")]
    Full,
}

/// The pools of one API server.
#[derive(Debug)]
pub struct Allocators {
    /// The configured service CIDRs (the first is the primary family).
    pub service_cidrs: Vec<IpNet>,
    /// Cluster addresses.
    pub service_ips: IpPool,
    /// Node ports. One number serves both TCP and UDP here, as upstream's allocator has it.
    pub node_ports: PortPool,
    /// Services whose addresses may be other than their IPAddress objects say.
    pub(crate) touched: Touched,
}

/// Keys of services (`namespace/name`) that somebody is to look at.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    keys: Mutex<HashSet<String>>,
    wake: Notify,
}

impl Touched {
    pub(crate) fn add(&self, key: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        self.wake.notify_one();
    }

    /// All there are, once there are any.
    pub(crate) async fn take(&self) -> HashSet<String> {
        loop {
            let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
            if !keys.is_empty() {
                return keys;
            }
            self.wake.notified().await;
        }
    }
}

impl Allocators {
    /// Pools over these ranges, with nothing taken.
    pub fn new(service_cidrs: &[IpNet], node_ports: RangeInclusive<u16>) -> Self {
        Self {
            service_cidrs: service_cidrs.iter().map(IpNet::trunc).collect(),
            service_ips: IpPool::default(),
            node_ports: PortPool { range: node_ports, taken: Taken::default() },
            touched: Touched::default(),
        }
    }

    /// Take what the stored services use, and the addresses that others have a name for. Twice the same address, or one out of
    /// range, is left as it is: refusing to start would help nobody.
    pub(crate) fn adopt(&self, objects: &Registry) {
        objects.for_each("", "services", "", |service| {
            for ip in service_ips(&service) {
                if let Some(taken) = self.service_ips.take(ip) {
                    taken.keep();
                }
            }
            for port in service_node_ports(&service) {
                if let Ok(taken) = self.node_ports.allocate(port) {
                    taken.keep();
                }
            }
        });
        objects.for_each("networking.k8s.io", "ipaddresses", "", |address| {
            let ip = meta::name(&address).parse().ok();
            if let Some(taken) = ip.and_then(|ip| self.service_ips.name(ip)) {
                taken.keep();
            }
        });
    }

    /// The ranges that addresses may be given from: the configured ones, then those of ready ServiceCIDR objects.
    pub fn ranges(&self, objects: &Registry) -> Vec<IpNet> {
        let mut ranges = self.service_cidrs.clone();
        objects.for_each("networking.k8s.io", "servicecidrs", "", |object| {
            if meta::deletion_timestamp(&object).is_none() && is_ready(&object) {
                ranges.extend(cidrs(&object).into_iter().filter(|net| !self.service_cidrs.contains(net)));
            }
        });
        ranges
    }
}

/// The ranges of a ServiceCIDR object.
fn cidrs(object: &Value) -> Vec<IpNet> {
    let cidrs = object.pointer("/spec/cidrs").and_then(Value::as_array);
    cidrs.into_iter().flatten().filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
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

/// The addresses that are taken, of whatever range.
#[derive(Debug, Default)]
pub struct IpPool {
    /// By services.
    taken: Taken,
    /// By IPAddress objects that no service is behind.
    named: Taken,
}

impl IpPool {
    /// Take exactly this address, which must be in one of the ranges.
    pub fn allocate(&self, ip: IpAddr, ranges: &[IpNet]) -> Result<Reservation, AllocateError> {
        let around: Vec<&IpNet> = ranges.iter().filter(|net| net.contains(&ip)).collect();
        let Some(first) = around.first() else { return Err(AllocateError::NoRange) };
        if !around.iter().any(|net| is_usable(net, ip)) {
            return Err(AllocateError::OutOfRange { what: "IP", range: first.to_string() });
        }
        self.take(ip).ok_or(AllocateError::Taken { what: "IP" })
    }

    /// Take any free address of a range, above the static band (upstream's KEP-3070: the first `min(max(16, size/16), 256)`
    /// addresses are for people who choose) and from the band only when nothing else is left.
    pub fn allocate_next(&self, range: IpNet) -> Result<(IpAddr, Reservation), AllocateError> {
        let (first, last) = bounds(&range);
        let size = last - first + 1;
        let band = (size / 16).clamp(16, 256).min(size);
        let upper = first + band..=last;
        let lower = first..=(first + band - 1).min(last);
        self.scan(range, upper).or_else(|| self.scan(range, lower)).ok_or(AllocateError::Full)
    }

    /// Give a service's address back.
    pub fn release(&self, ip: IpAddr) {
        self.taken.lock().remove(&key(ip));
    }

    /// An IPAddress object takes its address, unless a service has it or another object (`None`).
    pub fn name(&self, ip: IpAddr) -> Option<Reservation> {
        let mut named = self.named.lock();
        let fresh = !self.is_taken(ip) && named.insert(key(ip));
        drop(named);
        fresh.then(|| Reservation(vec![Lease { from: Some(self.named.clone()), number: key(ip) }]))
    }

    /// The IPAddress object is gone.
    pub fn unname(&self, ip: IpAddr) {
        self.named.lock().remove(&key(ip));
    }

    /// True if a service has this address.
    pub fn is_taken(&self, ip: IpAddr) -> bool {
        self.taken.lock().contains(&key(ip))
    }

    fn scan(&self, net: IpNet, range: RangeInclusive<u128>) -> Option<(IpAddr, Reservation)> {
        if range.is_empty() {
            return None;
        }
        let start = rand::rng().random_range(range.clone());
        // A full set of a /8 would make this long, but a set that large is not reachable in practice.
        (start..=*range.end()).chain(*range.start()..start).find_map(|n| {
            let ip = address(net, n);
            self.take(ip).map(|lease| (ip, lease))
        })
    }

    fn take(&self, ip: IpAddr) -> Option<Reservation> {
        // Whoever looks at both sets locks this one first, and for the whole time.
        let named = self.named.lock();
        let fresh = !named.contains(&key(ip)) && self.taken.lock().insert(key(ip));
        drop(named);
        fresh.then(|| Reservation(vec![Lease { from: Some(self.taken.clone()), number: key(ip) }]))
    }
}

/// First and last address that may be given: not the network's own, and not IPv4's broadcast.
fn bounds(net: &IpNet) -> (u128, u128) {
    let first = number(net.network()) + 1;
    let last = number(net.broadcast());
    let last = if matches!(net, IpNet::V4(_)) { last.saturating_sub(1) } else { last };
    (first, last.max(first))
}

fn is_usable(net: &IpNet, ip: IpAddr) -> bool {
    let (first, last) = bounds(net);
    (first..=last).contains(&number(ip))
}

fn address(net: IpNet, n: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(n)),
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// One number for addresses of both families.
fn key(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
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

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_reservation_that_is_dropped_is_given_back() {
        let (pool, range) = (IpPool::default(), "10.43.0.0/30".parse().unwrap());
        let first = pool.allocate(ip("10.43.0.1"), &[range]).unwrap();
        let (given, second) = pool.allocate_next(range).unwrap();
        assert_eq!(given, ip("10.43.0.2"));
        assert_eq!(pool.allocate_next(range).unwrap_err(), AllocateError::Full);
        drop(second);
        assert!(pool.allocate_next(range).is_ok());
        first.keep();
        assert_eq!(
            pool.allocate(ip("10.43.0.1"), &[range]).unwrap_err(),
            AllocateError::Taken { what: "IP" }
        );
        pool.release(ip("10.43.0.1"));
        assert!(pool.allocate(ip("10.43.0.1"), &[range]).is_ok());
    }

    #[test]
    fn addresses_nobody_asked_for_come_from_above_the_static_band() {
        let (pool, range) = (IpPool::default(), "10.43.0.0/16".parse().unwrap());
        for _ in 0..50 {
            let (given, kept) = pool.allocate_next(range).unwrap();
            kept.keep();
            assert!(number(given) > number(ip("10.43.0.255")), "{given} is in the static band");
        }
    }

    #[test]
    fn ranges_that_overlap_share_what_is_taken() {
        let pool = IpPool::default();
        let (wide, narrow) = ("10.0.0.0/24".parse().unwrap(), "10.0.0.0/30".parse().unwrap());
        pool.allocate(ip("10.0.0.1"), &[wide]).unwrap().keep();
        assert_eq!(
            pool.allocate(ip("10.0.0.1"), &[narrow]).unwrap_err(),
            AllocateError::Taken { what: "IP" }
        );
        assert_eq!(pool.allocate_next(narrow).unwrap().0, ip("10.0.0.2"));
        // The end of one range is in the middle of the other.
        let out = AllocateError::OutOfRange { what: "IP", range: "10.0.0.0/30".to_owned() };
        assert_eq!(pool.allocate(ip("10.0.0.3"), &[narrow]).unwrap_err(), out);
        assert!(pool.allocate(ip("10.0.0.3"), &[narrow, wide]).is_ok());
        assert_eq!(pool.allocate(ip("10.0.1.1"), &[narrow, wide]).unwrap_err(), AllocateError::NoRange);
    }

    #[test]
    fn what_an_object_names_no_service_gets() {
        let (pool, range) = (IpPool::default(), "10.0.0.0/30".parse().unwrap());
        pool.name(ip("10.0.0.1")).unwrap().keep();
        assert!(pool.name(ip("10.0.0.1")).is_none());
        assert_eq!(pool.allocate(ip("10.0.0.1"), &[range]).unwrap_err(), AllocateError::Taken { what: "IP" });
        let (given, kept) = pool.allocate_next(range).unwrap();
        kept.keep();
        assert!(given == ip("10.0.0.2") && pool.name(given).is_none(), "a service has it");
        pool.unname(given);
        assert!(pool.is_taken(given), "what a service has is its own");
        pool.unname(ip("10.0.0.1"));
        assert!(pool.allocate(ip("10.0.0.1"), &[range]).is_ok());
    }
}
