//! The loop: takes in changes, decides about one pod at a time, and starts what carries the decision out.

use client::{Change, Changes, Informer, Informers, ObjectKey, Recorder};
use k8s_openapi::api::core::v1 as core;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    Config,
    bind::Reporter,
    cache::Cache,
    framework::{Framework, Unschedulable},
    plugins,
    queue::{Events, Queue, Waiting},
    views::{Node, Pod},
};

pub(crate) struct Scheduler {
    config: Config,
    framework: Framework,
    cache: Cache,
    queue: Queue,
    reporter: Reporter,
    pods: Informer<core::Pod>,
    nodes: Informer<core::Node>,
    /// Requests under way; what became of each.
    requests: JoinSet<Outcome>,
    cancel: CancellationToken,
}

enum Outcome {
    Bound { waiting: Box<Waiting>, node: String, result: Result<(), kube::Error> },
    Reported(Result<(), kube::Error>),
}

impl Scheduler {
    pub(crate) fn new(
        config: Config,
        client: kube::Client,
        informers: &Informers,
        recorder: Recorder,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            config,
            framework: plugins::default(),
            cache: Cache::default(),
            queue: Queue::default(),
            reporter: Reporter::new(client, recorder),
            pods: informers.shared(),
            nodes: informers.shared(),
            requests: JoinSet::new(),
            cancel,
        }
    }

    pub(crate) async fn run(mut self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        let (mut pods, mut nodes) = (self.pods.subscribe(), self.nodes.subscribe());
        self.take_in_present(&mut pods, &mut nodes).await;
        info!("scheduler started");
        loop {
            // Changes come before decisions, so that a decision sees all that is known.
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => break,
                Some(change) = nodes.next_change() => self.node_changed(&change),
                Some(change) = pods.next_change() => self.pod_changed(change),
                Some(Ok(outcome)) = self.requests.join_next(), if !self.requests.is_empty() => self.ended(outcome),
                () = self.queue.ready() => self.schedule_next(),
            }
        }
        // Bindings that have been sent are let through; they are short.
        while self.requests.join_next().await.is_some() {}
    }

    /// Everything that is there at the start, before the first decision: a pod decided before all nodes are known would
    /// be refused for nothing.
    async fn take_in_present(&mut self, pods: &mut Changes<core::Pod>, nodes: &mut Changes<core::Node>) {
        for _ in 0..self.nodes.len() {
            if let Some(change) = nodes.next_change().await {
                self.node_changed(&change);
            }
        }
        for _ in 0..self.pods.len() {
            if let Some(change) = pods.next_change().await {
                self.pod_changed(change);
            }
        }
    }

    fn node_changed(&mut self, change: &Change<core::Node>) {
        let Some(stored) = &change.new else {
            return self.cache.remove_node(&change.key.name);
        };
        let node = match stored.project::<Node>() {
            Ok(node) => node,
            Err(error) => return warn!(node = %change.key, error = %error, "node not readable"),
        };
        let events = match self.cache.set_node(node.clone()) {
            None => Events::NODE_ADD,
            Some(old) => differences(&old, &node),
        };
        self.queue.happened(events);
    }

    fn pod_changed(&mut self, change: Change<core::Pod>) {
        let old = change.old.as_ref().map(|stored| stored.uid());
        let Some(stored) = change.new else {
            return self.pod_gone(old.as_deref());
        };
        let pod = match stored.project::<Pod>() {
            Ok(pod) => pod,
            Err(error) => return warn!(name = %change.key, error = %error, "pod not readable"),
        };
        if old.as_ref().is_some_and(|old| *old != pod.uid) {
            self.pod_gone(old.as_deref());
        }
        if pod.terminal {
            self.pod_gone(Some(&pod.uid));
        } else if !pod.node_name.is_empty() {
            self.queue.remove(&pod.uid);
            self.cache.set_pod(&pod);
        } else if pod.scheduler_name == self.config.scheduler_name {
            self.pod_waits(pod);
        }
    }

    fn pod_waits(&mut self, pod: Pod) {
        if pod.deleting || pod.gated {
            self.queue.remove(&pod.uid);
        } else if !self.cache.is_assumed(&pod.uid) {
            self.queue.upsert(pod);
        }
    }

    fn pod_gone(&mut self, uid: Option<&str>) {
        let Some(uid) = uid else { return };
        self.queue.remove(uid);
        if self.cache.remove_pod(uid) {
            self.queue.happened(Events::POD_GONE);
        }
    }

    fn schedule_next(&mut self) {
        let Some(waiting) = self.queue.pop() else { return };
        match self.framework.choose(&waiting.pod, &self.cache) {
            Ok(node) => self.start_binding(waiting, node),
            Err(unschedulable) => self.reject(waiting, &unschedulable),
        }
    }

    fn start_binding(&mut self, waiting: Waiting, node: String) {
        self.cache.assume(&waiting.pod, &node);
        let reporter = self.reporter.clone();
        self.requests.spawn(async move {
            let result = reporter.bind(&waiting.pod, &node).await;
            Outcome::Bound { waiting: Box::new(waiting), node, result }
        });
    }

    fn reject(&mut self, waiting: Waiting, why: &Unschedulable) {
        debug!(name = %waiting.pod.key(), reason = %why.message, "pod not schedulable");
        self.report(waiting.pod.clone(), "Unschedulable", why.message.clone());
        self.queue.rejected(waiting, why.events);
    }

    fn report(&mut self, pod: Pod, reason: &'static str, message: String) {
        let reporter = self.reporter.clone();
        self.requests
            .spawn(async move { Outcome::Reported(reporter.unschedulable(&pod, reason, &message).await) });
    }

    fn ended(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Bound { waiting, node, result: Ok(()) } => {
                debug!(name = %waiting.pod.key(), node, "pod bound");
            }
            Outcome::Bound { waiting, node, result: Err(error) } => {
                warn!(name = %waiting.pod.key(), node, error = %error, "binding refused");
                self.binding_failed(*waiting, &error);
            }
            Outcome::Reported(Ok(())) => {}
            Outcome::Reported(Err(error)) => warn!(error = %error, "pod condition not written"),
        }
    }

    /// Takes the pod off its node again, and tries it later if it is still to be scheduled.
    fn binding_failed(&mut self, waiting: Waiting, error: &kube::Error) {
        let uid = &waiting.pod.uid;
        if !self.cache.is_assumed(uid) {
            return; // deleted, or bound after all
        }
        self.cache.remove_pod(uid);
        self.queue.happened(Events::POD_GONE);
        let key = ObjectKey::namespaced(&waiting.pod.namespace, &waiting.pod.name);
        let current = self.pods.get(&key).and_then(|stored| stored.project::<Pod>().ok());
        if current.is_some_and(|pod| pod.uid == *uid && pod.node_name.is_empty() && !pod.deleting) {
            self.report(waiting.pod.clone(), "SchedulerError", format!("binding rejected: {error}"));
            self.queue.failed(waiting);
        }
    }
}

/// What changed about a node that a waiting pod might wait for.
fn differences(old: &Node, new: &Node) -> Events {
    let mut events = Events::default();
    if old.labels != new.labels {
        events |= Events::NODE_LABELS;
    }
    if old.taints != new.taints || old.unschedulable != new.unschedulable {
        events |= Events::NODE_SPEC;
    }
    if old.allocatable != new.allocatable {
        events |= Events::NODE_ALLOCATABLE;
    }
    events
}
