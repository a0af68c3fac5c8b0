//! What the network tells the rest of the machine: addresses and problems for the board, time servers for the clock, and the
//! leases that are to be given back at the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use ipnet::{Ipv4Net, Ipv6Net};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::devices::Devices;
use super::dhcp::{self, Lease};
use crate::board::Board;
use crate::console::say;

/// What it has for others; clones are handles to the same one. It outlives the tasks that fill it.
#[derive(Clone, Default)]
pub(crate) struct Offers {
    time_servers: Rc<watch::Sender<Vec<IpAddr>>>,
    leased: Rc<RefCell<BTreeMap<u32, Leased>>>,
}

/// A lease, and how to give it back.
struct Leased {
    time_servers: Vec<Ipv4Addr>,
    release: Option<(Rc<UdpSocket>, SocketAddrV4, Vec<u8>)>,
}

impl Offers {
    /// The time servers that DHCP servers name, as they change.
    pub(crate) fn time_servers(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.time_servers.subscribe()
    }

    /// Gives every lease back. For a machine that is switched off; one that starts again will want the same addresses.
    pub(crate) fn release_leases(&self) {
        for (_, leased) in std::mem::take(&mut *self.leased.borrow_mut()) {
            if let Some((socket, server, message)) = leased.release {
                // Nobody is there to hear of a failure, and the lease runs out by itself.
                let to = SockaddrIn::from(server);
                let _ = sendto(socket.as_raw_fd(), &message, &to, MsgFlags::MSG_DONTWAIT);
            }
        }
    }

    pub(super) fn hold(&self, index: u32, lease: &Lease, mac: [u8; 6], socket: Rc<UdpSocket>) {
        let release =
            dhcp::release(lease, mac).ok().and_then(|(server, message)| Some((socket, server?, message)));
        self.leased.borrow_mut().insert(index, Leased { time_servers: lease.ntp.clone(), release });
        self.tell();
    }

    pub(super) fn drop(&self, index: u32) {
        self.leased.borrow_mut().remove(&index);
        self.tell();
    }

    fn tell(&self) {
        let leased = self.leased.borrow();
        let servers: Vec<_> =
            leased.values().flat_map(|leased| leased.time_servers.iter().copied().map(IpAddr::V4)).collect();
        self.time_servers.send_if_modified(|known| {
            let changed = *known != servers;
            *known = servers;
            changed
        });
    }
}

/// The links we set up, as far as the board shows them.
pub(super) struct Status {
    board: Board,
    links: RefCell<BTreeMap<u32, Link>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Link {
    name: String,
    ipv4: BTreeSet<Ipv4Net>,
    ipv6: BTreeSet<Ipv6Net>,
    /// Whether a DHCP client waits for its first answer, with a carrier.
    asking: bool,
}

impl Status {
    pub(super) fn new(board: Board) -> Self {
        Self { board, links: RefCell::default() }
    }

    /// Begins or goes on with a link.
    pub(super) fn link(&self, index: u32, name: &str) {
        self.links.borrow_mut().entry(index).or_default().name = name.to_owned();
    }

    /// Whether the link is one we set up.
    pub(super) fn name(&self, index: u32) -> Option<String> {
        self.links.borrow().get(&index).map(|link| link.name.clone())
    }

    /// The link is gone.
    pub(super) fn forget(&self, index: u32) {
        if let Some(link) = self.links.borrow_mut().remove(&index) {
            self.problem(&link.name, None);
        }
        self.tell();
    }

    pub(super) fn asking(&self, index: u32, asking: bool) {
        self.change(index, |link| link.asking = asking);
    }

    pub(super) fn add_ipv4(&self, index: u32, address: Ipv4Net) {
        self.change(index, |link| {
            if link.ipv4.insert(address) {
                say!("network ready {} {address}", link.name);
            }
        });
    }

    pub(super) fn remove_ipv4(&self, index: u32, address: Ipv4Net) {
        self.change(index, |link| {
            link.ipv4.remove(&address);
        });
    }

    /// Takes over what the kernel says about IPv6, which it sets up itself.
    pub(super) fn see(&self, devices: &Devices) {
        let mut changed = false;
        for (index, link) in self.links.borrow_mut().iter_mut() {
            let Some(device) = devices.get(*index).filter(|device| device.ipv6 != link.ipv6) else {
                continue;
            };
            for address in device.ipv6.difference(&link.ipv6) {
                say!("network ready {} {address}", link.name);
            }
            link.ipv6.clone_from(&device.ipv6);
            changed = true;
        }
        if changed {
            self.tell();
        }
    }

    /// Raises or clears the problem of a link.
    pub(super) fn problem(&self, link: &str, text: Option<String>) {
        self.board.problem(&format!("network {link}"), text);
    }

    fn change(&self, index: u32, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.borrow_mut().get_mut(&index) {
            change(link);
        }
        self.tell();
    }

    fn tell(&self) {
        let links = self.links.borrow();
        let text = ready(&links).then(|| shown(&links));
        if text.is_some() {
            self.board.mark("network");
        }
        self.board.update(|facts| facts.address = text);
    }
}

/// Whether the machine can be reached. IPv6 comes by itself, and often sooner, on networks that are meant for IPv4; so it is
/// enough only when no DHCP server is being waited for.
fn ready(links: &BTreeMap<u32, Link>) -> bool {
    let ipv4 = links.values().any(|link| !link.ipv4.is_empty());
    let ipv6 = links.values().any(|link| !link.ipv6.is_empty());
    ipv4 || ipv6 && !links.values().any(|link| link.asking)
}

fn shown(links: &BTreeMap<u32, Link>) -> String {
    let link = |link: &Link| {
        let addresses =
            link.ipv4.iter().map(ToString::to_string).chain(link.ipv6.iter().map(ToString::to_string));
        std::iter::once(link.name.clone()).chain(addresses).collect::<Vec<_>>().join(" ")
    };
    let used = links.values().filter(|link| !link.ipv4.is_empty() || !link.ipv6.is_empty());
    used.map(link).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, ipv4: &[&str], ipv6: &[&str], asking: bool) -> Link {
        Link {
            name: name.to_owned(),
            ipv4: ipv4.iter().map(|address| address.parse().unwrap()).collect(),
            ipv6: ipv6.iter().map(|address| address.parse().unwrap()).collect(),
            asking,
        }
    }

    #[test]
    fn ipv6_alone_is_enough_only_when_nobody_waits_for_a_dhcp_server() {
        let links = |asking| BTreeMap::from([(2, link("eth0", &[], &["fec0::1/64"], asking))]);
        assert!(!ready(&links(true)));
        assert!(ready(&links(false)));
    }

    #[test]
    fn the_first_address_is_enough_and_all_are_shown() {
        let mut links = BTreeMap::from([(2, link("eth0", &[], &[], true))]);
        assert!(!ready(&links));
        links.insert(3, link("eth1", &["10.0.0.5/24"], &["fec0::1/64"], false));
        assert!(ready(&links));
        assert_eq!(shown(&links), "eth1 10.0.0.5/24 fec0::1/64");
    }
}
