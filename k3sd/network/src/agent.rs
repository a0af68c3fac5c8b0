//! The node's network agent: makes the node ready to attach pods as soon as the node has pod networks.
//!
//! It waits for `podCIDRs` of its Node and then, in this order: kernel parameters, masquerading (table `skerry-masq`),
//! `subnet.env`, and last the CNI configuration, at which the container runtime reports its network as ready. It does the
//! same again when the Node's networks change. Then, and whenever nodes or the kernel's routes change, it keeps the routes to the
//! pods of other nodes ([`Backend::HostGw`]).
//!
//! Current limitations: no encapsulating backend, so nodes must be neighbours on one network.

mod files;
mod masquerade;
mod routes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use client::{Backoff, Informer, Informers, ObjectKey, request};
use futures::FutureExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::routes::Routes;
use crate::netlink::{Netlink, NetworkChanges};
use crate::{nft, sysctl};

/// Prefix of flannel's annotations of Nodes.
const ANNOTATION: &str = "flannel.alpha.coreos.com";
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Ethernet's, for a node without any network: pods on it still reach each other.
const DEFAULT_MTU: u32 = 1500;

const CONNTRACK_PER_CORE: usize = 32768;
const CONNTRACK_MIN: usize = 131_072;
const CONNTRACK_ESTABLISHED_SECONDS: &str = "86400";
const CONNTRACK_CLOSE_WAIT_SECONDS: &str = "3600";
/// There once the module `br_netfilter` is.
const BRIDGE_FILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// How pods of different nodes reach each other (K3s's `--flannel-backend`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A route per node: for nodes that are neighbours on one network.
    HostGw,
    /// The pod network is somebody else's, CNI configuration included; [`run`] is not to be started.
    None,
}

impl Backend {
    /// Its name in flags and in what a server tells its agents.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostGw => "host-gw",
            Self::None => "none",
        }
    }
}

/// A backend that is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not there yet; allowed: host-gw, none")]
pub struct UnknownBackend(String);

impl std::str::FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        [Self::HostGw, Self::None]
            .into_iter()
            .find(|backend| backend.name() == text)
            .ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

/// What the agent needs to know of its node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the own node.
    pub node_name: String,
    /// Addresses by which other nodes reach this one.
    pub node_ips: Vec<IpAddr>,
    /// Pod networks of the cluster, one per address family.
    pub cluster_cidrs: Vec<IpNet>,
    /// Directory of CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Directory of CNI plugin programs. Links to the running program are made there if they are missing; where that is not
    /// possible (a read-only image) they must be there.
    pub cni_bin_dir: PathBuf,
    /// Directory of the plugin's reservations.
    pub cni_data_dir: PathBuf,
    /// Path of `subnet.env`, which other programs read.
    pub subnet_env: PathBuf,
    /// The interface that leads to other machines; `None`: the one of the default route.
    pub interface: Option<String>,
    /// Whether IPv6 pods are masqueraded, too (`--flannel-ipv6-masq`).
    pub ipv6_masquerade: bool,
}

impl Config {
    /// K3s's places, for a node of this name.
    pub fn new(node_name: impl Into<String>, cluster_cidrs: Vec<IpNet>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: Vec::new(),
            cluster_cidrs,
            cni_conf_dir: PathBuf::from("/var/lib/rancher/k3s/agent/etc/cni/net.d"),
            cni_bin_dir: PathBuf::from("/opt/cni/bin"),
            cni_data_dir: PathBuf::from("/var/lib/cni/networks"),
            subnet_env: PathBuf::from("/run/flannel/subnet.env"),
            interface: None,
            ipv6_masquerade: false,
        }
    }
}

/// What the node was set up for; nothing is done as long as it stays the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setup {
    /// One pod network per address family.
    subnets: Vec<IpNet>,
    mtu: u32,
}

/// Runs the agent until `cancel`. What fails is logged and tried again.
///
/// `client` writes the own Node; `informers` read all of them.
pub async fn run(
    config: Config,
    client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let nodes: Informer<Node> = informers.shared();
    prepare_host(&config).await;
    let mut agent = Agent { config, client, nodes, done: None, routes: Routes::default() };
    cancel.run_until_cancelled(agent.work()).await;
    Ok(())
}

struct Agent {
    config: Config,
    client: kube::Client,
    nodes: Informer<Node>,
    done: Option<Setup>,
    routes: Routes,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    setup: bool,
    routes: bool,
}

