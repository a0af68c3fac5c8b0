//! Which device STATE is on, or may be put on.
//!
//! In this order, and on the disk of the root file system before any other:
//!
//! 1. an ext4 with the label `STATE`, or any ext4 on a partition of that name: taken as soon as it is seen;
//! 2. what was STATE and is damaged, by the partition's name or by the label in a backup superblock: to be repaired, never
//!    replaced;
//! 3. what was being made into STATE when the power failed;
//! 4. a partition named `STATE` that begins with zeros, as images have it;
//! 5. the first disk that is blank at both ends and has no partitions, if the configuration is sound.
//!
//! All but the first wait until no disk is known to be on its way, because the better one may just be slower to appear.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::io::unix::AsyncFd;

use crate::block::{self, Device};
use crate::board::{Board, note};
use crate::config::StatePolicy;
use crate::probe::{self, Content};
use crate::readiness::readable;
use crate::state::{NAME, SMALLEST, Wish, make, partition};
use crate::uevent::Listener;

/// How long drivers may take to load.
const DRIVERS: Duration = Duration::from_secs(20);
/// How long a disk may take to appear after that before memory is used instead.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same while there is a controller whose disks may be long in coming, and none has come.
const SLOW_PATIENCE: Duration = Duration::from_secs(15);
/// How long no device may have been announced before a blank disk is taken; a USB port needs about half of it to find a device.
const QUIET: Duration = Duration::from_millis(700);

/// How the class of a PCI device for storage begins (PCI Code and ID Assignment Specification).
const STORAGE: &str = "0x01";
/// IDE and SATA.
const WITH_THEIR_DRIVER: [&str; 2] = ["0x0101", "0x0106"];

/// A device for STATE.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) device: Device,
    pub(super) kind: Kind,
}

/// What a device is to STATE, the most wanted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It is STATE.
    State,
    /// It was STATE.
    Damaged,
    /// It was about to become STATE.
    Unfinished,
    /// Nothing but zeros where anything would begin or end.
    Blank,
    /// Someone's data, or something unreadable.
    Foreign,
}

/// A device that may be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) device: Device,
    /// The name that its disk's partition table gives it.
    pub(super) name: Option<String>,
}

/// Looks until there is a disk, patience ends (policy `auto`), or for ever (policy `disk`).
pub(super) async fn find(wish: &Wish, board: &Board) -> Option<Found> {
    if wish.policy == StatePolicy::Ram {
        return None;
    }
    let listener = Listener::open().and_then(readable);
    let look = async || look(wish, board).await;
    let event = async || wait_for_event(&listener).await;
    let late = || usb_disks_are_coming() || disks_are_late(Path::new("/sys"));
    let patience = patience(board, late);
    let found = search(look, event, || settled(board), patience).await;
    if found.is_some() || wish.policy != StatePolicy::Disk {
        return found;
    }
    let remedy = if wish.format { "attach a blank disk" } else { "attach it, or give skerry.role" };
    let text = format!("{}, and skerry.state=disk wants one; {remedy}", wish.no_disk());
    board.problem("state", Some(text));
    let found = search(look, event, || tokio::time::sleep(QUIET), std::future::pending()).await;
    board.problem("state", None);
    found
}

/// Looks at all disks once. That may take a while, so it is done beside the event loop.
async fn look(wish: &Wish, board: &Board) -> Option<Found> {
    let (wish, own) = (wish.clone(), board.clone());
    let looked = tokio::task::spawn_blocking(move || {
        partition::grow_all(&block::devices(), &own);
        choose(candidates(), &wish, look_at)
    });
    let found = looked.await;
    block::tell(board);
    note(board, "state disks", found.context("a fault while the disks were looked at"))?
}

fn candidates() -> Vec<Candidate> {
    let devices = block::devices();
    let partitions = block::partitions(&devices);
    let name = |device: &Device| {
        partitions
            .iter()
            .find(|partition| partition.device == *device)
            .map(|partition| partition.name.clone())
    };
    devices.iter().map(|device| Candidate { device: device.clone(), name: name(device) }).collect()
}

/// Looks again after every event: for STATE itself, which is taken at once, or anything else, which is taken when `settled`
/// comes before another event, or when `patience` ends: what still moves then has had its time.
async fn search<S: Future<Output = ()>>(
    look: impl AsyncFn() -> Option<Found>,
    event: impl AsyncFn(),
    settled: impl Fn() -> S,
    patience: impl Future<Output = ()>,
) -> Option<Found> {
    let mut patience = std::pin::pin!(patience);
    loop {
        let found = look().await;
        if found.as_ref().is_some_and(|found| found.kind == Kind::State) {
            return found;
        }
        tokio::select! {
            biased;
            () = &mut patience => return look().await,
            () = event() => {}
            () = settled(), if found.is_some() => return found,
        }
    }
}

