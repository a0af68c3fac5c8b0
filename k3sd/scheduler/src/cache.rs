//! The scheduler's picture of the cluster: nodes, and the pods that are on them or about to be.
//!
//! A pod whose binding has been decided is *assumed* on its node at once, so that the next decision counts it; the pod's
//! own update confirms it, and a failed binding takes it off again (`pkg/scheduler/backend/cache`).

use std::collections::{BTreeMap, HashMap};

use crate::{
    resources::Resources,
    views::{HostPort, Node, Pod},
};

/// What is kept of a pod that is on a node.
#[derive(Debug)]
struct Placed {
    node: String,
    requests: Resources,
    scoring_requests: Resources,
    host_ports: Vec<HostPort>,
    assumed: bool,
}

/// A node and what its pods take.
#[derive(Debug, Default)]
pub(crate) struct NodeInfo {
    pub node: Node,
    /// Pods may be known before their node is; such an entry is no candidate.
    known: bool,
    pub pods: i64,
    pub requested: Resources,
    pub scoring_requested: Resources,
    pub host_ports: Vec<HostPort>,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    nodes: BTreeMap<String, NodeInfo>,
    pods: HashMap<String, Placed>,
}

impl Cache {
    /// The candidates, ordered by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|info| info.known)
    }

    /// Adds or updates a node; the state before is returned.
    pub(crate) fn set_node(&mut self, node: Node) -> Option<Node> {
        let info = self.nodes.entry(node.name.clone()).or_default();
        let old = std::mem::replace(&mut info.node, node);
        std::mem::replace(&mut info.known, true).then_some(old)
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            info.known = false;
        }
        self.drop_if_unused(name);
    }

    /// Counts a pod on the node that has been chosen for it.
    pub(crate) fn assume(&mut self, pod: &Pod, node: &str) {
        self.place(pod, node, true);
    }

    /// Counts a pod on the node it is on; this confirms an assumed one.
    pub(crate) fn set_pod(&mut self, pod: &Pod) {
        self.place(pod, &pod.node_name, false);
    }

    /// Whether the pod has been given a node but has not been seen there yet.
    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    /// Takes a pod off its node; whether it was on one.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.pods.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&placed.node) {
            info.pods -= 1;
            info.requested.subtract(&placed.requests);
            info.scoring_requested.subtract(&placed.scoring_requests);
            for port in &placed.host_ports {
                if let Some(at) = info.host_ports.iter().position(|used| used == port) {
                    info.host_ports.swap_remove(at);
                }
            }
        }
        self.drop_if_unused(&placed.node);
        true
    }

    fn place(&mut self, pod: &Pod, node: &str, assumed: bool) {
        self.remove_pod(&pod.uid);
        let info = self.nodes.entry(node.to_owned()).or_default();
        info.pods += 1;
        info.requested.add(&pod.requests);
        info.scoring_requested.add(&pod.scoring_requests);
        info.host_ports.extend(pod.host_ports.iter().cloned());
        let placed = Placed {
            node: node.to_owned(),
            requests: pod.requests.clone(),
            scoring_requests: pod.scoring_requests.clone(),
            host_ports: pod.host_ports.clone(),
            assumed,
        };
        self.pods.insert(pod.uid.clone(), placed);
    }

    fn drop_if_unused(&mut self, name: &str) {
        if self.nodes.get(name).is_some_and(|info| !info.known && info.pods == 0) {
            self.nodes.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node<'a>(cache: &'a Cache, name: &str) -> Option<&'a NodeInfo> {
        cache.nodes().find(|info| info.node.name == name)
    }

    fn pod(uid: &str, node: &str, milli_cpu: i64) -> Pod {
        Pod {
            uid: uid.to_owned(),
            node_name: node.to_owned(),
            requests: Resources { milli_cpu, ..Resources::default() },
            host_ports: vec![HostPort { ip: "0.0.0.0".into(), protocol: "TCP".into(), port: 80 }],
            ..Pod::default()
        }
    }

    #[test]
    fn an_assumed_pod_counts_once_before_and_after_it_is_confirmed() {
        let mut cache = Cache::default();
        cache.set_node(Node { name: "a".into(), ..Node::default() });
        let unbound = pod("1", "", 100);
        cache.assume(&unbound, "a");
        assert!(cache.is_assumed("1"));
        cache.set_pod(&pod("1", "a", 100));
        assert!(!cache.is_assumed("1"));
        let info = node(&cache, "a").unwrap();
        assert_eq!((info.pods, info.requested.milli_cpu, info.host_ports.len()), (1, 100, 1));
        assert!(cache.remove_pod("1") && !cache.remove_pod("1"));
        let info = node(&cache, "a").unwrap();
        assert_eq!((info.pods, info.requested.milli_cpu, info.host_ports.len()), (0, 0, 0));
    }

    #[test]
    fn pods_seen_before_their_node_are_counted_when_it_comes() {
        let mut cache = Cache::default();
        cache.set_pod(&pod("1", "late", 50));
        assert_eq!(cache.nodes().count(), 0);
        cache.set_node(Node { name: "late".into(), ..Node::default() });
        assert_eq!(node(&cache, "late").unwrap().requested.milli_cpu, 50);
        cache.remove_node("late");
        assert!(node(&cache, "late").is_none());
        cache.remove_pod("1");
        assert!(cache.nodes.is_empty());
    }
}
