//! Links, addresses and routes through rtnetlink, in this or another network namespace.
//!
//! A netlink socket belongs for ever to the namespace in which it was opened, so one short visit to a namespace is
//! enough to work in it afterwards: see [`Netlink::open_in`].

use std::fmt;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol,
};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio_util::task::AbortOnDropHandle;

/// Why the kernel's network state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error("failed to open a netlink socket")]
    Open(#[source] std::io::Error),
    /// A namespace could not be opened.
    #[error("failed to open network namespace '{}'", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// A namespace could not be entered.
    #[error("failed to enter network namespace '{}'", path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Errno,
    },
    /// The kernel refused a request.
    #[error("failed to {action}")]
    Request {
        /// What was attempted.
        action: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A route of one family by a gateway of the other.
    #[error("the route {route} mixes address families")]
    MixedFamilies {
        /// The route.
        route: PeerRoute,
    },
    /// An interface that must be there is not.
    #[error("no interface '{name}'")]
    NoLink {
        /// Its name.
        name: String,
    },
}

impl Error {
    /// The kernel's error number, if the kernel refused the request.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Request { source: rtnetlink::Error::NetlinkError(message), .. } => {
                Some(Errno::from_raw(-message.raw_code()))
            }
            _ => None,
        }
    }
}

/// Makes "there already" a success.
pub fn allow_existing(result: Result<(), Error>) -> Result<(), Error> {
    allow(result, &[Errno::EEXIST])
}

fn allow(result: Result<(), Error>, numbers: &[Errno]) -> Result<(), Error> {
    match result {
        Err(error) if error.errno().is_some_and(|number| numbers.contains(&number)) => Ok(()),
        other => other,
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    file: File,
}

impl Namespace {
    /// Opens the namespace at `path`, as a rule `/var/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| Error::Namespace { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, Error> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Whether `path` holds a namespace. After a container or the machine has stopped the file is gone, or is an
    /// empty file whose mount is gone.
    pub fn exists(path: &Path) -> bool {
        statfs(path).is_ok_and(|statistics| statistics.filesystem_type() == NSFS_MAGIC)
    }

    /// Runs `work` on the calling thread inside this namespace. `work` must not start threads that live on.
    ///
    /// # Panics
    /// If the thread's own namespace cannot be entered again: nothing it did afterwards could be trusted.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let home = Self::current()?;
        let failed = |source| Error::Enter { path: self.path.clone(), source };
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(failed)?;
        let result = work();
        setns(&home.file, CloneFlags::CLONE_NEWNET).expect("the namespace this thread came from is open");
        Ok(result)
    }

    fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// What is known of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address, six bytes for Ethernet.
    pub mac: Vec<u8>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Index of the bridge it is a port of.
    pub controller: Option<u32>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is a bridge.
    pub is_bridge: bool,
}

impl Link {
    fn parse(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Vec::new(),
            mtu: 0,
            controller: None,
            up: message.header.flags.contains(LinkFlags::Up),
            is_bridge: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) if *index != 0 => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                }
                _ => {}
            }
        }
        link
    }

    /// The hardware address as `aa:bb:cc:dd:ee:ff`.
    pub fn mac_text(&self) -> String {
        self.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }
}

/// The two ends of a veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    /// Name in the namespace of the [`Netlink`] that makes the pair.
    pub name: &'a str,
    /// Its hardware address; the kernel chooses if it is `None`.
    pub mac: Option<[u8; 6]>,
    /// Name in the other namespace.
    pub peer: &'a str,
    /// The other namespace.
    pub peer_namespace: &'a Namespace,
    /// MTU of both ends; the kernel's default if it is `None`.
    pub mtu: Option<u32>,
}

/// A netlink connection into one namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    _connection: AbortOnDropHandle<()>,
}

