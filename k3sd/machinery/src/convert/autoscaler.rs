//! Horizontal pod autoscalers: v1 has one metric, CPU; what else v2 says travels in annotations
//! (upstream's `pkg/apis/autoscaling/v1/conversion.go`).

use serde_json::{Map, Value, json};

use crate::meta;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

pub(super) fn to_v2(object: &mut Value) {
    object["apiVersion"] = json!("autoscaling/v2");
    let metrics = take_annotation(object, METRICS);
    let behavior = take_annotation(object, BEHAVIOR);
    let current = take_annotation(object, CURRENT_METRICS);
    let conditions = take_annotation(object, CONDITIONS);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all = match metrics {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            // The annotation may hold it already, when the object came from v2.
            all.retain(|metric| !is_cpu_utilization(metric, "target"));
            all.insert(0, cpu_metric("target", "Utilization", &percent));
        }
        put(spec, "metrics", (!all.is_empty()).then_some(Value::Array(all)));
        put(spec, "behavior", behavior);
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let mut all = match current {
            Some(Value::Array(metrics)) => metrics,
            _ => Vec::new(),
        };
        if let Some(percent) = status.remove("currentCPUUtilizationPercentage")
            && !all.iter().any(|metric| is_cpu_utilization(metric, "current"))
        {
            all.insert(0, cpu_metric("current", "", &percent));
        }
        put(status, "currentMetrics", (!all.is_empty()).then_some(Value::Array(all)));
        put(status, "conditions", conditions);
    }
}

pub(super) fn from_v2(object: &mut Value) {
    object["apiVersion"] = json!("autoscaling/v1");
    let mut annotations = Vec::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let (percent, others) = split(spec.remove("metrics"), "target");
        put(spec, "targetCPUUtilizationPercentage", percent);
        annotations.push((METRICS, others));
        annotations.push((BEHAVIOR, spec.remove("behavior")));
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let all = status.remove("currentMetrics");
        let (percent, _) = split(all.clone(), "current");
        put(status, "currentCPUUtilizationPercentage", percent);
        annotations.push((CURRENT_METRICS, all.filter(|all| all.as_array().is_some_and(|a| !a.is_empty()))));
        annotations.push((CONDITIONS, status.remove("conditions")));
    }
    for (key, value) in annotations {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            meta::set_annotation(object, key, &value.to_string());
        }
    }
}

/// The CPU utilization among some metrics, and the other metrics.
fn split(metrics: Option<Value>, side: &str) -> (Option<Value>, Option<Value>) {
    let Some(Value::Array(mut metrics)) = metrics else { return (None, None) };
    let at = metrics.iter().position(|metric| is_cpu_utilization(metric, side));
    let percent = at.map(|at| metrics.remove(at)["resource"][side]["averageUtilization"].take());
    (percent, (!metrics.is_empty()).then_some(Value::Array(metrics)))
}

fn is_cpu_utilization(metric: &Value, side: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][side]["averageUtilization"].is_number()
}

fn cpu_metric(side: &str, kind: &str, percent: &Value) -> Value {
    let mut value = json!({ "averageUtilization": percent });
    if !kind.is_empty() {
        value["type"] = kind.into();
    }
    json!({ "type": "Resource", "resource": { "name": "cpu", side: value } })
}

fn put(into: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        into.insert(key.to_owned(), value);
    }
}

/// Removes an annotation and reads it as JSON; text that is none is dropped, as upstream does.
fn take_annotation(object: &mut Value, key: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}
