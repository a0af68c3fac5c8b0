//! What the kernel says about its links, kept current by its notifications. One writer, any number of watchers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::Ipv6Net;
use node_config::network::Match;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, State,
};
use rtnetlink::sys::SocketAddr;
use tokio::sync::watch;

const SYS: &str = "/sys/class/net";

/// Notifications, as the connection hands them out.
pub(super) type Notifications = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Every link there is, by index.
#[derive(Debug, Default)]
pub(super) struct Devices(BTreeMap<u32, Device>);

/// One link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    /// Its Ethernet address now.
    pub(super) mac: Option<[u8; 6]>,
    /// The address it was made with, which a bond does not change.
    permanent_mac: Option<[u8; 6]>,
    /// What made it, such as `vlan` or `veth`; none for hardware.
    kind: Option<String>,
    /// Whether it is administratively up.
    pub(super) up: bool,
    /// Whether something is at the other end.
    pub(super) carrier: bool,
    /// The bond or bridge it is part of.
    pub(super) master: Option<u32>,
    /// Its global IPv6 addresses that can be used.
    pub(super) ipv6: BTreeSet<Ipv6Net>,
}

// === impl Devices ===

impl Devices {
    /// Finds a link by name.
    pub(super) fn named(&self, name: &str) -> Option<&Device> {
        self.0.values().find(|device| device.name == name)
    }

    /// Finds a link by index.
    pub(super) fn get(&self, index: u32) -> Option<&Device> {
        self.0.get(&index)
    }

    /// All of them, in the order in which they came to be.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.0.values()
    }

    fn put_link(&mut self, message: &LinkMessage) -> bool {
        let known = self.0.get(&message.header.index);
        let mut device = Device::read(message);
        device.ipv6 = known.map(|known| known.ipv6.clone()).unwrap_or_default();
        let changed = known != Some(&device);
        self.0.insert(device.index, device);
        changed
    }

    fn change_address(&mut self, message: &AddressMessage, there: bool) -> bool {
        let Some(device) = self.0.get_mut(&message.header.index) else { return false };
        let Some(address) = global_ipv6(message) else { return false };
        // A tentative address may still turn out to be somebody else's; a deprecated one is on its way out.
        let unusable =
            AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
        if there && !message.header.flags.intersects(unusable) {
            device.ipv6.insert(address)
        } else {
            device.ipv6.remove(&address)
        }
    }

    /// Takes a notification in; whether something we look at has changed.
    fn apply(&mut self, message: RouteNetlinkMessage) -> bool {
        match message {
            // IPv6 and bridges send link messages of their own family, which tell their part and leave out the rest: a veth without its
            // kind would look like hardware, and a link that leaves a bridge like one that is gone.
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family != AddressFamily::Unspec =>
            {
                false
            }
            RouteNetlinkMessage::NewLink(link) => self.put_link(&link),
            RouteNetlinkMessage::DelLink(link) => self.0.remove(&link.header.index).is_some(),
            RouteNetlinkMessage::NewAddress(address) => self.change_address(&address, true),
            RouteNetlinkMessage::DelAddress(address) => self.change_address(&address, false),
            _ => false,
        }
    }
}

// === impl Device ===

