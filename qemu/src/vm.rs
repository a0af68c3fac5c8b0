//! One running virtual machine: what it says, what is done to it, its end.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::accelerator::Accelerator;
use crate::builder::Builder;
use crate::command_line::Machine;
use crate::console::Console;
use crate::error::Error;
use crate::kubeconfig;
use crate::qmp::{Event, Qmp};

/// The guest's API server.
pub(crate) const API_PORT: u16 = 6443;

/// How long QEMU itself may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long the console's last lines may take after QEMU's end.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// What a machine that is to go off is waited for, in messages.
const POWER_OFF: &str = "power-off";

/// QEMU's reason for its end after the guest powered off.
const SHUT_DOWN: &str = "guest-shutdown";

/// How often a condition outside the machine is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A running machine. Dropping it ends QEMU at once, as a power cut would.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    control: Qmp,
    console: Console,
    started: Instant,
    accelerator: Accelerator,
    forwards: Vec<(u16, u16)>,
    kubeconfig: watch::Receiver<Option<String>>,
    /// The tasks that listen to the machine; they end with it.
    _listeners: JoinSet<()>,
    /// Sockets, and the disks that were made for this machine only.
    _scratch: TempDir,
}

/// Starts QEMU for `machine` and waits until it takes commands.
pub(crate) async fn start(
    machine: Machine,
    scratch: TempDir,
    console: Console,
    control: UnixListener,
    kubeconfig: UnixListener,
) -> Result<Vm, Error> {
    let started = Instant::now();
    let mut child = spawn(&machine)?;
    let mut listeners = JoinSet::new();
    if let Some(output) = child.stdout.take() {
        listeners.spawn(console.follow(output, ""));
    }
    if let Some(output) = child.stderr.take() {
        listeners.spawn(console.follow(output, "qemu: "));
    }
    let (found, kubeconfig_receiver) = watch::channel(None);
    listeners.spawn(kubeconfig::receive(kubeconfig, found));

    let waited_for = "QEMU's start";
    let control = tokio::select! {
        control = timeout(START_LIMIT, Qmp::accept(control, &mut listeners)) => match control {
            Ok(control) => control?,
            Err(_) => return Err(deadline(waited_for, START_LIMIT, &console)),
        },
        status = child.wait() => return Err(ended(status, None, waited_for, &console).await),
    };
    Ok(Vm {
        child,
        control,
        console,
        started,
        accelerator: machine.accelerator,
        forwards: machine.user.forwards,
        kubeconfig: kubeconfig_receiver,
        _listeners: listeners,
        _scratch: scratch,
    })
}

/// Through setpriv: when the harness is killed, the kernel kills QEMU as well. The process group keeps the terminal's
/// Ctrl-C from reaching QEMU, which would cut the guest's power.
fn spawn(machine: &Machine) -> Result<Child, Error> {
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", machine.arch.program()])
        .args(machine.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::ProgramMissing { program: "setpriv", package: "util-linux" })
        }
        other => other.map_err(Error::host("start QEMU")),
    }
}

// === impl Vm ===

impl Vm {
    /// Begins a machine from an image directory, as `image build --out` makes it, or from the image of a whole disk.
    pub fn builder(image: &Path) -> Builder {
        Builder::new(image)
    }

    /// All that the console has said.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// How the guest is executed. Under TCG everything takes 20 to 50 times as long.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// Time since QEMU was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The port on 127.0.0.1 that leads to the guest's port, if it was asked for.
    pub fn forwarded(&self, guest: u16) -> Option<u16> {
        self.forwards.iter().find(|(_, port)| *port == guest).map(|(host, _)| *host)
    }

