//! Waiting until a service's socket accepts, woken by what happens in the socket's directory.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::readiness::readable;
use crate::services::Ready;

/// A socket's file appears when it is bound, a moment before it listens, and nothing tells of the latter. Services that set the
/// file's owner afterwards give an event; for others this is the wait until the next try.
const RETRY: Duration = Duration::from_secs(1);

/// Returns once the socket of `ready` accepts; never for a service that shows readiness in another way.
pub(super) async fn socket_accepts(ready: &Ready) {
    let Ready::Socket(path) = ready else { return pending().await };
    loop {
        // Watch first, try second: a socket that appears between the two wakes the wait.
        let watch = watch_directory(Path::new(path));
        if UnixStream::connect(path).await.is_ok() {
            return;
        }
        let changed = async {
            match &watch {
                Ok(inotify) => inotify
                    .async_io(Interest::READABLE, |i| i.read_events().map_err(io::Error::from))
                    .await
                    .is_ok(),
                Err(_) => pending().await,
            }
        };
        let _ = tokio::time::timeout(RETRY, changed).await;
    }
}

fn watch_directory(socket: &Path) -> io::Result<AsyncFd<WatchFd>> {
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify
        .add_watch(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVED_TO)?;
    readable(WatchFd(inotify))
}

/// An inotify instance that tokio can poll.
struct WatchFd(Inotify);

impl std::ops::Deref for WatchFd {
    type Target = Inotify;
    fn deref(&self) -> &Inotify {
        &self.0
    }
}

impl std::os::fd::AsRawFd for WatchFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.0.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_appears_later_is_noticed() {
        let dir = std::env::temp_dir().join(format!("skerry-ready-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path: &'static str = Box::leak(dir.join("s").display().to_string().into_boxed_str());
        let waiting = tokio::spawn(async move { socket_accepts(&Ready::Socket(path)).await });
        tokio::task::yield_now().await;
        let _listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
