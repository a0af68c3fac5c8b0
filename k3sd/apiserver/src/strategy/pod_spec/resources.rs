//! Resource requests and limits: defaults, quality of service, rules.

use std::collections::{BTreeMap, BTreeSet};

use machinery::quantity::Quantity;
use machinery::status::FieldError;
use serde_json::{Map, Value};

use crate::names;
use crate::strategy::walk::{Faults, Node, objects_in};

/// In pods (not in templates) a limit without a request is the request, too.
pub(in crate::strategy) fn default_requests(spec: &mut Map<String, Value>) {
    for list in ["containers", "initContainers"] {
        for container in objects_in(spec, list) {
            if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
                default_requests_of(resources);
            }
        }
    }
}

fn default_requests_of(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = machinery::meta::child_mut(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of all containers.
///
/// Guaranteed: every container has limits for both, and requests equal to them. BestEffort: nobody has either.
pub(in crate::strategy) fn qos_class(spec: &Value) -> &'static str {
    let spec = Node::root(spec);
    let mut requests = BTreeMap::new();
    let mut limits = BTreeMap::new();
    let mut guaranteed = true;
    let pod_level = spec.get("resources");
    let holders: Vec<Node<'_>> = if pod_level.get("requests").is_set() || pod_level.get("limits").is_set() {
        vec![pod_level]
    } else {
        spec.get("containers")
            .items()
            .chain(spec.get("initContainers").items())
            .map(|c| c.get("resources"))
            .collect()
    };
    for resources in &holders {
        add(&mut requests, &resources.get("requests"));
        let limited = add(&mut limits, &resources.get("limits"));
        guaranteed &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.iter().all(|(name, request)| limits.get(name) == Some(request));
    if guaranteed && equal && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

/// Adds CPU and memory above zero to the sums; returns how many of the two there were.
fn add<'a>(sums: &mut BTreeMap<&'a str, Quantity>, list: &Node<'a>) -> usize {
    let mut found = 0;
    for (name, value) in list.entries().filter(|(name, _)| matches!(*name, "cpu" | "memory")) {
        if let Some(amount) = Quantity::from_value(value).ok().filter(|q| *q > Quantity::ZERO) {
            *sums.entry(name).or_insert(Quantity::ZERO) += amount;
            found += 1;
        }
    }
    found
}

pub(super) fn validate(resources: &Node<'_>, faults: &mut Faults) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (name, _) in limits.entries() {
        validate_amount(name, &limits.key(name), faults);
    }
    for (name, value) in requests.entries() {
        validate_amount(name, &requests.key(name), faults);
        let (Ok(request), limit) = (Quantity::from_value(value), limits.get(name)) else { continue };
        match Quantity::from_value(limit.value()) {
            Ok(limit) if request > limit && can_overcommit(name) => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                faults.push(FieldError::invalid(requests.path(), request.to_string(), detail));
            }
            Ok(limit) if request != limit && !can_overcommit(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                faults.push(FieldError::invalid(requests.path(), request.to_string(), detail));
            }
            Err(_) if !can_overcommit(name) => {
                faults.required(&limits, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let names = || limits.entries().chain(requests.entries()).map(|(name, _)| name);
    let pages = names().any(|name| name.starts_with("hugepages-"));
    if pages && !names().any(|name| matches!(name, "cpu" | "memory")) {
        faults.forbidden(resources, "HugePages require cpu or memory");
    }
}

/// A map of amounts by itself, under the path that upstream gives it.
pub(in crate::strategy) fn validate_limits(amounts: &Node<'_>, path: &str, faults: &mut Faults) {
    let mut found = Faults::default();
    for (name, _) in amounts.entries() {
        validate_amount(name, &amounts.key(name), &mut found);
    }
    for mut fault in found.0 {
        if let Some(rest) = fault.field.strip_prefix(amounts.path()) {
            fault.field = format!("{path}{rest}");
        }
        faults.push(fault);
    }
}

/// Devices that a container uses, by the pod's names for its claims.
pub(super) fn validate_claims(claims: &Node<'_>, known: &BTreeSet<&str>, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let (name, request) = (claim.get("name"), claim.get("request"));
        if name.str().is_empty() {
            faults.required(&name, "");
        } else if !seen.insert((name.str(), request.str())) {
            let shown = if request.str().is_empty() {
                name.str().to_owned()
            } else {
                format!("{}/{}", name.str(), request.str())
            };
            faults.push(FieldError::duplicate(claim.path(), shown));
        } else if !known.contains(name.str()) {
            faults.push(FieldError::not_found(claim.path(), name.str()));
        }
    }
}

/// Native resources except huge pages may be promised more than once.
fn can_overcommit(name: &str) -> bool {
    !name.starts_with("hugepages-") && !name.contains('/')
}

fn validate_amount(name: &str, amount: &Node<'_>, faults: &mut Faults) {
    for detail in names::qualified_name(name) {
        faults.push(FieldError::invalid(amount.path(), name, detail));
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        faults.push(FieldError::invalid(amount.path(), name, "must be a standard resource for containers"));
    }
    faults.non_negative_quantity(amount);
    let whole = name.contains('/') && !name.starts_with("kubernetes.io/");
    if whole && Quantity::from_value(amount.value()).is_ok_and(|q| !q.is_integer()) {
        faults.invalid(amount, "must be an integer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let full =
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        let cases = [
            (json!([{}]), "BestEffort"),
            (json!([{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]), "BestEffort"),
            (json!([{"resources": full}]), "Guaranteed"),
            (json!([{"resources": full}, {}]), "Burstable"),
            (json!([{"resources": {"requests": {"cpu": "100m"}}}]), "Burstable"),
            (
                json!([{"resources": {"limits": {"cpu": "1", "memory": "1Gi"},
                    "requests": {"cpu": "500m", "memory": "1Gi"}}}]),
                "Burstable",
            ),
        ];
        for (containers, class) in cases {
            assert_eq!(qos_class(&json!({"containers": containers})), class, "{containers}");
        }
    }

    #[test]
    fn limits_become_requests() {
        let mut spec = json!({"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi"},
            "requests": {"cpu": "200m"}}}, {"resources": {}}]});
        default_requests(spec.as_object_mut().expect("object"));
        assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "200m", "memory": "1Gi"}));
        assert_eq!(spec["containers"][1]["resources"], json!({}));
    }

    #[test]
    fn requests_stay_below_limits() {
        let resources = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2", "memory": "-1", "foo": "1"}});
        let mut faults = Faults::default();
        validate(&Node::root(&json!({"resources": resources})).get("resources"), &mut faults);
        let texts: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "resources.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
                "resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
    }
}
