//! A DHCPv4 client (RFC 2131): discover, request, renew, rebind, and start over.
//!
//! It speaks through an ordinary UDP socket bound to 0.0.0.0:68 and to the interface, and asks servers to broadcast their answers
//! while it has no address, so no raw socket is needed. It never gives up; what has been wrong for a while is
//! for the caller to show.

mod codec;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use self::codec::{CLIENT_PORT, Kind, Reply, Request, SERVER_PORT};
pub(super) use self::codec::{Lease, Route};

/// Longest datagram we read; we announce a smaller one (option 57).
const MAX_DATAGRAM: usize = 2048;
/// Waits for an answer, then asks again; the last is repeated.
const RETRANSMIT: [Duration; 5] = [
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(64),
];
/// The shortest wait between attempts to renew.
const RENEW_AT_LEAST: Duration = Duration::from_secs(60);
/// What the first attempt may take before the user is told.
const PATIENCE: u32 = 2;

/// What the client tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// There is a lease: use its address until told otherwise.
    Bound(Lease),
    /// The lease has ended or was taken back: stop using its address.
    Lost,
    /// No server answers.
    Silence,
}

/// One interface's client.
pub(super) struct Client {
    socket: UdpSocket,
    mac: [u8; 6],
    hostname: String,
    transaction: u32,
    /// Where servers are asked: everywhere, on the port of servers.
    everyone: SocketAddrV4,
}

