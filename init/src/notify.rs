//! The `sd_notify` socket: services tell that they are ready and what they are doing.
//!
//! A datagram holds `KEY=VALUE` lines. Who sent it is what the kernel says (`SCM_CREDENTIALS`), never what the text says.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::sync::mpsc;

use crate::readiness::readable;

/// Where services find the socket.
pub(crate) const SOCKET: &str = "/run/skerry/notify";
/// The longest datagram taken; what is longer is cut.
const MAX_DATAGRAM: usize = 4 << 10;
/// Messages a busy supervisor may lag behind; more are dropped, and the next status replaces them.
const QUEUE: usize = 32;

/// What we use of one datagram.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// `READY=1`.
    pub(crate) ready: bool,
    /// `STATUS=text`.
    pub(crate) status: Option<String>,
}

/// Hands messages to whoever registered for the sending process; clones are handles to the same one.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<BTreeMap<i32, mpsc::Sender<Message>>>>);

impl Hub {
    /// Messages from process `pid`, until the receiver is dropped.
    pub(crate) fn register(&self, pid: i32) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut receivers = self.receivers();
        receivers.retain(|_, sender| !sender.is_closed());
        receivers.insert(pid, sender);
        receiver
    }

    /// Receives for ever on a socket bound at `path`. Owned by the main task; ends only on error.
    pub(crate) async fn receive_all(self, path: &Path) -> io::Result<()> {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        let socket = readable(OwnedFd::from(socket))?;
        loop {
            let (sender, message) = socket.async_io(Interest::READABLE, receive).await?;
            let receiver = self.receivers().get(&sender).cloned();
            if let Some(receiver) = receiver {
                let _ = receiver.try_send(message);
            }
        }
    }

    fn receivers(&self) -> MutexGuard<'_, BTreeMap<i32, mpsc::Sender<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn receive(socket: &OwnedFd) -> io::Result<(i32, Message)> {
    let mut buffer = [0; MAX_DATAGRAM];
    let mut control = nix::cmsg_space!(UnixCredentials);
    let (len, sender) = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let sender = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
            _ => None,
        });
        (received.bytes, sender)
    };
    Ok((sender.unwrap_or_default(), parse(&String::from_utf8_lossy(&buffer[..len]))))
}

fn parse(text: &str) -> Message {
    let mut message = Message::default();
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => message.ready = true,
            Some(("STATUS", status)) => message.status = Some(status.trim().to_owned()),
            _ => {}
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_assignments_are_read_and_others_skipped() {
        let message = parse("READY=1\nSTATUS=node a Ready, 1 pod running\nMAINPID=7\n");
        assert_eq!(message, Message { ready: true, status: Some("node a Ready, 1 pod running".to_owned()) });
    }

    #[tokio::test]
    async fn a_message_reaches_the_one_registered_for_its_sender() {
        let path = std::env::temp_dir().join(format!("skerry-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let hub = Hub::default();
        let mut messages = hub.register(std::process::id().try_into().unwrap());
        let bound = path.clone();
        let receiving = tokio::spawn(async move { hub.receive_all(&bound).await });
        tokio::task::yield_now().await;
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1", &path).unwrap();
        assert!(messages.recv().await.unwrap().ready);
        receiving.abort();
        std::fs::remove_file(&path).unwrap();
    }
}
