//! What every pod worker of this node shares.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use client::Informer;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use tokio::sync::watch;

use crate::cgroup::Hierarchy;
use crate::config::{Config, NodeReport};
use crate::cri::Cri;
use crate::events::Events;
use crate::images::Images;
use crate::node::NodeIdentity;
use crate::node::machine::Machine;
use crate::objects::Objects;
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

/// One line in the books.
#[derive(Clone, Debug, Default)]
struct Entry {
    pod: Pod,
    phase: String,
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

    fn tell(&self) {
        let (pods, running_pods) = self.count();
        self.report.send_if_modified(|report| {
            let changed = (report.pods, report.running_pods) != (pods, running_pods);
            (report.pods, report.running_pods) = (pods, running_pods);
            changed
        });
    }

    /// Notes a pod with its present status.
    pub(crate) fn note(&self, uid: &str, pod: Pod) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.to_owned(), Entry { pod, phase });
        self.tell();
    }

    /// Strikes a pod out.
    pub(crate) fn strike(&self, uid: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.tell();
    }

    /// Every pod with its present status.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|entry| entry.pod.clone())
            .collect()
    }

    /// A pod by its names.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Pod> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = |pod: &Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        entries.values().map(|entry| &entry.pod).find(|pod| matches(pod)).cloned()
    }

    /// All pods, and those that run.
    fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        (entries.len(), entries.values().filter(|entry| entry.phase == "Running").count())
    }
}
