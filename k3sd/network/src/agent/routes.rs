//! Backend `host-gw`: a route to every other node's pods, by that node's address.
//!
//! It serves nodes that are neighbours on one network. Routes are known as ours by their protocol number, so that those of
//! nodes that are gone, or of an earlier run, can be told from other people's and removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use client::{Informer, ObjectKey};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tracing::{debug, info, warn};

use super::{pod_cidrs, public_ip};
use crate::netlink::{Netlink, PeerRoute};

/// Our number in the `protocol` field of routes (`ip route` shows it as `proto 83`). Numbers up to 42, and a few from 186 on, are taken
/// by the kernel and by well-known daemons.
const PROTOCOL: u8 = 83;

/// The routes that lead to other nodes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Per node, what leads to its pods.
    peers: BTreeMap<String, Vec<PeerRoute>>,
    /// Those that the kernel refused, so that each is complained of once.
    refused: BTreeSet<PeerRoute>,
}

impl Routes {
    /// Takes in how a node is now. Returns whether that changes any route.
    pub(super) fn observe(&mut self, own: &str, key: &ObjectKey, nodes: &Informer<Node>) -> bool {
        if key.name == own {
            return false;
        }
        let node = nodes.get(key).and_then(|stored| {
            stored
                .decode()
                .inspect_err(|error| warn!(node = key.name, error = %error, "cannot read a node"))
                .ok()
        });
        let routes = node.as_ref().map(routes_to).unwrap_or_default();
        if routes.is_empty() {
            return self.peers.remove(&key.name).is_some();
        }
        self.peers.insert(key.name.clone(), routes.clone()) != Some(routes)
    }

    /// Makes the kernel's routes those that are wanted. Returns whether all of them are in place.
    pub(super) async fn apply(&mut self) -> anyhow::Result<bool> {
        let netlink = Netlink::open()?;
        let present: BTreeSet<PeerRoute> = netlink.routes_of(PROTOCOL).await?.into_iter().collect();
        let wanted: BTreeSet<PeerRoute> = self.peers.values().flatten().copied().collect();
        let kept: BTreeSet<IpNet> = wanted.iter().map(|route| route.destination).collect();
        for route in present.difference(&wanted) {
            // One that leads elsewhere now is replaced, not removed: there is no moment without it.
            if !kept.contains(&route.destination) {
                netlink.remove_route(*route, PROTOCOL).await?;
                info!(%route, "route to a node removed");
            }
        }
        let mut refused = BTreeSet::new();
        for route in wanted.difference(&present) {
            match netlink.replace_route(*route, PROTOCOL).await {
                Ok(()) => info!(%route, "route to a node added"),
                Err(error) => {
                    let reason = format!("{:#}", anyhow::Error::new(error));
                    if self.refused.contains(route) {
                        debug!(%route, reason, "still no route to a node");
                    } else {
                        warn!(%route, reason, "no route to a node's pods: host-gw needs nodes that are neighbours on one network");
                    }
                    refused.insert(*route);
                }
            }
        }
        self.refused = refused;
        Ok(self.refused.is_empty())
    }
}

/// What leads to the pods of a node: of each family, by the node's address of that family.
fn routes_to(node: &Node) -> Vec<PeerRoute> {
    let route = |destination: IpNet| {
        let destination = destination.trunc();
        let gateway = gateway(node, destination.addr().is_ipv6())?;
        Some(PeerRoute { destination, gateway })
    };
    pod_cidrs(node).into_iter().filter_map(route).collect()
}

/// What the node's own network agent says, else what its kubelet does.
fn gateway(node: &Node, v6: bool) -> Option<IpAddr> {
    public_ip(node, v6).or_else(|| {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
        internal.filter_map(|address| address.address.parse().ok()).find(|ip: &IpAddr| ip.is_ipv6() == v6)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(node: serde_json::Value) -> Vec<String> {
        routes_to(&serde_json::from_value(node).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_pod_network_is_reached_by_the_nodes_address_of_its_family() {
        let mut node = serde_json::json!({
            "metadata": {},
            "spec": {"podCIDRs": ["10.42.1.0/24", "fd00:42:0:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "b"},
                {"type": "InternalIP", "address": "10.0.0.2"},
                {"type": "InternalIP", "address": "fd00::2"},
            ]},
        });
        assert_eq!(routes(node.clone()), ["10.42.1.0/24 by 10.0.0.2", "fd00:42:0:1::/64 by fd00::2"]);
        node["metadata"]["annotations"] =
            serde_json::json!({"flannel.alpha.coreos.com/public-ip": "10.0.0.3"});
        assert_eq!(routes(node.clone())[0], "10.42.1.0/24 by 10.0.0.3");
        node["status"] = serde_json::json!({});
        assert_eq!(routes(node).len(), 1, "no way to the IPv6 pods");
    }
}
