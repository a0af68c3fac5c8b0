//! File descriptors as event sources. They must own their descriptor and give the same one each time, as all of ours do.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `source` for readability.
pub(crate) fn readable<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    register(source, Interest::READABLE)
}

/// Registers `source` for writability.
pub(crate) fn writable<T: AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    register(source, Interest::WRITABLE)
}

#[expect(deprecated, reason = "the successor is unsafe to call, for types that do not keep the rule above")]
fn register<T: AsRawFd>(source: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(source, interest)
}