impl Client {
    /// A client on `interface`, which must be up.
    pub(super) fn new(interface: &str, mac: [u8; 6], hostname: String) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
        setsockopt(&socket, sockopt::BindToDevice, &interface.into())?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
        Ok(Self { socket: UdpSocket::from_std(socket)?, mac, hostname, transaction: random()?, everyone })
    }

    /// Gets a lease and keeps it, for ever. Ends only when the socket breaks.
    pub(super) async fn run(mut self, mut tell: impl AsyncFnMut(Event)) -> io::Result<()> {
        loop {
            let lease = self.acquire(&mut tell).await?;
            tell(Event::Bound(lease.clone())).await;
            self.keep(lease, &mut tell).await?;
            tell(Event::Lost).await;
        }
    }

    /// INIT, SELECTING, REQUESTING: asks until a server grants an address.
    async fn acquire(&mut self, tell: &mut impl AsyncFnMut(Event)) -> io::Result<Lease> {
        let mut silent = 0;
        loop {
            self.transaction = random()?;
            let asked = Instant::now();
            let Some(offer) = self.discover(silent).await? else {
                silent += 1;
                if silent == PATIENCE {
                    tell(Event::Silence).await;
                }
                continue;
            };
            let request = self.request(Kind::Request, None).select(&offer);
            let wait = RETRANSMIT[0];
            self.send(&request, None).await?;
            let accepted = self.receive(asked, Instant::now() + wait, &[Kind::Ack, Kind::Nak]).await?;
            if let Some(Reply { kind: Kind::Ack, lease, .. }) = accepted {
                return Ok(lease);
            }
        }
    }

    async fn discover(&self, attempt: u32) -> io::Result<Option<Lease>> {
        let wait = RETRANSMIT[RETRANSMIT.len().min(attempt as usize + 1) - 1];
        let asked = Instant::now();
        self.send(&self.request(Kind::Discover, None), None).await?;
        Ok(self.receive(asked, asked + wait, &[Kind::Offer]).await?.map(|reply| reply.lease))
    }

    /// BOUND, RENEWING, REBINDING: returns when the lease has ended or was refused.
    async fn keep(&mut self, mut lease: Lease, tell: &mut impl AsyncFnMut(Event)) -> io::Result<()> {
        loop {
            let Some(times) = lease.times() else {
                // An infinite lease: nothing to do, ever.
                return std::future::pending().await;
            };
            let granted = lease.granted;
            tokio::time::sleep_until(granted + times.renew).await;
            let Some(renewed) = self.extend(&lease, granted + times.rebind, granted + times.end).await?
            else {
                return Ok(());
            };
            if !renewed.same_settings(&lease) {
                tell(Event::Bound(renewed.clone())).await;
            }
            lease = renewed;
        }
    }

    /// Asks for more time: of the lease's server until `rebind`, of any server until `end`.
    async fn extend(&mut self, lease: &Lease, rebind: Instant, end: Instant) -> io::Result<Option<Lease>> {
        self.transaction = random()?;
        while Instant::now() < end {
            let asked = Instant::now();
            let (to, until) = match lease.server {
                Some(server) if asked < rebind => (Some(server), rebind),
                _ => (None, end),
            };
            // A send may fail when the network is down; that is silence, not an error.
            let _ = self.send(&self.request(Kind::Request, Some(lease.address.addr())), to).await;
            let wait = ((until - asked) / 2).max(RENEW_AT_LEAST);
            let reply = self.receive(asked, (asked + wait).min(until), &[Kind::Ack, Kind::Nak]).await?;
            match reply {
                Some(Reply { kind: Kind::Ack, lease, .. }) => return Ok(Some(lease)),
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    fn request(&self, kind: Kind, current: Option<Ipv4Addr>) -> Request<'_> {
        Request {
            kind,
            transaction: self.transaction,
            mac: self.mac,
            hostname: &self.hostname,
            current,
            requested: None,
            server: None,
        }
    }

    /// To one server, or to every one.
    async fn send(&self, request: &Request<'_>, server: Option<Ipv4Addr>) -> io::Result<()> {
        let to = server.map_or(self.everyone, |server| SocketAddrV4::new(server, self.everyone.port()));
        self.socket.send_to(&request.encode(), to).await.map(drop)
    }

    /// The first answer of a wanted kind to the running transaction before `deadline`.
    async fn receive(&self, asked: Instant, deadline: Instant, wanted: &[Kind]) -> io::Result<Option<Reply>> {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let Ok(received) = timeout_at(deadline, self.socket.recv_from(&mut buffer)).await else {
                return Ok(None);
            };
            let (len, _) = match received {
                Ok(received) => received,
                // ICMP errors to earlier datagrams surface here.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            if let Some(reply) = Reply::decode(&buffer[..len], self.transaction, self.mac, asked)
                && wanted.contains(&reply.kind)
            {
                return Ok(Some(reply));
            }
        }
    }
}

fn random() -> io::Result<u32> {
    use std::io::Read;
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const LIMIT: Duration = Duration::from_secs(20);
    /// Option 53's values.
    const DISCOVER: u8 = 1;
    const OFFER: u8 = 2;
    const REQUEST: u8 = 3;
    const ACK: u8 = 5;
    const NAK: u8 = 6;

    /// A server on the loopback that answers as it is told. Leases last 100 s, and are to be renewed after one.
    struct Server(UdpSocket);

    impl Server {
        /// Receives a message of this kind, with the address it says it comes from, and answers with `answer`.
        async fn answer(&self, kind: u8, answer: u8) -> Ipv4Addr {
            let mut request = [0; MAX_DATAGRAM];
            let (_, client) = timeout(LIMIT, self.0.recv_from(&mut request)).await.unwrap().unwrap();
            assert_eq!(request[240..243], [53, 1, kind]);
            let current = <[u8; 4]>::try_from(&request[12..16]).unwrap();
            let mut reply = request[..240].to_vec();
            reply[0] = 2;
            reply[16..20].copy_from_slice(&[10, 9, 8, 7]);
            reply.extend_from_slice(&[53, 1, answer, 1, 4, 255, 255, 255, 0, 54, 4, 127, 0, 0, 1]);
            reply.extend_from_slice(&[51, 4, 0, 0, 0, 100, 58, 4, 0, 0, 0, 1, 255]);
            self.0.send_to(&reply, client).await.unwrap();
            current.into()
        }
    }

    #[tokio::test]
    async fn a_lease_is_got_renewed_and_given_up_when_refused() {
        let server = Server(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let std::net::SocketAddr::V4(everyone) = server.0.local_addr().unwrap() else {
            unreachable!("bound to IPv4")
        };
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = Client { socket, mac: MAC, hostname: "box".to_owned(), transaction: 0, everyone };
        let (tell, mut told) = mpsc::channel(4);
        let running = tokio::spawn(client.run(async move |event| tell.send(event).await.unwrap()));

        assert_eq!(server.answer(DISCOVER, OFFER).await, Ipv4Addr::UNSPECIFIED);
        assert_eq!(server.answer(REQUEST, ACK).await, Ipv4Addr::UNSPECIFIED);
        let Some(Event::Bound(lease)) = told.recv().await else { panic!("no lease") };
        assert_eq!(lease.address, "10.9.8.7/24".parse().unwrap());

        // Renewed with the same settings, there is nothing to tell.
        assert_eq!(server.answer(REQUEST, ACK).await, lease.address.addr());
        assert_eq!(server.answer(REQUEST, NAK).await, lease.address.addr());
        assert_eq!(told.recv().await, Some(Event::Lost));
        server.answer(DISCOVER, OFFER).await;
        running.abort();
    }
}
