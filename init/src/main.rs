//! Skerry's PID 1.
//!
//! One static binary in several roles. As PID 1 it brings the machine up and keeps it: `/init` in the initramfs finds and mounts
//! the root filesystem, then `/sbin/init` there sets the machine up and supervises its two services, containerd and k3sd. The same
//! binary, started by itself or by the kernel, is the launcher that becomes a service, the module loader, and the
//! `poweroff`, `reboot` and `halt` commands.
//!
//! How to read it: [`boot`] is the sequence up to the first task, [`machine`] from there to the end, [`services`] the service table, [`config`] what can be set. Everything that is
//! known about the running machine is on the [`board`]; the console lines that programs may wait for are derived there.
//!
//! Current limits: no DHCPv6, no remote API.

mod block;
mod board;
mod boot;
mod cgroup;
mod cmdline;
mod config;
mod console;
mod containerd;
mod datagram;
mod etc;
mod figures;
mod handout;
mod identity;
mod kexec;
mod launch;
mod logs;
mod machine;
mod modules;
mod mountinfo;
mod mounts;
mod network;
mod notify;
mod panic;
mod power;
mod probe;
mod readiness;
mod reaper;
mod report;
mod root;
mod services;
mod shutdown;
mod state;
mod supervisor;
mod switch;
mod sysctl;
#[cfg(test)]
mod testing;
mod time;
mod uevent;
mod verity;
mod watchdog;

use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The name the kernel starts in an initramfs.
const INITRAMFS_NAME: &str = "/init";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let called = arguments.first().map(String::as_str).unwrap_or_default();
    if std::process::id() == 1 {
        return first_process(called);
    }
    let name = called.rsplit('/').next().unwrap_or_default();
    match (name, arguments.get(1).map(String::as_str)) {
        (modules::HOTPLUG_ROLE, _) => exit_code(modules::modprobe_role(&arguments[1..])),
        ("poweroff", _) => ask_first_process(Signal::SIGUSR2),
        ("reboot", _) => ask_first_process(Signal::SIGTERM),
        ("halt", _) => ask_first_process(Signal::SIGUSR1),
        (_, Some(launch::ROLE)) => match launch::run(&arguments[2..]) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(launch::EXIT_CANNOT_EXEC)
            }
        },
        (_, Some(logs::ROLE)) => logs::ask_role(&arguments[2..]),
        (_, Some(modules::COLDPLUG_ROLE)) => {
            modules::coldplug_role();
            ExitCode::SUCCESS
        }
        (_, Some(modules::WANTED_ROLE)) => {
            modules::wanted_role();
            ExitCode::SUCCESS
        }
        (_, Some(modules::LOAD_ROLE)) => exit_code(modules::load_role(&arguments[2..])),
        (_, Some(modules::HOTPLUG_ROLE)) => exit_code(modules::modprobe_role(&arguments[2..])),
        _ => {
            eprintln!(
                "usage: this is PID 1 of a Skerry machine; call it as poweroff, reboot or halt to end the machine, or as init log help"
            );
            ExitCode::FAILURE
        }
    }
}

/// PID 1 must never return: the kernel would panic. So a failure is shown, and the machine starts again, since a fault may be gone
/// then; or it waits for someone, if that is what a fault needs, or `panic=0` says so.
fn first_process(called: &str) -> ExitCode {
    let result = if called == INITRAMFS_NAME { boot::initramfs() } else { boot::real_root() };
    match result {
        Ok(never) => match never {},
        Err(error) => {
            // Before the console was opened there may be nowhere to say it; opening it now does no harm.
            console::open();
            console::say!("maintenance: the boot cannot go on: {error:#}");
            let _ = nix::sys::reboot::set_cad_enabled(true);
            if !error.is::<root::Stay>() {
                panic::restart();
            }
            console::say!("maintenance: restart with Ctrl-Alt-Del");
            loop {
                std::thread::park();
            }
        }
    }
}

fn ask_first_process(signal: Signal) -> ExitCode {
    match kill(Pid::from_raw(1), signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: failed to ask PID 1: {error}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(success: bool) -> ExitCode {
    if success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
