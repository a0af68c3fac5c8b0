//! The kernel and memory file systems of both stages, as tables.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// One line of a mount table.
struct Entry {
    target: &'static str,
    fs_type: &'static str,
    flags: MsFlags,
    data: &'static str,
    need: Need,
}

/// What a failed mount means.
#[derive(PartialEq, Eq)]
enum Need {
    /// The machine cannot go on.
    Must,
    /// The kernel may lack it.
    May,
}

const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NODEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NOEXEC: MsFlags = NODEV.union(MsFlags::MS_NOEXEC);
const PTS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

const fn must(target: &'static str, fs_type: &'static str, flags: MsFlags, data: &'static str) -> Entry {
    Entry { target, fs_type, flags, data, need: Need::Must }
}

const fn may(target: &'static str, fs_type: &'static str, flags: MsFlags, data: &'static str) -> Entry {
    Entry { target, fs_type, flags, data, need: Need::May }
}

/// Before anything else, in the initramfs; the real root gets them moved over.
const EARLY: &[Entry] = &[
    must("/proc", "proc", NOEXEC, ""),
    must("/sys", "sysfs", NOEXEC, ""),
    must("/dev", "devtmpfs", NOSUID, "mode=0755,size=4m"),
    must("/run", "tmpfs", NODEV, "mode=0755,size=20%,nr_inodes=800k"),
];

/// In the real root. /run is executable: the module helper's link lives there.
const LATE: &[Entry] = &[
    must("/dev/pts", "devpts", PTS, "mode=0620,gid=5,ptmxmode=0666"),
    must("/dev/shm", "tmpfs", NODEV, "mode=1777"),
    may("/dev/mqueue", "mqueue", NOEXEC, ""),
    must("/tmp", "tmpfs", NODEV, "mode=1777,size=10%"),
    must("/sys/fs/cgroup", "cgroup2", NOEXEC, "nsdelegate,memory_recursiveprot"),
    may("/sys/fs/bpf", "bpf", NOEXEC, "mode=0700"),
    may("/sys/kernel/security", "securityfs", NOEXEC, ""),
    may("/sys/kernel/tracing", "tracefs", NOEXEC, "mode=0700"),
    may("/sys/kernel/config", "configfs", NOEXEC, ""),
    may("/sys/fs/pstore", "pstore", NOEXEC, ""),
    // Read-only: a wrong write there can make firmware forget how to boot.
    may("/sys/firmware/efi/efivars", "efivarfs", NOEXEC.union(MsFlags::MS_RDONLY), ""),
    may("/dev/hugepages", "hugetlbfs", NODEV, ""),
];

/// The kernel's debugging interface: much to see, and much to break.
const DEBUG: Entry = may("/sys/kernel/debug", "debugfs", NOEXEC, "mode=0700");

/// Names in /dev that programs expect and devtmpfs does not make.
const DEV_LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Mounts what every later step reads: /proc, /sys, /dev, /run. What is mounted already is left alone.
pub(crate) fn early() -> Result<()> {
    for entry in EARLY {
        if !is_mounted(entry.target) {
            entry.mount()?;
        }
    }
    Ok(())
}

/// Makes every mount shared, which pods with mount propagation need, then mounts what only the real root has.
pub(crate) fn late() -> Result<()> {
    let propagation = MsFlags::MS_REC | MsFlags::MS_SHARED;
    mount(None::<&str>, "/", None::<&str>, propagation, None::<&str>).context("failed to make / shared")?;
    let mounts = LATE.iter().map(Entry::mount);
    let links = DEV_LINKS.iter().map(|(link, target)| {
        // devtmpfs may hold a real /dev/ptmx of the kernel's; the link gives the one of our devpts instance.
        let _ = std::fs::remove_file(link);
        symlink(target, link).with_context(|| format!("failed to link {link}"))
    });
    all(mounts.chain(links))
}

/// Takes every step, whatever became of those before: a machine without /dev/shm still needs its control groups.
fn all(steps: impl Iterator<Item = Result<()>>) -> Result<()> {
    let failures: Vec<_> = steps.filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// Mounts what only someone who debugs the machine needs.
pub(crate) fn debug() -> Result<()> {
    DEBUG.mount()
}

/// Binds `source` over `target`.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("failed to bind {} to {}", source.display(), target.display()))
}

/// Mounts a small tmpfs at `target` for files generated at boot.
pub(crate) fn tmpfs(target: &Path, flags: MsFlags, data: &str) -> Result<()> {
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(data))
        .with_context(|| format!("failed to mount a tmpfs on {}", target.display()))
}

/// Whether `target` is on another file system than the directory above it.
fn is_mounted(target: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.metadata().map(|meta| meta.dev());
    let parent = Path::new(target).parent().unwrap_or(Path::new("/"));
    matches!((device(Path::new(target)), device(parent)), (Ok(own), Ok(above)) if own != above)
}

impl Entry {
    fn mount(&self) -> Result<()> {
        // On a read-only root the directory is there already; in the initramfs and in /dev it may have to be made.
        let made = std::fs::create_dir_all(self.target);
        let data = (!self.data.is_empty()).then_some(self.data);
        match mount(Some(self.fs_type), self.target, Some(self.fs_type), self.flags, data) {
            Ok(()) | Err(Errno::EBUSY) => Ok(()),
            Err(_) if self.need == Need::May => Ok(()),
            Err(errno) => {
                made.with_context(|| format!("failed to create {}", self.target))?;
                Err(io::Error::from(errno))
                    .with_context(|| format!("failed to mount {} on {}", self.fs_type, self.target))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_failed_mount_keeps_no_other_from_being_tried_and_all_failures_are_told() {
        let tried = Cell::new(0);
        let steps = (0..4).map(|step| {
            tried.set(tried.get() + 1);
            ensure!(step % 2 == 1, "step {step}");
            Ok(())
        });
        assert_eq!(all(steps).unwrap_err().to_string(), "step 0; step 2");
        assert_eq!(tried.get(), 4);
    }
}
