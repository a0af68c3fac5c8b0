//! Mistakes between keys and between interfaces: each value is right, and together they are not.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Interface, Ipv6, Kind, Network};
use crate::read::{At, Fields};

/// The smallest MTU of a link that carries IPv6 (RFC 8200).
const SMALLEST_FOR_IPV6: u32 = 1280;

/// One interface among the others.
pub(super) struct Check<'a> {
    pub(super) network: &'a Network,
    /// Its place in the list.
    pub(super) place: usize,
    /// It, as it was written.
    pub(super) fields: &'a Fields<'a>,
}

impl Check<'_> {
    /// Notes everything that is wrong.
    pub(super) fn all(&self) {
        self.identity();
        self.kind();
        self.addresses();
        self.gateways();
        self.routes();
        self.mtu();
        self.members();
        self.membership();
    }

    fn interface(&self) -> &Interface {
        &self.network.interfaces[self.place]
    }

    fn earlier(&self) -> &[Interface] {
        &self.network.interfaces[..self.place]
    }

    fn named(&self, name: &str) -> Option<&Interface> {
        self.network.interfaces.iter().find(|interface| interface.name.as_deref() == Some(name))
    }

    fn at(&self, key: &str) -> Option<At<'_>> {
        self.fields.get(key)
    }

    /// How the link is told from others.
    fn identity(&self) {
        let interface = self.interface();
        if self.at("name").is_none() && self.at("match").is_none() {
            self.fields.whole().wrong("name, or match with mac, driver or name");
        }
        if let (Some(at), Some(name)) = (self.at("name"), &interface.name)
            && self.earlier().iter().any(|other| other.name.as_ref() == Some(name))
        {
            at.wrong("each interface once");
        }
        let mac = |interface: &Interface| interface.matching.as_ref().and_then(|wanted| wanted.mac);
        if let (Some(at), Some(wanted)) = (self.at("match"), mac(interface))
            && self.earlier().iter().any(|other| mac(other) == Some(wanted))
        {
            at.wrong("each hardware address once");
        }
    }

    fn kind(&self) {
        let kinds: Vec<_> = ["vlan", "bond", "bridge"].into_iter().filter_map(|key| self.at(key)).collect();
        let [at, others @ ..] = &kinds[..] else { return };
        if !others.is_empty() {
            self.fields.whole().wrong("one of vlan, bond and bridge");
        }
        if self.at("name").is_none() {
            at.wrong("name beside it: what the new interface is called");
        }
        if let Some(at) = self.at("match") {
            at.wrong("name alone: vlan, bond and bridge make an interface, there is none to find");
        }
    }

    fn addresses(&self) {
        let Some(at) = self.at("addresses") else { return };
        let mut seen: Vec<_> = self.earlier().iter().flat_map(|other| &other.addresses).copied().collect();
        for_each_text(&at, |at, text| {
            let Ok(address) = text.parse::<IpNet>() else { return };
            if seen.iter().any(|other| other.addr() == address.addr()) {
                at.wrong("each address once");
            }
            seen.push(address);
        });
    }

    fn gateways(&self) {
        let Some(at) = self.at("gateway") else { return };
        let mut seen = Vec::new();
        for_each_text(&at, |at, text| {
            let Ok(gateway) = text.parse::<IpAddr>() else { return };
            if seen.contains(&gateway.is_ipv4()) {
                at.wrong("one gateway for IPv4 and one for IPv6");
            }
            seen.push(gateway.is_ipv4());
            self.next_hop(at, gateway);
        });
    }

    fn routes(&self) {
        let Some(at) = self.at("routes") else { return };
        at.list("tables", |at| {
            let at = at.fields(&["to", "via", "metric"])?.get("via")?;
            if let Ok(via) = at.text("an IP address")?.parse() {
                self.next_hop(&at, via);
            }
            Some(())
        });
    }

    /// A next hop must be on the link, as far as that can be seen from here.
    fn next_hop(&self, at: &At<'_>, hop: IpAddr) {
        let interface = self.interface();
        if interface.addresses.iter().any(|address| address.addr() == hop) {
            return at.wrong("another machine: this address is the interface's own");
        }
        let known_later = match hop {
            IpAddr::V4(_) => self.network.uses_dhcp(interface),
            IpAddr::V6(hop) => interface.ipv6 == Ipv6::Auto || hop.is_unicast_link_local(),
        };
        let family: Vec<_> =
            interface.addresses.iter().filter(|address| address.addr().is_ipv4() == hop.is_ipv4()).collect();
        // An address without a network around it reaches its gateway over the link all the same; clouds do that.
        let alone = |address: &IpNet| address.prefix_len() == address.max_prefix_len();
        if known_later || family.iter().any(|address| alone(address) || address.contains(&hop)) {
            return;
        }
        let networks: Vec<_> = family.iter().map(|address| address.trunc().to_string()).collect();
        match &networks[..] {
            [] => at.wrong("a next hop in the network of an address: none of that family is given"),
            networks => at.wrong(format_args!("an address in {}", networks.join(" or "))),
        }
    }

    fn mtu(&self) {
        let interface = self.interface();
        let (Some(at), Some(mtu)) = (self.at("mtu"), interface.mtu) else { return };
        if interface.ipv6 == Ipv6::Auto && mtu < SMALLEST_FOR_IPV6 {
            at.wrong(format_args!("{SMALLEST_FOR_IPV6} or more, or ipv6 = \"off\""));
        }
        let below = interface.link().and_then(|link| self.named(link)).and_then(|link| link.mtu);
        if let Some(below) = below.filter(|below| mtu > *below) {
            at.wrong(format_args!("{below} or less, as the link below has"));
        }
    }

    /// What a VLAN, a bond or a bridge is made of.
    fn members(&self) {
        match &self.interface().kind {
            Kind::Port => {}
            Kind::Vlan { id, link } => {
                let Some(fields) = self.at("vlan").and_then(|at| at.fields(&["id", "link"])) else { return };
                if let Some(at) = fields.get("link") {
                    self.member(&at, link);
                }
                let same = |other: &Interface| matches!(&other.kind, Kind::Vlan { id: i, link: l } if (i, l) == (id, link));
                if let Some(at) = fields.get("id")
                    && self.earlier().iter().any(same)
                {
                    at.wrong(format_args!("each VLAN of {link} once"));
                }
            }
            Kind::Bond { members, .. } => {
                let Some(fields) = self.at("bond").and_then(|at| at.fields(&["members", "mode"])) else {
                    return;
                };
                match fields.get("members") {
                    Some(at) => self.member_list(&at),
                    None => fields.whole().wrong("members: the names of one interface or more"),
                }
                if members.is_empty()
                    && let Some(at) = fields.get("members")
                {
                    at.wrong("the names of one interface or more");
                }
            }
            Kind::Bridge { .. } => {
                let at = self.at("bridge").and_then(|at| at.fields(&["members"])?.get("members"));
                if let Some(at) = at {
                    self.member_list(&at);
                }
            }
        }
    }

    fn member_list(&self, at: &At<'_>) {
        let mut seen: Vec<_> = self.earlier().iter().flat_map(Interface::members).cloned().collect();
        for_each_text(at, |at, name| {
            if seen.iter().any(|other| other == name) {
                at.wrong("each interface in one bond or bridge, once");
            }
            seen.push(name.to_owned());
            self.member(at, name);
        });
    }

    fn member(&self, at: &At<'_>, name: &str) {
        let interface = self.interface();
        let Some(member) = self.named(name) else {
            let known: Vec<_> = self
                .network
                .interfaces
                .iter()
                .filter(|other| other.name != interface.name)
                .filter_map(|other| other.name.as_deref())
                .collect();
            let known = if known.is_empty() { "there is none yet".to_owned() } else { known.join(", ") };
            return at
                .wrong(format_args!("the name of another of network.interfaces ({known}); add one for it"));
        };
        if self.is_part_of_itself(name) {
            return at.wrong("another interface: this one would be part of itself");
        }
        match (&interface.kind, &member.kind) {
            (Kind::Bond { .. }, Kind::Bond { .. } | Kind::Bridge { .. } | Kind::Vlan { .. }) => {
                at.wrong("a port: a bond cannot be made of bonds, bridges or VLANs");
            }
            (Kind::Bridge { .. }, Kind::Bridge { .. }) => at.wrong("a port, a bond or a VLAN, not a bridge"),
            (Kind::Vlan { .. }, _) if self.network.master_of(member).is_some() => {
                at.wrong("a link that is not a member of a bond or bridge; put the VLAN on that");
            }
            _ => {}
        }
    }

    /// Whether what `name` is made of leads back to this interface.
    fn is_part_of_itself(&self, name: &str) -> bool {
        let me = self.interface().name.as_deref();
        let mut found: Vec<&str> = vec![name];
        let mut next = 0;
        while let Some(&name) = found.get(next) {
            if Some(name) == me {
                return true;
            }
            let parts = self
                .named(name)
                .into_iter()
                .flat_map(|part| part.members().iter().map(String::as_str).chain(part.link()));
            let parts: Vec<_> = parts.filter(|part| !found.contains(part)).collect();
            found.extend(parts);
            next += 1;
        }
        false
    }

    /// A member of a bond or bridge has no addresses: the whole has them.
    fn membership(&self) {
        let Some(master) = self.network.master_of(self.interface()) else { return };
        for key in ["addresses", "gateway", "routes", "metric"] {
            if let Some(at) = self.at(key) {
                at.wrong(format_args!(
                    "nothing here: the interface is part of {master}, which has the addresses"
                ));
            }
        }
        if let (Some(at), Some(true)) = (self.at("dhcp"), self.interface().dhcp) {
            at.wrong(format_args!("false: the interface is part of {master}, which has the addresses"));
        }
    }
}

/// Calls `look` with every text of a list, or with a text that stands alone.
fn for_each_text(at: &At<'_>, mut look: impl FnMut(&At<'_>, &str)) {
    if let crate::tree::Value::Text(text) = at.value() {
        return look(at, text);
    }
    at.list("texts", |at| {
        if let crate::tree::Value::Text(_) | crate::tree::Value::Words(_) = at.value() {
            look(&at, at.text("text")?);
        }
        Some(())
    });
}
