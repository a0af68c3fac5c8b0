//! Documents as people write them, and mistakes as they make them.

use super::*;
use crate::{Layer, resolve};

/// What is read, and what is said about it, without the name of the file and the line.
fn read(text: &str) -> (Network, Vec<String>) {
    let resolved = resolve(&[Layer::toml("c", text.as_bytes()).unwrap()]);
    let told = resolved.mistakes.iter().map(|mistake| format!("{}: {}", mistake.key, mistake.allowed));
    (resolved.config.network, told.collect())
}

fn network(text: &str) -> Network {
    let (network, told) = read(text);
    assert_eq!(told, Vec::<String>::new());
    network
}

const BOND: &str = r#"
[[network.interfaces]]
name = "eth0"
[[network.interfaces]]
name = "lan1"
match = { mac = "52:54:00:12:34:56" }
mtu = 9000
[[network.interfaces]]
name = "bond0"
mtu = 9000
bond = { members = ["eth0", "lan1"], mode = "802.3ad" }
[[network.interfaces]]
name = "bond0.7"
vlan = { id = 7, link = "bond0" }
addresses = ["10.0.7.5/24", "fd00:7::5/64"]
gateway = ["10.0.7.1", "fd00:7::1"]
routes = [{ to = "10.1.0.0/16", via = "10.0.7.2", metric = 50 }, { to = "default", via = "fe80::1" }]
[[network.interfaces]]
name = "br0"
bridge = { members = ["bond0.8"] }
[[network.interfaces]]
name = "bond0.8"
vlan = { id = 8, link = "bond0" }
"#;

#[test]
fn links_are_stacked_and_only_those_on_top_have_addresses() {
    let network = network(BOND);
    let by_name = |name: &str| network.interfaces.iter().find(|i| i.name.as_deref() == Some(name)).unwrap();
    let uses = |name| network.uses_dhcp(by_name(name));
    assert_eq!(["eth0", "lan1", "bond0", "bond0.7", "bond0.8"].map(uses), [false; 5]);
    assert!(uses("br0"), "nothing else is known of it");
    assert_eq!(network.master_of(by_name("eth0")), Some("bond0"));
    assert_eq!(network.master_of(by_name("bond0")), None);
    let vlan = by_name("bond0.7");
    assert_eq!((vlan.link(), vlan.gateways.len()), (Some("bond0"), 2));
    assert_eq!(vlan.routes[1].to, "::/0".parse().unwrap());
    assert!(matches!(&by_name("bond0").kind, Kind::Bond { mode: BondMode::Lacp, .. }));
}

#[test]
fn dhcp_is_what_a_port_does_unless_it_has_addresses() {
    let network = network(
        "[[network.interfaces]]\nname = \"a\"\nmtu = 9000\n[[network.interfaces]]\nname = \"b\"\naddresses = [\"10.0.0.5/24\"]\n\
         [[network.interfaces]]\nname = \"c\"\naddresses = [\"10.0.1.5/24\"]\ndhcp = true\n",
    );
    let uses: Vec<_> = network.interfaces.iter().map(|interface| network.uses_dhcp(interface)).collect();
    assert_eq!(uses, [true, false, true]);
}

