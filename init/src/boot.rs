//! The boot sequence: both stages, in order.
//!
//! A step of the first stage that fails leaves the machine in front of a message, because there is nothing to fall back on. A
//! step of the second stage that fails becomes a problem on the console, and the boot goes on with what works.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tokio::task::{JoinSet, LocalSet};

use crate::board::{Board, Facts, since_kernel_start};
use crate::cgroup;
use crate::cmdline::Cmdline;
use crate::config::{self, Config, Resolved, Role};
use crate::console::{self, say};
use crate::etc;
use crate::handout;
use crate::identity;
use crate::modules::{self, Tables};
use crate::mounts;
use crate::network;
use crate::notify::{self, Hub};
use crate::power::{self, Action};
use crate::readiness::readable;
use crate::reaper::Reaper;
use crate::report;
use crate::root;
use crate::services;
use crate::shutdown;
use crate::state;
use crate::supervisor::{Context as ServiceContext, ENVIRONMENT, Supervisor};
use crate::switch;
use crate::sysctl;
use crate::uevent::Listener;

/// The program of the real root that takes over.
const REAL_INIT: &std::ffi::CStr = c"/sbin/init";
/// What the first stage tells the second, through its environment.
const INIT_STARTED: &str = "SKERRY_INIT_STARTED";
const ROOT_MOUNTED: &str = "SKERRY_ROOT_MOUNTED";
const ROOT_SOURCE: &str = "SKERRY_ROOT_SOURCE";
/// How long a duty that failed rests before it is tried again.
const DUTY_PAUSE: Duration = Duration::from_secs(5);

/// The first stage, in the initramfs: find the root and become its init.
pub(crate) fn initramfs() -> Result<Infallible> {
    let started = since_kernel_start();
    mounts::early()?;
    console::open();
    console::install_panic_hook();
    say!("init started at {:.1}s", started.as_secs_f64());
    modules::install_helper();
    let resolved = config::load(&[], &Cmdline::read());
    let events = Listener::open().context("failed to listen for devices")?;
    let mut tables = Tables::read();
    let source = root::mount_root(&resolved.config.root, &events, &mut tables)?;
    let mounted = since_kernel_start();
    say!("root mounted at {:.1}s from {source}", mounted.as_secs_f64());
    let environment = [
        variable(INIT_STARTED, started.as_millis())?,
        variable(ROOT_MOUNTED, mounted.as_millis())?,
        variable(ROOT_SOURCE, source)?,
    ];
    switch::into(root::NEW_ROOT, REAL_INIT, &environment)
}

/// A step that needs nothing but the kernel.
type Step = fn() -> Result<()>;

