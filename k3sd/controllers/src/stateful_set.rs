//! Gives a stateful set's pods their names, volumes and order.
//!
//! Reads: stateful sets, pods, persistent volume claims, controller revisions. Owns: the pods, claims and revisions it
//! creates (and adopts), the status of stateful sets. Follows `pkg/controller/statefulset` of v1.36.
//!
//! Not here yet: the deletion of claims by retention policy, and `maxUnavailable` of updates.

mod pods;
mod status;
mod step;

use std::{sync::Arc, time::Duration};

use client::{Change, Informer, ObjectKey, Stored, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
};
use kube::api::PostParams;

use self::step::{Act, Plan};
use crate::{
    context::{Context, feed, own_key, path},
    history::{History, template_of},
    ownership::{Selector, claim, owners_of_change},
    pod,
    pod_control::{BEHIND, PodControl, api_message},
    service_account::is_terminating,
};

const WORKERS: usize = 5;

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        sets: context.informers.shared(),
        pods: context.informers.shared(),
        claims: context.informers.shared(),
        revisions: context.informers.shared(),
        control: PodControl::new(&context, "statefulset-controller"),
        context: context.clone(),
    });
    controller.sets.synced().await;
    controller.pods.synced().await;
    controller.claims.synced().await;
    controller.revisions.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.sets, &queue, own_key),
        feed(&controller.pods, &queue, |change| controller.owners(&change)),
        run_workers("stateful_set", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    fn owners(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        owners_of_change::<StatefulSet, _>(change, |orphan| {
            let Ok(labels) = orphan.metadata().map(|meta| meta.labels) else { return Vec::new() };
            let wants = |set: &Stored<StatefulSet>| {
                let spec = set.decode().ok()?.spec?;
                let ours = pods::ordinal(&set.key().name, &orphan.key().name).is_some();
                Selector::new(&spec.selector).ok().filter(|one| ours && one.matches(labels.as_ref()))
            };
            let sets = self.sets.list_namespace(orphan.key().namespace());
            sets.into_iter().filter(|set| wants(set).is_some()).map(|set| set.key().clone()).collect()
        })
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.sets.get(&key) else {
            self.control.forget(&key);
            return Ok(None);
        };
        let set = stored.decode()?;
        let Some(spec) = set.spec.clone() else { return Ok(None) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        if !self.control.is_settled(&key, &self.pods) {
            return Ok(Some(BEHIND));
        }
        let selector = Selector::new(&spec.selector)?;
        let old = set.status.clone().unwrap_or_default();
        let history = History::sync(
            &self.context,
            &set,
            &selector,
            &spec.template,
            old.collision_count,
            &self.revisions,
        )
        .await?;
        let pods: Vec<Pod> = claim(&self.context, &set, &selector, &self.pods, pod::light).await?;
        let update = name_of(&history.current);
        let current = old.current_revision.clone().filter(|name| !name.is_empty());
        let current = current.filter(|name| history.old.iter().any(|one| name_of(one) == *name));
        let current = current.unwrap_or_else(|| update.clone());

        let now = Timestamp::now();
        let plan = Plan::new(&set, &spec, &pods, &current, &update, now);
        let outcome = self.carry_out(&set, &plan.next(), &history).await;
        let (status, next) = status::calculate(&set, &plan, now);
        let live = [current.as_str(), update.as_str()];
        let live: Vec<_> = live.iter().filter_map(|name| name.rsplit('-').next()).collect();
        history.trim(&self.context, spec.revision_history_limit, &live).await?;
        self.write_status(&key, &set, status).await?;
        outcome?;
        Ok(next)
    }

    async fn carry_out(&self, set: &StatefulSet, acts: &[Act<'_>], history: &History) -> anyhow::Result<()> {
        for act in acts {
            match act {
                Act::Create { ordinal, revision } => {
                    let template = self.template(set, revision, history);
                    let pod = pods::pod_for(set, &template, *ordinal, revision);
                    self.ensure_claims(set, *ordinal).await?;
                    self.control.create_all(set, vec![pod]).await?;
                }
                Act::Delete(pod) => self.control.delete_all(set, [*pod]).await?,
            }
        }
        Ok(())
    }

    fn template(&self, set: &StatefulSet, revision: &str, history: &History) -> PodTemplateSpec {
        let old = history.old.iter().find(|one| name_of(one) == revision);
        let present = || set.spec.clone().unwrap_or_default().template;
        old.and_then(template_of).unwrap_or_else(present)
    }

    /// A pod's claims exist before it does; they stay when it goes.
    async fn ensure_claims(&self, set: &StatefulSet, ordinal: i32) -> anyhow::Result<()> {
        for claim in pods::claims_for(set, ordinal) {
            let key = ObjectKey::of(&claim);
            if self.claims.get(&key).is_some() {
                continue;
            }
            let api = self.context.api::<PersistentVolumeClaim>(key.namespace());
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let name = set.metadata.name.as_deref().unwrap_or_default();
                    let message = format!(
                        "create Claim {} Pod {name}-{ordinal} in StatefulSet {name} success",
                        key.name
                    );
                    self.control.recorder().event_for(set, "Normal", "SuccessfulCreate", message);
                }
                Err(error) if request::is_already_exists(&error) || is_terminating(&error) => {}
                Err(error) => {
                    let message = format!("create Claim {} failed error: {}", key.name, api_message(&error));
                    self.control.recorder().event_for(set, "Warning", "FailedCreate", message);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> anyhow::Result<()> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = StatefulSet { status: Some(status), ..set.clone() };
        let path = format!("{}/status", path::<StatefulSet>(key));
        match request::replace::<StatefulSet>(&self.context.client, &path, &changed).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn name_of(revision: &ControllerRevision) -> String {
    revision.metadata.name.clone().unwrap_or_default()
}
