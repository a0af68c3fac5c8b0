//! Children: PID 1's own, and everybody's orphans.
//!
//! Every process whose parent is gone becomes PID 1's child, so one place waits for all of them. What PID 1 started itself is
//! registered before anyone can reap it (one thread, and no await between start and registration), and its end is handed
//! to whoever started it; the rest is reaped and forgotten.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Starts children and reaps; clones are handles to the same one.
#[derive(Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<HashMap<Pid, oneshot::Sender<Exit>>>>);

/// A child of ours.
pub(crate) struct Child {
    /// Its process id, which stays its own until `exit` has been taken.
    pub(crate) pid: Pid,
    reaper: Reaper,
    exit: oneshot::Receiver<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Exit {
    /// By itself, with this status.
    #[error("ended with status {0}")]
    Status(i32),
    /// By this signal.
    #[error("was killed by {0}")]
    Signal(Signal),
    /// Unseen; reaping stopped first.
    #[error("ended")]
    Unknown,
}

impl Reaper {
    /// Starts `command`.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let (sender, exit) = oneshot::channel();
        self.waiting().insert(pid, sender);
        Ok(Child { pid, reaper: self.clone(), exit })
    }

    /// Starts `command` and waits for its end.
    pub(crate) async fn run(&self, command: &mut Command) -> io::Result<Exit> {
        Ok(self.spawn(command)?.exited().await)
    }

    /// Reaps for ever. Owned by the main task; ends only on error.
    pub(crate) async fn reap_all(self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        loop {
            self.reap_ended();
            ended.recv().await;
        }
    }

    /// Takes every process that has ended. True if there are children left.
    pub(crate) fn reap_ended(&self) -> bool {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, Exit::Status(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Ok(WaitStatus::StillAlive) => return true,
                Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return false,
            };
            if let Some(owner) = self.waiting().remove(&pid) {
                // An owner that went away does not care any more.
                let _ = owner.send(exit);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Pid, oneshot::Sender<Exit>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Child {
    /// Waits for its end. Cancel safe; must not be called again once it has returned.
    pub(crate) async fn exited(&mut self) -> Exit {
        (&mut self.exit).await.unwrap_or(Exit::Unknown)
    }

    /// Sends `signal`, unless it has been reaped and its id may be someone else's.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.reaper.waiting().contains_key(&self.pid) {
            let _ = kill(self.pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_child_reaches_whoever_started_it() {
        let reaper = Reaper::default();
        let reaping = tokio::spawn(reaper.clone().reap_all());
        assert_eq!(reaper.run(Command::new("false").env_clear()).await.unwrap(), Exit::Status(1));
        let mut child = reaper.spawn(Command::new("sleep").arg("60")).unwrap();
        child.signal(Signal::SIGTERM);
        assert_eq!(child.exited().await, Exit::Signal(Signal::SIGTERM));
        reaping.abort();
    }
}
