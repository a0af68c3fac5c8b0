//! Name servers and search domains in IPv6 router advertisements (RFC 8106). The kernel takes addresses and routes from
//! advertisements itself and passes these options on (`RTM_NEWNDUSEROPT`, RFC 8106 options 25 and 31).

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};
use tokio::io::unix::AsyncFd;

use crate::readiness::readable;

/// `RTNLGRP_ND_USEROPT` as a bit.
const GROUP: u32 = 1 << (20 - 1);
/// `RTM_NEWNDUSEROPT`.
const NEW_OPTION: u16 = 68;
const NETLINK_HEADER_LEN: usize = 16;
/// `struct nduseroptmsg`.
const OPTION_HEADER_LEN: usize = 16;
/// ICMPv6 type of a router advertisement.
const ADVERTISEMENT: u8 = 134;
const NAME_SERVERS: u8 = 25;
const SEARCH_DOMAINS: u8 = 31;
/// The largest option has 255 times 8 bytes.
const MAX_DATAGRAM: usize = 4096;

/// Hears what the kernel passes on.
pub(super) struct Listener(AsyncFd<Socket>);

struct Socket(OwnedFd);

/// What one option says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advice {
    /// The link it was heard on.
    pub(super) index: u32,
    /// How long it holds; zero takes back what was said before, none is for ever.
    pub(super) lifetime: Option<Duration>,
    /// What it is about.
    pub(super) offer: Offer,
}

/// What a router offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Offer {
    /// Name servers.
    Servers(Vec<Ipv6Addr>),
    /// Search domains.
    Domains(Vec<String>),
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Listener {
    /// Hears everything from now on; nothing that was said before.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        Ok(Self(readable(Socket(fd))?))
    }

    /// The next advice. Cancel safe.
    pub(super) async fn next(&self) -> io::Result<Advice> {
        loop {
            let mut buffer = [0; MAX_DATAGRAM];
            let receive = |socket: &Socket| Ok(recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut buffer)?);
            let received = self.0.async_io(tokio::io::Interest::READABLE, receive).await;
            match received {
                // Port 0 is the kernel; anyone else is not to be believed.
                Ok((len, Some(sender))) if sender.pid() == 0 => {
                    if let Some(advice) = decode(&buffer[..len]) {
                        return Ok(advice);
                    }
                }
                // Routers say everything again and again, so what was lost comes back.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads one message of the kernel.
fn decode(message: &[u8]) -> Option<Advice> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    (kind == NEW_OPTION).then_some(())?;
    let body = message.get(NETLINK_HEADER_LEN..)?;
    let header = body.get(..OPTION_HEADER_LEN)?;
    (header[8] == ADVERTISEMENT).then_some(())?;
    let index = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let len = usize::from(u16::from_ne_bytes([header[2], header[3]]));
    let option = body.get(OPTION_HEADER_LEN..OPTION_HEADER_LEN + len)?;
    let (head, data) = option.split_at_checked(8)?;
    // The option's own length counts units of eight bytes.
    let data = data.get(..usize::from(head[1]).checked_mul(8)?.checked_sub(8)?)?;
    let seconds = u32::from_be_bytes(head[4..8].try_into().ok()?);
    let lifetime = (seconds != u32::MAX).then(|| Duration::from_secs(seconds.into()));
    let offer = match head[0] {
        NAME_SERVERS => Offer::Servers(data.chunks_exact(16).filter_map(address).collect()),
        SEARCH_DOMAINS => Offer::Domains(domains(data)?),
        _ => return None,
    };
    Some(Advice { index, lifetime, offer })
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    (!address.is_unspecified() && !address.is_multicast()).then_some(address)
}

/// Domain names as in DNS, uncompressed, padded with zeros. They go into resolv.conf, so nothing but domain names may pass.
fn domains(mut data: &[u8]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut labels: Vec<&str> = Vec::new();
    while let [len, rest @ ..] = data {
        let (label, rest) = rest.split_at_checked(usize::from(*len))?;
        match std::str::from_utf8(label) {
            Ok("") if labels.is_empty() => {}
            Ok("") => found.push(std::mem::take(&mut labels).join(".")),
            Ok(label) if label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') => {
                labels.push(label);
            }
            _ => return None,
        }
        data = rest;
    }
    labels.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel sends it, about link 7.
    fn message(option: &[u8]) -> Vec<u8> {
        let mut message = vec![0; NETLINK_HEADER_LEN + OPTION_HEADER_LEN];
        message[4..6].copy_from_slice(&NEW_OPTION.to_ne_bytes());
        message[18..20].copy_from_slice(&(option.len() as u16).to_ne_bytes());
        message[20..24].copy_from_slice(&7i32.to_ne_bytes());
        message[24] = ADVERTISEMENT;
        message.extend_from_slice(option);
        // An attribute follows: the router's address.
        message.extend_from_slice(&[20, 0, 1, 0]);
        message.extend_from_slice(&[0xFE; 16]);
        message
    }

    #[test]
    fn name_servers_come_with_their_lifetime() {
        let server: Ipv6Addr = "fec0::3".parse().unwrap();
        let option = [&[NAME_SERVERS, 3, 0, 0, 0, 0, 7, 8][..], &server.octets()].concat();
        let advice = decode(&message(&option)).unwrap();
        assert_eq!((advice.index, advice.lifetime), (7, Some(Duration::from_secs(1800))));
        assert_eq!(advice.offer, Offer::Servers(vec![server]));
        let mut other = message(&option);
        other[24] = 136;
        assert_eq!(decode(&other), None, "a neighbour advertisement");
        for len in 0..NETLINK_HEADER_LEN + OPTION_HEADER_LEN + option.len() {
            assert_eq!(decode(&message(&option)[..len]), None, "cut to {len} bytes");
        }
    }

    #[test]
    fn search_domains_are_names_and_nothing_else() {
        let option = |data: &[u8]| {
            let mut option = vec![SEARCH_DOMAINS, (data.len() / 8 + 1) as u8, 0, 0, 255, 255, 255, 255];
            option.extend_from_slice(data);
            decode(&message(&option))
        };
        let advice = option(b"\x03lan\x07example\x03org\0\0\0\0\0\0\0").map(|advice| advice.offer);
        assert_eq!(advice, None, "not ended");
        let advice = option(b"\x03lan\0\x07example\x03org\0\0\0\0\0\0\0").unwrap();
        assert_eq!(advice.lifetime, None);
        assert_eq!(advice.offer, Offer::Domains(vec!["lan".to_owned(), "example.org".to_owned()]));
        assert_eq!(option(b"\x05a b\n;\0\0"), None, "no name");
    }
}
