//! What the scheduler reads of pods and nodes: projections of a few hundred bytes, decoded straight from the cached
//! bytes. Nothing here is a whole API object.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::resources::{QuantityMap, Resources};

/// A pod as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pod {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub node_name: String,
    pub scheduler_name: String,
    pub priority: i32,
    pub generation: Option<i64>,
    pub gated: bool,
    pub deleting: bool,
    /// Succeeded or Failed: it uses nothing any more.
    pub terminal: bool,
    pub node_selector: BTreeMap<String, String>,
    pub node_affinity: NodeAffinity,
    pub tolerations: Vec<Toleration>,
    pub requests: Resources,
    /// Requests with upstream's defaults for containers that ask for nothing, for scoring only.
    pub scoring_requests: Resources,
    pub host_ports: Vec<HostPort>,
    /// The `PodScheduled` condition, if there is one.
    pub scheduled: Option<Condition>,
}

/// A node as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
}

/// A port of the host that a container claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Toleration {
    pub key: String,
    pub operator: String,
    pub value: String,
    pub effect: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<PreferredTerm>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelector {
    #[serde(rename = "nodeSelectorTerms")]
    pub terms: Vec<NodeSelectorTerm>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct PreferredTerm {
    pub weight: i64,
    pub preference: NodeSelectorTerm,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelectorTerm {
    pub match_expressions: Vec<Requirement>,
    pub match_fields: Vec<Requirement>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Requirement {
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
}

// What the bytes hold, before it is condensed into the structs above.

#[derive(Deserialize)]
struct RawPod {
    metadata: RawMeta,
    spec: RawPodSpec,
    #[serde(default)]
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    name: String,
    namespace: String,
    uid: String,
    generation: Option<i64>,
    deletion_timestamp: Option<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    node_name: String,
    scheduler_name: String,
    priority: i32,
    scheduling_gates: Vec<serde::de::IgnoredAny>,
    node_selector: BTreeMap<String, String>,
    affinity: RawAffinity,
    tolerations: Vec<Toleration>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: QuantityMap,
    resources: Requirements,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinity {
    node_affinity: NodeAffinity,
}

/// A container as far as its requests and ports go.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub restart_policy: String,
    pub resources: Requirements,
    pub ports: Vec<Port>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Requirements {
    pub requests: QuantityMap,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Port {
    pub host_port: i32,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    pub protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodStatus {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct RawNode {
    metadata: RawMeta,
    #[serde(default)]
    spec: RawNodeSpec,
    #[serde(default)]
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    taints: Vec<Taint>,
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    allocatable: QuantityMap,
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawPod::deserialize(deserializer).map(Pod::from)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawNode::deserialize(deserializer)?;
        Ok(Self {
            name: raw.metadata.name,
            labels: raw.metadata.labels,
            taints: raw.spec.taints,
            unschedulable: raw.spec.unschedulable,
            allocatable: Resources::from(&raw.status.allocatable),
        })
    }
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPod { metadata, spec, status } = raw;
        let total = |scoring| {
            Resources::of_pod(
                &spec.containers,
                &spec.init_containers,
                &spec.resources.requests,
                &spec.overhead,
                scoring,
            )
        };
        let (requests, scoring_requests) = (total(false), total(true));
        Self {
            host_ports: host_ports(&spec),
            requests,
            scoring_requests,
            uid: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            node_name: spec.node_name,
            scheduler_name: spec.scheduler_name,
            priority: spec.priority,
            generation: metadata.generation,
            gated: !spec.scheduling_gates.is_empty(),
            deleting: metadata.deletion_timestamp.is_some(),
            terminal: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            node_selector: spec.node_selector,
            node_affinity: spec.affinity.node_affinity,
            tolerations: spec.tolerations,
            scheduled: status.conditions.into_iter().find(|condition| condition.kind == "PodScheduled"),
        }
    }
}

/// The host's ports that the containers (and sidecars) claim. With `hostNetwork` the API server has set each
/// `hostPort` to the container port already.
fn host_ports(spec: &RawPodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
    let mut ports: Vec<HostPort> = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports)
        .filter(|port| port.host_port > 0)
        .map(|port| HostPort {
            ip: if port.host_ip.is_empty() { "0.0.0.0".to_owned() } else { port.host_ip.clone() },
            protocol: if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.clone() },
            port: port.host_port,
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}

impl Toleration {
    /// Whether this toleration covers the taint (`pkg/apis/core/v1/helper`, v1.36): an empty key with `Exists` covers
    /// every key, an empty effect every effect.
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        match self.operator.as_str() {
            "" | "Equal" => self.value == taint.value,
            "Exists" => true,
            _ => false,
        }
    }
}

impl Pod {
    /// Whether a decision about the other pod would be the same.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        let judged = |pod: &Self| Self { scheduled: None, generation: None, ..pod.clone() };
        judged(self) == judged(other)
    }

    /// `namespace/name`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.tolerates(taint))
    }
}
