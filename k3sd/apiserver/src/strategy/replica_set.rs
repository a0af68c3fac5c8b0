//! Replica sets, and the replication controllers they came from.

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::walk::{Faults, Node, default, object_at};
use super::workload::{default_template, fresh_status, validate_running_template};
use super::{Context, SelectableField, Strategy};

/// Replica sets: a number of equal pods.
#[derive(Debug)]
pub(crate) struct ReplicaSet;

/// Replication controllers: as replica sets, with a plain map of labels as selector.
#[derive(Debug)]
pub(crate) struct ReplicationController;

const REPLICAS: [SelectableField; 1] =
    [SelectableField { name: "status.replicas", path: &["status", "replicas"], absent: "0" }];

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "template"]);
        if let Some(spec) = object_at(object, &["spec"]) {
            default(spec, "replicas", 1);
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.apps.v1.ReplicaSet");
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_set(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            validate_counts(&Node::root(object).get("status"), &mut faults);
        } else {
            validate_set(&Node::root(object).get("spec"), &mut faults);
            faults.immutable(&Node::root(object).at("spec.selector"), &Node::root(old).at("spec.selector"));
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        &REPLICAS
    }
}

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        default_template(object, &["spec", "template"]);
        let labels = object.pointer("/spec/template/metadata/labels").filter(|l| l.is_object()).cloned();
        if let Some(spec) = object_at(object, &["spec"]) {
            default(spec, "replicas", 1);
            if let Some(labels) = &labels {
                default(spec, "selector", labels.clone());
            }
        }
        if let Some(labels) = labels {
            default(meta::metadata_mut(object), "labels", labels);
        }
    }

    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        fresh_status(object, "api.core.v1.ReplicationController");
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_controller(&Node::root(object).get("spec"), &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if cx.subresource == "status" {
            validate_counts(&Node::root(object).get("status"), &mut faults);
        } else {
            validate_controller(&Node::root(object).get("spec"), &mut faults);
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &'static [SelectableField] {
        &REPLICAS
    }
}

fn validate_set(spec: &Node<'_>, faults: &mut Faults) {
    faults.non_negative(&spec.get("replicas"));
    faults.non_negative(&spec.get("minReadySeconds"));
    faults.workload_selector(spec, "empty selector is invalid for deployment");
    validate_running_template(spec, "ReplicaSet", faults);
}

fn validate_controller(spec: &Node<'_>, faults: &mut Faults) {
    faults.non_negative(&spec.get("replicas"));
    faults.non_negative(&spec.get("minReadySeconds"));
    let selector = spec.get("selector");
    faults.labels(&selector);
    if selector.entries().next().is_none() {
        faults.required(&selector, "");
    }
    if !spec.get("template").is_set() {
        faults.required(&spec.get("template"), "");
        return;
    }
    let labels = spec.at("template.metadata.labels");
    if !selector.entries().all(|(key, value)| labels.value().get(key) == Some(value)) {
        let shown = labels.object().map_or_else(|| json!({}), |labels| Value::Object(labels.clone()));
        faults.push(FieldError::invalid(labels.path(), shown, "`selector` does not match template `labels`"));
    }
    validate_running_template(spec, "ReplicationController", faults);
}

fn validate_counts(status: &Node<'_>, faults: &mut Faults) {
    let all = status.get("replicas").int().unwrap_or(0);
    for field in
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]
    {
        let count = status.get(field);
        faults.non_negative(&count);
        if field != "observedGeneration" && count.int().is_some_and(|n| n > all) {
            faults.invalid(&count, "cannot be greater than status.replicas");
        }
    }
    let (ready, available) = (status.get("readyReplicas"), status.get("availableReplicas"));
    if available.int().unwrap_or(0) > ready.int().unwrap_or(0) {
        faults.invalid(&available, "cannot be greater than readyReplicas");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_controllers_take_their_labels_from_the_template() {
        let mut object = json!({"metadata": {"name": "a"}, "spec": {"template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        ReplicationController.default(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"app": "web"}));
        assert_eq!(object["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(object["spec"]["replicas"], 1);
    }

    #[test]
    fn counts_must_add_up() {
        let status = json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3}});
        let mut faults = Faults::default();
        validate_counts(&Node::root(&status).get("status"), &mut faults);
        let fields: Vec<&str> = faults.0.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["status.readyReplicas", "status.availableReplicas", "status.availableReplicas"]);
    }
}
