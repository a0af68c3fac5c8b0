//! Pods.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Map, Value, json};

use super::pod_spec::{
    default_pod_spec, default_requests, qos_class, unify_service_account, validate_pod_spec,
    validate_tolerations,
};
use super::walk::{Faults, Node, default, default_zero, object_at, objects_in};
use super::{Context, Graceful, SelectableField, Strategy};

const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Pods: scheduled, run, and deleted with a grace period.
#[derive(Debug)]
pub(crate) struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, &["spec"]) {
            default_pod_spec(spec);
            default_requests(spec);
            default(spec, "enableServiceLinks", true);
            if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
                default_host_ports(spec);
            }
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        prepare_new(object);
    }

    fn prepare_update(&self, cx: &Context<'_>, object: &mut Value, old: &Value) {
        match cx.subresource {
            "" => {}
            "ephemeralcontainers" => keep_all_but(object, old, take_debug_containers),
            "resize" => keep_all_but(object, old, take_resources),
            // Being bound to a node is no change of what the pod's owner wants.
            _ => return,
        }
        if object.get("spec") != old.get("spec") {
            meta::set_generation(object, meta::generation(old) + 1);
        }
    }

    fn prepare_status_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        // Old kubelets send stale owner references, and none may change the class a pod was admitted with.
        match old.pointer("/metadata/ownerReferences") {
            Some(owners) => meta::metadata_mut(object).insert("ownerReferences".to_owned(), owners.clone()),
            None => meta::metadata_mut(object).remove("ownerReferences"),
        };
        if let Some(status) = object_at(object, &["status"]) {
            keep_observed_generation(status, old);
            if let Some(class) = old.pointer("/status/qosClass") {
                default(status, "qosClass", class.clone());
            }
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_pod_spec(&Node::root(object).get("spec"), &mut faults);
        let debug = Node::root(object).at("spec.ephemeralContainers");
        if debug.len() > 0 {
            faults.forbidden(&debug, "cannot be set on create");
        }
        let gated = Node::root(object).at("spec.schedulingGates").len() > 0;
        if gated && Node::root(object).at("spec.nodeName").is_set() {
            faults.forbidden(
                &Node::root(object).at("spec.nodeName"),
                "cannot be set until all schedulingGates have been cleared",
            );
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        match cx.subresource {
            "" => validate_change(object, old, &mut faults),
            "status" => validate_status(object, old, &mut faults),
            "ephemeralcontainers" => validate_debug(object, old, &mut faults),
            "resize" => validate_resize(object, old, &mut faults),
            _ => {}
        }
        faults.0
    }

    fn graceful_delete(&self, _cx: &Context<'_>, object: &Value, requested: Option<i64>) -> Graceful {
        Graceful::Seconds(grace_period(object, requested))
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        const FIELDS: [SelectableField; 8] = [
            SelectableField::text("spec.nodeName", &["spec", "nodeName"]),
            SelectableField::text("spec.restartPolicy", &["spec", "restartPolicy"]),
            SelectableField::text("spec.schedulerName", &["spec", "schedulerName"]),
            SelectableField::text("spec.serviceAccountName", &["spec", "serviceAccountName"]),
            SelectableField { name: "spec.hostNetwork", path: &["spec", "hostNetwork"], absent: "false" },
            SelectableField::text("status.phase", &["status", "phase"]),
            SelectableField::text("status.podIP", &["status", "podIP"]),
            SelectableField::text("status.nominatedNodeName", &["status", "nominatedNodeName"]),
        ];
        &FIELDS
    }
}

/// The first status of a pod, and what admission left to be filled in.
fn prepare_new(object: &mut Value) {
    if let Some(spec) = object_at(object, &["spec"]) {
        unify_service_account(spec);
    }
    let empty = Value::Null;
    let spec = object.get("spec").unwrap_or(&empty);
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(spec)});
    if Node::root(spec).get("schedulingGates").len() > 0 {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        }]);
    }
    meta::object_mut(object).insert("status".to_owned(), status);
    meta::set_generation(object, 1);
}

