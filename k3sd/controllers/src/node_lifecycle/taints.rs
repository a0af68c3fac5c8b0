//! The taints that stand for a node's conditions. No I/O.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Readiness, condition, readiness};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are trouble when `True`.
const TROUBLES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The node's taints as they should be; `None` if they are so. With `evict`, a node that is not ready also gets the
/// taint that drives pods away. Taints of other kinds, and the times of those that stay, are kept.
pub(super) fn wanted(node: &Node, present: &[Taint], evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let mut ours = Vec::new();
    let mut add = |key: &str, effect: &str| ours.push((key.to_owned(), effect.to_owned()));
    let key = match readiness(node) {
        Readiness::Ready => None,
        Readiness::NotReady | Readiness::Unreported => Some(NOT_READY),
        Readiness::Unknown => Some(UNREACHABLE),
    };
    if let Some(key) = key {
        add(key, "NoSchedule");
        if evict && readiness(node) != Readiness::Unreported {
            add(key, "NoExecute");
        }
    }
    for (kind, key) in TROUBLES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            add(key, "NoSchedule");
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        add(UNSCHEDULABLE, "NoSchedule");
    }
    let is = |taint: &Taint, (key, effect): &(String, String)| taint.key == *key && taint.effect == *effect;
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| !is_ours(taint) || ours.iter().any(|one| is(taint, one)))
        .cloned()
        .collect();
    for one in &ours {
        if !taints.iter().any(|taint| is(taint, one)) {
            taints.push(Taint {
                key: one.0.clone(),
                effect: one.1.clone(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != present).then_some(taints)
}

fn is_ours(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    let readiness = key == NOT_READY || key == UNREACHABLE;
    match taint.effect.as_str() {
        "NoExecute" => readiness,
        "NoSchedule" => {
            readiness || key == UNSCHEDULABLE || TROUBLES.iter().any(|(_, trouble)| *trouble == key)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(conditions: &[(&str, &str)], spec: Value) -> Node {
        let conditions: Vec<_> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"conditions": conditions}}))
            .unwrap()
    }

    fn said(taints: Option<Vec<Taint>>) -> Option<Vec<String>> {
        let short = |taint: Taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect);
        taints.map(|taints| taints.into_iter().map(short).collect())
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let foreign = Taint { key: "mine".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        let ready = node(&[("Ready", "True")], json!({}));
        let now = Timestamp::UNIX_EPOCH;
        let changed = |node: &Node, present: &[Taint], evict| said(wanted(node, present, evict, now));
        assert_eq!(changed(&ready, std::slice::from_ref(&foreign), true), None);

        let silent = node(&[("Ready", "Unknown"), ("DiskPressure", "True")], json!({"unschedulable": true}));
        let expected = [
            "mine:NoExecute",
            "unreachable:NoSchedule",
            "unreachable:NoExecute",
            "disk-pressure:NoSchedule",
            "unschedulable:NoSchedule",
        ];
        assert_eq!(changed(&silent, std::slice::from_ref(&foreign), true).unwrap(), expected);
        let all = wanted(&silent, std::slice::from_ref(&foreign), true, now).unwrap();
        assert_eq!(changed(&silent, &all, true), None, "nothing to change the second time");
        assert_eq!(changed(&ready, &all, true).unwrap(), ["mine:NoExecute"]);

        let down = node(&[("Ready", "False")], json!({}));
        assert_eq!(changed(&down, &[], true).unwrap(), ["not-ready:NoSchedule", "not-ready:NoExecute"]);
        assert_eq!(changed(&down, &[], false).unwrap(), ["not-ready:NoSchedule"], "no node is ready");
        assert_eq!(changed(&node(&[], json!({})), &[], true).unwrap(), ["not-ready:NoSchedule"], "new");
    }
}
