//! Host ports: table `skerry-hostports`, in which a pod's port is one element of a map.
//!
//! The chains are the same for every pod and are written anew with each ADD, in the same transaction as the pod's elements, so
//! the table is right even if someone has flushed the rules. A packet to a host port meets them so:
//!
//! ```text
//! prerouting, output (nat)   DNAT by bound-ports (address . protocol . port), else by any-ports (protocol . port)
//! postrouting (nat)          masquerade what came from 127.0.0.0/8, and pods that reach themselves
//! input (filter)             drop what comes from outside to 127.0.0.0/8: localhost ports need `route_localnet`
//! ```
//!
//! IPv6 has no way to route ::1, so host ports are not reachable there; the reference plugin has the same limit.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::config::{Network, PortMapping};
use super::error::Error;
use super::store::{Attachment, Store};
use crate::{nft, sysctl};

const RULE_SET: &str = "skerry-hostports";

const TABLE: &str = "\
add table inet skerry-hostports
add map inet skerry-hostports any-ports-4 { type inet_proto . inet_service : ipv4_addr . inet_service ; }
add map inet skerry-hostports any-ports-6 { type inet_proto . inet_service : ipv6_addr . inet_service ; }
add map inet skerry-hostports bound-ports-4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }
add map inet skerry-hostports bound-ports-6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service ; }
add set inet skerry-hostports hairpin-4 { type ipv4_addr . ipv4_addr ; }
add set inet skerry-hostports hairpin-6 { type ipv6_addr . ipv6_addr ; }
";

/// The services' chains have priority -100 and go first: a load balancer's address may be a node's address, too.
const CHAINS: &str = "\
add chain inet skerry-hostports dispatch
add chain inet skerry-hostports prerouting { type nat hook prerouting priority -95 ; policy accept ; }
add chain inet skerry-hostports output { type nat hook output priority -95 ; policy accept ; }
add chain inet skerry-hostports postrouting { type nat hook postrouting priority 100 ; policy accept ; }
add chain inet skerry-hostports input { type filter hook input priority -5 ; policy accept ; }
flush chain inet skerry-hostports dispatch
flush chain inet skerry-hostports prerouting
flush chain inet skerry-hostports output
flush chain inet skerry-hostports postrouting
flush chain inet skerry-hostports input
add rule inet skerry-hostports dispatch meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @bound-ports-4
add rule inet skerry-hostports dispatch meta nfproto ipv4 dnat ip to meta l4proto . th dport map @any-ports-4
add rule inet skerry-hostports dispatch ip6 daddr ::1 return
add rule inet skerry-hostports dispatch meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @bound-ports-6
add rule inet skerry-hostports dispatch meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @any-ports-6
add rule inet skerry-hostports prerouting fib daddr type local jump dispatch
add rule inet skerry-hostports output fib daddr type local jump dispatch
add rule inet skerry-hostports postrouting ip saddr 127.0.0.0/8 ct status dnat masquerade
add rule inet skerry-hostports postrouting ip saddr . ip daddr @hairpin-4 masquerade
add rule inet skerry-hostports postrouting ip6 saddr . ip6 daddr @hairpin-6 masquerade
add rule inet skerry-hostports input iifname != \"lo\" ip daddr 127.0.0.0/8 ct status & dnat != dnat drop
";

/// Opens the attachment's host ports. When the kernel refuses, ports of containers that are gone are closed first.
pub(crate) async fn open(network: &Network, attachment: &Attachment) -> Result<(), Error> {
    if attachment.port_mappings.is_empty() {
        return Ok(());
    }
    let elements = elements(&attachment.port_mappings, &attachment.addresses);
    let script = format!("{TABLE}{CHAINS}{}", commands("add", &elements));
    if let Err(refused) = nft::apply(RULE_SET, &script).await {
        // As a rule a port of a container that is gone; else say who has it.
        let gone = Store::lock(&network.data_dir)?.reclaim()?;
        for leaked in &gone {
            close(leaked).await?;
        }
        if gone.is_empty() || nft::apply(RULE_SET, &script).await.is_err() {
            return Err(holder(network, attachment)?.unwrap_or(Error::Nft(refused)));
        }
    }
    // Replies to what came from 127.0.0.1 are routed back through the bridge.
    let localnet = format!("net/ipv4/conf/{}/route_localnet", network.bridge);
    if sysctl::exists(&localnet) {
        sysctl::set(&localnet, "1")?;
    }
    Ok(())
}

