//! /etc, generated in memory at every boot: the image's own files, and over them what depends on the machine.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::MsFlags;

use crate::config::{self, NodeConfig};
use crate::containerd;
use crate::identity;
use crate::mounts;
use crate::services::CONTAINERD_CONFIG;

/// Where the node's own secret is kept between boots, and where K3s looks for it. All else in /etc/rancher is generated.
const NODE_SECRETS: (&str, &str) = ("/var/lib/skerry/rancher/node", "/etc/rancher/node");

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nnobody:x:65534:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// Links to files of the image that programs look for in /etc; made where the image has the file.
const LINKS: &[(&str, &str)] = &[
    ("os-release", "/usr/lib/os-release"),
    ("mtab", "/proc/self/mounts"),
    ("ssl/certs/ca-certificates.crt", "/usr/share/skerry/ca-certificates.crt"),
];

/// Puts a memory file system over /etc, with the image's files in it. Before STATE: its tools may read /etc.
pub(crate) fn mount() -> Result<()> {
    let staging = Path::new("/run/skerry/etc");
    fs::create_dir_all(staging).context("failed to stage /etc")?;
    copy_tree(Path::new("/etc"), staging).context("failed to copy the image's /etc")?;
    mounts::tmpfs(Path::new("/etc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755,size=16m")?;
    copy_tree(staging, Path::new("/etc")).context("failed to fill /etc")?;
    fs::remove_dir_all(staging).context("failed to clean up after /etc")?;
    for (name, text) in [("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH)] {
        write(name, text)?;
    }
    for (name, target) in LINKS {
        link(name, target)?;
    }
    Ok(())
}

/// Writes what depends on who the machine is.
pub(crate) fn write_identity(hostname: &str, machine_id: &str) -> Result<()> {
    write("hostname", &format!("{hostname}\n"))?;
    write("machine-id", &format!("{machine_id}\n"))?;
    write("hosts", &hosts(hostname))
}

/// Writes what containerd and k3sd read, and binds the node's secret to STATE; where that keeps nothing, the secret is made from what lasts.
pub(crate) fn write_services(config: &NodeConfig, persistent: bool) -> Result<()> {
    let (kept, shown) = NODE_SECRETS;
    for directory in [kept, shown] {
        fs::create_dir_all(directory).with_context(|| format!("failed to create {directory}"))?;
    }
    mounts::bind(Path::new(kept), Path::new(shown))?;
    let token = config.node.token.as_ref().filter(|_| !persistent);
    if let Some(password) = token.and_then(|token| identity::lasting_node_password(&token.0)) {
        identity::write_durably(&Path::new(kept).join("password"), password.as_bytes(), 0o600)
            .context("failed to write the node password")?;
    }
    write("containerd/config.toml", &containerd::config(&config.registries))?;
    // It may hold the passwords of registries.
    fs::set_permissions(CONTAINERD_CONFIG, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("failed to protect {CONTAINERD_CONFIG}"))?;
    config::services(config)
}

fn hosts(hostname: &str) -> String {
    let short = hostname.split('.').next().unwrap_or(hostname);
    let names = if short == hostname { hostname.to_owned() } else { format!("{hostname} {short}") };
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {names}\n")
}

fn write(name: &str, text: &str) -> Result<()> {
    let path = Path::new("/etc").join(name);
    let parent = path.parent().unwrap_or(Path::new("/etc"));
    fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    // The image may have a link here; the text must not go through it.
    let _ = fs::remove_file(&path);
    fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
}

fn link(name: &str, target: &str) -> Result<()> {
    let path = Path::new("/etc").join(name);
    if path.symlink_metadata().is_ok() || !Path::new(target).exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/etc"));
    fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
    symlink(target, &path).with_context(|| format!("failed to link {}", path.display()))
}

/// Copies files, links and directories with their modes.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir_all(&target)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(entry.metadata()?.permissions().mode()))?;
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_name_also_resolves_by_its_first_label() {
        assert!(hosts("a.example.org").ends_with("127.0.1.1 a.example.org a\n"));
        assert!(hosts("a").ends_with("127.0.1.1 a\n"));
    }
}
