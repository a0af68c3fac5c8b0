//! What may become of STATE while the machine runs: it has met an error and takes no more writes, or it is nearly full.
//!
//! For neither is there an event: once ext4 has stopped writing, it does not wake who polls its count of errors (Linux 6.12 and 6.18),
//! and an error changes no mount. So both are looked at now and then, which costs nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use crate::board::Board;
use crate::state::MOUNT_POINT;

/// How often STATE is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// With less than this left for pods STATE counts as full, and no longer with twice as much.
const FULL: u64 = 32 << 20;
const SPACE_TOPIC: &str = "state space";
const ERROR_TOPIC: &str = "state error";

/// Watches the STATE on the device called `name`, for ever. Owned by the main task; ends on error.
pub(crate) async fn watch(name: String, board: Board) -> Result<()> {
    let counter = counter_of(&name);
    // What the file system remembers of earlier boots has been checked.
    let before = errors(&counter).context("failed to watch STATE")?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if errors(&counter).context("failed to watch STATE")? > before {
            board.problem(ERROR_TOPIC, Some(error_text(&name)));
        }
        look_at_space(&name, &board);
    }
}

/// How many errors the file system has met since it was checked.
fn errors(counter: &Path) -> io::Result<u64> {
    fs::read_to_string(counter)?.trim().parse().map_err(io::Error::other)
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
