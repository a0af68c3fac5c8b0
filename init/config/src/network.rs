//! `[network]`: name servers, links and their addresses.

mod check;

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::read::At;
use crate::tree::Value;
use crate::value::{HOST_NAME, INTERFACE_NAME, host_name, interface_name};

/// The network of the machine. Nothing configured means DHCP on every Ethernet port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Name servers, before those that DHCP and router advertisements offer.
    pub nameservers: Vec<IpAddr>,
    /// Domains in which short names are looked up.
    pub search: Vec<String>,
    /// The links to set up.
    pub interfaces: Vec<Interface>,
}

/// One link: a port that is there, or one that is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name; of a link that is made, the name it gets.
    pub name: Option<String>,
    /// How a port is recognised when not by its name.
    pub matching: Option<Match>,
    /// Whether IPv4 comes by DHCP; none means what [`Network::uses_dhcp`] says.
    pub dhcp: Option<bool>,
    /// Static addresses.
    pub addresses: Vec<IpNet>,
    /// The default gateways, at most one for IPv4 and one for IPv6.
    pub gateways: Vec<IpAddr>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// The preference of its routes that are not given one; a lower one wins. None means by its place in the configuration.
    pub metric: Option<u32>,
    /// The biggest packet.
    pub mtu: Option<u32>,
    /// What IPv6 does by itself.
    pub ipv6: Ipv6,
    /// What kind of link is made, if it is.
    pub kind: Kind,
}

/// How a port is recognised. Everything that is given must fit; when nothing is, every Ethernet port does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// Name of the driver, with `*` for any text.
    pub driver: Option<String>,
    /// Name of the link, with `*` for any text.
    pub name: Option<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it leads to.
    pub to: IpNet,
    /// The next hop; none means that the destination is on the link.
    pub via: Option<IpAddr>,
    /// Its preference; a lower one wins.
    pub metric: Option<u32>,
}

/// What IPv6 does by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// Addresses, routes and name servers by router advertisement.
    #[default]
    Auto,
    /// No IPv6 on this link.
    Off,
}

/// What kind of link it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Kind {
    /// A port that is there.
    #[default]
    Port,
    /// A VLAN on another link.
    Vlan {
        /// Its number.
        id: u16,
        /// The link below.
        link: String,
    },
    /// Several links as one.
    Bond {
        /// The links.
        members: Vec<String>,
        /// How they share the work, by the kernel's name.
        mode: BondMode,
    },
    /// A switch.
    Bridge {
        /// Its ports.
        members: Vec<String>,
    },
}

/// How the links of a bond share the work; the numbers are the kernel's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BondMode {
    /// In turn.
    BalanceRr = 0,
    /// One at a time.
    #[default]
    ActiveBackup = 1,
    /// By a hash of the addresses.
    BalanceXor = 2,
    /// All at once.
    Broadcast = 3,
    /// LACP.
    Lacp = 4,
    /// By load, sending.
    BalanceTlb = 5,
    /// By load, sending and receiving.
    BalanceAlb = 6,
}

const BOND_MODES: &[(&str, BondMode)] = &[
    ("balance-rr", BondMode::BalanceRr),
    ("active-backup", BondMode::ActiveBackup),
    ("balance-xor", BondMode::BalanceXor),
    ("broadcast", BondMode::Broadcast),
    ("802.3ad", BondMode::Lacp),
    ("balance-tlb", BondMode::BalanceTlb),
    ("balance-alb", BondMode::BalanceAlb),
];

const INTERFACE_KEYS: &[&str] = &[
    "name",
    "match",
    "dhcp",
    "addresses",
    "gateway",
    "routes",
    "metric",
    "mtu",
    "ipv6",
    "vlan",
    "bond",
    "bridge",
];
/// The loopback, and what the kernel calls the settings of all links.
const RESERVED_NAMES: &[&str] = &["lo", "all", "default"];
/// No link that carries IPv4 may have a smaller one (RFC 791), and no device has a bigger one.
const MTUS: std::ops::RangeInclusive<i64> = 576..=65535;
const ADDRESS: &str = "ADDRESS/PREFIX such as 10.0.0.5/24 or fd00::5/64";

