//! A DHCPv4 client (RFC 2131): one interface's lease, from the first question to giving it back.
//!
//! ```text
//!            ┌── remembered address ──> REBOOTING ── ACK ──┐
//! carrier ───┤                              │ NAK, silence │
//!            └──> SELECTING ──> REQUESTING ─┼── ACK ───────┴──> BOUND ──> RENEWING ──> REBINDING ──> (expired)
//!                     ^                     └── NAK ──┐           │ ^ ACK  │ ^ ACK        │ ^ ACK       │
//!                     └───────────────────────────────┴───────────┴────────┴── NAK ───────┴─────────────┘
//! ```
//!
//! The states are the functions of [`Client`]; what it does on the network goes through [`Wire`]. It never gives up, is silent
//! while there is no carrier, and has its lease confirmed when the carrier comes back, since that may be another network.
//! While it has no address it asks servers to broadcast their answers, so an ordinary UDP socket receives them.

mod codec;
mod port;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

pub(super) use self::codec::Lease;
use self::codec::{Kind, Reply, Request, SERVER_PORT};
pub(super) use self::port::Port;
use super::random;

/// Longest datagram we read; we announce a smaller one (option 57).
const MAX_DATAGRAM: usize = 2048;
/// Waits for an answer, each with [`JITTER`]; the last is repeated (RFC 2131, 4.1).
const RETRANSMIT: [Duration; 5] = [
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(64),
];
/// How often a request for an offered address is sent before we look for another offer.
const REQUESTS: usize = 3;
/// Waits for a confirmation of an address we had. Servers that do not know us keep silent, so this must not take long.
const CONFIRM: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// A retransmission comes up to this much earlier or later, so that machines that lost power together do not ask together.
const JITTER: Duration = Duration::from_secs(1);
/// The shortest wait between attempts to renew.
const RENEW_AT_LEAST: Duration = Duration::from_secs(60);
/// The time for renewal is up to this part of it earlier.
const RENEW_FUZZ: u32 = 50;
/// What an address in use costs before we ask for another (RFC 2131, 3.1).
const DECLINE_PAUSE: Duration = Duration::from_secs(10);
/// After so many discoveries without an answer the user is told.
const PATIENCE: usize = 2;

/// What the client tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// There is a lease, or it has changed: use its address until told otherwise.
    Bound(Lease),
    /// Stop using the address.
    Lost(Loss),
    /// No server answers.
    Silence,
    /// Servers are being asked for an address.
    Asking,
    /// A server granted an address that somebody else uses.
    Conflict(Ipv4Addr),
}

/// Why a lease is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nobody extended it in time.
    Expired,
    /// A server took it back, or the machine is on another network now.
    Refused,
}

/// What a client does on its link.
pub(super) trait Wire {
    /// Sends to a server, or to every one; without an address of our own as the source when `from` is none.
    async fn send(&self, message: &[u8], from: Option<Ipv4Addr>, to: Option<Ipv4Addr>) -> io::Result<()>;
    /// The next datagram for a client. Cancel safe.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Whether another machine on the link answers for `address`.
    async fn in_use(&self, address: Ipv4Addr) -> io::Result<bool>;
    /// Tells neighbours that `address` is ours.
    async fn announce(&self, address: Ipv4Addr) -> io::Result<()>;
}

/// One interface's client.
pub(super) struct Client<W> {
    wire: W,
    carrier: watch::Receiver<bool>,
    mac: [u8; 6],
    hostname: String,
    /// The address we had or would like.
    wish: Option<Ipv4Addr>,
    transaction: u32,
    /// When the running attempt began.
    began: Instant,
}

/// What came of asking for one address.
enum Answer {
    Granted(Lease),
    Refused,
    Silence,
}

impl<W: Wire> Client<W> {
    /// A client on a link that is up. `remembered` is the address it had when it last ran.
    pub(super) fn new(
        wire: W,
        carrier: watch::Receiver<bool>,
        mac: [u8; 6],
        hostname: String,
        remembered: Option<Ipv4Addr>,
    ) -> Self {
        let began = Instant::now();
        Self { wire, carrier, mac, hostname, wish: remembered, transaction: 0, began }
    }

