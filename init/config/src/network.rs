//! `[network]`: name servers, links and their addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::read::At;
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
    /// Whether IPv4 comes by DHCP; none means that it does unless there are addresses.
    pub dhcp: Option<bool>,
    /// Static addresses.
    pub addresses: Vec<IpNet>,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// The biggest packet.
    pub mtu: Option<u32>,
    /// What IPv6 does by itself.
    pub ipv6: Ipv6,
    /// What kind of link is made, if it is.
    pub kind: Kind,
}

/// How a port is recognised. Everything that is given must fit.
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

const INTERFACE_KEYS: &[&str] =
    &["name", "match", "dhcp", "addresses", "gateway", "routes", "mtu", "ipv6", "vlan", "bond", "bridge"];

impl Network {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut network = Self::default();
        let Some(fields) = at.fields(&["nameservers", "search", "interfaces"]) else { return network };
        if let Some(at) = fields.get("nameservers") {
            network.nameservers = at.list("addresses", |at| address(&at));
        }
        if let Some(at) = fields.get("search") {
            network.search = at.list("domain names", |at| {
                at.parsed(HOST_NAME, |text| host_name(text).then(|| text.to_owned()))
            });
        }
        if let Some(at) = fields.get("interfaces") {
            let mut names = BTreeSet::new();
            network.interfaces = at.list("tables", |at| Interface::read(at, &mut names));
        }
        network
    }
}

impl Interface {
    fn read(at: At<'_>, names: &mut BTreeSet<String>) -> Option<Self> {
        let fields = at.fields(INTERFACE_KEYS)?;
        let mut interface = Self { kind: Kind::default(), ..Self::default() };
        if let Some(at) = fields.get("name") {
            interface.name = name(&at);
            if interface.name.clone().is_some_and(|name| !names.insert(name)) {
                at.wrong("each interface once");
            }
        }
        interface.matching = fields.get("match").and_then(Match::read);
        if interface.name.is_none() && interface.matching.is_none() && fields.get("name").is_none() {
            fields.whole().wrong("name, or match with mac, driver or name");
        }
        interface.dhcp = fields.get("dhcp").and_then(|at| at.boolean());
        if let Some(at) = fields.get("addresses") {
            interface.addresses = at.list("ADDRESS/PREFIX", |at| network_address(&at));
        }
        interface.gateway = fields.get("gateway").and_then(|at| address(&at));
        if let Some(at) = fields.get("routes") {
            interface.routes = at.list("tables", Route::read);
        }
        interface.mtu = fields.get("mtu").and_then(|at| at.integer(68..=65535));
        if let Some(at) = fields.get("ipv6") {
            interface.ipv6 = at.choice(&[("auto", Ipv6::Auto), ("off", Ipv6::Off)]).unwrap_or_default();
        }
        let kinds: Vec<_> = [
            fields.get("vlan").and_then(Kind::vlan),
            fields.get("bond").and_then(Kind::bond),
            fields.get("bridge").and_then(Kind::bridge),
        ]
        .into_iter()
        .flatten()
        .collect();
        if kinds.len() > 1 {
            fields.whole().wrong("one of vlan, bond and bridge");
        }
        interface.kind = kinds.into_iter().next().unwrap_or_default();
        Some(interface)
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
        let to = match fields.get("to") {
            Some(at) => network_address(&at)?,
            None => {
                fields.whole().wrong("to, and via or metric beside it");
                return None;
            }
        };
        let via = fields.get("via").and_then(|at| address(&at));
        let metric = fields.get("metric").and_then(|at| at.integer(0..=i64::from(u32::MAX)));
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
    at.parsed(INTERFACE_NAME, |text| interface_name(text).then(|| text.to_owned()))
}

fn address(at: &At<'_>) -> Option<IpAddr> {
    at.parsed("an IP address", |text| text.parse().ok())
}

fn network_address(at: &At<'_>) -> Option<IpNet> {
    at.parsed("ADDRESS/PREFIX such as 10.0.0.5/24", |text| text.parse().ok())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let byte = |part: &str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes?.try_into().ok()
}
