//! Pod disruption budgets, priority classes, autoscalers (upstream's `pkg/apis/policy`, `scheduling`, `autoscaling`).

use machinery::meta;
use machinery::status::FieldError;
use serde_json::{Value, json};

use super::check::{child, set_default};
use super::walk::{self, Faults, Node};
use super::{Context, Strategy};
use crate::names;

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
        self.validate_create(cx, object)
    }

    fn has_generation(&self) -> bool {
        true
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
        let mut faults = Vec::new();
        for (field, detail) in
            [("value", "may not be changed in an update."), ("preemptionPolicy", "field is immutable")]
        {
            if object.get(field) != old.get(field) {
                faults.push(FieldError::forbidden(field, detail));
            }
        }
        faults
    }
}

/// Upstream's `DefaultCPUUtilization`.
const CPU_PERCENT: i64 = 80;

pub(super) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        let v1 = meta::api_version(object) == "autoscaling/v1";
        let spec = child(object, "spec");
        set_default(spec, "minReplicas", 1);
        if v1 {
            set_default(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
        } else if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let target = json!({ "type": "Utilization", "averageUtilization": CPU_PERCENT });
            let cpu = json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]);
            spec.insert("metrics".to_owned(), cpu);
        }
        if spec.get("behavior").is_some_and(Value::is_object) {
            default_behavior(&mut spec["behavior"]);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let spec = Node::root(object).get("spec");
        let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
        if least.int().is_some_and(|least| least < 1) {
            faults.invalid(&least, "must be greater than or equal to 1");
        }
        if most.int().unwrap_or(0) < 1 {
            faults.invalid(&most, "must be greater than 0");
        }
        if most.int().unwrap_or(0) < least.int().unwrap_or(1) {
            faults.invalid(&most, "must be greater than or equal to `minReplicas`");
        }
        for field in ["kind", "name"] {
            faults.required_name(&spec.get("scaleTargetRef").get(field), names::path_segment);
        }
        for metric in spec.get("metrics").items() {
            let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
            faults.one_of(&metric.get("type"), &kinds);
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }
}

/// Upstream's `GenerateHPAScaleUpRules` and `GenerateHPAScaleDownRules`.
fn default_behavior(behavior: &mut Value) {
    let percent = |value: i64| json!({ "type": "Percent", "value": value, "periodSeconds": 15 });
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    let up = child(behavior, "scaleUp");
    set_default(up, "stabilizationWindowSeconds", 0);
    set_default(up, "selectPolicy", "Max");
    set_default(up, "policies", json!([pods, percent(100)]));
    let down = child(behavior, "scaleDown");
    set_default(down, "selectPolicy", "Max");
    set_default(down, "policies", json!([percent(100)]));
}
