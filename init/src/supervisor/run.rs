//! One run of a service: from its process's start to its end.

use std::future::pending;
use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::watchdog::Watchdog;
use super::{Context, asked_to_stop, ready};
use crate::board::Phase;
use crate::cgroup;
use crate::console::say;
use crate::launch;
use crate::notify::{Life, Message};
use crate::reaper::{Child, Exit};
use crate::services::{Leftovers, Ready, Service};

/// What a stuck service gets to write down why, after `SIGABRT`, before `SIGKILL`.
const ABORT_GRACE: Duration = Duration::from_secs(5);
/// What a killed process gets to be gone. One that waits for a disk which does not answer is not gone for minutes.
const KILL_GRACE: Duration = Duration::from_secs(3);
/// The most that a service gets for its end, however much more time it asks for.
pub(super) const LONGEST_END: Duration = Duration::from_secs(300);

/// How a run came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to.
    Stopped,
    /// By itself, with status 0.
    Done {
        /// How long it had been ready.
        healthy: Duration,
    },
    /// In another way.
    Failed {
        /// How.
        reason: String,
        /// How long it had been ready.
        healthy: Duration,
    },
}

/// A service that runs.
pub(super) struct Run<'a> {
    service: &'static Service,
    context: &'a Context,
    child: Child,
    messages: mpsc::Receiver<Message>,
    started: Instant,
    ready_at: Option<Instant>,
    start_by: Option<Instant>,
    watchdog: Watchdog,
    errno: Option<i32>,
}

/// Why a service is ended that did not ask for it.
enum Overdue {
    Start,
    Sign,
}

impl<'a> Run<'a> {
    /// A run of `service` as the process `child`.
    pub(super) fn new(service: &'static Service, context: &'a Context, child: Child) -> Self {
        let messages = context.hub.register(child.pid.as_raw(), service.cgroup);
        let started = Instant::now();
        Self {
            service,
            context,
            child,
            messages,
            started,
            ready_at: None,
            start_by: service.start_timeout.map(|time| started + time),
            watchdog: Watchdog::new(service.watchdog),
            errno: None,
        }
    }

    /// Follows the service until its process has ended, or ends it when `stop` asks for that.
    pub(super) async fn until_it_ends(mut self, stop: &mut watch::Receiver<bool>) -> Ended {
        if matches!(self.service.ready, Ready::Started) {
            self.became_ready();
        }
        let exit = loop {
            tokio::select! {
                exit = self.child.exited() => break exit,
                () = asked_to_stop(stop) => {
                    self.set_phase(Phase::Stopping);
                    self.end(Signal::SIGTERM, self.service.stop_timeout).await;
                    return Ended::Stopped;
                }
                () = ready::socket_accepts(&self.service.ready), if self.ready_at.is_none() => self.became_ready(),
                Some(message) = self.messages.recv() => {
                    if message.stuck {
                        return self.give_up(Overdue::Sign).await;
                    }
                    self.take(message);
                }
                overdue = overdue(self.start_by, self.watchdog.due()) => return self.give_up(overdue).await,
            }
        };
        self.clean_up();
        self.judge(exit)
    }

    fn judge(&self, exit: Exit) -> Ended {
        let mut reason = match exit {
            Exit::Status(0) if self.errno.is_none() => return Ended::Done { healthy: self.healthy() },
            Exit::Status(status) if status == i32::from(launch::EXIT_CANNOT_EXEC) => {
                "could not be started".to_owned()
            }
            exit => exit.to_string(),
        };
        if let Some(errno) = self.errno {
            reason += &format!(": {}", io::Error::from_raw_os_error(errno));
        }
        Ended::Failed { reason, healthy: self.healthy() }
    }

    fn healthy(&self) -> Duration {
        self.ready_at.map(|at| at.elapsed()).unwrap_or_default()
    }

    /// Takes in what the service says.
    fn take(&mut self, message: Message) {
        let now = Instant::now();
        if let Some(status) = message.status {
            self.context.board.update_service(self.service.name, |service| service.status = Some(status));
        }
        if let Some(pid) = message.main_pid {
            self.change_main_process(pid);
        }
        self.errno = message.errno.or(self.errno);
        if message.alive {
            self.watchdog.alive(now);
        }
        if let Some(every) = message.watchdog {
            self.watchdog.set(every, now);
        }
        if let Some(time) = message.extend {
            self.start_by = self.start_by.map(|by| by.max(now + time));
            self.watchdog.extend(now + time);
        }
        match message.life {
            Some(Life::Ready) if matches!(self.service.ready, Ready::Notify) => self.became_ready(),
            Some(Life::Reloading) if self.ready_at.is_some() => self.set_phase(Phase::Reloading),
            Some(Life::Stopping) => self.set_phase(Phase::Stopping),
            _ => {}
        }
    }

    fn became_ready(&mut self) {
        self.start_by = None;
        let ready_at = *self.ready_at.get_or_insert_with(Instant::now);
        self.set_phase(Phase::Ready(ready_at - self.started));
        self.context.board.mark(self.service.name);
    }

    /// Another process of the service is the main one from now on. It must be in the service's group: we will send it signals.
    fn change_main_process(&mut self, pid: i32) {
        let ours = cgroup::of(pid).is_some_and(|group| cgroup::contains(self.service.cgroup, &group));
        if pid != self.child.pid.as_raw()
            && ours
            && let Ok(child) = self.context.reaper.adopt(Pid::from_raw(pid))
        {
            self.child = child;
            self.messages = self.context.hub.register(pid, self.service.cgroup);
        }
    }

    async fn give_up(mut self, why: Overdue) -> Ended {
        let healthy = self.healthy();
        let reason = match why {
            Overdue::Start => {
                self.end(Signal::SIGTERM, self.service.stop_timeout).await;
                format!("was not ready after {:.0}s", self.started.elapsed().as_secs_f64())
            }
            Overdue::Sign => {
                self.end(Signal::SIGABRT, ABORT_GRACE).await;
                "gave no sign of life".to_owned()
            }
        };
        Ended::Failed { reason, healthy }
    }

    /// Sends `signal`, waits for the end, and makes it sure. The service can ask for more time.
    async fn end(&mut self, signal: Signal, grace: Duration) {
        let mut deadline = Instant::now() + grace;
        let last = Instant::now() + LONGEST_END;
        self.child.signal(signal);
        loop {
            tokio::select! {
                _ = self.child.exited() => break,
                Some(message) = self.messages.recv() => {
                    if let Some(time) = message.extend {
                        deadline = deadline.max(Instant::now() + time).min(last);
                    }
                    if let Some(status) = message.status {
                        self.context.board.update_service(self.service.name, |service| service.status = Some(status));
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    self.kill().await;
                    break;
                }
            }
        }
        self.clean_up();
    }

    async fn kill(&mut self) {
        self.child.signal(Signal::SIGKILL);
        if timeout(KILL_GRACE, self.child.exited()).await.is_err() {
            say!("problem: {} does not end although it was killed; it is left behind", self.service.name);
        }
    }

    fn clean_up(&self) {
        if self.service.leftovers == Leftovers::Kill {
            cgroup::kill(self.service.cgroup);
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.context.board.update_service(self.service.name, |service| service.phase = phase);
    }
}

/// Waits until the first of both has passed.
async fn overdue(start_by: Option<Instant>, sign_due: Option<Instant>) -> Overdue {
    let first = match (start_by, sign_due) {
        (Some(start), Some(sign)) => start.min(sign),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return pending().await,
    };
    tokio::time::sleep_until(first).await;
    if sign_due == Some(first) { Overdue::Sign } else { Overdue::Start }
}