/// Returns when disks have had their time: from when their drivers are loaded, and more of it while they are `late`.
async fn patience(board: &Board, late: impl Fn() -> bool) {
    let mut facts = board.watch();
    let _ = tokio::time::timeout(DRIVERS, facts.wait_for(|facts| facts.drivers_loaded)).await;
    tokio::time::sleep(PATIENCE).await;
    if late() {
        tokio::time::sleep(SLOW_PATIENCE - PATIENCE).await;
    }
}

/// Whether there is a storage controller without a disk that may yet have one. Disks on IDE and SATA are there with the driver, which
/// waits for them; others are looked for beside.
fn disks_are_late(sys: &Path) -> bool {
    let below = |dir: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(sys.join(dir)).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::canonicalize(entry.path()).ok()).collect()
    };
    let disks = below("class/block");
    below("bus/pci/devices").iter().any(|controller| {
        let class = fs::read_to_string(controller.join("class")).unwrap_or_default();
        class.starts_with(STORAGE)
            && !WITH_THEIR_DRIVER.iter().any(|kind| class.starts_with(kind))
            && !disks.iter().any(|disk| disk.starts_with(controller))
    })
}

/// Returns when no disk is known to be on its way: the drivers of what is there are loaded, nothing has been announced for a
/// while, and no USB disk is being waited for. An event cuts this short and it begins anew.
async fn settled(board: &Board) {
    let mut facts = board.watch();
    if facts.wait_for(|facts| facts.drivers_loaded).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(QUIET).await;
    if usb_disks_are_coming() {
        // What the scan finds comes as an event.
        std::future::pending::<()>().await;
    }
}

/// Whether there are USB disks that the kernel has not looked at yet.
pub(crate) fn usb_disks_are_coming() -> bool {
    unscanned_usb_host(Path::new("/sys/class/scsi_host"))
}

/// Whether a USB storage device has been found whose disks have not: the kernel lets it spin up first (`usb_storage.delay_use`).
fn unscanned_usb_host(class: &Path) -> bool {
    let Ok(hosts) = fs::read_dir(class) else { return false };
    hosts.flatten().filter_map(|host| fs::canonicalize(host.path().join("device")).ok()).any(|device| {
        let scanned = fs::read_dir(&device)
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_target(&entry))));
        device.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"usb")) && !scanned
    })
}

fn is_target(entry: &fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b"target")
}

async fn wait_for_event(listener: &io::Result<AsyncFd<Listener>>) {
    match listener {
        Ok(listener) => {
            if let Ok(mut guard) = listener.readable().await {
                guard.get_inner().drain();
                guard.clear_ready();
            }
        }
        Err(_) => std::future::pending().await,
    }
}

/// What is on a device, as far as STATE is concerned.
fn look_at(candidate: &Candidate) -> Kind {
    let own = candidate.clone();
    let looked = block::ask(candidate.device.disk(), move || kind_of(&own.device.node(), &own));
    looked.flatten().unwrap_or(Kind::Foreign)
}

fn kind_of(node: &Path, candidate: &Candidate) -> io::Result<Kind> {
    let ours = candidate.name.as_deref() == Some(NAME);
    if make::is_unfinished(node)? {
        return Ok(Kind::Unfinished);
    }
    match probe::content(node)? {
        Content::Ext4(label) if ours || label == NAME => return Ok(Kind::State),
        Content::Ext4(_) | Content::Erofs(_) => return Ok(Kind::Foreign),
        Content::Other => {}
    }
    // A partition with our name was made by our image, zeros at its beginning; what the medium held before may follow.
    if ours {
        return Ok(if probe::begins_blank(node)? { Kind::Blank } else { Kind::Damaged });
    }
    if candidate.device.has_partitions {
        return Ok(Kind::Foreign);
    }
    if probe::is_blank(node)? {
        return Ok(if candidate.device.part_of.is_none() { Kind::Blank } else { Kind::Foreign });
    }
    Ok(if probe::backup_label(node)?.as_deref() == Some(NAME) { Kind::Damaged } else { Kind::Foreign })
}

/// The most wanted of all candidates.
fn choose(candidates: Vec<Candidate>, wish: &Wish, look_at: impl Fn(&Candidate) -> Kind) -> Option<Found> {
    let root = Path::new(&wish.root);
    let system = candidates.iter().find(|candidate| candidate.device.node() == root);
    let system = system.map(|candidate| candidate.device.disk().to_owned());
    candidates
        .into_iter()
        .filter(|candidate| {
            let device = &candidate.device;
            !device.read_only && device.size >= SMALLEST && device.node() != root
        })
        .map(|candidate| (look_at(&candidate), candidate))
        .filter(|(kind, candidate)| match kind {
            Kind::Foreign => false,
            Kind::Blank => wish.format || candidate.name.as_deref() == Some(NAME),
            Kind::State | Kind::Damaged | Kind::Unfinished => true,
        })
        // The first of equals stays the first.
        .min_by_key(|(kind, candidate)| {
            let elsewhere = Some(candidate.device.disk()) != system.as_deref();
            (*kind, candidate.name.as_deref() != Some(NAME), elsewhere)
        })
        .map(|(kind, candidate)| Found { device: candidate.device, kind })
}

#[cfg(test)]
mod tests;
