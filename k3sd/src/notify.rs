//! Words to the service manager, by its protocol (sd_notify(3)); silence when there is none.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A service manager that may be listening.
#[derive(Debug)]
pub(crate) struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// The one `NOTIFY_SOCKET` names.
    pub(crate) fn from_environment() -> Self {
        Self(env::var("NOTIFY_SOCKET").ok().and_then(|name| Self::connect(&name).ok()))
    }

    fn connect(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok((UnixDatagram::unbound()?, address))
    }

    /// The API answers.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// The way down has begun.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// One line for people.
    pub(crate) fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, "service manager does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_reach_a_socket_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("skerry-notify-test-{}", std::process::id());
        let servers = [
            (path.display().to_string(), UnixDatagram::bind(&path).unwrap()),
            (
                format!("@{abstract_name}"),
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap(),
            ),
        ];
        for (name, server) in servers {
            Notifier(Some(Notifier::connect(&name).unwrap())).status("node a\nReady");
            let mut buffer = [0; 64];
            let length = server.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"STATUS=node a Ready");
        }
    }
}
