//! The bridge, and the veth pair that joins a container to it.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::config::{AttachmentId, Network};
use super::error::Error;
use super::result::{Assigned, Interface, Outcome};
use super::store;
use crate::netlink::{Link, Namespace, Netlink, VethPair, allow_existing};
use crate::sysctl;

/// Joins the container to the bridge, which is made if need be. On failure the caller takes the veth away again.
pub(crate) async fn connect(
    network: &Network,
    id: &AttachmentId,
    namespace_path: &Path,
    addresses: &[IpAddr],
) -> Result<Outcome, Error> {
    let assigned = assign(&network.subnets, addresses);
    let namespace = Namespace::open(namespace_path)?;
    let home = Namespace::current()?;
    let host = Netlink::open()?;
    let container = Netlink::open_in(&namespace)?;

    let bridge = ensure_bridge(&host, network).await?;
    let host_name = host_interface(id);
    let pair = VethPair {
        name: &id.interface,
        mac: assigned.first().map(|first| mac_for(first.address.addr())),
        peer: &host_name,
        peer_namespace: &home,
        mtu: network.mtu,
    };
    container.add_veth(pair).await?;
    let host_end = host.link(&host_name).await?;
    host.attach(&host_end, &bridge, network.hairpin).await?;
    let inner = configure(&container, &namespace, network, &id.interface, &assigned).await?;

    let describe = |link: &Link, sandbox: Option<String>| Interface {
        name: link.name.clone(),
        mac: link.mac_text(),
        mtu: link.mtu,
        sandbox,
    };
    let sandbox = namespace_path.to_string_lossy().into_owned();
    Ok(Outcome {
        interfaces: vec![describe(&bridge, None), describe(&host_end, None), describe(&inner, Some(sandbox))],
        container: 2,
        addresses: assigned,
        default_routes: network.is_default_gateway,
    })
}

/// Takes the container off the bridge. One end of a veth pair takes the other with it, so this works without the
/// container's namespace, too.
pub(crate) async fn disconnect(id: &AttachmentId) -> Result<(), Error> {
    Ok(Netlink::open()?.remove_link(&host_interface(id)).await?)
}

/// Compares the kernel's state with what [`connect`] made.
pub(crate) async fn check(
    network: &Network,
    id: &AttachmentId,
    namespace_path: &Path,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let changed = |problem: String| Err(Error::Changed { problem });
    let host = Netlink::open()?;
    let bridge = host.link(&network.bridge).await?;
    let host_name = host_interface(id);
    match host.find_link(&host_name).await? {
        Some(port) if port.controller == Some(bridge.index) => {}
        Some(_) => return changed(format!("'{host_name}' is not a port of '{}'", network.bridge)),
        None => return changed(format!("no interface '{host_name}'")),
    }
    let container = Netlink::open_in(&Namespace::open(namespace_path)?)?;
    let Some(inner) = container.find_link(&id.interface).await? else {
        return changed(format!("no interface '{}' in the container", id.interface));
    };
    if !inner.up {
        return changed(format!("'{}' is down", id.interface));
    }
    let present = container.addresses(&inner).await?;
    for wanted in assign(&network.subnets, addresses) {
        if !present.contains(&wanted.address) {
            return changed(format!("'{}' lacks address {}", id.interface, wanted.address));
        }
    }
    let routes = container.default_routes().await?;
    let routed = |address: &IpAddr| {
        routes.iter().any(|route| route.gateway.is_some_and(|by| by.is_ipv6() == address.is_ipv6()))
    };
    if network.is_default_gateway && !addresses.iter().all(routed) {
        return changed("the container lacks a default route".to_owned());
    }
    Ok(())
}

