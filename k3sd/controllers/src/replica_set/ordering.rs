//! Which pods go first when there are too many (`ActivePodsWithRanks` of `pkg/controller/controller_utils.go`).

use std::{cmp::Ordering, collections::HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// The `count` of `pods` to delete. `related` are the pods that share the owner's purpose, these among them: of two
/// equal pods the one on the node with more of them goes.
pub(super) fn to_delete<'a>(pods: &'a [Pod], related: &[Pod], count: usize, now: Timestamp) -> Vec<&'a Pod> {
    let mut crowding = HashMap::<&str, usize>::new();
    for pod in related {
        *crowding.entry(node(pod)).or_default() += 1;
    }
    let mut order: Vec<&Pod> = pods.iter().collect();
    order.sort_by(|a, b| compare(a, b, &crowding, now));
    order.truncate(count);
    order
}

/// Less means deleted sooner.
fn compare(a: &Pod, b: &Pod, crowding: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let rank = |pod: &Pod| crowding.get(node(pod)).copied().unwrap_or(0);
    let unassigned_first = node(b).is_empty().cmp(&node(a).is_empty());
    unassigned_first
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| pod::is_ready(a).cmp(&pod::is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| {
            if !pod::is_ready(a) {
                return Ordering::Equal;
            }
            younger_first(pod::ready_since(a), pod::ready_since(b), now)
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn phase_order(pod: &Pod) -> u8 {
    match pod::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations.and_then(|all| all.get("controller.kubernetes.io/pod-deletion-cost"));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Ages are compared by their order of magnitude only (KEP-2185), so that deletions spread over pods of like age
/// instead of always hitting the youngest.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Option<Timestamp>| {
        let seconds = time.map(|time| now.duration_since(time).as_secs().max(0))?;
        Some(64 - u64::try_from(seconds).unwrap_or(0).leading_zeros())
    };
    match (magnitude(a), magnitude(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        // One whose time is not known is taken to be the youngest.
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut value = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "a", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn ready_at(value: &mut Value, time: &str) {
        value["status"]["conditions"][0]["lastTransitionTime"] = json!(time);
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        // From the first to go to the last: each differs from the plain one in one thing.
        let pods = [
            pod("unassigned", |p| p["spec"]["nodeName"] = json!("")),
            pod("pending", |p| p["status"]["phase"] = json!("Pending")),
            pod("unready", |p| p["status"]["conditions"][0]["status"] = json!("False")),
            pod("cheap", |p| {
                p["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
            }),
            pod("crowded", |p| p["spec"]["nodeName"] = json!("full")),
            pod("just-ready", |p| ready_at(p, "2026-01-01T11:59:58Z")),
            pod("restarted", |p| {
                p["status"]["containerStatuses"] =
                    json!([{"name": "c", "restartCount": 3, "image": "", "imageID": "", "ready": true}]);
            }),
            pod("young", |p| p["metadata"]["creationTimestamp"] = json!("2026-01-01T11:59:00Z")),
            pod("plain", |_| ()),
        ];
        let mut related = pods.to_vec();
        for extra in 0..9 {
            related.push(pod(&format!("other{extra}"), |p| p["spec"]["nodeName"] = json!("full")));
        }
        let mut shuffled = pods.to_vec();
        shuffled.reverse();
        let order = to_delete(&shuffled, &related, 9, NOW.parse().unwrap());
        let names: Vec<_> = order.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        let expected: Vec<_> = pods.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, expected);
        assert_eq!(to_delete(&shuffled, &related, 2, NOW.parse().unwrap()).len(), 2);
    }
}
