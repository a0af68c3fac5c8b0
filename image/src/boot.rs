//! What is on the BOOT partition: what starts the machine, and a kernel and an initramfs for it to load.
//!
//! With UEFI that is a loader, and for each slot an entry that names kernel and initramfs. Entries are those of the Boot
//! Loader Specification (type 1), as systemd-boot reads them. A loader that is given may be a GRUB that does not know
//! them, so it gets the same as `grub.cfg`. The partition is also where people put `config.toml`: every computer can
//! write to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::digest;
use crate::identity::VERSION;
use crate::source::{self, Source};
use crate::target::{Boot, Target};

/// No menu, nobody to change the command line, and the screen as the firmware left it.
const LOADER_CONFIGURATION: &str = "timeout 0\neditor no\nconsole-mode keep\n";

/// Where a GRUB at the path that firmware looks for looks for its configuration.
const GRUB_CONFIGURATION: &str = "EFI/BOOT/grub.cfg";

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

/// The files of a new BOOT partition that are there before any system is.
#[derive(Debug)]
pub(crate) struct Files {
    files: disk::fat::Files,
    /// Of those, the ones that were given: path and SHA-256.
    given: Vec<(String, String)>,
    loader: Option<PathBuf>,
}

// === impl Files ===

impl Files {
    /// Collects what starts the machine: `given` is a directory with a board's firmware or another loader.
    pub(crate) fn find(source: &Source, target: &Target, given: Option<&Path>) -> anyhow::Result<Self> {
        let mut files = disk::fat::Files::new();
        if let Some(directory) = given {
            collect(directory, "", &mut files)?;
        }
        let given = files.iter().map(|(path, bytes)| (path.clone(), digest::of_bytes(bytes))).collect();
        let has = |wanted: &str| files.keys().any(|path| path.eq_ignore_ascii_case(wanted));
        let mut loader = None;
        match &target.boot {
            Boot::Uefi { path, .. } if has(path) => {}
            Boot::Uefi { package, loader: program, path } => {
                let program = source.path(package, program).context(
                    "nothing starts a machine with UEFI: give a loader's files, EFI/BOOT and so on, with --boot-files",
                )?;
                files.insert(path.clone(), source::read(&program)?);
                files.insert("loader/loader.conf".into(), LOADER_CONFIGURATION.into());
                loader = Some(program);
            }
            Boot::Firmware { needs, .. } => ensure!(
                has(needs),
                "target '{}' is started by its firmware: give the firmware's files, with {needs}, by --boot-files",
                target.name
            ),
        }
        files.insert("config.toml.example".into(), CONFIGURATION_EXAMPLE.into());
        Ok(Self { files, given, loader })
    }

    /// Path and SHA-256 of the files that were given, sorted.
    pub(crate) fn given(&self) -> &[(String, String)] {
        &self.given
    }

    /// The loader's program on the host, when it is not one of the files that were given.
    pub(crate) fn loader(&self) -> Option<&Path> {
        self.loader.as_deref()
    }

    /// Adds a system to boot.
    pub(crate) fn with_system(
        self,
        target: &Target,
        slot: Slot,
        system: Vec<u8>,
        initial: Vec<u8>,
    ) -> disk::fat::Files {
        let mut files = self.files;
        match &target.boot {
            Boot::Uefi { .. } => {
                let entry = Entry::new(target, slot);
                if self.loader.is_none() {
                    // Buildroot's GRUB comes with one for another disk. FAT knows no case.
                    files.retain(|path, _| !path.eq_ignore_ascii_case(GRUB_CONFIGURATION));
                    files.insert(GRUB_CONFIGURATION.into(), entry.for_grub().into());
                }
                files.insert(format!("loader/entries/skerry-{}.conf", slot.letter()), entry.text().into());
                files.insert(entry.kernel, system);
                files.insert(entry.initramfs, initial);
            }
            Boot::Firmware { kernel, initramfs, command_line, .. } => {
                files.insert(command_line.clone(), format!("{}\n", target.kernel.words).into());
                files.insert(kernel.clone(), system);
                files.insert(initramfs.clone(), initial);
            }
        }
        files
    }
}

/// What a loader has to know of a system. The initramfs carries the root hash, so the entry need not: slot and hash
/// cannot come apart.
struct Entry<'a> {
    title: String,
    architecture: &'static str,
    /// On BOOT, as is the initramfs.
    kernel: String,
    initramfs: String,
    words: &'a str,
}

// === impl Entry ===

impl<'a> Entry<'a> {
    fn new(target: &'a Target, slot: Slot) -> Self {
        let letter = slot.letter();
        Self {
            title: format!("Skerry {VERSION} ({})", letter.to_ascii_uppercase()),
            architecture: target.processor.loader_name(),
            kernel: format!("skerry/{letter}/vmlinuz"),
            initramfs: format!("skerry/{letter}/initramfs.img"),
            words: &target.kernel.words,
        }
    }

