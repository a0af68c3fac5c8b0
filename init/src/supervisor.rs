//! Keeping services alive: one task per service, a small state machine each.
//!
//! ```text
//! Waiting --needs hold--> Starting --ready--> Ready
//!                            |                  |        exit: Failed --back-off--> Starting
//!                            +---- stop --------+------> Stopping --> Stopped
//! ```
//!
//! Only a service's main process is signalled. containerd's shims, and with them the containers, live in another control
//! group and survive its restart.

mod backoff;
mod ready;

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::backoff::Backoff;
use crate::board::{Board, Phase};
use crate::cgroup;
use crate::config::Level;
use crate::launch;
use crate::logs::Log;
use crate::notify::{self, Hub, Message};
use crate::reaper::{Child, Exit, Reaper};
use crate::services::{Leftovers, Ready, Service, stop_order};

/// What every service starts with besides `NOTIFY_SOCKET`.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "linux"),
    ("XDG_RUNTIME_DIR", "/run"),
    ("NO_COLOR", "1"),
];

/// What a service task works with.
#[derive(Clone)]
pub(crate) struct Context {
    /// Where its state is shown.
    pub(crate) board: Board,
    /// Who starts its process.
    pub(crate) reaper: Reaper,
    /// Who receives its notifications.
    pub(crate) hub: Hub,
    /// What of its log is shown.
    pub(crate) log_level: Level,
}

/// The running services.
pub(crate) struct Supervisor {
    services: &'static [Service],
    stops: Vec<(&'static str, watch::Sender<bool>)>,
    tasks: JoinSet<()>,
    board: Board,
}

impl Supervisor {
    /// Takes charge of `services`; each starts as soon as what it needs holds.
    pub(crate) fn start(services: &'static [Service], context: &Context) -> Self {
        context.board.update(|facts| {
            for service in services {
                facts.services.insert(service.name, crate::board::Service::default());
            }
        });
        let mut tasks = JoinSet::new();
        let mut stops = Vec::new();
        for service in services {
            let (stop, stopped) = watch::channel(false);
            stops.push((service.name, stop));
            tasks.spawn(Keeper::new(service, context.clone(), stopped).run());
        }
        Self { services, stops, tasks, board: context.board.clone() }
    }

    /// Stops every service, each before what it needs, and returns when all have ended.
    pub(crate) async fn stop_all(mut self) {
        let mut facts = self.board.watch();
        for service in stop_order(self.services) {
            for (_, stop) in self.stops.iter().filter(|(name, _)| *name == service.name) {
                stop.send_replace(true);
            }
            let stopped = |facts: &crate::board::Facts| {
                facts.services.get(service.name).is_none_or(|service| service.phase == Phase::Stopped)
            };
            // The board lives as long as we do, so the wait cannot fail.
            let _ = facts.wait_for(stopped).await;
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The task of one service.
struct Keeper {
    service: &'static Service,
    context: Context,
    stop: watch::Receiver<bool>,
    log: Log,
    logs: JoinSet<io::Result<()>>,
}

/// How one run of a service came to its end.
enum Ended {
    /// It was asked to.
    Stopped,
    /// It was not; ready for this long before that.
    Failed { reason: String, healthy: Duration },
}

impl Keeper {
    fn new(service: &'static Service, context: Context, stop: watch::Receiver<bool>) -> Self {
        let log = Log::new(service, context.log_level);
        Self { service, context, stop, log, logs: JoinSet::new() }
    }

    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut wanted = self.wait_for_needs().await;
        while wanted {
            match self.run_once().await {
                Ended::Stopped => break,
                Ended::Failed { reason, healthy } => {
                    let retry_in = backoff.after(healthy);
                    self.log.show_last_words();
                    self.context.board.update_service(self.service.name, |service| {
                        service.failures += 1;
                        service.status = None;
                        service.phase = Phase::Failed { reason, retry_in };
                    });
                    wanted = self.pause(retry_in).await;
                }
            }
        }
        self.set_phase(Phase::Stopped);
        // Lines still in the pipe are read; a pipe that someone else holds open is given up.
        let rest = async { while self.logs.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(200), rest).await;
    }

    /// Waits for what the service needs. False if it was asked to stop before.
    async fn wait_for_needs(&mut self) -> bool {
        let mut facts = self.context.board.watch();
        let needs = self.service.needs;
        tokio::select! {
            held = facts.wait_for(|facts| needs.iter().all(|need| facts.holds(*need))) => held.is_ok(),
            () = asked_to_stop(&mut self.stop) => false,
        }
    }

    /// Waits for `time`. False if the service was asked to stop before.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = asked_to_stop(&mut self.stop) => false,
        }
    }