impl Agent {
    async fn work(&mut self) {
        let mut changes = self.nodes.subscribe();
        let mut kernel = Netlink::changes()
            .inspect_err(|error| warn!(error = %error, "routes that others remove will be missed"))
            .ok();
        let own = ObjectKey::cluster(&self.config.node_name);
        // Routes of an earlier run, to nodes that are gone, are found once all nodes are known.
        self.nodes.synced().await;
        let mut due = Due { setup: true, routes: true };
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            while let Some(key) = changes.next().now_or_never() {
                let Some(key) = key else { return };
                due.setup |= key == own;
                due.routes |= self.routes.observe(&own.name, &key, &self.nodes);
            }
            due = self.follow(due).await;
            let retry = if due.setup || due.routes { Some(backoff.next_delay()) } else { None };
            if retry.is_none() {
                backoff.reset();
            }
            tokio::select! {
                key = changes.next() => {
                    let Some(key) = key else { return };
                    due.setup |= key == own;
                    due.routes |= self.routes.observe(&own.name, &key, &self.nodes);
                }
                () = kernel_change(&mut kernel) => due.routes = true,
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
        }
    }

    /// Does what is due, and says what of it still is.
    async fn follow(&mut self, due: Due) -> Due {
        let mut left = Due::default();
        if due.setup
            && let Err(error) = self.set_up().await
        {
            warn!(error = format!("{error:#}"), "failed to set up the pod network, will be tried again");
            left.setup = true;
        }
        if due.routes {
            match self.routes.apply().await {
                Ok(all) => left.routes = !all,
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "failed to set the routes to nodes, will be tried again"
                    );
                    left.routes = true;
                }
            }
        }
        left
    }

    /// Sets the node up for what its Node object says now.
    async fn set_up(&mut self) -> anyhow::Result<()> {
        let config = &self.config;
        let Some(stored) = self.nodes.get(&ObjectKey::cluster(&config.node_name)) else { return Ok(()) };
        let node = stored.decode()?;
        let subnets = pod_cidrs(&node);
        if subnets.is_empty() {
            debug!(node = %config.node_name, "waiting for the node's pod networks");
            return Ok(());
        }
        if self.done.as_ref().is_none_or(|done| done.subnets != subnets) {
            let setup = Setup { subnets, mtu: uplink_mtu(config).await };
            apply(config, &setup).await?;
            info!(node = %config.node_name, subnets = ?setup.subnets, mtu = setup.mtu, "pod network ready");
            self.done = Some(setup);
        }
        self.announce(&node).await
    }

    /// Tells the agents of other nodes, flannel among them, how to reach this one's pods.
    async fn announce(&self, node: &Node) -> anyhow::Result<()> {
        let mut wanted = BTreeMap::from([
            (format!("{ANNOTATION}/kube-subnet-manager"), "true".to_owned()),
            (format!("{ANNOTATION}/backend-type"), Backend::HostGw.name().to_owned()),
            (format!("{ANNOTATION}/backend-data"), "null".to_owned()),
        ]);
        for v6 in [false, true] {
            if let Some(ip) = self.config.node_ips.iter().find(|ip| ip.is_ipv6() == v6) {
                wanted.insert(format!("{ANNOTATION}/{}", public_ip_key(v6)), ip.to_string());
            }
        }
        let present = node.metadata.annotations.as_ref();
        if wanted.iter().all(|(key, value)| present.and_then(|present| present.get(key)) == Some(value)) {
            return Ok(());
        }
        let patch = serde_json::json!({ "metadata": { "annotations": wanted } });
        let path = format!("/api/v1/nodes/{}", self.config.node_name);
        let _patched: IgnoredAny = request::patch(&self.client, &path, request::Patch::Merge, &patch)
            .await
            .context("failed to annotate the node")?;
        Ok(())
    }
}

