//! Signals by number: the real-time ones have no names in `nix` and `rustix`, and machine control is asked for with them
//! (systemd(1)).

use std::ffi::c_int;
use std::io;

use nix::libc;

/// Sends the signal with this number to the process `pid`.
///
/// # Errors
/// `EINVAL` for a number that is none or a `pid` that is no single process, `ESRCH` if there is none, `EPERM` if it is out of reach.
pub fn send(pid: u32, number: c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    if unsafe { libc::kill(pid, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_real_time_signal_arrives_by_its_number() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        send(child.id(), 40).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(40));
    }

    #[test]
    fn groups_and_numbers_that_are_no_signals_are_refused() {
        assert!(send(0, 15).is_err());
        assert!(send(std::process::id(), 1000).is_err());
    }
}
