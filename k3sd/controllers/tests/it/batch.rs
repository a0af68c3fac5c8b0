//! Jobs: pods that run to their end, each counted once.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, eventually, from, get_until, list_until};

async fn end(cluster: &Cluster, pod: &Pod, phase: &str) {
    let now = machinery::meta::now();
    let status = json!({"status": {"phase": phase, "containerStatuses": [{
        "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": i32::from(phase == "Failed"), "startedAt": now, "finishedAt": now}},
    }]}});
    let pods = cluster.api::<Pod>();
    let name = pod.metadata.name.as_deref().unwrap();
    pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
}

fn is_running(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_when_enough_pods_have_succeeded_and_goes_after_its_time_to_live() {
    let cluster = Cluster::start().await;
    cluster.add_node("one").await;
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 3, "parallelism": 2, "ttlSecondsAfterFinished": 1,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let jobs = cluster.api::<Job>();
    let pods = cluster.api::<Pod>();
    jobs.create(&PostParams::default(), &from(job)).await.unwrap();
    let first = list_until(&pods, "two at once", |pods| pods.len() == 2).await;
    // One is deleted: it goes, though it was tracked, and another takes its place.
    let name = first[0].metadata.name.as_deref().unwrap();
    eventually("the deleted pod goes", || async {
        let _ = pods.delete(name, &kube::api::DeleteParams::default().grace_period(0)).await;
        if pods.get_opt(name).await.unwrap().is_none() { Ok(()) } else { Err("still there") }
    })
    .await;
    list_until(&pods, "two again", |pods| pods.len() == 2).await;
    let status = |job: &Job| job.status.clone().unwrap_or_default();
    eventually("three successes", || async {
        for pod in pods.list(&Default::default()).await.unwrap().items.iter().filter(|pod| is_running(pod)) {
            end(&cluster, pod, "Succeeded").await;
        }
        let job = jobs.get_opt("j").await.unwrap();
        let done = job.as_ref().is_none_or(|job| status(job).completion_time.is_some());
        if done { Ok(()) } else { Err(job) }
    })
    .await;
    let all = pods.list(&Default::default()).await.unwrap().items;
    assert!(all.len() <= 3, "{all:#?}");
    eventually("the job expires and takes its pods along", || async {
        let left = (jobs.get_opt("j").await.unwrap(), pods.list(&Default::default()).await.unwrap().items);
        if left.0.is_none() && left.1.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_fails_beyond_its_limit_and_keeps_its_pods_to_look_at() {
    let cluster = Cluster::start().await;
    cluster.add_node("one").await;
    let job = json!({"metadata": {"name": "j"}, "spec": {"backoffLimit": 0,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    cluster.api::<Job>().create(&PostParams::default(), &from(job)).await.unwrap();
    let pods = list_until(&cluster.api::<Pod>(), "a pod", |pods| pods.len() == 1).await;
    end(&cluster, &pods[0], "Failed").await;
    let failed = |job: &Job| {
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|one| one.type_ == "Failed" && one.status == "True")
    };
    let job = get_until(&cluster.api::<Job>(), "j", "failed", failed).await;
    assert_eq!(job.status.unwrap().failed, Some(1));
    let left = list_until(&cluster.api::<Pod>(), "freed", |pods| {
        pods.iter().all(|pod| pod.metadata.finalizers.as_deref().unwrap_or_default().is_empty())
    })
    .await;
    assert_eq!(left.len(), 1);
    cluster.stop().await;
}
