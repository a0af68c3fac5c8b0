//! The control group tree: PID 1 by itself, the pod runtime, and a root that delegates every controller to the kubelet.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the one hierarchy is mounted.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// What the kubelet needs, and `io`, which it can use.
const CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];
/// What the kubelet refuses to work without.
const NEEDED: &[&str] = &["cpuset", "cpu", "memory", "pids"];

/// Groups with their settings; a parent before its children. `/kubepods` is the kubelet's to make.
const GROUPS: &[(&str, &[(&str, &str)])] = &[
    ("/init", &[("memory.min", "16M"), ("cpu.weight", "200")]),
    ("/podruntime", &[]),
    ("/podruntime/containerd", &[("memory.min", "32M"), ("cpu.weight", "200")]),
    ("/podruntime/k3s", &[("memory.min", "128M"), ("cpu.weight", "400"), ("memory.oom.group", "1")]),
    ("/podruntime/shim", &[("memory.min", "16M")]),
];

/// Makes the groups, delegates the controllers and moves PID 1 into its own. Returns the controllers that are missing
/// and needed.
pub(crate) fn set_up() -> Result<Vec<&'static str>> {
    let available = fs::read_to_string(format!("{ROOT}/cgroup.controllers"))
        .context("failed to read the cgroup controllers")?;
    let present = |name: &str| available.split_whitespace().any(|word| word == name);
    delegate(Path::new(ROOT), &present)?;
    for (group, settings) in GROUPS {
        let dir = PathBuf::from(format!("{ROOT}{group}"));
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        for (file, value) in *settings {
            // A kernel without a controller lacks its files; the missing ones that matter are returned.
            let _ = fs::write(dir.join(file), value);
        }
        if *group == "/podruntime" {
            delegate(&dir, &present)?;
        }
    }
    fs::write(format!("{ROOT}/init/cgroup.procs"), "1").context("failed to enter the init group")?;
    Ok(NEEDED.iter().copied().filter(|name| !present(name)).collect())
}

/// The process ids in `group` and in every group below it.
pub(crate) fn processes(group: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from(format!("{ROOT}{group}"))];
    while let Some(dir) = pending.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        pending.extend(below.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}

/// Kills every process in `group` and below it.
pub(crate) fn kill(group: &str) {
    let _ = fs::write(format!("{ROOT}{group}/cgroup.kill"), "1");
}

fn delegate(dir: &Path, present: &dyn Fn(&str) -> bool) -> Result<()> {
    let wanted: Vec<_> =
        CONTROLLERS.iter().filter(|name| present(name)).map(|name| format!("+{name}")).collect();
    fs::write(dir.join("cgroup.subtree_control"), wanted.join(" "))
        .with_context(|| format!("failed to delegate controllers below {}", dir.display()))
}