impl Netlink {
    /// Connects to the calling thread's namespace. Must be called inside a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        let task = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self { handle, _connection: task })
    }

    /// Connects to another namespace.
    pub fn open_in(namespace: &Namespace) -> Result<Self, Error> {
        namespace.enter(Self::open)?
    }

    /// The interface of this name.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::parse)),
            Err(source) => {
                let error = Error::Request { action: format!("look up interface '{name}'"), source };
                match error.errno() {
                    Some(Errno::ENODEV) => Ok(None),
                    _ => Err(error),
                }
            }
        }
    }

    /// The interface of this name, which must be there.
    pub async fn link(&self, name: &str) -> Result<Link, Error> {
        self.find_link(name).await?.ok_or_else(|| Error::NoLink { name: name.to_owned() })
    }

    /// The interface of this index, if there is one.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, Error> {
        let mut found = self.handle.link().get().match_index(index).execute();
        let message = found
            .try_next()
            .await
            .map_err(|source| Error::Request { action: format!("look up interface {index}"), source })?;
        Ok(message.as_ref().map(Link::parse))
    }

    /// Makes a bridge that is up, with a hardware address that does not change when ports come and go.
    pub async fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: Option<u32>) -> Result<(), Error> {
        // A bridge without spanning tree has nothing to learn before it may forward: no forward delay.
        let mut bridge =
            LinkBridge::new(name).address(mac.to_vec()).append_info_data(InfoBridge::ForwardDelay(0));
        if let Some(mtu) = mtu {
            bridge = bridge.mtu(mtu);
        }
        let made = self.handle.link().add(bridge.build()).execute().await;
        made.map_err(|source| Error::Request { action: format!("make bridge '{name}'"), source })
    }

    /// Makes a veth pair, each end in its namespace from the start.
    pub async fn add_veth(&self, pair: VethPair<'_>) -> Result<(), Error> {
        let mut peer = LinkUnspec::new_with_name(pair.peer).setns_by_fd(pair.peer_namespace.raw());
        if let Some(mtu) = pair.mtu {
            peer = peer.mtu(mtu);
        }
        let mut message = LinkUnspec::new_with_name(pair.name).build();
        message.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(pair.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer.build()))),
        ]));
        let made = self.handle.link().add(message).execute().await;
        let action = || format!("make veth pair '{}' and '{}'", pair.name, pair.peer);
        made.map_err(|source| Error::Request { action: action(), source })
    }

    /// Makes an interface a port of a bridge. With `hairpin` a frame may leave through the port it came from.
    pub async fn attach(&self, link: &Link, bridge: &Link, hairpin: bool) -> Result<(), Error> {
        let action = || format!("attach interface '{}' to bridge '{}'", link.name, bridge.name);
        let failed = |source| Error::Request { action: action(), source };
        let port = LinkUnspec::new_with_index(link.index).controller(bridge.index).up().build();
        self.handle.link().set(port).execute().await.map_err(failed)?;
        let port = LinkBridgePort::new(link.index).hairpin(hairpin).build();
        self.handle.link().set_port(port).execute().await.map_err(failed)
    }

    /// Brings an interface up.
    pub async fn set_up(&self, link: &Link) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        let done = self.handle.link().set(message).execute().await;
        done.map_err(|source| Error::Request {
            action: format!("bring up interface '{}'", link.name),
            source,
        })
    }

    /// Sets an interface's MTU.
    pub async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        let done = self.handle.link().set(message).execute().await;
        let action = || format!("set the MTU of interface '{}' to {mtu}", link.name);
        done.map_err(|source| Error::Request { action: action(), source })
    }

    /// Removes an interface; one that is gone already is a success.
    pub async fn remove_link(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.find_link(name).await? else { return Ok(()) };
        let done = self.handle.link().del(link.index).execute().await;
        let done =
            done.map_err(|source| Error::Request { action: format!("remove interface '{name}'"), source });
        allow(done, &[Errno::ENODEV])
    }

    /// Adds an address; one that is there already is a success. IPv6 addresses skip duplicate detection: whoever
    /// assigned them made sure that they are unique, and a pod must be able to use its address at once.
    pub async fn add_address(&self, link: &Link, address: IpNet) -> Result<(), Error> {
        let mut request = self.handle.address().add(link.index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let done = request.execute().await;
        let action = || format!("add address {address} to interface '{}'", link.name);
        allow_existing(done.map_err(|source| Error::Request { action: action(), source }))
    }

    /// The addresses of an interface, without IPv6 link-local ones.
    pub async fn addresses(&self, link: &Link) -> Result<Vec<IpNet>, Error> {
        Ok(self.address_messages(link).await?.into_iter().map(|(address, _)| address).collect())
    }

    /// Removes an address from an interface; one that is gone already is a success.
    pub async fn remove_address(&self, link: &Link, address: IpNet) -> Result<(), Error> {
        for (present, message) in self.address_messages(link).await? {
            if present != address {
                continue;
            }
            let done = self.handle.address().del(message).execute().await;
            let action = || format!("remove address {address} from interface '{}'", link.name);
            let done = done.map_err(|source| Error::Request { action: action(), source });
            allow(done, &[Errno::EADDRNOTAVAIL])?;
        }
        Ok(())
    }

    async fn address_messages(&self, link: &Link) -> Result<Vec<(IpNet, AddressMessage)>, Error> {
        let action = || format!("list the addresses of interface '{}'", link.name);
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link.index)
            .execute()
            .try_collect()
            .await
            .map_err(|source| Error::Request { action: action(), source })?;
        Ok(messages.into_iter().filter_map(|message| Some((parse_address(&message)?, message))).collect())
    }

    /// Adds the default route of the gateway's family; one that is there already is a success.
    pub async fn add_default_route(&self, link: &Link, gateway: IpAddr) -> Result<(), Error> {
        let message = match gateway {
            IpAddr::V4(gateway) => {
                RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link.index).build()
            }
            IpAddr::V6(gateway) => {
                RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(link.index).build()
            }
        };
        let done = self.handle.route().add(message).execute().await;
        let action = || format!("add a default route by {gateway} through '{}'", link.name);
        allow_existing(done.map_err(|source| Error::Request { action: action(), source }))
    }

    /// The default routes of the main table: gateway and interface index, best metric first.
    pub async fn default_routes(&self) -> Result<Vec<DefaultRoute>, Error> {
        let mut routes = Vec::new();
        for message in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let found: Vec<RouteMessage> =
                self.handle.route().get(message).execute().try_collect().await.map_err(|source| {
                    Error::Request { action: "list the default routes".to_owned(), source }
                })?;
            routes.extend(found.iter().filter_map(DefaultRoute::parse));
        }
        routes.sort_by_key(|route| (route.gateway.is_some_and(|gateway| gateway.is_ipv6()), route.metric));
        Ok(routes)
    }

    /// The routes of the main table that a program of this protocol number made.
    pub async fn routes_of(&self, protocol: u8) -> Result<Vec<PeerRoute>, Error> {
        let mut routes = Vec::new();
        for message in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut found = self.handle.route().get(message).execute();
            let failed = |source| Error::Request { action: "list the routes".to_owned(), source };
            while let Some(message) = found.try_next().await.map_err(failed)? {
                if message.header.protocol == RouteProtocol::from(protocol) {
                    routes.extend(PeerRoute::parse(&message));
                }
            }
        }
        Ok(routes)
    }

    /// Makes a route, or changes the one that leads to the same destination. The kernel knows which interface leads to the gateway,
    /// which must be a neighbour.
    pub async fn replace_route(&self, route: PeerRoute, protocol: u8) -> Result<(), Error> {
        let done = self.handle.route().add(route.message(protocol)?).replace().execute().await;
        done.map_err(|source| Error::Request { action: format!("add the route {route}"), source })
    }

    /// Removes a route; one that is gone already is a success.
    pub async fn remove_route(&self, route: PeerRoute, protocol: u8) -> Result<(), Error> {
        let done = self.handle.route().del(route.message(protocol)?).execute().await;
        let done =
            done.map_err(|source| Error::Request { action: format!("remove the route {route}"), source });
        allow(done, &[Errno::ESRCH])
    }

    /// Tells when links or routes of this namespace have changed. What has, is not told: whoever cares looks.
    pub fn changes() -> Result<NetworkChanges, Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(NetworkChanges { messages: messages.boxed(), _connection: connection })
    }
}

