//! The components of a node: containerd, kubelet, pod network and service proxy. The same beside a control plane and alone; what
//! differs is how they reach the API ([`Access`]) and who told them about the cluster ([`Cluster`]).

mod status;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::Informers;
use ipnet::IpNet;
use network::agent::Backend;
use supervisor::pki::KeyPairFiles;
use tokio::sync::watch;

use crate::VERSION;
use crate::config::node::{Identity, Node};
use crate::notify::Notifier;
use crate::tasks::Tasks;

pub(crate) use status::Readiness;

const CONTAINERD_SOCKET: &str = "/run/k3s/containerd/containerd.sock";
const CONTAINERD_STATE: &str = "/run/k3s/containerd";
const CONTAINERD_STREAM_PORT: u16 = 10010;
const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// Where other network plugins put their configuration, by containerd's default.
const FOREIGN_CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Images the appliance brings along, beside what people put into the data directory.
const BUNDLED_IMAGES: &str = "/usr/share/skerry/images";

/// What a node knows of its cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Empty: pods resolve names as their node does.
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) domain: String,
    pub(crate) backend: Backend,
    /// Whether nodes run the service proxy.
    pub(crate) proxy: bool,
}

/// One component's way to the API, as who it is.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) client: kube::Client,
    pub(crate) informers: Informers,
}

/// Everybody's way to the API.
#[derive(Clone)]
pub(crate) struct Accesses {
    /// As `system:node:NAME`.
    pub(crate) kubelet: Access,
    /// As `system:kube-proxy`.
    pub(crate) proxy: Access,
    /// As `system:k3s-controller`, which may read every Node.
    pub(crate) network: Access,
}

/// Certificates the kubelet's server needs.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    pub(crate) serving: KeyPairFiles,
    pub(crate) client_ca: PathBuf,
}

/// Everything a node is started with.
pub(crate) struct Start<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) node: &'a Node,
    pub(crate) data_dir: &'a Path,
    pub(crate) cluster: Cluster,
    pub(crate) accesses: Accesses,
    pub(crate) certificates: Certificates,
    pub(crate) notifier: &'a Arc<Notifier>,
    pub(crate) readiness: Readiness,
}

impl Start<'_> {
    /// Starts the components.
    pub(crate) fn spawn(self, tasks: &mut Tasks) {
        let cancel = tasks.cancel().clone();
        let cni_conf_dir = match self.cluster.backend {
            Backend::HostGw => self.data_dir.join("agent/etc/cni/net.d"),
            Backend::None => PathBuf::from(FOREIGN_CNI_CONF_DIR),
        };
        let socket = match &self.node.containerd {
            Some(socket) => socket.clone(),
            None => {
                let containerd = self.containerd_config(&cni_conf_dir);
                tasks.spawn("containerd", kubelet::containerd::run(containerd, cancel.clone()));
                PathBuf::from(CONTAINERD_SOCKET)
            }
        };
        let (report, reports) = watch::channel(kubelet::NodeReport::default());
        let Access { client, informers } = self.accesses.kubelet.clone();
        let kubelet = self.kubelet_config(socket, report);
        tasks.spawn("kubelet", kubelet::run(kubelet, client, informers, cancel.clone()));

        if self.cluster.backend != Backend::None {
            let mut agent = network::agent::Config::new(&self.identity.name, self.cluster.pod_cidrs.clone());
            agent.cni_conf_dir = cni_conf_dir;
            agent.interface = self.node.interface.clone();
            agent.node_ips = self.identity.ips.clone();
            // The kubelet's identity may write the Node, the network's may read all of them.
            let (client, informers) = (self.accesses.kubelet.client, self.accesses.network.informers);
            tasks.spawn("network", network::agent::run(agent, client, informers, cancel.clone()));
        }
        if self.cluster.proxy {
            let proxy = network::proxy::Config {
                node_name: self.identity.name.clone(),
                cluster_cidrs: self.cluster.pod_cidrs,
            };
            let Access { client, informers } = self.accesses.proxy;
            tasks.spawn("proxy", network::proxy::run(proxy, client, informers, cancel.clone()));
        }
        let (notifier, name, readiness) = (self.notifier.clone(), self.identity.name.clone(), self.readiness);
        tasks.spawn(
            "status",
            async move { status::follow(&name, reports, &notifier, readiness, &cancel).await },
        );
    }

    fn kubelet_config(
        &self,
        cri_socket: PathBuf,
        report: watch::Sender<kubelet::NodeReport>,
    ) -> kubelet::Config {
        let agent_dir = self.data_dir.join("agent");
        kubelet::Config {
            node_name: self.identity.name.clone(),
            node_ips: self.identity.ips.clone(),
            cri_socket,
            root_dir: self.node.kubelet_dir.clone(),
            pod_manifest_dir: Some(agent_dir.join("pod-manifests")),
            pod_log_dir: PathBuf::from("/var/log/pods"),
            image_dirs: vec![PathBuf::from(BUNDLED_IMAGES), agent_dir.join("images")],
            cluster_dns: self.cluster.dns.clone(),
            cluster_domain: self.cluster.domain.clone(),
            resolv_conf: self.node.resolv_conf.clone(),
            listen: self.node.listen,
            serving_cert: self.certificates.serving.cert.clone(),
            serving_key: self.certificates.serving.key.clone(),
            client_ca: self.certificates.client_ca.clone(),
            node_labels: self.node.labels.clone(),
            register_with_taints: self.node.taints.clone(),
            max_pods: self.node.max_pods,
            eviction_hard: self.node.eviction_hard.clone(),
            version: VERSION.to_owned(),
            report,
        }
    }

    fn containerd_config(&self, cni_conf_dir: &Path) -> kubelet::containerd::Config {
        kubelet::containerd::Config {
            binary: PathBuf::from("containerd"),
            config_file: self.data_dir.join("agent/etc/containerd/config.toml"),
            root: self.data_dir.join("agent/containerd"),
            state: PathBuf::from(CONTAINERD_STATE),
            socket: PathBuf::from(CONTAINERD_SOCKET),
            cni_conf_dir: cni_conf_dir.to_path_buf(),
            cni_bin_dir: PathBuf::from(CNI_BIN_DIR),
            sandbox_image: self.node.pause_image.clone(),
            stream_port: CONTAINERD_STREAM_PORT,
        }
    }
}
