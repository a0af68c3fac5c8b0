//! Moves a deployment's pods from one template to the next, by way of replica sets.
//!
//! Reads: deployments, replica sets, pods (for `Recreate`). Owns: the replica sets it creates (and adopts), the
//! deployment's status, and its revision annotation. Follows `pkg/controller/deployment` of v1.36.
//!
//! One run takes one step: it creates the new replica set, or scales the sets by what the strategy allows now. The
//! changes that follow from a step bring the next run.

mod revision;
mod rolling;
mod scale;
mod status;
mod template;

use std::{sync::Arc, time::Duration};

use client::{
    Change, Informer, ObjectKey, Recorder, Stored, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
    core::v1::Pod,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use serde_json::{Value, json};

pub(crate) use self::rolling::share;
use self::{rolling::Limits, status::Progress};
use crate::{
    context::{Context, feed, own_key, path},
    ownership::{Selector, claim, controller_of, controller_reference, owners_of_change},
    pod,
    pod_control::api_message,
    recorder, template_hash,
};

const WORKERS: usize = 5;
/// Old sets without replicas that are kept if the deployment does not say how many.
const DEFAULT_HISTORY: i32 = 10;

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    recorder: Recorder,
}

/// A deployment with its replica sets, as one run sees them.
struct Rollout {
    deployment: Deployment,
    spec: DeploymentSpec,
    /// Ordered by age, oldest first.
    old: Vec<ReplicaSet>,
    new: Option<ReplicaSet>,
    /// What happened in this run that the conditions must tell.
    progress: Option<Progress>,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        deployments: context.informers.shared(),
        sets: context.informers.shared(),
        pods: context.informers.shared(),
        recorder: recorder(&context, "deployment-controller"),
        context: context.clone(),
    });
    controller.deployments.synced().await;
    controller.sets.synced().await;
    controller.pods.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.deployments, &queue, own_key),
        feed(&controller.sets, &queue, |change| controller.owners(&change)),
        feed(&controller.pods, &queue, |change| controller.waiting_for(&change)),
        run_workers("deployment", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    fn owners(&self, change: &Change<ReplicaSet>) -> Vec<ObjectKey> {
        owners_of_change::<Deployment, _>(change, |orphan| {
            let Ok(labels) = orphan.metadata().map(|meta| meta.labels) else { return Vec::new() };
            let wants = |deployment: &Stored<Deployment>| {
                let spec = deployment.decode().ok()?.spec?;
                Selector::new(&spec.selector).ok().filter(|selector| selector.matches(labels.as_ref()))
            };
            let deployments = self.deployments.list_namespace(orphan.key().namespace());
            deployments.into_iter().filter(|one| wants(one).is_some()).map(|one| one.key().clone()).collect()
        })
    }

    /// A `Recreate` deployment goes on when the last old pod is gone.
    fn waiting_for(&self, change: &Change<Pod>) -> Option<ObjectKey> {
        if change.new.is_some() {
            return None;
        }
        let set = change.old.as_ref()?.controller().filter(|owner| owner.kind == "ReplicaSet")?;
        let set = self.sets.get(&ObjectKey::namespaced(change.key.namespace(), set.name))?;
        let owner = set.controller().filter(|owner| owner.kind == "Deployment")?;
        let key = ObjectKey::namespaced(change.key.namespace(), owner.name);
        let spec = self.deployments.get(&key)?.decode().ok()?.spec?;
        (rolling::strategy(&spec) == rolling::Strategy::Recreate).then_some(key)
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.deployments.get(&key) else { return Ok(None) };
        let deployment = stored.decode()?;
        let Some(spec) = deployment.spec.clone() else { return Ok(None) };
        let selector = Selector::new(&spec.selector)?;
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event_for(&deployment, "Warning", "SelectingAll", message);
            return Ok(None);
        }
        let mut sets = claim(&self.context, &deployment, &selector, &self.sets, Stored::decode).await?;
        sets.sort_by_key(template::age);
        let mut rollout = Rollout::new(deployment, spec, sets);
        if rollout.deployment.metadata.deletion_timestamp.is_none() {
            self.step(&mut rollout).await?;
        }
        self.finish(&rollout).await
    }

    /// Takes the next step of the rollout, if there is one to take.
    async fn step(&self, rollout: &mut Rollout) -> anyhow::Result<()> {
        let paused = rollout.spec.paused == Some(true);
        if paused || rollout.is_being_scaled() {
            if rollout.new.is_some() {
                self.sync_revision(rollout).await?;
            }
            self.scale_proportionally(rollout).await?;
            if paused {
                self.clean_up(rollout).await?;
            }
            return Ok(());
        }
        match rolling::strategy(&rollout.spec) {
            rolling::Strategy::Recreate => self.recreate(rollout).await?,
            rolling::Strategy::RollingUpdate(limits) => self.roll(rollout, limits).await?,
        }
        if rollout.is_complete() {
            self.clean_up(rollout).await?;
        }
        Ok(())
    }

    async fn roll(&self, rollout: &mut Rollout, limits: Limits) -> anyhow::Result<()> {
        self.ensure_new_set(rollout, Some(limits)).await?;
        let wanted = rollout.wanted();
        let counts = rollout.counts();
        if let Some(new) = rollout.new.clone() {
            let target = limits.new_set_target(wanted, &counts);
            if self.scale(rollout, &new, target).await? {
                return Ok(());
            }
        }
        let plan = limits.scale_down_old(wanted, &counts);
        for (set, target) in rollout.old.clone().iter().zip(plan) {
            self.scale(rollout, set, target).await?;
        }
        Ok(())
    }

    async fn recreate(&self, rollout: &mut Rollout) -> anyhow::Result<()> {
        if rollout.new.is_some() {
            self.sync_revision(rollout).await?;
        }
        let mut scaled = false;
        for set in rollout.old.clone() {
            scaled |= self.scale(rollout, &set, 0).await?;
        }
        if scaled || self.old_pods_remain(rollout)? {
            return Ok(());
        }
        self.ensure_new_set(rollout, None).await?;
        if let Some(new) = rollout.new.clone() {
            self.scale(rollout, &new, rollout.wanted()).await?;
        }
        Ok(())
    }

    /// Whether any pod of an old set has not ended.
    fn old_pods_remain(&self, rollout: &Rollout) -> anyhow::Result<bool> {
        for set in &rollout.old {
            for stored in self.pods.controlled_by(set.metadata.uid.as_deref().unwrap_or_default()) {
                if !matches!(pod::phase(&pod::light(&stored)?), "Succeeded" | "Failed") {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Makes sure that there is a set with the present template, with the right revision.
    async fn ensure_new_set(&self, rollout: &mut Rollout, limits: Option<Limits>) -> anyhow::Result<()> {
        if rollout.new.is_some() {
            return self.sync_revision(rollout).await;
        }
        let wanted = rollout.wanted();
        let replicas = limits.map_or(wanted, |limits| limits.new_set_target(wanted, &rollout.counts()));
        let revision = revision::next(&rollout.old);
        let collisions = rollout.deployment.status.as_ref().and_then(|status| status.collision_count);
        let set = rollout.new_set(replicas, &revision, limits, collisions)?;
        let name = set.metadata.name.clone().unwrap_or_default();
        let key = ObjectKey::of(&rollout.deployment);
        match self.context.api::<ReplicaSet>(key.namespace()).create(&PostParams::default(), &set).await {
            Ok(created) => {
                if replicas > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                    self.recorder.event_for(&rollout.deployment, "Normal", "ScalingReplicaSet", message);
                }
                rollout.progress = Some(Progress::Created(name));
                rollout.new = Some(created);
                self.annotate_revision(rollout, &revision).await
            }
            Err(error) if request::is_already_exists(&error) => {
                self.name_taken(rollout, &name, collisions).await
            }
            Err(error) => {
                rollout.progress = Some(Progress::FailedCreate(api_message(&error)));
                self.finish(rollout).await?;
                Err(error.into())
            }
        }
    }

    /// The name of the new set exists: either the cache is behind, or two templates have one hash.
    async fn name_taken(
        &self,
        rollout: &mut Rollout,
        name: &str,
        collisions: Option<i32>,
    ) -> anyhow::Result<()> {
        let key = ObjectKey::of(&rollout.deployment);
        let present = self.context.api::<ReplicaSet>(key.namespace()).get(name).await?;
        let ours = controller_of(&present.metadata)
            .is_some_and(|owner| Some(&owner.uid) == rollout.deployment.metadata.uid.as_ref());
        if ours && template::equal(&present, &rollout.spec) {
            rollout.new = Some(present);
            return Ok(());
        }
        let status = json!({"status": {"collisionCount": collisions.unwrap_or(0) + 1}});
        let path = format!("{}/status", path::<Deployment>(&key));
        request::patch::<Value>(&self.context.client, &path, Patch::Merge, &status).await?;
        anyhow::bail!("the name {name} is taken by another replica set")
    }

    /// Brings the new set's annotations and readiness delay up to date, and the deployment's revision with it.
    async fn sync_revision(&self, rollout: &mut Rollout) -> anyhow::Result<()> {
        let Some(new) = rollout.new.clone() else { return Ok(()) };
        let revision = revision::next(&rollout.old);
        let mut wanted = new.clone();
        revision::annotate(&mut wanted.metadata, &rollout.deployment.metadata, &revision);
        if let Some(spec) = &mut wanted.spec {
            spec.min_ready_seconds = rollout.spec.min_ready_seconds;
        }
        if wanted != new {
            let key = ObjectKey::of(&new);
            rollout.new =
                Some(request::replace(&self.context.client, &path::<ReplicaSet>(&key), &wanted).await?);
        }
        let current =
            rollout.new.as_ref().map(|set| revision::of(&set.metadata).to_owned()).unwrap_or_default();
        rollout.progress.get_or_insert(Progress::Found(ObjectKey::of(&new).name));
        self.annotate_revision(rollout, &current).await
    }

    async fn annotate_revision(&self, rollout: &mut Rollout, revision: &str) -> anyhow::Result<()> {
        if revision::of(&rollout.deployment.metadata) == revision {
            return Ok(());
        }
        let change = json!({"metadata": {"annotations": {revision::ANNOTATION: revision}}});
        // Through the status, so that the annotation does not count as a new generation.
        let path = format!("{}/status", path::<Deployment>(&ObjectKey::of(&rollout.deployment)));
        let changed: Deployment = request::patch(&self.context.client, &path, Patch::Merge, &change).await?;
        rollout.deployment.metadata = changed.metadata;
        Ok(())
    }

    /// Follows a change of `spec.replicas` while the sets stay as they are otherwise.
    async fn scale_proportionally(&self, rollout: &mut Rollout) -> anyhow::Result<()> {
        let limits = match rolling::strategy(&rollout.spec) {
            rolling::Strategy::RollingUpdate(limits) => Some(limits),
            rolling::Strategy::Recreate => None,
        };
        let sets = rollout.all();
        let wanted = rollout.wanted();
        for (set, target) in sets.iter().zip(scale::plan(&sets, rollout.new.as_ref(), wanted, limits)) {
            self.scale(rollout, set, target).await?;
        }
        Ok(())
    }

    /// Sets a replica set's size; whether that changed it.
    async fn scale(&self, rollout: &mut Rollout, set: &ReplicaSet, target: i32) -> anyhow::Result<bool> {
        let before = template::replicas(set);
        let limits = match rolling::strategy(&rollout.spec) {
            rolling::Strategy::RollingUpdate(limits) => Some(limits),
            rolling::Strategy::Recreate => None,
        };
        let mut wanted = set.clone();
        let noted = revision::note_size(&mut wanted.metadata, rollout.wanted(), limits);
        if before == target && !noted {
            return Ok(false);
        }
        if let Some(spec) = &mut wanted.spec {
            spec.replicas = Some(target);
        }
        let key = ObjectKey::of(set);
        let changed: ReplicaSet =
            request::replace(&self.context.client, &path::<ReplicaSet>(&key), &wanted).await?;
        rollout.replace(changed);
        if before == target {
            return Ok(false);
        }
        let direction = if target > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {before} to {target}", key.name);
        self.recorder.event_for(&rollout.deployment, "Normal", "ScalingReplicaSet", message);
        Ok(true)
    }

    /// Deletes the oldest old sets beyond the history limit.
    async fn clean_up(&self, rollout: &Rollout) -> anyhow::Result<()> {
        let limit = rollout.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut old: Vec<_> =
            rollout.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|set| revision::number(&set.metadata));
        let extra = old.len().saturating_sub(limit);
        for set in old.into_iter().take(extra).filter(|set| template::is_unused(set)) {
            let key = ObjectKey::of(set);
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: set.metadata.uid.clone(), resource_version: None }),
                ..DeleteParams::default()
            };
            match self.context.api::<ReplicaSet>(key.namespace()).delete(&key.name, &params).await {
                Ok(_) => {}
                Err(error) if request::is_not_found(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes the status, and says when to look again though nothing changes.
    async fn finish(&self, rollout: &Rollout) -> anyhow::Result<Option<Duration>> {
        let now = Timestamp::now();
        let status = status::calculate(rollout, now);
        let next = status::deadline(rollout, &status, now);
        self.write_status(rollout, status).await?;
        Ok(next)
    }

    async fn write_status(&self, rollout: &Rollout, status: DeploymentStatus) -> anyhow::Result<()> {
        if rollout.deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = Deployment { status: Some(status), ..rollout.deployment.clone() };
        let path = format!("{}/status", path::<Deployment>(&ObjectKey::of(&rollout.deployment)));
        match request::replace::<Deployment>(&self.context.client, &path, &changed).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Rollout {
    /// The new set is the oldest whose template is the deployment's.
    fn new(deployment: Deployment, spec: DeploymentSpec, mut sets: Vec<ReplicaSet>) -> Self {
        let new = sets.iter().position(|set| template::equal(set, &spec)).map(|at| sets.remove(at));
        Self { deployment, spec, old: sets, new, progress: None }
    }

    fn wanted(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn all(&self) -> Vec<ReplicaSet> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    /// Takes in what an update answered.
    fn replace(&mut self, changed: ReplicaSet) {
        let same = |set: &&mut ReplicaSet| set.metadata.uid == changed.metadata.uid;
        if let Some(set) = self.old.iter_mut().chain(&mut self.new).find(same) {
            *set = changed;
        }
    }

    fn counts(&self) -> rolling::Counts {
        let count = |set: &ReplicaSet| rolling::Count {
            replicas: template::replicas(set),
            available: template::available(set),
        };
        rolling::Counts { new: self.new.as_ref().map(count), old: self.old.iter().map(count).collect() }
    }

    /// Whether `spec.replicas` changed since the sets were last sized.
    fn is_being_scaled(&self) -> bool {
        self.all()
            .iter()
            .filter(|set| template::replicas(set) > 0)
            .any(|set| revision::noted_size(&set.metadata).is_some_and(|noted| noted != self.wanted()))
    }

    /// All pods are new and available, and the sets' own controller has seen it.
    fn is_complete(&self) -> bool {
        status::is_complete(self.wanted(), &status::totals(self))
    }

    fn new_set(
        &self,
        replicas: i32,
        revision: &str,
        limits: Option<Limits>,
        collisions: Option<i32>,
    ) -> anyhow::Result<ReplicaSet> {
        let hash = template_hash::hash(&self.spec.template, collisions)?;
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(template::HASH_LABEL.to_owned(), hash.clone());
        let mut template = self.spec.template.clone();
        let meta = template.metadata.get_or_insert_default();
        meta.labels.get_or_insert_default().insert(template::HASH_LABEL.to_owned(), hash.clone());
        let name = self.deployment.metadata.name.as_deref().unwrap_or_default();
        let mut metadata = ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: self.deployment.metadata.namespace.clone(),
            labels: meta.labels.clone(),
            owner_references: Some(vec![controller_reference(&self.deployment)]),
            ..ObjectMeta::default()
        };
        revision::annotate(&mut metadata, &self.deployment.metadata, revision);
        revision::note_size(&mut metadata, self.wanted(), limits);
        let spec = ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: self.spec.min_ready_seconds,
            selector,
            template: Some(template),
        };
        Ok(ReplicaSet { metadata, spec: Some(spec), status: None })
    }
}
