//! Daemon sets: a pod on every node that is fit for one.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet},
    core::v1::{Node, Pod},
};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, eventually, from, get_until, list_until};

fn on(pods: &[Pod]) -> Vec<String> {
    let mut nodes: Vec<_> =
        pods.iter().filter_map(|pod| pod.spec.as_ref().unwrap().node_name.clone()).collect();
    nodes.sort();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_follows_the_nodes_and_is_replaced_one_by_one() {
    let cluster = Cluster::start().await;
    cluster.add_node("one").await;
    let set = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": {
        "metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}}});
    let sets = cluster.api::<DaemonSet>();
    let pods = cluster.api::<Pod>();
    sets.create(&PostParams::default(), &from(set)).await.unwrap();
    list_until(&pods, "one daemon", |pods| on(pods) == ["one"]).await;
    cluster.add_node("two").await;
    let both = list_until(&pods, "two daemons", |pods| on(pods) == ["one", "two"]).await;
    for pod in &both {
        cluster.run_pod(pod.metadata.name.as_deref().unwrap(), "10.42.0.2", true).await;
    }
    let available = |count| {
        move |set: &DaemonSet| {
            let status = set.status.clone().unwrap_or_default();
            status.number_available == Some(count)
                && status.desired_number_scheduled == count
                && status.updated_number_scheduled == Some(count)
                && status.observed_generation == set.metadata.generation
        }
    };
    get_until(&sets, "d", "both available", available(2)).await;

    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:2"}]}}}});
    sets.patch("d", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();
    let now = kube::api::DeleteParams::default().grace_period(0);
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    eventually("replaced", || async {
        let all = pods.list(&Default::default()).await.unwrap().items;
        let leaving = all.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some());
        assert!(leaving.clone().count() <= 1, "one at a time: {all:#?}");
        for pod in leaving {
            let _ = pods.delete(pod.metadata.name.as_deref().unwrap(), &now).await;
        }
        for pod in
            all.iter().filter(|pod| image(pod) == "a:2" && pod.status.as_ref().unwrap().pod_ip.is_none())
        {
            if pod.spec.as_ref().unwrap().node_name.is_some() {
                cluster.run_pod(pod.metadata.name.as_deref().unwrap(), "10.42.0.3", true).await;
            }
        }
        let runs = |pod: &Pod| image(pod) == "a:2" && pod.status.as_ref().unwrap().pod_ip.is_some();
        if all.len() == 2 && all.iter().all(runs) { Ok(()) } else { Err(all) }
    })
    .await;
    get_until(&sets, "d", "both updated", available(2)).await;
    let mut revisions = cluster.api::<ControllerRevision>().list(&Default::default()).await.unwrap().items;
    revisions.sort_by_key(|revision| revision.revision);
    let numbers: Vec<_> = revisions.iter().map(|revision| revision.revision).collect();
    assert_eq!(numbers, [1, 2]);

    // A taint that it does not tolerate drives it away.
    let taint = json!({"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}});
    let nodes = cluster.cluster_api::<Node>();
    nodes.patch("two", &PatchParams::default(), &Patch::Strategic(taint)).await.unwrap();
    get_until(&sets, "d", "one desired", |set| set.status.as_ref().unwrap().desired_number_scheduled == 1)
        .await;
    list_until(&pods, "leaving the tainted node", |pods| {
        pods.iter().all(|pod| {
            pod.spec.as_ref().unwrap().node_name.as_deref() == Some("one")
                || pod.metadata.deletion_timestamp.is_some()
        })
    })
    .await;
    cluster.stop().await;
}
