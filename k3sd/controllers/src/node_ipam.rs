//! Gives every node its pod network, cut from the cluster's (`--cluster-cidr`).
//!
//! Reads: nodes. Owns: `spec.podCIDR` and `spec.podCIDRs` of nodes that have none.
//!
//! What is taken is read from the nodes themselves, so nothing else needs to be stored. One worker, so that two nodes
//! never get the same network; between a patch and its arrival in the cache the network is remembered.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use client::{
    Informer, ObjectKey, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::{
    Config,
    context::{Context, feed, own_key, path},
    recorder,
};

/// A node's networks, as far as they are set.
#[derive(Deserialize, Default)]
struct View {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    uid: String,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

struct Allocator {
    context: Context,
    nodes: Informer<Node>,
    recorder: client::Recorder,
    /// Given to nodes whose update has not arrived yet.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
}

pub(crate) async fn run(context: Context) {
    let nodes = context.informers.shared::<Node>();
    nodes.synced().await;
    let queue = WorkQueue::<ObjectKey>::new();
    let recorder = recorder(&context, "cidrAllocator");
    let allocator = Arc::new(Allocator {
        context: context.clone(),
        nodes: nodes.clone(),
        recorder,
        given: Mutex::default(),
    });
    let reconcile = move |key| {
        let allocator = allocator.clone();
        async move { allocator.reconcile(key).await.map(|()| None) }
    };
    tokio::join!(
        feed(&nodes, &queue, own_key),
        run_workers("node_ipam", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

impl Allocator {
    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<()> {
        let Some(node) = self.nodes.get(&key) else {
            self.given().remove(&key.name);
            return Ok(());
        };
        let view: View = node.project()?;
        if !view.spec.pod_cidr.is_empty() {
            self.given().remove(&key.name);
            return Ok(());
        }
        if view.metadata.deletion_timestamp.is_some() || self.given().contains_key(&key.name) {
            return Ok(());
        }
        let taken = self.taken()?;
        let Some(networks) = choose(&self.context.config, &taken) else {
            let reference = ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(key.name.clone()),
                uid: Some(view.metadata.uid),
                ..ObjectReference::default()
            };
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.event(&reference, "Normal", "CIDRNotAvailable", message);
            anyhow::bail!("no pod network is left for node {}", key.name);
        };
        self.given().insert(key.name.clone(), networks.clone());
        let result = self.assign(&key, &networks).await;
        if result.is_err() {
            self.given().remove(&key.name);
        }
        result
    }

    async fn assign(&self, key: &ObjectKey, networks: &[IpNet]) -> anyhow::Result<()> {
        let change = json!({"spec": {"podCIDR": networks.first(), "podCIDRs": networks}});
        request::patch::<Value>(&self.context.client, &path::<Node>(key), Patch::Strategic, &change).await?;
        info!(node = %key.name, networks = ?networks, "pod network assigned");
        Ok(())
    }

    fn taken(&self) -> anyhow::Result<BTreeSet<IpNet>> {
        let mut taken: BTreeSet<_> = self.given().values().flatten().copied().collect();
        for node in self.nodes.list() {
            let spec = node.project::<View>()?.spec;
            taken.extend(spec.pod_cidrs);
            taken.extend(spec.pod_cidr.parse::<IpNet>());
        }
        Ok(taken)
    }

    fn given(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<IpNet>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first free network of each family; `None` if one family has none left.
fn choose(config: &Config, taken: &BTreeSet<IpNet>) -> Option<Vec<IpNet>> {
    config.cluster_cidrs.iter().map(|cluster| first_free(config, cluster, taken)).collect()
}

fn first_free(config: &Config, cluster: &IpNet, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let overlaps =
        |candidate: &IpNet| taken.iter().any(|other| other.contains(candidate) || candidate.contains(other));
    match cluster {
        IpNet::V4(net) => {
            let networks = net.subnets(config.node_cidr_mask_ipv4).ok()?;
            networks.map(IpNet::V4).find(|net| !overlaps(net))
        }
        IpNet::V6(net) => {
            let networks = net.subnets(config.node_cidr_mask_ipv6).ok()?;
            networks.map(IpNet::V6).find(|net| !overlaps(net))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(cidrs: &[&str]) -> Config {
        Config {
            cluster_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            node_cidr_mask_ipv4: 24,
            node_cidr_mask_ipv6: 64,
            root_ca: String::new(),
        }
    }

    #[test]
    fn the_first_free_network_of_each_family_is_given_until_none_is_left() {
        let config = config(&["10.42.0.0/22", "fd00:42::/56"]);
        let mut taken: BTreeSet<IpNet> = ["10.42.1.0/24".parse().unwrap()].into();
        let mut given = Vec::new();
        while let Some(networks) = choose(&config, &taken) {
            given.push(networks.iter().map(ToString::to_string).collect::<Vec<_>>());
            taken.extend(networks);
        }
        assert_eq!(
            given,
            [
                ["10.42.0.0/24", "fd00:42::/64"],
                ["10.42.2.0/24", "fd00:42:0:1::/64"],
                ["10.42.3.0/24", "fd00:42:0:2::/64"],
            ]
        );
    }

    #[test]
    fn a_taken_network_of_another_size_is_not_overlapped() {
        let taken = ["10.42.0.0/23".parse().unwrap(), "10.42.2.128/25".parse().unwrap()].into();
        let given = choose(&config(&["10.42.0.0/16"]), &taken).unwrap();
        assert_eq!(given, ["10.42.3.0/24".parse().unwrap()]);
        assert_eq!(choose(&config(&["10.42.0.0/25"]), &BTreeSet::new()), None);
    }
}
