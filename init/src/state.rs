//! STATE: the one place that survives a reboot, mounted at /var.
//!
//! The rule about disks: use the one labelled `STATE`, at once; else, when every disk has had time to appear and the
//! configuration is sound, make the first *blank* disk into it; never touch a disk that holds anything else. Without a disk STATE
//! is memory, which is said plainly, since then nothing survives.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use tokio::io::unix::AsyncFd;

use crate::block::{self, Device};
use crate::board::Board;
use crate::config::{Resolved, StatePolicy};
use crate::console::say;
use crate::mounts;
use crate::probe::{self, Content};
use crate::readiness::readable;
use crate::reaper::{Exit, Reaper};
use crate::supervisor::ENVIRONMENT;
use crate::uevent::Listener;

/// Where STATE is mounted.
pub(crate) const MOUNT_POINT: &str = "/var";
/// What is ours on it: machine id, seed, clock, configuration.
pub(crate) const OWN_DIR: &str = "/var/lib/skerry";
/// How memory is called where a device would stand.
pub(crate) const IN_MEMORY: &str = "memory";
/// The volume label.
const LABEL: &str = "STATE";
/// A smaller disk holds no node.
const SMALLEST: u64 = 64 << 20;
/// How long a disk may take to appear before memory is used instead.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long no device may have been announced before a blank disk is taken; a USB port needs about half of it to find a device.
const QUIET: Duration = Duration::from_millis(700);
const MKE2FS: &str = "/usr/sbin/mke2fs";
const RESIZE2FS: &str = "/usr/sbin/resize2fs";
/// Less than this is not worth growing for; a block group is 128 MiB, and the last one may be left out.
const GROW_FROM: u64 = 256 << 20;
const E2FSCK: &str = "/usr/sbin/e2fsck";
/// Everything above 2 means that errors are left, or that the check itself failed (e2fsck(8)).
const E2FSCK_REBOOT: i32 = 2;

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
    /// Whether a blank disk may be formatted.
    format: bool,
    /// The device that holds the root file system.
    root: String,
}

impl Wish {
    /// What the configuration that can be known before STATE asks for. With a mistake in it nobody can tell what was meant, so
    /// nothing is formatted, nor is a disk waited for, which would keep the mistake from being corrected. A role may still be
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

    /// The device to use of those that are there.
    fn choose(&self, devices: Vec<Device>, look_at: impl Fn(&Device) -> Kind) -> Option<Found> {
        choose(devices, &self.root, look_at)
            .filter(|found| self.format || matches!(found, Found::Labelled(_)))
    }

    /// There is no disk for STATE: which ones were looked at, since one of them may be a damaged STATE.
    fn no_disk(&self) -> String {
        let names: Vec<_> = block::devices()
            .into_iter()
            .filter(|device| device.node() != Path::new(&self.root))
            .map(|device| device.name)
            .collect();
        let names = names.join(", ");
        match (names.as_str(), self.format) {
            ("", true) => "no disk labelled STATE and no blank disk (there is no other disk)".to_owned(),
            ("", false) => "no disk labelled STATE".to_owned(),
            (names, true) => format!(
                "no disk labelled STATE and no blank disk ({names} holds something else or is too small, and is left alone)"
            ),
            (names, false) => format!(
                "no disk labelled STATE ({names} is left alone; nothing is formatted before the configuration is right)"
            ),
        }
    }
}

