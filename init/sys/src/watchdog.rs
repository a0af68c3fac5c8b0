//! Hardware watchdogs (include/uapi/linux/watchdog.h). Pinging is a write of any byte, and disarming one of `V` before the
//! device is closed; both need no ioctl.

use std::ffi::c_int;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::ioctl::{self, Getter, Opcode, Setter, Updater, opcode};

const WDIOC_GETSUPPORT: Opcode = opcode::read::<Support>(b'W', 0);
const WDIOC_GETBOOTSTATUS: Opcode = opcode::read::<c_int>(b'W', 2);
/// Declared as a read in the kernel's header, though the kernel takes the value from there.
const WDIOC_SETOPTIONS: Opcode = opcode::read::<c_int>(b'W', 4);
const WDIOC_SETTIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);
/// `WDIOF_CARDRESET`: the watchdog caused the last reset.
const CARD_RESET: c_int = 0x20;

/// `WDIOS_DISABLECARD`.
const DISABLE_CARD: c_int = 1;

/// `struct watchdog_info`.
#[repr(C)]
struct Support {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

/// What the driver calls itself.
///
/// # Errors
/// If it is no watchdog.
pub fn identity(watchdog: impl AsFd) -> io::Result<String> {
    // SAFETY: the kernel writes one `watchdog_info`, which `Support` is, into the Getter's own memory; every bit pattern is one.
    let support = unsafe { ioctl::ioctl(watchdog, Getter::<WDIOC_GETSUPPORT, Support>::new())? };
    let len = support.identity.iter().position(|&byte| byte == 0).unwrap_or(support.identity.len());
    Ok(String::from_utf8_lossy(&support.identity[..len]).into_owned())
}

/// Whether the last reset was this watchdog's doing, as far as it can tell.
///
/// # Errors
/// If it is no watchdog.
pub fn caused_last_reset(watchdog: impl AsFd) -> io::Result<bool> {
    // SAFETY: the kernel writes one int into the Getter's own memory.
    let status = unsafe { ioctl::ioctl(watchdog, Getter::<WDIOC_GETBOOTSTATUS, c_int>::new())? };
    Ok(status & CARD_RESET != 0)
}

/// Sets the time within which a ping must come, in whole seconds, and gives back what the hardware made of it.
///
/// # Errors
/// `EINVAL` if the hardware cannot count that far, `EOPNOTSUPP` if its timeout is fixed.
pub fn set_timeout(watchdog: impl AsFd, timeout: Duration) -> io::Result<Duration> {
    let mut seconds = c_int::try_from(timeout.as_secs()).unwrap_or(c_int::MAX);
    // SAFETY: the kernel reads one int and writes it back; it lives until the call returns.
    unsafe { ioctl::ioctl(watchdog, Updater::<WDIOC_SETTIMEOUT, c_int>::new(&mut seconds))? };
    Ok(Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

/// Stops it, so that no ping is needed any more.
///
/// # Errors
/// `EBUSY` if its driver or the kernel does not let it be stopped; it goes on and must be pinged.
pub fn stop(watchdog: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel reads one int from the Setter's own memory.
    unsafe { ioctl::ioctl(watchdog, Setter::<WDIOC_SETOPTIONS, c_int>::new(DISABLE_CARD)) }
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_watchdog_is_refused() {
        let null = File::open("/dev/null").unwrap();
        assert!(identity(&null).is_err());
        assert!(caused_last_reset(&null).is_err());
        assert!(stop(&null).is_err());
        assert!(set_timeout(&null, Duration::from_secs(60)).is_err());
    }

    #[test]
    fn the_structure_has_the_kernels_size() {
        assert_eq!(size_of::<Support>(), 40);
    }
}
