//! What to do next with a pod, decided from its spec and from what the runtime shows. No I/O.
//!
//! The rules are upstream's `computePodActions` (`pkg/kubelet/kuberuntime/kuberuntime_manager.go`): a pod has
//! one ready sandbox; init containers run in order, each to its end, those with `restartPolicy: Always` stay
//! and must have started; then the containers run and are restarted as the policy says.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodSpec};

use crate::backoff::Backoff;
use crate::pods::container::spec_hash;
use crate::probes::{Health, ProbeKind};
use crate::runtime::{Container, PodState, State};

/// The next step of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Stop whatever is left and make a sandbox.
    NewSandbox {
        /// How many there were before.
        attempt: u32,
    },
    /// Stop some containers, start some, wait for others.
    Containers(Actions),
    /// The pod has run to its end; stop what still runs.
    Finished,
}

/// Changes to a pod's containers. All empty: everything is as it should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    pub(crate) kill: Vec<Kill>,
    pub(crate) start: Vec<Start>,
    pub(crate) backing_off: Vec<BackingOff>,
}

/// A container to stop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) why: KillReason,
}

/// Why a container is stopped; decides which grace period applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillReason {
    /// Its spec changed, or the runtime lost track of it.
    Replace,
    /// A liveness or startup probe failed.
    Probe(ProbeKind),
}

/// A container to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) name: String,
    pub(crate) restart_count: i32,
    /// When the previous incarnation ended; the backoff counts from there.
    pub(crate) failed_at: Option<Timestamp>,
}

/// A container that will be started later.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackingOff {
    pub(crate) name: String,
    pub(crate) due: Timestamp,
    pub(crate) pause: Duration,
}

/// Everything a plan is made from.
pub(crate) struct Situation<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) state: &'a PodState,
    pub(crate) health: &'a Health,
    pub(crate) backoff: &'a Backoff,
    pub(crate) now: Timestamp,
}

/// How far the init containers are.
enum Init {
    Done,
    Busy,
    Failed,
}

