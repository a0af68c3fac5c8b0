//! Links, addresses and routes, by rtnetlink.

use std::net::Ipv4Addr;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder};

use super::dhcp::Route;

/// A connection to the kernel's routing tables.
#[derive(Clone)]
pub(super) struct Links(Handle);

impl Links {
    /// Over an open connection.
    pub(super) fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// Brings the link up, with this MTU if one is given.
    pub(super) async fn up(&self, index: u32, mtu: Option<u16>) -> Result<(), Error> {
        let link = LinkUnspec::new_with_index(index).up();
        let link = match mtu {
            Some(mtu) => link.mtu(mtu.into()),
            None => link,
        };
        self.0.link().set(link.build()).execute().await
    }

    /// Makes `address` the only IPv4 address of the link and installs `routes`.
    pub(super) async fn configure(
        &self,
        index: u32,
        address: Ipv4Net,
        routes: &[Route],
    ) -> Result<(), Error> {
        self.clear(index, Some(address)).await?;
        self.0.address().add(index, address.addr().into(), address.prefix_len()).replace().execute().await?;
        for route in routes {
            self.add_route(index, route).await?;
        }
        Ok(())
    }

    /// Removes every IPv4 address but `keep`; the kernel removes the routes that depended on them.
    pub(super) async fn clear(&self, index: u32, keep: Option<Ipv4Net>) -> Result<(), Error> {
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        while let Some(message) = addresses.try_next().await? {
            let found = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            let found = found.and_then(|address| Ipv4Net::new(address, message.header.prefix_len).ok());
            if found.is_some() && found != keep {
                self.0.address().del(message).execute().await?;
            }
        }
        Ok(())
    }

    async fn add_route(&self, index: u32, route: &Route) -> Result<(), Error> {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.destination.addr(), route.destination.prefix_len())
            .output_interface(index);
        let builder = match route.gateway {
            // A gateway outside the link's network is still reached through this link: clouds do that with /32 addresses.
            Some(gateway) => builder.gateway(gateway).onlink(),
            None => builder.scope(RouteScope::Link),
        };
        self.0.route().add(builder.build()).replace().execute().await
    }
}
