//! DHCP messages as bytes: what we send, and the little we believe of what comes back.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::time::Instant;

pub(super) const CLIENT_PORT: u16 = 68;
pub(super) const SERVER_PORT: u16 = 67;

/// Fixed part of a BOOTP message, up to the options.
const HEADER_LEN: usize = 236;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 1;
/// Answer by broadcast: without an address we cannot receive unicast.
const BROADCAST_FLAG: u16 = 0x8000;
/// What we can take in one piece.
const MAX_MESSAGE: u16 = 1472;
/// Old relays drop shorter messages.
const MIN_LEN: usize = 300;
/// Seconds of a lease that does not end.
const INFINITE: u32 = u32::MAX;
/// For a server that breaks the rule that an ACK says how long.
const DEFAULT_LEASE: u32 = 3600;
/// The shortest lease we believe in, in seconds: a server that grants none at all would keep us busy for nothing.
const SHORTEST_LEASE: u32 = 10;
/// Where a message keeps the server's name and the boot file, and with option 52 more options instead.
const SERVER_NAME: std::ops::Range<usize> = 44..108;
const BOOT_FILE: std::ops::Range<usize> = 108..HEADER_LEN;

/// Option numbers (RFC 2132, 3442).
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOSTNAME: u8 = 12;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const NTP: u8 = 42;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const PARAMETERS: u8 = 55;
    pub(super) const MAX_SIZE: u8 = 57;
    pub(super) const RENEW_TIME: u8 = 58;
    pub(super) const REBIND_TIME: u8 = 59;
    pub(super) const CLIENT_ID: u8 = 61;
    pub(super) const ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

/// What we ask servers for (option 55).
const WANTED: [u8; 10] = [
    option::MASK,
    option::ROUTES,
    option::ROUTER,
    option::DNS,
    option::DOMAIN,
    option::MTU,
    option::NTP,
    option::LEASE_TIME,
    option::RENEW_TIME,
    option::REBIND_TIME,
];

/// The kinds of message we send or understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

/// A message to a server.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) kind: Kind,
    pub(super) transaction: u32,
    pub(super) mac: [u8; 6],
    pub(super) hostname: &'a str,
    /// How long we have been trying; relays may prefer the patient.
    pub(super) trying: Duration,
    /// The address we use and want to keep using, or give back.
    pub(super) current: Option<Ipv4Addr>,
    /// The offered or remembered address we take, or do not want.
    pub(super) requested: Option<Ipv4Addr>,
    /// The server this is about.
    pub(super) server: Option<Ipv4Addr>,
}

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Our address and the network's prefix length.
    pub(crate) address: Ipv4Net,
    /// Where to send what is for elsewhere.
    pub(crate) routes: Vec<Route>,
    /// Name servers.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// The domain of bare names.
    pub(crate) domain: Option<String>,
    /// Time servers.
    pub(crate) ntp: Vec<Ipv4Addr>,
    /// The link's MTU, if the server knows better.
    pub(crate) mtu: Option<u16>,
    /// Who granted it.
    pub(super) server: Option<Ipv4Addr>,
    /// When it was asked for; its times count from here.
    pub(super) granted: Instant,
    seconds: u32,
    renew_seconds: Option<u32>,
    rebind_seconds: Option<u32>,
}

/// One route; without a gateway it is on the link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// What it leads to.
    pub(crate) destination: Ipv4Net,
    /// The next hop.
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// When a lease is to be renewed, to be asked of anyone, and over; counted from when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) renew: Duration,
    pub(super) rebind: Duration,
    pub(super) end: Duration,
}

/// A message from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    pub(super) lease: Lease,
}

// === impl Request ===

