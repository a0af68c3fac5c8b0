//! Gives every pod of this node its worker, tells the workers what the sources want, and finds what no source
//! wants any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, warn};

use crate::agent::Agent;
use crate::pods::static_pods;
use crate::pods::status_writer::StatusWriter;
use crate::pods::worker::{Desired, Worker};
use crate::runtime::labels;
use crate::volumes;

/// Pause before orphans are looked for again when the runtime did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The static pods as last read, by uid.
pub(crate) type StaticPods = HashMap<String, Pod>;

/// The workers of this node.
pub(crate) struct Manager {
    agent: Arc<Agent>,
    pods: Informer<Pod>,
    cancel: CancellationToken,
    workers: HashMap<String, watch::Sender<Desired>>,
    tasks: JoinSet<String>,
    chores: JoinSet<()>,
    static_pods: StaticPods,
}

impl Manager {
    pub(crate) fn new(agent: Arc<Agent>, pods: Informer<Pod>, cancel: CancellationToken) -> Self {
        let (workers, tasks, chores, static_pods) = Default::default();
        Self { agent, pods, cancel, workers, tasks, chores, static_pods }
    }

    /// Runs until cancelled; waits for the workers, which leave their pods running.
    pub(crate) async fn run(mut self, mut static_pods: Option<mpsc::Receiver<StaticPods>>) {
        if let Some(first) = first_read(&mut static_pods).await {
            self.set_static(first);
        }
        let mut changes = self.pods.subscribe();
        let (pods, cancel) = (self.pods.clone(), self.cancel.clone());
        let mut synced = std::pin::pin!(pods.synced());
        let mut cleaned = false;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = &mut synced, if !cleaned => {
                    cleaned = true;
                    self.take_all();
                    self.end_orphans().await;
                }
                Some(key) = changes.next() => self.changed(&key),
                Some(read) = receive(&mut static_pods) => self.set_static(read),
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                Some(_) = self.chores.join_next() => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
        while self.chores.join_next().await.is_some() {}
    }

    /// Everything the API has for this node gets its worker before orphans are looked for.
    fn take_all(&mut self) {
        for stored in self.pods.list() {
            self.changed(&stored.key().clone());
        }
    }

    /// A pod of the API came, changed or went.
    fn changed(&mut self, key: &ObjectKey) {
        let Some(stored) = self.pods.get(key) else { return self.remove(key, None) };
        let pod = match stored.decode() {
            Ok(pod) => pod,
            Err(error) => {
                warn!(pod = ?key, %error, "pod cannot be read");
                return;
            }
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if static_pods::is_mirror(&pod) {
            return self.mirror_changed(pod);
        }
        // Another pod of this name must have gone without our seeing it.
        self.remove(key, Some(&uid));
        self.want(uid, pod);
    }

    /// A mirror that somebody deleted is let go at once; when it is gone, `remove` has it made anew.
    fn mirror_changed(&mut self, mirror: Pod) {
        if mirror.metadata.deletion_timestamp.is_none() {
            return;
        }
        let writer = StatusWriter::new(self.agent.client.clone(), self.agent.node.clone());
        let cancel = self.cancel.clone();
        self.chores.spawn(async move {
            cancel.run_until_cancelled(writer.delete(&mirror)).await;
        });
    }

    fn want(&mut self, uid: String, pod: Pod) {
        let desired = Desired::new(pod);
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_replace(desired);
            return;
        }
        self.start(uid, desired);
    }

    fn start(&mut self, uid: String, desired: Desired) {
        let name = desired.pod.metadata.name.clone().unwrap_or_default();
        let namespace = desired.pod.metadata.namespace.clone().unwrap_or_default();
        let (sender, receiver) = watch::channel(desired);
        self.workers.insert(uid.clone(), sender);
        let worker = Worker::new(self.agent.clone(), receiver, self.cancel.clone());
        let span = tracing::info_span!("pod", namespace, name);
        self.tasks.spawn(async move { worker.run().instrument(span).await }.then_uid(uid));
    }

