//! Removes connection-tracking entries that would keep UDP clients on endpoints that are gone.
//!
//! A UDP "connection" has no end: as long as a client keeps sending from one port, the kernel translates by the entry it has
//! and never asks the rules again. So, when the endpoints of a UDP service change, entries that lead elsewhere are deleted,
//! as kube-proxy does (`pkg/proxy/conntrack`).
//!
//! Speaks ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`) by hand: two messages are all that is needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Subsystem conntrack, messages GET and DELETE.
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const NLMSG_HEADER: usize = 16;
const NFGEN_HEADER: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Without the flags for nested and network byte order.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const UDP: u8 = 17;
/// The kernel fills dumps in pieces of at most 32 KiB.
const BUFFER_BYTES: usize = 64 << 10;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
}

/// A UDP entry: how it was begun, and how the answers come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) original: Tuple,
    pub(crate) reply: Tuple,
    /// The original tuple's attribute as the kernel sent it, by which the entry is deleted.
    attribute: Vec<u8>,
}

/// Deletes the UDP entries of one address family that `stale` names; returns how many. Blocks for some milliseconds.
pub(crate) fn delete_udp(v6: bool, stale: impl Fn(&Entry) -> bool) -> io::Result<usize> {
    let family = if v6 { libc_family::INET6 } else { libc_family::INET };
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message(CT_GET, NLM_F_REQUEST | NLM_F_DUMP, family, &[]), 0)?;
    let mut entries = Vec::new();
    receive(&socket, |payload| entries.extend(parse_entry(payload)))?;
    let mut deleted = 0;
    for entry in entries.iter().filter(|entry| stale(entry)) {
        socket.send(&message(CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, family, &entry.attribute), 0)?;
        match receive(&socket, |_| ()) {
            Ok(()) => deleted += 1,
            // It has timed out meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// Address families as nfnetlink numbers them.
mod libc_family {
    pub(super) const INET: u8 = 2;
    pub(super) const INET6: u8 = 10;
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = NLMSG_HEADER + NFGEN_HEADER + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).expect("attributes are a few dozen bytes").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port, which are only for the sender's own use.
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// Reads messages up to the end of a dump, or an acknowledgement. An error the kernel sends is returned as one.
fn receive(socket: &Socket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while let Some((header, _)) = rest.split_first_chunk::<NLMSG_HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if length < NLMSG_HEADER || length > rest.len() {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let payload = &rest[NLMSG_HEADER..length];
            match u16::from_ne_bytes([header[4], header[5]]) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return error_of(payload),
                _ => each(payload),
            }
            rest = &rest[align(length).min(rest.len())..];
        }
    }
}

fn error_of(payload: &[u8]) -> io::Result<()> {
    let Some((number, _)) = payload.split_first_chunk::<4>() else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    match i32::from_ne_bytes(*number) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(-number)),
    }
}

fn parse_entry(payload: &[u8]) -> Option<Entry> {
    let attributes = payload.get(NFGEN_HEADER..)?;
    let mut original = None;
    let mut reply = None;
    for attribute in Attributes(attributes) {
        match attribute.kind {
            CTA_TUPLE_ORIG => original = Some((parse_tuple(attribute.value)?, attribute.whole.to_vec())),
            CTA_TUPLE_REPLY => reply = parse_tuple(attribute.value),
            _ => {}
        }
    }
    let (original, attribute) = original?;
    Some(Entry { original, reply: reply?, attribute })
}

/// `None` for protocols other than UDP.
fn parse_tuple(value: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut source_port, mut destination_port, mut protocol) = (None, None, None);
    for attribute in Attributes(value) {
        for inner in Attributes(attribute.value) {
            match (attribute.kind, inner.kind) {
                (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => source = parse_address(inner.value),
                (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => destination = parse_address(inner.value),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = inner.value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = parse_port(inner.value),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => destination_port = parse_port(inner.value),
                _ => {}
            }
        }
    }
    if protocol != Some(UDP) {
        return None;
    }
    Some(Tuple { source: (source?, source_port?), destination: (destination?, destination_port?) })
}

fn parse_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn parse_port(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

/// Netlink attributes: length and type (16 bits each), a value, and padding to four bytes.
struct Attributes<'a>(&'a [u8]);

struct Attribute<'a> {
    kind: u16,
    value: &'a [u8],
    /// With header and padding.
    whole: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (header, _) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = self.0.get(4..length)?;
        let (whole, rest) = self.0.split_at(align(length).min(self.0.len()));
        self.0 = rest;
        Some(Attribute { kind: u16::from_ne_bytes([header[2], header[3]]) & ATTRIBUTE_TYPE, value, whole })
    }
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    fn tuple(kind: u16, protocol: u8, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let ip = [attribute(CTA_IP_V4_SRC, &source), attribute(CTA_IP_V4_DST, &destination)].concat();
        let ports = [
            attribute(CTA_PROTO_NUM, &[protocol]),
            attribute(CTA_PROTO_SRC_PORT, &1000_u16.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &53_u16.to_be_bytes()),
        ];
        let nested = 0x8000;
        let inner =
            [attribute(CTA_TUPLE_IP | nested, &ip), attribute(CTA_TUPLE_PROTO | nested, &ports.concat())];
        attribute(kind | nested, &inner.concat())
    }

    #[test]
    fn entries_of_udp_are_read_and_damaged_ones_ignored() {
        let payload = |protocol| {
            let original = tuple(CTA_TUPLE_ORIG, protocol, [10, 0, 0, 1], [10, 43, 0, 10]);
            [vec![2, 0, 0, 0], original, tuple(CTA_TUPLE_REPLY, protocol, [10, 42, 0, 5], [10, 0, 0, 1])]
                .concat()
        };
        let entry = parse_entry(&payload(UDP)).unwrap();
        assert_eq!(entry.original.destination, ([10, 43, 0, 10].into(), 53));
        assert_eq!(entry.reply.source, ([10, 42, 0, 5].into(), 1000));
        assert_eq!(parse_entry(&payload(6)), None);
        for length in 0..payload(UDP).len() {
            let _ = parse_entry(&payload(UDP)[..length]);
        }
    }
}
