//! The `sd_notify` socket: services tell that they are ready, what they are doing, and that they still live (sd_notify(3)).
//!
//! A message counts only if the kernel says (`SCM_CREDENTIALS`) that it comes from a service's main process or from a process in
//! its control group, whatever the text says.

mod message;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

pub(crate) use self::message::{Life, Message};
use crate::cgroup;
use crate::datagram::Socket;

/// Where services find the socket.
pub(crate) const SOCKET: &str = "/run/skerry/notify";
/// The longest message taken, as systemd has it.
const MAX_DATAGRAM: usize = 4 << 10;
/// Messages a busy supervisor may lag behind; more are dropped, and the next status replaces them.
const QUEUE: usize = 32;

/// Hands messages to whoever registered for the sending service; clones are handles to the same one.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<Vec<Registration>>>);

struct Registration {
    main: i32,
    cgroup: &'static str,
    sender: mpsc::Sender<Message>,
}

impl Hub {
    /// Messages from process `main` and from what runs in `cgroup`, until the receiver is dropped.
    pub(crate) fn register(&self, main: i32, cgroup: &'static str) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut registrations = self.registrations();
        registrations.retain(|other| !other.sender.is_closed());
        registrations.push(Registration { main, cgroup, sender });
        receiver
    }

    /// Receives for ever on a socket bound at `path`. Owned by the main task; ends only on error.
    pub(crate) async fn receive_all(self, path: &Path) -> io::Result<()> {
        let socket = Socket::bind(path, 0o600, MAX_DATAGRAM)?;
        loop {
            let datagram = socket.receive().await?;
            if let Some(receiver) = self.find(datagram.sender) {
                // Descriptors are closed with the datagram, which is what a barrier waits for.
                let _ = receiver.try_send(message::parse(&String::from_utf8_lossy(&datagram.bytes)));
            }
        }
    }

    fn find(&self, sender: i32) -> Option<mpsc::Sender<Message>> {
        let registrations = self.registrations();
        let by = |wanted: &dyn Fn(&Registration) -> bool| {
            registrations.iter().rev().find(|one| wanted(one)).map(|one| one.sender.clone())
        };
        by(&|one| one.main == sender).or_else(|| {
            let group = cgroup::of(sender)?;
            by(&|one| cgroup::contains(one.cgroup, &group))
        })
    }

    fn registrations(&self) -> MutexGuard<'_, Vec<Registration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;
    use crate::testing::alone;

    #[tokio::test]
    async fn a_message_reaches_the_one_registered_for_its_sender_and_a_stranger_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hub = Hub::default();
        let mut messages = hub.register(std::process::id().try_into().unwrap(), "/none-a");
        let mut others = hub.register(1, "/none-b");
        let bound = path.clone();
        let receiving = tokio::spawn(async move { hub.receive_all(&bound).await });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        // A stranger: its own process, in none of the groups.
        alone("notify::tests::forge").env("FORGE_AT", &path).passes();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1", &path).unwrap();
        let message = tokio::time::timeout(Duration::from_secs(5), messages.recv()).await.unwrap().unwrap();
        assert_eq!(message, Message { life: Some(Life::Ready), ..Message::default() });
        assert!(others.try_recv().is_err());
        receiving.abort();
    }

    #[test]
    #[ignore = "started by another test, as a process of its own"]
    fn forge() {
        let path = std::env::var("FORGE_AT").unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"STATUS=forged", path).unwrap();
    }
}