impl Device {
    fn read(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut device =
            Self { index: message.header.index, up: flags.contains(LinkFlags::Up), ..Self::default() };
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let mut running = flags.contains(LinkFlags::LowerUp);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Address(bytes) if ethernet => device.mac = mac(bytes),
                LinkAttribute::PermAddress(bytes) if ethernet => device.permanent_mac = mac(bytes),
                LinkAttribute::Controller(index) => device.master = (*index != 0).then_some(*index),
                // Some drivers do not know; then up is all there is to go by.
                LinkAttribute::OperState(state) => running &= matches!(state, State::Up | State::Unknown),
                LinkAttribute::LinkInfo(infos) => {
                    device.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind_name(kind)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        device.carrier = device.up && running;
        device
    }

    /// Whether it is an Ethernet port of the machine: hardware, and not wireless.
    pub(super) fn is_port(&self) -> bool {
        self.mac.is_some() && self.kind.is_none() && !self.dir().join("phy80211").exists()
    }

    /// Whether everything that `wanted` says is true of this link. What lies on another link carries that one's address, so a
    /// hardware address is looked for among ports only; a veth pair is a port in a container.
    pub(super) fn matches(&self, wanted: &Match) -> bool {
        let own_mac = self.kind.as_deref().is_none_or(|kind| kind == "veth");
        let mac = self.permanent_mac.or(self.mac).filter(|_| own_mac);
        wanted.mac.is_none_or(|wanted| mac == Some(wanted))
            && wanted.name.as_ref().is_none_or(|pattern| fits(pattern, &self.name))
            && wanted
                .driver
                .as_ref()
                .is_none_or(|pattern| self.driver().is_some_and(|driver| fits(pattern, &driver)))
    }

    /// Whether it is of the kind that `ip link` calls so.
    pub(super) fn is_a(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    fn driver(&self) -> Option<String> {
        let target = fs::read_link(self.dir().join("device/driver")).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    fn dir(&self) -> PathBuf {
        Path::new(SYS).join(&self.name)
    }
}

/// Keeps `devices` current, for ever.
pub(super) async fn watch(
    handle: Handle,
    mut notifications: Notifications,
    devices: &watch::Sender<Devices>,
) -> Result<()> {
    read_all(&handle, devices).await?;
    while let Some((message, _)) = notifications.next().await {
        match message.payload {
            NetlinkPayload::InnerMessage(message) => {
                devices.send_if_modified(|devices| devices.apply(message));
            }
            // Notifications were lost.
            NetlinkPayload::Overrun(_) => read_all(&handle, devices).await?,
            _ => {}
        }
    }
    anyhow::bail!("the kernel's notifications ended")
}

async fn read_all(handle: &Handle, devices: &watch::Sender<Devices>) -> Result<()> {
    let links: Vec<_> =
        handle.link().get().execute().try_collect().await.context("failed to list the links")?;
    let addresses: Vec<_> =
        handle.address().get().execute().try_collect().await.context("failed to list the addresses")?;
    devices.send_modify(|devices| {
        *devices = Devices::default();
        for link in &links {
            devices.put_link(link);
        }
        for address in &addresses {
            devices.change_address(address, true);
        }
    });
    Ok(())
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Vlan => "vlan".to_owned(),
        InfoKind::Bond => "bond".to_owned(),
        InfoKind::Bridge => "bridge".to_owned(),
        InfoKind::Veth => "veth".to_owned(),
        _ => "other".to_owned(),
    }
}

fn global_ipv6(message: &AddressMessage) -> Option<Ipv6Net> {
    // Site-local ones are given out still, by QEMU's router for one.
    matches!(message.header.scope, AddressScope::Universe | AddressScope::Site).then_some(())?;
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V6(address)) => net(*address, message.header.prefix_len),
        _ => None,
    })
}

fn net(address: Ipv6Addr, prefix_len: u8) -> Option<Ipv6Net> {
    Ipv6Net::new(address, prefix_len).ok()
}

/// Whether `text` fits `pattern`, where `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).filter(|&at| text.is_char_boundary(at)).any(|at| fits(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("e*s*0", "enp1s0", true),
            ("e*s*0", "enp1s1", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_port_is_known_by_the_address_it_was_made_with() {
        let mac = |last| [2, 0, 0, 0, 0, last];
        let port = Device { mac: Some(mac(9)), permanent_mac: Some(mac(1)), ..Device::default() };
        let wanted = |last| Match { mac: Some(mac(last)), ..Match::default() };
        assert!(port.matches(&wanted(1)) && !port.matches(&wanted(9)));
        let vlan = Device { mac: Some(mac(1)), kind: Some("vlan".to_owned()), ..Device::default() };
        assert!(!vlan.matches(&wanted(1)), "carries the address of the link below");
    }
}
