//! `network-config`, version 1: a list of links, each with subnets.

use std::net::{IpAddr, Ipv4Addr};

use super::network::{Entry, append, nameservers};
use super::{Mapping, table_at, text_at};
use crate::tree::{Item, Table, Value};

pub(super) fn read(ours: &mut Mapping, root: &Item) {
    for (key, item) in ours.table(root, "(whole file)") {
        match key {
            "version" => {}
            "config" => {
                for (index, item) in ours.list(item, "config").iter().enumerate() {
                    one(ours, item, &format!("config[{index}]"));
                }
            }
            _ => ours.ignore(item, key, "version and config"),
        }
    }
}

fn one(ours: &mut Mapping, item: &Item, path: &str) {
    let Value::Table(table) = &item.value else { return ours.wrong(item, path, "a table with type") };
    let kind = table.get("type").and_then(text).unwrap_or_default();
    match kind {
        "physical" | "bond" | "bridge" | "vlan" => interface(ours, item, table, kind, path),
        "nameserver" => {
            let mut plain = table.clone();
            plain.remove("type");
            nameservers(ours, &Item { value: Value::Table(plain), place: item.place.clone() }, path);
        }
        "loopback" => {}
        "route" => ours.ignore(item, path, "the route among the routes of a subnet"),
        _ => {
            ours.wrong(item, &format!("{path}.type"), "physical, bond, bridge, vlan, nameserver or loopback")
        }
    }
}

fn interface(ours: &mut Mapping, item: &Item, table: &Table, kind: &str, path: &str) {
    let Some(name) = table.get("name").and_then(text) else {
        return ours.wrong(item, &format!("{path}.name"), "the name of a link");
    };
    let mut entry = Entry::new(item, Some(name));
    let mut special = Table::new();
    for (key, item) in table {
        let at = format!("{path}.{key}");
        match (key.as_str(), kind) {
            ("type" | "name", _) => {}
            ("mac_address", "physical") => {
                entry.set("match", table_at(&item.place, [("mac", item.clone())]));
            }
            ("mtu", _) => entry.set("mtu", item.clone()),
            ("accept-ra", _) if item.value == Value::Boolean(true) => {}
            ("subnets", _) => {
                for (index, item) in ours.list(item, &at).iter().enumerate() {
                    subnet(ours, item, &format!("{at}[{index}]"), &mut entry);
                }
            }
            ("bond_interfaces", "bond") | ("bridge_interfaces", "bridge") => {
                special.insert("members".to_owned(), item.clone());
            }
            ("vlan_id", "vlan") => {
                special.insert("id".to_owned(), item.clone());
            }
            ("vlan_link", "vlan") => {
                special.insert("link".to_owned(), item.clone());
            }
            ("params", "bond") => {
                for (key, item) in ours.table(item, &at) {
                    match key {
                        "bond-mode" | "mode" => {
                            special.insert("mode".to_owned(), item.clone());
                        }
                        _ => ours.ignore(item, &format!("{at}.{key}"), "bond-mode"),
                    }
                }
            }
            _ => ours.ignore(item, &at, "see the network section of the documentation"),
        }
    }
    if kind != "physical" {
        entry.set(kind, Item { value: Value::Table(special), place: item.place.clone() });
    }
    entry.finish(ours);
}

fn subnet(ours: &mut Mapping, item: &Item, path: &str, entry: &mut Entry) {
    let Value::Table(table) = &item.value else { return ours.wrong(item, path, "a table with type") };
    let kind = table.get("type").and_then(text).unwrap_or_default();
    match kind {
        "dhcp" | "dhcp4" => {
            entry.set("dhcp", Item { value: Value::Boolean(true), place: item.place.clone() })
        }
        // Router advertisements are heard anyway.
        "static" | "static6" | "manual" | "ipv6_slaac" | "ipv6_dhcpv6-stateless" => {}
        "dhcp6" | "ipv6_dhcpv6-stateful" => {
            ours.ignore(item, &format!("{path}.type"), "ipv6_slaac: IPv6 comes by router advertisement");
        }
        _ => ours.wrong(item, &format!("{path}.type"), "dhcp, static, manual or ipv6_slaac"),
    }
    for (key, item) in table {
        let at = format!("{path}.{key}");
        match key.as_str() {
            "type" | "control" | "ipv4" | "ipv6" => {}
            "netmask" if table.contains_key("address") => {}
            "address" => entry.addresses.push(with_prefix(item, table.get("netmask"))),
            "gateway" => entry.gateways.push(item.clone()),
            "dns_nameservers" => append(ours, &["network", "nameservers"], item, &at),
            "dns_search" => append(ours, &["network", "search"], item, &at),
            "routes" => {
                for (index, item) in ours.list(item, &at).iter().enumerate() {
                    route(ours, item, &format!("{at}[{index}]"), entry);
                }
            }
            _ => ours.ignore(
                item,
                &at,
                "type, address, netmask, gateway, dns_nameservers, dns_search and routes",
            ),
        }
    }
}

fn route(ours: &mut Mapping, item: &Item, path: &str, entry: &mut Entry) {
    let Value::Table(table) = &item.value else {
        return ours.wrong(item, path, "a table with destination and gateway");
    };
    let mut entries = Vec::new();
    for (key, item) in table {
        match key.as_str() {
            "destination" | "network" | "to" => entries.push(("to", with_prefix(item, table.get("netmask")))),
            "gateway" | "via" => entries.push(("via", item.clone())),
            "metric" => entries.push(("metric", item.clone())),
            "netmask" => {}
            _ => ours.ignore(item, &format!("{path}.{key}"), "destination, netmask, gateway and metric"),
        }
    }
    entry.routes.push(table_at(&item.place, entries));
}

/// An address with the prefix length that a mask beside it says. One that is wrong stays as it is, to be told when it is read.
fn with_prefix(address: &Item, mask: Option<&Item>) -> Item {
    let length = mask.and_then(|mask| match &mask.value {
        Value::Integer(length) => Some(length.to_string()),
        Value::Text(text) => text.parse::<Ipv4Addr>().ok().and_then(|mask| {
            let length = u32::from(mask).leading_ones();
            (u32::from(mask).checked_shl(length).unwrap_or(0) == 0).then(|| length.to_string())
        }),
        _ => None,
    });
    match (text(address), length) {
        (Some(text), Some(length)) if text.parse::<IpAddr>().is_ok() => {
            text_at(&address.place, format!("{text}/{length}"))
        }
        _ => address.clone(),
    }
}

fn text(item: &Item) -> Option<&str> {
    match &item.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}
