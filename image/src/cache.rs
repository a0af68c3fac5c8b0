//! Where downloads are kept: `$SKERRY_CACHE`, else `$XDG_CACHE_HOME/skerry`, else `~/.cache/skerry`.
//!
//! Everything in it can be deleted at any time and comes back.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;

/// The cache directory. Made on first use.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Finds the cache directory and makes it.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let directory = variable("SKERRY_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("skerry")))
            .or_else(|| variable("HOME").map(|path| path.join(".cache/skerry")))
            .context("none of SKERRY_CACHE, XDG_CACHE_HOME and HOME is set: no place for downloads")?;
        fs::create_dir_all(&directory)
            .with_context(|| format!("failed to make the cache directory '{}'", directory.display()))?;
        let directory = directory
            .canonicalize()
            .with_context(|| format!("failed to resolve the cache directory '{}'", directory.display()))?;
        Ok(Self { directory })
    }

    /// A directory of the cache, made if it is missing.
    pub(crate) fn directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("failed to make '{}'", path.display()))?;
        Ok(path)
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