impl Request<'_> {
    /// This request taking `offer`.
    pub(super) fn select(mut self, offer: &Lease) -> Self {
        self.requested = Some(offer.address.addr());
        self.server = offer.server;
        self
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut message = vec![0; HEADER_LEN];
        message[0] = BOOT_REQUEST;
        message[1] = ETHERNET;
        message[2] = 6;
        message[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        let seconds = u16::try_from(self.trying.as_secs()).unwrap_or(u16::MAX);
        message[8..10].copy_from_slice(&seconds.to_be_bytes());
        match self.current {
            Some(current) => message[12..16].copy_from_slice(&current.octets()),
            None => message[10..12].copy_from_slice(&BROADCAST_FLAG.to_be_bytes()),
        }
        message[28..34].copy_from_slice(&self.mac);
        message.extend_from_slice(&COOKIE);
        let mut put = |number: u8, data: &[u8]| {
            if let Ok(len) = u8::try_from(data.len()) {
                message.extend_from_slice(&[number, len]);
                message.extend_from_slice(data);
            }
        };
        put(option::KIND, &[self.kind as u8]);
        // Type 1 and the MAC: installer, network boot and this system then get one and the same lease.
        put(option::CLIENT_ID, &[&[ETHERNET][..], &self.mac].concat());
        if let Some(requested) = self.requested {
            put(option::REQUESTED, &requested.octets());
        }
        if let Some(server) = self.server {
            put(option::SERVER, &server.octets());
        }
        if matches!(self.kind, Kind::Discover | Kind::Request) {
            put(option::MAX_SIZE, &MAX_MESSAGE.to_be_bytes());
            put(option::HOSTNAME, self.hostname.as_bytes());
            put(option::PARAMETERS, &WANTED);
        }
        message.push(option::END);
        message.resize(message.len().max(MIN_LEN), 0);
        message
    }
}

// === impl Reply ===

impl Reply {
    /// Reads an answer to `transaction` of the client with `mac`; anything else, and anything malformed, is nothing.
    pub(super) fn decode(message: &[u8], transaction: u32, mac: [u8; 6], asked: Instant) -> Option<Self> {
        let options = message.get(HEADER_LEN..)?.strip_prefix(&COOKIE)?;
        let for_us =
            message[0] == BOOT_REPLY && message[4..8] == transaction.to_be_bytes() && message[28..34] == mac;
        for_us.then_some(())?;
        let options = Options::read_all(message, options)?;
        let kind = match options.get(option::KIND)? {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return None,
        };
        let ours = address(message.get(16..20)?)?;
        // An offer nobody put a name to cannot be taken.
        let anonymous = kind == Kind::Offer && options.get(option::SERVER).and_then(address).is_none();
        if anonymous
            || kind != Kind::Nak && (ours.is_unspecified() || ours.is_broadcast() || ours.is_multicast())
        {
            return None;
        }
        let seconds = |number| options.get(number).and_then(number32);
        let lease = Lease {
            address: Ipv4Net::new(ours, options.prefix_len()).ok()?,
            routes: options.routes(),
            dns: options.get(option::DNS).map(addresses).unwrap_or_default(),
            domain: options.get(option::DOMAIN).and_then(domain),
            ntp: options.get(option::NTP).map(addresses).unwrap_or_default(),
            mtu: options.get(option::MTU).and_then(mtu),
            server: options.get(option::SERVER).and_then(address),
            granted: asked,
            seconds: seconds(option::LEASE_TIME).unwrap_or(DEFAULT_LEASE).max(SHORTEST_LEASE),
            renew_seconds: seconds(option::RENEW_TIME),
            rebind_seconds: seconds(option::REBIND_TIME),
        };
        Some(Self { kind, lease })
    }
}

// === impl Lease ===

impl Lease {
    /// The times of a lease that ends; none for one that does not. The server's T1 and T2 count if they are in order: with a T1 of zero we
    /// would ask without a pause.
    pub(super) fn times(&self) -> Option<Times> {
        (self.seconds != INFINITE).then_some(())?;
        let end = self.seconds;
        let rebind = self.rebind_seconds.filter(|&t| t > 0 && t < end).unwrap_or_else(|| end - end / 8);
        let renew = self.renew_seconds.filter(|&t| t > 0 && t < rebind).unwrap_or(end / 2).min(rebind);
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        Some(Times { renew: seconds(renew), rebind: seconds(rebind), end: seconds(end) })
    }

