//! `network-config`, version 2 (netplan's); version 1 is [`super::network_v1`]'s.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mapping, list_at, table_at, text_at};
use crate::tree::{Item, Table, Value};

/// Keys that ask for what happens anyway, or cannot make a difference here.
const OF_COURSE: &[&str] = &["optional", "critical", "renderer", "version", "dhcp-identifier"];

pub(super) fn read(ours: &mut Mapping, root: &Item) {
    // The whole may stand below one key.
    let root = match &root.value {
        Value::Table(table) if table.len() == 1 => table.get("network").unwrap_or(root),
        _ => root,
    };
    let Value::Table(table) = &root.value else {
        return ours.wrong(root, "(whole file)", "a table with version");
    };
    match table.get("version").map(|item| &item.value) {
        Some(Value::Integer(1)) => super::network_v1::read(ours, root),
        Some(Value::Integer(2)) => version_2(ours, root),
        None if table.is_empty() => {}
        None if table.len() == 1 && table.contains_key("config") => {
            ours.ignore(root, "config", "version 1 or 2; without it nothing is configured");
        }
        _ => ours.wrong(root, "version", "1 or 2"),
    }
}

fn version_2(ours: &mut Mapping, root: &Item) {
    let names = Names::of(root);
    for (key, item) in ours.table(root, "(whole file)") {
        match key {
            "ethernets" | "bonds" | "vlans" | "bridges" => {
                for (id, item) in ours.table(item, key) {
                    interface(ours, &names, key, id, item);
                }
            }
            _ if OF_COURSE.contains(&key) => {}
            _ => ours.ignore(item, key, "version, ethernets, bonds, vlans and bridges"),
        }
    }
}

/// What links are called here that netplan knows by an id. An id is a link's name unless `match` finds the link; then it is a label,
/// and the name is what `set-name` says, if it says one.
struct Names<'a> {
    /// Names that were set, by id.
    set: BTreeMap<&'a str, &'a str>,
    /// Ids of links that something is made of.
    used: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(root: &'a Item) -> Self {
        let mut names = Self { set: BTreeMap::new(), used: BTreeSet::new() };
        let kinds = ["ethernets", "bonds", "vlans", "bridges"];
        let links = kinds.iter().filter_map(|kind| entry(root, kind));
        for (id, link) in links.filter_map(entries).flatten() {
            if let Some(Value::Text(name)) = entry(link, "set-name").map(|item| &item.value) {
                names.set.insert(id, name);
            }
            let members = match entry(link, "interfaces").map(|item| &item.value) {
                Some(Value::List(members)) => members.as_slice(),
                _ => &[],
            };
            let below = members.iter().chain(entry(link, "link"));
            names.used.extend(below.filter_map(|item| match &item.value {
                Value::Text(id) => Some(id.as_str()),
                _ => None,
            }));
        }
        names
    }

    /// The name of the link with this id. One that is only matched keeps its own, unless something is to be made of it: then it has to be
    /// called something.
    fn own(&self, id: &'a str, matched: bool) -> Option<&'a str> {
        let label = matched && !self.used.contains(id);
        self.set.get(id).copied().or((!label).then_some(id))
    }

    /// What stands for an id, or a list of them, where a link is made of others.
    fn translated(&self, item: &Item) -> Item {
        let value = match &item.value {
            Value::Text(id) => Value::Text(self.set.get(id.as_str()).copied().unwrap_or(id).to_owned()),
            Value::List(items) => Value::List(items.iter().map(|item| self.translated(item)).collect()),
            other => other.clone(),
        };
        Item { value, place: item.place.clone() }
    }
}

fn entries(item: &Item) -> Option<impl Iterator<Item = (&str, &Item)>> {
    match &item.value {
        Value::Table(table) => Some(table.iter().map(|(key, item)| (key.as_str(), item))),
        _ => None,
    }
}

fn entry<'a>(item: &'a Item, key: &str) -> Option<&'a Item> {
    entries(item)?.find(|(name, _)| *name == key).map(|(_, item)| item)
}

/// One link of netplan's as one of `network.interfaces`.
fn interface<'a>(ours: &mut Mapping, names: &Names<'a>, kind: &str, id: &'a str, item: &'a Item) {
    let path = format!("{kind}.{id}");
    let matched = entry(item, "match").is_some();
    let mut entry = Entry::new(item, names.own(id, matched));
    if !matched && names.set.contains_key(id) {
        // It has the id's name until it is called otherwise.
        entry.set("match", table_at(&item.place, [("name", text_at(&item.place, id))]));
    }
    let mut special = Table::new();
    for (key, item) in ours.table(item, &path) {
        let at = format!("{path}.{key}");
        match key {
            "match" => {
                if let Some(found) = matching(ours, item, &at) {
                    entry.set("match", found);
                }
            }
            // Known already.
            "set-name" if matches!(item.value, Value::Text(_)) => {}
            "dhcp4" => entry.set("dhcp", item.clone()),
            "addresses" => entry.set("addresses", list_at(&item.place, addresses(ours, item, &at))),
            "gateway4" | "gateway6" => entry.gateways.push(item.clone()),
            "routes" => {
                for (index, item) in ours.list(item, &at).iter().enumerate() {
                    route(ours, item, &format!("{at}[{index}]"), &mut entry);
                }
            }
            "nameservers" => nameservers(ours, item, &at),
            "mtu" => entry.set("mtu", item.clone()),
            "dhcp4-overrides" => overrides(ours, item, &at, &mut entry),
            "link-local" if item.value == Value::List(Vec::new()) => {
                entry.set("ipv6", text_at(&item.place, "off"))
            }
            "accept-ra" if item.value == Value::Boolean(true) => {}
            "dhcp6" if item.value == Value::Boolean(false) => {}
            "dhcp6" => ours.ignore(item, &at, "nothing: IPv6 comes by router advertisement"),
            "interfaces" if kind != "ethernets" && kind != "vlans" => {
                special.insert("members".to_owned(), names.translated(item));
            }
            "link" if kind == "vlans" => {
                special.insert(key.to_owned(), names.translated(item));
            }
            "id" if kind == "vlans" => {
                special.insert(key.to_owned(), item.clone());
            }
            "parameters" if kind == "bonds" => {
                for (key, item) in ours.table(item, &at) {
                    match key {
                        "mode" => {
                            special.insert("mode".to_owned(), item.clone());
                        }
                        _ => ours.ignore(item, &format!("{at}.{key}"), "mode"),
                    }
                }
            }
            _ if OF_COURSE.contains(&key) => {}
            _ => ours.ignore(item, &at, "see the network section of the documentation"),
        }
    }
    let key = match kind {
        "bonds" => "bond",
        "vlans" => "vlan",
        "bridges" => "bridge",
        _ => return entry.finish(ours),
    };
    entry.set(key, Item { value: Value::Table(special), place: item.place.clone() });
    entry.finish(ours);
}