    /// Gets a lease and keeps it, for ever. Ends only when the link breaks.
    pub(super) async fn run(mut self, mut tell: impl AsyncFnMut(Event)) -> io::Result<()> {
        self.has_carrier().await;
        let mut confirmed = match self.wish {
            Some(address) => self.confirm(address).await?,
            None => Answer::Silence,
        };
        loop {
            let lease = match std::mem::replace(&mut confirmed, Answer::Silence) {
                Answer::Granted(lease) => lease,
                answer => {
                    self.wish = self.wish.filter(|_| !matches!(answer, Answer::Refused));
                    self.acquire(&mut tell).await?
                }
            };
            let address = lease.address.addr();
            self.wish = Some(address);
            tell(Event::Bound(lease.clone())).await;
            // Neighbours learn of it sooner or later.
            let _ = self.wire.announce(address).await;
            let loss = self.keep(lease, &mut tell).await?;
            self.wish = self.wish.filter(|_| loss == Loss::Expired);
            tell(Event::Lost(loss)).await;
        }
    }

    /// SELECTING, REQUESTING: asks until a server grants an address that nobody uses.
    async fn acquire(&mut self, tell: &mut impl AsyncFnMut(Event)) -> io::Result<Lease> {
        loop {
            self.has_carrier().await;
            let mut carrier = self.carrier.clone();
            tokio::select! {
                lease = self.acquire_here(tell) => return lease,
                () = lost(&mut carrier) => {}
            }
        }
    }

    async fn acquire_here(&mut self, tell: &mut impl AsyncFnMut(Event)) -> io::Result<Lease> {
        tell(Event::Asking).await;
        self.began = Instant::now();
        let mut failures = 0;
        loop {
            match self.attempt(failures).await? {
                Answer::Granted(lease) => {
                    let address = lease.address.addr();
                    // A probe that cannot be made is no proof of a conflict.
                    if !self.wire.in_use(address).await.unwrap_or(false) {
                        return Ok(lease);
                    }
                    self.decline(&lease).await;
                    tell(Event::Conflict(address)).await;
                    sleep(DECLINE_PAUSE).await;
                }
                // A server that offers and then refuses must not make us ask in a circle.
                Answer::Refused => {
                    self.wish = None;
                    sleep(retransmit(failures)?).await;
                    failures += 1;
                }
                Answer::Silence => {
                    failures += 1;
                    if failures == PATIENCE {
                        tell(Event::Silence).await;
                    }
                }
            }
        }
    }

    async fn attempt(&mut self, failures: usize) -> io::Result<Answer> {
        self.transaction = random()?;
        let mut discover = self.request(Kind::Discover);
        discover.requested = self.wish;
        self.send(&discover, None, None).await;
        let asked = Instant::now();
        let deadline = asked + retransmit(failures)?;
        let Some(Reply { lease: offer, .. }) = self.receive(asked, deadline, &[Kind::Offer]).await? else {
            return Ok(Answer::Silence);
        };
        for repetition in 0..REQUESTS {
            let request = self.request(Kind::Request).select(&offer);
            match self.ask(&request, offer.server, retransmit(repetition)?).await? {
                Answer::Silence => {}
                answer => return Ok(answer),
            }
        }
        Ok(Answer::Silence)
    }

    /// REBOOTING: asks whether an address we had is still ours and right for this network.
    async fn confirm(&mut self, address: Ipv4Addr) -> io::Result<Answer> {
        self.transaction = random()?;
        self.began = Instant::now();
        for wait in CONFIRM {
            let mut request = self.request(Kind::Request);
            request.requested = Some(address);
            match self.ask(&request, None, wait).await? {
                Answer::Silence => {}
                answer => return Ok(answer),
            }
        }
        Ok(Answer::Silence)
    }

    /// Sends once, and waits for a server (`of`, if it is one) to say yes or no.
    async fn ask(&self, request: &Request<'_>, of: Option<Ipv4Addr>, wait: Duration) -> io::Result<Answer> {
        let asked = Instant::now();
        self.send(request, None, None).await;
        loop {
            return Ok(match self.receive(asked, asked + wait, &[Kind::Ack, Kind::Nak]).await? {
                Some(Reply { lease, .. }) if of.is_some() && lease.server.is_some_and(|s| Some(s) != of) => {
                    continue;
                }
                Some(Reply { kind: Kind::Ack, lease }) => Answer::Granted(lease),
                Some(_) => Answer::Refused,
                None => Answer::Silence,
            });
        }
    }

    /// BOUND: keeps the lease as long as servers let us, and tells when its settings change.
    async fn keep(&mut self, mut lease: Lease, tell: &mut impl AsyncFnMut(Event)) -> io::Result<Loss> {
        loop {
            let mut carrier = self.carrier.clone();
            let renewed = tokio::select! {
                renewed = self.extend(&lease) => renewed?,
                () = bounced(&mut carrier) => match self.confirm(lease.address.addr()).await? {
                    Answer::Granted(lease) => Ok(lease),
                    Answer::Refused => Err(Loss::Refused),
                    // Nobody objects, so what is left of the lease holds.
                    Answer::Silence => continue,
                },
            };
            match renewed {
                Ok(renewed) => {
                    if !renewed.same_settings(&lease) {
                        tell(Event::Bound(renewed.clone())).await;
                    }
                    lease = renewed;
                }
                Err(loss) => return Ok(loss),
            }
        }
    }

