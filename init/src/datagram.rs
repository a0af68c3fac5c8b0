//! A datagram socket at a path, whose messages come with what the kernel says about their sender.
//!
//! The notification socket and the journal socket are both of this kind. File descriptors that come along are owned, so what
//! nobody takes is closed.

use std::fs::{self, Permissions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recv, recvmsg, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::readiness::readable;

/// A message with more descriptors than this loses them all; ours take at most one.
const MAX_FILES: usize = 4;

/// The receiving end.
pub(crate) struct Socket {
    fd: AsyncFd<OwnedFd>,
    max_len: usize,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// What was sent.
    pub(crate) bytes: Vec<u8>,
    /// The process that sent it, as the kernel says; 0 if it does not say.
    pub(crate) sender: i32,
    /// Descriptors that came along.
    pub(crate) files: Vec<OwnedFd>,
}

impl Socket {
    /// Binds at `path`, in place of what was there, with `mode`; messages longer than `max_len` bytes are dropped.
    pub(crate) fn bind(path: &Path, mode: u32, max_len: usize) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(Self { fd: readable(OwnedFd::from(socket))?, max_len })
    }

    /// The next message that is not too long. Cancel safe.
    pub(crate) async fn receive(&self) -> io::Result<Datagram> {
        loop {
            let received = self.fd.async_io(Interest::READABLE, |fd| receive(fd, self.max_len)).await?;
            if let Some(datagram) = received {
                return Ok(datagram);
            }
        }
    }
}

/// Takes one message; none if it was too long.
fn receive(socket: &OwnedFd, max_len: usize) -> io::Result<Option<Datagram>> {
    // Looked at first, so that the buffer is as long as the message and no longer.
    let (_, len) = recv(socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    let mut bytes = vec![0; len.min(max_len)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut datagram = Datagram { bytes: Vec::new(), sender: 0, files: Vec::new() };
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(files) => datagram.files.extend(files),
            RecvAncillaryMessage::ScmCredentials(sender) => {
                datagram.sender = sender.pid.as_raw_nonzero().get()
            }
            _ => {}
        }
    }
    bytes.truncate(received.bytes);
    datagram.bytes = bytes;
    Ok((!received.flags.contains(ReturnFlags::TRUNC)).then_some(datagram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_with_their_sender_and_too_long_ones_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/socket");
        let socket = Socket::bind(&path, 0o600, 8).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"123456789", &path).unwrap();
        client.send_to(b"12345678", &path).unwrap();
        let datagram = socket.receive().await.unwrap();
        assert_eq!(datagram.bytes, b"12345678");
        assert_eq!(datagram.sender, i32::try_from(std::process::id()).unwrap());
    }
}