    async fn run_once(&mut self) -> Ended {
        self.set_phase(Phase::Starting);
        let started = Instant::now();
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => {
                return Ended::Failed {
                    reason: format!("could not be started: {error}"),
                    healthy: Duration::ZERO,
                };
            }
        };
        let mut messages = self.context.hub.register(child.pid.as_raw());
        let mut ready_at = None;
        let exit = loop {
            tokio::select! {
                exit = child.exited() => break exit,
                () = asked_to_stop(&mut self.stop) => {
                    self.stop_child(&mut child).await;
                    return Ended::Stopped;
                }
                () = ready::socket_accepts(&self.service.ready), if ready_at.is_none() => {
                    ready_at = Some(self.became_ready(started));
                }
                Some(message) = messages.recv() => {
                    if self.take(message) && ready_at.is_none() {
                        ready_at = Some(self.became_ready(started));
                    }
                }
            }
        };
        if self.service.leftovers == Leftovers::Kill {
            cgroup::kill(self.service.cgroup);
        }
        let reason = match exit {
            Exit::Status(status) if status == i32::from(launch::EXIT_CANNOT_EXEC) => {
                "could not be started".to_owned()
            }
            exit => exit.to_string(),
        };
        Ended::Failed { reason, healthy: ready_at.map(|at| at.elapsed()).unwrap_or_default() }
    }

    fn spawn(&mut self) -> io::Result<Child> {
        let (reader, writer) = io::pipe()?;
        let mut command = launch::command(self.service);
        set_environment(&mut command);
        if let Some(variable) = self.service.hostname_variable {
            command.env(variable, &self.context.board.watch().borrow().hostname);
        }
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = self.context.reaper.spawn(&mut command)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        self.logs.spawn(self.log.clone().follow(reader));
        while self.logs.try_join_next().is_some() {}
        Ok(child)
    }

    fn became_ready(&self, started: Instant) -> Instant {
        self.set_phase(Phase::Ready(started.elapsed()));
        self.context.board.mark(self.service.name);
        Instant::now()
    }

    /// Takes in a notification. True if it says that the service is ready, and that counts for this service.
    fn take(&self, message: Message) -> bool {
        if let Some(status) = message.status {
            self.context.board.update_service(self.service.name, |service| service.status = Some(status));
        }
        message.ready && matches!(self.service.ready, Ready::Notify)
    }

    async fn stop_child(&self, child: &mut Child) {
        self.set_phase(Phase::Stopping);
        child.signal(Signal::SIGTERM);
        if tokio::time::timeout(self.service.stop_timeout, child.exited()).await.is_err() {
            child.signal(Signal::SIGKILL);
            child.exited().await;
        }
        if self.service.leftovers == Leftovers::Kill {
            cgroup::kill(self.service.cgroup);
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.context.board.update_service(self.service.name, |service| service.phase = phase);
    }
}

/// Returns when a stop is asked for; a supervisor that is gone counts as asking.
async fn asked_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn set_environment(command: &mut Command) {
    command.env_clear().envs(ENVIRONMENT.iter().copied()).env("NOTIFY_SOCKET", notify::SOCKET);
}
