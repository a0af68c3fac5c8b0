//! Horizontal pod autoscalers (upstream's `pkg/apis/autoscaling/validation`). Both versions obey the rules of v2, which is also the one
//! that faults are named after.

use machinery::quantity::Quantity;
use machinery::status::FieldError;
use machinery::{convert, meta};
use serde_json::{Value, json};

use super::check::{child, set_default};
use super::walk::{Faults, Node};
use super::{Context, Strategy};
use crate::names;

/// Upstream's `DefaultCPUUtilization`.
const CPU_PERCENT: i64 = 80;
const MAX_PERIOD_SECONDS: i64 = 1800;
const MAX_WINDOW_SECONDS: i64 = 3600;
const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
/// The field that goes with each type of metric, in the order in which upstream looks at them.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

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

    fn validate_create(&self, cx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        validate_spec(&in_v2(cx, object), None, &mut faults);
        faults.0
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Faults::default();
        let object = in_v2(cx, object);
        if cx.subresource == "status" {
            faults.non_negative(&Node::root(&object).at("status.currentReplicas"));
            faults.non_negative(&Node::root(&object).at("status.desiredReplicas"));
        } else {
            validate_spec(&object, Some(&in_v2(cx, old)), &mut faults);
        }
        faults.0
    }
}

fn in_v2(cx: &Context<'_>, object: &Value) -> Value {
    let mut object = object.clone();
    convert::to_storage(cx.resource, &mut object);
    object
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

fn validate_spec(object: &Value, old: Option<&Value>, faults: &mut Faults) {
    let spec = Node::root(object).get("spec");
    let old = Node::root(old.unwrap_or(&Value::Null)).get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    // Scaling to nothing is behind a gate, but whoever has it keeps it.
    let lowest = if old.get("minReplicas").int() == Some(0) { 0 } else { 1 };
    if least.int().is_some_and(|least| least < lowest) {
        faults.invalid(&least, format!("must be greater than or equal to {lowest}"));
    }
    if most.int().unwrap_or(0) < 1 {
        faults.invalid(&most, "must be greater than 0");
    }
    if least.int().is_some_and(|least| most.int().unwrap_or(0) < least) {
        faults.invalid(&most, "must be greater than or equal to `minReplicas`");
    }
    let (target, before) = (spec.get("scaleTargetRef"), old.get("scaleTargetRef"));
    let same = |field: &str| target.get(field).str() == before.get(field).str();
    let version = if before.is_set() && same("apiVersion") && same("kind") {
        ApiVersion::Any
    } else if target.get("kind").str() == "ReplicationController" {
        ApiVersion::CoreToo
    } else {
        ApiVersion::WithGroup
    };
    reference(&target, version, faults);
    metrics(&spec.get("metrics"), least.int(), faults);
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.get("behavior").get(direction);
        if rules.is_set() {
            scaling_rules(&rules, faults);
        }
    }
}

/// What may be named by a reference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ApiVersion {
    /// Stored like this already.
    Any,
    /// Kinds of the core group too.
    CoreToo,
    WithGroup,
}

/// Upstream's `ValidateCrossVersionObjectReference`.
fn reference(reference: &Node<'_>, allowed: ApiVersion, faults: &mut Faults) {
    faults.required_name(&reference.get("kind"), names::path_segment);
    faults.required_name(&reference.get("name"), names::path_segment);
    let version = reference.get("apiVersion");
    let text = version.str();
    if allowed == ApiVersion::Any {
        return;
    }
    let fault = match text.split('/').collect::<Vec<_>>().as_slice() {
        [_, _, _, ..] => Some(format!("unexpected GroupVersion string: {text}")),
        [_] | ["", _] if allowed == ApiVersion::WithGroup => {
            Some("apiVersion must specify API group".to_owned())
        }
        _ => None,
    };
    if let Some(detail) = fault {
        faults.push(FieldError::invalid(version.path(), text, detail));
    }
}

fn metrics(metrics: &Node<'_>, least: Option<i64>, faults: &mut Faults) {
    for metric in metrics.items() {
        one_metric(&metric, faults);
    }
    let from_outside = |metric: Node<'_>| matches!(metric.get("type").str(), "Object" | "External");
    if least == Some(0) && !metrics.items().any(from_outside) {
        let detail =
            "must specify at least one Object or External metric to support scaling to zero replicas";
        faults.forbidden(metrics, detail);
    }
}

