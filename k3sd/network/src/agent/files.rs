//! The files the agent writes, and the plugin's links.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::Context as _;
use ipnet::IpNet;
use serde_json::json;

use super::Setup;
use crate::cni::PROGRAM_NAMES;

/// The CNI configuration: K3s's file and network names, our one plugin.
pub(super) fn conflist(data_dir: &Path, setup: &Setup) -> String {
    let list = json!({
        "name": "cbr0",
        "cniVersion": "1.0.0",
        "plugins": [{
            "type": PROGRAM_NAMES[0],
            "bridge": "cni0",
            "mtu": setup.mtu,
            "isDefaultGateway": true,
            "hairpinMode": true,
            "forceAddress": true,
            "subnets": setup.subnets,
            "dataDir": data_dir,
            "capabilities": { "portMappings": true },
        }],
    });
    format!("{list:#}\n")
}

/// flannel's `subnet.env`: the cluster's network, and the node's gateway address with the subnet's length.
pub(super) fn subnet_env(cluster: &[IpNet], setup: &Setup) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name}={value}").expect("writing to a string");
    for (v6, network, subnet) in
        [(false, "FLANNEL_NETWORK", "FLANNEL_SUBNET"), (true, "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET")]
    {
        let of_family = |net: &&IpNet| net.addr().is_ipv6() == v6;
        if let Some(cidr) = cluster.iter().find(of_family) {
            line(network, cidr.trunc().to_string());
        }
        if let Some(own) = setup.subnets.iter().find(of_family) {
            line(subnet, format!("{}/{}", gateway(*own), own.prefix_len()));
        }
    }
    line("FLANNEL_MTU", setup.mtu.to_string());
    line("FLANNEL_IPMASQ", "true".to_owned());
    text
}

fn gateway(subnet: IpNet) -> IpAddr {
    crate::cni::gateway(subnet)
}

/// Replaces a file at once: whoever watches the directory never reads half of it. A file with this content is left alone.
pub(super) fn replace(path: &Path, content: &str) -> anyhow::Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    write_atomically(path, content).with_context(|| format!("failed to write '{}'", path.display()))
}

fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    // In the directory itself: containerd reads it again when a name in it goes away, not when one comes from elsewhere. The
    // ending is not one that container runtimes take for a configuration.
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Makes the plugin's names in `directory` point to the running program. Programs that users put there are theirs and stay;
/// links of ours to a program elsewhere (an older installation) follow.
pub(super) fn link_plugins(directory: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("failed to find the running program")?;
    for name in PROGRAM_NAMES {
        let path = directory.join(name);
        if is_fine(&path, &program) {
            continue;
        }
        let link = || -> io::Result<()> {
            fs::create_dir_all(directory)?;
            let temporary = directory.join(format!(".{name}.new"));
            let _ = fs::remove_file(&temporary);
            symlink(&program, &temporary)?;
            fs::rename(&temporary, &path)
        };
        link().with_context(|| format!("failed to link '{}'", path.display()))?;
    }
    Ok(())
}

/// Whether there is a program that may stay.
fn is_fine(path: &Path, program: &Path) -> bool {
    let ours = fs::read_link(path).is_ok_and(|target| target.file_name() == program.file_name());
    let same = || fs::canonicalize(path).ok() == fs::canonicalize(program).ok();
    path.exists() && (!ours || same())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        let subnets = ["10.42.3.0/24", "fd00:42:0:3::/64"].map(|net| net.parse().unwrap()).to_vec();
        Setup { subnets, mtu: 1450 }
    }

    #[test]
    fn subnet_env_has_flannels_keys() {
        let cluster = ["10.42.0.0/16", "fd00:42::/56"].map(|net| net.parse().unwrap());
        let expected = "\
FLANNEL_NETWORK=10.42.0.0/16
FLANNEL_SUBNET=10.42.3.1/24
FLANNEL_IPV6_NETWORK=fd00:42::/56
FLANNEL_IPV6_SUBNET=fd00:42:0:3::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
";
        assert_eq!(subnet_env(&cluster, &setup()), expected);
    }

    #[test]
    fn files_are_replaced_only_when_they_differ_and_links_only_when_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.d/10-flannel.conflist");
        let content = conflist(Path::new("/data"), &setup());
        replace(&path, &content).unwrap();
        let written = fs::metadata(&path).unwrap();
        replace(&path, &content).unwrap();
        let again = fs::metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(written.ino(), again.ino());
        assert_eq!(written.permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path().join("net.d")).unwrap().count(), 1);

        let programs = directory.path().join("bin");
        fs::create_dir(&programs).unwrap();
        fs::write(programs.join("loopback"), "the user's").unwrap();
        symlink("/nowhere", programs.join("skerry-cni")).unwrap();
        link_plugins(&programs).unwrap();
        assert_eq!(fs::read_to_string(programs.join("loopback")).unwrap(), "the user's");
        assert_eq!(fs::read_link(programs.join("skerry-cni")).unwrap(), std::env::current_exe().unwrap());

        // The program was installed anew elsewhere.
        let old = directory.path().join("old").join(std::env::current_exe().unwrap().file_name().unwrap());
        fs::create_dir(old.parent().unwrap()).unwrap();
        fs::write(&old, "").unwrap();
        fs::remove_file(programs.join("skerry-cni")).unwrap();
        symlink(&old, programs.join("skerry-cni")).unwrap();
        link_plugins(&programs).unwrap();
        assert_eq!(fs::read_link(programs.join("skerry-cni")).unwrap(), std::env::current_exe().unwrap());
    }
}
