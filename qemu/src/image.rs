//! What `image build` left: a directory of artifacts, or the image of a whole disk.

use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::error::Error;

/// The artifacts of an image directory.
const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs.img";
const DISK: &str = "disk.img";
const NETBOOT: &str = "netboot";
/// The script by which network boots are told kernel, initramfs and command line.
pub(crate) const NETBOOT_SCRIPT: &str = "boot.ipxe";

/// What a machine is booted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Image {
    /// All artifacts of one build.
    Directory(PathBuf),
    /// A whole disk and nothing else.
    Disk(PathBuf),
}

/// A kernel with its initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

// === impl Image ===

impl Image {
    /// A file is a disk, anything else a directory.
    pub(crate) fn at(path: &Path) -> Self {
        if path.is_file() { Self::Disk(path.to_owned()) } else { Self::Directory(path.to_owned()) }
    }

    /// The whole disk.
    pub(crate) fn disk(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Directory(directory) => existing(directory.join(DISK)),
            Self::Disk(path) => existing(path.clone()),
        }
    }

    /// Kernel and initramfs that look for the root on a disk.
    pub(crate) fn kernel(&self) -> Result<Kernel, Error> {
        match self {
            Self::Directory(directory) => Ok(Kernel {
                kernel: existing(directory.join(KERNEL))?,
                initramfs: existing(directory.join(INITRAMFS))?,
            }),
            Self::Disk(path) => Err(Error::NeedsDirectory(path.clone())),
        }
    }

    /// Kernel and initramfs that have the root inside.
    pub(crate) fn netboot(&self) -> Result<Kernel, Error> {
        let directory = self.netboot_directory()?;
        Ok(Kernel {
            kernel: existing(directory.join(KERNEL))?,
            initramfs: existing(directory.join(INITRAMFS))?,
        })
    }

    /// The directory that a boot server would serve.
    pub(crate) fn netboot_directory(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Directory(directory) => Ok(directory.join(NETBOOT)),
            Self::Disk(path) => Err(Error::NeedsDirectory(path.clone())),
        }
    }

    /// What it was built for; `None` when it does not tell.
    pub(crate) fn arch(&self) -> Result<Option<Arch>, Error> {
        match self.any_kernel() {
            Some(kernel) => Arch::of_kernel(&kernel.kernel),
            None => Ok(None),
        }
    }

    /// A kernel to try an accelerator with: the image's own, or the one beside the disk.
    pub(crate) fn any_kernel(&self) -> Option<Kernel> {
        let directory = match self {
            Self::Directory(directory) => directory,
            Self::Disk(path) => path.parent()?,
        };
        Self::Directory(directory.to_owned()).kernel().ok()
    }
}

fn existing(path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_file() { Ok(path) } else { Err(Error::ImageFileMissing(path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_alone_has_no_kernel_to_start_directly() {
        let scratch = tempfile::tempdir().unwrap();
        let disk = scratch.path().join("disk.img");
        std::fs::write(&disk, "").unwrap();
        let image = Image::at(&disk);
        assert_eq!(image.disk().unwrap(), disk);
        assert!(matches!(image.kernel(), Err(Error::NeedsDirectory(_))));
        assert_eq!(image.arch().unwrap(), None);
    }
}
