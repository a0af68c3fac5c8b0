//! The network: loopback, and one Ethernet interface with an address from DHCP or from the configuration.

mod dhcp;
mod links;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};

use self::dhcp::{Client, Event, Lease, Route};
use self::links::Links;
use crate::board::Board;
use crate::config::NodeConfig;
use crate::console::say;
use crate::etc;
use crate::readiness::readable;
use crate::uevent::Listener;

const SYS: &str = "/sys/class/net";
/// `ARPHRD_ETHER` (include/uapi/linux/if_arp.h).
const ETHERNET: &str = "1";
/// The loopback's index is always 1.
const LOOPBACK: u32 = 1;
/// After this the user is told that there is no interface.
const PATIENCE: Duration = Duration::from_secs(20);
/// Marks the problem this module raises.
const TOPIC: &str = "network";

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    index: u32,
    mac: [u8; 6],
}

/// Brings the network up and keeps it, for ever. Owned by the main task; ends only when it cannot go on.
pub(crate) async fn run(config: NodeConfig, hostname: String, board: Board) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("failed to open rtnetlink")?;
    let work = async {
        let links = Links::new(handle);
        links.up(LOOPBACK, None).await.context("failed to bring the loopback up")?;
        let told = config.network.interfaces.first();
        let name = told.and_then(|interface| interface.name.as_deref());
        let interface = find_interface(name, &board).await?;
        links
            .up(interface.index, None)
            .await
            .with_context(|| format!("failed to bring {} up", interface.name))?;
        match told.and_then(static_address) {
            None => keep_lease(&links, &interface, hostname, &board).await,
            Some((address, gateway)) => {
                let default =
                    gateway.map(|gateway| Route { destination: Ipv4Net::default(), gateway: Some(gateway) });
                etc::write_resolv_conf(&config.network.nameservers, None)?;
                apply(&links, &interface, address, default.as_slice(), &board).await?;
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        () = connection => anyhow::bail!("rtnetlink closed the connection"),
        result = work => result,
    }
}

/// The first IPv4 address and the gateway that an interface is given.
fn static_address(interface: &node_config::network::Interface) -> Option<(Ipv4Net, Option<Ipv4Addr>)> {
    let address = interface.addresses.iter().find_map(|address| match address {
        IpNet::V4(address) => Some(*address),
        IpNet::V6(_) => None,
    })?;
    let gateway = match interface.gateway {
        Some(IpAddr::V4(gateway)) => Some(gateway),
        _ => None,
    };
    Some((address, gateway))
}

async fn keep_lease(links: &Links, interface: &Interface, hostname: String, board: &Board) -> Result<()> {
    let client = Client::new(&interface.name, interface.mac, hostname)
        .with_context(|| format!("failed to start DHCP on {}", interface.name))?;
    let handle = async |event| {
        let result = match event {
            Event::Bound(lease) => use_lease(links, interface, &lease, board).await,
            Event::Lost => drop_address(links, interface, board).await,
            Event::Silence => {
                let name = &interface.name;
                let text = format!(
                    "no DHCP server answers on {name}; check the cable and the network, or give skerry.ip=ADDRESS/PREFIX,GATEWAY"
                );
                board.problem(TOPIC, Some(text));
                Ok(())
            }
        };
        if let Err(error) = result {
            board.problem(TOPIC, Some(format!("{error:#}")));
        }
    };
    client.run(handle).await.with_context(|| format!("DHCP on {} failed", interface.name))
}

async fn use_lease(links: &Links, interface: &Interface, lease: &Lease, board: &Board) -> Result<()> {
    if lease.mtu.is_some() {
        links.up(interface.index, lease.mtu).await.context("failed to set the MTU")?;
    }
    let dns: Vec<_> = lease.dns.iter().map(|&server| server.into()).collect();
    etc::write_resolv_conf(&dns, lease.domain.as_deref())?;
    apply(links, interface, lease.address, &lease.routes, board).await
}

async fn apply(
    links: &Links,
    interface: &Interface,
    address: Ipv4Net,
    routes: &[Route],
    board: &Board,
) -> Result<()> {
    let name = &interface.name;
    links
        .configure(interface.index, address, routes)
        .await
        .with_context(|| format!("failed to put {address} on {name}"))?;
    say!("network ready {name} {address}");
    board.problem(TOPIC, None);
    board.mark("network");
    board.update(|facts| facts.address = Some(format!("{name} {address}")));
    Ok(())
}

async fn drop_address(links: &Links, interface: &Interface, board: &Board) -> Result<()> {
    board.update(|facts| facts.address = None);
    board.problem(
        TOPIC,
        Some(format!("the DHCP lease on {} has ended; asking for a new one", interface.name)),
    );
    links.clear(interface.index, None).await.with_context(|| format!("failed to clear {}", interface.name))
}

/// Waits for the wanted interface, or for the first Ethernet one that is a device and not made by software.
async fn find_interface(wanted: Option<&str>, board: &Board) -> Result<Interface> {
    let listener = Listener::open().and_then(readable).context("failed to listen for devices")?;
    let search = async {
        loop {
            listener.get_ref().drain();
            if let Some(interface) = choose(wanted) {
                return Ok::<_, io::Error>(interface);
            }
            listener.readable().await?.clear_ready();
        }
    };
    tokio::pin!(search);
    if let Ok(found) = tokio::time::timeout(PATIENCE, &mut search).await {
        return Ok(found?);
    }
    let text = match wanted {
        Some(name) => format!("there is no interface {name} (skerry.interface); waiting for it"),
        None => "there is no Ethernet interface, or no driver for it; waiting for one".to_owned(),
    };
    board.problem(TOPIC, Some(text));
    Ok(search.await?)
}

fn choose(wanted: Option<&str>) -> Option<Interface> {
    if let Some(name) = wanted {
        return read_interface(name);
    }
    let entries = fs::read_dir(SYS).ok()?;
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let kind = fs::read_to_string(entry.path().join("type")).unwrap_or_default();
            entry.path().join("device").exists() && kind.trim() == ETHERNET
        })
        .filter_map(|entry| read_interface(entry.file_name().to_str()?))
        .collect();
    found.sort_by_key(|interface| interface.index);
    found.into_iter().next()
}

fn read_interface(name: &str) -> Option<Interface> {
    let read = |file: &str| fs::read_to_string(Path::new(SYS).join(name).join(file)).ok();
    Some(Interface {
        name: name.to_owned(),
        index: read("ifindex")?.trim().parse().ok()?,
        mac: parse_mac(read("address")?.trim())?,
    })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_has_six_bytes() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(parse_mac("52:54:00"), None);
    }
}
