//! Keeping services alive: one task per service, a small state machine each.
//!
//! ```text
//! Waiting --needs hold--> Starting --ready--> Ready <--> Reloading
//!                            |                  |        exit: Failed --back-off--> Starting
//!                            +---- stop --------+------> Stopping --> Stopped
//! ```
//!
//! What happens between start and end of one process is in [`run`]; here is what happens around it. Only a service's main process is signalled. containerd's shims, and with them the containers, live in another control
//! group and survive its restart.

mod backoff;
mod ready;
mod run;
mod watchdog;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::backoff::Backoff;
use self::run::{Ended, Run};
use crate::board::{self, Board, Phase, since_kernel_start};
use crate::console::say;
use crate::launch;
use crate::logs;
use crate::notify::{self, Hub};
use crate::reaper::{Child, Reaper};
use crate::services::{Restart, Service, Streams, stop_order};

/// What every service starts with besides `NOTIFY_SOCKET`.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("TERM", "linux"),
    ("XDG_RUNTIME_DIR", "/run"),
    ("NO_COLOR", "1"),
];

/// The wait before a service is started again that was merely done.
const PAUSE: Duration = Duration::from_secs(1);
/// The wait for a service's end; longer than whatever its own task does about it.
const STOP_LIMIT: Duration = run::LONGEST_END.saturating_add(Duration::from_secs(30));

/// What a service task works with.
#[derive(Clone)]
pub(crate) struct Context {
    /// Where its state is shown.
    pub(crate) board: Board,
    /// Who starts its process.
    pub(crate) reaper: Reaper,
    /// Who receives its notifications.
    pub(crate) hub: Hub,
    /// The command whose further words [`launch`] says.
    pub(crate) launcher: &'static [&'static str],
}

/// This program again, in the launcher's role.
pub(crate) const LAUNCHER: &[&str] = &["/proc/self/exe", launch::ROLE];

/// The running services.
pub(crate) struct Supervisor {
    services: Vec<&'static Service>,
    stops: Vec<(&'static str, watch::Sender<bool>)>,
    tasks: JoinSet<()>,
    board: Board,
}

impl Supervisor {
    /// Takes charge of `services`; each starts as soon as what it needs holds.
    pub(crate) fn start(services: Vec<&'static Service>, context: &Context) -> Self {
        context.board.update(|facts| {
            for service in &services {
                facts.services.insert(service.name, board::Service::default());
            }
        });
        let mut tasks = JoinSet::new();
        let mut stops = Vec::new();
        for &service in &services {
            let (stop, stopped) = watch::channel(false);
            stops.push((service.name, stop));
            tasks.spawn(Keeper::new(service, context.clone(), stopped).run());
        }
        Self { services, stops, tasks, board: context.board.clone() }
    }

    /// Stops every service, each before what it needs, and returns when all have ended.
    pub(crate) async fn stop_all(mut self) {
        let mut facts = self.board.watch();
        for service in stop_order(&self.services) {
            for (_, stop) in self.stops.iter().filter(|(name, _)| *name == service.name) {
                stop.send_replace(true);
            }
            let stopped = |facts: &board::Facts| {
                facts.services.get(service.name).is_none_or(|service| service.phase == Phase::Stopped)
            };
            // The board lives as long as we do, so the wait cannot fail. It is a service's own task that sees to its end in time.
            if tokio::time::timeout(STOP_LIMIT, facts.wait_for(stopped)).await.is_err() {
                say!("problem: {} does not stop; going on without it", service.name);
            }
        }
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
    }
}

/// The task of one service.
struct Keeper {
    service: &'static Service,
    context: Context,
    stop: watch::Receiver<bool>,
    logs: JoinSet<io::Result<()>>,
}

impl Keeper {
    fn new(service: &'static Service, context: Context, stop: watch::Receiver<bool>) -> Self {
        Self { service, context, stop, logs: JoinSet::new() }
    }

    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut wanted = self.wait_for_needs().await;
        while wanted {
            wanted = match self.run_once().await {
                Ended::Stopped => break,
                Ended::Done { .. } if self.service.restart == Restart::Done => {
                    self.set_phase(Phase::Waiting);
                    self.pause(PAUSE).await
                }
                Ended::Done { healthy } => {
                    self.fail("ended with status 0".to_owned(), backoff.after(healthy)).await
                }
                Ended::Failed { reason, healthy } => self.fail(reason, backoff.after(healthy)).await,
            };
        }
        self.set_phase(Phase::Stopped);
        // Lines still in the pipe are read; a pipe that someone else holds open is given up.
        let rest = async { while self.logs.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(200), rest).await;
    }

    /// Tells why it ended and when it will be tried again, and waits until then. False if it was asked to stop before.
    async fn fail(&mut self, reason: String, retry_in: Duration) -> bool {
        logs::show_last_words(self.service.name);
        self.context.board.update_service(self.service.name, |service| {
            service.failures += 1;
            service.status = None;
            service.phase = Phase::Failed { reason, retry_at: since_kernel_start() + retry_in };
        });
        self.pause(retry_in).await
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
        match self.spawn() {
            Ok(child) => Run::new(self.service, &self.context, child).until_it_ends(&mut self.stop).await,
            Err(error) => {
                let reason = format!("could not be started: {error}");
                Ended::Failed { reason, healthy: Duration::ZERO }
            }
        }
    }

    fn spawn(&mut self) -> io::Result<Child> {
        let [program, words @ ..] = self.context.launcher else {
            return Err(io::Error::other("there is no launcher"));
        };
        let mut command = Command::new(program);
        command.args(words);
        launch::prepare(&mut command, self.service);
        self.set_environment(&mut command);
        command.stdin(Stdio::null());
        if self.service.streams == Streams::Console {
            return self.context.reaper.spawn(&mut command);
        }
        let (reader, writer) = io::pipe()?;
        // So that a program can tell that its error output is a log which also understands the journal protocol.
        let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(writer.try_clone()?)).metadata()?;
        command.env("JOURNAL_STREAM", format!("{}:{}", pipe.dev(), pipe.ino()));
        command.stdout(writer.try_clone()?).stderr(writer);
        let child = self.context.reaper.spawn(&mut command)?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        self.logs.spawn(logs::follow(self.service.name, reader, self.service.info_counts_as));
        while self.logs.try_join_next().is_some() {}
        Ok(child)
    }

    fn set_environment(&self, command: &mut Command) {
        command.env_clear().envs(ENVIRONMENT.iter().copied()).env("NOTIFY_SOCKET", notify::SOCKET);
        command.envs(self.service.environment.iter().copied());
        if let Some(variable) = self.service.hostname_variable {
            command.env(variable, &self.context.board.watch().borrow().hostname);
        }
        if let Some(time) = self.service.watchdog {
            command.env("WATCHDOG_USEC", time.as_micros().to_string());
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

#[cfg(test)]
mod tests;
