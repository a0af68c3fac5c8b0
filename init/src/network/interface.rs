//! One link: made ready, given its addresses, and kept so for as long as it exists.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use node_config::network::{Interface, Ipv6};
use tokio::sync::watch;

use super::devices::Devices;
use super::dhcp::{Client, Event, Lease, Loss, Port};
use super::links::{Links, Route};
use super::resolver::{Resolver, Settings};
use super::status::{Offers, Status};

/// Kernel settings of a link.
const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// Smaller MTUs that a DHCP server gives are not believed: no link that carries IPv4 may have one (RFC 791), and with one that is too
/// small for IPv6 (RFC 8200) the kernel takes IPv6 off the link.
const SMALLEST_MTU: u16 = 576;
const SMALLEST_MTU_WITH_IPV6: u16 = 1280;

/// What all links share.
pub(super) struct Shared {
    pub(super) links: Links,
    pub(super) devices: watch::Receiver<Devices>,
    pub(super) status: Status,
    pub(super) resolver: Resolver,
    pub(super) offers: Offers,
    pub(super) hostname: String,
    /// Where the addresses we had are remembered, by hardware address.
    pub(super) leases: PathBuf,
}

/// What a link is to be.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) interface: Interface,
    /// The bond or bridge it is part of.
    pub(super) master: Option<String>,
    pub(super) dhcp: bool,
    /// The preference of its routes that are not given another.
    pub(super) metric: u32,
}

/// A link that is being kept.
pub(super) struct Keeper {
    shared: Rc<Shared>,
    setup: Setup,
    index: u32,
    name: String,
    mac: Option<[u8; 6]>,
    lease: Option<Lease>,
    /// What the kernel refused of the configuration. It does not keep the rest from working.
    refused: Vec<String>,
}

impl Shared {
    /// The link is gone, and what came with it.
    pub(super) fn forget(&self, index: u32) {
        self.offers.drop(index);
        self.resolver.forget(index);
        self.status.forget(index);
    }

    /// Waits until the kernel's links are so that `look` finds what it looks for.
    async fn until<T>(&self, look: impl Fn(&Devices) -> Option<T>) -> Result<T> {
        let mut devices = self.devices.clone();
        loop {
            if let Some(found) = look(&devices.borrow_and_update()) {
                return Ok(found);
            }
            devices.changed().await.context("nobody follows the links any more")?;
        }
    }
}

impl Keeper {
    /// Keeps the link `index`, which is there.
    pub(super) fn new(shared: Rc<Shared>, setup: Setup, index: u32) -> Result<Self> {
        let (name, mac) = {
            let devices = shared.devices.borrow();
            let device = devices.get(index).context("the link is gone")?;
            (device.name.clone(), device.mac)
        };
        Ok(Self { shared, setup, index, name, mac, lease: None, refused: Vec::new() })
    }

    /// Sets the link up and keeps it, for ever.
    pub(super) async fn run(mut self) -> Result<()> {
        self.take_name().await?;
        self.shared.status.link(self.index, &self.name);
        self.refused = Vec::from_iter(self.set_mtu().await);
        self.prepare_ipv6().context("failed to set up IPv6")?;
        if let Some(master) = self.setup.master.clone() {
            self.join(&master).await.with_context(|| format!("failed to make it part of {master}"))?;
        }
        self.shared.links.up(self.index).await.context("failed to bring it up")?;
        let refused = self.configure().await;
        self.refused.extend(refused);
        self.tell(&self.refused);
        match self.setup.dhcp {
            true => self.keep_lease().await,
            false if self.refused.is_empty() => std::future::pending().await,
            // It is tried again, from the beginning.
            false => anyhow::bail!("{}", self.refused.join("; ")),
        }
    }

    /// Gives the link the configured MTU, and returns why it could not.
    async fn set_mtu(&self) -> Option<String> {
        let mtu = self.setup.interface.mtu?;
        let set = self.shared.links.set_mtu(self.index, mtu).await;
        refusal(set, || format!("failed to set the MTU {mtu}"))
    }

    /// Raises the problem of this link, or clears it when nothing was refused.
    fn tell(&self, refused: &[String]) {
        let text = (!refused.is_empty()).then(|| format!("{}: {}", self.name, refused.join("; ")));
        self.shared.status.problem(&self.name, text);
    }

    /// A link that is recognised by something else gets the name that the configuration has for it.
    async fn take_name(&mut self) -> Result<()> {
        let Some(name) = self.setup.interface.name.clone().filter(|name| *name != self.name) else {
            return Ok(());
        };
        self.shared.links.down(self.index).await.context("failed to take it down")?;
        let renamed = self.shared.links.rename(self.index, &name).await;
        renamed.with_context(|| format!("failed to name {} {name}", self.name))?;
        self.name = name;
        Ok(())
    }

