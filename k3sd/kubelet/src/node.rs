//! The Node object: registered once, its status written when it changes and every five minutes, a lease renewed
//! every ten seconds in between.
//!
//! Ready means that the runtime and its network answer; upstream's `pkg/kubelet/nodestatus/setters.go`.

pub(crate) mod machine;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use client::lease::{LeaseSettings, heartbeat};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::node::machine::Pressure;

/// How often the node is looked at: upstream's `nodeStatusUpdateFrequency`.
const CHECK: Duration = Duration::from_secs(10);
/// While it is not ready it is looked at more often, since somebody waits.
const CHECK_NOT_READY: Duration = Duration::from_millis(200);
/// An unchanged status is written this often: upstream's `nodeStatusReportFrequency`.
const REPORT: Duration = Duration::from_secs(300);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The node's lease, as upstream has it.
const LEASE_DURATION: Duration = Duration::from_secs(40);
const LEASE_RENEW: Duration = Duration::from_secs(10);
/// Most images listed in the status.
const MAX_IMAGES: usize = 50;

/// Name of the node and, once it is registered, the uid of its object.
#[derive(Debug)]
pub(crate) struct NodeIdentity {
    pub(crate) name: String,
    pub(crate) uid: OnceLock<String>,
}

impl NodeIdentity {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), uid: OnceLock::new() }
    }
}

/// Registers the node and keeps its status and lease until `cancel`.
pub(crate) async fn run(
    agent: Arc<Agent>,
    runtime_version: String,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let name = agent.config.node_name.clone();
    let Some(node) = cancel.run_until_cancelled(register(&agent, &runtime_version)).await else {
        return Ok(());
    };
    let uid = agent.node.uid.get_or_init(|| node.metadata.uid.clone().unwrap_or_default()).clone();
    agent.config.report.send_modify(|report| report.registered = true);
    agent.events.node_event(&name, "Normal", "Starting", "Starting kubelet.");
    let settings = LeaseSettings {
        namespace: "kube-node-lease".to_owned(),
        name: name.clone(),
        holder: name.clone(),
        duration: LEASE_DURATION,
        renew_every: LEASE_RENEW,
        owner: Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name,
            uid,
            ..OwnerReference::default()
        }),
    };
    let lease = heartbeat(agent.client.clone(), settings, cancel.clone());
    let status = cancel.run_until_cancelled(keep_status(&agent, &runtime_version, node));
    tokio::join!(lease, status);
    Ok(())
}

// === Registration ===

