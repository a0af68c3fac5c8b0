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
use std::path::Path;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::block::{self, Device};
use crate::board::Board;
use crate::config::StatePolicy;
use crate::probe::{self, Content};
use crate::readiness::readable;
use crate::state::{NAME, SMALLEST, Wish, make, partition};
use crate::uevent::Listener;

/// How long a disk may take to appear before memory is used instead.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long no device may have been announced before a blank disk is taken; a USB port needs about half of it to find a device.
const QUIET: Duration = Duration::from_millis(700);

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
    let look = || {
        partition::grow_all(&block::devices(), board);
        choose(candidates(), wish, look_at)
    };
    let event = async || wait_for_event(&listener).await;
    match tokio::time::timeout(PATIENCE, search(look, event, || settled(board))).await {
        Ok(found) => return Some(found),
        // What still moves now has had its time.
        Err(_) => {
            if let Some(found) = look() {
                return Some(found);
            }
        }
    }
    if wish.policy != StatePolicy::Disk {
        return None;
    }
    let remedy = if wish.format { "attach a blank disk" } else { "attach it, or give skerry.role" };
    let text = format!("{}, and skerry.state=disk wants one; {remedy}", wish.no_disk());
    board.problem("state", Some(text));
    let found = search(look, event, || tokio::time::sleep(QUIET)).await;
    board.problem("state", None);
    Some(found)
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
/// comes before another event.
async fn search<S: Future<Output = ()>>(
    look: impl Fn() -> Option<Found>,
    event: impl AsyncFn(),
    settled: impl Fn() -> S,
) -> Found {
    loop {
        match look() {
            Some(found) if found.kind == Kind::State => return found,
            Some(other) => tokio::select! {
                biased;
                () = event() => {}
                () = settled() => return other,
            },
            None => event().await,
        }
    }
}

/// Returns when no disk is known to be on its way: the drivers of what is there are loaded, nothing has been announced for a
/// while, and no USB disk is being waited for. An event cuts this short and it begins anew.
async fn settled(board: &Board) {
    let mut facts = board.watch();
    if facts.wait_for(|facts| facts.modules_loaded).await.is_err() {
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
    kind_of(&candidate.device.node(), candidate).unwrap_or(Kind::Foreign)
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
