//! What every pod worker of this node shares.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::Informer;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use serde_json::Value;
use tokio::sync::watch;

use crate::cgroup::Hierarchy;
use crate::config::{Config, NodeReport};
use crate::cri::Cri;
use crate::events::Events;
use crate::images::Images;
use crate::node::NodeIdentity;
use crate::node::machine::Machine;
use crate::objects::Objects;
use crate::pods::container::log_path;
use crate::pods::resources::{Amounts, pod_requests};
use crate::pods::sandbox::log_dir_name;
use crate::runtime::Runtime;
use crate::volumes::Tokens;

/// The node's means: runtime, API, stores, and the books about its pods.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Runtime,
    pub(crate) images: Images,
    pub(crate) objects: Objects,
    pub(crate) tokens: Tokens,
    pub(crate) events: Events,
    pub(crate) services: Informer<Service>,
    pub(crate) machine: Machine,
    pub(crate) node: Arc<NodeIdentity>,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) books: Books,
}

impl Agent {
    /// The runtime's handle.
    pub(crate) fn cri(&self) -> &Cri {
        &self.runtime.cri
    }

    /// A pod's own directory.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.root_dir.join("pods").join(uid)
    }

    /// The node's addresses as text.
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }
}

/// One line in the books. The pod itself is kept as JSON: a tenth of what the decoded object takes.
struct Entry {
    namespace: String,
    name: String,
    running: bool,
    ended: bool,
    requests: Amounts,
    logs: Vec<RunningLog>,
    json: Box<[u8]>,
}

/// The log of a container that runs.
#[derive(Clone, Debug)]
pub(crate) struct RunningLog {
    pub(crate) container_id: String,
    /// Relative to the directory of all pods' logs.
    pub(crate) path: PathBuf,
}

/// The pods this node runs, for admission, the server and the console. A map behind a lock that is never held
/// across an await.
pub(crate) struct Books {
    entries: Mutex<HashMap<String, Entry>>,
    report: watch::Sender<NodeReport>,
}

impl Books {
    /// Empty books that keep the counts in `report`.
    pub(crate) fn new(report: watch::Sender<NodeReport>) -> Self {
        Self { entries: Mutex::default(), report }
    }

    /// Notes a pod with its present status.
    pub(crate) fn note(&self, uid: &str, pod: &Pod) {
        self.entries().insert(uid.to_owned(), Entry::of(pod));
        self.tell();
    }

    /// Strikes a pod out.
    pub(crate) fn strike(&self, uid: &str) {
        self.entries().remove(uid);
        self.tell();
    }

    /// Every pod with its present status, as JSON.
    pub(crate) fn pods(&self) -> Vec<Value> {
        self.entries().values().filter_map(|entry| serde_json::from_slice(&entry.json).ok()).collect()
    }

    /// A pod by its names.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        let entries = self.entries();
        let entry = entries.values().find(|entry| entry.namespace == namespace && entry.name == name)?;
        serde_json::from_slice(&entry.json).ok()
    }

    /// What the pods that have not ended ask for, but for `uid`.
    pub(crate) fn requests(&self, uid: &str) -> Vec<Amounts> {
        let entries = self.entries();
        entries
            .iter()
            .filter(|(other, entry)| *other != uid && !entry.ended)
            .map(|(_, e)| e.requests)
            .collect()
    }

    /// The logs that grow.
    pub(crate) fn running_logs(&self) -> Vec<RunningLog> {
        self.entries().values().flat_map(|entry| entry.logs.clone()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let (pods, running_pods) = {
            let entries = self.entries();
            (entries.len(), entries.values().filter(|entry| entry.running).count())
        };
        self.report.send_if_modified(|report| {
            let changed = (report.pods, report.running_pods) != (pods, running_pods);
            (report.pods, report.running_pods) = (pods, running_pods);
            changed
        });
    }
}

impl Entry {
    fn of(pod: &Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            running: phase == Some("Running"),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            requests: pod_requests(pod),
            logs: running_logs(pod),
            json: serde_json::to_vec(pod).unwrap_or_default().into_boxed_slice(),
        }
    }
}

fn running_logs(pod: &Pod) -> Vec<RunningLog> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running =
        statuses.filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    let dir = log_dir_name(pod);
    running
        .filter_map(|status| {
            let (_, id) = status.container_id.as_deref()?.split_once("://")?;
            let path = Path::new(&dir).join(log_path(&status.name, status.restart_count));
            Some(RunningLog { container_id: id.to_owned(), path })
        })
        .collect()
}
