//! Names of time servers to addresses: as much of DNS (RFC 1035) as that takes. The C library's resolver would want a thread,
//! and files that a static program does not have.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

const PORT: u16 = 53;
const PATIENCE: Duration = Duration::from_secs(2);
/// A recursive question.
const RECURSE: u8 = 1;
const MAX_DATAGRAM: usize = 1232;
const HEADER_LEN: usize = 12;
const INTERNET: u16 = 1;
const IPV4: u16 = 1;
const IPV6: u16 = 28;

/// Asks the servers of `resolv_conf` in turn for the addresses of `name`: first IPv4, then, if there is none, IPv6. None if nobody knows.
pub(super) async fn addresses(name: &str, resolv_conf: &str) -> Vec<IpAddr> {
    if let Ok(address) = name.parse() {
        return vec![address];
    }
    let servers: Vec<_> =
        resolv_conf.lines().filter_map(|line| server(line.strip_prefix("nameserver ")?.trim())).collect();
    for server in servers {
        for kind in [IPV4, IPV6] {
            match timeout(PATIENCE, ask(server, name, kind)).await {
                Ok(Ok(found)) if !found.is_empty() => return found,
                Ok(Ok(_)) => {}
                // Another server may be better.
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }
    Vec::new()
}

/// A name server as it stands in resolv.conf; a link-local one with its link, `fe80::1%eth0`.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, link)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let index = link.parse().ok().or_else(|| nix::net::if_::if_nametoindex(link).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, index).into())
}

async fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let here: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here).await?;
    socket.connect(server).await?;
    let id = crate::network::random()? as u16;
    let question = question(id, name, kind).ok_or(io::ErrorKind::InvalidInput)?;
    socket.send(&question).await?;
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(found) = answer(&buffer[..len], &question, kind) {
            return Ok(found);
        }
    }
}

fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = Vec::from(id.to_be_bytes());
    message.extend_from_slice(&[RECURSE, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len))?;
        message.push(len);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    Some(message)
}

/// The addresses in an answer to `question`, whatever aliases led to them; nothing if it is no answer to it.
fn answer(message: &[u8], question: &[u8], kind: u16) -> Option<Vec<IpAddr>> {
    let is_answer = message.get(2)? & 0x80 != 0;
    let same = message.get(..2)? == &question[..2]
        && message.get(HEADER_LEN..question.len())? == &question[HEADER_LEN..];
    (is_answer && same).then_some(())?;
    let records = u16::from_be_bytes([*message.get(6)?, *message.get(7)?]);
    let mut rest = message.get(question.len()..)?;
    let mut found = Vec::new();
    for _ in 0..records {
        // An answer that was cut short is still good for what it has.
        let Some((record_kind, data, after)) = record(rest) else { break };
        match (record_kind, data.len()) {
            (IPV4, 4) if kind == IPV4 => found.extend(<[u8; 4]>::try_from(data).map(IpAddr::from)),
            (IPV6, 16) if kind == IPV6 => found.extend(<[u8; 16]>::try_from(data).map(IpAddr::from)),
            _ => {}
        }
        rest = after;
    }
    Some(found)
}

/// Kind and data of the first record, and what comes after it.
fn record(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let mut rest = bytes;
    loop {
        match rest {
            [0, after @ ..] => {
                rest = after;
                break;
            }
            // A pointer ends a name.
            [len, _, after @ ..] if len & 0xC0 == 0xC0 => {
                rest = after;
                break;
            }
            [len, after @ ..] => rest = after.get(usize::from(*len)..)?,
            [] => return None,
        }
    }
    let (head, rest) = rest.split_at_checked(10)?;
    let (data, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[8], head[9]])))?;
    Some((u16::from_be_bytes([head[0], head[1]]), data, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(question: &[u8], records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2] |= 0x80;
        message[7] = records.len() as u8;
        for (kind, data) in records {
            message.extend_from_slice(&[0xC0, 12]);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            message.extend_from_slice(data);
        }
        message
    }

    #[test]
    fn addresses_are_found_behind_aliases_and_forgeries_are_not_believed() {
        let asked = question(7, "time.example", IPV4).unwrap();
        let message =
            reply(&asked, &[(5, b"\x01x\xC0\x0C"), (IPV4, &[192, 0, 2, 1]), (IPV4, &[192, 0, 2, 2])]);
        let found = answer(&message, &asked, IPV4).unwrap();
        assert_eq!(found, ["192.0.2.1", "192.0.2.2"].map(|a| a.parse::<IpAddr>().unwrap()));
        assert_eq!(answer(&message[..message.len() - 1], &asked, IPV4).unwrap().len(), 1, "cut");
        let other = question(8, "time.example", IPV4).unwrap();
        assert_eq!(answer(&message, &other, IPV4), None, "another id");
        assert_eq!(answer(&asked, &asked, IPV4), None, "the question itself");
        assert_eq!(answer(&reply(&asked, &[]), &asked, IPV4), Some(Vec::new()));
        for len in 0..message.len() {
            let _ = answer(&message[..len], &asked, IPV4);
        }
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        assert_eq!(question(1, "a..b", IPV4), None);
        assert_eq!(question(1, &"a".repeat(64), IPV4), None);
    }

    #[test]
    fn a_link_local_name_server_is_reached_through_its_link() {
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected = SocketAddrV6::new("fe80::1".parse().unwrap(), PORT, 0, loopback);
        assert_eq!(server("fe80::1%lo"), Some(expected.into()));
        assert_eq!(server("fe80::1%gone-away"), None);
        assert_eq!(server("10.0.0.2"), Some("10.0.0.2:53".parse().unwrap()));
    }

    #[tokio::test]
    async fn an_address_needs_no_question() {
        assert_eq!(addresses("192.0.2.1", "").await, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses("time.example", "search lan\n").await, Vec::<IpAddr>::new());
    }
}
