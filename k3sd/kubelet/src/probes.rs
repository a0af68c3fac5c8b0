//! Probes: one task per container and kind, whose verdicts the worker reads as [`Health`].
//!
//! Startup goes first; liveness and readiness begin when it has succeeded. Thresholds, periods and first values
//! are upstream's (`pkg/kubelet/prober/worker.go`): alive until proven otherwise, not ready until proven.

pub(crate) mod check;
mod grpc;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Probe};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::cri::Cri;
use crate::events::Events;
use crate::probes::check::{Action, Target};
use crate::runtime::{Container, PodState, Poke, State};

/// The three purposes of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    fn of(self, spec: &Spec) -> Option<&Probe> {
        match self {
            Self::Startup => spec.startup_probe.as_ref(),
            Self::Liveness => spec.liveness_probe.as_ref(),
            Self::Readiness => spec.readiness_probe.as_ref(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// Latest verdicts, by container id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    verdicts: HashMap<(String, ProbeKind), bool>,
}

impl Health {
    /// The container has started, as far as its startup probe is concerned.
    pub(crate) fn started(&self, spec: &Spec, id: &str) -> bool {
        spec.startup_probe.is_none() || self.verdict(id, ProbeKind::Startup) == Some(true)
    }

    /// The container may get traffic.
    pub(crate) fn ready(&self, spec: &Spec, id: &str) -> bool {
        spec.readiness_probe.is_none() || self.verdict(id, ProbeKind::Readiness) == Some(true)
    }

    /// The probe has failed as often as it may.
    pub(crate) fn failed(&self, id: &str, kind: ProbeKind) -> bool {
        self.verdict(id, kind) == Some(false)
    }

    /// Notes a verdict; says whether it is news.
    pub(crate) fn set(&mut self, id: &str, kind: ProbeKind, good: bool) -> bool {
        self.verdicts.insert((id.to_owned(), kind), good) != Some(good)
    }

    fn verdict(&self, id: &str, kind: ProbeKind) -> Option<bool> {
        self.verdicts.get(&(id.to_owned(), kind)).copied()
    }
}

/// The probes of one pod.
pub(crate) struct Probes {
    cri: Cri,
    events: Events,
    poke: Poke,
    health: Arc<Mutex<Health>>,
    running: HashMap<(String, ProbeKind), AbortOnDropHandle<()>>,
}

impl Probes {
    pub(crate) fn new(cri: Cri, events: Events, poke: Poke) -> Self {
        Self { cri, events, poke, health: Arc::default(), running: HashMap::new() }
    }

    /// The verdicts as they are now.
    pub(crate) fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over verdicts from the pod's last written status, so that a restart of this daemon does not make
    /// a running container unready.
    pub(crate) fn adopt(&self, pod: &Pod) {
        let status = pod.status.clone().unwrap_or_default();
        let all = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten();
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        for container in all {
            let Some(id) = container.container_id.as_deref().and_then(|id| id.split_once("://")) else {
                continue;
            };
            if container.started == Some(true) {
                health.set(id.1, ProbeKind::Startup, true);
            }
            if container.ready {
                health.set(id.1, ProbeKind::Readiness, true);
            }
        }
    }

    /// Starts the probes that are due and ends those whose container is gone.
    pub(crate) fn sync(&mut self, pod: &Arc<Pod>, state: &PodState) {
        let mut wanted = HashSet::new();
        let spec = pod.spec.clone().unwrap_or_default();
        let ip = self.pod_ip(pod, state);
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let Some(made) = state.latest(&container.name).filter(|made| made.state == State::Running) else {
                continue;
            };
            let started = self.health().started(container, &made.id);
            for kind in ProbeKind::ALL {
                let due = (kind == ProbeKind::Startup) != started;
                let Some(probe) = kind.of(container).filter(|_| due) else { continue };
                let key = (made.id.clone(), kind);
                if !self.running.contains_key(&key) {
                    let task = self.start(pod, container, made, kind, probe, &ip);
                    self.running.insert(key.clone(), task);
                }
                wanted.insert(key);
            }
        }
        self.running.retain(|key, _| wanted.contains(key));
    }

    /// Ends every probe: the pod is being stopped.
    pub(crate) fn stop(&mut self) {
        self.running.clear();
    }

    fn pod_ip(&self, pod: &Pod, state: &PodState) -> String {
        let own = state.sandbox().and_then(|sandbox| sandbox.ips.first().cloned());
        own.or_else(|| pod.status.as_ref()?.host_ip.clone()).unwrap_or_else(|| "127.0.0.1".to_owned())
    }

    fn start(
        &self,
        pod: &Arc<Pod>,
        spec: &Spec,
        made: &Container,
        kind: ProbeKind,
        probe: &Probe,
        ip: &str,
    ) -> AbortOnDropHandle<()> {
        let task = ProbeTask {
            cri: self.cri.clone(),
            events: self.events.clone(),
            poke: self.poke.clone(),
            health: self.health.clone(),
            pod: pod.clone(),
            container: spec.name.clone(),
            target: Target::new(made.id.clone(), ip.to_owned(), spec),
            kind,
            probe: probe.clone(),
            started_at: made.started_at.unwrap_or_else(Timestamp::now),
        };
        AbortOnDropHandle::new(tokio::spawn(task.run()))
    }
}

