//! From a deployment to endpoints, through every controller on the way.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Endpoints, Event, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, from, get_until, list_until};

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"requests": {"cpu": "100m"}}}]},
            },
        },
    })
}

fn name<K: kube::Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_gets_its_account_and_root_certificate_and_a_node_its_network() {
    let cluster = Cluster::start().await;
    let map = get_until(&cluster.api::<ConfigMap>(), "kube-root-ca.crt", "root certificate", |_| true).await;
    assert_eq!(map.data.unwrap()["ca.crt"], "the root");
    cluster.add_node("one").await;
    cluster.add_node("two").await;
    let mut networks = Vec::new();
    for node in ["one", "two"] {
        let cidr = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
        let node = get_until(&cluster.cluster_api(), node, "pod network", |node| cidr(node).is_some()).await;
        networks.push(cidr(&node).unwrap());
    }
    networks.sort();
    assert_eq!(networks, ["10.42.0.0/24", "10.42.1.0/24"]);
    // What is changed or deleted by hand comes back.
    let maps = cluster.api::<ConfigMap>();
    let change = json!({"data": {"ca.crt": "forged", "more": "x"}});
    maps.patch("kube-root-ca.crt", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    let restored = |map: &ConfigMap| {
        map.data.as_ref().is_some_and(|data| data.len() == 1 && data["ca.crt"] == "the root")
    };
    get_until(&maps, "kube-root-ca.crt", "restored", restored).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_scheduled_pods_and_endpoints_and_rolls_over() {
    let cluster = Cluster::start().await;
    cluster.add_node("one").await;
    let deployments = cluster.api::<Deployment>();
    let pods = cluster.api::<Pod>();
    deployments.create(&PostParams::default(), &from(deployment(2, "a:1"))).await.unwrap();
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.api::<Service>().create(&PostParams::default(), &from(service)).await.unwrap();

    let placed = list_until(&pods, "two pods on the node", |pods| {
        pods.len() == 2 && pods.iter().all(|pod| node_of(pod) == Some("one"))
    })
    .await;
    for (index, pod) in placed.iter().enumerate() {
        cluster.run_pod(&name(pod), &format!("10.42.0.{}", index + 2), true).await;
    }
    let done = |deployment: &Deployment| {
        deployment.status.as_ref().is_some_and(|status| {
            status.available_replicas == Some(2)
                && status.observed_generation == deployment.metadata.generation
                && status.conditions.iter().flatten().any(|condition| {
                    condition.type_ == "Progressing"
                        && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
                })
        })
    };
    let first = get_until(&deployments, "web", "available", done).await;
    assert_eq!(first.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"], "1");
    let ready = |slice: &EndpointSlice| {
        slice
            .endpoints
            .iter()
            .flatten()
            .filter(|one| one.conditions.as_ref().unwrap().ready == Some(true))
            .count()
    };
    let ours = |slice: &&EndpointSlice| name(*slice).starts_with("web-");
    let slices = list_until(&cluster.api::<EndpointSlice>(), "two ready endpoints", |slices| {
        slices.iter().filter(ours).map(ready).sum::<usize>() == 2
    })
    .await;
    let slice = slices.iter().find(ours).unwrap();
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    get_until(&cluster.api::<Endpoints>(), "web", "endpoints", |endpoints| {
        endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten()).count() == 2
    })
    .await;

    // A new template: the old pods go only as new ones become available.
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a:2"}]}}}});
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();
    let image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    for round in 0..2 {
        let current = list_until(&pods, "a new pod", |pods| {
            pods.iter().any(|pod| {
                image(pod) == "a:2" && node_of(pod).is_some() && pod.status.as_ref().unwrap().pod_ip.is_none()
            })
        })
        .await;
        assert!(
            current.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count() <= 3,
            "one surge"
        );
        let fresh = current
            .iter()
            .find(|pod| image(pod) == "a:2" && pod.status.as_ref().unwrap().pod_ip.is_none())
            .unwrap();
        cluster.run_pod(&name(fresh), &format!("10.42.0.{}", 10 + round), true).await;
        finish_deleted(&cluster, 1 - round).await;
    }
    get_until(&deployments, "web", "rolled over", done).await;
    let sets = cluster.api::<ReplicaSet>();
    let mut sizes: Vec<_> = sets.list(&kube::api::ListParams::default()).await.unwrap().items;
    sizes.sort_by_key(|set| {
        set.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"].clone()
    });
    let sizes: Vec<_> = sizes.iter().map(|set| set.spec.as_ref().unwrap().replicas.unwrap()).collect();
    assert_eq!(sizes, [0, 2]);
    let events = cluster.api::<Event>().list(&kube::api::ListParams::default()).await.unwrap().items;
    let messages: Vec<_> = events.iter().filter_map(|event| event.message.clone()).collect();
    assert!(
        messages
            .iter()
            .any(|message| message.starts_with("Scaled up replica set web-")
                && message.ends_with(" from 0 to 2")),
        "{messages:#?}"
    );
    assert!(
        messages.iter().any(|message| message.starts_with("Successfully assigned default/web-")),
        "{messages:#?}"
    );
    cluster.stop().await;
}

/// Ends pods that are being deleted, as the kubelet does, until at most `left` old ones are there.
async fn finish_deleted(cluster: &Cluster, left: usize) {
    let pods = cluster.api::<Pod>();
    let now = kube::api::DeleteParams::default().grace_period(0);
    crate::cluster::eventually("old pods gone", || async {
        let all = pods.list(&kube::api::ListParams::default()).await.unwrap().items;
        for pod in all.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
            let _ = pods.delete(&name(pod), &now).await;
        }
        let old = all
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("a:1"))
            .count();
        if old <= left { Ok(()) } else { Err(all) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_a_node_comes() {
    let cluster = Cluster::start().await;
    let pods = cluster.api::<Pod>();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &from(pod)).await.unwrap();
    let reason = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?.message.clone()
    };
    let waiting = get_until(&pods, "p", "a reason", |pod| reason(pod).is_some()).await;
    assert_eq!(reason(&waiting).unwrap(), "no nodes available to schedule pods");
    let events = list_until(&cluster.api::<Event>(), "an event", |events| {
        events.iter().any(|event| event.reason.as_deref() == Some("FailedScheduling"))
    })
    .await;
    assert_eq!(events[0].involved_object.name.as_deref(), Some("p"));
    cluster.add_node("late").await;
    get_until(&pods, "p", "a node", |pod| node_of(pod) == Some("late")).await;
    cluster.stop().await;
}
