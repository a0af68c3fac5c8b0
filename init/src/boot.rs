//! The boot sequence: both stages, in order.
//!
//! A step of the first stage that fails leaves the machine in front of a message, because there is nothing to fall back on. A
//! step of the second stage that fails becomes a problem on the console, and the boot goes on with what works.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tokio::task::LocalSet;

use crate::board::{Board, Facts, note, since_kernel_start};
use crate::cgroup;
use crate::cmdline::Cmdline;
use crate::config;
use crate::console::{self, say};
use crate::etc;
use crate::identity;
use crate::machine::Machine;
use crate::modules::{self, Tables};
use crate::mounts;
use crate::panic;
use crate::root;
use crate::shutdown;
use crate::switch;
use crate::sysctl;
use crate::uevent::Listener;

/// The program of the real root that takes over.
const REAL_INIT: &std::ffi::CStr = c"/sbin/init";
/// What the first stage tells the second, through its environment.
const INIT_STARTED: &str = "SKERRY_INIT_STARTED";
const ROOT_MOUNTED: &str = "SKERRY_ROOT_MOUNTED";
const ROOT_SOURCE: &str = "SKERRY_ROOT_SOURCE";

/// How many may wait for disks at a time. With some that do not answer there must be one left for those that do; who has nothing to do
/// ends.
const BLOCKING_THREADS: usize = 4;

/// The first stage, in the initramfs: find the root and become its init.
pub(crate) fn initramfs() -> Result<Infallible> {
    let started = since_kernel_start();
    mounts::early()?;
    console::open();
    panic::install_hook();
    say!("init started at {:.1}s", started.as_secs_f64());
    modules::install_helper();
    let cmdline = Cmdline::read();
    let resolved = config::from_cmdline(&cmdline);
    let events = Listener::open().context("failed to listen for devices")?;
    let mut tables = Tables::read();
    let program = Path::new(OsStr::from_bytes(REAL_INIT.to_bytes()));
    let root = root::mount_root(&resolved, &cmdline, &events, &mut tables, program)?;
    let mounted = since_kernel_start();
    say!("root mounted at {:.1}s from {root}", mounted.as_secs_f64());
    let environment = [
        variable(INIT_STARTED, started.as_millis())?,
        variable(ROOT_MOUNTED, mounted.as_millis())?,
        variable(ROOT_SOURCE, root.source)?,
    ];
    switch::into(root::NEW_ROOT, REAL_INIT, &environment)
}

/// A step that needs nothing but the kernel.
type Step = fn() -> Result<()>;

/// What the second stage does before anything can run at the same time.
const STEPS: &[(&str, Step)] = &[
    // What is written from here on must not be dated before the image.
    ("clock", identity::raise_clock),
    ("kernel file systems", mounts::late),
    ("control groups", control_groups),
    ("kernel settings", kernel_settings),
    ("limits", limits),
    ("/run/skerry", runtime_directory),
    ("/etc", etc::mount),
    ("Ctrl-Alt-Del", ctrl_alt_del),
];

/// The second stage, in the real root: bring the machine up, run it, and take it down.
pub(crate) fn real_root() -> Result<Infallible> {
    mounts::early()?;
    console::open();
    panic::install_hook();
    let board = Board::new(Facts { marks: marks_of_first_stage(), ..Facts::default() });
    for (what, step) in STEPS {
        note(&board, what, step());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("failed to start the event loop")?;
    let action = LocalSet::new().block_on(&runtime, Machine::new(board).live());
    shutdown::end(action)
}

fn control_groups() -> Result<()> {
    let missing = cgroup::set_up()?;
    anyhow::ensure!(missing.is_empty(), "this kernel lacks what pods need: {}", missing.join(", "));
    Ok(())
}

fn kernel_settings() -> Result<()> {
    let failures = sysctl::apply(&Cmdline::read());
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// Inherited by everything; the launcher sets the same again for services.
fn limits() -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, 1_048_576, 1_048_576).context("failed to set RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)
        .context("failed to set RLIMIT_MEMLOCK")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("failed to set RLIMIT_CORE")
}

fn runtime_directory() -> Result<()> {
    modules::install_helper();
    fs::create_dir_all("/run/skerry").context("failed to create /run/skerry")
}

fn ctrl_alt_del() -> Result<()> {
    nix::sys::reboot::set_cad_enabled(false).context("failed to take over Ctrl-Alt-Del")
}

/// What the root was mounted from; empty if the first stage did not tell.
pub(crate) fn root_source() -> String {
    std::env::var(ROOT_SOURCE).unwrap_or_default()
}

fn marks_of_first_stage() -> Vec<(&'static str, Duration)> {
    [("init", INIT_STARTED), ("root", ROOT_MOUNTED)]
        .into_iter()
        .filter_map(|(what, name)| {
            let millis = std::env::var(name).ok()?.parse().ok()?;
            Some((what, Duration::from_millis(millis)))
        })
        .collect()
}

fn variable(name: &str, value: impl std::fmt::Display) -> Result<CString> {
    CString::new(format!("{name}={value}")).with_context(|| format!("{name} holds a zero byte"))
}
