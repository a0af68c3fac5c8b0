//! Making STATE, so that a power cut at any moment leaves something that the next boot can tell from a file system with data.
//!
//! mke2fs writes where and in which order it likes, so it writes into a sparse file in memory, whose few MiB of content then
//! go to the device in an order of ours:
//!
//! 1. a mark in the boot block, which belongs to no file, and zeros over the superblock;
//! 2. everything but the first block;
//! 3. the superblock;
//! 4. zeros over the mark.
//!
//! Each step is on the disk before the next begins. With the mark there is no data yet, whatever else there is; without it and
//! without a superblock nothing has happened; without it and with a superblock all is there.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{Whence, lseek64};

use crate::block::Device;
use crate::console::say;
use crate::reaper::{Exit, Reaper};
use crate::state::{NAME, run};

const MKE2FS: &str = "/usr/sbin/mke2fs";
/// Where the file system is made.
const IMAGE: &str = "/run/skerry/state.img";
/// Blocks of one size whatever the disk's, so that a disk with sectors of 4096 bytes can have it. Inode tables and journal are
/// initialised by the kernel later.
const OPTIONS: &[&str] = &[
    "-F",
    "-q",
    "-t",
    "ext4",
    "-b",
    "4096",
    "-m",
    "1",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
];
/// The mark fits into a sector, which is written whole or not at all.
const MARK: &[u8] = b"Skerry: STATE is being made here\n";
/// The boot block, the superblock, and the first block of a file system.
const BOOT_BLOCK: usize = 1024;
const FIRST_BLOCK: usize = 4096;

/// Whether STATE was being made on `device` and is not done.
pub(super) fn is_unfinished(device: &Path) -> io::Result<bool> {
    let mut head = [0; MARK.len()];
    match File::open(device)?.read_exact(&mut head) {
        Ok(()) => Ok(head == MARK),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes `device` into STATE.
pub(super) async fn make(device: &Device, reaper: &Reaper) -> Result<()> {
    let node = device.node();
    say!("state formatting {} ({} MiB)", node.display(), device.size >> 20);
    let made = make_through(Path::new(IMAGE), MKE2FS, &node, device.size, reaper).await;
    let _ = fs::remove_file(IMAGE);
    made.with_context(|| format!("failed to make STATE on {}", node.display()))
}

async fn make_through(image: &Path, mke2fs: &str, node: &Path, size: u64, reaper: &Reaper) -> Result<()> {
    File::create(image).and_then(|file| file.set_len(size)).context("failed to prepare it in memory")?;
    match run(reaper, Command::new(mke2fs).args(OPTIONS).args(["-L", NAME]).arg(image)).await? {
        Exit::Status(0) => {}
        exit => bail!("mke2fs {exit}"),
    }
    let mut from = File::open(image).context("failed to open what mke2fs made")?;
    let mut to = File::options().read(true).write(true).open(node).context("failed to open it")?;
    // The disk may be slow; the event loop must not be.
    let installed =
        tokio::task::spawn_blocking(move || install(&mut from, &mut to, |to| to.sync_all())).await;
    installed.context("the copy was interrupted")?.context("failed to write it")
}

/// Writes the file system `from` to the device `to`; see the module's text for the order.
fn install<D: Write + Seek>(
    from: &mut File,
    to: &mut D,
    mut sync: impl FnMut(&mut D) -> io::Result<()>,
) -> io::Result<()> {
    let mut first = [0; FIRST_BLOCK];
    from.seek(SeekFrom::Start(0))?;
    from.read_exact(&mut first)?;
    let mut marked = [0; FIRST_BLOCK];
    marked[..MARK.len()].copy_from_slice(MARK);
    write_at(to, 0, &marked)?;
    sync(to)?;
    copy_content(from, to, FIRST_BLOCK as u64)?;
    sync(to)?;
    write_at(to, BOOT_BLOCK as u64, &first[BOOT_BLOCK..])?;
    sync(to)?;
    write_at(to, 0, &[0; BOOT_BLOCK])?;
    sync(to)
}

/// Copies what the sparse file `from` has from `start` on, and leaves what it has not as it is.
fn copy_content(from: &mut File, to: &mut (impl Write + Seek), start: u64) -> io::Result<()> {
    let mut at = start;
    while let Some(begin) = seek_to(from, at, Whence::SeekData)? {
        let end = seek_to(from, begin, Whence::SeekHole)?.unwrap_or(begin);
        from.seek(SeekFrom::Start(begin))?;
        to.seek(SeekFrom::Start(begin))?;
        io::copy(&mut from.take(end - begin), to)?;
        at = end;
    }
    Ok(())
}

/// The next data or hole; none behind the last.
fn seek_to(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(from).map_err(io::Error::other)?;
    match lseek64(file, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn write_at(to: &mut (impl Write + Seek), at: u64, bytes: &[u8]) -> io::Result<()> {
    to.seek(SeekFrom::Start(at))?;
    to.write_all(bytes)
}

#[cfg(test)]
mod tests;
