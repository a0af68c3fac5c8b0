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
        faults.extend(scope_faults(object));
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

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
/// Bounds that are not for any kind; only these are compared with scopes.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const COMPUTE: [&str; 6] =
    ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// Upstream's `validateResourceQuotaScopes` and `validateScopedResourceSelectorRequirement`.
fn scope_faults(object: &Value) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let spec = walk::Node::root(object).get("spec");
    let bounds: Vec<&str> = spec.get("hard").entries().map(|(name, _)| name).collect();
    let mut named = Vec::new();
    let scopes = spec.get("scopes");
    for scope in scopes.items() {
        check_scope(&scopes, scope.str(), &bounds, &mut faults);
        named.push(scope.str());
    }
    refuse_both(&scopes, &named, &mut faults);
    let expressions = spec.at("scopeSelector.matchExpressions");
    named.clear();
    for expression in expressions.items() {
        let (scope, operator) = (expression.get("scopeName"), expression.get("operator"));
        check_scope(&scope, scope.str(), &bounds, &mut faults);
        let values = expression.get("values");
        let selects = matches!(scope.str(), "PriorityClass" | "VolumeAttributesClass");
        match operator.str() {
            "In" | "NotIn" if !selects => {
                faults.invalid(&operator, "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
            }
            "In" | "NotIn" if values.len() == 0 => {
                faults.required(
                    &values,
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                );
            }
            "Exists" | "DoesNotExist" if values.len() > 0 => {
                faults.invalid(
                    &values,
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => faults.invalid(&operator, "not a valid selector operator"),
        }
        named.push(scope.str());
    }
    refuse_both(&expressions, &named, &mut faults);
    faults.0
}

/// A scope that does not exist, or that what is bounded does not have.
fn check_scope(at: &walk::Node<'_>, scope: &str, bounds: &[&str], faults: &mut Faults) {
    if !SCOPES.contains(&scope) {
        faults.invalid(at, "unsupported scope");
    }
    let fits = |bound: &str| match scope {
        "BestEffort" => bound == "pods",
        "VolumeAttributesClass" => matches!(bound, "persistentvolumeclaims" | "requests.storage"),
        _ => bound == "pods" || COMPUTE.contains(&bound),
    };
    let mut standard = bounds.iter().filter(|bound| STANDARD.contains(bound));
    if SCOPES.contains(&scope) && !standard.all(|bound| fits(bound)) {
        faults.invalid(at, "unsupported scope applied to resource");
    }
}

fn refuse_both(at: &walk::Node<'_>, named: &[&str], faults: &mut Faults) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| named.contains(scope)) {
            faults.invalid(at, "conflicting scopes");
        }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(spec: Value) -> Vec<String> {
        scope_faults(&json!({ "spec": spec })).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn scopes_must_exist_fit_what_is_bounded_and_each_other() {
        assert!(faults(json!({ "hard": { "pods": "1" }, "scopes": ["BestEffort"] })).is_empty());
        assert!(faults(json!({ "hard": { "count/secrets": "1" }, "scopes": ["BestEffort"] })).is_empty());
        for (spec, text) in [
            (json!({ "hard": {}, "scopes": ["Lazy"] }), "unsupported scope"),
            (
                json!({ "hard": { "cpu": "1" }, "scopes": ["BestEffort"] }),
                "unsupported scope applied to resource",
            ),
            (
                json!({ "hard": { "secrets": "1" }, "scopes": ["Terminating"] }),
                "unsupported scope applied to resource",
            ),
            (json!({ "hard": {}, "scopes": ["Terminating", "NotTerminating"] }), "conflicting scopes"),
        ] {
            let found = faults(spec);
            assert!(found.len() == 1 && found[0].ends_with(text), "{text}: {found:?}");
        }
    }

    #[test]
    fn scope_selectors_have_values_where_they_compare_and_only_there() {
        let select = |scope: &str, operator: &str, values: Value| {
            let expression = json!({ "scopeName": scope, "operator": operator, "values": values });
            faults(json!({ "hard": { "pods": "1" }, "scopeSelector": { "matchExpressions": [expression] } }))
        };
        assert!(select("PriorityClass", "In", json!(["high"])).is_empty());
        assert!(select("PriorityClass", "Exists", json!([])).is_empty());
        assert_eq!(select("PriorityClass", "In", json!([])).len(), 1);
        assert_eq!(select("PriorityClass", "Exists", json!(["high"])).len(), 1);
        assert_eq!(select("PriorityClass", "Near", json!([])).len(), 1);
        assert_eq!(select("BestEffort", "In", json!(["x"])).len(), 1);
    }
}
