//! Pod disruption budgets and priority classes (upstream's `pkg/apis/policy` and `scheduling`).

use machinery::meta;
use machinery::status::FieldError;
use serde_json::Value;

use super::check::set_default;
use super::walk::{self, Faults, Node};
use super::{Context, Strategy};

pub(super) struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if least.is_set() && most.is_set() {
            faults.invalid(&spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for node in [&least, &most] {
            faults.int_or_percent(node);
            if walk::percent(node.value()).is_some_and(|percent| percent > 100) {
                faults.invalid(node, "must not be greater than 100%");
            }
        }
        faults.label_selector(&spec.get("selector"));
        faults.one_of_if_set(&spec.get("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"]);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        if cx.subresource != "status" {
            return self.validate_create(cx, object);
        }
        let mut faults = Faults::default();
        let status = Node::root(object).get("status");
        faults.conditions(&status.get("conditions"));
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            faults.non_negative(&status.get(count));
        }
        faults.0
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Above this, priorities are the system's own.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        set_default(meta::object_mut(object), "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let class = Node::root(object);
        let (name, value) = (meta::name(object), class.get("value").int().unwrap_or(0));
        if name.starts_with("system-") {
            if !SYSTEM_CLASSES.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only";
                faults.push(FieldError::forbidden(
                    "metadata.name",
                    format!("{detail}. error: {name} is not a known system priority class"),
                ));
            }
        } else if value > HIGHEST_PRIORITY {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
            faults.push(FieldError::forbidden("value", detail));
        }
        faults.one_of_if_set(&class.get("preemptionPolicy"), &["Never", "PreemptLowerPriority"]);
        faults.0
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        if object.get("value") != old.get("value") {
            faults.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        faults
            .immutable(&Node::root(object).get("preemptionPolicy"), &Node::root(old).get("preemptionPolicy"));
        faults.0
    }
}