    /// What QEMU reported of the machine's power so far, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.control.events()
    }

    // === waiting ===

    /// Waits for a console line that contains `text`; one that has come already counts.
    ///
    /// # Errors
    /// When the limit is reached or QEMU ends, with the last lines of the console. So do all other ways of waiting.
    pub async fn wait_line(&mut self, text: &str, limit: Duration) -> Result<String, Error> {
        self.wait_line_after(0, text, limit).await
    }

    /// Like [`Vm::wait_line`], for lines that come after a [`Console::mark`].
    ///
    /// # Errors
    /// As [`Vm::wait_line`].
    pub async fn wait_line_after(
        &mut self,
        mark: usize,
        text: &str,
        limit: Duration,
    ) -> Result<String, Error> {
        Ok(self.wait_any_after(mark, &[text], limit).await?.1)
    }

    /// Waits for a console line, after a [`Console::mark`], that contains one of several texts, and tells which one.
    ///
    /// # Errors
    /// As [`Vm::wait_line`].
    pub async fn wait_any_after(
        &mut self,
        mark: usize,
        texts: &[&str],
        limit: Duration,
    ) -> Result<(usize, String), Error> {
        let waited_for = format!("the console line '{}'", texts.join("' or '"));
        let console = self.console.clone();
        self.expect(&waited_for, limit, console.wait(mark, texts)).await
    }

    /// Waits until `condition` gives something. It is asked several times a second, on a thread where it may block.
    ///
    /// # Errors
    /// As [`Vm::wait_line`].
    pub async fn wait_until<T: Send + 'static>(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.expect(what, limit, ask(condition)).await
    }

    /// Waits for an event, such as `RESET`; one that has happened already counts.
    ///
    /// # Errors
    /// As [`Vm::wait_line`].
    pub async fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Event, Error> {
        let mut events = self.control.watch();
        let found = async move {
            let has = |events: &Vec<Event>| events.iter().any(|event| event.name == name);
            match events.wait_for(has).await {
                Ok(events) => events.iter().find(|event| event.name == name).cloned(),
                Err(_) => None,
            }
        };
        match self.expect(&format!("the event {name}"), limit, found).await? {
            Some(event) => Ok(event),
            // QEMU hung up: its end comes.
            None => self.expect(&format!("the event {name}"), limit, std::future::pending()).await,
        }
    }

    /// The admin kubeconfig, with the forwarded port in it. Waits until the guest hands it out, which is when its API
    /// server is ready.
    ///
    /// # Errors
    /// As [`Vm::wait_line`].
    pub async fn kubeconfig(&mut self, limit: Duration) -> Result<String, Error> {
        let mut receiver = self.kubeconfig.clone();
        let found = async move {
            match receiver.wait_for(Option::is_some).await {
                Ok(found) => found.clone().unwrap_or_default(),
                // The guest closed the port; only QEMU's end or the deadline come now.
                Err(_) => std::future::pending().await,
            }
        };
        let text = self.expect("the kubeconfig", limit, found).await?;
        let port = self.forwarded(API_PORT).unwrap_or(API_PORT);
        Ok(kubeconfig::redirect(&text, port))
    }

    /// Waits for the guest to power off. QEMU ends by other things as well, such as a kernel that panics and resets.
    ///
    /// # Errors
    /// When QEMU still runs at the limit, or has ended otherwise.
    pub async fn wait_off(&mut self, limit: Duration) -> Result<(), Error> {
        let Ok(status) = timeout(limit, self.child.wait()).await else {
            return Err(deadline(POWER_OFF, limit, &self.console));
        };
        // The last events may still be in the socket.
        let mut events = self.control.watch();
        let _ = timeout(DRAIN_LIMIT, async { while events.changed().await.is_ok() {} }).await;
        let reason = self.last_reason();
        match status {
            Ok(status) if status.success() && reason.as_deref() == Some(SHUT_DOWN) => {
                // So may the console's last lines be in the pipe.
                let _ = timeout(DRAIN_LIMIT, self.console.drained()).await;
                Ok(())
            }
            status => Err(ended(status, reason, POWER_OFF, &self.console).await),
        }
    }

    /// Why QEMU reset or shut the machine down, the last time that it did.
    fn last_reason(&self) -> Option<String> {
        self.control.events().into_iter().rev().find_map(|event| event.reason)
    }

    /// Waits for something the guest does, no longer than QEMU lives.
    async fn expect<T>(
        &mut self,
        waited_for: &str,
        limit: Duration,
        event: impl Future<Output = T>,
    ) -> Result<T, Error> {
        tokio::select! {
            // What has happened counts even if QEMU ended after it.
            biased;
            result = timeout(limit, event) => {
                result.map_err(|_| deadline(waited_for, limit, &self.console))
            }
            status = self.child.wait() => {
                Err(ended(status, self.last_reason(), waited_for, &self.console).await)
            }
        }
    }

    // === power, and what else is done to a machine ===

    /// Presses the power button and waits for the guest to power off. One that is off already stays so.
    ///
    /// # Errors
    /// When QEMU still runs at the limit, or has ended otherwise.
    pub async fn powerdown(&mut self, limit: Duration) -> Result<(), Error> {
        if self.child.try_wait().map_err(Error::host("wait for QEMU"))?.is_none() {
            self.control.execute("system_powerdown", None).await?;
        }
        self.wait_off(limit).await
    }

    /// Presses the reset button. That ends QEMU, except for a machine with [`Builder::restarts`].
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn reset(&mut self) -> Result<(), Error> {
        self.control.execute("system_reset", None).await.map(drop)
    }

    /// Ends QEMU at once and waits until it is gone, so that another machine can have its disks. What the guest had not handed to
    /// them is lost.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub async fn cut_power(&mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::host("kill QEMU"))
    }

    /// Pulls the cable of a network card, or puts it back in: [`crate::USER_NETWORK`] or [`crate::LAN_NETWORK`].
    ///
    /// # Errors
    /// When there is no such network.
    pub async fn set_link(&mut self, network: &str, up: bool) -> Result<(), Error> {
        self.control.execute("set_link", Some(json!({ "name": network, "up": up }))).await.map(drop)
    }

    /// Any command of QEMU's machine protocol.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub async fn execute(&mut self, command: &'static str, arguments: Option<Value>) -> Result<Value, Error> {
        self.control.execute(command, arguments).await
    }
}

/// Asks until there is an answer.
async fn ask<T: Send + 'static>(mut condition: impl FnMut() -> Option<T> + Send + 'static) -> T {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let look = tokio::task::spawn_blocking(move || (condition(), condition));
        match look.await {
            Ok((Some(value), _)) => return value,
            Ok((None, again)) => condition = again,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn deadline(waited_for: &str, limit: Duration, console: &Console) -> Error {
    Error::Deadline {
        name: console.speaker(),
        waited_for: waited_for.to_owned(),
        limit,
        console: console.tail(),
    }
}

async fn ended(
    status: std::io::Result<ExitStatus>,
    reason: Option<String>,
    waited_for: &str,
    console: &Console,
) -> Error {
    match status {
        Ok(status) => {
            // The last lines may still be in the pipe.
            let _ = timeout(DRAIN_LIMIT, console.drained()).await;
            Error::Ended {
                name: console.speaker(),
                status,
                reason,
                waited_for: waited_for.to_owned(),
                console: console.tail(),
            }
        }
        Err(source) => Error::Host { action: "wait for QEMU".to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        let answer = ask(move || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer.await, 3);
    }
}
