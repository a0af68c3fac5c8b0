//! `subPath`: a place inside a volume, mounted instead of the whole.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::owner::set_mode;

/// The host path of `sub` inside a volume, made as a directory when nothing is there.
///
/// The kernel resolves `sub` beneath the volume, relative symbolic links in it included, so neither the lookup nor
/// the making of directories leaves the volume. The result is a path, though, which the container runtime resolves once
/// more when it mounts it: a container that writes to the volume at that moment can put a symbolic link in its place.
/// `subPath` is therefore no barrier against a running container that writes to the same volume.
pub(crate) fn sub_path(volume: &Path, sub: &str) -> io::Result<PathBuf> {
    let outside = || io::Error::new(io::ErrorKind::PermissionDenied, "it leads out of the volume");
    let relative = Path::new(sub);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let root = openat(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mut so_far = PathBuf::new();
    let mut held = beneath(root.as_fd(), Path::new("."))?;
    for part in relative.components() {
        so_far.push(part);
        let found = match beneath(root.as_fd(), &so_far) {
            Err(Errno::NOENT) => {
                make_directory(&held, part.as_os_str())?;
                beneath(root.as_fd(), &so_far)
            }
            found => found,
        };
        held = found.map_err(|error| if error == Errno::XDEV { outside() } else { error.into() })?;
    }
    std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

fn beneath(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile and the kernel could not be sure.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
        // A dangling link, or another container of the pod made it meanwhile: the next lookup tells.
        Err(Errno::EXIST) => return Ok(()),
        result => result?,
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    set_mode(openat(parent, name, flags, Mode::empty())?.as_fd(), 0o777)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let volume = root.join("volume");
        std::fs::create_dir(&volume).unwrap();
        assert_eq!(sub_path(&volume, "a/b").unwrap(), volume.join("a/b"));
        assert!(volume.join("a/b").is_dir());
        symlink("a", volume.join("within")).unwrap();
        assert_eq!(sub_path(&volume, "within/c").unwrap(), volume.join("a/c"));
        symlink("/etc", volume.join("out")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        for escape in ["../x", "/etc", "out", "out/x", "up/x", "a/../../x"] {
            let refused = sub_path(&volume, escape).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{escape}");
        }
        assert!(!root.join("x").exists());
    }
}
