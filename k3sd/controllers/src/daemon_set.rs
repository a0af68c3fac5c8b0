//! Keeps one pod of a daemon set on every node that it is for.
//!
//! Reads: daemon sets, nodes, pods, controller revisions. Owns: the pods and revisions it creates (and adopts), the
//! status of daemon sets. Follows `pkg/controller/daemon` of v1.36. The scheduler places the pods: each asks for its node
//! by affinity.

mod node;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use client::{Change, Informer, ObjectKey, Stored, WorkQueue, request, run_workers};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus},
    core::v1::{Node, Pod},
};

use self::plan::{Strategy, Verdict};
use crate::{
    context::{Context, feed, own_key, path},
    history::{HASH_LABEL, History},
    ownership::{Selector, claim, owners_of_change},
    pod::{self, Availability},
    pod_control::{BEHIND, BURST, PodControl},
};

const WORKERS: usize = 2;

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        sets: context.informers.shared(),
        nodes: context.informers.shared(),
        pods: context.informers.shared(),
        revisions: context.informers.shared(),
        control: PodControl::new(&context, "daemonset-controller"),
        context: context.clone(),
    });
    controller.sets.synced().await;
    controller.nodes.synced().await;
    controller.pods.synced().await;
    controller.revisions.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.sets, &queue, own_key),
        feed(&controller.nodes, &queue, |change| controller.concerned_by_node(&change)),
        feed(&controller.pods, &queue, |change| controller.owners(&change)),
        run_workers("daemon_set", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    fn owners(&self, change: &Change<Pod>) -> Vec<ObjectKey> {
        owners_of_change::<DaemonSet, _>(change, |orphan| {
            let Ok(labels) = orphan.metadata().map(|meta| meta.labels) else { return Vec::new() };
            let wants = |set: &Stored<DaemonSet>| {
                let spec = set.decode().ok()?.spec?;
                Selector::new(&spec.selector).ok().filter(|selector| selector.matches(labels.as_ref()))
            };
            let sets = self.sets.list_namespace(orphan.key().namespace());
            sets.into_iter().filter(|set| wants(set).is_some()).map(|set| set.key().clone()).collect()
        })
    }

    /// Heartbeats concern nobody; labels and taints, and nodes that come and go, concern every set.
    fn concerned_by_node(&self, change: &Change<Node>) -> Vec<ObjectKey> {
        let facts = |stored: &Option<Stored<Node>>| {
            let node = stored.as_ref()?.decode().ok()?;
            Some((node.metadata.labels, node.spec.and_then(|spec| spec.taints)))
        };
        if facts(&change.old) == facts(&change.new) {
            return Vec::new();
        }
        self.sets.list().iter().map(|set| set.key().clone()).collect()
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.sets.get(&key) else {
            self.control.forget(&key);
            return Ok(None);
        };
        let set = stored.decode()?;
        let Some(spec) = set.spec.clone() else { return Ok(None) };
        let selector = Selector::new(&spec.selector)?;
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.recorder().event_for(&set, "Warning", "SelectingAll", message);
            return Ok(None);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let history =
            History::sync(&self.context, &set, &selector, &spec.template, collisions, &self.revisions)
                .await?;
        let settled = self.control.is_settled(&key, &self.pods);
        let pods: Vec<Pod> = claim(&self.context, &set, &selector, &self.pods, pod::light).await?;
        let nodes = self.nodes.list().iter().map(Stored::decode).collect::<Result<Vec<_>, _>>()?;
        let now = Timestamp::now();
        let outcome =
            if settled { self.manage(&set, &spec, &history, &nodes, &pods, now).await } else { Ok(()) };
        let live: BTreeSet<&str> = pods.iter().filter_map(hash).collect();
        let live: Vec<&str> = live.into_iter().collect();
        history.trim(&self.context, spec.revision_history_limit, &live).await?;
        let (status, next) = status(&set, &spec, &history, &nodes, &pods, now);
        self.write_status(&key, &set, status).await?;
        outcome?;
        Ok(if settled { next } else { Some(next.map_or(BEHIND, |next| next.min(BEHIND))) })
    }

    /// Creates and deletes pods so that each node has what it should.
    async fn manage(
        &self,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
        history: &History,
        nodes: &[Node],
        pods: &[Pod],
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let by_node = by_node(pods);
        let mut verdicts = BTreeMap::new();
        for node in nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            verdicts.insert(name, node::judge(node, &spec.template.spec.clone().unwrap_or_default()));
        }
        let strategy = Strategy::of(spec, verdicts.values().filter(|verdict| verdict.run).count());
        let actions = plan::plan(&verdicts, &by_node, history.hash(), strategy, |pod| {
            pod::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) == Availability::Available
        });
        let create = actions.create.into_iter().take(BURST);
        let create = create.map(|name| node::pod_for(set, spec, &name, history.hash()));
        self.control.delete_all(set, actions.delete.into_iter().take(BURST)).await?;
        self.control.create_all(set, create).await
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        status: DaemonSetStatus,
    ) -> anyhow::Result<()> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = DaemonSet { status: Some(status), ..set.clone() };
        let path = format!("{}/status", path::<DaemonSet>(key));
        match request::replace::<DaemonSet>(&self.context.client, &path, &changed).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The pods by the node they are on or ask for.
fn by_node(pods: &[Pod]) -> BTreeMap<&str, Vec<&Pod>> {
    let mut by_node = BTreeMap::<_, Vec<_>>::new();
    for pod in pods {
        by_node.entry(node::of_pod(pod).unwrap_or_default()).or_default().push(pod);
    }
    by_node
}

fn hash(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(HASH_LABEL).map(String::as_str)
}

/// The status, and how long until a pod becomes available by time alone.
fn status(
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    history: &History,
    nodes: &[Node],
    pods: &[Pod],
    now: Timestamp,
) -> (DaemonSetStatus, Option<Duration>) {
    let by_node = by_node(pods);
    let template = spec.template.spec.clone().unwrap_or_default();
    let mut status = DaemonSetStatus { observed_generation: set.metadata.generation, ..Default::default() };
    let (mut updated, mut available, mut next) = (0, 0, None::<Duration>);
    for node in nodes {
        let Verdict { run, .. } = node::judge(node, &template);
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let active = here.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let oldest = active.min_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        if !run {
            status.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = oldest else { continue };
        status.current_number_scheduled += 1;
        updated += i32::from(hash(pod) == Some(history.hash()));
        match pod::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::NotReady => {}
            Availability::In(left) => {
                status.number_ready += 1;
                next = Some(next.map_or(left, |next| next.min(left)));
            }
            Availability::Available => {
                status.number_ready += 1;
                available += 1;
            }
        }
    }
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    let old = set.status.clone().unwrap_or_default();
    status.collision_count = old.collision_count;
    status.conditions = old.conditions;
    (status, next)
}
