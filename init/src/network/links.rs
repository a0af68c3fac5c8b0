//! Links, addresses and routes: what we ask of the kernel, by rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use node_config::network::BondMode;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{BondLacpRate, BondMode as KernelBondMode, BondXmitHashPolicy};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{
    Error, Handle, LinkBond, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVlan, RouteMessageBuilder,
};

/// How often a bond looks at the carrier of its members, in milliseconds.
const BOND_MONITOR_MS: u32 = 100;

/// A connection to the kernel's tables of links, addresses and routes.
#[derive(Clone)]
pub(super) struct Links(Handle);

/// A link of ours to be made.
#[derive(Debug, Clone, Copy)]
pub(super) enum New {
    /// A VLAN of this number on the link with this index.
    Vlan { id: u16, link: u32 },
    /// A bond.
    Bond(BondMode),
    /// A bridge.
    Bridge,
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// What it leads to.
    pub(super) to: IpNet,
    /// The next hop; none means that the destination is on the link.
    pub(super) via: Option<IpAddr>,
    /// Its preference; a lower one wins.
    pub(super) metric: u32,
    /// Whether a DHCP server asked for it.
    pub(super) by_dhcp: bool,
}

impl Links {
    /// Over an open connection.
    pub(super) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// Brings the link up.
    pub(super) async fn up(&self, index: u32) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).up()).await
    }

    /// Takes the link down.
    pub(super) async fn down(&self, index: u32) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).down()).await
    }

    /// Sets the biggest packet.
    pub(super) async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).mtu(mtu)).await
    }

    /// Gives the link, which must be down, another name.
    pub(super) async fn rename(&self, index: u32, name: &str) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).name(name)).await
    }

    /// Makes the link part of a bond, for which it must be down, or of a bridge.
    pub(super) async fn join(&self, index: u32, master: u32) -> Result<(), Error> {
        self.change(LinkUnspec::new_with_index(index).controller(master)).await
    }

    /// Makes a link, which is down at first. A bond or a bridge gets `mac`, lest its address depend on which member comes first.
    pub(super) async fn add(&self, name: &str, new: New, mac: Option<[u8; 6]>) -> Result<(), Error> {
        match self.try_add(name, new, mac).await {
            // The request made the kernel load the module `bonding`, which makes a `bond0` of its own, in another mode.
            Err(Error::NetlinkError(error))
                if error.raw_code() == -nix::libc::EEXIST && matches!(new, New::Bond(_)) =>
            {
                self.remove(name).await?;
                self.try_add(name, new, mac).await
            }
            result => result,
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        let links: Vec<_> = self.0.link().get().match_name(name).execute().try_collect().await?;
        for link in links {
            self.0.link().del(link.header.index).execute().await?;
        }
        Ok(())
    }

    async fn try_add(&self, name: &str, new: New, mac: Option<[u8; 6]>) -> Result<(), Error> {
        let message = match new {
            New::Vlan { id, link } => LinkVlan::new(name, link, id).build(),
            New::Bond(mode) => {
                let bond = LinkBond::new(name).mode(kernel_mode(mode)).miimon(BOND_MONITOR_MS);
                let bond = match mode {
                    BondMode::Lacp => {
                        bond.ad_lacp_rate(BondLacpRate::Fast).xmit_hash_policy(BondXmitHashPolicy::Layer34)
                    }
                    BondMode::BalanceXor => bond.xmit_hash_policy(BondXmitHashPolicy::Layer34),
                    _ => bond,
                };
                with_mac(bond, mac).build()
            }
            // Without the spanning tree protocol there is nothing to wait for before a port forwards.
            New::Bridge => with_mac(LinkBridge::new(name).forward_delay(0), mac).build(),
        };
        self.0.link().add(message).execute().await
    }

    /// Puts an address on the link.
    pub(super) async fn add_address(&self, index: u32, address: IpNet) -> Result<(), Error> {
        self.0.address().add(index, address.addr(), address.prefix_len()).replace().execute().await
    }

    /// Takes an address off the link, if it is there; the kernel removes the routes that depended on it.
    pub(super) async fn remove_address(&self, index: u32, address: IpNet) -> Result<(), Error> {
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        let mut found = None;
        // Read to the end: the answer shares the socket with the next request.
        while let Some(message) = addresses.try_next().await? {
            let here = message.header.prefix_len == address.prefix_len()
                && message.attributes.iter().any(|attribute| match attribute {
                    AddressAttribute::Local(here) | AddressAttribute::Address(here) => {
                        *here == address.addr()
                    }
                    _ => false,
                });
            if here {
                found = Some(message);
            }
        }
        match found {
            Some(message) => self.0.address().del(message).execute().await,
            None => Ok(()),
        }
    }

    /// Adds a route through the link, or replaces the one to the same destination with the same metric.
    pub(super) async fn add_route(&self, index: u32, route: &Route) -> Result<(), Error> {
        self.0.route().add(route_message(index, route)).replace().execute().await
    }

    /// Removes a route, if it is there.
    pub(super) async fn remove_route(&self, index: u32, route: &Route) -> Result<(), Error> {
        match self.0.route().del(route_message(index, route)).execute().await {
            // It went with its address.
            Err(Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ESRCH => Ok(()),
            result => result,
        }
    }

    async fn change(&self, link: LinkMessageBuilder<LinkUnspec>) -> Result<(), Error> {
        self.0.link().set(link.build()).execute().await
    }
}

fn with_mac<T>(link: LinkMessageBuilder<T>, mac: Option<[u8; 6]>) -> LinkMessageBuilder<T> {
    match mac {
        Some(mac) => link.address(mac.to_vec()),
        None => link,
    }
}

fn kernel_mode(mode: BondMode) -> KernelBondMode {
    match mode {
        BondMode::BalanceRr => KernelBondMode::BalanceRr,
        BondMode::ActiveBackup => KernelBondMode::ActiveBackup,
        BondMode::BalanceXor => KernelBondMode::BalanceXor,
        BondMode::Broadcast => KernelBondMode::Broadcast,
        BondMode::Lacp => KernelBondMode::Ieee8023Ad,
        BondMode::BalanceTlb => KernelBondMode::BalanceTlb,
        BondMode::BalanceAlb => KernelBondMode::BalanceAlb,
    }
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    let protocol = if route.by_dhcp { RouteProtocol::Dhcp } else { RouteProtocol::Static };
    match route.to {
        IpNet::V4(to) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .output_interface(index)
                .priority(route.metric)
                .protocol(protocol);
            match route.via {
                // A gateway outside the link's network is still reached through this link: clouds do that with /32 addresses.
                Some(IpAddr::V4(via)) => builder.gateway(via).onlink().build(),
                _ => builder.scope(RouteScope::Link).build(),
            }
        }
        IpNet::V6(to) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .output_interface(index)
                .priority(route.metric)
                .protocol(protocol);
            match route.via {
                Some(IpAddr::V6(via)) => builder.gateway(via).onlink().build(),
                _ => builder.build(),
            }
        }
    }
}
