//! The network: links, addresses, routes and name servers, as the configuration asks, and kept so.
//!
//! ```text
//! notifications ──> devices ──┬──> Manager: makes VLANs, bonds and bridges, and starts a keeper per link that is wanted
//!                             └──> interface: name, MTU, IPv6, members, static addresses, dhcp ──┬──> links (rtnetlink)
//! router advertisements ──> advertisements ─────────────────────────────────────────> resolver <─┤
//!                                                                                  status, Offers <─┘
//! ```
//!
//! Everything is driven by notifications of the kernel and by answers of servers; without them nothing wakes up but a lease that
//! is to be renewed. Nothing waits for a link that is not there or has no cable: the machine's network is ready with its first address.

mod advertisements;
mod devices;
mod dhcp;
mod interface;
mod links;
mod manager;
mod resolver;
mod status;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result};
use node_config::network::Network;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;

use self::advertisements::Listener;
use self::devices::Devices;
use self::interface::Shared;
use self::links::Links;
use self::manager::Manager;
use self::resolver::{Resolver, Settings};
pub(crate) use self::status::Offers;
use self::status::Status;
use crate::board::Board;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the addresses we had are remembered, on STATE.
const LEASES: &str = "/var/lib/skerry/leases";
/// The loopback's index is always 1.
const LOOPBACK: u32 = 1;

/// Brings the network up and keeps it, for ever. Owned by the main task; ends only when it cannot go on.
pub(crate) async fn run(network: Network, hostname: String, board: Board, offers: Offers) -> Result<()> {
    let files = Files { resolv_conf: RESOLV_CONF.into(), leases: LEASES.into() };
    keep(network, hostname, board, offers, files).await
}

/// What is written.
#[derive(Clone)]
struct Files {
    /// The resolver's.
    resolv_conf: PathBuf,
    /// A directory, for the addresses we had.
    leases: PathBuf,
}

async fn keep(network: Network, hostname: String, board: Board, offers: Offers, files: Files) -> Result<()> {
    // Before any link is up, so that no advertisement is missed.
    let routers = Listener::open().context("failed to listen for router advertisements")?;
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, notifications) =
        rtnetlink::new_multicast_connection(&groups).context("failed to open rtnetlink")?;
    let (sender, devices) = watch::channel(Devices::default());
    let configured = Settings { servers: network.nameservers.clone(), search: network.search.clone() };
    let shared = Rc::new(Shared {
        links: Links::new(handle.clone()),
        devices,
        resolver: Resolver::new(files.resolv_conf, configured, board.clone()),
        status: Status::new(board.clone()),
        offers,
        hostname,
        leases: files.leases,
    });
    let manage = async {
        shared.links.up(LOOPBACK).await.context("failed to bring the loopback up")?;
        Manager::new(network, Rc::clone(&shared), board).run().await
    };
    let follow = devices::watch(handle, notifications, &sender);
    let heed = shared.resolver.heed(&routers, |index| shared.status.name(index));
    tokio::select! {
        () = connection => anyhow::bail!("rtnetlink closed the connection"),
        result = follow => result.context("failed to follow the links"),
        result = heed => result.context("failed to listen for router advertisements"),
        result = manage => result,
    }
}

/// A number that nobody can guess.
pub(crate) fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}
