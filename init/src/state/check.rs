//! Checking and growing a STATE that is there.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::block::Device;
use crate::board::Board;
use crate::config::StatePolicy;
use crate::console::say;
use crate::probe::{self, BACKUP_BLOCK};
use crate::reaper::{Exit, Reaper};
use crate::state::{Wish, run};

const E2FSCK: &str = "/usr/sbin/e2fsck";
const RESIZE2FS: &str = "/usr/sbin/resize2fs";
/// Everything above 2 means that errors are left, or that the check itself failed (e2fsck(8)); 1 and 2 that some were corrected.
const E2FSCK_REBOOT: i32 = 2;
/// Less than this is not worth growing for; a block group is 128 MiB, and the last one may be left out.
const GROW_FROM: u64 = 256 << 20;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The journal, and the rest only if the file system says that something is wrong.
    WhatIsMarked,
    /// Everything, which takes minutes on a big disk.
    Everything,
}

/// Checks the file system and repairs what can be repaired without losing anything; with `skerry.state=repair` all the rest, too.
pub(super) async fn check(
    device: &Device,
    depth: Depth,
    wish: &Wish,
    board: &Board,
    reaper: &Reaper,
) -> Result<()> {
    let node = device.node();
    match probe::ext4_size(&node) {
        Ok(Some(size)) if size > device.size => bail!(
            "the file system STATE on {} is cut short: it has {} MiB and the disk ends after {} MiB. Nothing was written to it; \
             copy it to a disk that is large enough, or attach a blank disk in its place",
            node.display(),
            size >> 20,
            device.size >> 20
        ),
        _ => {}
    }
    let place = superblock(device);
    let mut careful = vec!["-p"];
    careful.extend((depth == Depth::Everything).then_some("-f"));
    careful.extend(place);
    let exit = e2fsck(device, &careful, reaper).await?;
    if succeeded(exit) {
        if exit != Exit::Status(0) {
            say!("state the file system on {} was damaged and is repaired; nothing was lost", node.display());
        }
        return Ok(());
    }
    if wish.policy != StatePolicy::Repair {
        bail!("{}", undecided(device, exit));
    }
    say!("problem: repairing STATE on {} at any cost, as skerry.state=repair asks", node.display());
    let mut thorough = vec!["-f", "-y"];
    thorough.extend(place);
    match e2fsck(device, &thorough, reaper).await? {
        exit if succeeded(exit) => {
            let text = format!(
                "STATE on {} was damaged and is repaired; what had no name any more is in /var/lost+found. Take skerry.state=repair \
                 off the kernel command line",
                node.display()
            );
            board.problem("state repair", Some(text));
            Ok(())
        }
        exit => bail!(
            "the file system STATE on {} cannot be repaired (e2fsck {exit}); attach a blank disk in its place",
            node.display()
        ),
    }
}

/// What to do when a machine must not decide.
fn undecided(device: &Device, exit: Exit) -> String {
    let mut text = String::new();
    let node = device.node();
    let _ = write!(
        text,
        "the file system STATE on {} is damaged, and repairing it may lose data (e2fsck {exit}). Nothing was thrown away. Copy it first, \
         if what is on it matters; then restart with skerry.state=repair, or attach a blank disk in its place",
        node.display()
    );
    text
}

/// Where the superblock is: the first backup, if the primary is gone.
fn superblock(device: &Device) -> &'static [&'static str] {
    let node = device.node();
    let primary = matches!(probe::ext4_size(&node), Ok(Some(_)));
    let backup = matches!(probe::backup_label(&node), Ok(Some(_)));
    if !primary && backup { &["-b", BACKUP_BLOCK, "-B", "4096"] } else { &[] }
}

fn succeeded(exit: Exit) -> bool {
    matches!(exit, Exit::Status(status) if status <= E2FSCK_REBOOT)
}

async fn e2fsck(device: &Device, options: &[&str], reaper: &Reaper) -> Result<Exit> {
    run(reaper, Command::new(E2FSCK).args(options).arg(device.node())).await
}

/// Lets the mounted file system fill a disk that has become bigger. A failure costs only the room.
pub(super) async fn grow(device: &Device, board: &Board, reaper: &Reaper) {
    let node = device.node();
    let Ok(Some(size)) = probe::ext4_size(&node) else { return };
    if size + GROW_FROM > device.size {
        return;
    }
    say!("state growing the file system on {} to {} MiB", node.display(), device.size >> 20);
    let problem = match run(reaper, Command::new(RESIZE2FS).arg(&node).stdout(Stdio::null())).await {
        Ok(Exit::Status(0)) => return,
        Ok(exit) => format!("failed to grow {}: resize2fs {exit}", node.display()),
        Err(error) => format!("{error:#}"),
    };
    board.problem("state size", Some(problem));
}
