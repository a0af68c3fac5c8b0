//! What all kinds with a pod template share: its defaults, its rules, the first status.

use machinery::meta;
use serde_json::Value;

use super::pod_spec::{default_pod_spec, validate_template};
use super::walk::{Faults, Node, fill, object_at};

/// Defaults of the pod template at `path`.
pub(super) fn default_template(object: &mut Value, path: &[&str]) {
    let path: Vec<&str> = path.iter().copied().chain(["spec"]).collect();
    if let Some(spec) = object_at(object, &path) {
        default_pod_spec(spec);
    }
}

/// An empty status, with the counts that upstream always writes.
pub(super) fn fresh_status(object: &mut Value, type_name: &str) {
    meta::object_mut(object).remove("status");
    fill(type_name, object);
}

/// The template of something that keeps pods running.
pub(super) fn validate_running_template(spec: &Node<'_>, owner: &str, faults: &mut Faults) {
    let template = spec.get("template");
    validate_template(&template, faults);
    let policy = template.at("spec.restartPolicy");
    if !policy.str().is_empty() && policy.str() != "Always" {
        faults.one_of(&policy, &["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        faults.forbidden(&deadline, format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}

/// An update whose only effect on the spec is nothing: whether two objects want the same.
pub(super) fn same_annotations(a: &Value, b: &Value) -> bool {
    let of = |object: &Value| meta::annotations(object).cloned().unwrap_or_default();
    of(a) == of(b)
}
