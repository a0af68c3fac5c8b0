//! The root that came inside the initramfs, for machines that start over the network and keep nothing.
//!
//! It is not verified again: it came as one file with the program that would verify it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MsFlags, mount as mount_call};

use super::{NEW_ROOT, mount_erofs};
use crate::console::say;
use crate::modules::Tables;

/// The root filesystem of a machine that runs from memory.
pub(super) const IMAGE: &str = "/root.erofs";
/// Where it goes when the initramfs cannot back a mount itself.
const RAMFS: &str = "/run/root-image";
/// How much of it is there twice while it moves.
const STEP: usize = 1 << 20;

/// Mounts [`IMAGE`]. EROFS takes a plain file as its backing (Linux 6.12) if that file's system can read pages by itself: a
/// ramfs can, a tmpfs cannot and says `ENOTBLK`. Then the image moves to a ramfs of its own.
pub(super) fn mount(tables: &mut Tables) -> Result<()> {
    if let Err(error) = tables.load_named("erofs") {
        say!("problem: {error}");
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    match mount_call(Some(IMAGE), NEW_ROOT, Some("erofs"), flags, None::<&str>) {
        Ok(()) => return Ok(()),
        Err(Errno::ENOTBLK) => {}
        Err(errno) => bail!("failed to mount {IMAGE}: {}", errno.desc()),
    }
    let moved = Path::new(RAMFS).join("root.erofs");
    fs::create_dir_all(RAMFS)
        .and_then(|()| {
            mount_call(Some("ramfs"), RAMFS, Some("ramfs"), MsFlags::empty(), None::<&str>)?;
            move_file(Path::new(IMAGE), &moved)
        })
        .with_context(|| format!("failed to move {IMAGE}"))?;
    mount_erofs(&moved)
}

/// Moves a file between file systems in memory, giving back what has moved at every step: a machine with little memory has
/// no room for two of it.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::options().read(true).write(true).open(from)?;
    let mut target = File::create(to)?;
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    loop {
        source.seek(SeekFrom::Start(at))?;
        let count = source.read(&mut buffer)?;
        if count == 0 {
            return fs::remove_file(from);
        }
        target.write_all(&buffer[..count])?;
        let (start, len) = (at as i64, count as i64);
        // What cannot be given back now is when the file goes.
        let _ = fallocate(
            &source,
            FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
            start,
            len,
        );
        at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_moves_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let content: Vec<u8> = (0..STEP * 5 / 2).map(|index| (index % 251) as u8).collect();
        fs::write(&from, &content).unwrap();
        move_file(&from, &to).unwrap();
        assert!(fs::read(&to).unwrap() == content && !from.exists());
    }
}
