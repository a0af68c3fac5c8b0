//! What kubectl would show, for the cases that differ.

use jiff::ToSpan;

use super::*;
use crate::kinds;

fn printed(group: &str, version: &str, plural: &str, object: &Value) -> Vec<(String, Value)> {
    let resource = kinds::find(group, version, plural).unwrap();
    let table = table(resource, [object].into_iter(), IncludeObject::Metadata, &json!({}), true);
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(columns.len(), cells.len(), "as many cells as columns");
    columns.map(|c| c["name"].as_str().unwrap().to_owned()).zip(cells.iter().cloned()).collect()
}

fn cell(cells: &[(String, Value)], column: &str) -> Value {
    cells.iter().find(|(name, _)| name == column).map(|(_, cell)| cell.clone()).unwrap()
}

fn ago(seconds: i64) -> String {
    (Timestamp::now() - seconds.seconds()).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for resource in kinds::builtin() {
        let object = json!({ "metadata": { "name": "x" } });
        printed(&resource.group, &resource.version, &resource.plural, &object);
    }
}

#[test]
fn ages_read_as_kubectl_writes_them() {
    let cases = [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_000, "3h3m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (172_800, "2d"),
        (180_000, "2d2h"),
        (691_200, "8d"),
        (63_071_999, "729d"),
        (63_072_000, "2y"),
        (64_000_000, "2y10d"),
        (260_000_000, "8y"),
    ];
    for (seconds, text) in cases {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn pod_status_tells_what_its_containers_do() {
    let waiting = json!({ "name": "a", "restartCount": 3, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        "lastState": { "terminated": { "finishedAt": ago(65) } } });
    let running = json!({ "name": "b", "ready": true, "state": { "running": {} } });
    let mut pod = json!({
        "metadata": { "name": "p", "creationTimestamp": ago(300) },
        "spec": { "containers": [{ "name": "a" }, { "name": "b" }], "nodeName": "n" },
        "status": { "phase": "Running", "podIP": "10.42.0.7", "containerStatuses": [waiting, running] },
    });
    let cells = printed("", "v1", "pods", &pod);
    assert_eq!(cell(&cells, "Ready"), "1/2");
    assert_eq!(cell(&cells, "Status"), "CrashLoopBackOff");
    assert_eq!(cell(&cells, "Restarts"), "3 (65s ago)");
    assert_eq!(cell(&cells, "Age"), "5m");
    assert_eq!((cell(&cells, "IP"), cell(&cells, "Nominated Node")), ("10.42.0.7".into(), "<none>".into()));

    pod["metadata"]["deletionTimestamp"] = ago(1).into();
    assert_eq!(cell(&printed("", "v1", "pods", &pod), "Status"), "Terminating");
}

#[test]
fn pod_status_counts_init_containers_and_sidecars() {
    let pod = json!({
        "metadata": { "name": "p" },
        "spec": {
            "initContainers": [{ "name": "side", "restartPolicy": "Always" }, { "name": "second" }],
            "containers": [{ "name": "main" }],
        },
        "status": {
            "phase": "Pending",
            "initContainerStatuses": [
                { "name": "side", "started": true, "ready": true, "state": { "running": {} } },
                { "name": "second", "state": { "terminated": { "exitCode": 7 } } },
            ],
        },
    });
    let cells = printed("", "v1", "pods", &pod);
    assert_eq!((cell(&cells, "Ready"), cell(&cells, "Status")), ("1/2".into(), "Init:ExitCode:7".into()));
}

#[test]
fn node_shows_readiness_cordon_and_roles() {
    let node = json!({
        "metadata": { "name": "n", "labels": {
            "node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/": "", "kubernetes.io/role": "edge" } },
        "spec": { "unschedulable": true },
        "status": { "conditions": [{ "type": "Ready", "status": "True" }],
            "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] },
    });
    let cells = printed("", "v1", "nodes", &node);
    assert_eq!(cell(&cells, "Status"), "Ready,SchedulingDisabled");
    assert_eq!(cell(&cells, "Roles"), "control-plane,edge");
    assert_eq!(
        (cell(&cells, "Internal-IP"), cell(&cells, "External-IP")),
        ("192.0.2.1".into(), "<none>".into())
    );
}

#[test]
fn service_shows_ports_and_pending_load_balancer() {
    let service = json!({ "metadata": { "name": "s" }, "spec": {
        "type": "LoadBalancer", "clusterIP": "10.43.0.9", "selector": { "b": "2", "a": "1" },
        "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" }, { "port": 53, "protocol": "UDP" }] } });
    let cells = printed("", "v1", "services", &service);
    assert_eq!(cell(&cells, "Port(s)"), "80:30080/TCP,53/UDP");
    assert_eq!(cell(&cells, "External-IP"), "<pending>");
    assert_eq!(cell(&cells, "Selector"), "a=1,b=2");
}

#[test]
fn deployment_shows_its_selector_in_text_form() {
    let deployment = json!({ "metadata": { "name": "d" }, "spec": { "replicas": 3,
        "selector": { "matchLabels": { "app": "x" }, "matchExpressions": [
            { "key": "tier", "operator": "In", "values": ["b", "a"] }, { "key": "old", "operator": "DoesNotExist" }] },
        "template": { "spec": { "containers": [{ "name": "c", "image": "i:1" }, { "name": "d", "image": "j" }] } } },
        "status": { "readyReplicas": 2, "availableReplicas": 2 } });
    let cells = printed("apps", "v1", "deployments", &deployment);
    assert_eq!((cell(&cells, "Ready"), cell(&cells, "Images")), ("2/3".into(), "i:1,j".into()));
    assert_eq!(cell(&cells, "Selector"), "app=x,!old,tier in (a,b)");
}

#[test]
fn event_reads_the_same_in_both_forms() {
    let core = json!({ "metadata": { "name": "e" }, "type": "Warning", "reason": "Failed", "message": " no \n",
        "involvedObject": { "kind": "Pod", "name": "p" }, "lastTimestamp": ago(30), "firstTimestamp": ago(90),
        "count": 4, "source": { "component": "kubelet", "host": "n" } });
    let events = json!({ "metadata": { "name": "e" }, "type": "Warning", "reason": "Failed", "note": "no",
        "regarding": { "kind": "Pod", "name": "p" }, "deprecatedLastTimestamp": ago(30), "deprecatedCount": 4,
        "deprecatedFirstTimestamp": ago(90), "deprecatedSource": { "component": "kubelet", "host": "n" } });
    let cells = printed("", "v1", "events", &core);
    assert_eq!(cells, printed("events.k8s.io", "v1", "events", &events));
    assert_eq!((cell(&cells, "Object"), cell(&cells, "Source")), ("pod/p".into(), "kubelet, n".into()));
    assert_eq!((cell(&cells, "Last Seen"), cell(&cells, "Count")), ("30s".into(), "4".into()));
}

#[test]
fn rows_carry_what_was_asked_for_and_watches_no_second_header() {
    let pods = kinds::find("", "v1", "pods").unwrap();
    let pod = json!({ "metadata": { "name": "p" }, "spec": {}, "status": { "phase": "Succeeded" } });
    let list = json!({ "resourceVersion": "7", "continue": "c" });
    let full = table(pods, [&pod].into_iter(), IncludeObject::Object, &list, false);
    assert_eq!((&full["rows"][0]["object"], &full["metadata"]), (&pod, &list));
    assert_eq!(full["columnDefinitions"], json!([]));
    assert_eq!(full["rows"][0]["conditions"][0]["reason"], "Succeeded");
    let partial = table(pods, [&pod].into_iter(), IncludeObject::Metadata, &json!({}), true);
    assert_eq!(partial["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let none = table(pods, [&pod].into_iter(), IncludeObject::None, &json!({}), true);
    assert_eq!(none["rows"][0]["object"], Value::Null);
}
