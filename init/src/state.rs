//! STATE: the one place that survives a reboot, mounted at /var.
//!
//! Which disk it is on is decided in `find`: a file system that is STATE already, at once; else, when every disk has had time
//! to appear and the configuration is sound, something blank. Never a disk that holds anything else. What is found grows with its
//! disk (`partition`), is made (`make`) or checked (`check`), and mounted. A file system that was STATE is never made anew: what
//! cannot be repaired without loss is left alone until someone decides. Without a disk STATE is memory, which is said plainly, since then
//! nothing survives.

mod check;
pub(crate) mod find;
pub(crate) mod health;
mod make;
mod partition;

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::block::{self, Device};
use crate::board::Board;
use crate::config::{Resolved, StatePolicy};
use crate::mounts;
use crate::reaper::{Exit, Reaper};
use crate::supervisor::ENVIRONMENT;

use check::Depth;
use find::{Found, Kind};

/// Where STATE is mounted.
pub(crate) const MOUNT_POINT: &str = "/var";
/// What is ours on it: machine id, seed, clock, configuration.
pub(crate) const OWN_DIR: &str = "/var/lib/skerry";
/// How memory is called where a device would stand.
pub(crate) const IN_MEMORY: &str = "memory";
/// The name of the partition, and the label of the file system.
const NAME: &str = "STATE";
/// A smaller disk holds no node.
const SMALLEST: u64 = 64 << 20;
/// Errors stop all writing, so that nothing more is lost. What is kept in reserve (1 %) belongs to nobody's user id: then pods,
/// which run as root, cannot fill it, and PID 1, containerd and k3sd, which have `CAP_SYS_RESOURCE`, can go on.
const MOUNT_OPTIONS: &str = "errors=remount-ro,resuid=65533";

/// Directories of STATE that must exist, with K3s's paths among them.
const DIRECTORIES: &[&str] = &[
    OWN_DIR,
    "/var/lib/skerry/rancher",
    "/var/lib/rancher/k3s/agent/images",
    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
    "/var/lib/rancher/k3s/server/manifests",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
    "/var/tmp",
];

/// What STATE may be put on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Where it may be.
    policy: StatePolicy,
    /// Whether a blank disk may be formatted. A blank partition with our name always may.
    format: bool,
    /// The device that holds the root file system.
    root: String,
}

impl Wish {
    /// What the configuration that can be known before STATE asks for. With a mistake in it nobody can tell what was meant, so
    /// no disk is formatted, nor is one waited for, which would keep the mistake from being corrected. A role may still be
    /// given on STATE; a blank disk gives none, so it is not formatted without one either.
    pub(crate) fn new(resolved: &Resolved, root: String) -> Self {
        let format = resolved.is_sound();
        let clear = resolved.mistakes.is_empty();
        let policy = match resolved.config.boot.state {
            StatePolicy::Disk if !clear => StatePolicy::Auto,
            policy => policy,
        };
        Self { policy, format, root }
    }

    /// There is no disk for STATE: which ones were looked at, and why not.
    fn no_disk(&self) -> String {
        let what = if self.format {
            "no disk or partition for STATE, and no blank disk"
        } else {
            "no disk or partition for STATE (nothing is formatted before the configuration is right)"
        };
        let root = block::disk_of(&self.root);
        let seen: Vec<_> = block::devices()
            .into_iter()
            .filter(|device| device.part_of.is_none())
            .map(|device| {
                let note = match () {
                    () if device.read_only => ", read-only",
                    () if Some(&device.name) == root.as_ref() => ", the system's",
                    () if device.size < SMALLEST => ", too small",
                    () => ", left alone",
                };
                format!("{}{note}", device.describe())
            })
            .collect();
        if seen.is_empty() {
            format!("{what}; there is no disk")
        } else {
            format!("{what}; seen: {}", seen.join("; "))
        }
    }
}

/// Finds, checks or makes STATE, mounts it and lays out its directories. Returns a description of where it is.
pub(crate) async fn prepare(wish: &Wish, board: &Board, reaper: &Reaper) -> Result<String> {
    let place = match find::find(wish, board).await {
        Some(found) => on_disk(found, wish, board, reaper).await?,
        None => in_memory(wish, board)?,
    };
    for dir in DIRECTORIES {
        fs::create_dir_all(dir).with_context(|| format!("failed to create {dir}"))?;
    }
    if !Path::new("/var/run").exists() {
        std::os::unix::fs::symlink("/run", "/var/run").context("failed to link /var/run")?;
    }
    Ok(place)
}

async fn on_disk(found: Found, wish: &Wish, board: &Board, reaper: &Reaper) -> Result<String> {
    let Found { device, kind } = found;
    match kind {
        Kind::Blank | Kind::Unfinished => make::make(&device, reaper).await?,
        Kind::State | Kind::Damaged => {
            let depth =
                if wish.policy == StatePolicy::Repair { Depth::Everything } else { Depth::WhatIsMarked };
            check::check(&device, depth, wish, board, reaper).await?;
        }
        Kind::Foreign => bail!("{} is not ours", device.name),
    }
    match mount_on_var(&device) {
        // A damage that nobody had noticed until now: the check takes a file system that says it is clean at its word.
        Err(Errno::EUCLEAN) => {
            check::check(&device, Depth::Everything, wish, board, reaper).await?;
            mount_on_var(&device)
        }
        mounted => mounted,
    }
    .map_err(io::Error::from)
    .with_context(|| format!("failed to mount STATE from {}", device.node().display()))?;
    check::grow(&device, board, reaper).await;
    health::look_at_space(&device.name, board);
    Ok(device.node().display().to_string())
}

fn mount_on_var(device: &Device) -> nix::Result<()> {
    // No access times: flash wears out.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(&device.node()), MOUNT_POINT, Some("ext4"), flags, Some(MOUNT_OPTIONS))
}

/// Runs one of e2fsprogs.
async fn run(reaper: &Reaper, command: &mut Command) -> Result<Exit> {
    let program = command.get_program().to_owned();
    command.env_clear().envs(ENVIRONMENT.iter().copied()).stdin(Stdio::null());
    // mke2fs would leave holes in a file where it wants zeros on the disk that the file is for.
    command.env("UNIX_IO_NOZEROOUT", "1");
    reaper.run(command).await.with_context(|| format!("failed to run {}", program.display()))
}

fn in_memory(wish: &Wish, board: &Board) -> Result<String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mounts::tmpfs(Path::new(MOUNT_POINT), flags, "mode=0755,size=50%")?;
    if wish.policy != StatePolicy::Ram {
        let remedy = if wish.format {
            "attach a blank disk and restart, or accept it with skerry.state=ram"
        } else {
            "correct the configuration and restart"
        };
        let text = format!("{}: the state is in memory and a reboot loses it; {remedy}", wish.no_disk());
        board.problem("state", Some(text));
    }
    Ok(IN_MEMORY.to_owned())
}
