//! What an image is built for. One file in `targets/` per target; everything that differs between them is in there.

use std::path::PathBuf;

use anyhow::Context;
use disk::guid::Guid;
use serde::Deserialize;

use crate::elf;

/// Name and description of each target.
const TARGETS: [(&str, &str); 3] = [
    ("qemu-x86_64", include_str!("../targets/qemu-x86_64.toml")),
    ("qemu-aarch64", include_str!("../targets/qemu-aarch64.toml")),
    ("raspberrypi4-64", include_str!("../targets/raspberrypi4-64.toml")),
];

/// The target that is built when none is named.
pub(crate) const DEFAULT: &str = "qemu-x86_64";

/// A kind of machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Target {
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) debian_architecture: String,
    pub(crate) processor: Processor,
    pub(crate) libraries: Libraries,
    pub(crate) kernel: Kernel,
    pub(crate) boot: Boot,
    pub(crate) partitions: Partitions,
}

/// A processor family, as the discoverable partitions specification tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Processor {
    /// Also called amd64.
    #[serde(rename = "x86-64")]
    X86_64,
    /// Also called aarch64.
    Arm64,
}

/// Where shared libraries are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Libraries {
    pub(crate) directory: PathBuf,
    pub(crate) loader: PathBuf,
}

/// The kernel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Kernel {
    pub(crate) package: String,
    pub(crate) words: String,
    /// Modules that find the root file system, beside those that every machine gets.
    #[serde(default)]
    pub(crate) initramfs_modules: Vec<String>,
    /// Modules of the root file system, beside those.
    #[serde(default)]
    pub(crate) modules: Vec<String>,
}

/// How the machine comes to its kernel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "by")]
pub(crate) enum Boot {
    /// UEFI starts a loader, which reads on BOOT what there is to boot.
    Uefi {
        /// Debian's package with the loader.
        package: String,
        /// The loader in the package.
        loader: PathBuf,
        /// The loader on BOOT.
        path: String,
    },
    /// The board's firmware loads the kernel itself. Its own files come from whoever builds the image.
    Firmware {
        /// A file without which it does not start.
        needs: String,
        /// Where it looks for the kernel on BOOT.
        kernel: String,
        /// Where it looks for the initramfs on BOOT.
        initramfs: String,
        /// Where it looks for the kernel's command line on BOOT.
        command_line: String,
    },
}

/// Sizes of partitions, in MiB.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Partitions {
    pub(crate) boot: u64,
    pub(crate) root: u64,
    pub(crate) verity: u64,
    pub(crate) state: u64,
}

// === impl Target ===

impl Target {
    /// Looks a target up by name.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let (_, text) = TARGETS.into_iter().find(|(known, _)| *known == name).with_context(|| {
            let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            format!("there is no target '{name}'; there is {}", known.join(", "))
        })?;
        let target: Self = toml::from_str(text).with_context(|| format!("targets/{name}.toml is damaged"))?;
        Ok(Self { name: name.to_owned(), ..target })
    }
}

// === impl Processor ===

impl Processor {
    const ALL: [Self; 2] = [Self::X86_64, Self::Arm64];

    /// The one that a program is for.
    pub(crate) fn of_program(bytes: &[u8]) -> anyhow::Result<Self> {
        let machine = elf::machine(bytes)?;
        let found = Self::ALL.into_iter().find(|processor| processor.machine() == machine);
        found.with_context(|| format!("it is for a processor that no target has (ELF machine {machine})"))
    }

    /// As ELF files call it.
    fn machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// As container images call it.
    pub(crate) fn container_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Partition types of a root file system and of its hashes.
    pub(crate) fn root_types(self) -> (Guid, Guid) {
        match self {
            Self::X86_64 => (Guid::ROOT_X86_64, Guid::ROOT_VERITY_X86_64),
            Self::Arm64 => (Guid::ROOT_AARCH64, Guid::ROOT_VERITY_AARCH64),
        }
    }

    /// As the Boot Loader Specification calls it.
    pub(crate) fn loader_name(self) -> &'static str {
        match self {
            Self::X86_64 => "x64",
            Self::Arm64 => "aa64",
        }
    }

    /// As os-release(5) calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86-64",
            Self::Arm64 => "arm64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_can_be_read_and_an_unknown_one_names_them() {
        for (name, _) in TARGETS {
            assert_eq!(Target::find(name).unwrap().name, name);
        }
        let error = Target::find("toaster").unwrap_err().to_string();
        assert!(error.contains("toaster") && error.contains(DEFAULT), "{error}");
    }

    #[test]
    fn hashes_of_a_full_slot_fit_into_their_partition() {
        for (name, _) in TARGETS {
            let partitions = Target::find(name).unwrap().partitions;
            let blocks = partitions.root * 256;
            let superblock =
                disk::verity::Superblock { id: Guid::NIL, data_blocks: blocks, salt: Vec::new() };
            assert!(superblock.hash_bytes() <= partitions.verity << 20, "{name}");
        }
    }
}
