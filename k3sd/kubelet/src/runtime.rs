//! What the runtime has of a pod, as plain data, and word of changes.
//!
//! [`Runtime::observe`] reads sandboxes and containers of one pod. [`Runtime::watch`] follows containerd's
//! event stream and wakes the worker whose container or sandbox ended, so nothing is polled. CRI's own
//! `GetContainerEvents` is not used: containerd 1.6 lacks it, and in 1.7 its single queue loses events when
//! the reader is replaced, as it is when this daemon restarts.
//!
//! An exit event may arrive before the CRI plug-in has noted the exit. [`Poke`] keeps the ids of what was
//! said to have exited, so that a worker which still sees it running looks again shortly.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use containerd_client::events::TaskExit;
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::types::Envelope;
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use tokio::sync::Notify;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::cri::{Cri, CriError};
use crate::images::store::NAMESPACE;

/// Labels and annotations on CRI objects: upstream's `pkg/kubelet/types/labels.go` and `kuberuntime/labels.go`.
pub(crate) mod labels {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Pause before the event stream is opened again.
const RESUBSCRIBE: Duration = Duration::from_millis(500);

/// Everything the runtime has of one pod, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodState {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Container>,
}

/// One incarnation of the pod's network and IPC namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) ips: Vec<String>,
}

/// Life of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, not started.
    Created,
    Running,
    Exited,
    /// The runtime lost track of it.
    #[default]
    Unknown,
}

/// One incarnation of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox_id: String,
    pub(crate) restart_count: i32,
    /// Hash of the spec it was made from; see `container::spec_hash`.
    pub(crate) hash: String,
    pub(crate) state: State,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_ref: String,
    pub(crate) log_path: String,
}

impl PodState {
    /// The sandbox new containers go into: the newest one, when it is ready.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// Incarnations of one container, newest first.
    pub(crate) fn of(&self, name: &str) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// The newest incarnation of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.of(name).next()
    }

    /// Containers that have a process, or may have one.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|container| matches!(container.state, State::Running | State::Unknown))
    }
}

/// Wakes one pod's worker, and tells it which ids were reported to have exited.
#[derive(Clone, Debug, Default)]
pub(crate) struct Poke(Arc<PokeState>);

#[derive(Debug, Default)]
struct PokeState {
    notify: Notify,
    exited: Mutex<HashSet<String>>,
}

impl Poke {
    /// Wakes the worker; calls before it looks count once.
    pub(crate) fn poke(&self) {
        self.0.notify.notify_one();
    }

    /// Waits for the next poke. Cancel safe.
    pub(crate) async fn poked(&self) {
        self.0.notify.notified().await;
    }

    fn exited(&self, id: &str) {
        self.0.exited.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        self.poke();
    }

