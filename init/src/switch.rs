//! From the initramfs into the real root, giving the initramfs's memory back.
//!
//! The initramfs is the kernel's rootfs, which cannot be unmounted and which pivot_root refuses; so the kernel file systems move
//! under the new root, everything in rootfs is deleted, and the new root is moved over `/`.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

const MOVED: &[&str] = &["/dev", "/proc", "/sys", "/run"];

/// Makes `new_root` the root and becomes its `program`, with `environment`.
pub(crate) fn into(new_root: &str, program: &CStr, environment: &[CString]) -> Result<Infallible> {
    for target in MOVED {
        let to = format!("{new_root}{target}");
        move_mount(target, &to)?;
    }
    let rootfs = fs::metadata("/").context("failed to look at the initramfs")?.dev();
    delete_contents(Path::new("/"), rootfs);
    std::env::set_current_dir(new_root).context("failed to enter the new root")?;
    move_mount(new_root, "/")?;
    nix::unistd::chroot(".").context("failed to chroot into the new root")?;
    std::env::set_current_dir("/").context("failed to enter the new root")?;
    nix::unistd::execve(program, &[program], environment)
        .with_context(|| format!("failed to start {} of the root filesystem", program.to_string_lossy()))
}

fn move_mount(from: &str, to: &str) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(io::Error::from)
        .with_context(|| format!("failed to move {from} to {to}"))
}

/// Deletes what is in `dir` on the file system `device`, never crossing into a mount. What cannot be deleted only costs memory.
fn delete_contents(dir: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device {
            continue;
        }
        if meta.is_dir() {
            delete_contents(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}
