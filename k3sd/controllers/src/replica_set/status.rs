//! The status of a replica set (`pkg/controller/replicaset/replica_set_utils.go`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    pod::{self, Availability},
    pod_control::api_message,
};

/// What the status is to be, and how long until a pod becomes available by time alone.
pub(super) fn calculate(
    set: &ReplicaSet,
    active: &[Pod],
    terminating: usize,
    failure: Option<&anyhow::Error>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template = spec.template.and_then(|template| template.metadata).and_then(|meta| meta.labels);
    let template = template.unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let (mut labeled, mut ready, mut available, mut next) = (0, 0, 0, None::<Duration>);
    for pod in active {
        let labels = pod.metadata.labels.as_ref();
        if template.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value)) {
            labeled += 1;
        }
        match pod::availability(pod, min_ready, now) {
            Availability::NotReady => {}
            Availability::In(left) => {
                ready += 1;
                next = Some(next.map_or(left, |next| next.min(left)));
            }
            Availability::Available => {
                ready += 1;
                available += 1;
            }
        }
    }
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: Some(labeled).filter(|count| *count > 0),
        ready_replicas: Some(ready).filter(|count| *count > 0),
        available_replicas: Some(available).filter(|count| *count > 0),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions, active.len(), spec.replicas.unwrap_or(1), failure, now),
    };
    (status, next)
}

/// `ReplicaFailure` is there while pods cannot be created or deleted.
fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    active: usize,
    wanted: i32,
    failure: Option<&anyhow::Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.unwrap_or_default();
    let present = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, present) {
        (Some(error), None) => {
            let too_few = i32::try_from(active).unwrap_or(i32::MAX) < wanted;
            let message = error.downcast_ref::<kube::Error>().map_or_else(|| error.to_string(), api_message);
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            });
        }
        (None, Some(at)) => {
            conditions.remove(at);
        }
        _ => {}
    }
    Some(conditions).filter(|conditions| !conditions.is_empty())
}
