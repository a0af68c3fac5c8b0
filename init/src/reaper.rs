//! Children: PID 1's own, and everybody's orphans.
//!
//! Every process whose parent is gone becomes PID 1's child, so one place waits for all of them. What PID 1 started itself is
//! registered before anyone can reap it (one thread, and no await between start and registration), and its end is handed
//! to whoever started it; the rest is reaped and forgotten.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::cgroup;
use crate::readiness::readable;

/// Starts children and reaps; clones are handles to the same one.
#[derive(Clone, Default)]
pub(crate) struct Reaper(Arc<Mutex<HashMap<Pid, oneshot::Sender<Exit>>>>);

/// A child of ours.
pub(crate) struct Child {
    /// Its process id, which stays its own until `exit` has been taken.
    pub(crate) pid: Pid,
    reaper: Reaper,
    exit: oneshot::Receiver<Exit>,
    /// Tells of the end of a process that may be someone else's child.
    adopted: Option<AsyncFd<OwnedFd>>,
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
        Ok(Child { pid, reaper: self.clone(), exit, adopted: None })
    }

    /// Starts `command`, a tool that does something for PID 1, in the group of such tools.
    pub(crate) fn spawn_tool(&self, command: &mut Command) -> io::Result<Child> {
        let child = self.spawn(command)?;
        cgroup::put(child.pid.as_raw(), cgroup::SYSTEM);
        Ok(child)
    }

    /// Starts a tool and waits for its end.
    pub(crate) async fn run(&self, command: &mut Command) -> io::Result<Exit> {
        Ok(self.spawn_tool(command)?.exited().await)
    }

    /// Takes charge of a process that someone else started. Its end is told even if someone else reaps it, but then not how it ended.
    pub(crate) fn adopt(&self, pid: Pid) -> io::Result<Child> {
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
        let handle = readable(pidfd_open(raw, PidfdFlags::NONBLOCK)?)?;
        let (sender, exit) = oneshot::channel();
        self.waiting().insert(pid, sender);
        Ok(Child { pid, reaper: self.clone(), exit, adopted: Some(handle) })
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
        let Some(handle) = &self.adopted else { return (&mut self.exit).await.unwrap_or(Exit::Unknown) };
        tokio::select! {
            biased;
            exit = &mut self.exit => return exit.unwrap_or(Exit::Unknown),
            _ = handle.readable() => {}
        }
        // Ours by now, if its parent went before it; then the status is there in a moment.
        self.reaper.reap_ended();
        self.reaper.waiting().remove(&self.pid);
        (&mut self.exit).await.unwrap_or(Exit::Unknown)
    }

    /// Sends `signal`, unless it has ended and its id may be someone else's.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(handle) = &self.adopted {
            let _ = pidfd_send_signal(handle.get_ref(), from_nix(signal));
        } else if self.reaper.waiting().contains_key(&self.pid) {
            let _ = kill(self.pid, signal);
        }
    }
}

/// Only the signals we send.
fn from_nix(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::SIGABRT => rustix::process::Signal::ABORT,
        Signal::SIGKILL => rustix::process::Signal::KILL,
        _ => rustix::process::Signal::TERM,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    // What reaps all takes every child of its process, so each of these tests has a process of its own.
    use crate::testing::alone;

    #[test]
    fn the_end_of_a_child_reaches_whoever_started_it() {
        alone("reaper::tests::ends").passes();
    }

    #[test]
    fn a_thousand_orphans_are_all_reaped() {
        alone("reaper::tests::storm").passes();
    }

    #[test]
    fn the_end_of_an_adopted_process_is_told_whoever_reaps_it() {
        alone("reaper::tests::adoption").passes();
    }

    #[tokio::test]
    #[ignore = "started by another test, as a process of its own"]
    async fn ends() {
        let reaper = Reaper::default();
        let reaping = tokio::spawn(reaper.clone().reap_all());
        assert_eq!(reaper.run(Command::new("false").env_clear()).await.unwrap(), Exit::Status(1));
        let mut child = reaper.spawn(Command::new("sleep").arg("60")).unwrap();
        child.signal(Signal::SIGTERM);
        assert_eq!(child.exited().await, Exit::Signal(Signal::SIGTERM));
        reaping.abort();
    }

    #[tokio::test]
    #[ignore = "started by another test, as a process of its own"]
    async fn storm() {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let reaper = Reaper::default();
        let reaping = tokio::spawn(reaper.clone().reap_all());
        // A pipe that all of them hold tells when the last one has ended.
        let (mut ended, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "i=0; while [ $i -lt 1000 ]; do (exec sleep 0.2) & i=$((i+1)); done"])
            .stdout(writer);
        assert_eq!(reaper.run(&mut command).await.unwrap(), Exit::Status(0));
        drop(command);
        tokio::task::spawn_blocking(move || std::io::copy(&mut ended, &mut std::io::sink()))
            .await
            .unwrap()
            .unwrap();
        // Each is a zombie or gone by now. No child at all is left once the signals have been worked off.
        let children = || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let of = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children"));
            threads
                .filter_map(|thread| of(thread).ok())
                .map(|list| list.split_whitespace().count())
                .sum::<usize>()
        };
        let none_left = async {
            while children() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), none_left).await.unwrap();
        assert!(reaper.waiting().is_empty());
        reaping.abort();
    }

    #[tokio::test]
    #[ignore = "started by another test, as a process of its own"]
    async fn adoption() {
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let reaper = Reaper::default();
        let reaping = tokio::spawn(reaper.clone().reap_all());
        // The shell's child becomes ours when the shell ends.
        let (mut out, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", "(echo $$ >&2; exec sh -c 'echo $$; exec >&-; sleep 0.3; exit 7') & :"])
            .stdout(writer);
        reaper.run(&mut command).await.unwrap();
        drop(command);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut out, &mut text).unwrap();
        let mut adopted = reaper.adopt(Pid::from_raw(text.trim().parse().unwrap())).unwrap();
        assert_eq!(adopted.exited().await, Exit::Status(7));
        // This one is reaped by its parent, not by us.
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 >&- & echo $!; exec >&-; wait; sleep 60"]);
        let (mut out, writer) = std::io::pipe().unwrap();
        let parent = reaper.spawn(command.stdout(writer)).unwrap();
        drop(command);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut out, &mut text).unwrap();
        let mut adopted = reaper.adopt(Pid::from_raw(text.trim().parse().unwrap())).unwrap();
        adopted.signal(Signal::SIGKILL);
        assert_eq!(adopted.exited().await, Exit::Unknown);
        parent.signal(Signal::SIGKILL);
        reaping.abort();
    }
}