fn one_metric(metric: &Node<'_>, faults: &mut Faults) {
    let kind = metric.get("type");
    if kind.str().is_empty() {
        faults.required(&kind, "must specify a metric source type");
    }
    let expected = SOURCES.iter().find(|(name, _)| *name == kind.str()).map(|(_, field)| *field);
    if expected.is_none() {
        faults.push(FieldError::not_supported(kind.path(), kind.str(), &METRIC_TYPES));
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.get(field).is_set()).collect();
    if let Some(first) = present.first() {
        source(first, &metric.get(first), faults);
    }
    if let Some(field) = expected.filter(|field| !metric.get(field).is_set()) {
        faults.required(&metric.get(field), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for field in present.into_iter().filter(|field| Some(*field) != expected) {
            faults.forbidden(&metric.get(field), "must populate the given metric source only");
        }
    }
}

fn source(kind: &str, source: &Node<'_>, faults: &mut Faults) {
    let target = source.get("target");
    let (value, average, percent) =
        (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match kind {
        "object" => {
            reference(&source.get("describedObject"), ApiVersion::CoreToo, faults);
            identifier(&source.get("metric"), faults);
            metric_target(&target, faults);
            if !value.is_set() && !average.is_set() {
                faults.required(&average, "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(&source.get("metric"), faults);
            metric_target(&target, faults);
            if !value.is_set() && !average.is_set() {
                faults.required(&average, "must set either a target value for metric or a per-pod target");
            }
            if value.is_set() && average.is_set() {
                let detail = "may not set both a target value for metric and a per-pod target";
                faults.forbidden(&value, detail);
            }
        }
        "pods" => {
            identifier(&source.get("metric"), faults);
            metric_target(&target, faults);
            if !average.is_set() {
                faults.required(&average, "must specify a positive target averageValue");
            }
        }
        _ => {
            if source.get("name").str().is_empty() {
                faults.required(&source.get("name"), "must specify a resource name");
            }
            if kind == "containerResource" {
                container(&source.get("container"), faults);
            }
            metric_target(&target, faults);
            if !percent.is_set() && !average.is_set() {
                faults.required(&percent, "must set either a target raw value or a target utilization");
            }
            if percent.is_set() && average.is_set() {
                let detail = "may not set both a target raw value and a target utilization";
                faults.forbidden(&average, detail);
            }
        }
    }
}

fn container(container: &Node<'_>, faults: &mut Faults) {
    if container.str().is_empty() {
        faults.required(container, "must specify a container");
    } else {
        faults.name(container, names::dns1123_label);
    }
}

fn identifier(metric: &Node<'_>, faults: &mut Faults) {
    let name = metric.get("name");
    if name.str().is_empty() {
        faults.required(&name, "must specify a metric name");
    } else {
        faults.name(&name, names::path_segment);
    }
}

fn metric_target(target: &Node<'_>, faults: &mut Faults) {
    let kind = target.get("type");
    if kind.str().is_empty() {
        faults.required(&kind, "must specify a metric target type");
    }
    if !matches!(kind.str(), "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        faults.push(FieldError::invalid(kind.path(), kind.str(), detail));
    }
    for field in ["value", "averageValue"] {
        let amount = target.get(field);
        if amount.is_set() && !Quantity::from_value(amount.value()).is_ok_and(|q| q > Quantity::ZERO) {
            faults.invalid(&amount, "must be positive");
        }
    }
    let percent = target.get("averageUtilization");
    if percent.int().is_some_and(|percent| percent < 1) {
        faults.invalid(&percent, "must be greater than 0");
    }
}

fn scaling_rules(rules: &Node<'_>, faults: &mut Faults) {
    let window = rules.get("stabilizationWindowSeconds");
    if window.int().is_some_and(|seconds| seconds < 0) {
        faults.invalid(&window, "must be greater than or equal to zero");
    }
    if window.int().is_some_and(|seconds| seconds > MAX_WINDOW_SECONDS) {
        faults.invalid(&window, format!("must be less than or equal to {MAX_WINDOW_SECONDS}"));
    }
    let select = rules.get("selectPolicy");
    if select.is_set() && !matches!(select.str(), "Max" | "Min" | "Disabled") {
        faults.push(FieldError::not_supported(select.path(), select.str(), &["Disabled", "Max", "Min"]));
    }
    let tolerance = rules.get("tolerance");
    if Quantity::from_value(tolerance.value()).is_ok_and(Quantity::is_negative) {
        faults.invalid(&tolerance, "must be greater than or equal to 0");
    }
    let policies = rules.get("policies");
    if policies.len() == 0 {
        faults.required(&policies, "must specify at least one Policy");
    }
    for policy in policies.items() {
        let (kind, value, period) = (policy.get("type"), policy.get("value"), policy.get("periodSeconds"));
        if !matches!(kind.str(), "Pods" | "Percent") {
            faults.push(FieldError::not_supported(kind.path(), kind.str(), &["Percent", "Pods"]));
        }
        for number in [&value, &period] {
            if number.int().unwrap_or(0) <= 0 {
                faults.invalid(number, "must be greater than zero");
            }
        }
        if period.int().is_some_and(|seconds| seconds > MAX_PERIOD_SECONDS) {
            faults.invalid(&period, format!("must be less than or equal to {MAX_PERIOD_SECONDS}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::World;
    use super::*;

    const PLURAL: &str = "horizontalpodautoscalers";

    fn spec() -> Value {
        json!({ "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "d" } })
    }

    fn refused(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = spec();
        change(&mut spec);
        let object = json!({ "apiVersion": "autoscaling/v2", "metadata": { "name": "x" }, "spec": spec });
        World::new().create("autoscaling", PLURAL, object).expect_err("refused").texts()
    }

    #[test]
    fn it_watches_the_processor_unless_told_otherwise() {
        let object = json!({ "apiVersion": "autoscaling/v2", "metadata": { "name": "x" }, "spec": spec() });
        let made = World::new().create("autoscaling", PLURAL, object).expect("valid");
        assert_eq!(made["spec"]["minReplicas"], 1);
        assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    }

    #[test]
    fn numbers_and_target_make_sense() {
        assert_eq!(
            refused(|spec| {
                spec["minReplicas"] = 0.into();
                spec["maxReplicas"] = (-1).into();
            }),
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than 0",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
            ]
        );
        assert_eq!(
            refused(|spec| spec["scaleTargetRef"] = json!({ "apiVersion": "v1", "kind": "a/b" })),
            [
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
            ]
        );
        assert_eq!(
            refused(|spec| spec["scaleTargetRef"]["apiVersion"] = "a/b/c".into()),
            [
                "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"
            ]
        );
    }

    #[test]
    fn a_target_that_is_stored_already_is_not_looked_at_again() {
        let old = json!({ "apiVersion": "autoscaling/v2", "metadata": { "name": "x" }, "spec": {
            "minReplicas": 1, "maxReplicas": 2, "scaleTargetRef": { "apiVersion": "v1", "kind": "D", "name": "d" } } });
        let world = World::new();
        assert!(
            world.update("autoscaling", PLURAL, &old, |hpa| hpa["spec"]["maxReplicas"] = 4.into()).is_ok()
        );
        let refused = world
            .update("autoscaling", PLURAL, &old, |hpa| hpa["spec"]["scaleTargetRef"]["kind"] = "E".into());
        assert_eq!(
            refused.expect_err("another kind").texts(),
            ["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"]
        );
    }

    #[test]
    fn a_metric_has_the_one_source_of_its_type() {
        assert_eq!(
            refused(|spec| spec["metrics"] = json!([{ "type": "Nonsense" }, { "type": "Pods", "resource": {
                "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 0 } } }])),
            [
                "spec.metrics[0].type: Unsupported value: \"Nonsense\": supported values: \"ContainerResource\", \"External\", \
                 \"Object\", \"Pods\", \"Resource\"",
                "spec.metrics[1].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[1].pods: Required value: must populate information for the given metric source",
            ]
        );
        assert_eq!(
            refused(|spec| spec["metrics"] = json!([{ "type": "Pods",
                "pods": { "metric": { "name": "" }, "target": { "type": "AverageValue" } }, "object": {
                "describedObject": { "kind": "K", "name": "n", "apiVersion": "v1" }, "metric": { "name": "m" },
                "target": { "type": "Value", "value": "-1" } } }])),
            [
                "spec.metrics[0].object.target.value: Invalid value: \"-1\": must be positive",
                "spec.metrics[0].object: Forbidden: must populate the given metric source only",
            ]
        );
        assert_eq!(
            refused(|spec| spec["metrics"] = json!([{ "type": "ContainerResource", "containerResource": {
                "name": "cpu", "container": "A", "target": { "type": "X", "averageValue": "1", "averageUtilization": 5 } } }]))
                [1..],
            [
                "spec.metrics[0].containerResource.target.type: Invalid value: \"X\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].containerResource.target.averageValue: Forbidden: may not set both a target raw value and a \
                 target utilization",
            ]
        );
    }

    #[test]
    fn behavior_stays_within_its_limits() {
        let policy = json!({ "type": "Nodes", "value": 0, "periodSeconds": 1801 });
        assert_eq!(
            refused(|spec| spec["behavior"] = json!({ "scaleUp": { "stabilizationWindowSeconds": 3601,
                "selectPolicy": "Best", "policies": [policy] } })),
            [
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Best\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Nodes\": supported values: \"Percent\", \"Pods\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ]
        );
    }

    #[test]
    fn the_old_version_obeys_the_same_rules() {
        let world = World::new();
        let mut spec = spec();
        spec["targetCPUUtilizationPercentage"] = 0.into();
        let object = json!({ "apiVersion": "autoscaling/v1", "metadata": { "name": "x" }, "spec": spec });
        let refused = world.create_in("autoscaling", "v1", PLURAL, object).expect_err("refused").texts();
        assert_eq!(
            refused,
            ["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"]
        );
    }
}