#[test]
fn each_mistake_is_told_with_its_key_and_what_is_allowed() {
    let one = |rest: &str| format!("[[network.interfaces]]\nname = \"a\"\n{rest}\n");
    let two =
        |first: &str, second: &str| one(first) + &format!("[[network.interfaces]]\nname = \"b\"\n{second}\n");
    let cases = [
        (one("addresses = [\"10.0.0.5/33\"]"), "addresses[0]: ADDRESS/PREFIX such as"),
        (one("addresses = [\"10.0.0.0/24\"]"), "addresses[0]: the address of one machine"),
        (one("addresses = [\"10.0.0.5/24\", \"10.0.0.5/16\"]"), "addresses[1]: each address once"),
        (
            two("addresses = [\"10.0.0.5/24\"]", "addresses = [\"10.0.0.5/24\"]"),
            "addresses[0]: each address once",
        ),
        (one("addresses = [\"10.0.0.5/24\"]\ngateway = \"10.0.1.1\""), "gateway: an address in 10.0.0.0/24"),
        (one("addresses = [\"10.0.0.5/24\"]\ngateway = \"10.0.0.5\""), "gateway: another machine"),
        (
            one("dhcp = false\ngateway = \"10.0.1.1\""),
            "gateway: a next hop in the network of an address: none",
        ),
        (
            one("addresses = [\"10.0.0.5/24\"]\ngateway = [\"10.0.0.1\", \"10.0.0.2\"]"),
            "gateway[1]: one gateway for IPv4",
        ),
        (
            one("addresses = [\"10.0.0.5/24\"]\nroutes = [{ to = \"10.1.0.0/16\", via = \"10.2.0.1\" }]"),
            "routes[0].via: an address in 10.0.0.0/24",
        ),
        (one("routes = [{ to = \"10.1.0.5/16\" }]"), "routes[0].to: a network, such as 10.1.0.0/16"),
        (
            one("routes = [{ to = \"10.1.0.0/16\", via = \"fd00::1\" }]"),
            "routes[0].via: an address of the same family",
        ),
        (one("routes = [{ via = \"10.1.0.1\" }]"), "routes[0]: to, and via or metric"),
        (one("mtu = 100"), "mtu: a whole number from 576"),
        (one("mtu = 1000"), "mtu: 1280 or more, or ipv6"),
        (two("mtu = 1500", "mtu = 9000\nvlan = { id = 1, link = \"a\" }"), "mtu: 1500 or less"),
        (two("", "vlan = { id = 0, link = \"a\" }"), "vlan.id: a whole number from 1 to 4094"),
        (two("", "vlan = { id = 4095, link = \"a\" }"), "vlan.id: a whole number from 1 to 4094"),
        (
            one("vlan = { id = 5, link = \"x\" }"),
            "vlan.link: the name of another of network.interfaces (there is none",
        ),
        (one("vlan = { id = 5 }"), "vlan: id and link"),
        (
            two("", "bond = { members = [\"a\", \"x\"] }"),
            "bond.members[1]: the name of another of network.interfaces (a)",
        ),
        (two("", "bond = { members = [\"a\"], mode = \"fast\" }"), "bond.mode: balance-rr, active-backup"),
        (one("bond = { members = [] }"), "bond.members: the names of one interface or more"),
        (one("bond = { mode = \"802.3ad\" }"), "bond: members: the names"),
        (one("bridge = { members = [\"a\"] }"), "bridge.members[0]: another interface: this one would"),
        (two("", "bridge = { members = [\"a\", \"a\"] }"), "bridge.members[1]: each interface in one bond"),
        (two("dhcp = true", "bridge = { members = [\"a\"] }"), "dhcp: false: the interface is part of b"),
        (two("addresses = [\"10.0.0.5/24\"]", "bridge = { members = [\"a\"] }"), "addresses: nothing here"),
        (two("bridge = {}", "bridge = { members = [\"a\"] }"), "bridge.members[0]: a port, a bond or a VLAN"),
        (two("bridge = {}", "bond = { members = [\"a\"] }"), "bond.members[0]: a port: a bond"),
        (
            two("vlan = { id = 5, link = \"b\" }", "bridge = { members = [\"a\"] }"),
            "vlan.link: another interface: this one would",
        ),
        (one("match = {}\nbridge = {}"), "match: name alone"),
        ("[[network.interfaces]]\nmatch = {}\nbridge = {}".to_owned(), "bridge: name beside it"),
        (
            two("", "vlan = { id = 5, link = \"a\" }\nbridge = {}"),
            "interfaces[1]: one of vlan, bond and bridge",
        ),
        (
            "[[network.interfaces]]\nname = \"a\"\n[[network.interfaces]]\nname = \"a\"".to_owned(),
            "name: each interface once",
        ),
        ("[[network.interfaces]]\nname = \"lo\"".to_owned(), "name: 1 to 15"),
        ("[[network.interfaces]]\nmtu = 1500".to_owned(), "interfaces[0]: name, or match"),
        (
            "[[network.interfaces]]\nmatch = { mac = \"52:54:00\" }".to_owned(),
            "match.mac: a hardware address",
        ),
        (
            "[[network.interfaces]]\nmatch = { mac = \"52:54:00:12:34:56\" }\n".repeat(2),
            "interfaces[1].match: each hardware address once",
        ),
        ("[network]\nnameservers = [\"0.0.0.0\"]".to_owned(), "nameservers[0]: the address of one machine"),
    ];
    for (text, expected) in cases {
        let (_, told) = read(&text);
        assert!(told.iter().any(|told| told.contains(expected)), "{text}\n{told:#?}\nwanted {expected:?}");
    }
}

#[test]
fn a_gateway_that_is_reached_over_the_link_or_known_later_is_right() {
    for rest in [
        "addresses = [\"203.0.113.5/32\"]\ngateway = \"198.51.100.1\"",
        "addresses = [\"fd00::5/64\"]\nipv6 = \"off\"\ngateway = \"fe80::1\"",
        "dhcp = true\nroutes = [{ to = \"10.1.0.0/16\", via = \"10.0.0.9\" }]",
        "gateway = \"fd00::1\"",
        "addresses = [\"10.0.0.0/31\"]\ngateway = \"10.0.0.1\"",
    ] {
        network(&format!("[[network.interfaces]]\nname = \"a\"\n{rest}\n"));
    }
}
