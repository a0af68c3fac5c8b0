//! dm-verity under the root: every block is checked against the hash tree when it is read.
//!
//! A damaged block is an error for its reader, so that it can be told in words of ours: by the first stage when mounting or reading
//! the next stage fails, and by the second, which the kernel tells of each such block, for as long as the machine runs. A kernel
//! that panics (`panic_on_corruption`) could not do the latter. No program may go on with pages it could not read, so the machine ends
//! then. PID 1 itself is in memory by that time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use disk::verity::OnCorruption;
use sys::dm::{Control, Target};

use crate::console::say;
use crate::modules::Tables;
use crate::readiness::readable;
use crate::root::{NEW_ROOT, Pair, Stay, mount_erofs};
use crate::uevent::{Listener, Uevent};

/// The mapped device.
const NAME: &str = "root";
/// How the kernel reports a damaged block in the device's status.
const CORRUPTED: &str = "C";
/// What is called so of which the kernel's event was missed.
const SOME_BLOCK: &str = "some block";
/// What to do about a damaged root.
pub(crate) const REMEDY: &str = "Write the image again; if it happens again, replace the disk";

/// Maps `pair`, mounts the result as the root, and reads `program` through it, which is to be started next.
pub(crate) fn mount(pair: &Pair, program: &Path, modules: &mut Tables) -> Result<()> {
    // Without the first there is no control node; asking for the second finds both.
    if let Err(error) = modules.load_named("dm_verity") {
        say!("problem: {error}");
    }
    let control =
        Control::open().context("failed to reach the device mapper; is dm_mod in the initramfs?")?;
    let node = map(&control, pair).context("failed to set up dm-verity; the kernel's log says more")?;
    let checked = mount_erofs(&node).and_then(|()| read_whole(program));
    checked.map_err(|error| explain(&control, pair, error))
}

/// Waits until a block of the root that this machine runs from is found to be damaged, and tells which. For ever if the root is not
/// verified.
pub(crate) async fn damaged() -> Result<String> {
    let events = readable(Listener::open()?).context("failed to listen for devices")?;
    let is_damaged = || is_damaged(&Control::open()?);
    match is_damaged() {
        Ok(true) => return Ok(SOME_BLOCK.to_owned()),
        Ok(false) => {}
        Err(_) => {
            // Nobody would read them.
            drop(events);
            return std::future::pending().await;
        }
    }
    loop {
        events.readable().await.context("failed to listen for devices")?.clear_ready();
        while let Some(event) = events.get_ref().next() {
            match event.damaged {
                Some(block) => return Ok(name(&block)),
                // Events were lost, and it may have been among them.
                None if event == Uevent::default() && is_damaged().unwrap_or(false) => {
                    return Ok(SOME_BLOCK.to_owned());
                }
                None => {}
            }
        }
    }
}

/// What the kernel's `TYPE,NUMBER` means; the types are those of `enum verity_block_type` (drivers/md/dm-verity.h).
fn name(block: &str) -> String {
    match block.split_once(',') {
        Some(("0", number)) => format!("data block {number}"),
        Some(("1", number)) => format!("hash block {number}"),
        _ => format!("block {block}"),
    }
}

/// Makes the device and returns its node.
fn map(control: &Control, pair: &Pair) -> Result<PathBuf> {
    let minor = control.create(NAME)?;
    let superblock = &pair.tree.superblock;
    let parameters = superblock.table_line(
        &pair.data.display().to_string(),
        &pair.hashes.display().to_string(),
        &pair.hash,
        OnCorruption::Fail,
    );
    let target = Target { sectors: superblock.sectors(), kind: "verity", parameters: &parameters };
    control.load_read_only(NAME, &target)?;
    control.resume(NAME)?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn is_damaged(control: &Control) -> io::Result<bool> {
    Ok(control.status(NAME)?.starts_with(CORRUPTED))
}

/// The pages stay in memory, so starting the program reads none of them again.
fn read_whole(program: &Path) -> Result<()> {
    let path = Path::new(NEW_ROOT).join(program.strip_prefix("/").unwrap_or(program));
    File::open(&path)
        .and_then(|mut file| io::copy(&mut file, &mut io::sink()))
        .with_context(|| format!("failed to read {} of the root filesystem", program.display()))?;
    Ok(())
}

/// Tells damage from other failures.
fn explain(control: &Control, pair: &Pair, error: anyhow::Error) -> anyhow::Error {
    if !is_damaged(control).unwrap_or(false) {
        return error;
    }
    let told = anyhow!(
        "the root filesystem on {} is damaged: it does not match the root hash {} ({error:#}). {REMEDY}",
        pair.data.display(),
        pair.hash
    );
    Stay(told).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_block_has_a_name() {
        assert_eq!(name("0,4711"), "data block 4711");
        assert_eq!(name("1,3"), "hash block 3");
        assert_eq!(name("x"), "block x");
    }
}
