//! Where a pod's node is, told to the pod by its labels.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// A server with an account for pods and a node `n1` in zone `z1` of region `r1`.
async fn cluster() -> Server {
    let server = Server::start().await;
    let account = json!({ "metadata": { "name": "default" } });
    create(&server, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let labels = json!({ ZONE: "z1", REGION: "r1", "kubernetes.io/os": "linux" });
    create(&server, "/api/v1/nodes", json!({ "metadata": { "name": "n1", "labels": labels } })).await;
    server
}

async fn create(server: &Server, target: &str, object: Value) -> Value {
    let (status, body) = server.call(Method::POST, target, object).await;
    assert_eq!(status, StatusCode::CREATED, "{target}: {body}");
    body
}

/// A pod with these labels, on this node if it has a name.
fn pod(name: &str, node: &str, labels: Value) -> Value {
    let mut pod = json!({ "metadata": { "name": name, "labels": labels },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

/// The labels of a pod after it was bound.
async fn bind(server: &Server, name: &str, node: &str) -> Value {
    let binding = json!({ "metadata": { "name": name }, "target": { "kind": "Node", "name": node } });
    create(server, &format!("{PODS}/{name}/binding"), binding).await;
    let (_, pod) = server.call(Method::GET, &format!("{PODS}/{name}"), Value::Null).await;
    assert_eq!(pod["spec"]["nodeName"], node, "{pod}");
    pod["metadata"]["labels"].clone()
}

#[tokio::test]
async fn a_bound_pod_is_told_zone_and_region_and_nothing_else() {
    let server = cluster().await;
    let made = create(&server, PODS, pod("plain", "", json!({ "app": "a" }))).await;
    assert_eq!(made["metadata"]["labels"], json!({ "app": "a" }), "no node, no place");
    assert_eq!(bind(&server, "plain", "n1").await, json!({ "app": "a", ZONE: "z1", REGION: "r1" }));
    server.stop().await;
}

#[tokio::test]
async fn a_pod_made_for_a_node_is_told_at_once() {
    let server = cluster().await;
    let made = create(&server, PODS, pod("placed", "n1", json!({}))).await;
    assert_eq!(made["metadata"]["labels"], json!({ ZONE: "z1", REGION: "r1" }));
    server.stop().await;
}

#[tokio::test]
async fn the_node_knows_better_than_the_pod_where_it_is() {
    let server = cluster().await;
    let claimed = || json!({ ZONE: "elsewhere", "app": "a" });
    let told = json!({ ZONE: "z1", REGION: "r1", "app": "a" });
    let made = create(&server, PODS, pod("placed", "n1", claimed())).await;
    assert_eq!(made["metadata"]["labels"], told);
    let made = create(&server, PODS, pod("bound", "", claimed())).await;
    assert_eq!(made["metadata"]["labels"], claimed());
    assert_eq!(bind(&server, "bound", "n1").await, told);
    server.stop().await;
}

#[tokio::test]
async fn of_a_node_that_is_not_there_nothing_is_known() {
    let server = cluster().await;
    let labels = || json!({ ZONE: "kept" });
    let made = create(&server, PODS, pod("placed", "nowhere", labels())).await;
    assert_eq!(made["metadata"]["labels"], labels());
    create(&server, PODS, pod("bound", "", labels())).await;
    assert_eq!(bind(&server, "bound", "nowhere").await, labels());
    server.stop().await;
}
