//! How things go: with their owners, with their namespace, and pods that nobody else would remove.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, from, get_until, list_until};

fn config_map(name: &str, owner: Option<(&str, &str)>, finalizer: Option<&str>) -> ConfigMap {
    let reference = |(name, uid): (&str, &str)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true});
    from(json!({"metadata": {
        "name": name,
        "ownerReferences": owner.map(reference).into_iter().collect::<Vec<Value>>(),
        "finalizers": finalizer.into_iter().collect::<Vec<_>>(),
    }}))
}

async fn create(
    maps: &Api<ConfigMap>,
    name: &str,
    owner: Option<(&str, &str)>,
    finalizer: Option<&str>,
) -> String {
    let created = maps.create(&PostParams::default(), &config_map(name, owner, finalizer)).await.unwrap();
    created.metadata.uid.unwrap()
}

async fn gone(maps: &Api<ConfigMap>, name: &str) {
    eventually(name, || async {
        match maps.get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(map) => Err(map),
        }
    })
    .await;
}

fn policy(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_last_owner_and_orphans_stay() {
    let cluster = Cluster::start().await;
    let maps = cluster.api::<ConfigMap>();
    // grandparent <- parent <- child, in the background.
    let grandparent = create(&maps, "grandparent", None, None).await;
    let parent = create(&maps, "parent", Some(("grandparent", &grandparent)), None).await;
    create(&maps, "child", Some(("parent", &parent)), None).await;
    maps.delete("grandparent", &policy(PropagationPolicy::Background)).await.unwrap();
    gone(&maps, "child").await;
    gone(&maps, "parent").await;

    // One whose owner never was, or was another of the same name, goes too.
    create(&maps, "forged", Some(("kube-root-ca.crt", "no-such-uid")), None).await;
    gone(&maps, "forged").await;

    // Orphaned: the dependent stays and has no owner any more.
    let owner = create(&maps, "owner", None, None).await;
    create(&maps, "left", Some(("owner", &owner)), None).await;
    maps.delete("owner", &policy(PropagationPolicy::Orphan)).await.unwrap();
    gone(&maps, "owner").await;
    get_until(&maps, "left", "freed", |map| {
        map.metadata.owner_references.as_deref().unwrap_or_default().is_empty()
    })
    .await;

    // In the foreground: the owner is there until its dependent is gone.
    let owner = create(&maps, "front", None, None).await;
    create(&maps, "held", Some(("front", &owner)), Some("example.com/hold")).await;
    maps.delete("front", &policy(PropagationPolicy::Foreground)).await.unwrap();
    get_until(&maps, "held", "being deleted", |map| map.metadata.deletion_timestamp.is_some()).await;
    assert!(maps.get_opt("front").await.unwrap().is_some(), "its dependent is still there");
    let free = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    gone(&maps, "front").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_deployment_takes_its_sets_and_pods_with_it() {
    let cluster = Cluster::start().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let deployments = cluster.api::<Deployment>();
    deployments
        .create(&PostParams::default(), &from(json!({"metadata": {"name": "web"}, "spec": spec})))
        .await
        .unwrap();
    list_until(&cluster.api::<Pod>(), "three pods", |pods| pods.len() == 3).await;
    deployments.delete("web", &policy(PropagationPolicy::Background)).await.unwrap();
    list_until(&cluster.api::<ReplicaSet>(), "no sets", |sets| sets.is_empty()).await;
    // They have no node, so no kubelet ends them.
    list_until(&cluster.api::<Pod>(), "no pods", |pods| pods.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_deleted_namespace_nothing_goes_before_the_last_pod() {
    let cluster = Cluster::start().await;
    cluster.add_node("one").await;
    let namespaces = cluster.cluster_api::<Namespace>();
    namespaces.create(&PostParams::default(), &from(json!({"metadata": {"name": "doomed"}}))).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "doomed");
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "doomed");
    get_until(&maps, "kube-root-ca.crt", "root certificate", |_| true).await;
    let pod: Pod =
        from(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let params = PostParams::default();
    eventually("the service account is there", || pods.create(&params, &pod)).await;
    get_until(&pods, "p", "placed", |pod| pod.spec.as_ref().unwrap().node_name.is_some()).await;
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    let says = |namespace: &Namespace| {
        let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|one| {
            one.type_ == "NamespaceContentRemaining"
                && one.message.as_deref()
                    == Some("Some resources are remaining: pods. has 1 resource instances")
        })
    };
    get_until(&namespaces, "doomed", "waiting for the pod", says).await;
    assert!(maps.get_opt("kube-root-ca.crt").await.unwrap().is_some());
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("namespace gone", || async {
        match namespaces.get_opt("doomed").await.unwrap() {
            None => Ok(()),
            Some(namespace) => Err(namespace),
        }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_is_emptied_first_and_says_what_holds_it() {
    let cluster = Cluster::start().await;
    let namespaces = cluster.cluster_api::<Namespace>();
    namespaces.create(&PostParams::default(), &from(json!({"metadata": {"name": "doomed"}}))).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "doomed");
    get_until(&maps, "kube-root-ca.crt", "root certificate", |_| true).await;
    create(&maps, "plain", None, None).await;
    create(&maps, "held", None, Some("example.com/hold")).await;
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    let says = |namespace: &Namespace| {
        let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|one| {
            one.type_ == "NamespaceFinalizersRemaining"
                && one.message.as_deref().unwrap().contains("example.com/hold in 1")
        })
    };
    get_until(&namespaces, "doomed", "what holds it", says).await;
    let left = maps.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(left.len(), 1, "{left:#?}");
    let refused = maps.create(&PostParams::default(), &config_map("late", None, None)).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    let free = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    eventually("namespace gone", || async {
        match namespaces.get_opt("doomed").await.unwrap() {
            None => Ok(()),
            Some(namespace) => Err(namespace),
        }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_goes_when_the_last_pod_on_a_node_has_gone() {
    let cluster = Cluster::start().await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    let created = claims.create(&PostParams::default(), &from(claim)).await.unwrap();
    assert_eq!(created.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    let pods = cluster.api::<Pod>();
    let pod = json!({"metadata": {"name": "user"}, "spec": {
        "nodeName": "somewhere", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    }});
    pods.create(&PostParams::default(), &from(pod)).await.unwrap();
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    // What is done later shows that the controller has passed by.
    claims
        .create(
            &PostParams::default(),
            &from(json!({"metadata": {"name": "unused"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            }})),
        )
        .await
        .unwrap();
    claims.delete("unused", &DeleteParams::default()).await.unwrap();
    removed(&claims, "unused").await;
    assert!(claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some(), "a pod uses it");
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods.delete("user", &now).await.unwrap();
    removed(&claims, "data").await;
}

async fn removed(claims: &Api<PersistentVolumeClaim>, name: &str) {
    eventually(name, || async {
        match claims.get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(claim) => Err(claim),
        }
    })
    .await;
}