/// The old pod with what `take` moves over from the new one.
fn keep_all_but(object: &mut Value, old: &Value, take: fn(&mut Map<String, Value>, &Value)) {
    let mut kept = old.clone();
    if let Some(spec) = object_at(&mut kept, &["spec"]) {
        take(spec, &object["spec"]);
    }
    *object = kept;
}

fn take_debug_containers(spec: &mut Map<String, Value>, new: &Value) {
    if let Some(containers) = new.get("ephemeralContainers") {
        spec.insert("ephemeralContainers".to_owned(), containers.clone());
    }
}

fn take_resources(spec: &mut Map<String, Value>, new: &Value) {
    for list in ["containers", "initContainers"] {
        for container in objects_in(spec, list) {
            let wanted = Node::root(new)
                .get(list)
                .items()
                .find(|c| Some(c.get("name").value()) == container.get("name"));
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = wanted.as_ref().map(|c| c.get(field)).filter(Node::is_set) {
                    container.insert(field.to_owned(), value.value().clone());
                }
            }
        }
    }
}

/// A status that says nothing of the generation it observed keeps the one before.
fn keep_observed_generation(status: &mut Map<String, Value>, old: &Value) {
    let old = Node::root(old).get("status");
    if let Some(generation) = old.get("observedGeneration").int() {
        default_zero(status, "observedGeneration", generation);
    }
    for condition in objects_in(status, "conditions") {
        let before =
            old.get("conditions").items().find(|c| Some(c.get("type").value()) == condition.get("type"));
        if let Some(generation) = before.and_then(|c| c.get("observedGeneration").int()) {
            default_zero(condition, "observedGeneration", generation);
        }
    }
}

/// On the node's network the port of the node is the port of the container.
fn default_host_ports(spec: &mut Map<String, Value>) {
    for list in ["containers", "initContainers"] {
        for container in objects_in(spec, list) {
            for port in objects_in(container, "ports") {
                let number = port.get("containerPort").cloned().unwrap_or_default();
                default_zero(port, "hostPort", number);
            }
        }
    }
}

/// Upstream's `podStrategy.CheckGracefulDelete`.
fn grace_period(object: &Value, requested: Option<i64>) -> i64 {
    let pod = Node::root(object);
    let unscheduled = pod.at("spec.nodeName").str().is_empty();
    if unscheduled || matches!(pod.at("status.phase").str(), "Failed" | "Succeeded") {
        return 0;
    }
    let period = requested.or_else(|| pod.at("spec.terminationGracePeriodSeconds").int()).unwrap_or(0);
    // Negative means "as short as possible, but not at once".
    if period < 0 { 1 } else { period }
}

fn validate_change(object: &Value, old: &Value, faults: &mut Faults) {
    let (spec, old_spec) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
    for list in ["containers", "initContainers"] {
        if spec.get(list).len() != old_spec.get(list).len() {
            faults.forbidden(&spec.get(list), "pod updates may not add or remove containers");
            return;
        }
    }
    validate_deadline(&spec, &old_spec, faults);
    let (new, before) = (spec.get("tolerations"), old_spec.get("tolerations"));
    let kept =
        before.items().all(|toleration| new.items().any(|t| same_toleration(t.value(), toleration.value())));
    if !kept {
        faults.forbidden(&new, "existing toleration can not be modified except its tolerationSeconds");
    }
    validate_tolerations(&new, faults);
    if frozen(object, old) != frozen(old, old) {
        faults.forbidden(&spec, UPDATE_RULE);
    } else {
        validate_pod_spec(&spec, faults);
    }
}

