//! Ports of the host's loopback address that lead into the guest.

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;

/// One forwarded TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The port on 127.0.0.1 that is wished for; a free one is taken when it is `None` or in use.
    pub host: Option<u16>,
    /// The guest's port.
    pub guest: u16,
}

/// A text that is not `HOST:GUEST` or `GUEST`.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not HOST_PORT:GUEST_PORT, such as 8080:30080")]
pub struct ParseError(String);

impl FromStr for Forward {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0);
        let parsed = match text.split_once(':') {
            Some((host, guest)) => {
                port(host).zip(port(guest)).map(|(host, guest)| Self { host: Some(host), guest })
            }
            None => port(text).map(|guest| Self { host: None, guest }),
        };
        parsed.ok_or_else(|| ParseError(text.to_owned()))
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => write!(formatter, "{host}:{}", self.guest),
            None => write!(formatter, "{}", self.guest),
        }
    }
}

impl Forward {
    /// The host port to use now.
    ///
    /// The port is free when this returns; nothing holds it until QEMU does.
    pub(crate) fn choose(self) -> std::io::Result<u16> {
        if let Some(port) = self.host
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            return Ok(port);
        }
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let chosen = Forward { host: Some(port), guest: 6443 }.choose().unwrap();
        assert_ne!(chosen, port);
        drop(taken);
        assert_eq!(Forward { host: Some(port), guest: 6443 }.choose().unwrap(), port);
    }

    #[test]
    fn only_port_numbers_are_understood() {
        assert_eq!("8080:30080".parse::<Forward>().unwrap(), Forward { host: Some(8080), guest: 30080 });
        assert_eq!("30080".parse::<Forward>().unwrap(), Forward { host: None, guest: 30080 });
        for text in ["", ":", "0:1", "a:1", "1:65536", "127.0.0.1:1:2"] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
