//! One pod's life, from admission to the removal of its last trace. Read [`Worker::run`] first.
//!
//! A worker keeps no record of what it has started. Each round it looks at the runtime, decides by `plan`, does
//! one step and looks again; so a restarted daemon goes on with running containers as if it had never ended.
//! Between rounds it sleeps until its pod, a container, a probe, a ConfigMap or a due time wakes it.

mod runtime_class;
mod start;
mod stop;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::agent::Agent;
use crate::backoff::Backoff;
use crate::cri::CriError;
use crate::objects::User;
use crate::pods::plan::{Actions, Plan, Situation};
use crate::pods::status::{Reason, Verdict, View};
use crate::pods::status_writer::StatusWriter;
use crate::pods::{admission, static_pods};
use crate::probes::Probes;
use crate::runtime::{PodState, Poke};
use crate::volumes::Mounted;

/// Pause after a failed round, doubling to [`RETRY_MAX`]; what the pod waits for usually wakes it earlier.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the sources want of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// No source has it any more: stop it, and leave the API alone.
    pub(crate) removed: bool,
    /// How often the mirror of this static pod has gone from the API.
    pub(crate) lost_mirrors: u32,
}

impl Desired {
    pub(crate) fn new(pod: Pod) -> Self {
        Self { pod: Arc::new(pod), removed: false, lost_mirrors: 0 }
    }
}

/// Why a pod is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    /// It was deleted: stop within this many seconds, then remove it from the API.
    Deleted,
    /// Its source has dropped it.
    Removed,
    /// All its containers have ended and none restarts.
    Completed,
    /// It may not go on: deadline or admission.
    Condemned(Verdict),
}

/// Result of one round.
enum Step {
    /// Something was done; look again.
    Again,
    /// Nothing to do before this time, if any.
    Wait(Option<Timestamp>),
    /// Nothing will ever run again.
    Completed,
}

