//! Keeps as many pods of a replica set running as it says.
//!
//! Reads: replica sets, pods. Owns: the pods it creates from templates (and adopts), the status of replica sets.
//! Follows `pkg/controller/replicaset/replica_set.go` of v1.36.

mod ordering;
mod status;

use std::{sync::Arc, time::Duration};

use client::{Change, Informer, ObjectKey, Stored, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use tracing::debug;

use crate::{
    context::{Context, feed, own_key, path},
    ownership::{Selector, claim, owners_of_change},
    pod,
    pod_control::{BEHIND, BURST, PodControl},
};

const WORKERS: usize = 5;

struct Controller {
    context: Context,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    control: PodControl,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        sets: context.informers.shared(),
        pods: context.informers.shared(),
        control: PodControl::new(&context, "replicaset-controller"),
        context: context.clone(),
    });
    controller.sets.synced().await;
    controller.pods.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.sets, &queue, own_key),
        feed(&controller.pods, &queue, |change| controller.owners(&change)),
        run_workers("replica_set", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    fn owners(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        owners_of_change::<ReplicaSet, _>(change, |orphan| self.sets_wanting(orphan))
    }

    fn sets_wanting(&self, orphan: &Stored<Pod>) -> Vec<ObjectKey> {
        let Ok(labels) = orphan.metadata().map(|meta| meta.labels) else { return Vec::new() };
        let wants = |set: &Stored<ReplicaSet>| {
            let spec = set.decode().ok()?.spec?;
            Selector::new(&spec.selector).ok().filter(|selector| selector.matches(labels.as_ref()))
        };
        let sets = self.sets.list_namespace(orphan.key().namespace());
        sets.into_iter().filter(|set| wants(set).is_some()).map(|set| set.key().clone()).collect()
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.sets.get(&key) else {
            self.control.forget(&key);
            return Ok(None);
        };
        let set = stored.decode()?;
        let Some(spec) = &set.spec else { return Ok(None) };
        let current = self.control.is_settled(&key, &self.pods);
        let selector = Selector::new(&spec.selector)?;
        let pods = claim(&self.context, &set, &selector, &self.pods, pod::light).await?;
        let (active, rest): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(pod::is_active);
        let terminating = rest.iter().filter(|pod| pod::is_terminating(pod)).count();

        let outcome = if current && set.metadata.deletion_timestamp.is_none() {
            self.manage(&set, &active).await
        } else {
            Ok(())
        };
        let now = Timestamp::now();
        let (status, next) = status::calculate(&set, &active, terminating, outcome.as_ref().err(), now);
        self.write_status(&key, &set, status).await?;
        outcome?;
        Ok(if current { next } else { Some(next.map_or(BEHIND, |next| next.min(BEHIND))) })
    }

    /// Creates the pods that are missing or deletes those that are too many.
    async fn manage(&self, set: &ReplicaSet, active: &[Pod]) -> anyhow::Result<()> {
        let spec = set.spec.clone().unwrap_or_default();
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let template = spec.template.unwrap_or_default();
            let missing = (wanted - active.len()).min(BURST);
            debug!(missing, "too few replicas");
            let pods = (0..missing).map(|_| pod::from_template(set, &template));
            return self.control.create_all(set, pods).await;
        }
        if active.len() > wanted {
            let extra = (active.len() - wanted).min(BURST);
            debug!(extra, "too many replicas");
            let related = self.related(set)?;
            let victims = ordering::to_delete(active, &related, extra, Timestamp::now());
            return self.control.delete_all(set, victims).await;
        }
        Ok(())
    }

    /// The active pods of all sets with the same owner: where those crowd a node, pods there go first.
    fn related(&self, set: &ReplicaSet) -> anyhow::Result<Vec<Pod>> {
        let uid_of = |meta: &kube::api::ObjectMeta| {
            crate::ownership::controller_of(meta).map(|owner| owner.uid.clone()).unwrap_or_default()
        };
        let owner = uid_of(&set.metadata);
        let sets = if owner.is_empty() {
            vec![set.metadata.uid.clone().unwrap_or_default()]
        } else {
            self.sets.controlled_by(&owner).iter().map(Stored::uid).collect()
        };
        let pods = sets.iter().flat_map(|uid| self.pods.controlled_by(uid));
        let pods = pods.map(|stored| pod::light(&stored)).collect::<Result<Vec<_>, _>>()?;
        Ok(pods.into_iter().filter(pod::is_active).collect())
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        status: k8s_openapi::api::apps::v1::ReplicaSetStatus,
    ) -> anyhow::Result<()> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = ReplicaSet { status: Some(status), ..set.clone() };
        let path = format!("{}/status", path::<ReplicaSet>(key));
        match request::replace::<ReplicaSet>(&self.context.client, &path, &changed).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
