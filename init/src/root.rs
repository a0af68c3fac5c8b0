//! Finding the root filesystem: an EROFS on a disk, or one carried inside the initramfs.
//!
//! Disks come when their drivers have probed them, which the kernel tells by uevents. So: listen, look, and look again on
//! every event. After a deadline the user is told what is missing, and the search goes on, since the disk may yet be plugged in.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::block;
use crate::config::{Resolved, RootSource};
use crate::console::say;
use crate::modules::Tables;
use crate::probe::{self, Content};
use crate::uevent::Listener;

/// Where the root is put together before it becomes `/`.
pub(crate) const NEW_ROOT: &str = "/sysroot";
/// The root filesystem of a machine that runs from memory.
const IN_MEMORY: &str = "/root.erofs";
/// Where a copy of it goes when the initramfs cannot back a mount itself.
const RAMFS: &str = "/run/root-image";
/// Spinning and USB disks take seconds; after this the user should look.
const PATIENCE: Duration = Duration::from_secs(30);

/// Mounts the root at [`NEW_ROOT`] and returns what it was mounted from.
pub(crate) fn mount_root(told: &Resolved, events: &Listener, tables: &mut Tables) -> Result<String> {
    let wanted = &told.config.boot.root;
    fs::create_dir_all(NEW_ROOT).context("failed to create the mount point of the root")?;
    if *wanted == RootSource::Auto && Path::new(IN_MEMORY).exists() {
        return mount_from_memory();
    }
    let device = wait_for(told, events, tables);
    mount_erofs(&device)?;
    Ok(device)
}

/// Looks until there is a device that fits.
fn wait_for(told: &Resolved, events: &Listener, tables: &mut Tables) -> String {
    let mut deadline = Some(Instant::now() + PATIENCE);
    loop {
        events.drain();
        for error in tables.coldplug() {
            say!("problem: {error}");
        }
        if let Some(device) = find(&told.config.boot.root) {
            return device;
        }
        if !events.wait(deadline) && deadline.take().is_some() {
            complain(told);
        }
    }
}

fn find(wanted: &RootSource) -> Option<String> {
    if let RootSource::Device(path) = wanted {
        let holds_erofs = matches!(probe::content(Path::new(path)), Ok(Content::Erofs(_)));
        return holds_erofs.then(|| path.clone());
    }
    block::devices().into_iter().map(|device| device.node()).find_map(|node| {
        let fits = match (probe::content(&node).ok()?, wanted) {
            (Content::Erofs(label), RootSource::Label(wanted)) => label == *wanted,
            (Content::Erofs(_), _) => true,
            _ => false,
        };
        fits.then(|| node.display().to_string())
    })
}

fn complain(told: &Resolved) {
    for mistake in told.mistakes.iter().filter(|mistake| mistake.key == "boot.root") {
        say!("maintenance: {mistake}");
    }
    let what = match &told.config.boot.root {
        RootSource::Auto => "no disk with an EROFS root filesystem".to_owned(),
        RootSource::Label(label) => format!("no disk with an EROFS labelled {label:?} (skerry.root)"),
        RootSource::Device(path) => format!("no EROFS on {path} (skerry.root)"),
    };
    let names: Vec<_> = block::devices().into_iter().map(|device| device.name).collect();
    let seen = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    say!("maintenance: {what} after {} s; block devices: {seen}", PATIENCE.as_secs());
    say!(
        "maintenance: still waiting; attach the disk, or restart with skerry.root=LABEL=name or skerry.root=/dev/name"
    );
}

fn mount_erofs(source: &str) -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(source), NEW_ROOT, Some("erofs"), flags, None::<&str>)
        .with_context(|| format!("failed to mount the root filesystem from {source}"))
}

/// Mounts [`IN_MEMORY`]. EROFS takes a plain file as its backing (Linux 6.12) if that file's system can read pages by itself: a
/// ramfs can, a tmpfs cannot and says `ENOTBLK`. Then the image moves to a ramfs of its own.
fn mount_from_memory() -> Result<String> {
    let mut tables = Tables::read();
    if let Err(error) = tables.load_named("erofs") {
        say!("problem: {error}");
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    match mount(Some(IN_MEMORY), NEW_ROOT, Some("erofs"), flags, None::<&str>) {
        Ok(()) => return Ok(IN_MEMORY.to_owned()),
        Err(Errno::ENOTBLK) => {}
        Err(errno) => bail!("failed to mount {IN_MEMORY}: {}", errno.desc()),
    }
    fs::create_dir_all(RAMFS).and_then(|()| {
        mount(Some("ramfs"), RAMFS, Some("ramfs"), MsFlags::empty(), None::<&str>)?;
        move_file(Path::new(IN_MEMORY), &Path::new(RAMFS).join("root.erofs"))
    })?;
    mount_erofs(&format!("{RAMFS}/root.erofs"))?;
    Ok(IN_MEMORY.to_owned())
}

fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut File::open(from)?, &mut File::create(to)?)?;
    fs::remove_file(from)
}
