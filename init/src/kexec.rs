//! Restarting without the firmware: the kernel that the boot partition would start, loaded by the running one.
//!
//! What is loaded is read from the disk now, by the boot loader's own entry (UAPI group, Boot Loader Specification, type 1), so a
//! kexec starts what a reboot would. A machine whose kernel came from elsewhere (a network, a hypervisor) has no copy of it and
//! reboots through its firmware.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::block;

/// The partition that the firmware starts from.
const BOOT: &str = "BOOT";
const MOUNT_POINT: &str = "/run/skerry/boot";
/// Words that belong to the boot that was, not to the one that comes: the loader's, and those that name the root.
const STALE: &[&str] = &["BOOT_IMAGE", "initrd", "roothash", "skerry.root"];

/// An entry of the boot loader.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    linux: String,
    initrd: Option<String>,
    options: String,
}

/// Loads the kernel from the disk that `root` is on. Blocks while it reads.
pub(crate) fn load(root: &str) -> Result<()> {
    let devices = block::devices();
    let system = block::disk_of(root);
    let partition = block::partitions(&devices)
        .into_iter()
        .find(|partition| partition.name == BOOT && Some(partition.device.disk()) == system.as_deref())
        .with_context(|| format!("the disk of the root file system has no partition {BOOT}"))?;
    fs::create_dir_all(MOUNT_POINT)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(&partition.device.node()), MOUNT_POINT, Some("vfat"), flags, None::<&str>)
        .with_context(|| format!("failed to mount {BOOT}"))?;
    let loaded = load_from(Path::new(MOUNT_POINT));
    let _ = umount2(MOUNT_POINT, MntFlags::MNT_DETACH);
    loaded
}

fn load_from(boot: &Path) -> Result<()> {
    let entry = default_entry(boot)?;
    let open = |name: &str| {
        let path = boot.join(name.trim_start_matches('/'));
        File::open(&path).with_context(|| format!("failed to open {name} of {BOOT}"))
    };
    let kernel = open(&entry.linux)?;
    let initrd = entry.initrd.as_deref().map(open).transpose()?;
    let current = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let words =
        CString::new(command_line(&entry.options, &current)).context("a zero byte in the command line")?;
    sys::kexec::load(&kernel, initrd.as_ref(), &words).context("the kernel refused to load it")
}

/// The entry that the boot loader would take by itself.
fn default_entry(boot: &Path) -> Result<Entry> {
    let directory = boot.join("loader/entries");
    let mut names: Vec<String> = fs::read_dir(&directory)
        .context("failed to list the boot loader's entries")?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".conf"))
        .collect();
    names.sort();
    let settings = fs::read_to_string(boot.join("loader/loader.conf")).unwrap_or_default();
    let wanted = value(&settings, "default").unwrap_or("*");
    let chosen = names.iter().rev().find(|name| fits(wanted, name)).or(names.last());
    let name = chosen.context("the boot loader has no entries")?;
    let text = fs::read_to_string(directory.join(name)).with_context(|| format!("failed to read {name}"))?;
    parse(&text).with_context(|| format!("the boot loader's entry {name}"))
}

/// Whether a default of `loader.conf` means the entry in the file `name`.
fn fits(wanted: &str, name: &str) -> bool {
    let id = name.trim_end_matches(".conf");
    match wanted.trim_end_matches(".conf").split_once('*') {
        Some((begin, _)) => id.starts_with(begin),
        None => id == wanted.trim_end_matches(".conf"),
    }
}

fn parse(text: &str) -> Result<Entry> {
    let Some(linux) = value(text, "linux") else { bail!("names no kernel") };
    let options: Vec<_> = values(text, "options").collect();
    Ok(Entry {
        linux: linux.to_owned(),
        initrd: value(text, "initrd").map(str::to_owned),
        options: options.join(" "),
    })
}

fn value<'a>(text: &'a str, key: &'a str) -> Option<&'a str> {
    values(text, key).last()
}

/// The values of the lines `KEY VALUE`.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let rest = line.trim().strip_prefix(key)?;
        rest.starts_with([' ', '\t']).then(|| rest.trim())
    })
}

/// The entry's options, and behind them what the running kernel was told beside: by the loader's editor, or by a hypervisor.
fn command_line(options: &str, current: &str) -> String {
    let known: Vec<&str> = options.split_whitespace().collect();
    let beside = current.split_whitespace().filter(|word| {
        let key = word.split('=').next().unwrap_or_default();
        !known.contains(word) && !STALE.contains(&key)
    });
    known.iter().copied().chain(beside).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "\
title   Skerry
linux   /skerry/a/vmlinuz
initrd  /skerry/a/initramfs.img
options panic=10 roothash=11
options console=tty0
";

    fn entry() -> Entry {
        Entry {
            linux: "/skerry/a/vmlinuz".to_owned(),
            initrd: Some("/skerry/a/initramfs.img".to_owned()),
            options: "panic=10 roothash=11 console=tty0".to_owned(),
        }
    }

    #[test]
    fn the_entry_is_the_one_that_the_loader_takes() {
        let dir = tempfile::tempdir().unwrap();
        let entries = dir.path().join("loader/entries");
        fs::create_dir_all(&entries).unwrap();
        fs::write(entries.join("skerry-a.conf"), ENTRY).unwrap();
        fs::write(entries.join("skerry-b.conf"), "linux /other\n").unwrap();
        for default in ["skerry-a", "skerry-a.conf", "skerry-a*"] {
            fs::write(dir.path().join("loader/loader.conf"), format!("timeout 0\ndefault {default}\n"))
                .unwrap();
            assert_eq!(default_entry(dir.path()).unwrap(), entry(), "{default}");
        }
        fs::write(entries.join("skerry-b.conf"), "title nothing\n").unwrap();
        fs::write(dir.path().join("loader/loader.conf"), "default skerry-b\n").unwrap();
        assert!(format!("{:#}", default_entry(dir.path()).unwrap_err()).contains("names no kernel"));
    }

    #[test]
    fn words_that_were_added_stay_and_those_of_the_old_root_go() {
        let current = "BOOT_IMAGE=/x initrd=\\y panic=10 roothash=22 skerry.root=LABEL=old console=tty0 skerry.role=server\n";
        assert_eq!(
            command_line(&entry().options, current),
            "panic=10 roothash=11 console=tty0 skerry.role=server"
        );
    }
}