    /// RENEWING, REBINDING: when it is time, asks for more of it: the lease's server, then any server.
    async fn extend(&mut self, lease: &Lease) -> io::Result<Result<Lease, Loss>> {
        let Some(times) = lease.times() else {
            // An infinite lease: nothing to do, ever.
            return std::future::pending().await;
        };
        let [renew, rebind, end] = [times.renew, times.rebind, times.end].map(|time| lease.granted + time);
        sleep_until(renew - fraction(times.renew / RENEW_FUZZ)?).await;
        self.transaction = random()?;
        self.began = Instant::now();
        while Instant::now() < end {
            let asked = Instant::now();
            let (to, until) = match lease.server {
                Some(server) if asked < rebind => (Some(server), rebind),
                _ => (None, end),
            };
            let mut request = self.request(Kind::Request);
            request.current = Some(lease.address.addr());
            self.send(&request, request.current, to).await;
            let wait = ((until - asked) / 2).max(RENEW_AT_LEAST);
            let deadline = (asked + wait).min(until);
            match self.receive(asked, deadline, &[Kind::Ack, Kind::Nak]).await? {
                Some(Reply { kind: Kind::Ack, lease }) => return Ok(Ok(lease)),
                Some(_) => return Ok(Err(Loss::Refused)),
                None => {}
            }
        }
        Ok(Err(Loss::Expired))
    }

    async fn decline(&self, lease: &Lease) {
        let decline = self.request(Kind::Decline).select(lease);
        self.send(&decline, None, None).await;
    }

    fn request(&self, kind: Kind) -> Request<'_> {
        Request {
            kind,
            transaction: self.transaction,
            mac: self.mac,
            hostname: &self.hostname,
            trying: self.began.elapsed(),
            current: None,
            requested: None,
            server: None,
        }
    }

    /// A send may fail while the link is down; that is silence, and silence is answered with repetition.
    async fn send(&self, request: &Request<'_>, from: Option<Ipv4Addr>, to: Option<Ipv4Addr>) {
        let _ = self.wire.send(&request.encode(), from, to).await;
    }

    /// The first answer of a wanted kind to the running transaction before `deadline`.
    async fn receive(&self, asked: Instant, deadline: Instant, wanted: &[Kind]) -> io::Result<Option<Reply>> {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let Ok(received) = timeout_at(deadline, self.wire.receive(&mut buffer)).await else {
                return Ok(None);
            };
            if let Some(reply) = Reply::decode(&buffer[..received?], self.transaction, self.mac, asked)
                && wanted.contains(&reply.kind)
            {
                return Ok(Some(reply));
            }
        }
    }

    async fn has_carrier(&mut self) {
        back(&mut self.carrier).await;
    }
}

/// Whom to tell that a lease is given back, if it is known, and the message.
pub(super) fn release(lease: &Lease, mac: [u8; 6]) -> io::Result<(Option<SocketAddrV4>, Vec<u8>)> {
    let request = Request {
        kind: Kind::Release,
        transaction: random()?,
        mac,
        hostname: "",
        trying: Duration::ZERO,
        current: Some(lease.address.addr()),
        requested: None,
        server: lease.server,
    };
    Ok((lease.server.map(|server| SocketAddrV4::new(server, SERVER_PORT)), request.encode()))
}

/// The wait for an answer after so many failures.
fn retransmit(failures: usize) -> io::Result<Duration> {
    let wait = RETRANSMIT[failures.min(RETRANSMIT.len() - 1)];
    Ok(wait - JITTER + fraction(2 * JITTER)?)
}

/// A random part of `whole`.
fn fraction(whole: Duration) -> io::Result<Duration> {
    Ok(whole.mul_f64(f64::from(random()?) / f64::from(u32::MAX)))
}

/// Waits for a carrier. Whoever reports it is gone when the interface is, and so are we then.
async fn back(carrier: &mut watch::Receiver<bool>) {
    if carrier.wait_for(|&up| up).await.is_err() {
        std::future::pending().await
    }
}

/// Waits for the carrier to go.
async fn lost(carrier: &mut watch::Receiver<bool>) {
    if carrier.wait_for(|&up| !up).await.is_err() {
        std::future::pending().await
    }
}

/// Waits for the carrier to go and come back.
async fn bounced(carrier: &mut watch::Receiver<bool>) {
    lost(carrier).await;
    back(carrier).await;
}

#[cfg(test)]
mod tests;
