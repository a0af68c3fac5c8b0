//! Stopping: hooks, signals within the grace period, sandboxes, and the removal of what is left on the host.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::start::find_spec;
use super::{SyncError, Worker};
use crate::cri::CriError;
use crate::pods::plan::{Kill, KillReason, is_sidecar};
use crate::pods::{resources, sandbox};
use crate::probes::ProbeKind;
use crate::probes::check::{self, Action};
use crate::runtime::{Container, PodState};
use crate::volumes;

/// `terminationGracePeriodSeconds` unless the pod says otherwise.
const DEFAULT_GRACE: i64 = 30;
/// What is left for the signal after a long hook; upstream's `minimumGracePeriodInSeconds`.
const MIN_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    /// Seconds to stop in: what the deletion says, else the spec.
    pub(super) fn grace(&self, pod: &Pod) -> Duration {
        let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(DEFAULT_GRACE);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Stops every container and the sandbox; again and again until the runtime says that nothing runs.
    /// A deletion with a shorter grace period while this goes on takes over.
    pub(super) async fn stop_containers(&mut self) {
        self.probes.stop();
        let mut hooks = Hooks::Run;
        loop {
            let pod = self.pod();
            let grace = self.grace(&pod);
            let mut desired = self.desired.clone();
            let hurried = async {
                let shorter = |wanted: &super::Desired| {
                    let seconds = wanted.pod.metadata.deletion_grace_period_seconds;
                    seconds.is_some_and(|seconds| {
                        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) < grace
                    })
                };
                if desired.wait_for(shorter).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let result = tokio::select! {
                result = self.stop_once(&pod, grace, hooks) => result,
                () = hurried => {
                    debug!(pod = %self.name(), "grace period shortened");
                    hooks = Hooks::Skip;
                    continue;
                }
            };
            match result {
                Ok(()) => return,
                Err(error) => {
                    warn!(pod = %self.name(), %error, "pod not stopped, will be tried again");
                    hooks = Hooks::Skip;
                    self.pause().await;
                }
            }
        }
    }

    async fn stop_once(&self, pod: &Arc<Pod>, grace: Duration, hooks: Hooks) -> Result<(), CriError> {
        let state = self.observe().await?;
        let sidecars = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let mut sidecars: Vec<&Spec> = sidecars.filter(|container| is_sidecar(container)).collect();
        sidecars.reverse();
        let is_sidecar_of = |made: &&Container| sidecars.iter().any(|spec| spec.name == made.name);
        let began = Instant::now();
        let left = || grace.saturating_sub(began.elapsed());
        let regular = state.alive().filter(|made| !is_sidecar_of(made));
        let stops =
            regular.map(|made| self.stop_one(pod, &state, made, Stop { grace, hooks, message: None }));
        join_all(stops).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        // Sidecars serve the others to their end, and go in the reverse order of their start.
        for spec in sidecars {
            for made in state.of(&spec.name).filter(|made| state.alive().any(|alive| alive.id == made.id)) {
                self.stop_one(pod, &state, made, Stop { grace: left(), hooks, message: None }).await?;
            }
        }
        for sandbox in &state.sandboxes {
            ignore_not_found(self.agent.cri().stop_pod_sandbox(&sandbox.id).await)?;
        }
        Ok(())
    }

    /// Stops one container for a reason of its own; the pod lives on.
    pub(super) async fn kill_container(
        &mut self,
        pod: &Arc<Pod>,
        state: &PodState,
        kill: &Kill,
    ) -> Result<(), SyncError> {
        let Some(made) = state.containers.iter().find(|made| made.id == kill.id) else { return Ok(()) };
        let probe = find_spec(pod, &kill.name).and_then(|spec| match kill.why {
            KillReason::Probe(ProbeKind::Liveness) => spec.liveness_probe.as_ref(),
            KillReason::Probe(ProbeKind::Startup) => spec.startup_probe.as_ref(),
            KillReason::Probe(ProbeKind::Readiness) | KillReason::Replace => None,
        });
        let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
        let grace =
            own.map_or_else(|| self.grace(pod), |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
        let stop = Stop { grace, hooks: Hooks::Run, message: Some(&kill.message) };
        self.stop_one(pod, state, made, stop).await?;
        Ok(())
    }

    async fn stop_one(
        &self,
        pod: &Arc<Pod>,
        state: &PodState,
        made: &Container,
        stop: Stop<'_>,
    ) -> Result<(), CriError> {
        let text = stop.message.map_or_else(|| format!("Stopping container {}", made.name), str::to_owned);
        self.agent.events.container_event(pod, &made.name, "Normal", "Killing", text);
        let began = Instant::now();
        if stop.hooks == Hooks::Run && !stop.grace.is_zero() {
            self.pre_stop(pod, state, made, stop.grace).await;
        }
        let left = stop.grace.saturating_sub(began.elapsed()).max(MIN_GRACE.min(stop.grace));
        ignore_not_found(self.agent.cri().stop_container(&made.id, left).await)
    }

    /// Runs the hook, but no longer than the grace period.
    async fn pre_stop(&self, pod: &Arc<Pod>, state: &PodState, made: &Container, grace: Duration) {
        let Some(spec) = find_spec(pod, &made.name) else { return };
        let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let Some(action) = hook.and_then(Action::of_hook) else { return };
        let target = self.target(pod, state, spec, &made.id);
        let run = check::run(self.agent.cri(), &action, &target, grace);
        let failure = match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => return,
            Ok(Err(message)) => message,
            Err(_) => format!("not done within {} s", grace.as_secs()),
        };
        let text = format!("PreStopHook failed: {failure}");
        self.agent.events.container_event(pod, &made.name, "Warning", "FailedPreStopHook", text);
    }

    /// Stops what is left of earlier incarnations before a new sandbox is made.
    pub(super) async fn stop_left_overs(&self, state: &PodState) -> Result<(), CriError> {
        for made in state.alive() {
            ignore_not_found(self.agent.cri().stop_container(&made.id, MIN_GRACE).await)?;
        }
        for sandbox in &state.sandboxes {
            ignore_not_found(self.agent.cri().stop_pod_sandbox(&sandbox.id).await)?;
        }
        // The newest one stays on record so that attempts are counted; older ones are of no use.
        for sandbox in state.sandboxes.iter().skip(1) {
            let used = state.containers.iter().any(|made| made.sandbox_id == sandbox.id);
            if !used {
                ignore_not_found(self.agent.cri().remove_pod_sandbox(&sandbox.id).await)?;
            }
        }
        Ok(())
    }

    /// Gives back what the ended pod held on the host. Its records and logs stay.
    pub(super) async fn release(&mut self) {
        self.agent.objects.forget(&self.uid);
        self.agent.tokens.forget(&self.uid);
        let dir = self.agent.pod_dir(&self.uid);
        if let Err(error) = volumes::remove_pod_dir(&dir) {
            warn!(pod = %self.name(), dir = %dir.display(), %error, "pod directory not removed");
        }
        let pod = self.pod();
        self.agent.hierarchy.remove(&resources::cgroup_parent(resources::qos_class(&pod), &self.uid));
    }

    /// Removes containers, sandboxes and logs. What fails here is found again as an orphan at the next start.
    pub(super) async fn remove_records(&mut self) {
        let state = self.observe().await.unwrap_or_default();
        for sandbox in &state.sandboxes {
            // Removes its containers as well.
            if let Err(error) = self.agent.cri().remove_pod_sandbox(&sandbox.id).await {
                warn!(pod = %self.name(), sandbox = %sandbox.id, %error, "sandbox not removed");
            }
        }
        let logs = sandbox::log_dir(&self.pod(), &self.agent.config);
        if let Err(error) = std::fs::remove_dir_all(&logs) {
            debug!(dir = %logs.display(), %error, "log directory not removed");
        }
    }
}

/// Whether `preStop` hooks are run: once, not when a stop is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hooks {
    Run,
    Skip,
}

/// How to stop a container.
#[derive(Clone, Copy)]
struct Stop<'a> {
    grace: Duration,
    hooks: Hooks,
    message: Option<&'a str>,
}

fn ignore_not_found(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}