/// Finds, checks or makes STATE, mounts it and lays out its directories. Returns a description of where it is.
pub(crate) async fn prepare(wish: &Wish, board: &Board, reaper: &Reaper) -> Result<String> {
    let place = match find(wish, board).await {
        Some(found) => on_disk(found, board, reaper).await?,
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

/// A disk for STATE.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It is STATE already.
    Labelled(Device),
    /// It is blank.
    Blank(Device),
}

/// Looks until there is a disk, patience ends (policy `auto`), or for ever (policy `disk`).
async fn find(wish: &Wish, board: &Board) -> Option<Found> {
    if wish.policy == StatePolicy::Ram {
        return None;
    }
    let listener = Listener::open().and_then(readable);
    let look = || wish.choose(block::devices(), look_at);
    let event = async || wait_for_event(&listener).await;
    match tokio::time::timeout(PATIENCE, search(look, event, || settled(board))).await {
        Ok(found) => return Some(found),
        // What still moves now has had its time.
        Err(_) => {
            if let Some(found) = look() {
                return Some(found);
            }
        }
    }
    if wish.policy == StatePolicy::Auto {
        return None;
    }
    let remedy = if wish.format { "attach a blank disk" } else { "attach it, or give skerry.role" };
    let text = format!("{}, and skerry.state=disk wants one; {remedy}", wish.no_disk());
    board.problem("state", Some(text));
    let found = search(look, event, || tokio::time::sleep(QUIET)).await;
    board.problem("state", None);
    Some(found)
}

/// Looks again after every event: for a labelled device, which is taken at once, or a blank disk, which is taken when `settled`
/// comes before another event, because the labelled one may just be slower to appear.
async fn search<S: Future<Output = ()>>(
    look: impl Fn() -> Option<Found>,
    event: impl AsyncFn(),
    settled: impl Fn() -> S,
) -> Found {
    loop {
        match look() {
            Some(found @ Found::Labelled(_)) => return found,
            Some(blank) => tokio::select! {
                biased;
                () = event() => {}
                () = settled() => return blank,
            },
            None => event().await,
        }
    }
}

/// Returns when no disk is known to be on its way: the drivers of what is there are loaded, nothing has been announced for a
/// while, and no USB disk is being waited for. An event cuts this short and it begins anew.
async fn settled(board: &Board) {
    let mut facts = board.watch();
    if facts.wait_for(|facts| facts.modules_loaded).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(QUIET).await;
    if unscanned_usb_host(Path::new("/sys/class/scsi_host")) {
        // What the scan finds comes as an event.
        std::future::pending::<()>().await;
    }
}

/// Whether a USB storage device has been found whose disks have not: the kernel lets it spin up first (`usb_storage.delay_use`).
fn unscanned_usb_host(class: &Path) -> bool {
    let Ok(hosts) = fs::read_dir(class) else { return false };
    hosts.flatten().filter_map(|host| fs::canonicalize(host.path().join("device")).ok()).any(|device| {
        let scanned = fs::read_dir(&device)
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_target(&entry))));
        device.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"usb")) && !scanned
    })
}

fn is_target(entry: &fs::DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b"target")
}

async fn wait_for_event(listener: &io::Result<AsyncFd<Listener>>) {
    match listener {
        Ok(listener) => {
            if let Ok(mut guard) = listener.readable().await {
                guard.get_inner().drain();
                guard.clear_ready();
            }
        }
        Err(_) => std::future::pending().await,
    }
}

/// What a device is to STATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An ext4 labelled `STATE`.
    State,
    /// Nothing but zeros where anything would begin or end.
    Blank,
    /// Someone's data, or something unreadable.
    Foreign,
}

fn look_at(device: &Device) -> Kind {
    match probe::content(&device.node()) {
        Ok(Content::Ext4(label)) if label == LABEL => Kind::State,
        Ok(Content::Other) if probe::is_blank(&device.node()).unwrap_or(false) => Kind::Blank,
        _ => Kind::Foreign,
    }
}

/// A labelled device before a blank disk, the first of each. Only whole disks without partitions count as blank.
fn choose(devices: Vec<Device>, root: &str, look_at: impl Fn(&Device) -> Kind) -> Option<Found> {
    let mut blank = None;
    for device in devices {
        if device.read_only || device.size < SMALLEST || device.node() == Path::new(root) {
            continue;
        }
        match look_at(&device) {
            Kind::State => return Some(Found::Labelled(device)),
            Kind::Blank if device.part_of.is_none() && !device.has_partitions => {
                blank.get_or_insert(device);
            }
            Kind::Blank | Kind::Foreign => {}
        }
    }
    blank.map(Found::Blank)
}

