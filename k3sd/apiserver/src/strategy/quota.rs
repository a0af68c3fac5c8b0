//! Limit ranges and resource quotas: their own shape. What they limit is admission's business.

use machinery::status::FieldError;
use serde_json::{Map, Value};

use super::check::{self, members, path};
use super::walk::{self, Faults};
use super::{Context, Strategy};

pub(super) struct LimitRange;

impl Strategy for LimitRange {
    /// Limits default to the maximum, requests to the limits, then to the minimum (upstream's `SetDefaults_LimitRangeItem`).
    fn default(&self, object: &mut Value) {
        let limits = object.pointer_mut("/spec/limits").and_then(Value::as_array_mut);
        for item in limits.into_iter().flatten().filter(|item| item["type"] == "Container") {
            fill(item, "max", "default");
            fill(item, "default", "defaultRequest");
            fill(item, "min", "defaultRequest");
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let mut seen = Vec::new();
        for item in walk::Node::root(object).at("spec.limits").items() {
            let kind = item.get("type");
            if kind.str().is_empty() {
                faults.required(&kind, "");
            }
            if seen.contains(&kind.str()) {
                faults.duplicate(&kind);
            }
            seen.push(kind.str());
            for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                let amounts = item.get(field);
                for (name, amount) in amounts.entries() {
                    let field = format!("{}[{name}]", amounts.path());
                    check::quantity(amount, &field, false, &mut faults.0);
                }
            }
            if kind.str() == "Pod" {
                for field in ["default", "defaultRequest"] {
                    if item.get(field).is_set() {
                        faults.forbidden(&item.get(field), "may not be specified when `type` is 'Pod'");
                    }
                }
            }
        }
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_create(cx, object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// What `to` does not name, it takes over from `from`.
fn fill(item: &mut Value, from: &str, to: &str) {
    let Some(source) = item.get(from).and_then(Value::as_object).cloned() else { return };
    let Some(item) = item.as_object_mut() else { return };
    if let Some(target) = item.entry(to).or_insert_with(|| Map::new().into()).as_object_mut() {
        for (name, amount) in source {
            target.entry(name).or_insert(amount);
        }
    }
}

pub(super) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        amounts(object, "/spec/hard", &mut faults);
        faults
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = self.validate_create(cx, object);
        if cx.subresource == "status" {
            amounts(object, "/status/hard", &mut faults);
            amounts(object, "/status/used", &mut faults);
        } else {
            check::immutable(object, old, "/spec/scopes", &mut faults);
        }
        faults
    }
}

fn amounts(object: &Value, pointer: &str, faults: &mut Vec<FieldError>) {
    for (name, amount) in members(object, pointer) {
        let counted = name.starts_with("count/")
            || matches!(
                name.as_str(),
                "pods"
                    | "services"
                    | "replicationcontrollers"
                    | "resourcequotas"
                    | "secrets"
                    | "configmaps"
                    | "persistentvolumeclaims"
                    | "services.nodeports"
                    | "services.loadbalancers"
            );
        check::quantity(amount, &format!("{}[{name}]", path(pointer)), counted, faults);
    }
}