impl Network {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut network = Self::default();
        let Some(fields) = at.fields(&["nameservers", "search", "interfaces"]) else { return network };
        if let Some(at) = fields.get("nameservers") {
            network.nameservers = at.list("addresses", |at| host_address(&at));
        }
        if let Some(at) = fields.get("search") {
            network.search = at.list("domain names", |at| {
                at.parsed(HOST_NAME, |text| host_name(text).then(|| text.to_owned()))
            });
        }
        if let Some(at) = fields.get("interfaces") {
            network.interfaces = at.list("tables", Interface::read);
            let mut places = 0..network.interfaces.len();
            // Once more, for what can only be seen when all of them are known.
            at.list("tables", |at| {
                let fields = at.fields(INTERFACE_KEYS)?;
                check::Check { network: &network, place: places.next()?, fields: &fields }.all();
                Some(())
            });
        }
        network
    }

    /// Whether IPv4 comes to this link by DHCP. Unless it is said, it does on a link that has no addresses and is not there for
    /// another link alone.
    #[must_use]
    pub fn uses_dhcp(&self, interface: &Interface) -> bool {
        let used_otherwise = || {
            let name = interface.name.as_deref();
            self.master_of(interface).is_some()
                || self.interfaces.iter().any(|other| other.link() == name && name.is_some())
        };
        interface.dhcp.unwrap_or_else(|| interface.addresses.is_empty() && !used_otherwise())
    }

    /// The name of the bond or bridge that has this link as a member.
    #[must_use]
    pub fn master_of(&self, interface: &Interface) -> Option<&str> {
        let name = interface.name.as_ref()?;
        self.interfaces.iter().find(|other| other.members().contains(name))?.name.as_deref()
    }
}

impl Interface {
    fn read(at: At<'_>) -> Option<Self> {
        let fields = at.fields(INTERFACE_KEYS)?;
        let mut interface = Self { name: fields.get("name").and_then(|at| name(&at)), ..Self::default() };
        interface.matching = fields.get("match").and_then(Match::read);
        interface.dhcp = fields.get("dhcp").and_then(|at| at.boolean());
        if let Some(at) = fields.get("addresses") {
            interface.addresses = at.list(ADDRESS, |at| interface_address(&at));
        }
        if let Some(at) = fields.get("gateway") {
            interface.gateways = match at.value() {
                Value::Text(_) => host_address(&at).into_iter().collect(),
                _ => at.list("addresses", |at| host_address(&at)),
            };
        }
        if let Some(at) = fields.get("routes") {
            interface.routes = at.list("tables", Route::read);
        }
        interface.metric = fields.get("metric").and_then(|at| at.integer(0..=i64::from(u32::MAX)));
        interface.mtu = fields.get("mtu").and_then(|at| at.integer(MTUS));
        if let Some(at) = fields.get("ipv6") {
            interface.ipv6 = at.choice(&[("auto", Ipv6::Auto), ("off", Ipv6::Off)]).unwrap_or_default();
        }
        let kinds = [
            fields.get("vlan").and_then(Kind::vlan),
            fields.get("bond").and_then(Kind::bond),
            fields.get("bridge").and_then(Kind::bridge),
        ];
        interface.kind = kinds.into_iter().flatten().next().unwrap_or_default();
        Some(interface)
    }

    /// The links it puts together.
    #[must_use]
    pub fn members(&self) -> &[String] {
        match &self.kind {
            Kind::Bond { members, .. } | Kind::Bridge { members } => members,
            Kind::Port | Kind::Vlan { .. } => &[],
        }
    }

    /// The link that a VLAN lies on.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        match &self.kind {
            Kind::Vlan { link, .. } => Some(link),
            _ => None,
        }
    }
}

