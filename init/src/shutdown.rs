//! The orderly end: services, pods, everything else, file systems, and then the machine. One function, in order.

use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sys::dm::Control;
use tokio::time::{Instant, sleep, timeout};

use crate::cgroup;
use crate::console::say;
use crate::identity;
use crate::mountinfo;
use crate::panic;
use crate::power::{Action, Asked};
use crate::reaper::Reaper;
use crate::supervisor::Supervisor;

/// What pods get to end by themselves after SIGTERM.
const PODS_GRACE: Duration = Duration::from_secs(10);
/// What anything that still runs gets.
const REST_GRACE: Duration = Duration::from_secs(3);
/// How often the end of processes is looked for. There is no event for "this tree of groups is empty" that costs less here.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A disk that does not answer must not keep the machine from going down.
const SYNC_LIMIT: Duration = Duration::from_secs(30);
/// File systems under file systems under containers: unmounting one may make the next possible.
const UNMOUNT_PASSES: usize = 4;

/// Ends everything that runs and takes the file systems off; then there is only [`end`]. Whoever is `asked` once more does not want to
/// wait for the former.
pub(crate) async fn run(
    action: Action,
    supervisor: Option<Supervisor>,
    persistent: bool,
    reaper: &Reaper,
    mut asked: Asked,
) {
    say!("{}", word(action));
    tokio::select! {
        () = stop_everything(supervisor, reaper) => {}
        () = asked.again() => {
            say!("problem: asked once more: what still runs is killed");
            kill_rest(reaper).await;
        }
    }
    // A disk that does not answer blocks whoever asks, so another thread asks.
    let disks = tokio::task::spawn_blocking(move || let_go_of_disks(persistent));
    if timeout(SYNC_LIMIT, disks).await.is_err() {
        say!("problem: the disks took longer than {} s; going down without them", SYNC_LIMIT.as_secs());
    }
}

async fn stop_everything(supervisor: Option<Supervisor>, reaper: &Reaper) {
    if let Some(supervisor) = supervisor {
        supervisor.stop_all().await;
    }
    stop_pods(reaper).await;
    stop_rest(reaper).await;
}

/// Writes what is not written yet, then takes file systems and mapped devices off.
fn let_go_of_disks(persistent: bool) {
    // First, since it is the most that this may lose.
    nix::unistd::sync();
    if persistent {
        for result in [identity::save_clock(), identity::save_seed()] {
            if let Err(error) = result {
                say!("problem: {error:#}");
            }
        }
    }
    unmount_all();
    // What lies over the disks: encryption, logical volumes. The root's own mapping is in use and stays.
    if let Ok(control) = Control::open() {
        let _ = control.remove_unused();
    }
}

/// Ends a machine in which nothing can be relied on any more: what runs is killed, what is not written yet is written, and it starts
/// again when there was time to read why.
pub(crate) fn fall(why: &str) -> ! {
    say!("maintenance: {why}");
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let synced = std::thread::Builder::new().spawn(move || {
        nix::unistd::sync();
        let _ = sender.send(());
    });
    if synced.is_ok() {
        let _ = receiver.recv_timeout(SYNC_LIMIT);
    }
    panic::restart()
}

/// Ends the machine at once.
pub(crate) fn end(action: Action) -> ! {
    let mode = match action {
        Action::PowerOff => RebootMode::RB_POWER_OFF,
        Action::Reboot => RebootMode::RB_AUTOBOOT,
        Action::Halt => RebootMode::RB_HALT_SYSTEM,
        Action::Kexec => RebootMode::RB_KEXEC,
    };
    let _ = reboot(mode);
    if action == Action::Kexec {
        say!("problem: no kernel could be started; the firmware starts one");
        let _ = reboot(RebootMode::RB_AUTOBOOT);
    }
    say!("problem: the kernel did not end the machine; switch it off");
    loop {
        std::thread::park();
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::PowerOff => "powering off",
        Action::Reboot => "rebooting",
        Action::Halt => "halting",
        Action::Kexec => "restarting without the firmware",
    }
}

/// Asks the processes of pods to end, then ends them, then the shims that watched them.
async fn stop_pods(reaper: &Reaper) {
    for pid in cgroup::processes("/kubepods") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    wait_until(PODS_GRACE, || {
        reaper.reap_ended();
        cgroup::processes("/kubepods").is_empty()
    })
    .await;
    cgroup::kill("/kubepods");
    cgroup::kill("/podruntime");
}

async fn stop_rest(reaper: &Reaper) {
    let everyone = Pid::from_raw(-1);
    let _ = kill(everyone, Signal::SIGTERM);
    wait_until(REST_GRACE, || !reaper.reap_ended()).await;
    kill_rest(reaper).await;
}

async fn kill_rest(reaper: &Reaper) {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    wait_until(REST_GRACE, || !reaper.reap_ended()).await;
}

async fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() && Instant::now() < deadline {
        sleep(LOOK_EVERY).await;
    }
}

/// Unmounts everything that holds data; what stays busy is made read-only, so that it is clean on disk all the same.
fn unmount_all() {
    // Nothing of ours may keep a file system busy.
    let _ = std::env::set_current_dir("/");
    for pass in 1..=UNMOUNT_PASSES {
        let mounts = mountinfo::unmount_order(mountinfo::read().unwrap_or_default());
        let mut failed = false;
        for found in mounts {
            if umount2(found.target.as_str(), MntFlags::UMOUNT_NOFOLLOW).is_ok() {
                continue;
            }
            failed = true;
            if pass == UNMOUNT_PASSES && found.source.starts_with("/dev/") {
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
                if mount(None::<&str>, found.target.as_str(), None::<&str>, flags, None::<&str>).is_err() {
                    say!("problem: {} ({}) could not be unmounted", found.target, found.source);
                }
            }
        }
        if !failed {
            return;
        }
    }
}