    async fn join(&self, master: &str) -> Result<()> {
        let find =
            |devices: &Devices| devices.named(master).map(|device| (device.index, device.is_a("bond")));
        let (master, is_bond) = self.shared.until(find).await?;
        if self.shared.devices.borrow().get(self.index).is_some_and(|device| device.master == Some(master)) {
            return Ok(());
        }
        if is_bond {
            self.shared.links.down(self.index).await?;
        }
        Ok(self.shared.links.join(self.index, master).await?)
    }

    /// Addresses and routes by router advertisement are the kernel's work. It takes part although it forwards, which machines
    /// that run Kubernetes do (2, not 1), and what is configured goes before what is advertised.
    fn prepare_ipv6(&self) -> io::Result<()> {
        let dir = Path::new(IPV6_SETTINGS).join(&self.name);
        // A kernel without IPv6.
        if !dir.exists() {
            return Ok(());
        }
        if self.without_ipv6() {
            return fs::write(dir.join("disable_ipv6"), "1");
        }
        let metric = self.setup.metric.to_string();
        for (key, value) in [
            ("accept_ra", "2"),
            ("autoconf", "1"),
            ("accept_ra_rt_info_max_plen", "64"),
            ("ra_defrtr_metric", &metric),
            ("accept_ra_mtu", if self.setup.interface.mtu.is_some() { "0" } else { "1" }),
            ("disable_ipv6", "0"),
        ] {
            match fs::write(dir.join(key), value) {
                // Older kernels lack the metric.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn without_ipv6(&self) -> bool {
        self.setup.interface.ipv6 == Ipv6::Off || self.setup.master.is_some()
    }

    /// Puts the configured addresses and routes in place, and returns what the kernel refused of them.
    async fn configure(&self) -> Vec<String> {
        let links = &self.shared.links;
        let interface = &self.setup.interface;
        let mut refused = Vec::new();
        for &address in &interface.addresses {
            match (links.add_address(self.index, address).await, address) {
                (Ok(()), IpNet::V4(address)) => self.shared.status.add_ipv4(self.index, address),
                (added, _) => {
                    refused.extend(refusal(added, || format!("failed to add the address {address}")))
                }
            }
        }
        let gateways = interface.gateways.iter().map(|&via| Route {
            to: everywhere(via),
            via: Some(via),
            metric: self.setup.metric,
            by_dhcp: false,
        });
        let routes = interface.routes.iter().map(|route| Route {
            to: route.to.trunc(),
            via: route.via,
            metric: route.metric.unwrap_or(self.setup.metric),
            by_dhcp: false,
        });
        for route in gateways.chain(routes) {
            let added = links.add_route(self.index, &route).await;
            refused.extend(refusal(added, || format!("failed to add the route to {}", route.to)));
        }
        refused
    }

    // === DHCP ===

    async fn keep_lease(&mut self) -> Result<()> {
        let mac = self.mac.context("DHCP needs an Ethernet link")?;
        let port = Port::open(&self.name, self.index, mac).context("failed to open the DHCP port")?;
        let socket = port.socket();
        let (carrier, followed) = watch::channel(false);
        let memory = lease_file(&self.shared.leases, mac);
        let remembered = fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse().ok());
        let client = Client::new(port, followed, mac, self.shared.hostname.clone(), remembered);
        let (shared, index) = (Rc::clone(&self.shared), self.index);
        let follow = async {
            let mut devices = shared.devices.clone();
            loop {
                let up = devices.borrow_and_update().get(index).is_some_and(|device| device.carrier);
                carrier.send_if_modified(|known| std::mem::replace(known, up) != up);
                devices.changed().await?;
            }
        };
        let handle = async |event| {
            if let Event::Bound(lease) = &event {
                self.shared.offers.hold(self.index, lease, mac, Rc::clone(&socket));
                remember(&memory, lease.address.addr());
            }
            if let Err(error) = self.handle(event).await {
                self.shared.status.problem(&self.name, Some(format!("{}: {error:#}", self.name)));
            }
        };
        tokio::select! {
            result = client.run(handle) => result.context("DHCP failed"),
            followed = follow => followed,
        }
    }

    async fn handle(&mut self, event: Event) -> Result<()> {
        let name = self.name.clone();
        let status = |text: Option<String>| self.shared.status.problem(&name, text);
        match event {
            Event::Asking => self.shared.status.asking(self.index, true),
            Event::Bound(lease) => {
                self.shared.status.asking(self.index, false);
                self.use_lease(lease).await?;
            }
            Event::Lost(loss) => {
                let why = match loss {
                    Loss::Expired => "has run out, and no server extended it",
                    Loss::Refused => "was taken back by the server",
                };
                status(Some(format!("the DHCP lease on {name} {why}; asking for a new one")));
                self.end_lease().await?;
            }
            Event::Silence => {
                self.shared.status.asking(self.index, false);
                status(Some(format!(
                    "no DHCP server answers on {name}; check the cable and the network, or give skerry.ip=ADDRESS/PREFIX,GATEWAY"
                )));
            }
            Event::Conflict(address) => status(Some(format!(
                "the DHCP server gives {name} the address {address}, which another machine uses; asking for another"
            ))),
        }
        Ok(())
    }

    /// Puts the lease's address on the link, and what else the server says as far as the kernel takes it: a lease with a route that
    /// makes no sense is still good for everything else.
    async fn use_lease(&mut self, lease: Lease) -> Result<()> {
        let (links, index, address) = (&self.shared.links, self.index, lease.address);
        let added = links.add_address(index, address.into()).await;
        added.with_context(|| format!("failed to put {address} on {}", self.name))?;
        let old = self.lease.replace(lease.clone());
        let mut refused = Vec::new();
        if let Some(mtu) = self.mtu_of(&lease) {
            let set = links.set_mtu(index, mtu.into()).await;
            refused.extend(refusal(set, || format!("failed to set the MTU {mtu} of the DHCP server")));
        }
        let (before, now) =
            (old.as_ref().map(|old| self.routes(old)).unwrap_or_default(), self.routes(&lease));
        for route in before.iter().filter(|route| !now.contains(route)) {
            let removed = links.remove_route(index, route).await;
            refused.extend(refusal(removed, || format!("failed to remove the route to {}", route.to)));
        }
        if let Some(old) = old.filter(|old| old.address != address)
            && let Err(error) = self.remove_address(&old).await
        {
            refused.push(format!("{error:#}"));
        }
        // All of them again: some may have gone with the old address.
        for route in &now {
            let added = links.add_route(index, route).await;
            refused
                .extend(refusal(added, || format!("failed to add the DHCP server's route to {}", route.to)));
        }
        if !self.refused.is_empty() {
            // What is configured beside the lease may have waited for its address.
            self.refused = Vec::from_iter(self.set_mtu().await);
            let still = self.configure().await;
            self.refused.extend(still);
        }
        let servers = lease.dns.iter().map(|&server| server.into()).collect();
        let search = lease.domain.into_iter().collect();
        self.shared.resolver.lease(index, Settings { servers, search });
        // Last, because services start on it.
        self.shared.status.add_ipv4(index, address);
        self.tell(&[&self.refused[..], &refused].concat());
        Ok(())
    }

    /// The MTU that the server gives, if it is to be believed and nothing else is configured.
    fn mtu_of(&self, lease: &Lease) -> Option<u16> {
        let smallest = if self.without_ipv6() { SMALLEST_MTU } else { SMALLEST_MTU_WITH_IPV6 };
        lease.mtu.filter(|&mtu| mtu >= smallest && self.setup.interface.mtu.is_none())
    }

    async fn end_lease(&mut self) -> Result<()> {
        self.shared.offers.drop(self.index);
        self.shared.resolver.end_lease(self.index);
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let mut removals = Vec::new();
        for route in self.routes(&lease) {
            let removed = self.shared.links.remove_route(self.index, &route).await;
            removals.push(removed.with_context(|| format!("failed to remove the route to {}", route.to)));
        }
        // Whatever became of the routes: the address may be another machine's soon.
        removals.push(self.remove_address(&lease).await);
        removals.into_iter().collect()
    }

    async fn remove_address(&self, lease: &Lease) -> Result<()> {
        self.shared.status.remove_ipv4(self.index, lease.address);
        let removed = self.shared.links.remove_address(self.index, lease.address.into()).await;
        removed.with_context(|| format!("failed to take {} off {}", lease.address, self.name))
    }

    fn routes(&self, lease: &Lease) -> Vec<Route> {
        let metric = self.setup.metric;
        lease
            .routes
            .iter()
            .map(|route| Route {
                to: route.destination.into(),
                via: route.gateway.map(IpAddr::V4),
                metric,
                by_dhcp: true,
            })
            .collect()
    }
}

/// What is told of a change that the kernel refused.
fn refusal<E: std::error::Error>(result: Result<(), E>, what: impl FnOnce() -> String) -> Option<String> {
    result.err().map(|error| format!("{}: {error}", what()))
}

/// The destination of a default route through a gateway of this family.
fn everywhere(via: IpAddr) -> IpNet {
    match via {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn lease_file(leases: &Path, mac: [u8; 6]) -> PathBuf {
    let name: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    leases.join(name)
}

/// A memory that is lost costs three seconds at the next boot, so failures do not matter.
fn remember(file: &Path, address: Ipv4Addr) {
    let text = format!("{address}\n");
    if fs::read_to_string(file).is_ok_and(|known| known == text) {
        return;
    }
    let beside = file.with_extension("new");
    let _ = fs::create_dir_all(file.parent().unwrap_or(file))
        .and_then(|()| fs::write(&beside, text))
        .and_then(|()| fs::rename(&beside, file));
}
