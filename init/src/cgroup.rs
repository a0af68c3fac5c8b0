//! The control group tree: PID 1 by itself, its tools, the pod runtime, and a root that delegates every controller to the kubelet.
//!
//! ```text
//! /                       every controller delegated
//! ├── init                PID 1
//! ├── system              what PID 1 runs for a moment: file system tools, the module loader
//! ├── podruntime
//! │   ├── containerd
//! │   ├── k3s             k3sd
//! │   └── shim            containerd's shims, which outlive it
//! └── kubepods            made by the kubelet
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the one hierarchy is mounted.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// PID 1's own group.
pub(crate) const INIT: &str = "/init";
/// The group of what PID 1 runs for a moment.
pub(crate) const SYSTEM: &str = "/system";
/// What the kubelet needs, and `io`, which it can use.
const CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];
/// What the kubelet refuses to work without.
const NEEDED: &[&str] = &["cpuset", "cpu", "memory", "pids"];

/// A group and its limits. What is not set keeps the kernel's default: no guarantee and no limit.
struct Group {
    path: &'static str,
    /// Files and what is written to them.
    limits: &'static [(&'static str, &'static str)],
    /// Whether groups below it get the controllers too.
    delegated: bool,
}

/// A parent stands before its children. `/kubepods` is the kubelet's to make.
const GROUPS: &[Group] = &[
    // Never pushed out, and stopped long before a leak could cost the machine: a PID 1 that cannot get memory does not ping the
    // watchdog any more. Its threads are few; a group of 64 leaves room for the helpers it has just started.
    Group {
        path: INIT,
        limits: &[
            ("memory.min", "8M"),
            ("memory.max", "64M"),
            ("memory.oom.group", "0"),
            ("cpu.weight", "200"),
            ("pids.max", "64"),
        ],
        delegated: false,
    },
    // Checking a big file system takes memory in proportion to it, so there is no limit; nothing is guaranteed, because a tool may be slow.
    Group {
        path: SYSTEM,
        limits: &[
            ("memory.min", "0"),
            ("memory.max", "max"),
            ("memory.oom.group", "0"),
            ("cpu.weight", "50"),
            ("pids.max", "512"),
        ],
        delegated: false,
    },
    // A guarantee holds only as far as the parent has one: this is the sum of those below.
    Group { path: "/podruntime", limits: &[("memory.min", "192M"), ("cpu.weight", "400")], delegated: true },
    // No memory limit: page cache of the layers it unpacks counts here, and in a machine without a disk so do the layers themselves.
    // Its memory use is bounded by the pods there are. Many threads, as it is written in Go.
    Group {
        path: "/podruntime/containerd",
        limits: &[
            ("memory.min", "32M"),
            ("memory.max", "max"),
            ("memory.oom.group", "1"),
            ("cpu.weight", "200"),
            ("pids.max", "4096"),
        ],
        delegated: false,
    },
    // The API server and the kubelet in one: to kill it for memory would take away what makes room again, by eviction. The guarantee is
    // the budget of a server (70 MiB) and the hot part of its database. It dies as one, with the helpers it has started.
    Group {
        path: "/podruntime/k3s",
        limits: &[
            ("memory.min", "128M"),
            ("memory.max", "max"),
            ("memory.oom.group", "1"),
            ("cpu.weight", "400"),
            ("pids.max", "4096"),
        ],
        delegated: false,
    },
    // A shim for every pod, about twelve threads each; one that is killed must not take the others with it.
    Group {
        path: "/podruntime/shim",
        limits: &[
            ("memory.min", "32M"),
            ("memory.max", "max"),
            ("memory.oom.group", "0"),
            ("cpu.weight", "100"),
            ("pids.max", "32768"),
        ],
        delegated: false,
    },
];

/// Makes the groups, delegates the controllers and moves PID 1 into its own. Returns the controllers that are missing
/// and needed.
pub(crate) fn set_up() -> Result<Vec<&'static str>> {
    let available = fs::read_to_string(format!("{ROOT}/cgroup.controllers"))
        .context("failed to read the cgroup controllers")?;
    let present = |name: &str| available.split_whitespace().any(|word| word == name);
    delegate(Path::new(ROOT), &present)?;
    for group in GROUPS {
        let dir = PathBuf::from(format!("{ROOT}{}", group.path));
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        for (file, value) in group.limits {
            // A kernel without a controller lacks its files; the missing ones that matter are returned.
            let _ = fs::write(dir.join(file), value);
        }
        if group.delegated {
            delegate(&dir, &present)?;
        }
    }
    fs::write(format!("{ROOT}{INIT}/cgroup.procs"), "1").context("failed to enter the init group")?;
    Ok(NEEDED.iter().copied().filter(|name| !present(name)).collect())
}

/// Moves process `pid` into `group`. A machine that could not make its groups runs without; it has said so.
pub(crate) fn put(pid: i32, group: &str) {
    let _ = fs::write(format!("{ROOT}{group}/cgroup.procs"), pid.to_string());
}

/// The group that process `pid` is in, as a path from the root of the hierarchy.
pub(crate) fn of(pid: i32) -> Option<String> {
    group_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// Whether `inner` is `group` or below it.
pub(crate) fn contains(group: &str, inner: &str) -> bool {
    inner.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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

/// The line of the one hierarchy in the text of `/proc/PID/cgroup`.
fn group_in(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn delegate(dir: &Path, present: &dyn Fn(&str) -> bool) -> Result<()> {
    let wanted: Vec<_> =
        CONTROLLERS.iter().filter(|name| present(name)).map(|name| format!("+{name}")).collect();
    fs::write(dir.join("cgroup.subtree_control"), wanted.join(" "))
        .with_context(|| format!("failed to delegate controllers below {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(group: &Group, file: &str) -> Option<&'static str> {
        group.limits.iter().find(|(name, _)| *name == file).map(|(_, value)| *value)
    }

    fn megabytes(group: &Group) -> u32 {
        let text = limit(group, "memory.min").unwrap();
        text.strip_suffix('M').unwrap_or(text).parse().unwrap()
    }

    #[test]
    fn a_parent_guarantees_what_its_children_do() {
        for parent in GROUPS.iter().filter(|group| group.delegated) {
            let children = GROUPS.iter().filter(|g| g.path != parent.path && contains(parent.path, g.path));
            assert_eq!(children.map(megabytes).sum::<u32>(), megabytes(parent), "{}", parent.path);
        }
    }

    #[test]
    fn every_group_that_holds_processes_has_all_its_limits() {
        for group in GROUPS.iter().filter(|group| !group.delegated) {
            for file in ["memory.min", "memory.max", "memory.oom.group", "cpu.weight", "pids.max"] {
                assert!(limit(group, file).is_some(), "{} lacks {file}", group.path);
            }
        }
    }

    #[test]
    fn a_group_contains_itself_and_what_is_below_but_not_its_namesakes() {
        assert!(contains("/podruntime/k3s", "/podruntime/k3s"));
        assert!(contains("/podruntime/k3s", "/podruntime/k3s/helper"));
        assert!(!contains("/podruntime/k3s", "/podruntime/k3s-of-someone"));
        assert!(!contains("/podruntime/k3s", "/kubepods/podruntime/k3s"));
    }

    #[test]
    fn the_group_of_a_process_is_the_one_of_the_unified_hierarchy() {
        assert_eq!(group_in("4:memory:/a\n0::/podruntime/k3s\n").as_deref(), Some("/podruntime/k3s"));
        assert_eq!(group_in("4:memory:/a\n"), None);
    }
}