/// Whether an init container stays beside the others (`restartPolicy: Always`), a "sidecar".
pub(crate) fn is_sidecar(container: &Spec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `restartPolicy` of a container: its own, else the pod's.
pub(crate) fn restart_policy<'a>(spec: &'a PodSpec, container: &'a Spec) -> &'a str {
    container.restart_policy.as_deref().or(spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether an ended (or never started) container is to be started under `policy`.
pub(crate) fn should_restart(latest: Option<&Container>, policy: &str) -> bool {
    match latest {
        None => true,
        Some(container) => match container.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => match policy {
                "Never" => false,
                "OnFailure" => container.exit_code != 0,
                _ => true,
            },
        },
    }
}

impl Situation<'_> {
    /// Decides the next step.
    pub(crate) fn plan(&self) -> Plan {
        let empty = PodSpec::default();
        let spec = self.pod.spec.as_ref().unwrap_or(&empty);
        let Some(sandbox) = self.state.sandbox() else { return self.without_sandbox(spec) };
        let mut actions = Actions::default();
        match self.init_containers(spec, &sandbox.id, &mut actions) {
            Init::Failed => return Plan::Finished,
            Init::Busy => return Plan::Containers(actions),
            Init::Done => {}
        }
        for container in &spec.containers {
            self.container(container, restart_policy(spec, container), &mut actions);
        }
        if self.all_done(spec) {
            return Plan::Finished;
        }
        Plan::Containers(actions)
    }

    fn without_sandbox(&self, spec: &PodSpec) -> Plan {
        let attempt = self.state.sandboxes.iter().map(|sandbox| sandbox.attempt + 1).max().unwrap_or(0);
        let ran = attempt > 0 && !self.state.containers.is_empty();
        let never = spec.restart_policy.as_deref() == Some("Never");
        if ran && (never || self.all_done(spec)) {
            return Plan::Finished;
        }
        Plan::NewSandbox { attempt }
    }

    /// No container runs and none will be started again.
    fn all_done(&self, spec: &PodSpec) -> bool {
        spec.containers.iter().all(|container| {
            let latest = self.state.latest(&container.name);
            latest.is_some_and(|latest| latest.state == State::Exited)
                && !should_restart(latest, restart_policy(spec, container))
        })
    }

    fn init_containers(&self, spec: &PodSpec, sandbox: &str, actions: &mut Actions) -> Init {
        // Once a container was made in this sandbox, initialisation is over, even if its records are pruned.
        let initialized = spec
            .containers
            .iter()
            .any(|container| self.state.of(&container.name).any(|made| made.sandbox_id == sandbox));
        for container in spec.init_containers.iter().flatten() {
            let latest = self.state.of(&container.name).find(|made| made.sandbox_id == sandbox);
            let progress = if is_sidecar(container) {
                self.sidecar(container, latest, actions)
            } else if initialized {
                Init::Done
            } else {
                self.init_container(container, restart_policy(spec, container), latest, actions)
            };
            match progress {
                Init::Done => {}
                Init::Busy if initialized => {}
                busy_or_failed => return busy_or_failed,
            }
        }
        Init::Done
    }

    fn init_container(
        &self,
        spec: &Spec,
        policy: &str,
        latest: Option<&Container>,
        actions: &mut Actions,
    ) -> Init {
        match latest {
            Some(made) if made.state == State::Running => Init::Busy,
            Some(made) if made.state == State::Exited && made.exit_code == 0 => Init::Done,
            Some(made) if made.state == State::Exited && policy == "Never" => Init::Failed,
            _ => {
                self.start(spec, latest, actions);
                Init::Busy
            }
        }
    }

    fn sidecar(&self, spec: &Spec, latest: Option<&Container>, actions: &mut Actions) -> Init {
        self.container(spec, "Always", actions);
        match latest {
            Some(made) if made.state == State::Running && self.health.started(spec, &made.id) => Init::Done,
            _ => Init::Busy,
        }
    }

    /// Starts a container that is due, replaces one that is not as it should be.
    fn container(&self, spec: &Spec, policy: &str, actions: &mut Actions) {
        let latest = self.state.latest(&spec.name);
        match latest {
            Some(running) if running.state == State::Running => {
                actions.kill.extend(self.must_stop(spec, running));
            }
            Some(unknown) if unknown.state == State::Unknown => actions.kill.push(Kill {
                id: unknown.id.clone(),
                name: spec.name.clone(),
                message: format!(
                    "Container {} is in unknown state, try killing it before restart",
                    spec.name
                ),
                why: KillReason::Replace,
            }),
            _ if should_restart(latest, policy) => self.start(spec, latest, actions),
            _ => {}
        }
    }

    fn must_stop(&self, spec: &Spec, running: &Container) -> Option<Kill> {
        let (message, why) = if running.hash != spec_hash(spec) {
            let text = format!("Container {} definition changed, will be restarted", spec.name);
            (text, KillReason::Replace)
        } else if self.health.failed(&running.id, ProbeKind::Liveness) {
            let text = format!("Container {} failed liveness probe, will be restarted", spec.name);
            (text, KillReason::Probe(ProbeKind::Liveness))
        } else if self.health.failed(&running.id, ProbeKind::Startup) {
            let text = format!("Container {} failed startup probe, will be restarted", spec.name);
            (text, KillReason::Probe(ProbeKind::Startup))
        } else {
            return None;
        };
        Some(Kill { id: running.id.clone(), name: spec.name.clone(), message, why })
    }

    fn start(&self, spec: &Spec, latest: Option<&Container>, actions: &mut Actions) {
        let failed_at = latest.filter(|made| made.state == State::Exited).and_then(|made| made.finished_at);
        let pending = failed_at.and_then(|since| self.backoff.pending(&spec.name, since, self.now));
        if let Some((due, pause)) = pending {
            actions.backing_off.push(BackingOff { name: spec.name.clone(), due, pause });
            return;
        }
        // Counted over all sandboxes: names of containers must not repeat while an old record is kept.
        let restart_count = self.state.latest(&spec.name).map_or(0, |made| made.restart_count + 1);
        actions.start.push(Start { name: spec.name.clone(), restart_count, failed_at });
    }
}

#[cfg(test)]
mod tests;