async fn register(agent: &Agent, runtime_version: &str) -> Node {
    let mut pause = RETRY_MIN;
    loop {
        match try_register(agent, runtime_version).await {
            Ok(node) => {
                info!(node = %agent.config.node_name, "node registered");
                return node;
            }
            Err(error) => {
                debug!(error = format!("{error:#}"), "node not registered, will be tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn try_register(agent: &Agent, runtime_version: &str) -> anyhow::Result<Node> {
    let api: Api<Node> = Api::all(agent.client.clone());
    let name = &agent.config.node_name;
    let Some(present) = api.get_opt(name).await.context("failed to read the node")? else {
        let node = new_node(agent, status(agent, runtime_version, None).await);
        return api.create(&PostParams::default(), &node).await.context("failed to create the node");
    };
    let wanted = labels(agent);
    let has = present.metadata.labels.clone().unwrap_or_default();
    if wanted.iter().all(|(key, value)| has.get(key) == Some(value)) {
        return Ok(present);
    }
    let patch = Patch::Merge(json!({ "metadata": { "labels": wanted } }));
    api.patch(name, &PatchParams::default(), &patch).await.context("failed to label the node")
}

fn new_node(agent: &Agent, status: NodeStatus) -> Node {
    let config = &agent.config;
    let taints = config.register_with_taints.clone();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(agent)),
            annotations: Some(annotations(agent)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: Some(format!("k3s://{}", config.node_name)),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

fn labels(agent: &Agent) -> BTreeMap<String, String> {
    let arch = agent.machine.architecture;
    let own = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/instance-type", "k3s"),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", &agent.config.node_name),
        ("kubernetes.io/os", "linux"),
        ("node.kubernetes.io/instance-type", "k3s"),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(agent.config.node_labels.clone()).collect()
}

fn annotations(agent: &Agent) -> BTreeMap<String, String> {
    let ips = agent.host_ips().join(",");
    BTreeMap::from([
        ("k3s.io/hostname".to_owned(), agent.config.node_name.clone()),
        ("k3s.io/internal-ip".to_owned(), ips),
    ])
}

// === Status ===

async fn keep_status(agent: &Agent, runtime_version: &str, node: Node) {
    let api: Api<Node> = Api::all(agent.client.clone());
    let mut last = node.status.unwrap_or_default();
    let mut written: Option<Instant> = None;
    loop {
        let next = status(agent, runtime_version, Some(&last)).await;
        let ready = is_ready(&next);
        tell(agent, &next, ready);
        let due = written.is_none_or(|at| at.elapsed() >= REPORT);
        if due || differs(&last, &next) {
            match write(&api, agent, &next).await {
                Ok(()) => {
                    announce(agent, &last, &next, written.is_none());
                    last = next;
                    written = Some(Instant::now());
                }
                Err(error) => {
                    warn!(%error, "node status not written, will be tried again");
                    written = None;
                }
            }
        }
        let pause = if ready && written.is_some() { CHECK } else { CHECK_NOT_READY };
        tokio::time::sleep(pause).await;
    }
}

async fn write(api: &Api<Node>, agent: &Agent, status: &NodeStatus) -> Result<(), kube::Error> {
    let patch = Patch::Strategic(json!({ "status": status }));
    api.patch_status(&agent.config.node_name, &PatchParams::default(), &patch).await.map(|_| ())
}

/// Logs, and records as events, what became of the node. `first` is the first report of this run.
fn announce(agent: &Agent, last: &NodeStatus, next: &NodeStatus, first: bool) {
    let name = &agent.config.node_name;
    let event = |type_, reason: &str| {
        agent.events.node_event(name, type_, reason, format!("Node {name} status is now: {reason}"));
    };
    let ready = is_ready(next);
    if first || is_ready(last) != ready {
        info!(node = %name, ready, reason = %not_ready_reason(next), "node status");
        event("Normal", if ready { "NodeReady" } else { "NodeNotReady" });
    }
    for condition in
        next.conditions.iter().flatten().filter(|condition| condition.type_.ends_with("Pressure"))
    {
        let is_true = |condition: &NodeCondition| condition.status == "True";
        let before = last.conditions.iter().flatten().any(|old| old.type_ == condition.type_ && is_true(old));
        let reason = condition.reason.as_deref().unwrap_or_default();
        match (before, is_true(condition)) {
            (false, true) => {
                warn!(node = %name, condition = %condition.type_, "the node runs short: new pods stay away")
            }
            (true, false) => info!(node = %name, condition = %condition.type_, "the node has enough again"),
            _ => continue,
        }
        event("Normal", reason);
    }
}

fn tell(agent: &Agent, status: &NodeStatus, ready: bool) {
    let reason = not_ready_reason(status);
    agent.config.report.send_if_modified(|report| {
        let changed = report.ready != ready || report.reason != reason;
        report.ready = ready;
        report.reason.clone_from(&reason);
        changed
    });
}

fn ready_condition(status: &NodeStatus) -> Option<&NodeCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")
}

fn is_ready(status: &NodeStatus) -> bool {
    ready_condition(status).is_some_and(|condition| condition.status == "True")
}

fn not_ready_reason(status: &NodeStatus) -> String {
    if is_ready(status) {
        return String::new();
    }
    ready_condition(status).and_then(|condition| condition.message.clone()).unwrap_or_default()
}

/// Whether anything but the time of the heartbeat changed.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        let owned = |condition: &NodeCondition| condition.type_ != "NetworkUnavailable";
        status.conditions = status.conditions.map(|list| list.into_iter().filter(owned).collect());
        status
    };
    bare(old) != bare(new)
}

async fn status(agent: &Agent, runtime_version: &str, last: Option<&NodeStatus>) -> NodeStatus {
    let capacity = capacity(agent);
    let mut status = NodeStatus {
        addresses: Some(addresses(agent)),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(agent, last).await),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(agent.config.listen.port()) }),
        }),
        node_info: Some(node_info(agent, runtime_version)),
        ..NodeStatus::default()
    };
    status.images = images(agent).await.or_else(|| last.and_then(|last| last.images.clone()));
    status
}