/// Closes the attachment's host ports; those that are closed already are a success.
pub(crate) async fn close(attachment: &Attachment) -> Result<(), Error> {
    let elements = elements(&attachment.port_mappings, &attachment.addresses);
    if elements.is_empty() || nft::apply(RULE_SET, &removal(&elements)).await.is_ok() {
        return Ok(());
    }
    // An element that is another pod's now makes the kernel refuse the whole transaction; the others are still ours.
    for element in elements {
        match nft::apply(RULE_SET, &removal(std::slice::from_ref(&element))).await {
            Ok(()) | Err(nft::Error::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One element of a map or set: `key : value` or `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Element {
    container: String,
    key: String,
    value: Option<String>,
}

/// nft 1.0 knows no "delete if there": adding the very element first makes deleting it safe.
fn removal(elements: &[Element]) -> String {
    format!("{TABLE}{}{}", commands("add", elements), commands("delete", elements))
}

fn commands(verb: &str, elements: &[Element]) -> String {
    let mut script = String::new();
    for Element { container, key, value } in elements {
        let value = value.as_ref().map(|value| format!(" : {value}")).unwrap_or_default();
        writeln!(script, "{verb} element inet {RULE_SET} {container} {{ {key}{value} }}")
            .expect("writing to a string");
    }
    script
}

fn elements(mappings: &[PortMapping], addresses: &[IpAddr]) -> Vec<Element> {
    let mut elements = Vec::new();
    for address in addresses {
        let family = if address.is_ipv6() { 6 } else { 4 };
        let before = elements.len();
        for mapping in mappings {
            let Some(bound) = bound_address(mapping, *address) else { continue };
            let port = format!("{} . {}", mapping.protocol.text(), mapping.host_port);
            let (container, key) = match bound {
                Some(bound) => (format!("bound-ports-{family}"), format!("{bound} . {port}")),
                None => (format!("any-ports-{family}"), port),
            };
            let value = Some(format!("{address} . {}", mapping.container_port));
            elements.push(Element { container, key, value });
        }
        if elements.len() > before {
            let key = format!("{address} . {address}");
            elements.push(Element { container: format!("hairpin-{family}"), key, value: None });
        }
    }
    elements
}

/// `None`: not for this address family. `Some(None)`: every address of the host.
fn bound_address(mapping: &PortMapping, pod: IpAddr) -> Option<Option<IpAddr>> {
    let Ok(bound) = mapping.host_ip.parse::<IpAddr>() else { return Some(None) };
    if bound.is_ipv6() != pod.is_ipv6() {
        return None;
    }
    Some((!bound.is_unspecified()).then_some(bound))
}

/// Which other attachment has one of the wanted ports, as an error.
fn holder(network: &Network, wanting: &Attachment) -> Result<Option<Error>, Error> {
    let wanted = elements(&wanting.port_mappings, &wanting.addresses);
    for other in Store::lock(&network.data_dir)?.attachments()? {
        if other.id == wanting.id {
            continue;
        }
        for present in elements(&other.port_mappings, &other.addresses) {
            let same = |element: &&Element| {
                element.container == present.container
                    && element.key == present.key
                    && present.value.is_some()
            };
            if wanted.iter().find(same).is_some() {
                return Ok(Some(Error::HostPortTaken { port: present.key, owner: other.id.container }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::Protocol;

    fn mapping(host_port: u16, host_ip: &str) -> PortMapping {
        PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: host_ip.to_owned() }
    }

    #[test]
    fn a_mapping_is_one_element_per_address_family() {
        let addresses = ["10.42.0.2", "fd00::2"].map(|text| text.parse().unwrap());
        let mappings = [mapping(8080, ""), mapping(8081, "192.0.2.1"), mapping(8082, "0.0.0.0")];
        let expected = "\
add element inet skerry-hostports any-ports-4 { tcp . 8080 : 10.42.0.2 . 80 }
add element inet skerry-hostports bound-ports-4 { 192.0.2.1 . tcp . 8081 : 10.42.0.2 . 80 }
add element inet skerry-hostports any-ports-4 { tcp . 8082 : 10.42.0.2 . 80 }
add element inet skerry-hostports hairpin-4 { 10.42.0.2 . 10.42.0.2 }
add element inet skerry-hostports any-ports-6 { tcp . 8080 : fd00::2 . 80 }
add element inet skerry-hostports hairpin-6 { fd00::2 . fd00::2 }
";
        assert_eq!(commands("add", &elements(&mappings, &addresses)), expected);
    }
}
