//! What may become of STATE while the machine runs: it has met an error and takes no more writes, or it is nearly full.
//!
//! Errors are told by the kernel (`errors_count` in sysfs, which can be polled); a mount does not show them, because ext4 refuses all
//! writing without becoming read-only in name (Linux 6.12). For room there is no event, so it is looked at once a minute.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::board::Board;
use crate::readiness::urgent;
use crate::state::MOUNT_POINT;

/// How often the room that is left is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// With less than this left for pods STATE counts as full, and no longer with twice as much.
const FULL: u64 = 32 << 20;
const SPACE_TOPIC: &str = "state space";
const ERROR_TOPIC: &str = "state error";

/// Watches the STATE on the device called `name`, for ever. Owned by the main task; ends on error.
pub(crate) async fn watch(name: String, board: Board) -> Result<()> {
    let counter = Counter::open(&counter_of(&name)).context("failed to watch STATE")?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    // What the file system remembers of earlier boots has been checked.
    let before = counter.count()?;
    loop {
        if counter.count()? > before {
            board.problem(ERROR_TOPIC, Some(error_text(&name)));
        }
        tokio::select! {
            _ = looks.tick() => look_at_space(&name, &board),
            changed = counter.changed() => changed.context("failed to watch STATE")?,
        }
    }
}

fn counter_of(name: &str) -> PathBuf {
    Path::new("/sys/fs/ext4").join(name).join("errors_count")
}

fn error_text(name: &str) -> String {
    format!(
        "the file system STATE on {name} has met an error, and nothing is written to it any more (the kernel's log says more). \
         Restart: it is checked and repaired then. If it happens again, replace the disk"
    )
}

/// Raises or clears the problem of a full STATE. A full one is no reason not to go on: who deletes something needs the machine.
pub(super) fn look_at_space(name: &str, board: &Board) {
    let Ok(space) = statvfs(MOUNT_POINT) else { return };
    let unit = space.fragment_size();
    let room = Room { free: space.blocks_available() * unit, all: space.blocks() * unit };
    let told = board.watch().borrow().problems.contains_key(SPACE_TOPIC);
    match room.change(told) {
        Some(true) => board.problem(SPACE_TOPIC, Some(room.text(name))),
        Some(false) => board.problem(SPACE_TOPIC, None),
        None => {}
    }
}

/// Bytes.
struct Room {
    free: u64,
    all: u64,
}

impl Room {
    /// Whether it has become full, or is no longer.
    fn change(&self, told: bool) -> Option<bool> {
        match told {
            false if self.free < FULL => Some(true),
            true if self.free >= 2 * FULL => Some(false),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> String {
        format!(
            "STATE on {name} is full: {} of {} MiB are free; delete pods or images, or give it a bigger disk, which it fills by itself",
            self.free >> 20,
            self.all >> 20
        )
    }
}

/// A number in sysfs that tells when it changes.
struct Counter(AsyncFd<File>);

impl Counter {
    fn open(path: &Path) -> io::Result<Self> {
        File::open(path).and_then(urgent).map(Self)
    }

    /// The number now. Reading it is what makes the kernel tell of the next change.
    fn count(&self) -> io::Result<u64> {
        let mut text = [0; 32];
        let len = self.0.get_ref().read_at(&mut text, 0)?;
        String::from_utf8_lossy(&text[..len]).trim().parse().map_err(io::Error::other)
    }

    /// Waits for a change since it was read.
    async fn changed(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_told_once_and_taken_back_when_there_is_clearly_room() {
        let change = |free, told| Room { free, all: 1 << 30 }.change(told);
        assert_eq!(change(FULL - 1, false), Some(true));
        assert_eq!(change(FULL - 1, true), None);
        assert_eq!(change(FULL, true), None);
        assert_eq!(change(FULL, false), None);
        assert_eq!(change(2 * FULL, true), Some(false));
    }
}
