//! `image.lock`: what an image was made from. Written beside the image, and enough to say whether two images differ
//! in their inputs.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::apt;
use crate::buildroot::Built;
use crate::digest;
use crate::programs::Programs;

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
    /// What the root file system was taken from.
    pub(crate) origin: Origin,
    /// Of the root file system, as mkfs.erofs calls it.
    pub(crate) compression: String,
    pub(crate) kernel: String,
    /// What dm-verity checks every block of the root file system against.
    pub(crate) root_hash: String,
    pub(crate) outputs: Vec<Output>,
    /// Parts of the root file system, the biggest first.
    pub(crate) components: Vec<Component>,
    pub(crate) programs: Vec<Program>,
    /// What was given to start the machine.
    pub(crate) boot_files: Vec<Program>,
    pub(crate) packages: Vec<Package>,
}

/// What a root file system was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// Debian's packages.
    Debian,
    /// A tree that something else built.
    Tree,
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

/// A part of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Component {
    pub(crate) name: String,
    /// Of the files as they are read.
    pub(crate) bytes: u64,
    /// Of the image, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stored: Option<u64>,
}

/// A program of ours in the image, or a file that starts it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) path: String,
    pub(crate) sha256: String,
}

/// A package that a file of the image, or a tool that wrote it, came from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Of Debian's package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
}

impl From<&apt::Package> for Package {
    fn from(package: &apt::Package) -> Self {
        let sha256 = Some(package.sha256.clone());
        Self { name: package.name.clone(), version: package.version.clone(), sha256 }
    }
}

impl From<&Built> for Package {
    fn from(built: &Built) -> Self {
        Self { name: built.name.clone(), version: built.version.clone(), sha256: None }
    }
}

// === impl Program ===

impl Program {
    /// Our own, by name.
    pub(crate) fn all(programs: &Programs) -> anyhow::Result<Vec<Self>> {
        let describe = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let sha256 =
                digest::of_file(path).with_context(|| format!("failed to read '{}'", path.display()))?;
            Ok(Self { path: name, sha256 })
        };
        programs.all().into_iter().map(describe).collect()
    }
}

// === impl Component ===

impl Component {
    /// Bytes that it takes, as far as that is known.
    pub(crate) fn room(&self) -> u64 {
        self.stored.unwrap_or(self.bytes)
    }
}

// === impl Lock ===

impl Lock {
    /// The file's name, in the directory of the outputs.
    pub(crate) const FILE: &str = "image.lock";

    /// The format's version.
    pub(crate) const VERSION: u32 = 3;

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
