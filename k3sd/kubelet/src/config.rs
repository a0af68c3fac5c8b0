//! What the kubelet must be told, as plain data, and what it tells the rest of the daemon in return.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use crate::eviction::Thresholds;

/// Resolved configuration of one node agent. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object, and the host name pods see with `hostNetwork`.
    pub node_name: String,
    /// Addresses the node is reached at; the first one is the primary address. At least one.
    pub node_ips: Vec<IpAddr>,
    /// Unix socket on which containerd serves both CRI and its own API.
    pub cri_socket: PathBuf,
    /// Pod volumes, `etc-hosts` files and the like; `/var/lib/kubelet` by default.
    pub root_dir: PathBuf,
    /// Directory of static pod manifests (YAML or JSON), watched for changes. `None` turns static pods off.
    pub pod_manifest_dir: Option<PathBuf>,
    /// Container logs, `/var/log/pods` by default.
    pub pod_log_dir: PathBuf,
    /// Directories whose image tarballs are imported before the first pod starts.
    pub image_dirs: Vec<PathBuf>,
    /// Addresses of the cluster DNS service, for `dnsPolicy: ClusterFirst`. Empty: pods get the host's resolver.
    pub cluster_dns: Vec<IpAddr>,
    /// DNS domain of the cluster, `cluster.local` by default.
    pub cluster_domain: String,
    /// The host's resolver configuration, handed on to pods with `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// Address of the kubelet's own HTTPS server.
    pub listen: SocketAddr,
    /// PEM file with the serving certificate chain.
    pub serving_cert: PathBuf,
    /// PEM file with the serving key.
    pub serving_key: PathBuf,
    /// PEM file with the authority that signs the client certificates which may call the server.
    pub client_ca: PathBuf,
    /// Further labels of the Node object, e.g. `topology.kubernetes.io/zone=a`.
    pub node_labels: BTreeMap<String, String>,
    /// Taints the node has when it is registered for the first time.
    pub register_with_taints: Vec<Taint>,
    /// Most pods this node runs at once.
    pub max_pods: u32,
    /// From when the node counts as short of memory, disk or process ids.
    pub eviction_hard: Thresholds,
    /// Version reported in `nodeInfo.kubeletVersion`.
    pub version: String,
    /// Where the kubelet tells how the node is; read by the console and by `sd_notify`.
    pub report: watch::Sender<NodeReport>,
}

/// A short summary of the node, sent whenever it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The Node object exists in the API.
    pub registered: bool,
    /// The value of the node's Ready condition.
    pub ready: bool,
    /// Why the node is not ready; empty when it is.
    pub reason: String,
    /// Pods this node knows of.
    pub pods: usize,
    /// Pods whose phase is Running.
    pub running_pods: usize,
}