/// Why a round did not succeed; it is repeated.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error(transparent)]
    Runtime(#[from] CriError),
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    #[error("failed to prepare the pod's directories: {0}")]
    Files(#[from] std::io::Error),
    #[error("RuntimeClass {0:?} not found")]
    NoRuntimeClass(String),
    #[error("RuntimeClass {0:?} cannot be read: no answer from the API server")]
    RuntimeClass(String),
}

/// Runs one pod.
pub(crate) struct Worker {
    agent: Arc<Agent>,
    uid: String,
    desired: watch::Receiver<Desired>,
    cancel: CancellationToken,
    poke: Poke,
    probes: Probes,
    backoff: Backoff,
    /// What held back each container at the last attempt.
    reasons: HashMap<String, Reason>,
    verdict: Option<Verdict>,
    status: StatusWriter,
    mounted: Mounted,
    retry: Duration,
    /// Lost mirrors that were made anew.
    lost_mirrors: u32,
}

impl Worker {
    pub(crate) fn new(
        agent: Arc<Agent>,
        desired: watch::Receiver<Desired>,
        cancel: CancellationToken,
    ) -> Self {
        let poke = Poke::default();
        let uid = desired.borrow().pod.metadata.uid.clone().unwrap_or_default();
        Self {
            probes: Probes::new(agent.cri().clone(), agent.events.clone(), poke.clone()),
            status: StatusWriter::new(agent.client.clone(), agent.node.clone()),
            agent,
            uid,
            desired,
            cancel,
            poke,
            backoff: Backoff::default(),
            reasons: HashMap::new(),
            verdict: None,
            mounted: Mounted::default(),
            retry: RETRY_MIN,
            lost_mirrors: 0,
        }
    }

    /// The whole life. Returns early, leaving everything as it is, when the daemon stops.
    pub(crate) async fn run(mut self) {
        let cancel = self.cancel.clone();
        if cancel.run_until_cancelled(self.live_and_die()).await.is_none() {
            debug!(uid = %self.uid, "daemon stops, pod is left running");
        }
        self.agent.runtime.unregister(&self.poke);
    }

    async fn live_and_die(&mut self) {
        let pod = self.pod();
        self.probes.adopt(&pod);
        if has_ended(&pod) {
            // Its end was told before this daemon started; there is nothing to add.
            self.agent.books.note(&self.uid, &pod);
            self.stop_containers().await;
        } else {
            self.run_to_end().await;
        }
        self.release().await;
        self.until_unwanted().await;
        self.remove_from_api().await;
        self.remove_records().await;
        self.agent.books.strike(&self.uid);
        info!(pod = %self.name(), "pod is gone");
    }

    async fn run_to_end(&mut self) {
        let ending = self.live().await;
        info!(pod = %self.name(), ?ending, "pod is being stopped");
        if let Ending::Condemned(verdict) = &ending {
            self.verdict = Some(verdict.clone());
        }
        self.stop_containers().await;
        self.report_end().await;
    }

    /// Runs the pod until it has to end.
    async fn live(&mut self) -> Ending {
        let pod = self.pod();
        if let Err(verdict) = self.admit(&pod) {
            return self.ending().unwrap_or(Ending::Condemned(verdict));
        }
        let mut desired = self.desired.clone();
        loop {
            if let Some(ending) = self.ending() {
                return ending;
            }
            // A round may take minutes (a pull); what ends the pod interrupts it.
            let step = tokio::select! {
                biased;
                _ = desired.wait_for(|desired| must_stop(desired).is_some()) => continue,
                step = self.sync() => step,
            };
            match step {
                Ok(Step::Again) => self.retry = RETRY_MIN,
                Ok(Step::Completed) => return Ending::Completed,
                Ok(Step::Wait(until)) => self.wait(until).await,
                Err(error) => {
                    debug!(pod = %self.name(), %error, "pod not synced, will be tried again");
                    let until = Timestamp::now() + self.retry;
                    self.retry = (self.retry * 2).min(RETRY_MAX);
                    self.wait(Some(until)).await;
                }
            }
        }
    }

    /// One round: look, decide, tell, do.
    async fn sync(&mut self) -> Result<Step, SyncError> {
        let pod = self.pod();
        let state = self.observe().await?;
        self.probes.sync(&pod, &state);
        let health = self.probes.health();
        let now = Timestamp::now();
        let plan =
            Situation { pod: &pod, state: &state, health: &health, backoff: &self.backoff, now }.plan();
        if let Plan::Containers(actions) = &plan {
            self.note_back_offs(&pod, &state, actions);
        }
        self.report(&state, false).await;
        match plan {
            Plan::Finished => Ok(Step::Completed),
            Plan::NewSandbox { attempt } => {
                self.new_sandbox(&pod, &state, attempt).await?;
                Ok(Step::Again)
            }
            Plan::Containers(actions) => self.act(&pod, &state, actions).await,
        }
    }

    async fn act(&mut self, pod: &Arc<Pod>, state: &PodState, actions: Actions) -> Result<Step, SyncError> {
        self.prepare_volumes(pod, state).await?;
        let mut due = actions.backing_off.iter().map(|waiting| waiting.due).min();
        let mut acted = !actions.kill.is_empty();
        for kill in &actions.kill {
            self.kill_container(pod, state, kill).await?;
        }
        for start in &actions.start {
            let outcome = self.start_container(pod, state, start).await?;
            acted |= outcome.started;
            due = earlier(due, outcome.retry_at);
        }
        if acted {
            return Ok(Step::Again);
        }
        if !actions.start.is_empty() {
            self.report(state, false).await;
        }
        Ok(Step::Wait(due))
    }

    /// Waits for anything that may change what is to be done.
    async fn wait(&mut self, until: Option<Timestamp>) {
        let now = Timestamp::now();
        let mut until = earlier(until, self.deadline());
        until = earlier(until, self.mounted.refresh_at);
        if self.status.pending {
            until = earlier(until, Some(now + self.retry));
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
        let pause = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
        let due = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.poke.poked() => {}
            // A closed channel means the manager is gone, and so are we soon.
            _ = self.desired.changed() => {}
            () = due => {}
        }
    }

    // === What is wanted ===

    /// The pod as wanted, with the newest status known.
    fn pod(&mut self) -> Arc<Pod> {
        let Desired { pod, lost_mirrors, .. } = self.desired.borrow_and_update().clone();
        if lost_mirrors != self.lost_mirrors {
            self.lost_mirrors = lost_mirrors;
            self.status.pending = true;
        }
        Arc::new(self.status.current(&pod))
    }

    fn name(&self) -> String {
        let pod = &self.desired.borrow().pod;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
    }

    fn user(&self) -> User {
        User { uid: self.uid.clone(), poke: self.poke.clone() }
    }

    /// Why the pod must end now, if it must.
    fn ending(&self) -> Option<Ending> {
        if let Some(ending) = must_stop(&self.desired.borrow()) {
            return Some(ending);
        }
        (self.deadline()? <= Timestamp::now()).then(|| {
            Ending::Condemned(Verdict {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            })
        })
    }

    /// When `activeDeadlineSeconds` is over.
    fn deadline(&self) -> Option<Timestamp> {
        // Without marking it as seen: a change that came since the round began has to end the wait after it.
        let pod = self.status.current(&self.desired.borrow().pod);
        let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
        let started = pod.status.as_ref()?.start_time.as_ref()?.0;
        started.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))).ok()
    }

    fn admit(&self, pod: &Pod) -> Result<(), Verdict> {
        // What runs already was admitted by the daemon before this one.
        let known = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        self.agent.books.note(&self.uid, pod);
        if known {
            return Ok(());
        }
        let others = self.agent.books.requests(&self.uid);
        let verdict = admission::admit(pod, &others, &self.agent.machine, self.agent.config.max_pods);
        if let Err(verdict) = &verdict {
            self.agent.events.pod_event(pod, "Warning", &verdict.reason, verdict.message.clone());
        }
        verdict
    }

    // === Looking and telling ===

    async fn observe(&self) -> Result<PodState, CriError> {
        self.agent.runtime.observe(&self.uid, &self.poke).await
    }

    /// Notes containers that wait after a crash, in their status and as an event.
    fn note_back_offs(&mut self, pod: &Pod, state: &PodState, actions: &Actions) {
        for waiting in &actions.backing_off {
            let Some(made) = state.latest(&waiting.name) else { continue };
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                go_duration(waiting.pause),
                waiting.name,
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                self.uid
            );
            let reason = Reason { reason: "CrashLoopBackOff", message };
            if self.reasons.insert(made.name.clone(), reason.clone()).as_ref() != Some(&reason) {
                let text =
                    format!("Back-off restarting failed container {} in pod {}", waiting.name, self.name());
                self.agent.events.container_event(pod, &waiting.name, "Warning", "BackOff", text);
            }
        }
    }

    /// Writes the status that follows from `state`. Whether the API has it.
    async fn report(&mut self, state: &PodState, ended: bool) -> bool {
        let pod = self.pod();
        let health = self.probes.health();
        let view = View {
            pod: &pod,
            state,
            health: &health,
            reasons: &self.reasons,
            verdict: self.verdict.as_ref(),
            ended,
            node_ips: &self.agent.config.node_ips,
            now: Timestamp::now(),
        };
        let status = view.status();
        // As the API has it: `pod` has our own conditions in place of what others made of them.
        let theirs = self.desired.borrow().pod.clone();
        let written = self.status.write(&theirs, status).await;
        self.agent.books.note(&self.uid, &self.status.current(&pod));
        written
    }

    /// Writes the last status, until the API has it or the pod is gone from there.
    async fn report_end(&mut self) {
        loop {
            if self.desired.borrow().removed {
                return;
            }
            let state = self.observe().await.unwrap_or_default();
            if self.report(&state, true).await {
                return;
            }
            self.pause().await;
        }
    }

    /// Waits until nobody wants to see the ended pod any more.
    async fn until_unwanted(&mut self) {
        let unwanted =
            |desired: &Desired| desired.removed || desired.pod.metadata.deletion_timestamp.is_some();
        // An error means the manager is gone; the daemon is stopping.
        let _ = self.desired.wait_for(unwanted).await;
    }

    async fn remove_from_api(&mut self) {
        loop {
            let Desired { pod, removed, .. } = self.desired.borrow().clone();
            // The mirror of a static pod is ours to remove, the object of a removed pod is gone already.
            if (removed && !static_pods::is_static(&pod)) || self.status.delete(&pod).await {
                return;
            }
            if removed {
                // Without an API server the mirror goes when there is one: nothing mirrors it then.
                return;
            }
            self.pause().await;
        }
    }

    /// A growing pause that any change of the wanted pod ends.
    async fn pause(&mut self) {
        let pause = self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.desired.changed() => {}
        }
    }
}

/// Whether the sources want the pod stopped.
fn must_stop(desired: &Desired) -> Option<Ending> {
    if desired.removed {
        return Some(Ending::Removed);
    }
    desired.pod.metadata.deletion_timestamp.is_some().then_some(Ending::Deleted)
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Whether a pod has ended and holds nothing any more.
fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A duration as Go prints it, `1m20s`; clients look for these texts.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
