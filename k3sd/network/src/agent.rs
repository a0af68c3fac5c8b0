//! The node's network agent: makes the node ready to attach pods as soon as the node has pod networks.
//!
//! It waits for `podCIDRs` of its Node and then, in this order: kernel parameters, masquerading (table `skerry-masq`),
//! `subnet.env`, and last the CNI configuration, at which the container runtime reports its network as ready. It does the
//! same again when the Node's networks change.
//!
//! Current limitations: no backend yet, so pods of other nodes are not reachable.

mod files;
mod masquerade;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use client::{Backoff, Informer, Informers, ObjectKey};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::netlink::Netlink;
use crate::{nft, sysctl};

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

/// What the agent needs to know of its node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the own node.
    pub node_name: String,
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
pub async fn run(
    config: Config,
    _client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let nodes: Informer<Node> = informers.filtered(&format!("metadata.name={}", config.node_name));
    prepare_host(&config).await;
    let work = async {
        let mut changes = nodes.subscribe();
        let mut done: Option<Setup> = None;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let retry = match follow(&config, &nodes, &mut done).await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    warn!(error = format!("{error:#}"), retry_in = ?delay, "failed to set up the pod network");
                    Some(delay)
                }
            };
            tokio::select! {
                change = changes.next() => if change.is_none() { return },
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
        }
    };
    cancel.run_until_cancelled(work).await;
    Ok(())
}

/// Sets the node up for what its Node object says now.
async fn follow(config: &Config, nodes: &Informer<Node>, done: &mut Option<Setup>) -> anyhow::Result<()> {
    let Some(stored) = nodes.get(&ObjectKey::cluster(&config.node_name)) else { return Ok(()) };
    let subnets = pod_cidrs(&stored.decode()?);
    if subnets.is_empty() {
        debug!(node = %config.node_name, "waiting for the node's pod networks");
        return Ok(());
    }
    if done.as_ref().is_some_and(|done| done.subnets == subnets) {
        return Ok(());
    }
    let setup = Setup { subnets, mtu: uplink_mtu(config).await };
    apply(config, &setup).await?;
    info!(node = %config.node_name, subnets = ?setup.subnets, mtu = setup.mtu, "pod network ready");
    *done = Some(setup);
    Ok(())
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