async fn on_disk(found: Found, board: &Board, reaper: &Reaper) -> Result<String> {
    let device = match found {
        Found::Labelled(device) => {
            check(&device, reaper).await?;
            device
        }
        Found::Blank(device) => {
            make(&device, reaper).await?;
            device
        }
    };
    let node = device.node();
    // No access times: flash wears out. After a write error nothing more is written, so that nothing more is lost.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(&node), MOUNT_POINT, Some("ext4"), flags, Some("errors=remount-ro"))
        .map_err(io::Error::from)
        .with_context(|| format!("failed to mount STATE from {}", node.display()))?;
    grow(&device, board, reaper).await;
    Ok(node.display().to_string())
}

async fn check(device: &Device, reaper: &Reaper) -> Result<()> {
    let node = device.node().display().to_string();
    let exit = run(reaper, Command::new(E2FSCK).args(["-p", &node])).await?;
    match exit {
        Exit::Status(status) if status <= E2FSCK_REBOOT => Ok(()),
        _ => bail!(
            "the file system STATE on {node} is damaged beyond what can be repaired without a decision (e2fsck {exit}); \
             it is left alone. Repair it with e2fsck from another system, or attach a blank disk in its place"
        ),
    }
}

/// Makes `device` into STATE. The inode tables are initialised later by the kernel, which makes this a matter of a second.
async fn make(device: &Device, reaper: &Reaper) -> Result<()> {
    let node = device.node().display().to_string();
    say!("state formatting the blank disk {node} ({} MiB)", device.size >> 20);
    let options = "lazy_itable_init=1,lazy_journal_init=1";
    let mut command = Command::new(MKE2FS);
    command.args(["-q", "-t", "ext4", "-L", LABEL, "-m", "1", "-E", options, &node]);
    match run(reaper, &mut command).await? {
        Exit::Status(0) => Ok(()),
        exit => bail!("failed to make STATE on {node}: mke2fs {exit}"),
    }
}

/// Lets the mounted file system fill a disk that has become bigger. A failure costs only the room.
async fn grow(device: &Device, board: &Board, reaper: &Reaper) {
    let node = device.node();
    let Ok(Some(size)) = probe::ext4_size(&node) else { return };
    if size + GROW_FROM > device.size {
        return;
    }
    say!("state growing the file system on {} to {} MiB", node.display(), device.size >> 20);
    match run(reaper, Command::new(RESIZE2FS).arg(&node).stdout(Stdio::null())).await {
        Ok(Exit::Status(0)) => {}
        Ok(exit) => {
            board.problem("state size", Some(format!("failed to grow {}: resize2fs {exit}", node.display())))
        }
        Err(error) => board.problem("state size", Some(format!("{error:#}"))),
    }
}

async fn run(reaper: &Reaper, command: &mut Command) -> Result<Exit> {
    let program = command.get_program().to_owned();
    command.env_clear().envs(ENVIRONMENT.iter().copied()).stdin(Stdio::null());
    reaper.run(command).await.with_context(|| format!("failed to run {}", program.display()))
}

