//! The real [`Wire`]: a UDP socket on the client's port for what has an address to come from, frames of our own for what has
//! none yet, and ARP to see who uses an address.
//!
//! The frames are needed because the kernel gives a datagram without a source the address of another interface, if there is one.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, recv, send, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::Wire;
use super::codec::{CLIENT_PORT, SERVER_PORT};
use crate::readiness::{readable, writable};

const EVERY_STATION: [u8; 6] = [0xFF; 6];
/// Ethernet types (include/uapi/linux/if_ether.h).
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// Ethernet type of a socket that only sends.
const NOTHING: u16 = 0;
const UDP: u8 = 17;
const IP_HEADER_LEN: u16 = 20;
const UDP_HEADER_LEN: u16 = 8;
const TIME_TO_LIVE: u8 = 64;
/// An address is asked for so often, each time waiting for so long, before it is taken to be free. RFC 5227 waits for seconds;
/// neighbours that are awake answer within a millisecond, and the boot waits for us.
const PROBES: usize = 2;
const PROBE_WAIT: Duration = Duration::from_millis(100);
/// Ethernet header and ARP message for IPv4.
const ARP_FRAME_LEN: usize = 42;

/// One interface, as a DHCP client needs it.
pub(in crate::network) struct Port {
    datagrams: Rc<UdpSocket>,
    index: u32,
    mac: [u8; 6],
}

impl Port {
    /// Opens the client's port on the interface, which must be up.
    pub(in crate::network) fn open(name: &str, index: u32, mac: [u8; 6]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        // Before it is bound: every interface has a client with this port.
        setsockopt(&fd, sockopt::BindToDevice, &name.into())?;
        setsockopt(&fd, sockopt::Broadcast, &true)?;
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        bind(fd.as_raw_fd(), &SockaddrIn::from(any))?;
        let datagrams = Rc::new(UdpSocket::from_std(fd.into())?);
        Ok(Self { datagrams, index, mac })
    }

    /// The socket, for a message at the very end.
    pub(in crate::network) fn socket(&self) -> Rc<UdpSocket> {
        Rc::clone(&self.datagrams)
    }

    async fn send_frame(&self, protocol: u16, payload: &[u8]) -> io::Result<()> {
        let fd = writable::<OwnedFd>(sys::packet::open(self.index, NOTHING)?)?;
        let frame = [&EVERY_STATION[..], &self.mac, &protocol.to_be_bytes(), payload].concat();
        let send = |fd: &OwnedFd| Ok(send(fd.as_raw_fd(), &frame, MsgFlags::empty())?);
        fd.async_io(Interest::WRITABLE, send).await.map(drop)
    }
}