fn validate_deadline(spec: &Node<'_>, old: &Node<'_>, faults: &mut Faults) {
    let (deadline, before) = (spec.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds").int());
    match (deadline.int(), before) {
        (Some(new), Some(old)) if new > old => {
            faults.invalid(&deadline, "must be less than or equal to previous value");
        }
        (None, Some(_)) => faults.push(FieldError::invalid(
            deadline.path(),
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

fn same_toleration(a: &Value, b: &Value) -> bool {
    let strip = |toleration: &Value| {
        let mut fields = toleration.as_object().cloned().unwrap_or_default();
        fields.remove("tolerationSeconds");
        fields
    };
    strip(a) == strip(b)
}

/// The spec without the parts that an update may change, for comparison.
fn frozen(object: &Value, old: &Value) -> Value {
    let mut spec = object.get("spec").cloned().unwrap_or_default();
    let gated = Node::root(old).at("spec.schedulingGates").len() > 0;
    let Some(fields) = spec.as_object_mut() else { return spec };
    for list in ["containers", "initContainers"] {
        for container in objects_in(fields, list) {
            container.remove("image");
        }
    }
    fields.remove("activeDeadlineSeconds");
    fields.remove("tolerations");
    let negative = Node::root(old).at("spec.terminationGracePeriodSeconds").int().is_some_and(|n| n < 0);
    if negative && Node::root(object).at("spec.terminationGracePeriodSeconds").int() == Some(1) {
        fields.insert(
            "terminationGracePeriodSeconds".to_owned(),
            old["spec"]["terminationGracePeriodSeconds"].clone(),
        );
    }
    // Gates may only go; while there are some, where the pod may run is still open.
    if gated {
        let remain = |gate: &Value| {
            old["spec"]["schedulingGates"].as_array().is_some_and(|gates| gates.contains(gate))
        };
        let only_removed =
            fields.get("schedulingGates").and_then(Value::as_array).is_none_or(|g| g.iter().all(remain));
        if only_removed {
            fields.remove("schedulingGates");
        }
        fields.remove("nodeSelector");
        if let Some(affinity) = fields.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.remove("nodeAffinity");
        }
        if fields.get("affinity").and_then(Value::as_object).is_some_and(Map::is_empty) {
            fields.remove("affinity");
        }
    }
    spec
}

fn validate_status(object: &Value, old: &Value, faults: &mut Faults) {
    let (class, before) = (Node::root(object).at("status.qosClass"), Node::root(old).at("status.qosClass"));
    if before.is_set() && class.value() != before.value() {
        faults.invalid(&class, "field is immutable");
    }
    let phases = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
    faults.one_of_if_set(&Node::root(object).at("status.phase"), &phases);
}

/// Amounts may change, but neither go nor make another class of the pod.
fn validate_resize(object: &Value, old: &Value, faults: &mut Faults) {
    let (spec, old_spec) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
    validate_pod_spec(&spec, faults);
    let class = qos_class(spec.value());
    if class != qos_class(old_spec.value()) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        faults.push(FieldError::invalid(spec.path(), class, detail));
    }
    for list in ["containers", "initContainers"] {
        for (container, before) in spec.get(list).items().zip(old_spec.get(list).items()) {
            for amounts in ["limits", "requests"] {
                let (new, old) =
                    (container.get("resources").get(amounts), before.get("resources").get(amounts));
                if old.entries().any(|(name, _)| !new.key(name).is_set()) {
                    faults.forbidden(&new, format!("resource {amounts} cannot be removed"));
                }
            }
        }
    }
}

/// Containers for debugging may only be added.
fn validate_debug(object: &Value, old: &Value, faults: &mut Faults) {
    let (spec, old_spec) = (Node::root(object).get("spec"), Node::root(old).get("spec"));
    validate_pod_spec(&spec, faults);
    let list = spec.get("ephemeralContainers");
    for before in old_spec.get("ephemeralContainers").items() {
        let name = before.get("name").str();
        match list.items().find(|container| container.get("name").str() == name) {
            None => faults
                .forbidden(&list, format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(container) if container.value() != before.value() => {
                faults.forbidden(
                    &list,
                    format!("existing ephemeral containers \"{name}\" may not be changed\n"),
                );
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    fn pod(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": spec});
        Pod.default(&mut pod);
        pod
    }

    fn change_faults(old: &Value, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut new = old.clone();
        change(&mut new);
        let mut faults = Faults::default();
        validate_change(&new, old, &mut faults);
        faults.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_pod_is_what_kubectl_users_see() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "uid": "u"}, "spec": {
            "serviceAccountName": "robot",
            "containers": [{"name": "a", "image": "nginx:1.27", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"memory": "64Mi"}}}]}});
        let pod = World::new().create("", "pods", object).expect("valid");
        assert_eq!(
            pod,
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "uid": "u", "generation": 1},
                "spec": {
                    "containers": [{
                        "name": "a", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent",
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}},
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    }],
                    "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                    "schedulerName": "default-scheduler", "securityContext": {},
                    "serviceAccount": "robot", "serviceAccountName": "robot", "terminationGracePeriodSeconds": 30,
                },
                "status": {"phase": "Pending", "qosClass": "Burstable"},
            })
        );
    }

    #[test]
    fn only_changes_of_the_spec_are_new_generations() {
        let world = World::new();
        let object =
            json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let pod = world.create("", "pods", object).expect("valid");
        let labelled = world.update("", "pods", &pod, |pod| meta::set_label(pod, "a", "b")).expect("valid");
        assert_eq!(meta::generation(&labelled), 1);
        let newer = world.update("", "pods", &pod, |pod| pod["spec"]["containers"][0]["image"] = "y".into());
        assert_eq!(meta::generation(&newer.expect("valid")), 2);
    }

    #[test]
    fn a_running_pod_may_change_its_image_and_little_else() {
        let old = pod(json!({"nodeName": "n", "containers": [{"name": "a", "image": "x"}]}));
        assert!(change_faults(&old, |pod| pod["spec"]["containers"][0]["image"] = "y".into()).is_empty());
        assert!(
            change_faults(&old, |pod| pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]))
                .is_empty()
        );
        let faults = change_faults(&old, |pod| pod["spec"]["nodeName"] = "m".into());
        assert_eq!(faults, [format!("spec: Forbidden: {UPDATE_RULE}")]);
        let faults = change_faults(&old, |pod| {
            pod["spec"]["containers"].as_array_mut().expect("list").push(json!({"name": "b", "image": "x"}));
        });
        assert_eq!(faults, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    }

    #[test]
    fn a_resize_takes_no_amount_away_and_keeps_the_class() {
        let container = |resources: Value| json!({"name": "a", "image": "x", "resources": resources});
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        let old = pod(json!({"nodeName": "n", "containers": [container(full)]}));
        let resize = |resources: Value| {
            let mut new = old.clone();
            new["spec"]["containers"][0]["resources"] = resources;
            let mut faults = Faults::default();
            validate_resize(&new, &old, &mut faults);
            faults.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let more = json!({"cpu": "2", "memory": "1Gi"});
        assert!(resize(json!({"limits": more, "requests": more})).is_empty());
        assert_eq!(
            resize(json!({"limits": {"cpu": "2"}, "requests": more})),
            [
                "spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing",
                "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
            ]
        );
    }

    #[test]
    fn gates_may_only_go() {
        let old = pod(json!({"containers": [{"name": "a", "image": "x"}],
            "schedulingGates": [{"name": "one"}, {"name": "two"}]}));
        assert!(change_faults(&old, |p| p["spec"]["schedulingGates"] = json!([{"name": "two"}])).is_empty());
        assert!(!change_faults(&old, |p| p["spec"]["schedulingGates"] = json!([{"name": "x"}])).is_empty());
    }

    #[test]
    fn deletion_waits_for_pods_that_run() {
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        assert_eq!(grace_period(&running, None), 30);
        assert_eq!(grace_period(&running, Some(5)), 5);
        assert_eq!(grace_period(&running, Some(-1)), 1);
        assert_eq!(grace_period(&json!({"spec": {"terminationGracePeriodSeconds": 30}}), None), 0);
        let done = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}});
        assert_eq!(grace_period(&done, Some(30)), 0);
    }
}
