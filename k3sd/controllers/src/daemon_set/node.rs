//! Which nodes a daemon's pod is for, and how the pod asks for its node. No I/O.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec},
    core::v1::{
        Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
        Taint, Toleration,
    },
};
use kube::api::ObjectMeta;
use machinery::selector::Operator;

use super::plan::Verdict;
use crate::{history::HASH_LABEL, ownership::controller_reference, taint_eviction::tolerates};

const NAME_FIELD: &str = "metadata.name";
/// Taints that never keep a daemon away (`util/daemonset_util.go`, `AddOrUpdateDaemonPodTolerations`).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The pod of a set for one node.
pub(super) fn pod_for(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str) -> Pod {
    let meta = spec.template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let mut template = spec.template.spec.clone().unwrap_or_default();
    template.tolerations = Some(tolerations(&template));
    ask_for(&mut template, node);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(template),
        status: None,
    }
}

/// The node that a daemon's pod is on, or asks for.
pub(super) fn of_pod(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = required.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let named = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    named.flat_map(|field| field.values.iter().flatten()).next().map(String::as_str)
}

/// Whether a node is to have a pod, and whether one that is there may stay.
pub(super) fn judge(node: &Node, template: &PodSpec) -> Verdict {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let named = template.node_name.as_deref().filter(|named| !named.is_empty());
    if named.is_some_and(|named| named != name) || !is_selected(node, template) {
        return Verdict { run: false, stay: false };
    }
    let tolerations = tolerations(template);
    let untolerated = |taint: &&Taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let mut hard = taints.iter().filter(|taint| taint.effect != "PreferNoSchedule").filter(untolerated);
    match hard.clone().next() {
        None => Verdict { run: true, stay: true },
        Some(_) => Verdict { run: false, stay: !hard.any(|taint| taint.effect == "NoExecute") },
    }
}

fn tolerations(template: &PodSpec) -> Vec<Toleration> {
    let mut tolerations = template.tolerations.clone().unwrap_or_default();
    let host = template.host_network == Some(true);
    for (key, effect) in TOLERATED.into_iter().chain(host.then_some(NETWORK_UNAVAILABLE)) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

/// Adds the node's name to each term of the required affinity, in place of what it says of names.
fn ask_for(template: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut NodeAffinity =
        template.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
    let required: &mut NodeSelector =
        affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

fn is_selected(node: &Node, template: &PodSpec) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selector = template.node_selector.clone().unwrap_or_default();
    if !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = template.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let name = node.metadata.name.as_deref();
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|one| holds(one, labels.get(&one.key).map(String::as_str)))
            && fields.iter().all(|one| holds(one, name.filter(|_| one.key == NAME_FIELD)))
    })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = || requirement.values.iter().flatten();
    let number = || values().next().and_then(|value| value.parse().ok());
    let operator = match requirement.operator.as_str() {
        "In" => Some(Operator::In(values().cloned().collect())),
        "NotIn" => Some(Operator::NotIn(values().cloned().collect())),
        "Exists" => Some(Operator::Exists),
        "DoesNotExist" => Some(Operator::DoesNotExist),
        "Gt" => number().map(Operator::GreaterThan),
        "Lt" => number().map(Operator::LessThan),
        _ => None,
    };
    operator.is_some_and(|operator| operator.accepts(value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nodes_are_judged_by_selector_affinity_and_taints() {
        let node = |taints: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}}),
            )
            .unwrap()
        };
        let taint = |key: &str, effect: &str| node(json!([{"key": key, "effect": effect}]));
        let plain = json!({"containers": []});
        let (yes, no, stays) = ((true, true), (false, false), (false, true));
        let cases = [
            (node(json!([])), plain.clone(), yes),
            (node(json!([])), json!({"containers": [], "nodeSelector": {"disk": "tape"}}), no),
            (node(json!([])), json!({"containers": [], "nodeName": "b"}), no),
            (taint("mine", "NoSchedule"), plain.clone(), stays),
            (taint("mine", "NoExecute"), plain.clone(), no),
            (taint("mine", "PreferNoSchedule"), plain.clone(), yes),
            (taint("node.kubernetes.io/unschedulable", "NoSchedule"), plain.clone(), yes),
            (taint("node.kubernetes.io/not-ready", "NoSchedule"), plain.clone(), stays),
            (taint("node.kubernetes.io/network-unavailable", "NoSchedule"), plain, stays),
            (
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                json!({"containers": [], "hostNetwork": true}),
                yes,
            ),
            (
                taint("mine", "NoExecute"),
                json!({"containers": [], "tolerations": [{"operator": "Exists"}]}),
                yes,
            ),
        ];
        for (index, (node, template, (run, stay))) in cases.into_iter().enumerate() {
            let template: PodSpec = serde_json::from_value(template).unwrap();
            assert_eq!(judge(&node, &template), Verdict { run, stay }, "case {index}");
        }
    }

    #[test]
    fn a_pod_asks_for_its_node_within_the_affinity_it_has() {
        let set: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {
            "spec": {"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}}}}}))
        .unwrap();
        let pod = pod_for(&set, set.spec.as_ref().unwrap(), "a", "hash");
        assert_eq!(of_pod(&pod), Some("a"));
        let terms = serde_json::to_value(pod.spec.unwrap().affinity).unwrap();
        assert_eq!(
            terms["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
            json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}],
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}])
        );
    }
}
