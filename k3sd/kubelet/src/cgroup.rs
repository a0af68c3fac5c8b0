//! Pod cgroups. On cgroup v2 they are made here, with the pod's limits; on v1 the runtime makes them, and only
//! the removal is ours.

use std::io;
use std::path::{Path, PathBuf};

use tracing::debug;

const ROOT: &str = "/sys/fs/cgroup";
/// Controllers handed down to pods, where the kernel has them.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];

/// How the host's control groups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One tree for everything.
    V2,
    /// A tree per controller, or the hybrid of both.
    V1,
}

impl Hierarchy {
    pub(crate) fn detect() -> Self {
        if Path::new(ROOT).join("cgroup.controllers").exists() { Self::V2 } else { Self::V1 }
    }

    /// Makes the pod's cgroup with these limits. Nothing on v1.
    pub(crate) fn create(self, parent: &str, limits: &[(&str, String)]) -> io::Result<()> {
        if self == Self::V1 {
            return Ok(());
        }
        let mut path = PathBuf::from(ROOT);
        for part in parent.trim_start_matches('/').split('/') {
            delegate(&path)?;
            path.push(part);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        for (file, value) in limits {
            std::fs::write(path.join(file), value)?;
        }
        Ok(())
    }

    /// Removes the pod's cgroup and what is left below it. Its processes have ended.
    pub(crate) fn remove(self, parent: &str) {
        let relative = parent.trim_start_matches('/');
        match self {
            Self::V2 => remove_tree(&Path::new(ROOT).join(relative)),
            Self::V1 => {
                let Ok(controllers) = std::fs::read_dir(ROOT) else { return };
                for controller in controllers.flatten() {
                    remove_tree(&controller.path().join(relative));
                }
            }
        }
    }
}

/// Enables for the children of `dir` every controller it has itself.
fn delegate(dir: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers"))?;
    let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control"))?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    for controller in CONTROLLERS {
        if has(&available, controller) && !has(&enabled, controller) {
            std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    if let Err(error) = std::fs::remove_dir(dir) {
        debug!(dir = %dir.display(), %error, "cgroup not removed");
    }
}