/// One of `network.interfaces`, as it grows.
pub(super) struct Entry {
    table: Table,
    pub(super) gateways: Vec<Item>,
    pub(super) routes: Vec<Item>,
    pub(super) addresses: Vec<Item>,
    item: Item,
}

impl Entry {
    pub(super) fn new(item: &Item, name: Option<&str>) -> Self {
        let name = name.map(|name| ("name".to_owned(), text_at(&item.place, name)));
        let table = Table::from_iter(name);
        Self { table, gateways: Vec::new(), routes: Vec::new(), addresses: Vec::new(), item: item.clone() }
    }

    pub(super) fn set(&mut self, key: &str, item: Item) {
        self.table.insert(key.to_owned(), item);
    }

    pub(super) fn finish(mut self, ours: &mut Mapping) {
        let place = self.item.place;
        if let [gateway] = &self.gateways[..] {
            self.table.insert("gateway".to_owned(), gateway.clone());
            self.gateways.clear();
        }
        let lists = [("gateway", self.gateways), ("routes", self.routes), ("addresses", self.addresses)];
        for (key, items) in lists.into_iter().filter(|(_, items)| !items.is_empty()) {
            self.table.insert(key.to_owned(), list_at(&place, items));
        }
        // Neither cloud-init nor netplan asks for DHCP by itself.
        self.table
            .entry("dhcp".to_owned())
            .or_insert_with(|| Item { value: Value::Boolean(false), place: place.clone() });
        ours.push(&["network", "interfaces"], Item { value: Value::Table(self.table), place });
    }
}

fn matching(ours: &mut Mapping, item: &Item, path: &str) -> Option<Item> {
    let mut entries = Vec::new();
    // Nothing to match is every port.
    let any = matches!(&item.value, Value::Table(table) if table.is_empty());
    for (key, item) in ours.table(item, path) {
        match key {
            "macaddress" => entries.push(("mac", item.clone())),
            "name" => entries.push(("name", item.clone())),
            "driver" => entries.push(("driver", item.clone())),
            _ => ours.ignore(item, &format!("{path}.{key}"), "macaddress, name and driver"),
        }
    }
    (any || !entries.is_empty()).then(|| table_at(&item.place, entries))
}

/// Addresses may have options of their own below them.
fn addresses(ours: &mut Mapping, item: &Item, path: &str) -> Vec<Item> {
    let mut found = Vec::new();
    for (index, item) in ours.list(item, path).iter().enumerate() {
        match &item.value {
            Value::Table(table) => {
                ours.ignore(item, &format!("{path}[{index}]"), "the address alone");
                found.extend(table.keys().map(|address| text_at(&item.place, address.as_str())));
            }
            _ => found.push(item.clone()),
        }
    }
    found
}

fn route(ours: &mut Mapping, item: &Item, path: &str, entry: &mut Entry) {
    let mut entries = Vec::new();
    for (key, item) in ours.table(item, path) {
        match key {
            "to" => entries.push(("to", item.clone())),
            "via" => entries.push(("via", item.clone())),
            "metric" => entries.push(("metric", item.clone())),
            _ => ours.ignore(item, &format!("{path}.{key}"), "to, via and metric"),
        }
    }
    entry.routes.push(table_at(&item.place, entries));
}

/// They are the machine's here, not a link's.
pub(super) fn nameservers(ours: &mut Mapping, item: &Item, path: &str) {
    for (key, item) in ours.table(item, path) {
        let to = match key {
            "addresses" | "address" => "nameservers",
            "search" => "search",
            _ => {
                ours.ignore(item, &format!("{path}.{key}"), "addresses and search");
                continue;
            }
        };
        append(ours, &["network", to], item, &format!("{path}.{key}"));
    }
}

/// Adds one value or a list of them.
pub(super) fn append(ours: &mut Mapping, to: &[&str], item: &Item, path: &str) {
    if let Value::Text(_) = &item.value {
        return ours.push(to, item.clone());
    }
    for item in ours.list(item, path) {
        ours.push(to, item.clone());
    }
}

fn overrides(ours: &mut Mapping, item: &Item, path: &str, entry: &mut Entry) {
    for (key, item) in ours.table(item, path) {
        match key {
            "route-metric" => entry.set("metric", item.clone()),
            _ if item.value == Value::Boolean(true) => {}
            _ => ours.ignore(item, &format!("{path}.{key}"), "route-metric"),
        }
    }
}