/// What the second stage does before anything can run at the same time.
const STEPS: &[(&str, Step)] = &[
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
    console::install_panic_hook();
    let board = Board::new(Facts { marks: marks_of_first_stage(), ..Facts::default() });
    for (what, step) in STEPS {
        note(&board, what, step());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .context("failed to start the event loop")?;
    let action = LocalSet::new().block_on(&runtime, machine(board));
    shutdown::end(action)
}

/// The machine's life, until nothing is left but to end it.
async fn machine(board: Board) -> Action {
    let cmdline = Cmdline::read();
    let early = config::load(&[Path::new(config::IMAGE_FILE)], &cmdline).config;
    let reaper = Reaper::default();
    let hub = Hub::default();

    let mut duties = JoinSet::new();
    duties.spawn_local(keep_doing("reaping", board.clone(), {
        let reaper = reaper.clone();
        move || reaper.clone().reap_all()
    }));
    duties.spawn_local(keep_doing("notifications", board.clone(), {
        let hub = hub.clone();
        move || hub.clone().receive_all(Path::new(notify::SOCKET))
    }));
    duties.spawn_local(keep_doing("modules", board.clone(), {
        let (board, reaper) = (board.clone(), reaper.clone());
        move || load_modules(board.clone(), reaper.clone())
    }));
    duties.spawn_local(keep_doing("kubeconfig", board.clone(), {
        let board = board.clone();
        move || handout::run(board.clone())
    }));
    duties.spawn_local(report::run(board.clone()));

    let root = std::env::var(ROOT_SOURCE).unwrap_or_default();
    let asked = power::asked();
    tokio::pin!(asked);
    let (action, supervisor, persistent) = tokio::select! {
        action = &mut asked => (action, None, false),
        up = bring_up(&board, &cmdline, &early, &root, &reaper, hub, &mut duties) => {
            let action = asked.await;
            (action, up.supervisor, up.persistent)
        }
    };
    shutdown::run(action, supervisor, persistent, &reaper).await;
    action
}

/// What came up.
struct Up {
    supervisor: Option<Supervisor>,
    persistent: bool,
}

/// STATE, identity, configuration, network, services.
async fn bring_up(
    board: &Board,
    cmdline: &Cmdline,
    early: &Config,
    root: &str,
    reaper: &Reaper,
    hub: Hub,
    duties: &mut JoinSet<()>,
) -> Up {
    let state = note(board, "state", state::prepare(early.state, root, board, reaper).await);
    if state.is_some() {
        note(board, "clock", identity::raise_clock());
        note(board, "seed", identity::stir_seed());
    }
    let files = [Path::new(config::IMAGE_FILE), Path::new(config::STATE_FILE)];
    let Resolved { config, mistakes } = config::load(&files, cmdline);
    let machine_id = note(board, "machine id", identity::machine_id()).unwrap_or_default();
    let hostname = config.hostname.clone().unwrap_or_else(|| identity::default_hostname(&machine_id));
    note(board, "host name", nix::unistd::sethostname(&hostname).context("failed to set the host name"));
    note(board, "/etc", etc::write_identity(&hostname, &machine_id));
    board.update(|facts| {
        facts.role = config.role;
        facts.hostname.clone_from(&hostname);
    });
    let services_ready = note(board, "services", etc::write_services(&hostname)).is_some();
    duties.spawn_local(keep_doing("network", board.clone(), {
        let (board, config) = (board.clone(), config.clone());
        move || network::run(config.clone(), hostname.clone(), board.clone())
    }));
    let persistent = state.as_deref().is_some_and(|place| place != state::IN_MEMORY);
    if let Some(place) = state {
        say!("state ready {place}");
        board.mark("state");
        board.update(|facts| facts.state = Some(place));
    }
    let supervisor = match config.role {
        Some(Role::Server) if mistakes.is_empty() && services_ready => {
            let context =
                ServiceContext { board: board.clone(), reaper: reaper.clone(), hub, log_level: config.log };
            Some(Supervisor::start(services::SERVER, &context))
        }
        _ => {
            enter_maintenance(board, &mistakes);
            None
        }
    };
    Up { supervisor, persistent }
}

/// Says why no service runs and what to do. The machine stays up, so that someone can read it.
fn enter_maintenance(board: &Board, mistakes: &[config::Mistake]) {
    for mistake in mistakes {
        say!("maintenance: {mistake}");
    }
    say!(
        "maintenance: no service is started; correct this and restart (Ctrl-Alt-Del or the power button). What can be set:"
    );
    for line in config::help() {
        say!("maintenance:   {line}");
    }
    board.update(|facts| {
        for mistake in mistakes {
            facts.maintenance.push(mistake.to_string());
        }
    });
}

/// Runs `work` again, after a pause, whenever it ends; it is meant to go on for ever.
async fn keep_doing<E, F>(what: &'static str, board: Board, work: impl Fn() -> F)
where
    E: Into<anyhow::Error>,
    F: Future<Output = Result<(), E>>,
{
    loop {
        if let Err(error) = work().await {
            board.problem(what, Some(format!("{what}: {:#}", error.into())));
        }
        tokio::time::sleep(DUTY_PAUSE).await;
    }
}

/// Loads drivers for what is there and the modules the image asks for, then drivers for whatever is plugged in later. A child
/// does the work: the tables are big, and loading blocks.
async fn load_modules(board: Board, reaper: Reaper) -> Result<()> {
    let events = readable(Listener::open()?).context("failed to listen for devices")?;
    run_module_child(&board, &reaper, &[modules::COLDPLUG_ROLE]).await?;
    for failure in sysctl::apply_bridge() {
        board.problem("bridge settings", Some(failure));
    }
    board.update(|facts| facts.modules_loaded = true);
    loop {
        events.readable().await.context("failed to listen for devices")?.clear_ready();
        let mut aliases = std::collections::BTreeSet::new();
        while let Some(event) = events.get_ref().next() {
            aliases.extend(event.modalias.filter(|_| event.action == "add"));
        }
        if !aliases.is_empty() {
            let mut arguments = vec![modules::HOTPLUG_ROLE];
            arguments.extend(aliases.iter().map(String::as_str));
            run_module_child(&board, &reaper, &arguments).await?;
        }
    }
}

/// Runs one of the module roles and makes a problem of what it prints.
async fn run_module_child(board: &Board, reaper: &Reaper, arguments: &[&str]) -> Result<()> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).env_clear().envs(ENVIRONMENT.iter().copied());
    command.stdin(Stdio::null()).stdout(writer);
    let mut child = reaper.spawn(&mut command).context("failed to start the module loader")?;
    drop(command);
    child.exited().await;
    let mut text = String::new();
    reader.read_to_string(&mut text).context("failed to read from the module loader")?;
    if !text.is_empty() {
        board.problem("modules", Some(text.trim().replace('\n', "; ")));
    }
    Ok(())
}

fn control_groups() -> Result<()> {
    let missing = cgroup::set_up()?;
    anyhow::ensure!(missing.is_empty(), "this kernel lacks what pods need: {}", missing.join(", "));
    Ok(())
}

fn kernel_settings() -> Result<()> {
    let failures = sysctl::apply();
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

/// Turns a failure into a problem on the console.
fn note<T>(board: &Board, what: &str, result: Result<T>) -> Option<T> {
    result.map_err(|error| board.problem(what, Some(format!("{what}: {error:#}")))).ok()
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
