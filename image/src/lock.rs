//! `image.lock`: what an image was made from. Written beside the image, and enough to say whether two images differ
//! in their inputs.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::apt::Package;

/// The lock file. Everything in it is sorted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Lock {
    /// Version of this file's format.
    pub(crate) version: u32,
    pub(crate) target: String,
    /// Skerry's version.
    pub(crate) release: String,
    /// Follows from the content of the root file system; os-release has it, too.
    pub(crate) build: String,
    /// Whether it has tools for looking around.
    pub(crate) debug: bool,
    pub(crate) kernel: String,
    /// What dm-verity checks every block of the root file system against.
    pub(crate) root_hash: String,
    pub(crate) outputs: Vec<Output>,
    pub(crate) programs: Vec<Program>,
    pub(crate) packages: Vec<Debian>,
}

/// The part that every format has.
#[derive(Debug, Deserialize)]
struct Format {
    version: u32,
}

/// A file of the build; the name is relative to the lock's directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// A program of ours in the image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) path: String,
    pub(crate) sha256: String,
}

/// A Debian package that a file of the image, or a tool that wrote it, came from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Debian {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
}

impl From<&Package> for Debian {
    fn from(package: &Package) -> Self {
        Self { name: package.name.clone(), version: package.version.clone(), sha256: package.sha256.clone() }
    }
}

impl Lock {
    /// The file's name, in the directory of the outputs.
    pub(crate) const FILE: &str = "image.lock";

    /// The format's version.
    pub(crate) const VERSION: u32 = 2;

    /// Reads the lock file of an image directory.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(Self::FILE);
        let text =
            fs::read_to_string(&path).with_context(|| format!("failed to read '{}'", path.display()))?;
        // Another format may lack what this one has, so its number is looked at first.
        let Format { version } =
            toml::from_str(&text).with_context(|| format!("'{}' is damaged", path.display()))?;
        ensure!(
            version == Self::VERSION,
            "'{}' has format {version}, this program knows {}: build the image again",
            path.display(),
            Self::VERSION
        );
        toml::from_str(&text).with_context(|| format!("'{}' is damaged", path.display()))
    }

    /// Writes the lock file of an image directory.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join(Self::FILE);
        let text = toml::to_string(self).context("failed to write the lock as TOML")?;
        fs::write(&path, format!("# Made by `image build`.\n{text}"))
            .with_context(|| format!("failed to write '{}'", path.display()))
    }
}
