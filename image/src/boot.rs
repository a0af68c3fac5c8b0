//! What is on the BOOT partition: the loader, and for each slot a kernel, an initramfs and an entry that names them.
//!
//! Entries are those of the Boot Loader Specification (type 1), as systemd-boot reads them. The partition is also where
//! people put `config.toml`: every computer can write to it.

use std::path::PathBuf;

use disk::fat::Files;

use crate::identity::VERSION;
use crate::source::{self, Source};
use crate::target::Target;

/// No menu, nobody to change the command line, and the screen as the firmware left it.
const LOADER_CONFIGURATION: &str = "timeout 0\neditor no\nconsole-mode keep\n";

/// For people who open the partition: what a configuration looks like.
const CONFIGURATION_EXAMPLE: &str = include_str!("../files/config.toml.example");

/// A system to boot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    /// The one that a new disk has.
    A,
}

impl Slot {
    fn letter(self) -> char {
        match self {
            Self::A => 'a',
        }
    }
}

/// The files of a new BOOT partition, with one system.
pub(crate) fn files(
    source: &Source,
    target: &Target,
    slot: Slot,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
) -> anyhow::Result<Files> {
    let mut files = Files::new();
    if let Some(loader) = loader_path(source, target)? {
        files.insert(target.boot.path.clone(), source::read(&loader)?);
        files.insert("loader/loader.conf".into(), LOADER_CONFIGURATION.into());
    } else {
        eprintln!(
            "warning: the tree has no '{}': the disk will not boot by UEFI",
            target.boot.loader.display()
        );
    }
    let letter = slot.letter();
    files.insert(format!("loader/entries/skerry-{letter}.conf"), entry(target, slot).into());
    files.insert(format!("skerry/{letter}/vmlinuz"), kernel);
    files.insert(format!("skerry/{letter}/initramfs.img"), initramfs);
    files.insert("config.toml.example".into(), CONFIGURATION_EXAMPLE.into());
    Ok(files)
}

/// Where the loader's program is on the host. A tree that was built elsewhere may have none; its boards boot otherwise.
pub(crate) fn loader_path(source: &Source, target: &Target) -> anyhow::Result<Option<PathBuf>> {
    match (source.path(&target.boot.package, &target.boot.loader), source) {
        (Err(_), Source::Tree { .. }) => Ok(None),
        (path, _) => path.map(Some),
    }
}

/// The initramfs carries the root hash, so the entry need not: slot and hash cannot come apart.
fn entry(target: &Target, slot: Slot) -> String {
    let letter = slot.letter();
    format!(
        "title Skerry {VERSION} ({upper})\n\
         sort-key skerry\n\
         version {VERSION}\n\
         architecture {architecture}\n\
         linux /skerry/{letter}/vmlinuz\n\
         initrd /skerry/{letter}/initramfs.img\n\
         options {words}\n",
        upper = letter.to_ascii_uppercase(),
        architecture = target.processor.loader_name(),
        words = target.kernel.words,
    )
}

/// The script that iPXE runs: it fetches the two files beside it.
pub(crate) fn ipxe_script(target: &Target) -> String {
    format!(
        "#!ipxe\n\
         # Add what the node is to become: skerry.role=, skerry.server=, skerry.token= and so on.\n\
         kernel vmlinuz initrd=initramfs.img {} || shell\n\
         initrd initramfs.img || shell\n\
         boot || shell\n",
        target.kernel.words
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target;

    #[test]
    fn an_entry_names_its_own_slots_files() {
        let target = Target::find(target::DEFAULT).unwrap();
        let text = entry(&target, Slot::A);
        assert!(text.contains("\nlinux /skerry/a/vmlinuz\ninitrd /skerry/a/initramfs.img\n"), "{text}");
        assert!(text.contains("\nversion 0.1.0\n") && text.contains("\narchitecture x64\n"), "{text}");
        assert!(text.lines().any(|line| line == format!("options {}", target.kernel.words)), "{text}");
    }

    /// UEFI's iPXE gives the kernel only what is named by `initrd=`.
    #[test]
    fn the_network_script_names_the_initramfs_for_the_kernel_too() {
        let text = ipxe_script(&Target::find(target::DEFAULT).unwrap());
        assert!(text.starts_with("#!ipxe\n"));
        assert!(text.contains("\nkernel vmlinuz initrd=initramfs.img console="), "{text}");
    }

    /// As it is it configures nothing; with its marks removed, each kind of node it shows is one that PID 1 takes.
    #[test]
    fn the_example_is_all_comments_and_what_it_shows_is_right() {
        let mut lines = CONFIGURATION_EXAMPLE.lines();
        assert!(lines.all(|line| line.is_empty() || line.starts_with('#')));
        for role in ["role = \"server\"", "role = \"agent\""] {
            let blocks = CONFIGURATION_EXAMPLE.split("\n\n");
            let wanted = blocks.filter(|block| !block.contains("role = ") || block.contains(role));
            let settings: String = wanted
                .flat_map(str::lines)
                .filter_map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')))
                .map(|line| format!("{line}\n"))
                .collect();
            let layer = node_config::Layer::toml("config.toml", settings.as_bytes()).unwrap();
            let resolved = node_config::resolve(&[layer]);
            assert!(resolved.is_sound(), "{:?}\n{settings}", resolved.mistakes);
        }
    }
}
