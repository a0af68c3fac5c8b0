//! Finding the root filesystem, verifying it and mounting it: from disks, or carried inside the initramfs.
//!
//! Who knows the root hash knows every byte of the root, and the initramfs has it in a file, so what was booted decides
//! what may become the root. Disks come when their drivers have probed them, which the kernel tells by uevents. So: listen,
//! look, and look again on every event. After a deadline the user is told what is missing, and the search goes on, since the disk may
//! yet be plugged in. A disk that is there and damaged ends it: waiting mends nothing.

mod find;
mod memory;
mod tables;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use disk::verity::RootHash;
use nix::mount::{MsFlags, mount};

use crate::block::{self, Device};
use crate::cmdline::Cmdline;
use crate::config::{Resolved, RootSource};
use crate::console::say;
use crate::modules::Tables;
use crate::uevent::Listener;
use crate::verity;

use find::{Found, Search};

pub(crate) use find::Pair;

/// Where the root is put together before it becomes `/`.
pub(crate) const NEW_ROOT: &str = "/sysroot";
/// The root hash that came with the initramfs.
const ROOT_HASH_FILE: &str = "/roothash";
/// The word that replaces it, and its value for none.
const ROOT_HASH_WORD: &str = "roothash";
const NO_ROOT_HASH: &str = "off";
/// Spinning and USB disks take seconds; after this the user should look.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long another disk with the same image is waited for when the first is damaged.
const OTHER_DISKS: Duration = Duration::from_secs(2);

/// A fault of the boot that a restart would only repeat. It stays on the screen until someone does something about it.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct Stay(pub(crate) anyhow::Error);

/// The root as it was mounted.
#[derive(Debug)]
pub(crate) struct Root {
    /// The device or file with the file system.
    pub(crate) source: String,
    /// Who vouches for its content.
    trust: Trust,
}

#[derive(Debug)]
enum Trust {
    /// dm-verity, block by block.
    Verity,
    /// Whoever vouches for the initramfs, which it was part of.
    Initramfs,
    /// Nobody.
    None,
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = match self.trust {
            Trust::Verity => "verified",
            Trust::Initramfs => "in memory",
            Trust::None => "not verified",
        };
        write!(f, "{} ({trust})", self.source)
    }
}

/// Mounts the root at [`NEW_ROOT`]. `program` is what will be started there.
pub(crate) fn mount_root(
    told: &Resolved,
    cmdline: &Cmdline,
    events: &Listener,
    tables: &mut Tables,
    program: &Path,
) -> Result<Root> {
    fs::create_dir_all(NEW_ROOT).context("failed to create the mount point of the root")?;
    let source = &told.config.boot.root;
    if *source == RootSource::Auto && Path::new(memory::IMAGE).exists() {
        memory::mount(tables)?;
        return Ok(Root { source: memory::IMAGE.to_owned(), trust: Trust::Initramfs });
    }
    let hash = root_hash(cmdline)?;
    if hash.is_none() && *source == RootSource::Auto {
        bail!(
            "nothing says which root filesystem to use: this initramfs has neither {ROOT_HASH_FILE} nor {}; give \
             {ROOT_HASH_WORD}=HEX, or skerry.root=/dev/name for a root that is not verified",
            memory::IMAGE
        );
    }
    match wait_for(&Search { source, hash }, told, events, tables)? {
        Found::Plain(device) => {
            say!("problem: the root filesystem on {} is not verified", device.display());
            mount_erofs(&device)?;
            Ok(Root { source: device.display().to_string(), trust: Trust::None })
        }
        Found::Verified(pair) => {
            verity::mount(&pair, program, tables)?;
            Ok(Root { source: pair.data.display().to_string(), trust: Trust::Verity })
        }
    }
}

/// The root hash to insist on: the command line's, else the initramfs's.
fn root_hash(cmdline: &Cmdline) -> Result<Option<RootHash>> {
    let (place, text) = match cmdline.get(ROOT_HASH_WORD) {
        Some(NO_ROOT_HASH) => return Ok(None),
        Some(word) => ("kernel command line", word.to_owned()),
        None => match fs::read_to_string(ROOT_HASH_FILE) {
            Ok(text) => (ROOT_HASH_FILE, text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("failed to read the root hash of the initramfs"),
        },
    };
    text.parse().map(Some).with_context(|| format!("{place}: {ROOT_HASH_WORD}"))
}

/// Looks until there is a root that fits, or one that does not and no other.
fn wait_for(search: &Search<'_>, told: &Resolved, events: &Listener, modules: &mut Tables) -> Result<Found> {
    let start = Instant::now();
    let mut deadline = Some(start + PATIENCE);
    let mut silent = BTreeSet::new();
    loop {
        events.drain();
        for error in modules.coldplug() {
            say!("problem: {error}");
        }
        let looked = look(search, block::devices);
        for (disk, text) in block::complaints() {
            if silent.insert(disk) {
                say!("problem: {text}");
            }
        }
        match looked {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {
                if !events.wait(deadline) && deadline.take().is_some() {
                    complain(search, told, &block::devices());
                }
            }
            Err(error) => {
                if !events.wait(Some(Instant::now() + OTHER_DISKS)) || start.elapsed() > PATIENCE {
                    return Err(Stay(error).into());
                }
            }
        }
    }
}

/// Looks once. None if something is not there yet; an error if something is there and wrong.
fn look(search: &Search<'_>, see: impl Fn() -> Vec<Device>) -> Result<Option<Found>> {
    let mut devices = see();
    let mended = search.hash.map(|hash| tables::mend(&devices, &hash)).unwrap_or_default();
    if mended.any {
        devices = see();
    }
    match (search.look(&devices)?, mended.wrong) {
        (None, Some(wrong)) => Err(wrong),
        (found, _) => Ok(found),
    }
}

fn complain(search: &Search<'_>, told: &Resolved, devices: &[Device]) {
    for mistake in told.mistakes.iter().filter(|mistake| mistake.key == "boot.root") {
        say!("maintenance: {mistake}");
    }
    say!("maintenance: {} after {} s", search.missing(devices), PATIENCE.as_secs());
    if devices.is_empty() {
        say!(
            "maintenance: no block device was found; is the disk attached, and is its driver in the initramfs?"
        );
    }
    for device in devices.iter().filter(|device| device.part_of.is_none()) {
        say!("maintenance: seen: {}", device.describe());
    }
    say!(
        "maintenance: still waiting; attach the disk, or restart with skerry.root=/dev/name, LABEL=name or PARTUUID=guid"
    );
}

/// Mounts what is on `device` or in that file.
pub(crate) fn mount_erofs(device: &Path) -> Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(device), NEW_ROOT, Some("erofs"), flags, None::<&str>)
        .with_context(|| format!("failed to mount the root filesystem from {}", device.display()))
}

#[cfg(test)]
mod tests;
