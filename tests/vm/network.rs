//! Ports, VLANs, bonds and bridges as a configuration asks, and IPv6 as a router says.

use qemu::{Lan, Start, State};
use tests::machine::{boot, machine};

/// Two cards: eth0 leads to the host, whose router gives IPv4 by DHCP and IPv6 by advertisement, and eth1 to nobody.
const STACKED: &str = r#"
[node]
role = "server"
hostname = "skerry"

[[network.interfaces]]
name = "uplink"
match = { mac = "52:54:00:53:00:01" }

[[network.interfaces]]
name = "eth1"
mtu = 1600

[[network.interfaces]]
name = "bond0"
mtu = 1600
bond = { members = ["eth1"], mode = "active-backup" }

[[network.interfaces]]
name = "bond0.5"
vlan = { id = 5, link = "bond0" }
addresses = ["10.5.0.2/24"]
routes = [{ to = "10.6.0.0/16", via = "10.5.0.1" }]

[[network.interfaces]]
name = "bond0.7"
vlan = { id = 7, link = "bond0" }

[[network.interfaces]]
name = "br0"
bridge = { members = ["bond0.7"] }
addresses = ["10.7.0.2/24"]
ipv6 = "off"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn links_are_found_renamed_made_and_stacked() {
    let lan = Lan::free(1).unwrap();
    let mut vm = boot(machine().config(STACKED).lan(lan).state(State::None)).await;
    vm.line("skerry: network ready uplink 10.0.2.15/24").await;
    vm.line("skerry: network ready uplink fec0::").await;
    vm.line("skerry: network ready bond0.5 10.5.0.2/24").await;
    vm.line("skerry: network ready br0 10.7.0.2/24").await;
    vm.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_asks_for_an_address_and_none_holds_up_a_boot_into_memory() {
    // The second card has a carrier and no server.
    let lan = Lan::free(1).unwrap();
    let mut vm = boot(machine().start(Start::Netboot).lan(lan).state(State::None)).await;
    vm.line("skerry: network ready eth0 10.0.2.15/24").await;
    vm.ready().await;
    let told = vm.line("no DHCP server answers on eth1").await;
    assert!(told.contains("check the cable"), "{told}");
    vm.power_off().await;
}
