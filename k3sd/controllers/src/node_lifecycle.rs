//! Notices nodes that have gone silent, and marks nodes with taints for what is wrong with them.
//!
//! Reads: nodes, leases of `kube-node-lease`, pods. Owns: the conditions of nodes whose kubelet is silent (`Unknown`),
//! the taints that stand for conditions, and the `Ready` condition of pods on nodes that are not ready.
//! Follows `pkg/controller/nodelifecycle` of v1.36. Instead of looking at all nodes every five seconds, each node's
//! heartbeat sets the time at which it will be late. The rate limits for large zones are left out.

mod taints;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use client::{
    Informer, ObjectKey, Recorder, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    context::{Context, feed, path},
    pod, recorder,
};

const LEASES: &str = "kube-node-lease";
/// Silence after which a node's conditions are unknown (`--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
/// The same for a node that never said anything.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// What a kubelet reports; silent about one of them, it is silent about all.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const WORKERS: usize = 4;

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    recorder: Recorder,
    heartbeats: Mutex<HashMap<String, Heartbeat>>,
}

/// The last sign of life, and when it was seen here: the node's clock may be wrong.
#[derive(Debug)]
struct Heartbeat {
    sign: String,
    seen: Instant,
}

/// What a node's `Ready` condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    NotReady,
    Unknown,
    /// No condition yet.
    Unreported,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        nodes: context.informers.shared(),
        leases: context.informers.namespaced(LEASES),
        pods: context.informers.shared(),
        recorder: recorder(&context, "node-controller"),
        heartbeats: Mutex::default(),
        context: context.clone(),
    });
    pod::index_by_node(&controller.pods);
    controller.nodes.synced().await;
    controller.leases.synced().await;
    controller.pods.synced().await;
    let queue = WorkQueue::<String>::new();
    let worker = controller.clone();
    let reconcile = move |name: String| {
        let worker = worker.clone();
        async move { worker.reconcile(&name).await }
    };
    tokio::join!(
        feed(&controller.nodes, &queue, |change| controller.concerned(&change)),
        feed(&controller.leases, &queue, |change| Some(change.key.name)),
        run_workers("node_lifecycle", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    /// A node that becomes ready or stops being so may change what is done about all the others.
    fn concerned(&self, change: &client::Change<Node>) -> Vec<String> {
        let readiness = |stored: &Option<client::Stored<Node>>| {
            stored.as_ref().and_then(|stored| stored.decode().ok()).map(|node| readiness(&node))
        };
        if readiness(&change.old) == readiness(&change.new) {
            return vec![change.key.name.clone()];
        }
        let mut all: Vec<_> = self.nodes.list().iter().map(|stored| stored.key().name.clone()).collect();
        all.push(change.key.name.clone());
        all
    }

    async fn reconcile(&self, name: &str) -> anyhow::Result<Option<Duration>> {
        let key = ObjectKey::cluster(name);
        let Some(stored) = self.nodes.get(&key) else {
            self.heartbeats().remove(name);
            return Ok(None);
        };
        let mut node = stored.decode()?;
        let silence = self.silence(name, &node)?;
        let grace = if readiness(&node) == Readiness::Unreported { STARTUP_GRACE } else { GRACE };
        if silence >= grace {
            node = self.mark_unknown(&key, node).await?;
        }
        let readiness = readiness(&node);
        self.write_taints(&key, &node).await?;
        if matches!(readiness, Readiness::NotReady | Readiness::Unknown) {
            self.mark_pods(name).await?;
        }
        Ok(Some(grace.saturating_sub(silence)).filter(|left| !left.is_zero()))
    }

    /// How long the node has given no sign of life.
    fn silence(&self, name: &str, node: &Node) -> anyhow::Result<Duration> {
        let lease = self.leases.get(&ObjectKey::namespaced(LEASES, name));
        let lease = lease.map(|lease| lease.decode()).transpose()?;
        let renewed = lease.and_then(|lease| lease.spec?.renew_time).map(|time| time.0);
        let reported = condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref());
        let sign = format!("{renewed:?} {:?}", reported.map(|time| time.0));
        let mut heartbeats = self.heartbeats();
        let heartbeat = heartbeats
            .entry(name.to_owned())
            .or_insert_with(|| Heartbeat { sign: String::new(), seen: Instant::now() });
        if heartbeat.sign != sign {
            *heartbeat = Heartbeat { sign, seen: Instant::now() };
        }
        Ok(heartbeat.seen.elapsed())
    }

    async fn mark_unknown(&self, key: &ObjectKey, node: Node) -> anyhow::Result<Node> {
        let now = Time(Timestamp::now());
        let mut conditions = Vec::new();
        for kind in REPORTED {
            let current = condition(&node, kind);
            if current.is_some_and(|current| current.status == "Unknown") {
                continue;
            }
            let (reason, message) = match current {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            conditions.push(json!({
                "type": kind, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": now,
            }));
        }
        if conditions.is_empty() {
            return Ok(node);
        }
        warn!(node = %key.name, "node is silent");
        let path = format!("{}/status", path::<Node>(key));
        let change = json!({"status": {"conditions": conditions}});
        Ok(request::patch(&self.context.client, &path, Patch::Strategic, &change).await?)
    }

    async fn write_taints(&self, key: &ObjectKey, node: &Node) -> anyhow::Result<()> {
        let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        // Asked only about a node in trouble: it looks at every node, and heartbeats are many.
        let trouble = matches!(readiness(node), Readiness::NotReady | Readiness::Unknown);
        let evict = trouble && self.any_other_ready(&key.name)?;
        let Some(wanted) = taints::wanted(node, &present, evict, Timestamp::now()) else { return Ok(()) };
        let change = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": Some(wanted).filter(|taints| !taints.is_empty())},
        });
        request::patch::<Value>(&self.context.client, &path::<Node>(key), Patch::Merge, &change).await?;
        info!(node = %key.name, "taints changed");
        Ok(())
    }

    /// If no node at all is ready, the fault is more likely on this side: then nothing is evicted.
    fn any_other_ready(&self, name: &str) -> anyhow::Result<bool> {
        for stored in self.nodes.list() {
            if stored.key().name != name && readiness(&stored.decode()?) == Readiness::Ready {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Pods on a node that is not ready are not ready either, so that no traffic goes there.
    async fn mark_pods(&self, node: &str) -> anyhow::Result<()> {
        for stored in pod::on_node(&self.pods, node) {
            let pod = pod::light(&stored)?;
            if !pod::is_ready(&pod) {
                continue;
            }
            let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())},
            ]}});
            let path = format!("{}/status", path::<Pod>(stored.key()));
            match request::patch::<Value>(&self.context.client, &path, Patch::Strategic, &status).await {
                Ok(_) => self.recorder.event_for(&pod, "Warning", "NodeNotReady", "Node is not ready"),
                Err(error) if request::is_not_found(&error) || request::is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn heartbeats(&self) -> std::sync::MutexGuard<'_, HashMap<String, Heartbeat>> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a k8s_openapi::api::core::v1::NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn readiness(node: &Node) -> Readiness {
    match condition(node, "Ready").map(|condition| condition.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        Some(_) => Readiness::Unknown,
        None => Readiness::Unreported,
    }
}
