//! The whole of it in network namespaces, against a DHCP server and a router written here. Needs root.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use node_config::network::{Interface, Kind, Match, Route};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;
use crate::board::Facts;
use crate::testing::has_root;

const LIMIT: Duration = Duration::from_secs(30);
const SERVER: &str = "10.9.8.1/24";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
const MAC: [u8; 6] = [2, 0, 0, 0, 9, 7];
/// The other end of the cable.
const PEER: &str = "v1";
const RELEASE: u8 = 7;

/// Runs `work` in a network namespace of its own, on a thread of its own; not at all where tests that take root are left out.
fn in_namespace<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<JoinHandle<T>> {
    has_root().then_some(())?;
    Some(std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        work()
    }))
}

/// Runs `work` with a connection to the namespace's links.
fn with_links<T>(work: impl AsyncFnOnce(Handle) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        let connection = tokio::task::spawn_local(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

async fn index(handle: &Handle, name: &str) -> u32 {
    let found = timeout(LIMIT, async {
        loop {
            let mut links = handle.link().get().match_name(name).execute();
            match links.try_next().await {
                Ok(Some(link)) => return link.header.index,
                _ => tokio::task::yield_now().await,
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("there is no {name}"))
}

/// Destination, next hop and metric of every route of the main table that has a metric, as text.
async fn routes(handle: &Handle) -> Vec<String> {
    let mut found = Vec::new();
    for message in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut list = handle.route().get(message).execute();
        while let Some(route) = list.try_next().await.unwrap() {
            let (mut to, mut via, mut metric) = ("default".to_owned(), String::new(), None);
            for attribute in &route.attributes {
                let text = |address: &RouteAddress| match address {
                    RouteAddress::Inet(address) => address.to_string(),
                    RouteAddress::Inet6(address) => address.to_string(),
                    _ => String::new(),
                };
                match attribute {
                    RouteAttribute::Destination(address) => {
                        to = format!("{}/{}", text(address), route.header.destination_prefix_length);
                    }
                    RouteAttribute::Gateway(address) => via = format!(" via {}", text(address)),
                    RouteAttribute::Priority(priority) => metric = Some(*priority),
                    _ => {}
                }
            }
            if let Some(metric) = metric.filter(|_| route.header.table == 254) {
                found.push(format!("{to}{via} metric {metric}"));
            }
        }
    }
    found.sort();
    found
}

/// The machine's network, running, and what can be seen of it.
struct Machine {
    board: Board,
    offers: Offers,
    files: Files,
}

impl Machine {
    /// Runs the network while `look` looks at it.
    async fn run(network: Network, look: impl AsyncFnOnce(&Self)) {
        let name = format!("skerry-network-{}-{:?}", std::process::id(), std::thread::current().id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let files = Files { resolv_conf: dir.join("resolv.conf"), leases: dir.join("leases") };
        let machine = Self { board: Board::new(Facts::default()), offers: Offers::default(), files };
        let (board, offers) = (machine.board.clone(), machine.offers.clone());
        let running = keep(network, "box".to_owned(), board, offers, machine.files.clone());
        tokio::select! {
            ended = running => panic!("the network ended: {ended:?}"),
            () = look(&machine) => {}
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Facts) -> bool) -> Facts {
        let mut facts = self.board.watch();
        let found =
            timeout(LIMIT, facts.wait_for(|facts| wanted(facts))).await.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("not {what}: {:?}", self.board.watch().borrow()))
    }
}

fn port(name: &str) -> Interface {
    Interface { name: Some(name.to_owned()), ..Interface::default() }
}

fn network(interfaces: Vec<Interface>) -> Network {
    Network { interfaces, ..Network::default() }
}

// === the other end ===

/// Answers every DHCP question with [`ADDRESS`] on a short lease, until a lease is given back; says which kinds of message came.
fn serve_dhcp(ready: &mpsc::Sender<()>) -> Vec<u8> {
    let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
    setsockopt(&socket, sockopt::BindToDevice, &PEER.into()).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    ready.send(()).unwrap();
    let mut kinds = Vec::new();
    let mut question = [0; 1500];
    loop {
        let (len, client) = socket.recv_from(&mut question).expect("a message of the client");
        let kind = question[242];
        kinds.push(kind);
        if kind == RELEASE {
            assert_eq!(client, SocketAddr::from((ADDRESS, 68)));
            assert_eq!(question[12..16], ADDRESS.octets());
            return kinds;
        }
        let mut answer = question[..len.min(240)].to_vec();
        answer[0] = 2;
        answer[16..20].copy_from_slice(&ADDRESS.octets());
        answer.extend_from_slice(&[53, 1, if kind == 1 { 2 } else { 5 }, 54, 4, 10, 9, 8, 1]);
        answer.extend_from_slice(&[1, 4, 255, 255, 255, 0, 3, 4, 10, 9, 8, 254, 6, 4, 10, 9, 8, 3]);
        answer.extend_from_slice(&[42, 4, 10, 9, 8, 4, 26, 2, 5, 120, 15, 3, b'l', b'a', b'n']);
        // Renewed after a second.
        answer.extend_from_slice(&[51, 4, 0, 0, 0, 100, 58, 4, 0, 0, 0, 1]);
        // The first of the routes leads through the client itself, which no kernel takes.
        answer.extend_from_slice(&[
            121, 19, 16, 10, 66, 10, 9, 8, 7, 0, 10, 9, 8, 1, 16, 10, 77, 10, 9, 8, 2, 255,
        ]);
        let to = if client.ip().is_unspecified() { (Ipv4Addr::BROADCAST, 68).into() } else { client };
        socket.send_to(&answer, to).unwrap();
    }
}

/// Sends one router advertisement out of the link: prefix 2001:db8:7::/64, name server and search domain.
fn advertise(link: u32) {
    let router: Ipv6Addr = "fe80::1".parse().unwrap();
    let everyone: Ipv6Addr = "ff02::1".parse().unwrap();
    let prefix: Ipv6Addr = "2001:db8:7::".parse().unwrap();
    let mut body = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&[3, 4, 64, 0xC0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
    body.extend_from_slice(&prefix.octets());
    body.extend_from_slice(&[25, 3, 0, 0, 0, 0, 7, 8]);
    body.extend_from_slice(&"2001:db8:7::53".parse::<Ipv6Addr>().unwrap().octets());
    body.extend_from_slice(&[31, 2, 0, 0, 0, 0, 7, 8, 4, b'h', b'o', b'm', b'e', 0, 0, 0]);
    let len = (body.len() as u16).to_be_bytes();
    let words = [&router.octets()[..], &everyone.octets(), &[0, 0], &len, &[0, 0, 0, 58], &body].concat();
    let sum: u32 = words.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame =
        vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 0x86, 0xDD, 0x60, 0, 0, 0, len[0], len[1], 58, 255];
    frame.extend_from_slice(&router.octets());
    frame.extend_from_slice(&everyone.octets());
    frame.extend_from_slice(&body);
    let socket = sys::packet::open(link, 0).unwrap();
    send(socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
}

/// The other end of the cable: its namespace is handed out, it waits for its link, and serves.
fn server(
    namespace: &mpsc::Sender<File>,
    ready: &mpsc::Sender<()>,
    advertised: &mpsc::Receiver<()>,
) -> Vec<u8> {
    namespace.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    let link = with_links(async |handle| {
        let link = index(&handle, PEER).await;
        let links = Links::new(handle);
        links.add_address(link, SERVER.parse().unwrap()).await.unwrap();
        links.up(link).await.unwrap();
        link
    });
    std::thread::scope(|scope| {
        let dhcp = scope.spawn(|| serve_dhcp(ready));
        advertised.recv().unwrap();
        advertise(link);
        dhcp.join().unwrap()
    })
}

#[test]
fn a_port_gets_its_lease_and_its_routers_advice_and_gives_the_lease_back() {
    let (namespace, theirs) = mpsc::channel();
    let (ready, served) = mpsc::channel();
    let (advertise, advertised) = mpsc::channel();
    let Some(server) = in_namespace(move || server(&namespace, &ready, &advertised)) else { return };
    let client = in_namespace(move || {
        with_links(async |handle| {
            let theirs = theirs.recv().unwrap();
            let pair = LinkVeth::new("v0", PEER).address(MAC.to_vec()).build();
            handle.link().add(pair).execute().await.unwrap();
            let peer = LinkUnspec::new_with_name(PEER).setns_by_fd(theirs.as_raw_fd());
            handle.link().set(peer.build()).execute().await.unwrap();
            served.recv().unwrap();
            let configured =
                Network { nameservers: vec!["192.0.2.53".parse().unwrap()], ..network(vec![port("v0")]) };
            Machine::run(configured, async |machine| {
                machine
                    .until("leased", |facts| {
                        facts.address.as_deref().is_some_and(|a| a.starts_with("v0 10.9.8.7/24"))
                    })
                    .await;
                assert_eq!(
                    routes(&handle).await.iter().filter(|r| r.contains("10.")).collect::<Vec<_>>(),
                    ["10.77.0.0/16 via 10.9.8.2 metric 100", "default via 10.9.8.1 metric 100"],
                    "classless routes replace the router"
                );
                assert_eq!(
                    *machine.offers.time_servers().borrow(),
                    ["10.9.8.4".parse::<std::net::IpAddr>().unwrap()]
                );
                advertise.send(()).unwrap();
                machine
                    .until("advertised", |facts| {
                        facts.address.as_deref().is_some_and(|a| a.contains(" 2001:db8:7:"))
                    })
                    .await;
                assert!(routes(&handle).await.contains(&"default via fe80::1 metric 100".to_owned()));
                assert_eq!(
                    fs::read_to_string(&machine.files.resolv_conf).unwrap(),
                    "search lan home\nnameserver 192.0.2.53\nnameserver 10.9.8.3\nnameserver 2001:db8:7::53\n"
                );
                let problems =
                    machine.until("told", |facts| facts.problems.contains_key("network v0")).await.problems;
                assert!(problems["network v0"].contains("route to 10.66.0.0/16"), "{problems:?}");
                let mtu = handle.link().get().match_name("v0").execute().try_next().await.unwrap().unwrap();
                assert!(mtu.attributes.contains(&rtnetlink::packet_route::link::LinkAttribute::Mtu(1400)));
                let remembered = fs::read_to_string(machine.files.leases.join("020000000907")).unwrap();
                assert_eq!(remembered, format!("{ADDRESS}\n"));
                machine.offers.release_leases();
            })
            .await;
        });
    });
    let kinds = server.join().unwrap();
    client.unwrap().join().unwrap();
    assert_eq!((kinds.first(), kinds.last()), (Some(&1), Some(&RELEASE)), "{kinds:?}");
    assert!(kinds.contains(&3));
}

#[test]
fn a_port_found_by_its_hardware_address_is_named_and_gets_what_is_configured() {
    let ran = in_namespace(|| {
        with_links(async |handle| {
            let pair = LinkVeth::new("v0", PEER).address(MAC.to_vec()).build();
            let interface = Interface {
                matching: Some(Match { mac: Some(MAC), ..Match::default() }),
                addresses: vec!["10.1.0.5/24".parse().unwrap(), "fd00:1::5/64".parse().unwrap()],
                gateways: vec!["10.1.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
                routes: vec![
                    Route {
                        to: "10.2.0.0/16".parse().unwrap(),
                        via: Some("10.1.0.2".parse().unwrap()),
                        metric: Some(7),
                    },
                    Route { to: "10.3.0.0/16".parse().unwrap(), via: None, metric: None },
                ],
                mtu: Some(1300),
                ..port("lan")
            };
            Machine::run(network(vec![port("absent"), interface]), async |machine| {
                // The link comes later than the configuration.
                tokio::task::yield_now().await;
                assert_eq!(machine.board.watch().borrow().address, None);
                handle.link().add(pair).execute().await.unwrap();
                handle.link().set(LinkUnspec::new_with_name(PEER).up().build()).execute().await.unwrap();
                let facts = machine.until("configured", |facts| facts.address.is_some()).await;
                assert!(facts.address.unwrap().starts_with("lan 10.1.0.5/24"));
                let wanted = [
                    "10.2.0.0/16 via 10.1.0.2 metric 7",
                    "10.3.0.0/16 metric 101",
                    "default via 10.1.0.1 metric 101",
                    "default via fd00:1::1 metric 101",
                ];
                let found = timeout(LIMIT, async {
                    loop {
                        let found = routes(&handle).await;
                        if wanted.iter().all(|wanted| found.iter().any(|found| found == wanted)) {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                });
                assert!(found.await.is_ok(), "{:?}", routes(&handle).await);
                machine
                    .until("shown", |facts| {
                        facts.address.as_deref().is_some_and(|a| a.contains("fd00:1::5/64"))
                    })
                    .await;
                let problem = machine.until("told", |facts| !facts.problems.is_empty()).await.problems;
                assert!(
                    problem["network absent"]
                        .contains("there is no interface absent (network.interfaces[0])")
                );
                // Unplugged for good: the address goes, and so does what came with it.
                let lan = index(&handle, "lan").await;
                handle.link().del(lan).execute().await.unwrap();
                machine.until("gone", |facts| facts.address.is_none()).await;
            })
            .await;
        });
    });
    if let Some(ran) = ran {
        ran.join().unwrap();
    }
}

#[test]
fn vlan_bond_and_bridge_are_stacked() {
    let ran = in_namespace(|| {
        with_links(async |handle| {
            for (kind, new) in
                [("bond", links::New::Bond(Default::default())), ("bridge", links::New::Bridge)]
            {
                if let Err(error) = Links::new(handle.clone()).add("probe", new, None).await {
                    eprintln!("skipped: this kernel makes no {kind} ({error})");
                    return;
                }
                let probe = index(&handle, "probe").await;
                handle.link().del(probe).execute().await.unwrap();
            }
            handle
                .link()
                .add(LinkVeth::new("v0", PEER).address(MAC.to_vec()).build())
                .execute()
                .await
                .unwrap();
            handle.link().set(LinkUnspec::new_with_name(PEER).up().build()).execute().await.unwrap();
            let bond = Kind::Bond { members: vec!["v0".to_owned()], mode: Default::default() };
            let bridge = Kind::Bridge { members: vec!["bond0.5".to_owned()] };
            let vlan = Kind::Vlan { id: 5, link: "bond0".to_owned() };
            let interfaces = vec![
                Interface { kind: bridge, addresses: vec!["10.1.0.5/24".parse().unwrap()], ..port("br0") },
                Interface { kind: vlan, ..port("bond0.5") },
                Interface { kind: bond, ..port("bond0") },
                port("v0"),
            ];
            Machine::run(network(interfaces), async |machine| {
                machine
                    .until("configured", |facts| facts.address.as_deref() == Some("br0 10.1.0.5/24"))
                    .await;
            })
            .await;
        });
    });
    if let Some(ran) = ran {
        ran.join().unwrap();
    }
}
