//! What a machine that runs pods is told, beside a control plane or alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Taint;

use super::Mistakes;
use crate::cli::NodeFlags;

const PAUSE_IMAGE: &str = "localhost/skerry/pause:1";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const KUBELET_DIR: &str = "/var/lib/kubelet";
const KUBELET_PORT: u16 = 10250;
const NODE_ID_FILE: &str = "/etc/rancher/node/id";
/// The kubelet's default.
const MAX_PODS: u32 = 110;

/// Name and addresses of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// At least one.
    pub(crate) ips: Vec<IpAddr>,
}

/// What only a machine that runs pods needs.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    /// Socket of a containerd somebody else runs.
    pub(crate) containerd: Option<PathBuf>,
    pub(crate) pause_image: String,
    pub(crate) resolv_conf: PathBuf,
    /// Where the kubelet listens.
    pub(crate) listen: SocketAddr,
    /// The interface that leads to the other nodes.
    pub(crate) interface: Option<String>,
    pub(crate) max_pods: u32,
    pub(crate) eviction_hard: kubelet::Thresholds,
    pub(crate) kubelet_dir: PathBuf,
}

impl Identity {
    pub(super) fn resolve(flags: &NodeFlags, mistakes: &mut Mistakes) -> Self {
        let mut name = match flags.node_name.clone().map_or_else(host_name, Ok) {
            Ok(name) => name.to_lowercase(),
            Err(error) => {
                mistakes.add(format!("node-name: not given, and the host name cannot be read: {error}"));
                String::new()
            }
        };
        if flags.with_node_id.unwrap_or_default() {
            match supervisor::node_password::ensure_id(Path::new(NODE_ID_FILE)) {
                Ok(id) => name = format!("{name}-{id}"),
                Err(error) => mistakes.add(format!("with-node-id: {error}: {}", error.source)),
            }
        }
        check_node_name(&name, mistakes);
        Self { name, ips: node_ips(&flags.node_ip, mistakes) }
    }

    /// The address that stands for all of the first address's family.
    pub(super) fn any_address(&self) -> IpAddr {
        if self.ips[0].is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) }
    }
}

impl Node {
    pub(super) fn resolve(
        flags: &NodeFlags,
        identity: &Identity,
        mistakes: &mut Mistakes,
        warnings: &mut Vec<String>,
    ) -> Self {
        if !nix::unistd::geteuid().is_root() {
            mistakes.add(
                "a node needs root; run as root (a control plane alone, server --disable-agent, does not)",
            );
        }
        let listen = flags.bind_address.unwrap_or_else(|| identity.any_address());
        let endpoint = flags.container_runtime_endpoint.as_deref();
        let mut node = Self {
            labels: labels(&flags.node_label, mistakes),
            taints: taints(&flags.node_taint, mistakes),
            containerd: endpoint.and_then(|text| socket(text, mistakes)),
            pause_image: flags.pause_image.clone().unwrap_or_else(|| PAUSE_IMAGE.to_owned()),
            resolv_conf: flags.resolv_conf.clone().unwrap_or_else(|| PathBuf::from(RESOLV_CONF)),
            listen: SocketAddr::new(listen, KUBELET_PORT),
            interface: flags.flannel_iface.clone(),
            max_pods: MAX_PODS,
            eviction_hard: kubelet::Thresholds::default(),
            kubelet_dir: PathBuf::from(KUBELET_DIR),
        };
        for setting in &flags.kubelet_arg {
            node.set(setting, mistakes, warnings);
        }
        node
    }

    /// One `--kubelet-arg`.
    fn set(&mut self, setting: &str, mistakes: &mut Mistakes, warnings: &mut Vec<String>) {
        let (key, value) = setting.trim_start_matches("--").split_once('=').unwrap_or((setting, "true"));
        match key {
            "max-pods" => match value.parse() {
                Ok(max) if max > 0 => self.max_pods = max,
                _ => mistakes.add(format!("kubelet-arg: max-pods: not a number above 0: {value:?}")),
            },
            "eviction-hard" => match value.parse() {
                Ok(thresholds) => self.eviction_hard = thresholds,
                Err(error) => mistakes.add(format!("kubelet-arg: eviction-hard: {error}")),
            },
            "root-dir" if Path::new(value).is_absolute() => self.kubelet_dir = PathBuf::from(value),
            "root-dir" => mistakes.add(format!("kubelet-arg: root-dir: not an absolute path: {value:?}")),
            _ => warnings.push(format!("kubelet-arg {key} is not acted on")),
        }
    }
}