/// See [`Netlink::changes`].
pub struct NetworkChanges {
    messages: BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    _connection: AbortOnDropHandle<()>,
}

impl fmt::Debug for NetworkChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkChanges").finish_non_exhaustive()
    }
}

impl NetworkChanges {
    /// Waits for a change; for ever once the connection is lost.
    pub async fn next(&mut self) {
        if self.messages.next().await.is_none() {
            std::future::pending().await
        }
    }
}

/// A route to a network behind a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerRoute {
    /// The network.
    pub destination: IpNet,
    /// The neighbour, of the same family.
    pub gateway: IpAddr,
}

impl fmt::Display for PeerRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.destination, self.gateway)
    }
}

impl PeerRoute {
    fn message(self, protocol: u8) -> Result<RouteMessage, Error> {
        let protocol = RouteProtocol::from(protocol);
        match (self.destination, self.gateway) {
            (IpNet::V4(net), IpAddr::V4(gateway)) => Ok(RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(gateway)
                .protocol(protocol)
                .build()),
            (IpNet::V6(net), IpAddr::V6(gateway)) => Ok(RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(gateway)
                .protocol(protocol)
                .build()),
            _ => Err(Error::MixedFamilies { route: self }),
        }
    }

    fn parse(message: &RouteMessage) -> Option<Self> {
        let address = |address: &RouteAddress| match address {
            RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
            RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
            _ => None,
        };
        let find = |pick: fn(&RouteAttribute) -> Option<&RouteAddress>| {
            message.attributes.iter().find_map(pick).and_then(address)
        };
        let destination = find(|attribute| match attribute {
            RouteAttribute::Destination(address) => Some(address),
            _ => None,
        })?;
        let gateway = find(|attribute| match attribute {
            RouteAttribute::Gateway(address) => Some(address),
            _ => None,
        })?;
        let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
        (message.header.table == RouteHeader::RT_TABLE_MAIN).then_some(Self { destination, gateway })
    }
}

/// One default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Next hop; `None` on point-to-point links.
    pub gateway: Option<IpAddr>,
    /// Index of the interface it leaves through.
    pub interface: u32,
    metric: u32,
}

impl DefaultRoute {
    fn parse(message: &RouteMessage) -> Option<Self> {
        let main = message.header.table == RouteHeader::RT_TABLE_MAIN;
        if !main || message.header.destination_prefix_length != 0 {
            return None;
        }
        let mut route = Self { gateway: None, interface: 0, metric: 0 };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                    route.gateway = Some((*address).into())
                }
                RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
                    route.gateway = Some((*address).into())
                }
                RouteAttribute::Oif(index) => route.interface = *index,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                _ => {}
            }
        }
        (route.interface != 0).then_some(route)
    }
}

fn parse_address(message: &AddressMessage) -> Option<IpNet> {
    let attribute = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // IFA_LOCAL is the own address on point-to-point links, where IFA_ADDRESS is the peer's; IPv6 has the latter only.
    let address = attribute(true).or_else(|| attribute(false))?;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    if link_local { None } else { IpNet::new(address, message.header.prefix_len).ok() }
}
