//! Drivers for the machine's devices: what is there at boot, and what is plugged in later.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::board::Board;
use crate::modules;
use crate::readiness::readable;
use crate::reaper::{Exit, Reaper};
use crate::supervisor::ENVIRONMENT;
use crate::sysctl;
use crate::uevent::{Listener, Uevent};

/// Loads drivers for what is there and the modules the image asks for, then drivers for whatever is plugged in later. A child
/// does the work: the tables are big, and loading blocks.
pub(super) async fn load_modules(board: Board, reaper: Reaper) -> Result<()> {
    let events = readable(Listener::open()?).context("failed to listen for devices")?;
    load_drivers(&board, &reaper).await?;
    board.update(|facts| facts.drivers_loaded = true);
    // Disks need not wait for what only pods need.
    board.problem("modules", load(&reaper, modules::WANTED_ROLE).await?);
    let failures = sysctl::apply_bridge();
    board.problem("bridge settings", (!failures.is_empty()).then(|| failures.join("; ")));
    board.update(|facts| facts.modules_loaded = true);
    loop {
        events.readable().await.context("failed to listen for devices")?.clear_ready();
        match wanted(std::iter::from_fn(|| events.get_ref().next())) {
            Wanted::Everything => load_drivers(&board, &reaper).await?,
            Wanted::These(aliases) if aliases.is_empty() => {}
            Wanted::These(aliases) => {
                let arguments = [modules::HOTPLUG_ROLE].into_iter().chain(aliases.iter().map(String::as_str));
                let (_, text) = run_child(&reaper, &mut role(arguments)).await?;
                board.problem("drivers of new devices", text);
            }
        }
    }
}

/// What has to be loaded after some events.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Drivers for devices that call themselves so.
    These(BTreeSet<String>),
    /// Events were lost, so nobody knows.
    Everything,
}

fn wanted(events: impl Iterator<Item = Uevent>) -> Wanted {
    let (mut aliases, mut lost) = (BTreeSet::new(), false);
    for event in events {
        lost |= event == Uevent::default();
        aliases.extend(event.modalias.filter(|_| event.action == "add"));
    }
    if lost { Wanted::Everything } else { Wanted::These(aliases) }
}

/// Loads drivers for all that is there.
async fn load_drivers(board: &Board, reaper: &Reaper) -> Result<()> {
    board.problem("drivers", load(reaper, modules::COLDPLUG_ROLE).await?);
    Ok(())
}

/// Runs a loader, and says what it could not load. One that crashes gets a second chance: what it had loaded is no work any more.
async fn load(reaper: &Reaper, what: &'static str) -> Result<Option<String>> {
    let command = || role([what].into_iter());
    let (exit, text) = run_child(reaper, &mut command()).await?;
    if exit == Exit::Status(0) { Ok(text) } else { Ok(run_child(reaper, &mut command()).await?.1) }
}

fn role<'a>(arguments: impl Iterator<Item = &'a str>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments);
    command
}

/// Runs one of the module roles. What it prints is a problem, and so is its end if it did not get to its own.
async fn run_child(reaper: &Reaper, command: &mut Command) -> Result<(Exit, Option<String>)> {
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    command.env_clear().envs(ENVIRONMENT.iter().copied()).stdin(Stdio::null()).stdout(writer);
    let mut child = reaper.spawn_tool(command).context("failed to start the module loader")?;
    // The last writer but the child's.
    command.stdout(Stdio::null());
    let mut text = Vec::new();
    // While it runs: it would wait for ever with more to say than a pipe holds.
    let (exit, read) = tokio::join!(child.exited(), reader.read_to_end(&mut text));
    read.context("failed to read from the module loader")?;
    let mut problems: Vec<_> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    // Status 1 is that of a loader that has told what it could not load.
    if !matches!(exit, Exit::Status(0 | 1)) {
        problems.push(format!("the module loader {exit}"));
    }
    Ok((exit, (!problems.is_empty()).then(|| problems.join("; "))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lost_events_mean_that_everything_is_looked_at_again() {
        let event = |action: &str, alias: &str| Uevent {
            action: action.to_owned(),
            modalias: Some(alias.to_owned()),
            ..Uevent::default()
        };
        let (here, gone) = (event("add", "usb:a"), event("remove", "usb:b"));
        let these = wanted([here.clone(), gone.clone(), here.clone()].into_iter());
        assert_eq!(these, Wanted::These(BTreeSet::from(["usb:a".to_owned()])));
        assert_eq!(wanted([here, Uevent::default(), gone].into_iter()), Wanted::Everything);
    }

    #[test]
    fn a_loader_with_much_to_say_ends_and_one_that_crashes_is_told() {
        // What reaps all takes every child of its process, so this has one of its own.
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "machine::devices::tests::loaders"])
            .status();
        assert!(status.unwrap().success());
    }

    #[tokio::test]
    #[ignore = "started by another test, as a process of its own"]
    async fn loaders() {
        let reaper = Reaper::default();
        tokio::spawn(reaper.clone().reap_all());
        let run = async |script: &str| {
            let mut command = Command::new("/bin/sh");
            let run = run_child(&reaper, command.args(["-c", script]));
            tokio::time::timeout(Duration::from_secs(20), run).await.unwrap().unwrap()
        };
        let much =
            run("i=0; while [ $i -lt 3000 ]; do echo no module called so_and_so_$i; i=$((i+1)); done").await;
        assert!(much.0 == Exit::Status(0) && much.1.unwrap().len() > 64 << 10);
        let (_, told) = run("echo no module x; kill -9 $$").await;
        assert_eq!(told.as_deref(), Some("no module x; the module loader was killed by SIGKILL"));
        assert_eq!(run("true").await, (Exit::Status(0), None));
    }
}
