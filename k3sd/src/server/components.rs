//! The components of a server and what each is told: the one place that knows all of them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use apiserver::ApiServer;
use client::Informers;
use supervisor::pki::ServerPki;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error_span};

use super::{VERSION, client_as, status};
use crate::config::{Agent, Config};
use crate::notify::Notifier;

const KUBELET_PORT: u16 = 10250;
const MAX_PODS: u32 = 110;
const CONTAINERD_SOCKET: &str = "/run/k3s/containerd/containerd.sock";
const CONTAINERD_STATE: &str = "/run/k3s/containerd";
const CONTAINERD_STREAM_PORT: u16 = 10010;
const CNI_BIN_DIR: &str = "/opt/cni/bin";
const PAUSE_IMAGE: &str = "localhost/skerry/pause:1";
/// What the image brings along, beside what people put into the data directory.
const BUNDLED_IMAGES: &str = "/usr/share/skerry/images";
const BUNDLED_MANIFESTS: &str = "/usr/share/skerry/manifests";
/// Prefix lengths of one node's share of the pod network.
const NODE_CIDR_MASK_IPV4: u8 = 24;
const NODE_CIDR_MASK_IPV6: u8 = 64;

type Tasks = JoinSet<anyhow::Result<()>>;

/// What every component is given.
struct Start<'a> {
    config: &'a Config,
    pki: &'a ServerPki,
    api: &'a ApiServer,
    informers: Informers,
    cancel: &'a CancellationToken,
    tasks: Tasks,
}

/// Starts everything that talks to the API. A task that ends before `cancel` is a failure of the daemon.
pub(super) fn start(
    config: &Config,
    pki: &ServerPki,
    api: &ApiServer,
    notifier: &Arc<Notifier>,
    cancel: &CancellationToken,
) -> anyhow::Result<Tasks> {
    // The caches are shared by all components, so they are read as the one that may read everything.
    let reader = client_as(api, "system:kube-controller-manager", &[]);
    let informers = Informers::in_process(reader, cancel.clone());
    let mut start = Start { config, pki, api, informers, cancel, tasks: JoinSet::new() };
    start.control_plane()?;
    if let Some(agent) = &config.agent {
        let (report, reports) = watch::channel(kubelet::NodeReport::default());
        start.node(agent, report)?;
        let (notifier, name, cancel) = (notifier.clone(), config.node_name.clone(), cancel.clone());
        start.spawn("status", async move { status::follow(&name, reports, &notifier, &cancel).await });
    }
    Ok(start.tasks)
}