impl Wire for Port {
    async fn send(&self, message: &[u8], from: Option<Ipv4Addr>, to: Option<Ipv4Addr>) -> io::Result<()> {
        if from.is_none() {
            return self.send_frame(IPV4, &broadcast_packet(message)?).await;
        }
        let to = SocketAddrV4::new(to.unwrap_or(Ipv4Addr::BROADCAST), SERVER_PORT);
        self.datagrams.send_to(message, to).await.map(drop)
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.datagrams.recv_from(buffer).await {
                // ICMP errors to earlier datagrams surface here.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionRefused
                            | io::ErrorKind::HostUnreachable
                            | io::ErrorKind::NetworkUnreachable
                    ) => {}
                received => return received.map(|(len, _)| len),
            }
        }
    }

    async fn in_use(&self, address: Ipv4Addr) -> io::Result<bool> {
        let fd = readable::<OwnedFd>(sys::packet::open(self.index, ARP)?)?;
        for _ in 0..PROBES {
            self.send_frame(ARP, &arp_request(self.mac, Ipv4Addr::UNSPECIFIED, address)).await?;
            let deadline = Instant::now() + PROBE_WAIT;
            let mut frame = [0; ARP_FRAME_LEN];
            let receive =
                |fd: &OwnedFd, frame: &mut [u8]| Ok(recv(fd.as_raw_fd(), frame, MsgFlags::empty())?);
            while let Ok(len) =
                timeout_at(deadline, fd.async_io(Interest::READABLE, |fd| receive(fd, &mut frame))).await
            {
                if is_used_by_another(&frame[..len?], self.mac, address) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn announce(&self, address: Ipv4Addr) -> io::Result<()> {
        self.send_frame(ARP, &arp_request(self.mac, address, address)).await
    }
}

/// `message` from the client's port at no address to the server's port at every address.
fn broadcast_packet(message: &[u8]) -> io::Result<Vec<u8>> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let payload_len =
        u16::try_from(message.len() + usize::from(IP_HEADER_LEN + UDP_HEADER_LEN)).map_err(too_long)?;
    let udp_len = payload_len - IP_HEADER_LEN;
    // Version 4 and five words of header; no service class, identification or fragments.
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&payload_len.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, TIME_TO_LIVE, UDP, 0, 0]);
    packet.extend_from_slice(&Ipv4Addr::UNSPECIFIED.octets());
    packet.extend_from_slice(&Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut header = Vec::new();
    for word in [CLIENT_PORT, SERVER_PORT, udp_len, 0] {
        header.extend_from_slice(&word.to_be_bytes());
    }
    let pseudo = [&packet[12..20], &[0, UDP], &udp_len.to_be_bytes()].concat();
    // Zero would mean that there is no sum (RFC 768).
    let sum = match checksum(&[&pseudo, &header, message]) {
        0 => u16::MAX,
        sum => sum,
    };
    header[6..8].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&header);
    packet.extend_from_slice(message);
    Ok(packet)
}

/// The Internet checksum (RFC 1071); every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low))).sum();
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

/// Ethernet and IPv4, lengths 6 and 4, and operation 1, a request (RFC 826).
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

/// Who has `target`? From nowhere it is a probe, from the target itself an announcement (RFC 5227).
fn arp_request(mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    [&ARP_REQUEST[..], &mac, &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// Whether the frame shows another station with the address, or probing for it as we do.
fn is_used_by_another(frame: &[u8], mac: [u8; 6], address: Ipv4Addr) -> bool {
    let Some(message) = frame.get(14..ARP_FRAME_LEN) else { return false };
    let (sender_mac, sender, target) = (&message[8..14], &message[14..18], &message[24..28]);
    let is_arp = message[..6] == ARP_REQUEST[..6];
    let has_it = sender == address.octets();
    let wants_it = sender == Ipv4Addr::UNSPECIFIED.octets() && target == address.octets();
    is_arp && sender_mac != mac && (has_it || wants_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    #[test]
    fn a_packet_from_nowhere_has_sums_that_add_up() {
        for message in [&b"even"[..], b"odd"] {
            let packet = broadcast_packet(message).unwrap();
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            assert_eq!(checksum(&[&packet[..20]]), 0);
            let udp_len = (packet.len() as u16 - 20).to_be_bytes();
            assert_eq!(checksum(&[&packet[12..20], &[0, UDP], &udp_len, &packet[20..]]), 0);
            assert_eq!(packet[20..24], [0, 68, 0, 67]);
        }
    }

    #[test]
    fn an_address_is_used_by_who_answers_for_it_or_probes_for_it_but_not_by_us() {
        let frame = |mac: [u8; 6], sender, target| [vec![0; 14], arp_request(mac, sender, target)].concat();
        let (ours, theirs) = ([2; 6], [4; 6]);
        let none = Ipv4Addr::UNSPECIFIED;
        let used = |frame: &[u8]| is_used_by_another(frame, ours, ADDRESS);
        assert!(used(&frame(theirs, ADDRESS, none)));
        assert!(used(&frame(theirs, none, ADDRESS)));
        assert!(!used(&frame(ours, none, ADDRESS)));
        assert!(!used(&frame(theirs, Ipv4Addr::new(10, 0, 2, 2), ADDRESS)), "only asks for it");
        assert!(!used(&frame(theirs, ADDRESS, none)[..41]), "cut");
    }
}
