//! Drivers for the machine's devices: what is there at boot, and what is plugged in later.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::modules;
use crate::readiness::readable;
use crate::reaper::Reaper;
use crate::supervisor::ENVIRONMENT;
use crate::sysctl;
use crate::uevent::Listener;

/// Loads drivers for what is there and the modules the image asks for, then drivers for whatever is plugged in later. A child
/// does the work: the tables are big, and loading blocks.
pub(super) async fn load_modules(board: Board, reaper: Reaper) -> Result<()> {
    let events = readable(Listener::open()?).context("failed to listen for devices")?;
    let text = run_module_child(&reaper, &[modules::COLDPLUG_ROLE]).await?;
    board.problem("drivers", text);
    let failures = sysctl::apply_bridge();
    board.problem("bridge settings", (!failures.is_empty()).then(|| failures.join("; ")));
    board.update(|facts| facts.modules_loaded = true);
    loop {
        events.readable().await.context("failed to listen for devices")?.clear_ready();
        let mut aliases = BTreeSet::new();
        while let Some(event) = events.get_ref().next() {
            aliases.extend(event.modalias.filter(|_| event.action == "add"));
        }
        if !aliases.is_empty() {
            let mut arguments = vec![modules::HOTPLUG_ROLE];
            arguments.extend(aliases.iter().map(String::as_str));
            let text = run_module_child(&reaper, &arguments).await?;
            board.problem("drivers of new devices", text);
        }
    }
}

/// Runs one of the module roles. What it prints is a problem.
async fn run_module_child(reaper: &Reaper, arguments: &[&str]) -> Result<Option<String>> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).env_clear().envs(ENVIRONMENT.iter().copied());
    command.stdin(Stdio::null()).stdout(writer);
    let mut child = reaper.spawn_tool(&mut command).context("failed to start the module loader")?;
    drop(command);
    child.exited().await;
    let mut text = String::new();
    reader.read_to_string(&mut text).context("failed to read from the module loader")?;
    Ok((!text.is_empty()).then(|| text.trim().replace('\n', "; ")))
}
