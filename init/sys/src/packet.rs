//! Packet sockets (packet(7)): whole frames on one link.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A socket that does not block, sends frames on the link `index`, and receives those with this Ethernet type that come after
/// it was opened; type 0 is none. A frame begins with its Ethernet header.
///
/// # Errors
/// If there is no such link, or the caller may not.
pub fn open(index: u32, protocol: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    // Protocol 0: nothing arrives, from whatever link, before the socket is bound to one.
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let index = index.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: all of its fields are integers or arrays of them, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes, which is the size of `address`, and keeps no pointer to it. Nothing safer binds to
    // a link: nix has no constructor for such an address, and rustix does not know the family.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_not_there_is_refused() {
        assert!(open(u32::MAX, 0).is_err());
        assert!(open(1_000_000, 0).is_err());
    }
}
