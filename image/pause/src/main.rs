//! The process that holds a pod's namespaces open.
//!
//! It is process 1 of the pod's sandbox: it does nothing until a signal arrives, reaps the orphans that other
//! containers leave when they share its process namespace, and ends on SIGTERM or SIGINT. It never polls, so an idle
//! pod costs no wake-ups.

use std::process::ExitCode;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Exit code when the kernel refuses to let us wait for signals.
const EXIT_NO_SIGNALS: u8 = 1;

fn main() -> ExitCode {
    // Blocked, not handled: a blocked signal reaches process 1 of a namespace as well, where one with the default
    // action would be dropped, and waiting for it needs no handler.
    let signals = SigSet::all();
    if signals.thread_block().is_err() {
        return ExitCode::from(EXIT_NO_SIGNALS);
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGTERM | Signal::SIGINT) => return ExitCode::SUCCESS,
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return ExitCode::from(EXIT_NO_SIGNALS),
        }
    }
}

/// Collects every child that has ended. One SIGCHLD can stand for many of them.
fn reap() {
    while matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG)),
        Ok(WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Stopped(..)
            | WaitStatus::Continued(..))
    ) {}
}
