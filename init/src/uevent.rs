//! The kernel's device events: a netlink datagram per device that comes, goes or changes.
//!
//! Format (Documentation/ABI and lib/kobject_uevent.c): `ACTION@DEVPATH`, NUL, then `KEY=VALUE` entries, each ended by
//! NUL. Listen first, look at /sys second: then nothing that appears in between is missed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

/// The multicast group of events straight from the kernel; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;
/// A coldplug of many devices must not overflow the queue while modules load.
const RECEIVE_BUFFER: usize = 16 << 20;
/// `UEVENT_BUFFER_SIZE` is 2048, plus the header.
const MAX_DATAGRAM: usize = 8 << 10;

/// What we use of one event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Uevent {
    /// `add`, `remove`, `change`, ...
    pub(crate) action: String,
    /// `block`, `net`, `input`, ...
    pub(crate) subsystem: String,
    /// What the driver of the device would be called by, if it needs one.
    pub(crate) modalias: Option<String>,
    /// The block of a verified device that does not match its hash, as `TYPE,NUMBER`.
    pub(crate) damaged: Option<String>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// Subscribes to the kernel's events.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(fd))
    }

    /// The next event that is already there. Lost events (`ENOBUFS`) come as an event without content, so that a caller
    /// that looks at /sys on every event looks again.
    pub(crate) fn next(&self) -> Option<Uevent> {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                // Port 0 is the kernel; anyone else is not to be believed.
                Ok((len, Some(sender))) if sender.pid() == 0 => return Some(parse(&buffer[..len])),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Some(Uevent::default()),
                Err(_) => return None,
            }
        }
    }

    /// Blocks until there is an event or `deadline` passes; without a deadline, for ever. True if there is one.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
                PollTimeout::try_from(deadline.saturating_duration_since(Instant::now()))
                    .unwrap_or(PollTimeout::MAX)
            });
            match nix::poll::poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                result => return matches!(result, Ok(n) if n > 0),
            }
        }
    }

    /// Throws away what is queued.
    pub(crate) fn drain(&self) {
        while self.next().is_some() {}
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

fn parse(datagram: &[u8]) -> Uevent {
    let mut event = Uevent::default();
    for entry in datagram.split(|&byte| byte == 0).skip(1) {
        let Ok(entry) = std::str::from_utf8(entry) else { continue };
        match entry.split_once('=') {
            Some(("ACTION", value)) => value.clone_into(&mut event.action),
            Some(("SUBSYSTEM", value)) => value.clone_into(&mut event.subsystem),
            Some(("MODALIAS", value)) => event.modalias = Some(value.to_owned()),
            Some(("DM_VERITY_ERR_BLOCK_NR", value)) => event.damaged = Some(value.to_owned()),
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_gives_action_subsystem_and_modalias() {
        let datagram = b"add@/devices/pci0000:00/0000:00:03.0/virtio0\0ACTION=add\0\
            DEVPATH=/devices/pci0000:00/0000:00:03.0/virtio0\0SUBSYSTEM=virtio\0MODALIAS=virtio:d00000002v00001AF4\0SEQNUM=1290\0";
        let event = parse(datagram);
        assert_eq!((event.action.as_str(), event.subsystem.as_str()), ("add", "virtio"));
        assert_eq!(event.modalias.as_deref(), Some("virtio:d00000002v00001AF4"));
        let datagram = b"change@/devices/virtual/block/dm-0\0ACTION=change\0SUBSYSTEM=block\0DM_VERITY_ERR_BLOCK_NR=0,4711\0";
        assert_eq!(parse(datagram).damaged.as_deref(), Some("0,4711"));
    }
}