impl Start<'_> {
    fn control_plane(&mut self) -> anyhow::Result<()> {
        let config = self.config;
        let root_ca = std::fs::read_to_string(&self.pki.server_ca)
            .with_context(|| format!("failed to read {}", self.pki.server_ca.display()))?;
        let controllers = controllers::Config {
            cluster_cidrs: vec![config.cluster_cidr],
            node_cidr_mask_ipv4: NODE_CIDR_MASK_IPV4,
            node_cidr_mask_ipv6: NODE_CIDR_MASK_IPV6,
            root_ca,
        };
        let client = client_as(self.api, "system:kube-controller-manager", &[]);
        let run = controllers::run(controllers, client, self.informers.clone(), self.cancel.clone());
        self.spawn("controllers", run);

        if !config.disable_scheduler {
            let client = client_as(self.api, "system:kube-scheduler", &[]);
            let settings = scheduler::Config::default();
            let run = scheduler::run(settings, client, self.informers.clone(), self.cancel.clone());
            self.spawn("scheduler", run);
        }

        let deploy = addons::deploy::Config {
            // The first directory wins: what people put there replaces what the image brought.
            dirs: vec![config.data_dir.join("server/manifests"), PathBuf::from(BUNDLED_MANIFESTS)],
            disable: config.disabled_manifests.clone(),
        };
        let client = client_as(self.api, "system:k3s-supervisor", &["system:masters"]);
        let run = addons::deploy::run(deploy, client, self.informers.clone(), self.cancel.clone());
        self.spawn("deploy", run);
        Ok(())
    }

    fn node(&mut self, agent: &Agent, report: watch::Sender<kubelet::NodeReport>) -> anyhow::Result<()> {
        let config = self.config;
        let socket = match &agent.containerd {
            Some(socket) => socket.clone(),
            None => {
                let run = kubelet::containerd::run(containerd_config(&config.data_dir), self.cancel.clone());
                self.spawn("containerd", run);
                PathBuf::from(CONTAINERD_SOCKET)
            }
        };
        let kubelet = self.kubelet_config(agent, socket, report);
        let node = format!("system:node:{}", config.node_name);
        let client = client_as(self.api, &node, &["system:nodes"]);
        let run = kubelet::run(kubelet, client, self.informers.clone(), self.cancel.clone());
        self.spawn("kubelet", run);

        let mut agent = network::agent::Config::new(&config.node_name, vec![config.cluster_cidr]);
        agent.cni_conf_dir = cni_conf_dir(&config.data_dir);
        let client = client_as(self.api, &node, &["system:nodes"]);
        let run = network::agent::run(agent, client, self.informers.clone(), self.cancel.clone());
        self.spawn("network", run);

        if !config.disable_kube_proxy {
            let proxy = network::proxy::Config {
                node_name: config.node_name.clone(),
                cluster_cidrs: vec![config.cluster_cidr],
            };
            let client = client_as(self.api, "system:kube-proxy", &[]);
            let run = network::proxy::run(proxy, client, self.informers.clone(), self.cancel.clone());
            self.spawn("proxy", run);
        }
        Ok(())
    }

    fn kubelet_config(
        &self,
        agent: &Agent,
        cri_socket: PathBuf,
        report: watch::Sender<kubelet::NodeReport>,
    ) -> kubelet::Config {
        let config = self.config;
        let agent_dir = config.data_dir.join("agent");
        let all = if config.listen.is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
        kubelet::Config {
            node_name: config.node_name.clone(),
            node_ips: config.node_ips.clone(),
            cri_socket,
            root_dir: PathBuf::from("/var/lib/kubelet"),
            pod_manifest_dir: Some(agent_dir.join("pod-manifests")),
            pod_log_dir: PathBuf::from("/var/log/pods"),
            image_dirs: vec![PathBuf::from(BUNDLED_IMAGES), agent_dir.join("images")],
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            listen: SocketAddr::new(all, KUBELET_PORT),
            serving_cert: self.pki.kubelet_serving.cert.clone(),
            serving_key: self.pki.kubelet_serving.key.clone(),
            client_ca: self.pki.client_ca.clone(),
            node_labels: agent.labels.clone(),
            register_with_taints: agent.taints.clone(),
            max_pods: MAX_PODS,
            version: VERSION.to_owned(),
            report,
        }
    }

    fn spawn(&mut self, name: &'static str, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let cancel = self.cancel.clone();
        let task = async move {
            run.await.with_context(|| format!("{name} failed"))?;
            anyhow::ensure!(cancel.is_cancelled(), "{name} ended");
            Ok(())
        };
        self.tasks.spawn(task.instrument(error_span!("component", name)));
    }
}

fn cni_conf_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/etc/cni/net.d")
}

fn containerd_config(data_dir: &Path) -> kubelet::containerd::Config {
    kubelet::containerd::Config {
        binary: PathBuf::from("containerd"),
        config_file: data_dir.join("agent/etc/containerd/config.toml"),
        root: data_dir.join("agent/containerd"),
        state: PathBuf::from(CONTAINERD_STATE),
        socket: PathBuf::from(CONTAINERD_SOCKET),
        cni_conf_dir: cni_conf_dir(data_dir),
        cni_bin_dir: PathBuf::from(CNI_BIN_DIR),
        sandbox_image: PAUSE_IMAGE.to_owned(),
        stream_port: CONTAINERD_STREAM_PORT,
    }
}
