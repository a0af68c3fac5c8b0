//! Deletes pods from nodes whose `NoExecute` taints they do not tolerate, or no longer.
//!
//! Reads: nodes, pods. Owns: the deletion of such pods. Follows `pkg/controller/tainteviction` of v1.36.

use std::{sync::Arc, time::Duration};

use client::{
    Informer, ObjectKey, Recorder, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};
use tracing::info;

use crate::{
    context::{Context, feed, own_key, path},
    pod, recorder,
};

const WORKERS: usize = 4;

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    recorder: Recorder,
}

/// When a pod must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    Leave,
    LeaveAfter(Duration),
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        pods: context.informers.shared(),
        nodes: context.informers.shared(),
        recorder: recorder(&context, "taint-eviction-controller"),
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
        feed(&controller.nodes, &queue, |change| controller.pods_of_tainted(&change)),
        run_workers("taint_eviction", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    fn pods_of_tainted(&self, change: &client::Change<Node>) -> Vec<ObjectKey> {
        let tainted = change
            .new
            .as_ref()
            .and_then(|node| node.decode().ok())
            .is_some_and(|node| !evicting(&node).is_empty());
        let pods = if tainted { pod::on_node(&self.pods, &change.key.name) } else { Vec::new() };
        pods.into_iter().map(|pod| pod.key().clone()).collect()
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.pods.get(&key) else { return Ok(None) };
        let Some(node) = pod::node_name(&stored) else { return Ok(None) };
        let Some(node) = self.nodes.get(&ObjectKey::cluster(node)) else { return Ok(None) };
        let taints = evicting(&node.decode()?);
        if taints.is_empty() {
            return Ok(None);
        }
        let pod = stored.decode()?;
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        match judge(&taints, &tolerations, Timestamp::now()) {
            Verdict::Stay => Ok(None),
            Verdict::LeaveAfter(delay) => Ok(Some(delay)),
            Verdict::Leave => self.evict(&key, &pod).await.map(|()| None),
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> anyhow::Result<()> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.event_for(pod, "Normal", "TaintManagerEviction", message);
        let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(Timestamp::now()),
        }]}});
        let path = format!("{}/status", path::<Pod>(key));
        match request::patch::<Value>(&self.context.client, &path, Patch::Strategic, &status).await {
            Err(error) if request::is_not_found(&error) => return Ok(()),
            other => other?,
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.context.api::<Pod>(key.namespace()).delete(&key.name, &params).await {
            Ok(_) => info!(namespace = key.namespace(), name = %key.name, "pod evicted"),
            Err(error) if request::is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// A pod leaves when the first of its tolerations runs out that it needs here, and at once if a taint has none.
fn judge(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Verdict {
    let mut verdict = Verdict::Stay;
    for taint in taints {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Verdict::Leave;
        }
        let Some(seconds) = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()
        else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(passed);
        verdict = match verdict {
            _ if left.is_zero() => return Verdict::Leave,
            Verdict::LeaveAfter(other) => Verdict::LeaveAfter(left.min(other)),
            _ => Verdict::LeaveAfter(left),
        };
    }
    verdict
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (set(&toleration.effect), set(&toleration.key));
    let covers = (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key);
    covers
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => set(&toleration.value) == set(&taint.value),
            "Exists" => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_needed_toleration() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let taint = |key: &str| Taint {
            key: key.to_owned(),
            effect: "NoExecute".to_owned(),
            time_added: Some(Time(at(100))),
            value: None,
        };
        let toleration = |key: &str, seconds: Option<i64>| -> Toleration {
            serde_json::from_value(json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds}))
                .unwrap()
        };
        let seconds = |left| Verdict::LeaveAfter(Duration::from_secs(left));
        let (a, b) = (taint("a"), taint("b"));
        let cases = [
            (vec![a.clone()], vec![], 100, Verdict::Leave),
            (vec![a.clone()], vec![toleration("a", None)], 999, Verdict::Stay),
            (vec![a.clone()], vec![toleration("a", Some(300))], 150, seconds(250)),
            (vec![a.clone()], vec![toleration("a", Some(300))], 400, Verdict::Leave),
            (vec![a.clone()], vec![toleration("a", Some(0))], 100, Verdict::Leave),
            (
                vec![a.clone(), b.clone()],
                vec![toleration("a", Some(300)), toleration("b", Some(60))],
                100,
                seconds(60),
            ),
            (vec![a.clone(), b], vec![toleration("a", Some(300))], 100, Verdict::Leave),
            (vec![a], vec![toleration("", None)], 100, Verdict::Stay),
        ];
        for (index, (taints, tolerations, now, expected)) in cases.into_iter().enumerate() {
            assert_eq!(judge(&taints, &tolerations, at(now)), expected, "case {index}");
        }
    }
}
