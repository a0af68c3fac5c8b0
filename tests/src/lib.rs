//! What the end-to-end tests share: the built programs, kubectl, and processes that end with their test.
//!
//! The tests run what ships: `./just test` builds it and says where it is (`SKERRY_BINARIES`, `SKERRY_IMAGE`, `KUBECTL`).

pub mod client;
pub mod inside;
pub mod journey;
mod kubectl;
pub mod machine;
mod process;

use std::env;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use kubectl::{Kubectl, Outcome};
pub use process::Process;

/// How often a condition is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(100);

/// A program of ours, as built for the image.
///
/// # Panics
/// If the tests were not started through `./just test`, which builds it.
pub fn binary(name: &str) -> PathBuf {
    let path = binaries().join(name);
    assert!(path.exists(), "{} is missing: run the tests through `./just test`", path.display());
    path
}

/// The directory of our programs.
///
/// # Panics
/// As [`binary`].
pub fn binaries() -> PathBuf {
    env::var_os("SKERRY_BINARIES")
        .expect("SKERRY_BINARIES is unset: run the tests through `./just test`")
        .into()
}

/// The directory of the built image.
///
/// # Panics
/// As [`binary`].
pub fn image() -> PathBuf {
    env::var_os("SKERRY_IMAGE").expect("SKERRY_IMAGE is unset: run the tests through `./just test`").into()
}

/// Waits until `condition` gives something, and says what was waited for when it does not within `limit`.
///
/// # Panics
/// When the limit is reached.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(POLL);
    }
}

/// A port of the loopback address that nobody listens on now.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

/// Fetches a page by HTTP/1.0 and gives its body; `None` for anything but status 200.
pub fn fetch(address: &str, path: &str) -> Option<String> {
    let target = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}