    /// Whether both configure the interface alike.
    pub(super) fn same_settings(&self, other: &Self) -> bool {
        let settings = |lease: &Self| {
            let Self { address, routes, dns, domain, ntp, mtu, .. } = lease.clone();
            (address, routes, dns, domain, ntp, mtu)
        };
        settings(self) == settings(other)
    }
}

// === options ===

/// The options of one message; the parts of one that was split are joined (RFC 3396).
struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    /// The options behind the cookie, and those in the fields that option 52 lends to options (RFC 2131, 4.1).
    fn read_all(message: &[u8], bytes: &[u8]) -> Option<Self> {
        let mut options = Self(Vec::new());
        options.read(bytes)?;
        let lent: &[_] = match options.get(option::OVERLOAD) {
            Some([1]) => &[BOOT_FILE],
            Some([2]) => &[SERVER_NAME],
            Some([3]) => &[BOOT_FILE, SERVER_NAME],
            _ => &[],
        };
        for field in lent {
            options.read(message.get(field.clone())?)?;
        }
        Some(options)
    }

    fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        loop {
            match *bytes {
                [] | [option::END, ..] => return Some(()),
                [option::PAD, ref rest @ ..] => bytes = rest,
                [number, len, ref rest @ ..] => {
                    let (data, rest) = rest.split_at_checked(usize::from(len))?;
                    match self.0.iter_mut().find(|(known, _)| *known == number) {
                        Some((_, known)) => known.extend_from_slice(data),
                        None => self.0.push((number, data.to_vec())),
                    }
                    bytes = rest;
                }
                [_] => return None,
            }
        }
    }

    fn get(&self, number: u8) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, data)| data.as_slice())
    }

    /// Without a usable mask the address stands alone.
    fn prefix_len(&self) -> u8 {
        let mask = self.get(option::MASK).and_then(address);
        mask.and_then(|mask| ipnet::ipv4_mask_to_prefix(mask).ok()).unwrap_or(32)
    }

    /// Classless routes replace the router option (RFC 3442).
    fn routes(&self) -> Vec<Route> {
        if let Some(routes) = self.get(option::ROUTES).and_then(classless) {
            return routes;
        }
        let routers = self.get(option::ROUTER).map(addresses).unwrap_or_default();
        routers
            .first()
            .map(|&gateway| Route { destination: Ipv4Net::default(), gateway: Some(gateway) })
            .into_iter()
            .collect()
    }
}

fn number32(data: &[u8]) -> Option<u32> {
    data.try_into().ok().map(u32::from_be_bytes)
}

/// No link may have a smaller MTU than RFC 791 asks for.
fn mtu(data: &[u8]) -> Option<u16> {
    <[u8; 2]>::try_from(data).ok().map(u16::from_be_bytes).filter(|&mtu| mtu >= 68)
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

fn addresses(data: &[u8]) -> Vec<Ipv4Addr> {
    data.chunks_exact(4).filter_map(address).collect()
}

/// Goes into resolv.conf, so nothing but a domain name may pass.
fn domain(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches(['\0', '.']);
    let fine = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    fine.then(|| text.to_owned())
}

/// Prefix length, as many octets of the destination as it covers, router; 0.0.0.0 as router is the link itself.
fn classless(mut data: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let [prefix_len, rest @ ..] = data {
        let significant = usize::from(prefix_len.div_ceil(8));
        let (octets, rest) = rest.split_at_checked(significant).filter(|(octets, _)| octets.len() <= 4)?;
        let (gateway, rest) = rest.split_at_checked(4)?;
        let mut destination = [0; 4];
        destination[..significant].copy_from_slice(octets);
        let destination = Ipv4Net::new(destination.into(), *prefix_len).ok()?.trunc();
        let gateway = address(gateway).filter(|gateway| !gateway.is_unspecified());
        routes.push(Route { destination, gateway });
        data = rest;
    }
    Some(routes)
}

#[cfg(test)]
mod tests;
