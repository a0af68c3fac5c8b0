//! What becomes of the configuration: files, kernel settings, modules, and what containerd and k3sd read.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use node_config::{File, NodeConfig, PLACES, k3s, registries_yaml};

use super::hosts;
use crate::board::Board;
use crate::modules;
use crate::reaper::{Exit, Reaper};
use crate::supervisor::ENVIRONMENT;
use crate::sysctl;

/// What k3sd reads; it holds the cluster's token.
const K3S_CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// For k3sd and for people who know K3s; it may hold passwords.
const REGISTRIES: &str = "/etc/rancher/k3s/registries.yaml";
const SECRET: u32 = 0o600;

/// Writes what k3sd and containerd read beside containerd's own configuration.
pub(crate) fn services(config: &NodeConfig) -> Result<()> {
    write(Path::new(K3S_CONFIG), k3s::config_yaml(&config.node, &config.k3s).as_bytes(), SECRET)?;
    if !config.registries.is_empty() {
        write(Path::new(REGISTRIES), registries_yaml(&config.registries).as_bytes(), SECRET)?;
    }
    let origin = match k3s::is_on(&config.k3s, k3s::DISABLE_DEFAULT_REGISTRY_ENDPOINT) {
        true => hosts::Origin::Never,
        false => hosts::Origin::Last,
    };
    hosts::write(&config.registries, origin)
}

/// Writes `[[files]]`. One that fails does not keep the others from being written.
pub(crate) fn files(config: &NodeConfig, board: &Board) {
    for file in &config.files {
        if let Err(error) = write_file(file) {
            board.problem(&file.path, Some(format!("{error:#}")));
        }
    }
}

fn write_file(file: &File) -> Result<()> {
    let path = Path::new(&file.path);
    let parent = path.parent().context("a file in no directory")?;
    fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    // STATE is shared with pods that mount parts of it; a link that one of them left must not lead elsewhere.
    let actual = parent.canonicalize().with_context(|| format!("failed to resolve {}", parent.display()))?;
    let below = |place: &str| actual.starts_with(place.trim_end_matches('/'));
    if !PLACES.iter().any(|place| below(place)) {
        bail!("{} leads to {}, where files may not be written", parent.display(), actual.display());
    }
    write(path, &file.content, file.permissions)
}

/// Writes beside and renames, so that nobody reads half of it, and so that a link in its place is replaced and not followed.
fn write(path: &Path, content: &[u8], permissions: u32) -> Result<()> {
    let failed = || format!("failed to write {}", path.display());
    let name = path.file_name().with_context(failed)?;
    let beside = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(failed)?;
    }
    let _ = fs::remove_file(&beside);
    let mut file =
        OpenOptions::new().create_new(true).write(true).mode(SECRET).open(&beside).with_context(failed)?;
    file.write_all(content).with_context(failed)?;
    file.set_permissions(Permissions::from_mode(permissions)).with_context(failed)?;
    fs::rename(&beside, path).with_context(failed)
}

/// Applies `[sysctl]`: at once what is there, and the rest when the modules that bring it are loaded.
pub(crate) async fn kernel(config: NodeConfig, board: Board) {
    let mut settings: Vec<_> = config.sysctl.iter().collect();
    settings.retain(|(key, value)| !apply(&board, key, value, false));
    if settings.is_empty() || board.watch().wait_for(|facts| facts.modules_loaded).await.is_err() {
        return;
    }
    for (key, value) in settings {
        apply(&board, key, value, true);
    }
}

/// False if there is no such setting, which is a problem only in the end.
fn apply(board: &Board, key: &str, value: &str, last: bool) -> bool {
    match sysctl::set_existing(key, value) {
        Ok(true) => true,
        Ok(false) if !last => false,
        Ok(false) => {
            board.problem(key, Some(format!("sysctl.{key}: this kernel has no such setting")));
            false
        }
        Err(failure) => {
            board.problem(key, Some(format!("sysctl.{failure}")));
            true
        }
    }
}

/// Loads `modules`, one after the other.
pub(crate) async fn modules(config: NodeConfig, board: Board, reaper: Reaper) {
    for module in &config.modules {
        let mut command = Command::new("/proc/self/exe");
        command.args([modules::LOAD_ROLE, &module.name, &module.parameters]);
        command.env_clear().envs(ENVIRONMENT.iter().copied()).stdin(Stdio::null());
        let problem = match reaper.run(&mut command).await {
            Ok(Exit::Status(0)) => continue,
            Ok(_) => format!(
                "modules: {} cannot be loaded; the kernel log says why, or this image does not have it",
                module.name
            ),
            Err(error) => format!("modules: {}: {error}", module.name),
        };
        board.problem(&module.name, Some(problem));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_permissions_and_a_link_is_not_followed() {
        let directory = std::env::temp_dir().join(format!("skerry-apply-{}", std::process::id()));
        let (path, other) = (directory.join("sub/file"), directory.join("other"));
        write(&path, b"one", 0o644).unwrap();
        fs::write(&other, "kept").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(path.symlink_metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&other).unwrap(), b"kept");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_directory_that_leads_elsewhere_is_not_written_to() {
        let link = Path::new("/tmp").join(format!("skerry-apply-link-{}", std::process::id()));
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        let file = File { path: format!("{}/x", link.display()), content: Vec::new(), permissions: 0o600 };
        let told = write_file(&file).unwrap_err().to_string();
        fs::remove_file(&link).unwrap();
        assert!(told.contains("leads to /tmp"), "{told}");
    }
}