async fn kernel_change(kernel: &mut Option<NetworkChanges>) {
    match kernel {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn public_ip_key(v6: bool) -> &'static str {
    if v6 { "public-ipv6" } else { "public-ip" }
}

/// The address a node's network agent announces.
fn public_ip(node: &Node, v6: bool) -> Option<IpAddr> {
    let annotations = node.metadata.annotations.as_ref()?;
    annotations.get(&format!("{ANNOTATION}/{}", public_ip_key(v6)))?.parse().ok()
}

async fn apply(config: &Config, setup: &Setup) -> anyhow::Result<()> {
    set_parameters(setup)?;
    // Bridged packets that netfilter does not see cannot be translated back on their way from pod to pod.
    let bridged_seen = sysctl::exists(BRIDGE_FILTER);
    let script = masquerade::script(config, &setup.subnets, bridged_seen);
    nft::apply(masquerade::TABLE, &script).await?;
    // Its rules have loaded the module.
    size_connection_tracking();
    files::replace(&config.subnet_env, &files::subnet_env(&config.cluster_cidrs, setup))?;
    let list = config.cni_conf_dir.join("10-flannel.conflist");
    files::replace(&list, &files::conflist(&config.cni_data_dir, setup))?;
    Ok(())
}

/// The networks of a node: `podCIDRs`, or the older `podCIDR`.
fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten();
    let listed: Vec<IpNet> = listed.filter_map(|cidr| cidr.parse().ok()).collect();
    if !listed.is_empty() {
        return listed;
    }
    spec.pod_cidr.iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// What can be done before anything is known of the node. Nothing here is fatal: a kernel may have it all built in.
async fn prepare_host(config: &Config) {
    load_bridge_filter().await;
    if let Err(error) = files::link_plugins(&config.cni_bin_dir) {
        warn!(error = format!("{error:#}"), "CNI plugins are missing, pods will not start");
    }
}

/// K3s's limits of connection tracking (kube-proxy's defaults). In a network namespace of its own a node cannot raise the
/// table's size, which is the host's.
fn size_connection_tracking() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let entries = (CONNTRACK_PER_CORE * cores).max(CONNTRACK_MIN).to_string();
    for (key, value) in [
        ("nf_conntrack_max", entries.as_str()),
        ("nf_conntrack_tcp_timeout_established", CONNTRACK_ESTABLISHED_SECONDS),
        ("nf_conntrack_tcp_timeout_close_wait", CONNTRACK_CLOSE_WAIT_SECONDS),
    ] {
        if let Err(error) = sysctl::set(&format!("net/netfilter/{key}"), value) {
            debug!(error = %error, "connection tracking keeps the kernel's default");
        }
    }
}

/// Of the modules that pods and services need, this is the one that nothing loads by its use.
async fn load_bridge_filter() {
    if sysctl::exists(BRIDGE_FILTER) {
        return;
    }
    let loaded =
        tokio::process::Command::new("modprobe").arg("br_netfilter").kill_on_drop(true).output().await;
    if !sysctl::exists(BRIDGE_FILTER) {
        let reason = match loaded {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        warn!(
            reason,
            "no module 'br_netfilter': services will not see the addresses of clients on the same node"
        );
    }
}

fn set_parameters(setup: &Setup) -> anyhow::Result<()> {
    for (family, v6, tables) in [("ipv4", false, "iptables"), ("ipv6", true, "ip6tables")] {
        if !setup.subnets.iter().any(|subnet| subnet.addr().is_ipv6() == v6) {
            continue;
        }
        for scope in ["all", "default"] {
            sysctl::set(&format!("net/{family}/conf/{scope}/forwarding"), "1")
                .context("pods need the node to forward their packets")?;
        }
        let bridge = format!("net/bridge/bridge-nf-call-{tables}");
        if sysctl::exists(&bridge) {
            sysctl::set(&bridge, "1").context("services need bridged packets to pass netfilter")?;
        }
    }
    Ok(())
}

/// MTU of the interface that leads to other machines.
async fn uplink_mtu(config: &Config) -> u32 {
    match find_uplink_mtu(config).await {
        Ok(Some(mtu)) => mtu,
        Ok(None) => {
            info!(mtu = DEFAULT_MTU, "no default route, using a default MTU for pods");
            DEFAULT_MTU
        }
        Err(error) => {
            warn!(error = format!("{error:#}"), mtu = DEFAULT_MTU, "using a default MTU for pods");
            DEFAULT_MTU
        }
    }
}

async fn find_uplink_mtu(config: &Config) -> anyhow::Result<Option<u32>> {
    let netlink = Netlink::open()?;
    if let Some(name) = &config.interface {
        return Ok(Some(netlink.link(name).await?.mtu));
    }
    let Some(route) = netlink.default_routes().await?.into_iter().next() else { return Ok(None) };
    Ok(netlink.link_by_index(route.interface).await?.map(|link| link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_pod_networks_are_read() {
        let node =
            |spec| serde_json::from_value(serde_json::json!({ "metadata": {}, "spec": spec })).unwrap();
        let both =
            node(serde_json::json!({"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24", "fd00::/64"]}));
        assert_eq!(pod_cidrs(&both).len(), 2);
        assert_eq!(pod_cidrs(&node(serde_json::json!({"podCIDR": "10.42.0.0/24"}))).len(), 1);
        assert!(pod_cidrs(&node(serde_json::json!({}))).is_empty());
    }
}