struct ProbeTask {
    cri: Cri,
    events: Events,
    poke: Poke,
    health: Arc<Mutex<Health>>,
    pod: Arc<Pod>,
    container: String,
    target: Target,
    kind: ProbeKind,
    probe: Probe,
    started_at: Timestamp,
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.filter(|v| *v > 0).unwrap_or(default)).unwrap_or(0))
}

impl ProbeTask {
    async fn run(self) {
        let Some(action) = Action::of_probe(&self.probe) else { return };
        let limit = seconds(self.probe.timeout_seconds, 1);
        let mut streak = Streak::new(&self.probe);
        tokio::time::sleep(self.first_delay()).await;
        let mut ticks = tokio::time::interval(seconds(self.probe.period_seconds, 10));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = check::run(&self.cri, &action, &self.target, limit).await;
            if let Err(message) = &result {
                debug!(container = %self.container, kind = self.kind.name(), %message, "probe failed");
                let text = format!("{} probe failed: {message}", self.kind.name());
                self.events.container_event(&self.pod, &self.container, "Warning", "Unhealthy", text);
            }
            let Some(verdict) = streak.count(result.is_ok()) else { continue };
            if self.note(verdict)
                && self.kind != ProbeKind::Readiness
                && (self.kind == ProbeKind::Startup || !verdict)
            {
                // A startup probe has nothing more to say; a dead container is about to be replaced.
                return;
            }
        }
    }

    fn first_delay(&self) -> Duration {
        let delay =
            Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let age = Duration::try_from(Timestamp::now().duration_since(self.started_at)).unwrap_or_default();
        delay.saturating_sub(age)
    }

    fn note(&self, verdict: bool) -> bool {
        let id = &self.target.container_id;
        let news = self.health.lock().unwrap_or_else(PoisonError::into_inner).set(id, self.kind, verdict);
        if news {
            self.poke.poke();
        }
        news
    }
}

/// Counts equal results in a row against the thresholds.
struct Streak {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    length: i32,
}

impl Streak {
    fn new(probe: &Probe) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            last: None,
            length: 0,
        }
    }

    /// The verdict, once there are enough equal results.
    fn count(&mut self, good: bool) -> Option<bool> {
        self.length = if self.last == Some(good) { self.length + 1 } else { 1 };
        self.last = Some(good);
        let needed = if good { self.success_threshold } else { self.failure_threshold };
        (self.length >= needed).then_some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_as_many_results_in_a_row_as_its_threshold() {
        let probe = Probe { failure_threshold: Some(3), success_threshold: Some(2), ..Probe::default() };
        let mut streak = Streak::new(&probe);
        let results = [true, true, false, false, true, false, false, false];
        let verdicts: Vec<_> = results.iter().map(|good| streak.count(*good)).collect();
        assert_eq!(verdicts, [None, Some(true), None, None, None, None, None, Some(false)]);
    }

    #[test]
    fn a_container_without_probes_is_started_and_ready() {
        let health = Health::default();
        let mut spec = Spec::default();
        assert!(health.started(&spec, "x") && health.ready(&spec, "x"));
        spec.readiness_probe = Some(Probe::default());
        assert!(!health.ready(&spec, "x") && !health.failed("x", ProbeKind::Liveness));
    }
}
