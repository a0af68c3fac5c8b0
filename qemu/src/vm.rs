//! One virtual machine: its making, its life, its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::accelerator::{Accelerator, PROGRAM};
use crate::command_line::{INITRAMFS, KERNEL, Machine, ROOT};
use crate::console::{Console, Echo};
use crate::error::Error;
use crate::forward::Forward;
use crate::kubeconfig;
use crate::qmp::Qmp;

/// Enough for the control plane, containerd and a few pods.
const DEFAULT_MEMORY_MIB: u32 = 1024;
const DEFAULT_CPUS: u32 = 2;

/// Size of a state disk that is made here. The file is sparse.
const STATE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The guest's API server.
const API_PORT: u16 = 6443;

/// How long QEMU itself may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long the console's last lines may take after QEMU's end.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The disk that outlives the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// A blank one, deleted with the [`Vm`].
    #[default]
    Fresh,
    /// This file; it is made, blank, if there is none.
    File(PathBuf),
    /// None: the machine keeps its state in memory.
    None,
}

/// What a machine is made of. Every method replaces a default.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    image: PathBuf,
    memory_mib: u32,
    cpus: u32,
    append: Vec<String>,
    state: State,
    forwards: Vec<Forward>,
    echo: Echo,
}

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
    /// Sockets, and the state disk if it is a fresh one.
    _scratch: TempDir,
}

// === impl Builder ===

impl Builder {
    /// Memory of the guest; 1024 MiB without this.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Processors of the guest; 2 without this.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Adds to the kernel command line. Later words win over earlier ones and over the defaults.
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(words.to_owned());
        self
    }

    /// The state disk; a fresh one without this.
    pub fn state(mut self, state: State) -> Self {
        self.state = state;
        self
    }

    /// Forwards some free port of the host's loopback address to a port of the guest. The API server's is always
    /// forwarded.
    pub fn forward(self, guest: u16) -> Self {
        self.forward_from(Forward { host: None, guest })
    }

    /// Like [`Builder::forward`], with a wish for the host's port. A later one for the same guest port replaces an
    /// earlier one.
    pub fn forward_from(mut self, forward: Forward) -> Self {
        self.forwards.retain(|other| other.guest != forward.guest);
        self.forwards.push(forward);
        self
    }

    /// Whether the console is also printed.
    pub fn echo(mut self, echo: Echo) -> Self {
        self.echo = echo;
        self
    }

    /// Starts QEMU. Returns when it runs, which is before the guest does anything.
    pub async fn boot(self) -> Result<Vm, Error> {
        for name in [KERNEL, INITRAMFS, ROOT] {
            let path = self.image.join(name);
            if !path.is_file() {
                return Err(Error::ImageFileMissing(path));
            }
        }
        let accelerator = Accelerator::detect().await?;
        let version = major_version().await?;
        // Not below the image: a socket's path may have 107 bytes only.
        let scratch = tempfile::Builder::new()
            .prefix("skerry-vm-")
            .tempdir()
            .map_err(Error::host("make a scratch directory"))?;
        let listen = |name: &str| {
            let path = scratch.path().join(name);
            let listener =
                UnixListener::bind(&path).map_err(Error::host(format!("listen on '{}'", path.display())))?;
            Ok((path, listener))
        };
        let (control_socket, control) = listen("control")?;
        let (kubeconfig_socket, kubeconfig) = listen("kubeconfig")?;
        let machine = Machine {
            accelerator,
            version,
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            state: self.state.prepare(scratch.path())?,
            append: self.append.join(" "),
            forwards: choose_ports(&self.forwards)?,
            image: self.image,
            control_socket,
            kubeconfig_socket,
        };
        start(machine, scratch, Console::new(self.echo), control, kubeconfig).await
    }
}

impl State {
    /// The disk's file, made if it is not there; nothing for a machine without one.
    fn prepare(&self, scratch: &Path) -> Result<Option<PathBuf>, Error> {
        let path = match self {
            Self::Fresh => scratch.join("state.img"),
            Self::File(path) => path.clone(),
            Self::None => return Ok(None),
        };
        if !path.exists() {
            File::create(&path)
                .and_then(|file| file.set_len(STATE_BYTES))
                .map_err(Error::host(format!("make the state disk '{}'", path.display())))?;
        }
        Ok(Some(path))
    }
}

fn choose_ports(forwards: &[Forward]) -> Result<Vec<(u16, u16)>, Error> {
    forwards
        .iter()
        .map(|forward| Ok((forward.choose().map_err(Error::host("find a free port"))?, forward.guest)))
        .collect()
}

