//! Whose a volume's files are (`fsGroup`). Containers may write to a volume while this runs, so every file is held by
//! a descriptor before it is changed, and no symbolic link is ever followed.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, chownat, fstat, openat};

/// Directories deeper than this are refused; each level holds a descriptor.
const MAX_DEPTH: usize = 128;

/// The group of `fsGroup`.
pub(super) fn gid(group: i64) -> io::Result<u32> {
    u32::try_from(group)
        .ok()
        .filter(|gid| *gid != u32::MAX)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Hands the files of a volume that the kubelet fills to a group: readable to it, set-group-id on directories.
pub(super) fn own_by_group(path: &Path, gid: u32) -> io::Result<()> {
    let root = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    own(&root, Gid::from_raw(gid), 0)
}

fn own(file: &OwnedFd, gid: Gid, depth: usize) -> io::Result<()> {
    let stat = fstat(file)?;
    // The empty path names what the descriptor holds, a symbolic link itself included.
    chownat(file, "", None, Some(gid), AtFlags::EMPTY_PATH)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => set_mode(file.as_fd(), stat.st_mode & 0o7777 | 0o440),
        FileType::Directory => {
            set_mode(file.as_fd(), stat.st_mode & 0o7777 | 0o2550)?;
            own_entries(file, gid, depth)
        }
        _ => Ok(()),
    }
}

fn own_entries(directory: &OwnedFd, gid: Gid, depth: usize) -> io::Result<()> {
    if depth == MAX_DEPTH {
        return Err(io::Error::other("the volume's directories are nested too deeply"));
    }
    // `Dir::read_from` would open it as the descriptor is: for its path only.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        own(&openat(directory, entry.file_name(), flags, Mode::empty())?, gid, depth + 1)?;
    }
    Ok(())
}

/// Changes the mode of what an `O_PATH` descriptor holds. Such a descriptor cannot be given to `fchmod`; its entry in
/// `/proc` leads to the very file, whatever its name stands for by now. It must not hold a symbolic link.
pub(super) fn set_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_link_out_of_the_volume_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        for path in [volume.join("inner"), outside.clone()] {
            std::fs::create_dir_all(path).unwrap();
        }
        for path in [outside.join("file"), volume.join("inner/own")] {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        std::fs::set_permissions(&outside, Permissions::from_mode(0o700)).unwrap();
        symlink(outside.join("file"), volume.join("inner/to-file")).unwrap();
        symlink(&outside, volume.join("to-directory")).unwrap();

        own_by_group(&volume, rustix::process::getegid().as_raw()).unwrap();
        assert_eq!(mode(&volume.join("inner/own")), 0o640);
        assert_eq!(mode(&volume.join("inner")) & 0o2550, 0o2550);
        assert_eq!((mode(&outside), mode(&outside.join("file"))), (0o700, 0o600));
    }
}