    /// As the Boot Loader Specification has it.
    fn text(&self) -> String {
        let Self { title, architecture, kernel, initramfs, words } = self;
        format!(
            "title {title}\n\
             sort-key skerry\n\
             version {VERSION}\n\
             architecture {architecture}\n\
             linux /{kernel}\n\
             initrd /{initramfs}\n\
             options {words}\n"
        )
    }

    /// As a script of GRUB, which has set its root to the partition that it was started from.
    fn for_grub(&self) -> String {
        let Self { title, kernel, initramfs, words, .. } = self;
        format!(
            "set timeout=0\n\
             menuentry '{title}' {{\n\
             \tlinux /{kernel} {words}\n\
             \tinitrd /{initramfs}\n\
             }}\n"
        )
    }
}

/// All files below a directory, by their path in it.
fn collect(directory: &Path, prefix: &str, files: &mut disk::fat::Files) -> anyhow::Result<()> {
    let failed = || format!("failed to read '{}'", directory.display());
    for entry in fs::read_dir(directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .with_context(|| format!("'{}' has a name that FAT cannot hold", entry.path().display()))?;
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{prefix}{name}/"), files)?;
        } else {
            files.insert(format!("{prefix}{name}"), source::read(&entry.path())?);
        }
    }
    Ok(())
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
        let text = Entry::new(&target, Slot::A).text();
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

    #[test]
    fn a_board_gets_its_firmware_with_kernel_and_words_where_it_looks() {
        let target = Target::find("raspberrypi4-64").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let (root, firmware) = (scratch.path().join("root"), scratch.path().join("firmware"));
        fs::create_dir_all(root.join("usr")).unwrap();
        fs::create_dir_all(firmware.join("overlays")).unwrap();
        fs::write(root.join("Image"), "").unwrap();
        fs::write(firmware.join("overlays/miniuart-bt.dtbo"), "overlay").unwrap();
        let source = Source::tree(&root, &root.join("Image")).unwrap();
        let error = Files::find(&source, &target, Some(&firmware)).unwrap_err().to_string();
        assert!(error.contains("raspberrypi4-64") && error.contains("config.txt"), "{error}");

        let settings = include_str!("../../buildroot/board/raspberrypi4-64/config.txt");
        fs::write(firmware.join("config.txt"), settings).unwrap();
        let files = Files::find(&source, &target, Some(&firmware)).unwrap();
        let files = files.with_system(&target, Slot::A, b"kernel".to_vec(), b"initial".to_vec());
        assert_eq!(files["overlays/miniuart-bt.dtbo"], b"overlay");
        let named = |key: &str| settings.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        assert_eq!(files[named("kernel=")], b"kernel");
        assert_eq!(files[named("initramfs ").split(' ').next().unwrap()], b"initial");
        assert!(files["cmdline.txt"].ends_with(b"panic=10\n"));
    }

    #[test]
    fn a_loader_that_is_given_takes_the_place_of_debians() {
        let target = Target::find(target::DEFAULT).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("usr")).unwrap();
        fs::write(root.join("bzImage"), "").unwrap();
        let source = Source::tree(&root, &root.join("bzImage")).unwrap();
        let error = Files::find(&source, &target, None).unwrap_err();
        assert!(format!("{error:#}").contains("--boot-files"), "{error:#}");
        let given = scratch.path().join("efi-part");
        fs::create_dir_all(given.join("EFI/BOOT")).unwrap();
        fs::write(given.join("EFI/BOOT/bootx64.efi"), "loader").unwrap();
        fs::write(given.join("EFI/BOOT/GRUB.CFG"), "of another system").unwrap();
        let files = Files::find(&source, &target, Some(&given)).unwrap();
        assert!(files.loader().is_none());
        let files = files.with_system(&target, Slot::A, Vec::new(), Vec::new());
        assert_eq!(files["EFI/BOOT/bootx64.efi"], b"loader");
        assert!(
            files.contains_key("loader/entries/skerry-a.conf") && !files.contains_key("loader/loader.conf")
        );
        let script = String::from_utf8_lossy(&files["EFI/BOOT/grub.cfg"]);
        let words = &target.kernel.words;
        assert!(script.starts_with("set timeout=0\nmenuentry 'Skerry 0.1.0 (A)' {\n"), "{script}");
        assert!(
            script.contains(&format!("\tlinux /skerry/a/vmlinuz {words}\n\tinitrd /skerry/a/")),
            "{script}"
        );
        assert!(!files.contains_key("EFI/BOOT/GRUB.CFG"), "FAT has one file of this name");
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
