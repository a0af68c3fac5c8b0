//! containerd's configuration: K3s's paths, our pause image, crun by default, and nothing it does not need.

use std::path::Path;

use node_config::{Auth, Registries};

use crate::services::{CONTAINERD_SOCKET, SHIM_CGROUP};

/// Where runc may be; it is offered as a second runtime where the image has it.
const RUNC: [&str; 2] = ["/usr/bin/runc", "/usr/sbin/runc"];
const CRUN: &str = "/usr/bin/crun";

/// Plugins that are not used; each costs start-up time, above all under emulation.
const DISABLED: &[&str] = &[
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.native",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
];

/// The file's text for what this image has.
pub(crate) fn config(registries: &Registries) -> String {
    render(RUNC.into_iter().find(|path| Path::new(path).exists()), registries)
}

/// The file's text (format version 2, which containerd 1.7 has and 2.x still reads).
fn render(runc: Option<&str>, registries: &Registries) -> String {
    let disabled: Vec<_> = DISABLED.iter().map(|plugin| format!("  {plugin:?},\n")).collect();
    let runc = runc.map(|path| runtime("runc", path)).unwrap_or_default();
    format!(
        r#"# Written by init at every boot.
version = 2
root = "/var/lib/rancher/k3s/agent/containerd"
state = "/run/k3s/containerd"
disabled_plugins = [
{disabled}]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[ttrpc]
  address = "{CONTAINERD_SOCKET}.ttrpc"

[debug]
  level = "warn"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/skerry/pause:1"
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  enable_selinux = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/var/lib/rancher/k3s/agent/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "crun"
  disable_snapshot_annotations = true

{crun}{runc}{access}"#,
        disabled = disabled.concat(),
        crun = runtime("crun", CRUN),
        access = access(registries),
    )
}

/// Who one is at each registry. Mirrors and TLS are in files of their own, which have no place for this.
fn access(registries: &Registries) -> String {
    let one = |(host, auth): (&String, &Auth)| {
        let entries = [
            ("username", &auth.username),
            ("password", &auth.password),
            ("auth", &auth.auth),
            ("identitytoken", &auth.identity_token),
        ];
        let lines = entries.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let lines: String = lines.map(|(key, value)| format!("  {key} = {}\n", toml_text(value))).collect();
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.{}.auth]\n{lines}\n",
            toml_text(host)
        )
    };
    let with_auth =
        registries.configs.iter().filter_map(|(host, access)| Some((host, access.auth.as_ref()?)));
    with_auth.map(one).collect()
}

/// A basic string of TOML.
fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Without systemd the cgroup driver is cgroupfs, here and in the kubelet. Shims go to a group of their own, so that
/// they and their containers outlive containerd.
fn runtime(name: &str, binary: &str) -> String {
    format!(
        r#"[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}.options]
  BinaryName = "{binary}"
  SystemdCgroup = false
  ShimCgroup = "{SHIM_CGROUP}"

"#
    )
}

#[cfg(test)]
mod tests {
    use node_config::Access;

    use super::*;

    #[test]
    fn the_text_is_toml_and_runc_is_there_only_when_installed() {
        for runc in [None, Some("/usr/sbin/runc")] {
            let table: toml::Table = render(runc, &Registries::default()).parse().unwrap();
            let cri = &table["plugins"]["io.containerd.grpc.v1.cri"];
            let runtimes = cri["containerd"]["runtimes"].as_table().unwrap();
            assert_eq!(runtimes.contains_key("runc"), runc.is_some());
            assert_eq!(runtimes["crun"]["options"]["BinaryName"].as_str(), Some("/usr/bin/crun"));
            assert_eq!(table["grpc"]["address"].as_str(), Some(CONTAINERD_SOCKET));
        }
    }

    #[test]
    fn credentials_are_given_by_the_host_that_is_connected_to() {
        let auth = Auth {
            username: Some("u".to_owned()),
            password: Some("\"quoted\\\u{1}".to_owned()),
            ..Auth::default()
        };
        let access = Access { auth: Some(auth), ..Access::default() };
        let registries =
            Registries { configs: [("a.example:5000".to_owned(), access)].into(), ..Registries::default() };
        let table: toml::Table = render(None, &registries).parse().unwrap();
        let auth =
            &table["plugins"]["io.containerd.grpc.v1.cri"]["registry"]["configs"]["a.example:5000"]["auth"];
        assert_eq!(
            (auth["username"].as_str(), auth["password"].as_str()),
            (Some("u"), Some("\"quoted\\\u{1}"))
        );
    }
}