fn capacity(agent: &Agent) -> BTreeMap<String, Quantity> {
    let machine = &agent.machine;
    [
        ("cpu", (machine.milli_cpu / 1000).to_string()),
        ("ephemeral-storage", format!("{}Ki", machine.ephemeral_storage / 1024)),
        ("memory", format!("{}Ki", machine.memory / 1024)),
        ("pods", agent.config.max_pods.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .collect()
}

fn addresses(agent: &Agent) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut addresses: Vec<NodeAddress> =
        agent.host_ips().into_iter().map(|ip| address("InternalIP", ip)).collect();
    addresses.push(address("Hostname", agent.config.node_name.clone()));
    addresses
}

fn node_info(agent: &Agent, runtime_version: &str) -> NodeSystemInfo {
    let machine = &agent.machine;
    NodeSystemInfo {
        architecture: machine.architecture.to_owned(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime_version.to_owned(),
        kernel_version: machine.kernel_version.clone(),
        kubelet_version: agent.config.version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

async fn images(agent: &Agent) -> Option<Vec<ContainerImage>> {
    let mut images = agent.cri().list_images().await.ok()?;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let image = |image: k8s_cri::v1::Image| {
        let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).collect();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
    };
    Some(images.into_iter().take(MAX_IMAGES).map(image).collect())
}

/// Upstream's four conditions, each with its reason and message for both outcomes.
async fn conditions(agent: &Agent, last: Option<&NodeStatus>) -> Vec<NodeCondition> {
    let pressure = Pressure::measure(&agent.config.root_dir, &agent.config.eviction_hard);
    let not_ready = runtime_trouble(agent).await;
    let ready_message = not_ready.clone().unwrap_or_else(|| "kubelet is posting ready status".to_owned());
    let short = |yes: bool, type_, (bad, good), (bad_text, good_text): (&str, &str)| {
        (type_, yes, if yes { bad } else { good }, if yes { bad_text } else { good_text }.to_owned())
    };
    let checks = [
        short(
            pressure.memory,
            "MemoryPressure",
            ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
            ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
        ),
        short(
            pressure.disk,
            "DiskPressure",
            ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
            ("kubelet has disk pressure", "kubelet has no disk pressure"),
        ),
        short(
            pressure.pid,
            "PIDPressure",
            ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
            ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
        ),
        (
            "Ready",
            not_ready.is_none(),
            if not_ready.is_none() { "KubeletReady" } else { "KubeletNotReady" },
            ready_message,
        ),
    ];
    let now = Time(Timestamp::now());
    let condition = |(type_, yes, reason, message): (&str, bool, &str, String)| {
        let status = if yes { "True" } else { "False" };
        let before = last.iter().flat_map(|last| last.conditions.iter().flatten());
        let since = before
            .filter(|old| old.type_ == type_ && old.status == status)
            .find_map(|old| old.last_transition_time.clone());
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: since.or_else(|| Some(now.clone())),
        }
    };
    checks.into_iter().map(condition).collect()
}

/// What keeps the runtime from running pods, in upstream's words.
async fn runtime_trouble(agent: &Agent) -> Option<String> {
    let conditions = match agent.cri().status().await {
        Ok(conditions) => conditions,
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    let trouble = |type_: &str, what: &str| {
        let condition = conditions.iter().find(|condition| condition.r#type == type_)?;
        (!condition.status).then(|| {
            format!(
                "{what} not ready: {type_}=false reason:{} message:{}",
                condition.reason, condition.message
            )
        })
    };
    trouble("RuntimeReady", "container runtime")
        .or_else(|| trouble("NetworkReady", "container runtime network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let condition = |second, status: &str| NodeCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            last_heartbeat_time: Some(Time(Timestamp::from_second(second).unwrap())),
            ..NodeCondition::default()
        };
        let status = |condition| NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() };
        assert!(!differs(&status(condition(1, "True")), &status(condition(2, "True"))));
        assert!(differs(&status(condition(1, "True")), &status(condition(2, "False"))));
    }
}
