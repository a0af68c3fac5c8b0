//! Reads and writes kernel parameters under `/proc/sys` of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A parameter could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to set kernel parameter '{}' to '{value}'", path.display())]
pub(crate) struct Error {
    path: PathBuf,
    value: String,
    #[source]
    source: io::Error,
}

/// Writes `value` to `key` (`net/ipv4/ip_forward`) unless it is already there. A read-only `/proc/sys` is thus no
/// trouble as long as the host is set up already.
pub(crate) fn set(key: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(key);
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| Error { path, value: value.to_owned(), source })
}

/// Whether the running kernel knows `key`.
pub(crate) fn exists(key: &str) -> bool {
    Path::new("/proc/sys").join(key).exists()
}