/// `QEMU emulator version 7.2.22 (Debian ...)` is 7.
async fn major_version() -> Result<u32, Error> {
    let output = match Command::new(PROGRAM).arg("--version").output().await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::ProgramMissing(PROGRAM));
        }
        other => other.map_err(Error::host("ask QEMU for its version"))?,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split("version ").nth(1).and_then(|rest| rest.split('.').next());
    // An unknown version gets the careful flags of an old one.
    Ok(number.and_then(|number| number.parse().ok()).unwrap_or(0))
}

async fn start(
    machine: Machine,
    scratch: TempDir,
    console: Console,
    control: UnixListener,
    kubeconfig: UnixListener,
) -> Result<Vm, Error> {
    let started = Instant::now();
    // setpriv: when the harness is killed, the kernel kills QEMU as well. The process group keeps the terminal's
    // Ctrl-C from reaching QEMU, which would cut the guest's power.
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", PROGRAM])
        .args(machine.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::ProgramMissing("setpriv"));
        }
        other => other.map_err(Error::host("start QEMU"))?,
    };
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
        control = timeout(START_LIMIT, Qmp::accept(control)) => match control {
            Ok(control) => control?,
            Err(_) => return Err(deadline(waited_for, START_LIMIT, &console)),
        },
        status = child.wait() => return Err(ended(status, waited_for, &console).await),
    };
    Ok(Vm {
        child,
        control,
        console,
        started,
        accelerator: machine.accelerator,
        forwards: machine.forwards,
        kubeconfig: kubeconfig_receiver,
        _listeners: listeners,
        _scratch: scratch,
    })
}

// === impl Vm ===

impl Vm {
    /// Begins a machine from an image directory, as `image build --out` makes it.
    pub fn builder(image: &Path) -> Builder {
        Builder {
            image: image.to_owned(),
            memory_mib: DEFAULT_MEMORY_MIB,
            cpus: DEFAULT_CPUS,
            append: Vec::new(),
            state: State::default(),
            forwards: vec![Forward { host: None, guest: API_PORT }],
            echo: Echo::default(),
        }
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

    /// Waits for a console line that contains `text`; one that has come already counts.
    pub async fn wait_line(&mut self, text: &str, limit: Duration) -> Result<String, Error> {
        self.wait_line_after(0, text, limit).await
    }

    /// Like [`Vm::wait_line`], for lines that come after a [`Console::mark`].
    pub async fn wait_line_after(
        &mut self,
        mark: usize,
        text: &str,
        limit: Duration,
    ) -> Result<String, Error> {
        let waited_for = format!("the console line '{text}'");
        let console = self.console.clone();
        self.expect(&waited_for, limit, console.wait(mark, text)).await
    }

    /// The admin kubeconfig, with the forwarded port in it. Waits until the guest hands it out, which is when its API
    /// server is ready.
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

    /// Waits for QEMU to end by itself, as it does when the guest powers off.
    pub async fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        match timeout(limit, self.child.wait()).await {
            Ok(status) => status.map_err(Error::host("wait for QEMU")),
            Err(_) => Err(deadline("power-off", limit, &self.console)),
        }
    }

    /// Presses the power button and waits for the guest to power off.
    pub async fn powerdown(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        self.control.execute("system_powerdown").await?;
        self.wait_end(limit).await
    }

    /// Ends QEMU at once. What the guest had not written to its disk is gone.
    pub async fn cut_power(mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::host("kill QEMU"))
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
            status = self.child.wait() => Err(ended(status, waited_for, &self.console).await),
        }
    }
}

fn deadline(waited_for: &str, limit: Duration, console: &Console) -> Error {
    Error::Deadline { waited_for: waited_for.to_owned(), limit, console: console.tail() }
}

async fn ended(status: std::io::Result<ExitStatus>, waited_for: &str, console: &Console) -> Error {
    match status {
        Ok(status) => {
            // The last lines may still be in the pipe.
            let _ = timeout(DRAIN_LIMIT, console.drained()).await;
            Error::Ended { status, waited_for: waited_for.to_owned(), console: console.tail() }
        }
        Err(source) => Error::Host { action: "wait for QEMU".to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_image_that_is_not_built_is_named() {
        let error = Vm::builder(Path::new("/nowhere")).boot().await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/vmlinuz"), "{error}");
    }

    #[test]
    fn a_state_file_is_made_blank_and_then_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("disk.img");
        let state = State::File(path.clone());
        assert_eq!(state.prepare(scratch.path()).unwrap(), Some(path.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), STATE_BYTES);
        std::fs::write(&path, b"kept").unwrap();
        state.prepare(scratch.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    }

    #[test]
    fn one_guest_port_has_one_forward() {
        let builder = Vm::builder(Path::new("/x")).forward_from(Forward { host: Some(7), guest: API_PORT });
        assert_eq!(builder.forwards, [Forward { host: Some(7), guest: API_PORT }]);
    }
}