fn socket(text: &str, mistakes: &mut Mistakes) -> Option<PathBuf> {
    let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() {
        return Some(path.to_path_buf());
    }
    mistakes.add(format!(
        "container-runtime-endpoint: not a socket such as unix:///run/k3s/containerd/containerd.sock: {text:?}"
    ));
    None
}

fn labels(given: &[String], mistakes: &mut Mistakes) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for text in given {
        match text.split_once('=') {
            Some((key, _)) if !machinery::node_label::is_for_nodes(key) => mistakes.add(format!(
                "node-label: {key}: a node may not give itself this label of Kubernetes; allowed are those in kubelet.kubernetes.io and \
                 node.kubernetes.io, and what kubelets report (topology.kubernetes.io/zone ...); for others: kubectl label node"
            )),
            Some((key, value)) if !key.is_empty() => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            _ => mistakes.add(format!("node-label: not KEY=VALUE: {text:?}")),
        }
    }
    labels
}

fn taints(given: &[String], mistakes: &mut Mistakes) -> Vec<Taint> {
    let parse = |text: &str| {
        let (rest, effect) = text.rsplit_once(':')?;
        let (key, value) =
            rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value.to_owned())));
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) && !key.is_empty();
        known.then(|| Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
    };
    let mut taints = Vec::new();
    for text in given {
        match parse(text) {
            Some(taint) => taints.push(taint),
            None => mistakes.add(format!(
                "node-taint: not KEY=VALUE:EFFECT with one of NoSchedule, PreferNoSchedule, NoExecute: {text:?}"
            )),
        }
    }
    taints
}

/// The given addresses, else the one the machine would use to reach others, else loopback (an isolated machine).
fn node_ips(given: &[IpAddr], mistakes: &mut Mistakes) -> Vec<IpAddr> {
    if let Some(bad) = given.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
        mistakes.add(format!("node-ip: not the address of a machine: {bad}"));
    }
    if !given.is_empty() {
        return given.to_vec();
    }
    vec![route_source().or_else(interface_address).unwrap_or(IpAddr::from([127, 0, 0, 1]))]
}

/// The source address of the default route. Connecting a UDP socket asks the kernel for it and sends nothing; the
/// destination is of the documentation range (RFC 5737).
fn route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

fn interface_address() -> Option<IpAddr> {
    nix::ifaddrs::getifaddrs().ok()?.find_map(|interface| {
        let ip = IpAddr::from(interface.address?.as_sockaddr_in()?.ip());
        (!ip.is_loopback()).then_some(ip)
    })
}

fn host_name() -> nix::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().to_lowercase())
}

/// Node names are DNS subdomains (RFC 1123).
fn check_node_name(name: &str, mistakes: &mut Mistakes) {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        mistakes.add(format!(
            "node-name: {name:?} is not a DNS name: lower case letters, digits, '-' and '.', at most 253 characters"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_and_labels_are_parsed_as_kubectl_writes_them() {
        let mut mistakes = Mistakes::default();
        let parsed = taints(&["a=b:NoSchedule".into(), "c:NoExecute".into(), "d=e".into()], &mut mistakes);
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[1].value, None);
        assert_eq!(labels(&["disk=ssd".into(), "=x".into()], &mut mistakes)["disk"], "ssd");
        assert_eq!(mistakes.0.len(), 2);
    }

    #[test]
    fn kubelet_settings_are_acted_on_or_named() {
        let identity = Identity { name: "a".into(), ips: vec![IpAddr::from([127, 0, 0, 1])] };
        let flags = NodeFlags {
            kubelet_arg: vec![
                "max-pods=7".into(),
                "--root-dir=x".into(),
                "serialize-image-pulls".into(),
                "eviction-hard=disk<1%".into(),
            ],
            ..NodeFlags::default()
        };
        let (mut mistakes, mut warnings) = (Mistakes::default(), Vec::new());
        let node = Node::resolve(&flags, &identity, &mut mistakes, &mut warnings);
        assert_eq!(node.max_pods, 7);
        assert!(mistakes.0.iter().any(|mistake| mistake.contains("root-dir")));
        assert!(
            mistakes.0.iter().any(|mistake| mistake.contains("eviction-hard") && mistake.contains("disk<1%"))
        );
        assert_eq!(warnings, ["kubelet-arg serialize-image-pulls is not acted on"]);
    }
}