    /// Tells the workers of the pods with this name, but for `keep`, that their pod is gone from the API.
    fn remove(&mut self, key: &ObjectKey, keep: Option<&str>) {
        for (uid, worker) in &self.workers {
            let (named, is_static) = {
                let pod = &worker.borrow().pod;
                let named = pod.metadata.name.as_deref() == Some(key.name.as_str())
                    && pod.metadata.namespace.as_deref() == key.namespace.as_deref();
                (named, static_pods::is_static(pod))
            };
            if named && is_static {
                worker.send_modify(|desired| desired.lost_mirrors += 1);
            } else if named && keep != Some(uid.as_str()) {
                worker.send_modify(|desired| desired.removed = true);
            }
        }
    }

    /// The manifests changed: stops pods that are not there any more, starts new ones.
    fn set_static(&mut self, read: StaticPods) {
        for (uid, worker) in &self.workers {
            let dropped = static_pods::is_static(&worker.borrow().pod) && !read.contains_key(uid);
            if dropped {
                worker.send_modify(|desired| desired.removed = true);
            }
        }
        self.static_pods = read;
        self.start_static();
    }

    /// Starts static pods that have no worker, unless one of the same name still ends.
    fn start_static(&mut self) {
        let running: HashSet<_> =
            self.workers.values().map(|worker| full_name(&worker.borrow().pod)).collect();
        let new: Vec<(String, Pod)> = self
            .static_pods
            .iter()
            .filter(|(uid, pod)| !self.workers.contains_key(*uid) && !running.contains(&full_name(pod)))
            .map(|(uid, pod)| (uid.clone(), pod.clone()))
            .collect();
        for (uid, pod) in new {
            self.start(uid, Desired::new(pod));
        }
    }

    fn ended(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.workers.remove(&uid);
                self.agent.books.strike(&uid);
            }
            Err(error) => warn!(%error, "a pod worker failed"),
        }
        self.start_static();
    }

    // === Orphans ===

    /// Ends pods the runtime has and nobody wants, and removes their directories.
    async fn end_orphans(&mut self) {
        let sandboxes = loop {
            match self.agent.cri().list_pod_sandboxes(HashMap::new()).await {
                Ok(sandboxes) => break sandboxes,
                Err(error) => {
                    debug!(%error, "sandboxes not listed, will be tried again");
                    let pause = tokio::time::sleep(RETRY);
                    if self.cancel.run_until_cancelled(pause).await.is_none() {
                        return;
                    }
                }
            }
        };
        for sandbox in sandboxes {
            let label = |key: &str| sandbox.labels.get(key).cloned();
            let Some(uid) = label(labels::POD_UID).filter(|uid| !self.workers.contains_key(uid)) else {
                continue;
            };
            let metadata = ObjectMeta {
                name: label(labels::POD_NAME),
                namespace: label(labels::POD_NAMESPACE),
                uid: Some(uid.clone()),
                ..ObjectMeta::default()
            };
            info!(pod = metadata.name, uid, "ending an orphaned pod");
            let pod = Pod { metadata, spec: Some(PodSpec::default()), status: None };
            self.start(uid, Desired { removed: true, ..Desired::new(pod) });
        }
        self.remove_orphaned_dirs();
    }

    fn remove_orphaned_dirs(&self) {
        let Ok(entries) = std::fs::read_dir(self.agent.config.root_dir.join("pods")) else { return };
        for entry in entries.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if self.workers.contains_key(&uid) {
                continue;
            }
            match volumes::remove_pod_dir(&entry.path()) {
                Ok(()) => info!(uid, "orphaned pod directory removed"),
                Err(error) => warn!(uid, %error, "orphaned pod directory not removed"),
            }
        }
    }
}

/// Ends a worker's future with the uid it was for.
trait ThenUid: Future<Output = ()> + Sized {
    async fn then_uid(self, uid: String) -> String {
        self.await;
        uid
    }
}

impl<F: Future<Output = ()>> ThenUid for F {}

fn full_name(pod: &Pod) -> (Option<String>, Option<String>) {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

/// The first reading of the manifests, so that their pods do not look like orphans.
async fn first_read(static_pods: &mut Option<mpsc::Receiver<StaticPods>>) -> Option<StaticPods> {
    static_pods.as_mut()?.recv().await
}

async fn receive(static_pods: &mut Option<mpsc::Receiver<StaticPods>>) -> Option<StaticPods> {
    match static_pods {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
