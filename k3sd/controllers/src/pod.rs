//! Facts about pods that several controllers compute (`pkg/api/v1/pod`, `pkg/controller/controller_utils.go`).

use std::time::Duration;

use client::{DecodeError, Informer, Stored};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec,
};
use kube::{Resource, api::ObjectMeta};
use serde::Deserialize;

use crate::ownership::controller_reference;

/// Still counts towards its controller's replicas: not ended and not being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted, and not ended yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_some()
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when the pod has been ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least `min_ready`; for one that is not yet, how long that will take.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    let Ok(min_ready) = u64::try_from(min_ready_seconds) else { return Availability::Available };
    if min_ready == 0 {
        return Availability::Available;
    }
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    match Duration::from_secs(min_ready).checked_sub(passed) {
        None | Some(Duration::ZERO) => Availability::Available,
        Some(left) => Availability::In(left),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    NotReady,
    /// Ready, and available after this long if it stays so.
    In(Duration),
    Available,
}

/// A pod from a controller's template.
pub(crate) fn from_template<K: Resource<DynamicType = ()>>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let name = owner.meta().name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// A pod with only what controllers count by: metadata, node, affinity, phase, conditions and container statuses. A
/// whole one is 34 KB in memory, and a controller may look at thousands each time one of them changes.
pub(crate) fn light(stored: &Stored<Pod>) -> Result<Pod, DecodeError> {
    #[derive(Deserialize)]
    struct View {
        metadata: ObjectMeta,
        #[serde(default)]
        spec: Spec,
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Spec {
        node_name: Option<String>,
        affinity: Option<Affinity>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        phase: Option<String>,
        conditions: Option<Vec<PodCondition>>,
        container_statuses: Option<Vec<ContainerStatus>>,
        init_container_statuses: Option<Vec<ContainerStatus>>,
    }
    let View { mut metadata, spec, status } = stored.project()?;
    metadata.managed_fields = None;
    let spec = PodSpec { node_name: spec.node_name, affinity: spec.affinity, ..PodSpec::default() };
    let status = PodStatus {
        phase: status.phase,
        conditions: status.conditions,
        container_statuses: status.container_statuses,
        init_container_statuses: status.init_container_statuses,
        ..PodStatus::default()
    };
    Ok(Pod { metadata, spec: Some(spec), status: Some(status) })
}

/// The index of [`on_node`].
const BY_NODE: &str = "node";

/// Files the pods of an informer by node.
pub(crate) fn index_by_node(pods: &Informer<Pod>) {
    pods.index(BY_NODE, |raw| node_name_in(raw).into_iter().collect());
}

/// The pods on a node, from an informer with [`index_by_node`].
pub(crate) fn on_node(pods: &Informer<Pod>, node: &str) -> Vec<Stored<Pod>> {
    pods.by_index(BY_NODE, node)
}

/// The node a pod is on.
pub(crate) fn node_name(pod: &Stored<Pod>) -> Option<String> {
    node_name_in(pod.raw())
}

fn node_name_in(raw: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct View {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        node_name: Option<String>,
    }
    serde_json::from_slice::<View>(raw).ok()?.spec.node_name.filter(|name| !name.is_empty())
}
