//! A booted machine in a test: started when there is a place for it, with generous limits, and with its console shown when
//! the test fails.

use std::env;
use std::fs;
use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::thread;
use std::time::Duration;

use qemu::{Builder, Echo, READY_LINE, Vm};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Kubectl, image};

/// What a boot may take under emulation on a busy machine. Limits are for failures: no test waits for one to pass.
pub const BOOT: Duration = Duration::from_secs(420);
/// What a step may take there.
pub const STEP: Duration = Duration::from_secs(240);

/// Machines run at the same time, at most. An emulated guest keeps one core busy: with more guests than cores all of them
/// miss their deadlines, inside and outside.
const MOST_AT_ONCE: usize = 4;

/// The places for machines, of which the whole test binary has so many.
static PLACES: Semaphore = Semaphore::const_new(0);
/// How many places there are, once they are made.
static ROOM: std::sync::OnceLock<usize> = std::sync::OnceLock::new();

/// A machine of a test. It is a [`Vm`], with the waiting made short. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    vm: Vm,
    test: String,
    scratch: TempDir,
    _place: SemaphorePermit<'static>,
}

/// Begins a machine from the built image.
pub fn machine() -> Builder {
    Vm::builder(&image())
}

/// Starts a machine when there is a place for it.
///
/// # Panics
/// When it cannot be started.
pub async fn boot(builder: Builder) -> Machine {
    let place = places(1).await;
    start(builder, place).await
}

/// Starts machines that have to run together, such as the nodes of a cluster.
///
/// # Panics
/// When one cannot be started.
pub async fn boot_all(builders: Vec<Builder>) -> Vec<Machine> {
    let mut place = places(builders.len()).await;
    let mut machines = Vec::new();
    for builder in builders {
        // Machines beyond the places there are run without one: a cluster must be whole.
        let own = place.split(1).unwrap_or_else(|| place.split(0).expect("nothing can always be split off"));
        machines.push(start(builder, own).await);
    }
    machines
}

/// Waits for `count` places, or for all if there are fewer.
async fn places(count: usize) -> SemaphorePermit<'static> {
    let room = *ROOM.get_or_init(|| {
        let room = room();
        PLACES.add_permits(room);
        room
    });
    let count = u32::try_from(count.min(room)).expect("there are few places");
    PLACES.acquire_many(count).await.expect("nobody closes the places")
}

/// One machine for each core, unless `SKERRY_VMS` says otherwise.
fn room() -> usize {
    let wished = env::var("SKERRY_VMS").ok().and_then(|text| text.parse().ok());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    wished.unwrap_or_else(|| cores.min(MOST_AT_ONCE)).max(1)
}

async fn start(builder: Builder, place: SemaphorePermit<'static>) -> Machine {
    let test = thread::current().name().unwrap_or("test").to_owned();
    let echo = if env::var_os("SKERRY_VM_ECHO").is_some() { Echo::Stdout } else { Echo::Off };
    let vm = builder.echo(echo).boot().await.unwrap_or_else(|error| panic!("{error}"));
    let scratch = tempfile::tempdir().expect("there is room for a directory");
    Machine { vm, test, scratch, _place: place }
}

// === impl Machine ===

impl Machine {
    /// Waits until every service is ready and the node is Ready.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn ready(&mut self) {
        self.vm.wait_line(READY_LINE, BOOT).await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits for a console line with this text, from the machine's start on, and gives it back.
    ///
    /// # Panics
    /// When none comes.
    pub async fn line(&mut self, text: &str) -> String {
        self.line_after(0, text).await
    }

    /// The same for lines that come after a [`qemu::Console::mark`].
    ///
    /// # Panics
    /// When none comes.
    pub async fn line_after(&mut self, mark: usize, text: &str) -> String {
        self.vm.wait_line_after(mark, text, BOOT).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until `condition` gives something; it may block.
    ///
    /// # Panics
    /// When it gives nothing in time.
    pub async fn until<T: Send + 'static>(
        &mut self,
        what: &str,
        condition: impl FnMut() -> Option<T> + Send + 'static,
    ) -> T {
        self.vm.wait_until(what, STEP, condition).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// kubectl for this machine's API server, once that hands out its kubeconfig.
    ///
    /// # Panics
    /// When it does not.
    pub async fn kubectl(&mut self) -> Kubectl {
        let text = self.vm.kubeconfig(BOOT).await.unwrap_or_else(|error| panic!("{error}"));
        let path = self.scratch.path().join("kubeconfig");
        fs::write(&path, text).expect("there is room for a file");
        Kubectl::new(&path)
    }

    /// Where a forwarded port of the guest is to be found.
    ///
    /// # Panics
    /// When it is not forwarded.
    pub fn address(&self, guest: u16) -> String {
        let port = self.vm.forwarded(guest).unwrap_or_else(|| panic!("port {guest} is not forwarded"));
        format!("127.0.0.1:{port}")
    }

    /// Powers off in order.
    ///
    /// # Panics
    /// When that takes too long, or QEMU fails.
    pub async fn power_off(mut self) {
        self.vm.powerdown(STEP).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(self.vm.console().contains("skerry: powering off"), "the machine went down without a word");
    }

    /// Cuts the power.
    ///
    /// # Panics
    /// When QEMU cannot be killed.
    pub async fn cut_power(mut self) {
        self.vm.cut_power().await.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Deref for Machine {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.vm
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let seconds = self.vm.uptime().as_secs_f64();
        let mut stderr = std::io::stderr();
        // Past the capture of the test's output: it tells where a suite's minutes go. Nobody to tell is no failure.
        let _ = writeln!(stderr, "vm: {}: a machine ran for {seconds:.1} s", self.test);
        if thread::panicking() {
            let text = self.vm.console().text();
            let _ = writeln!(
                stderr,
                "--- console of a machine of {} ---\n{text}--- end of console ---",
                self.test
            );
        }
    }
}
