//! The status of a stateful set.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use super::{
    pods::revision,
    step::{Plan, is_leaving},
};
use crate::pod::{self, Availability};

/// What the status is to be, and how long until a pod becomes available by time alone.
pub(super) fn calculate(
    set: &StatefulSet,
    plan: &Plan<'_>,
    now: Timestamp,
) -> (StatefulSetStatus, Option<Duration>) {
    let old = set.status.clone().unwrap_or_default();
    let (mut ready, mut available, mut current, mut updated, mut next) = (0, 0, 0, 0, None::<Duration>);
    let pods = plan.wanted.values().flatten().chain(plan.condemned.values());
    let mut replicas = 0;
    for pod in pods {
        replicas += 1;
        if !is_leaving(pod) {
            current += i32::from(revision(pod) == plan.current);
            updated += i32::from(revision(pod) == plan.update);
        }
        if pod::phase(pod) != "Running" {
            continue;
        }
        match pod::availability(pod, plan.spec.min_ready_seconds.unwrap_or(0), now) {
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
    // An update is over when every pod has the new template and is up; then it is the current one.
    let wanted = plan.spec.replicas.unwrap_or(1);
    let over = updated == wanted && replicas == wanted && ready == wanted;
    let whole = plan.partition() <= plan.wanted.keys().next().copied().unwrap_or(0);
    let (current_revision, current) =
        if over && whole { (plan.update, updated) } else { (plan.current, current) };
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(available),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(current_revision.to_owned()),
        update_revision: Some(plan.update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    };
    (status, next)
}
