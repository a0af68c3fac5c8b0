//! A pod's status, derived from its spec and from what the runtime shows. No I/O.
//!
//! Phase, conditions and reasons are upstream's: `pkg/kubelet/kubelet_pods.go` (`getPhase`,
//! `convertToAPIContainerStatuses`) and `pkg/kubelet/status/generate.go`.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pods::plan::{is_sidecar, restart_policy, should_restart};
use crate::pods::resources::qos_class;
use crate::probes::Health;
use crate::runtime::{Container, PodState, State};

/// Conditions this module owns; all others belong to somebody else and are kept.
const READY_TO_START: &str = "PodReadyToStartContainers";
const INITIALIZED: &str = "Initialized";
const CONTAINERS_READY: &str = "ContainersReady";
const READY: &str = "Ready";

/// Why a container is not running, in the words of `state.waiting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Why the pod as a whole ended, when it is not its containers' doing (deadline, admission).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Everything a status is made from.
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) state: &'a PodState,
    pub(crate) health: &'a Health,
    /// What held a container back at the last attempt.
    pub(crate) reasons: &'a HashMap<String, Reason>,
    pub(crate) verdict: Option<&'a Verdict>,
    /// Nothing of the pod will run again.
    pub(crate) ended: bool,
    pub(crate) node_ips: &'a [IpAddr],
    pub(crate) now: Timestamp,
}