fn in_memory(wish: &Wish, board: &Board) -> Result<String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mounts::tmpfs(Path::new(MOUNT_POINT), flags, "mode=0755,size=50%")?;
    if wish.policy == StatePolicy::Auto {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::board::Facts;
    use crate::cmdline::Cmdline;
    use crate::config;

    fn disk(name: &str) -> Device {
        Device {
            name: name.to_owned(),
            part_of: None,
            has_partitions: false,
            read_only: false,
            size: SMALLEST,
        }
    }

    fn kind_by_name(device: &Device) -> Kind {
        match device.name.get(..2) {
            Some("st") => Kind::State,
            Some("bl") => Kind::Blank,
            _ => Kind::Foreign,
        }
    }

    fn chosen(devices: Vec<Device>) -> Option<Found> {
        choose(devices, "/dev/root", kind_by_name)
    }

    #[test]
    fn a_labelled_device_wins_over_a_blank_disk_that_comes_before_it() {
        let devices = vec![disk("fo1"), disk("bl1"), disk("st1"), disk("st2")];
        assert_eq!(chosen(devices), Some(Found::Labelled(disk("st1"))));
        assert_eq!(chosen(vec![disk("fo1"), disk("bl1"), disk("bl2")]), Some(Found::Blank(disk("bl1"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_labelled_device_that_comes_within_the_quiet_period_wins_over_a_blank_disk() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            chosen(if looks.get() < 3 { vec![disk("bl1")] } else { vec![disk("bl1"), disk("st1")] })
        };
        let event = async || tokio::time::sleep(QUIET / 2).await;
        let found = search(look, event, || tokio::time::sleep(QUIET)).await;
        assert_eq!((found, looks.get()), (Found::Labelled(disk("st1")), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blank_disk_waits_for_drivers_and_quiet_and_a_labelled_one_for_nothing() {
        let board = Board::new(Facts::default());
        let start = tokio::time::Instant::now();
        let silence = async || std::future::pending().await;
        let labelled = search(|| chosen(vec![disk("st1")]), silence, || settled(&board)).await;
        assert_eq!((labelled, start.elapsed()), (Found::Labelled(disk("st1")), Duration::ZERO));
        let blank = search(|| chosen(vec![disk("bl1")]), silence, || settled(&board));
        let mut blank = std::pin::pin!(blank);
        assert!(tokio::time::timeout(PATIENCE, &mut blank).await.is_err(), "drivers are still being loaded");
        board.update(|facts| facts.modules_loaded = true);
        let start = tokio::time::Instant::now();
        assert_eq!(blank.await, Found::Blank(disk("bl1")));
        assert!(start.elapsed() >= QUIET);
    }

    #[test]
    fn a_usb_host_without_targets_has_disks_to_come() {
        let dir = std::env::temp_dir().join(format!("skerry-state-{}", std::process::id()));
        let class = dir.join("class");
        for (host, path) in [("host0", "pci/ata1/host0"), ("host1", "pci/usb1/1-1/host1")] {
            fs::create_dir_all(class.join(host)).unwrap();
            fs::create_dir_all(dir.join(path)).unwrap();
            std::os::unix::fs::symlink(dir.join(path), class.join(host).join("device")).unwrap();
        }
        assert!(unscanned_usb_host(&class));
        fs::create_dir(dir.join("pci/usb1/1-1/host1/target1:0:0")).unwrap();
        assert!(!unscanned_usb_host(&class));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_is_formatted_with_a_mistake_in_the_configuration() {
        let cases = [
            ("skerry.role=server", StatePolicy::Auto, true),
            ("skerry.role=server skerry.state=disk", StatePolicy::Disk, true),
            ("skerry.role=server skerry.state=rma", StatePolicy::Auto, false),
            ("skerry.role=server skerry.state=disk skerry.ip=x", StatePolicy::Auto, false),
            ("skerry.role=server skerry.stat=ram", StatePolicy::Auto, false),
            ("skerry.state=disk", StatePolicy::Disk, false),
        ];
        for (words, policy, format) in cases {
            let wish = Wish::new(&config::load(&[], &Cmdline::parse(words)), "/dev/root".to_owned());
            assert_eq!((wish.policy, wish.format), (policy, format), "{words}");
            let blank = wish.choose(vec![disk("bl1")], kind_by_name);
            assert_eq!(blank, format.then(|| Found::Blank(disk("bl1"))), "{words}");
            let labelled = wish.choose(vec![disk("bl1"), disk("st1")], kind_by_name);
            assert_eq!(labelled, Some(Found::Labelled(disk("st1"))), "{words}");
        }
    }

    #[test]
    fn what_may_be_someones_is_never_chosen() {
        let place = block::PartOf { disk: "fo1".to_owned(), number: 1 };
        let partition = Device { part_of: Some(place), ..disk("bl1") };
        let partitioned = Device { has_partitions: true, ..disk("bl2") };
        let read_only = Device { read_only: true, ..disk("bl3") };
        let tiny = Device { size: SMALLEST - 1, ..disk("bl4") };
        assert_eq!(chosen(vec![partition, partitioned, read_only, tiny, disk("fo1")]), None);
        assert_eq!(choose(vec![disk("bl1")], "/dev/bl1", kind_by_name), None, "the root is no STATE");
    }
}
