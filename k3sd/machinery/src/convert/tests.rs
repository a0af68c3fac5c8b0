//! There and back.

use serde_json::json;

use super::*;
use crate::kinds;

#[test]
fn event_keeps_everything_in_both_forms() {
    let events = kinds::find("events.k8s.io", "v1", "events").unwrap();
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "e" }, "involvedObject": { "kind": "Pod" },
        "message": "m", "reason": "r", "type": "Normal", "source": { "component": "c" }, "count": 2,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z", "eventTime": null,
        "reportingComponent": "c", "reportingInstance": "i",
    });
    let mut object = core.clone();
    from_storage(events, &mut object);
    assert_eq!(object["apiVersion"], "events.k8s.io/v1");
    assert_eq!((&object["regarding"]["kind"], &object["note"]), (&json!("Pod"), &json!("m")));
    assert_eq!((&object["reportingController"], &object["deprecatedCount"]), (&json!("c"), &json!(2)));
    assert!(object.get("message").is_none());
    to_storage(events, &mut object);
    assert_eq!(object, core);
}

#[test]
fn autoscaler_keeps_everything_in_both_forms() {
    let v1 = kinds::find("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
    let v2 = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "h" },
        "spec": {
            "maxReplicas": 5,
            "behavior": { "scaleDown": { "stabilizationWindowSeconds": 60 } },
            "metrics": [
                { "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } },
                { "type": "Resource", "resource": { "name": "memory", "target": { "type": "AverageValue", "averageValue": "1Gi" } } },
            ],
        },
        "status": {
            "currentReplicas": 1,
            "conditions": [{ "type": "AbleToScale", "status": "True" }],
            "currentMetrics": [{ "type": "Resource", "resource": { "name": "cpu", "current": { "averageUtilization": 3, "averageValue": "3m" } } }],
        },
    });
    let mut object = v2.clone();
    from_storage(v1, &mut object);
    assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 80);
    assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 3);
    assert!(object["spec"].get("metrics").is_none());
    to_storage(v1, &mut object);
    assert_eq!(object, v2);
}

#[test]
fn other_kinds_pass_untouched() {
    let pods = kinds::find("", "v1", "pods").unwrap();
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "message": "x" });
    let before = pod.clone();
    to_storage(pods, &mut pod);
    from_storage(pods, &mut pod);
    assert_eq!(pod, before);
}