    /// Whether the runtime still shows something running that was reported to have exited.
    fn lags(&self, state: &PodState) -> bool {
        let mut exited = self.0.exited.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: HashSet<&str> = state
            .alive()
            .map(|container| container.id.as_str())
            .chain(state.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.as_str()))
            .collect();
        exited.retain(|id| shown.contains(id.as_str()));
        !exited.is_empty()
    }

    fn forget_exited(&self) {
        self.0.exited.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The runtime, with the knowledge of who waits for which container.
#[derive(Clone)]
pub(crate) struct Runtime {
    pub(crate) cri: Cri,
    waiting: Arc<Mutex<HashMap<String, Poke>>>,
}

impl Runtime {
    pub(crate) fn new(cri: Cri) -> Self {
        Self { cri, waiting: Arc::default() }
    }

    /// Has `poke` woken when the container or sandbox `id` ends.
    pub(crate) fn register(&self, id: &str, poke: &Poke) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), poke.clone());
    }

    /// Forgets ids whose pod is gone.
    pub(crate) fn unregister(&self, poke: &Poke) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, other| !Arc::ptr_eq(&other.0, &poke.0));
    }

    /// Reads a pod's state, looking again while the runtime is behind its own events.
    pub(crate) async fn observe(&self, uid: &str, poke: &Poke) -> Result<PodState, CriError> {
        const LOOKS: u32 = 10;
        let mut pause = Duration::from_millis(5);
        for _ in 0..LOOKS {
            let state = self.observe_once(uid, poke).await?;
            if !poke.lags(&state) {
                return Ok(state);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        debug!(uid, "runtime still shows as running what it reported to have exited");
        poke.forget_exited();
        self.observe_once(uid, poke).await
    }

    async fn observe_once(&self, uid: &str, poke: &Poke) -> Result<PodState, CriError> {
        let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let mut sandboxes = self.cri.list_pod_sandboxes(selector.clone()).await?;
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        let mut containers = self.cri.list_containers(selector).await?;
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        // Registered before the details are read, so that an exit in between is not lost.
        for id in sandboxes.iter().map(|s| &s.id).chain(containers.iter().map(|c| &c.id)) {
            self.register(id, poke);
        }
        let mut state = PodState::default();
        for (index, sandbox) in sandboxes.into_iter().enumerate() {
            state.sandboxes.extend(self.sandbox(sandbox, index == 0).await?);
        }
        for container in containers {
            match self.cri.container_status(&container.id).await {
                Ok(status) => state.containers.push(to_container(container, status)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(state)
    }

    /// Incarnations of one container of a pod, newest first; for requests from outside the worker.
    pub(crate) async fn containers(&self, uid: &str, name: &str) -> Result<Vec<Container>, CriError> {
        let selector = HashMap::from([
            (labels::POD_UID.to_owned(), uid.to_owned()),
            (labels::CONTAINER_NAME.to_owned(), name.to_owned()),
        ]);
        let mut listed = self.cri.list_containers(selector).await?;
        listed.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        let mut containers = Vec::with_capacity(listed.len());
        for container in listed {
            let status = self.cri.container_status(&container.id).await?;
            containers.push(to_container(container, status));
        }
        Ok(containers)
    }

    /// The pod's sandbox, when it is ready.
    pub(crate) async fn ready_sandbox(&self, uid: &str) -> Result<Option<String>, CriError> {
        let selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let mut sandboxes = self.cri.list_pod_sandboxes(selector).await?;
        sandboxes.retain(|sandbox| sandbox.state == cri::PodSandboxState::SandboxReady as i32);
        Ok(sandboxes.into_iter().max_by_key(|sandbox| sandbox.created_at).map(|sandbox| sandbox.id))
    }

    async fn sandbox(&self, listed: cri::PodSandbox, newest: bool) -> Result<Option<Sandbox>, CriError> {
        let attempt = listed.metadata.map_or(0, |metadata| metadata.attempt);
        if !newest {
            let ready = listed.state == cri::PodSandboxState::SandboxReady as i32;
            return Ok(Some(Sandbox { id: listed.id, attempt, ready, ips: Vec::new() }));
        }
        let status = match self.cri.pod_sandbox_status(&listed.id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let network = status.network.unwrap_or_default();
        let ips = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
            .filter(|ip| !ip.is_empty())
            .collect();
        let ready = status.state == cri::PodSandboxState::SandboxReady as i32;
        Ok(Some(Sandbox { id: listed.id, attempt, ready, ips }))
    }

    /// Follows containerd's events until `cancel`, waking workers. After a gap everybody looks.
    pub(crate) async fn watch(&self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                result = self.follow_events() => debug!(?result, "container event stream ended"),
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RESUBSCRIBE) => {}
            }
        }
    }

    async fn follow_events(&self) -> Result<(), tonic::Status> {
        let filters = vec![format!("namespace=={NAMESPACE},topic==\"/tasks/exit\"")];
        let mut events = EventsClient::new(self.cri.channel());
        let mut stream = events.subscribe(SubscribeRequest { filters }).await?.into_inner();
        info!("following container events");
        self.poke_all();
        while let Some(envelope) = stream.next().await {
            self.dispatch(envelope?);
        }
        Ok(())
    }

    fn dispatch(&self, envelope: Envelope) {
        let Some(mut event) = envelope.event else { return };
        // containerd's type URLs have no slash, which prost insists on.
        event.type_url.insert(0, '/');
        let Ok(exit) = event.to_msg::<TaskExit>() else { return };
        // Another id than the container's is a command that ran in it.
        if exit.id != exit.container_id {
            return;
        }
        debug!(container = %exit.container_id, code = exit.exit_status, "container exited");
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(poke) = waiting.get(&exit.container_id) {
            poke.exited(&exit.container_id);
        }
    }

    fn poke_all(&self) {
        for poke in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).values() {
            poke.poke();
        }
    }
}

fn to_container(listed: cri::Container, status: cri::ContainerStatus) -> Container {
    let annotation = |key: &str| listed.annotations.get(key).cloned().unwrap_or_default();
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => State::Created,
        cri::ContainerState::ContainerRunning => State::Running,
        cri::ContainerState::ContainerExited => State::Exited,
        cri::ContainerState::ContainerUnknown => State::Unknown,
    };
    Container {
        name: listed.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        restart_count: annotation(labels::RESTART_COUNT).parse().unwrap_or_default(),
        hash: annotation(labels::CONTAINER_HASH),
        message: termination_message(&listed, &status, state),
        id: listed.id,
        sandbox_id: listed.pod_sandbox_id,
        state,
        started_at: timestamp(status.started_at),
        finished_at: timestamp(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_ref: status.image_ref,
        log_path: status.log_path,
    }
}

/// What the container wrote to its `terminationMessagePath`, else the runtime's message.
/// Upstream's limit is 4096 bytes; the log fallback is 2048 bytes or 80 lines.
fn termination_message(listed: &cri::Container, status: &cri::ContainerStatus, state: State) -> String {
    const LIMIT: usize = 4096;
    if state != State::Exited {
        return String::new();
    }
    let path = listed.annotations.get(labels::TERMINATION_PATH);
    let file = path.and_then(|path| status.mounts.iter().find(|mount| &mount.container_path == path));
    let mut text = file.and_then(|mount| std::fs::read(&mount.host_path).ok()).unwrap_or_default();
    text.truncate(LIMIT);
    let fallback = listed.annotations.get(labels::TERMINATION_POLICY).map(String::as_str);
    if text.is_empty() && fallback == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        return crate::logs::tail_text(std::path::Path::new(&status.log_path), 80, 2048);
    }
    if text.is_empty() { status.message.clone() } else { String::from_utf8_lossy(&text).into_owned() }
}

fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}
