//! Runs the pods of a job until enough of them have succeeded or too many have failed.
//!
//! Reads: jobs, pods. Owns: the pods it creates (and adopts), their tracking finalizer, the status of jobs, and the
//! deletion of finished jobs whose time to live is over. Follows `pkg/controller/job` of v1.36.
//!
//! An ended pod is counted exactly once, even if this process dies in between: its uid is first written into the status,
//! then its finalizer is taken off, and then it moves from the list into the number (KEP-2307).
//!
//! Not here yet: pod failure policies, success policies, and backoff limits per index.

mod indexes;
mod progress;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use client::{
    Change, Informer, ObjectKey, Stored, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec, JobStatus},
    core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
};
use serde_json::{Value, json};
use tracing::info;

use self::progress::{Next, Pods};
use crate::{
    context::{Context, feed, own_key, path},
    ownership::{Selector, claim, owners_of_change},
    pod,
    pod_control::{BEHIND, BURST, PodControl},
};

/// Keeps an ended pod until it has been counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const WORKERS: usize = 5;

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    control: PodControl,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        jobs: context.informers.shared(),
        pods: context.informers.shared(),
        control: PodControl::new(&context, "job-controller"),
        context: context.clone(),
    });
    controller.jobs.synced().await;
    controller.pods.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.jobs, &queue, own_key),
        feed(&controller.pods, &queue, |change| controller.owners(&change)),
        run_workers("job", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    fn owners(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        owners_of_change::<Job, _>(change, |orphan| {
            let Ok(labels) = orphan.metadata().map(|meta| meta.labels) else { return Vec::new() };
            let wants = |job: &Stored<Job>| {
                let selector = job.decode().ok()?.spec?.selector?;
                Selector::new(&selector).ok().filter(|selector| selector.matches(labels.as_ref()))
            };
            let jobs = self.jobs.list_namespace(orphan.key().namespace());
            jobs.into_iter().filter(|job| wants(job).is_some()).map(|job| job.key().clone()).collect()
        })
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.jobs.get(&key) else {
            self.control.forget(&key);
            return self.release_orphans(&key).await.map(|()| None);
        };
        let job = stored.decode()?;
        let Some(spec) = job.spec.clone() else { return Ok(None) };
        let (Some(selector), None) =
            (&spec.selector, &spec.managed_by.as_ref().filter(|by| *by != "kubernetes.io/job-controller"))
        else {
            return Ok(None);
        };
        // Asked before the cache is read: the other way round a pod could arrive in between and be missed.
        let settled = self.control.is_settled(&key, &self.pods);
        let pods: Vec<Pod> =
            claim(&self.context, &job, &Selector::new(selector)?, &self.pods, pod::light).await?;
        let now = Timestamp::now();
        if progress::is_finished(job.status.as_ref()) {
            self.untrack(pods.iter()).await?;
            return self.expire(&key, &job, &spec, now).await;
        }
        if job.metadata.deletion_timestamp.is_some() {
            let over = |pod: &&Pod| progress::has_ended(pod) || pod.metadata.deletion_timestamp.is_some();
            self.untrack(pods.iter().filter(over)).await?;
            return Ok(None);
        }
        if !settled {
            return Ok(Some(BEHIND));
        }
        let sorted = Pods::sort(&pods);
        let (status, next) = progress::advance(&job, &spec, &sorted, now);
        self.write_status(&key, &job, &status).await?;
        self.note_end(&job, &status);
        // Whatever is in the status's list may go now.
        let counted = progress::listed(&status);
        self.untrack(
            pods.iter().filter(|pod| counted.contains(pod.metadata.uid.as_deref().unwrap_or_default())),
        )
        .await?;
        self.carry_out(&job, &spec, &sorted, next).await
    }

    async fn carry_out(
        &self,
        job: &Job,
        spec: &JobSpec,
        pods: &Pods<'_>,
        next: Next<'_>,
    ) -> anyhow::Result<Option<Duration>> {
        if next.uncounted {
            self.untrack(next.delete.iter().copied().take(BURST)).await?;
        }
        self.control.delete_all(job, next.delete.iter().copied().take(BURST)).await?;
        let indexes: Vec<Option<i32>> = if progress::is_indexed(spec) {
            indexes::first_free(&next.succeeded_indexes, &pods.active_indexes(), next.create)
                .into_iter()
                .map(Some)
                .collect()
        } else {
            vec![None; next.create]
        };
        let create = indexes.into_iter().take(BURST).map(|index| pod_for(job, spec, index));
        self.control.create_all(job, create).await?;
        Ok(next.again)
    }

    /// Takes the tracking finalizer off.
    async fn untrack<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> anyhow::Result<()> {
        let tracked = pods.filter(|pod| progress::is_tracked(pod));
        let results = join_all(tracked.map(|pod| async move {
            let change = json!({"metadata": {
                "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER],
            }});
            let path = path::<Pod>(&ObjectKey::of(pod));
            match request::patch::<Value>(&self.context.client, &path, Patch::Strategic, &change).await {
                Ok(_) => Ok(()),
                Err(error) if request::is_not_found(&error) => Ok(()),
                Err(error) => Err(error),
            }
        }))
        .await;
        results.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(())
    }

    /// A job that is gone leaves no pod behind that nobody could delete.
    async fn release_orphans(&self, key: &ObjectKey) -> anyhow::Result<()> {
        let left = self.pods.list_namespace(key.namespace()).into_iter().filter(|pod| {
            pod.controller().is_some_and(|owner| owner.kind == "Job" && owner.name == key.name)
        });
        let left = left.map(|pod| pod.decode()).collect::<Result<Vec<_>, _>>()?;
        self.untrack(left.iter()).await
    }

    /// Deletes a finished job once its time to live is over.
    async fn expire(
        &self,
        key: &ObjectKey,
        job: &Job,
        spec: &JobSpec,
        now: Timestamp,
    ) -> anyhow::Result<Option<Duration>> {
        let Some(ttl) = spec.ttl_seconds_after_finished.and_then(|ttl| u64::try_from(ttl).ok()) else {
            return Ok(None);
        };
        let Some(finished) = progress::finished_at(job.status.as_ref()) else { return Ok(None) };
        let passed = Duration::try_from(now.duration_since(finished)).unwrap_or_default();
        let left = Duration::from_secs(ttl).saturating_sub(passed);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        if job.metadata.deletion_timestamp.is_none() {
            info!(namespace = key.namespace(), name = %key.name, "finished job expired");
            let options = json!({"propagationPolicy": "Foreground", "preconditions": {
                "uid": job.metadata.uid, "resourceVersion": job.metadata.resource_version,
            }});
            request::delete(&self.context.client, &path::<Job>(key), &options).await?;
        }
        Ok(None)
    }

    async fn write_status(&self, key: &ObjectKey, job: &Job, status: &JobStatus) -> anyhow::Result<()> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let changed = Job { status: Some(status.clone()), ..job.clone() };
        let path = format!("{}/status", path::<Job>(key));
        match request::replace::<Job>(&self.context.client, &path, &changed).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn note_end(&self, job: &Job, status: &JobStatus) {
        let had = progress::conditions(job.status.as_ref());
        for condition in progress::conditions(Some(status)) {
            if had.iter().any(|old| old.type_ == condition.type_ && old.status == condition.status) {
                continue;
            }
            let reason = condition.reason.as_deref().unwrap_or_default();
            let message = condition.message.as_deref().unwrap_or_default();
            match condition.type_.as_str() {
                "Complete" => {
                    self.control.recorder().event_for(job, "Normal", "Completed", "Job completed");
                }
                "Failed" => self.control.recorder().event_for(job, "Warning", reason, message),
                "Suspended" if condition.status == "True" => {
                    self.control.recorder().event_for(job, "Normal", "Suspended", "Job suspended");
                }
                "Suspended" => self.control.recorder().event_for(job, "Normal", "Resumed", "Job resumed"),
                _ => {}
            }
        }
    }
}

/// A pod of the job; of an indexed one, for this index.
fn pod_for(job: &Job, spec: &JobSpec, index: Option<i32>) -> Pod {
    let mut pod = pod::from_template(job, &spec.template);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let Some(index) = index else { return pod };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let text = index.to_string();
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let env = EnvVar {
            name: "JOB_COMPLETION_INDEX".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: format!("metadata.labels['{INDEX}']"),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        };
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            let present = container.env.get_or_insert_default();
            if !present.iter().any(|one| one.name == env.name) {
                present.push(env.clone());
            }
        }
    }
    pod
}

/// The completion index of a pod of an indexed job.
fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

/// The indexes of some pods.
fn indexes_of<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<i32> {
    pods.into_iter().filter_map(index_of).collect()
}
