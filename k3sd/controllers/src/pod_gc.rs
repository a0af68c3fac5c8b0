//! Removes pods that no kubelet will ever remove.
//!
//! Reads: pods, nodes. Owns: the forced deletion of pods (1) that are being deleted and never got a node, (2) whose node
//! is gone, (3) that have ended, beyond a number worth keeping. Follows `pkg/controller/podgc` of v1.36.

use std::{sync::Arc, time::Duration};

use client::{
    Informer, ObjectKey, Stored, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::api::{DeleteParams, Preconditions};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use crate::{
    context::{Context, feed, own_key, path},
    pod,
};

/// A node that is not there may be one whose creation has not arrived yet.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods that are kept, the oldest going first.
const TERMINATED_KEPT: usize = 12500;

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

#[derive(Deserialize)]
struct View {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    uid: String,
    deletion_timestamp: Option<String>,
    creation_timestamp: Option<Time>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    phase: String,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        pods: context.informers.shared(),
        nodes: context.informers.shared(),
        context: context.clone(),
    });
    pod::index_by_node(&controller.pods);
    controller.pods.synced().await;
    controller.nodes.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.pods, &queue, own_key),
        feed(&controller.nodes, &queue, |change| {
            let gone = change.new.is_none();
            let pods = if gone { pod::on_node(&controller.pods, &change.key.name) } else { Vec::new() };
            pods.into_iter().map(|pod| pod.key().clone()).collect::<Vec<_>>()
        }),
        run_workers("pod_gc", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.pods.get(&key) else { return Ok(None) };
        let pod: View = stored.project()?;
        let ended = is_ended(&pod);
        if pod.spec.node_name.is_empty() {
            if pod.metadata.deletion_timestamp.is_some() {
                self.remove(&key, &pod, "it was never given a node").await?;
            }
        } else if self.nodes.get(&ObjectKey::cluster(&pod.spec.node_name)).is_none() {
            return self.orphaned(&key, &pod).await;
        }
        if ended && self.pods.len() > TERMINATED_KEPT {
            self.trim().await?;
        }
        Ok(None)
    }

    /// The node is not in the cache: after a while the API is asked for it.
    async fn orphaned(&self, key: &ObjectKey, pod: &View) -> anyhow::Result<Option<Duration>> {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let age =
            created.and_then(|time| Duration::try_from(jiff::Timestamp::now().duration_since(time)).ok());
        // Ours to judge only once the pod is older than any delay of the cache.
        let left = QUARANTINE.saturating_sub(age.unwrap_or_default());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let node = path::<Node>(&ObjectKey::cluster(&pod.spec.node_name));
        match request::read::<Value>(&self.context.client, &node).await {
            Err(error) if request::is_not_found(&error) => {}
            Ok(_) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if !is_ended(pod) {
            let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": Time(jiff::Timestamp::now()),
            }]}});
            let path = format!("{}/status", path::<Pod>(key));
            request::patch::<Value>(&self.context.client, &path, Patch::Strategic, &status).await?;
        }
        self.remove(key, pod, "its node is gone").await?;
        Ok(None)
    }

    /// Deletes the oldest ended pods beyond those that are kept.
    async fn trim(&self) -> anyhow::Result<()> {
        let mut ended = Vec::new();
        for stored in self.pods.list() {
            let pod: View = stored.project()?;
            if is_ended(&pod) && pod.metadata.deletion_timestamp.is_none() {
                ended.push((pod.metadata.creation_timestamp.as_ref().map(|time| time.0), stored, pod));
            }
        }
        ended.sort_by_key(|(created, _, _)| *created);
        let extra = ended.len().saturating_sub(TERMINATED_KEPT);
        for (_, stored, pod) in ended.into_iter().take(extra) {
            self.remove(Stored::key(&stored), &pod, "too many pods have ended").await?;
        }
        Ok(())
    }

    async fn remove(&self, key: &ObjectKey, pod: &View, reason: &str) -> anyhow::Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(pod.metadata.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.context.api::<Pod>(key.namespace()).delete(&key.name, &params).await {
            Ok(_) => {
                info!(namespace = key.namespace(), name = %key.name, reason, "pod removed");
                Ok(())
            }
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_ended(pod: &View) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}
