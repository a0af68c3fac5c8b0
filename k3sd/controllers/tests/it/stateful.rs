//! Stateful sets: names, order, claims.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, eventually, from, get_until};

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap()
}

/// Plays the kubelet: runs what has a node, ends what is being deleted.
async fn play(cluster: &Cluster) -> Vec<Pod> {
    let pods = cluster.api::<Pod>();
    let now = kube::api::DeleteParams::default().grace_period(0);
    let all = pods.list(&Default::default()).await.unwrap().items;
    for pod in &all {
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = pods.delete(&name(pod), &now).await;
        } else if pod.spec.as_ref().unwrap().node_name.is_some()
            && pod.status.as_ref().unwrap().pod_ip.is_none()
        {
            cluster.run_pod(&name(pod), "10.42.0.2", true).await;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_in_order_with_claims_and_are_updated_from_the_last() {
    let cluster = Cluster::start().await;
    cluster.add_node("one").await;
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}]}});
    let sets = cluster.api::<StatefulSet>();
    sets.create(&PostParams::default(), &from(set)).await.unwrap();
    let mut seen = Vec::new();
    let up = |set: &StatefulSet, image: &str, pods: &[Pod]| {
        let status = set.status.clone().unwrap();
        status.available_replicas == Some(2)
            && status.current_revision == status.update_revision
            && status.observed_generation == set.metadata.generation
            && pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image))
    };
    for image in ["a:1", "a:2"] {
        let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        sets.patch("db", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let pods = play(&cluster).await;
            for pod in &pods {
                let made = (name(pod), pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap());
                if !seen.contains(&made) {
                    seen.push(made);
                }
            }
            let set = sets.get("db").await.unwrap();
            if pods.len() == 2 && set.status.is_some() && up(&set, image, &pods) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{set:#?} {pods:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let expected = [("db-0", "a:1"), ("db-1", "a:1"), ("db-1", "a:2"), ("db-0", "a:2")];
    assert_eq!(seen, expected.map(|(name, image)| (name.to_owned(), image.to_owned())));
    let claims = cluster.api::<PersistentVolumeClaim>().list(&Default::default()).await.unwrap().items;
    let claims: Vec<_> = claims.into_iter().map(|claim| claim.metadata.name.unwrap()).collect();
    assert_eq!(claims, ["data-db-0", "data-db-1"]);

    let smaller = json!({"spec": {"replicas": 1}});
    sets.patch("db", &PatchParams::default(), &Patch::Merge(smaller)).await.unwrap();
    eventually("the last goes", || async {
        let pods: Vec<_> = play(&cluster).await.iter().map(name).collect();
        if pods == ["db-0"] { Ok(()) } else { Err(pods) }
    })
    .await;
    get_until(&sets, "db", "one left", |set| set.status.as_ref().unwrap().replicas == 1).await;
    cluster.stop().await;
}
