//! The machine under the node: what it has, what it is, and whether something is running short.

use std::path::Path;

use crate::eviction::Thresholds;

/// Capacity and identity; does not change while the machine is up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// CPUs in thousandths.
    pub(crate) milli_cpu: i64,
    /// Bytes of memory.
    pub(crate) memory: i64,
    /// Bytes of the file system with the kubelet's root.
    pub(crate) ephemeral_storage: i64,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel_version: String,
    pub(crate) os_image: String,
    /// As Go names it.
    pub(crate) architecture: &'static str,
}

/// What is running short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pid: bool,
}

impl Machine {
    /// Looks at the machine. `root_dir` exists.
    pub(crate) fn detect(root_dir: &Path) -> Self {
        let cpus = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count().max(1);
        let storage = rustix::fs::statvfs(root_dir).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize));
        let os_release = read("/etc/os-release");
        let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Self {
            milli_cpu: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory: i64::try_from(meminfo("MemTotal:")).unwrap_or(i64::MAX),
            ephemeral_storage: i64::try_from(storage).unwrap_or(i64::MAX),
            machine_id: read("/etc/machine-id").trim().to_owned(),
            system_uuid: read("/sys/class/dmi/id/product_uuid").trim().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
            architecture: architecture(),
        }
    }
}

impl Pressure {
    /// Measures now. Images are taken to be on the file system of `root_dir`.
    pub(crate) fn measure(root_dir: &Path, thresholds: &Thresholds) -> Self {
        let disk = rustix::fs::statvfs(root_dir).is_ok_and(|fs| {
            let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
            let space = ["nodefs.available", "imagefs.available"];
            let inodes = ["nodefs.inodesFree", "imagefs.inodesFree"];
            thresholds.crossed(&space, bytes(fs.f_bavail), bytes(fs.f_blocks))
                || fs.f_files > 0 && thresholds.crossed(&inodes, fs.f_favail, fs.f_files)
        });
        let available = meminfo("MemAvailable:");
        let memory =
            available > 0 && thresholds.crossed(&["memory.available"], available, meminfo("MemTotal:"));
        Self { memory, disk, pid: pid_pressure(thresholds) }
    }
}

/// `/proc/loadavg` holds the number of tasks as `running/all`.
fn pid_pressure(thresholds: &Thresholds) -> bool {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let loadavg = read("/proc/loadavg");
    let tasks = loadavg.split_whitespace().nth(3).and_then(|field| number(field.split('/').nth(1)?));
    let limit = number(&read("/proc/sys/kernel/pid_max"));
    match (tasks, limit) {
        (Some(tasks), Some(limit)) => {
            thresholds.crossed(&["pid.available"], limit.saturating_sub(tasks), limit)
        }
        _ => false,
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A field of `/proc/meminfo` in bytes; 0 when it is not there.
fn meminfo(field: &str) -> u64 {
    let text = read("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
