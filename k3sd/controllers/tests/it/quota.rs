//! Quotas: what admission charges, and what the controller counts.

use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ResourceQuota, Service},
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, from, get_until, list_until};

fn amounts(list: Option<&std::collections::BTreeMap<String, Quantity>>) -> Value {
    list.into_iter().flatten().map(|(name, amount)| (name.clone(), Value::from(amount.0.clone()))).collect()
}

fn used(quota: &ResourceQuota) -> Value {
    amounts(quota.status.as_ref().and_then(|status| status.used.as_ref()))
}

fn pod(name: &str, cpu: &str) -> Pod {
    from(json!({ "metadata": { "name": name }, "spec": { "containers": [
        { "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu } } },
    ] } }))
}

async fn make(cluster: &Cluster, spec: Value) {
    let quota = from(json!({ "metadata": { "name": "q" }, "spec": spec }));
    let quotas = cluster.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    get_until(&quotas, "q", "counted", |quota| quota.status.as_ref().is_some_and(|s| s.used.is_some())).await;
}

async fn used_until(cluster: &Cluster, expected: Value) {
    get_until(&cluster.api::<ResourceQuota>(), "q", "what is taken", |quota| used(quota) == expected).await;
}

/// What is said when an object is refused.
async fn refusal<K>(cluster: &Cluster, object: &K) -> String
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    match cluster.api::<K>().create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 403 => status.message,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_no_more_than_its_quota_and_gets_back_what_goes() {
    let cluster = Cluster::start().await;
    let pods = cluster.api::<Pod>();
    pods.create(&PostParams::default(), &pod("before", "100m")).await.unwrap();
    let hard = json!({ "pods": "2", "requests.cpu": "1", "count/pods": "3", "services.nodeports": "1" });
    make(&cluster, json!({ "hard": hard })).await;
    let taken = |pods: &str, cpu: &str, count: &str| json!({ "count/pods": count, "pods": pods, "requests.cpu": cpu, "services.nodeports": "0" });
    used_until(&cluster, taken("1", "100m", "1")).await;

    let message = refusal(&cluster, &pod("big", "950m")).await;
    assert!(
        message.ends_with("exceeded quota: q, requested: requests.cpu=950m, used: requests.cpu=100m, limited: requests.cpu=1"),
        "{message}"
    );
    let silent: Pod = from(json!({ "metadata": { "name": "silent" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } }));
    let message = refusal(&cluster, &silent).await;
    assert!(message.ends_with("failed quota: q: must specify requests.cpu for: c"), "{message}");

    // Charged at once, before anything counts it.
    pods.create(&PostParams::default(), &pod("second", "200m")).await.unwrap();
    assert_eq!(used(&cluster.api::<ResourceQuota>().get("q").await.unwrap()), taken("2", "300m", "2"));
    let message = refusal(&cluster, &pod("third", "1m")).await;
    assert!(
        message.contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        "{message}"
    );
    // What is not stored after all costs nothing.
    let hard = json!({ "spec": { "hard": { "pods": "3" } } });
    let quotas = cluster.api::<ResourceQuota>();
    quotas.patch("q", &PatchParams::default(), &Patch::Merge(&hard)).await.unwrap();
    let raised = |quota: &ResourceQuota| {
        amounts(quota.status.as_ref().and_then(|status| status.hard.as_ref()))["pods"] == "3"
    };
    get_until(&quotas, "q", "raised", raised).await;
    let again = pods.create(&PostParams::default(), &pod("second", "1m")).await;
    assert!(matches!(again, Err(kube::Error::Api(status)) if status.code == 409));
    assert_eq!(used(&quotas.get("q").await.unwrap()), taken("2", "300m", "2"));

    // A pod that is over takes no compute, one that is gone nothing.
    let over = json!({ "status": { "phase": "Succeeded" } });
    pods.patch_status("second", &PatchParams::default(), &Patch::Merge(over)).await.unwrap();
    used_until(&cluster, taken("1", "100m", "2")).await;
    for name in ["before", "second"] {
        pods.delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    used_until(&cluster, taken("0", "0", "0")).await;

    // A service becomes one with node ports, which counts as well as one made so.
    let service = |name: &str, kind: &str| -> Service {
        from(json!({ "metadata": { "name": name }, "spec": { "type": kind, "ports": [{ "port": 80 }] } }))
    };
    let services = cluster.api::<Service>();
    services.create(&PostParams::default(), &service("a", "NodePort")).await.unwrap();
    services.create(&PostParams::default(), &service("b", "ClusterIP")).await.unwrap();
    let to_node_port = json!({ "spec": { "type": "NodePort" } });
    let refused =
        services.patch("b", &PatchParams::default(), &Patch::Merge(&to_node_port)).await.unwrap_err();
    assert!(refused.to_string().contains("exceeded quota: q, requested: services.nodeports=1"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_get_exactly_what_there_is() {
    let cluster = Cluster::start().await;
    make(&cluster, json!({ "hard": { "count/configmaps": "11", "configmaps": "100" } })).await;
    // The cluster's root certificates are one already.
    used_until(&cluster, json!({ "configmaps": "1", "count/configmaps": "1" })).await;
    let maps = cluster.api::<ConfigMap>();
    let created = join_all((0..40).map(|number| {
        let map: ConfigMap = from(json!({ "metadata": { "name": format!("m{number}") } }));
        let maps = maps.clone();
        async move { maps.create(&PostParams::default(), &map).await.is_ok() }
    }))
    .await;
    assert_eq!(created.iter().filter(|created| **created).count(), 10);
    used_until(&cluster, json!({ "configmaps": "11", "count/configmaps": "11" })).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_count_by_class_and_controllers_are_told_why_they_cannot() {
    let cluster = Cluster::start().await;
    make(
        &cluster,
        json!({ "hard": { "gold.storageclass.storage.k8s.io/requests.storage": "3Gi", "pods": "1" } }),
    )
    .await;
    let claim = |name: &str, class: &str, size: &str| -> PersistentVolumeClaim {
        from(json!({ "metadata": { "name": name }, "spec": { "storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": size } } } }))
    };
    let claims = cluster.api::<PersistentVolumeClaim>();
    claims.create(&PostParams::default(), &claim("a", "gold", "2Gi")).await.unwrap();
    claims.create(&PostParams::default(), &claim("b", "silver", "20Gi")).await.unwrap();
    let message = refusal(&cluster, &claim("c", "gold", "2Gi")).await;
    let tail = "requested: gold.storageclass.storage.k8s.io/requests.storage=2Gi, used: gold.storageclass.storage.k8s.io/requests.storage=2Gi, limited: gold.storageclass.storage.k8s.io/requests.storage=3Gi";
    assert!(message.ends_with(tail), "{message}");

    let set: ReplicaSet = from(json!({ "metadata": { "name": "s" }, "spec": { "replicas": 3,
        "selector": { "matchLabels": { "a": "b" } }, "template": { "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } } }));
    let sets = cluster.api::<ReplicaSet>();
    sets.create(&PostParams::default(), &set).await.unwrap();
    get_until(&sets, "s", "told", |set| {
        let conditions = set.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "ReplicaFailure"
                && condition.message.as_ref().is_some_and(|message| message.contains("exceeded quota: q"))
        })
    })
    .await;
    let pods = list_until(&cluster.api::<Pod>(), "one", |pods: &[Pod]| pods.len() == 1).await;
    let first = pods[0].metadata.name.clone().unwrap();
    // The next comes as soon as there is room.
    cluster.api::<Pod>().delete(&first, &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("another pod", || async {
        let pods = cluster.api::<Pod>().list(&kube::api::ListParams::default()).await.unwrap().items;
        let names: Vec<_> = pods.into_iter().filter_map(|pod| pod.metadata.name).collect();
        if names.iter().any(|name| *name != first) { Ok(()) } else { Err(names) }
    })
    .await;
    cluster.stop().await;
}