impl Match {
    fn read(at: At<'_>) -> Option<Self> {
        let fields = at.fields(&["mac", "driver", "name"])?;
        let text = |key: &str| fields.get(key).and_then(|at| at.text("text").map(str::to_owned));
        let mac = fields
            .get("mac")
            .and_then(|at| at.parsed("a hardware address such as 52:54:00:12:34:56", parse_mac));
        Some(Self { mac, driver: text("driver"), name: text("name") })
    }
}

impl Route {
    fn read(at: At<'_>) -> Option<Self> {
        let fields = at.fields(&["to", "via", "metric"])?;
        let via = fields.get("via").and_then(|at| host_address(&at));
        let metric = fields.get("metric").and_then(|at| at.integer(0..=i64::from(u32::MAX)));
        let Some(at) = fields.get("to") else {
            fields.whole().wrong("to, and via or metric beside it");
            return None;
        };
        let to = destination(&at, via)?;
        if let (Some(at), Some(via)) = (fields.get("via"), via)
            && via.is_ipv4() != to.addr().is_ipv4()
        {
            at.wrong(format_args!("an address of the same family as {to}"));
        }
        Some(Self { to, via, metric })
    }
}

impl Kind {
    fn vlan(at: At<'_>) -> Option<Self> {
        let fields = at.fields(&["id", "link"])?;
        let (Some(id), Some(link)) = (fields.get("id"), fields.get("link")) else {
            fields.whole().wrong("id and link");
            return None;
        };
        Some(Self::Vlan { id: id.integer(1..=4094)?, link: name(&link)? })
    }

    fn bond(at: At<'_>) -> Option<Self> {
        let fields = at.fields(&["members", "mode"])?;
        let mode = fields.get("mode").and_then(|at| at.choice(BOND_MODES)).unwrap_or_default();
        let members = fields.get("members").map(|at| at.list("interface names", |at| name(&at)));
        Some(Self::Bond { members: members.unwrap_or_default(), mode })
    }

    fn bridge(at: At<'_>) -> Option<Self> {
        let fields = at.fields(&["members"])?;
        let members = fields.get("members").map(|at| at.list("interface names", |at| name(&at)));
        Some(Self::Bridge { members: members.unwrap_or_default() })
    }
}

fn name(at: &At<'_>) -> Option<String> {
    let free = |text: &str| interface_name(text) && !RESERVED_NAMES.contains(&text);
    at.parsed(INTERFACE_NAME, |text| free(text).then(|| text.to_owned()))
}

/// The address of one machine.
fn host_address(at: &At<'_>) -> Option<IpAddr> {
    let address: IpAddr = at.parsed("an IP address", |text| text.parse().ok())?;
    if !is_one_machine(address) {
        at.wrong("the address of one machine");
        return None;
    }
    Some(address)
}

/// An address of ours and the network it is in.
fn interface_address(at: &At<'_>) -> Option<IpNet> {
    let address: IpNet = at.parsed(ADDRESS, |text| text.parse().ok())?;
    let all_of_network = match address {
        // In networks of two, and of one, every address is a machine's (RFC 3021).
        IpNet::V4(net) => net.prefix_len() < 31 && [net.network(), net.broadcast()].contains(&net.addr()),
        IpNet::V6(_) => false,
    };
    if all_of_network || !is_one_machine(address.addr()) || address.addr().is_loopback() {
        at.wrong("the address of one machine, and the length of its network's prefix");
        return None;
    }
    Some(address)
}

/// A network, or `default`, which is of the family of the next hop.
fn destination(at: &At<'_>, via: Option<IpAddr>) -> Option<IpNet> {
    let allowed = "default, or NETWORK/PREFIX such as 10.1.0.0/16";
    let to = at.parsed(allowed, |text| match (text, via) {
        ("default", Some(IpAddr::V6(_))) => Some(IpNet::V6(Ipv6Net::default())),
        ("default", _) => Some(IpNet::V4(Ipv4Net::default())),
        _ => text.parse().ok(),
    })?;
    if to != to.trunc() {
        at.wrong(format_args!("a network, such as {}", to.trunc()));
        return None;
    }
    Some(to)
}

fn is_one_machine(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let byte = |part: &str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests;
