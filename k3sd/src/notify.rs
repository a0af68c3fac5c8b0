//! Words to the service manager, by its protocol (sd_notify(3)); silence when there is none.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A service manager that may be listening.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Appended to every status: what was asked for and is not done.
    remark: String,
}

impl Notifier {
    /// The one `NOTIFY_SOCKET` names. Every status ends in `warnings`, so that they stay in sight.
    pub(crate) fn from_environment(warnings: &[String]) -> Self {
        let socket = env::var("NOTIFY_SOCKET").ok().and_then(|name| Self::connect(&name).ok());
        let remark = if warnings.is_empty() { String::new() } else { format!("; {}", warnings.join("; ")) };
        Self { socket, remark }
    }

    fn connect(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        Ok((UnixDatagram::unbound()?, address))
    }

    /// The API answers, or the node has joined.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// The way down has begun.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// One line for people.
    pub(crate) fn status(&self, text: &str) {
        self.send(&format!("STATUS={}{}", text.replace('\n', " "), self.remark));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
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
            let socket = Some(Notifier::connect(&name).unwrap());
            Notifier { socket, remark: "; x".into() }.status("node a\nReady");
            let mut buffer = [0; 64];
            let length = server.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"STATUS=node a Ready; x");
        }
    }
}
