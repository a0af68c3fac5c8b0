//! What becomes of nodes that are not well, and of the pods on them.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, from, get_until};

fn pod(name: &str, tolerations: &Value) -> Pod {
    from(json!({
        "metadata": {"name": name},
        "spec": {"tolerations": tolerations,
            "containers": [{"name": "c", "image": "i"}]},
    }))
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut taints: Vec<_> = taints
        .iter()
        .map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect))
        .collect();
    taints.sort();
    taints
}

async fn report(cluster: &Cluster, node: &str, ready: bool) {
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"},
        "reason": "Test", "lastHeartbeatTime": machinery::meta::now(), "lastTransitionTime": machinery::meta::now()}]}});
    let nodes = cluster.cluster_api::<Node>();
    nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_leave_a_node_that_is_not_ready_as_their_tolerations_say() {
    let cluster = Cluster::start().await;
    cluster.add_node("sick").await;
    let pods = cluster.api::<Pod>();
    let nodes = cluster.cluster_api::<Node>();
    let forever = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
    let briefly = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 1}]);
    for (name, tolerations) in [("stays", &forever), ("leaves", &briefly)] {
        pods.create(&PostParams::default(), &pod(name, tolerations)).await.unwrap();
        let placed = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some("sick");
        get_until(&pods, name, "placed", placed).await;
        cluster.run_pod(name, "10.42.0.9", true).await;
    }
    report(&cluster, "sick", false).await;
    get_until(&nodes, "sick", "kept free", |node| taints(node) == ["not-ready:NoSchedule"]).await;
    let unready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "False")
    };
    get_until(&pods, "stays", "not ready", unready).await;

    // Only when another node is ready can pods go anywhere.
    cluster.add_node("well").await;
    get_until(&nodes, "sick", "evicting", |node| {
        taints(node) == ["not-ready:NoExecute", "not-ready:NoSchedule"]
    })
    .await;
    get_until(&pods, "leaves", "being deleted", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    assert!(pods.get("stays").await.unwrap().metadata.deletion_timestamp.is_none());
    report(&cluster, "sick", true).await;
    get_until(&nodes, "sick", "well again", |node| taints(node).is_empty()).await;

    // Cordoned.
    let cordon = json!({"spec": {"unschedulable": true}});
    nodes.patch("sick", &PatchParams::default(), &Patch::Strategic(cordon)).await.unwrap();
    get_until(&nodes, "sick", "cordoned", |node| taints(node) == ["unschedulable:NoSchedule"]).await;
    cluster.stop().await;
}