impl View<'_> {
    /// The whole status, ready to be written.
    pub(crate) fn status(&self) -> PodStatus {
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let old = self.pod.status.clone().unwrap_or_default();
        let init = self.container_statuses(spec, spec.init_containers.as_deref().unwrap_or_default(), true);
        let containers = self.container_statuses(spec, &spec.containers, false);
        let phase = self.phase(spec, &init, &containers, &old);
        let pod_ips = self.pod_ips(spec, &old);
        let host_ips: Vec<HostIP> = self.node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
        let mut status = PodStatus {
            conditions: Some(self.conditions(spec, phase, &init, &containers, &old)),
            host_ip: host_ips.first().map(|host| host.ip.clone()),
            host_ips: Some(host_ips),
            pod_ip: pod_ips.first().map(|pod| pod.ip.clone()),
            pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
            start_time: old.start_time.clone().or(Some(Time(self.now))),
            qos_class: Some(qos_class(self.pod).to_owned()),
            init_container_statuses: (!init.is_empty()).then_some(init),
            container_statuses: Some(containers),
            observed_generation: self.pod.metadata.generation,
            reason: self.verdict.map(|verdict| verdict.reason.clone()).or(old.reason),
            message: self.verdict.map(|verdict| verdict.message.clone()).or(old.message),
            ..PodStatus::default()
        };
        status.phase = Some(phase.to_owned());
        status
    }

    fn container_statuses(&self, spec: &PodSpec, containers: &[Spec], init: bool) -> Vec<ContainerStatus> {
        let has_init = spec.init_containers.as_ref().is_some_and(|containers| !containers.is_empty());
        let waiting = if has_init && !init { "PodInitializing" } else { "ContainerCreating" };
        // Init containers that are not their turn yet say so as well.
        let waiting = if init { "PodInitializing" } else { waiting };
        containers.iter().map(|container| self.container_status(spec, container, init, waiting)).collect()
    }

    fn container_status(&self, pod: &PodSpec, spec: &Spec, init: bool, waiting: &str) -> ContainerStatus {
        let mut attempts = self.state.of(&spec.name);
        let latest = attempts.next();
        let previous = attempts.next();
        let mut status = ContainerStatus {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            started: Some(false),
            ..ContainerStatus::default()
        };
        if let Some(latest) = latest {
            status.image = latest.image.clone();
            status.image_id = latest.image_ref.clone();
            status.container_id = Some(format!("containerd://{}", latest.id));
            status.restart_count = latest.restart_count;
            status.last_state = previous.filter(|made| made.state == State::Exited).map(terminated);
        }
        let policy = restart_policy(pod, spec);
        status.state = Some(match latest {
            None => waiting_state(waiting, None),
            Some(made) => match made.state {
                State::Created => waiting_state("ContainerCreating", None),
                State::Running => running(made),
                State::Exited => terminated(made),
                State::Unknown => unknown(made),
            },
        });
        // What holds back a container that is to be (re)started is more telling than its last end.
        let init_done = init
            && !is_sidecar(spec)
            && latest.is_some_and(|made| made.state == State::Exited && made.exit_code == 0);
        if let Some(reason) = self.reasons.get(&spec.name)
            && !self.ended
            && !init_done
            && should_restart(latest, policy)
        {
            if latest.is_some_and(|made| made.state == State::Exited) {
                status.last_state = status.state.take();
            }
            status.state = Some(waiting_state(reason.reason, Some(&reason.message)));
        }
        self.set_readiness(spec, init, latest, &mut status);
        status
    }

    fn set_readiness(
        &self,
        spec: &Spec,
        init: bool,
        latest: Option<&Container>,
        status: &mut ContainerStatus,
    ) {
        let Some(latest) = latest else { return };
        if latest.state == State::Running {
            let started = self.health.started(spec, &latest.id);
            status.started = Some(started);
            status.ready = started && self.health.ready(spec, &latest.id) && (!init || is_sidecar(spec));
        } else if init && !is_sidecar(spec) {
            status.ready = latest.state == State::Exited && latest.exit_code == 0;
        }
    }

    fn phase(
        &self,
        spec: &PodSpec,
        init: &[ContainerStatus],
        containers: &[ContainerStatus],
        old: &PodStatus,
    ) -> &'static str {
        match old.phase.as_deref() {
            // An ended pod never lives again.
            Some("Failed") => return "Failed",
            Some("Succeeded") => return "Succeeded",
            _ => {}
        }
        if self.verdict.is_some() {
            return "Failed";
        }
        let policy = spec.restart_policy.as_deref().unwrap_or("Always");
        let count = Count::of(containers);
        let init_pending = spec.init_containers.iter().flatten().zip(init).filter(|(container, status)| {
            if is_sidecar(container) { status.started != Some(true) } else { !status.ready }
        });
        let init_failed =
            init_pending.clone().any(|(_, status)| exit_code(status).is_some_and(|code| code != 0));
        let initialized = count.running + count.stopped > 0;
        if init_failed && (policy == "Never" || self.ended) {
            return "Failed";
        }
        if self.ended {
            return if count.stopped == count.succeeded && count.waiting == 0 {
                "Succeeded"
            } else {
                "Failed"
            };
        }
        if init_pending.count() > 0 && !initialized {
            return "Pending";
        }
        match () {
            () if count.waiting > 0 => "Pending",
            () if count.running > 0 => "Running",
            () if count.stopped == 0 => "Pending",
            () if policy == "Always" => "Running",
            () if count.stopped == count.succeeded => "Succeeded",
            () if policy == "Never" => "Failed",
            () => "Running",
        }
    }

    fn pod_ips(&self, spec: &PodSpec, old: &PodStatus) -> Vec<PodIP> {
        if spec.host_network == Some(true) {
            return self.node_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
        }
        match self.state.sandbox() {
            Some(sandbox) => sandbox.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect(),
            None if self.ended => old.pod_ips.clone().unwrap_or_default(),
            None => Vec::new(),
        }
    }

    fn conditions(
        &self,
        spec: &PodSpec,
        phase: &str,
        init: &[ContainerStatus],
        containers: &[ContainerStatus],
        old: &PodStatus,
    ) -> Vec<PodCondition> {
        let old = old.conditions.clone().unwrap_or_default();
        let sandbox =
            self.state.sandbox().is_some_and(|s| spec.host_network == Some(true) || !s.ips.is_empty());
        let containers_ready = containers_ready(phase, spec, init, containers);
        let ready = match &containers_ready {
            Check::Yes => readiness_gates(spec, &old),
            no => no.clone(),
        };
        let checks = [
            (READY_TO_START, if sandbox { Check::Yes } else { Check::no("", String::new()) }),
            (INITIALIZED, initialized(phase, spec, init, containers)),
            (READY, ready),
            (CONTAINERS_READY, containers_ready),
        ];
        let mut conditions: Vec<PodCondition> =
            checks.into_iter().map(|(type_, check)| self.condition(type_, check, &old)).collect();
        let owned = [READY_TO_START, INITIALIZED, CONTAINERS_READY, READY];
        conditions.extend(old.into_iter().filter(|condition| !owned.contains(&condition.type_.as_str())));
        // A static pod was never scheduled by anybody; upstream reports it as scheduled all the same.
        if !conditions.iter().any(|condition| condition.type_ == "PodScheduled") {
            conditions.push(self.condition("PodScheduled", Check::Yes, &[]));
        }
        conditions
    }

    fn condition(&self, type_: &str, check: Check, old: &[PodCondition]) -> PodCondition {
        let (status, reason, message) = match check {
            Check::Yes => ("True", None, None),
            Check::Done => ("True", Some("PodCompleted".to_owned()), None),
            Check::No { reason, message } => (
                "False",
                Some(reason.to_owned()).filter(|r| !r.is_empty()),
                Some(message).filter(|m| !m.is_empty()),
            ),
        };
        let before = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        let since = before.and_then(|condition| condition.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: since.or(Some(Time(self.now))),
            observed_generation: self.pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}

/// Result of checking a condition.
#[derive(Clone, Debug)]
enum Check {
    Yes,
    /// True, because the pod has completed.
    Done,
    No {
        reason: &'static str,
        message: String,
    },
}

impl Check {
    fn no(reason: &'static str, message: String) -> Self {
        Self::No { reason, message }
    }
}

#[derive(Default)]
struct Count {
    running: usize,
    stopped: usize,
    succeeded: usize,
    waiting: usize,
}

impl Count {
    fn of(statuses: &[ContainerStatus]) -> Self {
        let mut count = Self::default();
        for status in statuses {
            let state = status.state.clone().unwrap_or_default();
            if state.running.is_some() {
                count.running += 1;
            } else if let Some(code) = exit_code(status) {
                count.stopped += 1;
                count.succeeded += usize::from(code == 0);
            } else {
                count.waiting += 1;
            }
        }
        count
    }
}

/// Exit code of the latest end, also while waiting for the next start.
fn exit_code(status: &ContainerStatus) -> Option<i32> {
    let ended = |state: &Option<ContainerState>| state.as_ref()?.terminated.as_ref().map(|end| end.exit_code);
    let waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    ended(&status.state).or_else(|| if waiting { ended(&status.last_state) } else { None })
}

fn initialized(
    phase: &str,
    spec: &PodSpec,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> Check {
    let pending: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .zip(init)
        .filter(
            |(container, status)| {
                if is_sidecar(container) { status.started != Some(true) } else { !status.ready }
            },
        )
        .map(|(container, _)| container.name.as_str())
        .collect();
    let begun = containers.iter().any(|status| status.container_id.is_some());
    match phase {
        "Succeeded" => Check::Done,
        _ if pending.is_empty() || begun => Check::Yes,
        _ => Check::no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", pending.join(" ")),
        ),
    }
}

fn containers_ready(
    phase: &str,
    spec: &PodSpec,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
) -> Check {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .zip(init)
        .filter(|(c, _)| is_sidecar(c))
        .map(|(_, status)| status);
    let unready: Vec<&str> =
        containers.iter().chain(sidecars).filter(|status| !status.ready).map(|s| s.name.as_str()).collect();
    match phase {
        "Succeeded" => Check::no("PodCompleted", String::new()),
        "Failed" => Check::no("PodFailed", String::new()),
        _ if unready.is_empty() => Check::Yes,
        _ => Check::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    }
}

fn readiness_gates(spec: &PodSpec, conditions: &[PodCondition]) -> Check {
    let unmet: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter(|gate| !conditions.iter().any(|c| c.type_ == gate.condition_type && c.status == "True"))
        .map(|gate| {
            format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )
        })
        .collect();
    if unmet.is_empty() { Check::Yes } else { Check::no("ReadinessGatesNotReady", unmet.join(", ")) }
}

fn waiting_state(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: message.filter(|message| !message.is_empty()).map(str::to_owned),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn running(made: &Container) -> ContainerState {
    let running = ContainerStateRunning { started_at: made.started_at.map(Time) };
    ContainerState { running: Some(running), ..ContainerState::default() }
}

fn terminated(made: &Container) -> ContainerState {
    let default_reason = if made.exit_code == 0 { "Completed" } else { "Error" };
    let reason = if made.reason.is_empty() { default_reason } else { &made.reason };
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", made.id)),
        exit_code: made.exit_code,
        reason: Some(reason.to_owned()),
        message: (!made.message.is_empty()).then(|| made.message.clone()),
        started_at: made.started_at.map(Time),
        finished_at: made.finished_at.map(Time),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn unknown(made: &Container) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", made.id)),
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

#[cfg(test)]
mod tests;
