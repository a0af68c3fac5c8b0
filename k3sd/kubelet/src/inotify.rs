//! Word of changes to files, awaited instead of polled.

use std::io;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe::Receiver;

/// An inotify instance on the event loop.
pub(crate) struct Inotify {
    /// To the event loop an inotify descriptor is a pipe: readable when there is something. Tokio's type for
    /// arbitrary descriptors is unsafe to make.
    events: Receiver,
}

impl Inotify {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { events: Receiver::from_owned_fd_unchecked(fd)? })
    }

    /// Watches a file or directory for these changes.
    pub(crate) fn add(&self, path: &Path, changes: WatchFlags) -> io::Result<()> {
        add_watch(&self.events, path, changes)?;
        Ok(())
    }

    /// Waits until something changed; several changes at once are one. Cancel safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        // Which file it was does not matter to anybody here, so the events are only drained.
        let mut buffer = [0; 4096];
        loop {
            self.events.readable().await?;
            match self.events.try_read(&mut buffer) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
