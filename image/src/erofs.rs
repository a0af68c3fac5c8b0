//! EROFS: a directory becomes an image, with mkfs.erofs; [`read`] looks into one.

use std::path::Path;

use anyhow::{Context, bail};
use disk::guid::Guid;

use crate::tool::Tool;

pub(crate) mod read;

/// The label that PID 1 looks for.
pub(crate) const LABEL: &str = "skerry-root";

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compression(&'static str);

/// What everybody builds while working: packs in seconds.
pub(crate) const QUICK: Compression = Compression("zstd,3");
/// What is published: packs in a minute or two. Higher levels take minutes more for next to nothing.
pub(crate) const SMALL: Compression = Compression("zstd,9");

/// Bytes that are compressed together.
const CLUSTER_BYTES: u32 = 65536;

// === impl Compression ===

impl Compression {
    /// As mkfs.erofs calls it.
    pub(crate) fn name(self) -> &'static str {
        self.0
    }
}

/// Writes `tree` to `image`. Everything in it gets the time `date`, in seconds since 1970, and root as its owner, so that the
/// same tree and identity give the same bytes.
pub(crate) fn write(
    mkfs: &Tool,
    tree: &Path,
    image: &Path,
    compression: Compression,
    id: Guid,
    date: u64,
) -> anyhow::Result<()> {
    let output = mkfs
        .command()
        .args([&format!("-z{}", compression.0), &format!("-C{CLUSTER_BYTES}")])
        .args([&format!("-T{date}"), "--all-root", "-U", &id.to_string(), "-L", LABEL, "--quiet"])
        .args([image, tree])
        .env("LC_ALL", "C")
        .output()
        .context("failed to run mkfs.erofs")?;
    if !output.status.success() {
        bail!("mkfs.erofs failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
