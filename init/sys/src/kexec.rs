//! Loading the kernel that `reboot(RB_KEXEC)` jumps to.

use std::ffi::{CStr, c_int, c_ulong};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// `KEXEC_FILE_NO_INITRAMFS` (include/uapi/linux/kexec.h).
const NO_INITRAMFS: c_ulong = 4;

/// Reads `kernel` and `initramfs` into memory for the next kexec, which starts them with `cmdline`. Replaces what was loaded
/// before.
///
/// # Errors
/// If the kernel has no kexec, is locked down, or does not like the files.
pub fn load<I: AsFd>(kernel: impl AsFd, initramfs: Option<I>, cmdline: &CStr) -> io::Result<()> {
    let initramfs = initramfs.as_ref().map(AsFd::as_fd);
    let (fd, flags): (c_int, c_ulong) = match &initramfs {
        Some(file) => (file.as_raw_fd(), 0),
        None => (-1, NO_INITRAMFS),
    };
    let cmdline = cmdline.to_bytes_with_nul();
    let kernel = kernel.as_fd();
    // SAFETY: both descriptors are borrowed and open until the call returns; the kernel reads `cmdline.len()` bytes, the NUL
    // among them as kexec_file_load(2) asks, and keeps a copy.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            fd,
            cmdline.len() as c_ulong,
            cmdline.as_ptr(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_kernel_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(load::<&File>(&null, None, c"quiet").is_err());
    }
}