/// The host's end of an attachment. Derived from the identifier, so DEL needs no record to find it.
pub(crate) fn host_interface(id: &AttachmentId) -> String {
    // FNV-1a, 64 bits: stable for ever, and 44 bits of it fit into an interface name.
    let bytes = id.container.bytes().chain([0]).chain(id.interface.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("veth{:011x}", hash >> 20)
}

/// A hardware address made of the IP address: whoever gets this IP address next has the same hardware address, so no
/// neighbour cache is ever stale. Locally administered prefix 0a:58, as Docker and kubenet chose.
fn mac_for(address: IpAddr) -> [u8; 6] {
    let tail = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let octets = address.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}

fn assign(subnets: &[IpNet], addresses: &[IpAddr]) -> Vec<Assigned> {
    let in_subnet = |address: &IpAddr| {
        let subnet = subnets.iter().find(|subnet| subnet.contains(address))?;
        let address = IpNet::new(*address, subnet.prefix_len()).ok()?;
        Some(Assigned { address, gateway: store::gateway(*subnet) })
    };
    addresses.iter().filter_map(in_subnet).collect()
}

async fn ensure_bridge(host: &Netlink, network: &Network) -> Result<Link, Error> {
    let name = &network.bridge;
    let gateways: Vec<IpNet> = network
        .subnets
        .iter()
        .map(|subnet| {
            IpNet::new(store::gateway(*subnet), subnet.prefix_len()).expect("the subnet's own prefix")
        })
        .collect();
    let bridge = match host.find_link(name).await? {
        Some(bridge) => bridge,
        None => {
            // Another pod's ADD may win this race.
            allow_existing(host.add_bridge(name, mac_for(gateways[0].addr()), network.mtu).await)?;
            host.link(name).await?
        }
    };
    if !bridge.is_bridge {
        let problem = format!("interface '{name}' is there, but is not a bridge");
        return Err(Error::InvalidConfig { key: "bridge", problem });
    }
    if !bridge.up {
        host.set_up(&bridge).await?;
    }
    if let Some(mtu) = network.mtu.filter(|mtu| *mtu != bridge.mtu) {
        host.set_mtu(&bridge, mtu).await?;
    }
    if network.is_default_gateway {
        set_gateways(host, &bridge, &gateways, network.force_address).await?;
        enable_forwarding(&gateways)?;
    }
    Ok(bridge)
}

/// Gives the bridge the gateway addresses. With `force` others of the same families go (the node got a new subnet).
async fn set_gateways(host: &Netlink, bridge: &Link, wanted: &[IpNet], force: bool) -> Result<(), Error> {
    let present = host.addresses(bridge).await?;
    for gateway in wanted {
        if present.contains(gateway) {
            continue;
        }
        let same_family = |other: &&IpNet| other.addr().is_ipv6() == gateway.addr().is_ipv6();
        for other in present.iter().filter(same_family).filter(|other| !wanted.contains(other)) {
            if !force {
                let problem = format!("bridge '{}' has address {other} instead of {gateway}", bridge.name);
                return Err(Error::InvalidConfig { key: "bridge", problem });
            }
            host.remove_address(bridge, *other).await?;
        }
        host.add_address(bridge, *gateway).await?;
    }
    Ok(())
}

fn enable_forwarding(gateways: &[IpNet]) -> Result<(), Error> {
    for gateway in gateways {
        let family = if gateway.addr().is_ipv6() { "ipv6" } else { "ipv4" };
        sysctl::set(&format!("net/{family}/conf/all/forwarding"), "1")?;
    }
    Ok(())
}

async fn configure(
    container: &Netlink,
    namespace: &Namespace,
    network: &Network,
    interface: &str,
    assigned: &[Assigned],
) -> Result<Link, Error> {
    if assigned.iter().any(|assigned| assigned.gateway.is_ipv6()) {
        namespace.enter(|| sysctl::set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0"))??;
    }
    let lo = container.link("lo").await?;
    container.set_up(&lo).await?;
    let link = container.link(interface).await?;
    for assigned in assigned {
        container.add_address(&link, assigned.address).await?;
    }
    container.set_up(&link).await?;
    if network.is_default_gateway {
        for assigned in assigned {
            container.add_default_route(&link, assigned.gateway).await?;
        }
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_interface_name_fits_and_depends_on_both_parts() {
        let name = |container: &str, interface: &str| {
            host_interface(&AttachmentId { container: container.to_owned(), interface: interface.to_owned() })
        };
        assert_eq!(name("a", "eth0").len(), 15);
        assert_eq!(name("a", "eth0"), name("a", "eth0"));
        assert_ne!(name("a", "eth0"), name("a", "eth1"));
        assert_ne!(name("a", "eth0"), name("ae", "th0"));
    }

    #[test]
    fn the_hardware_address_follows_the_ip_address() {
        assert_eq!(mac_for("10.42.0.7".parse().unwrap()), [0x0a, 0x58, 10, 42, 0, 7]);
    }
}
