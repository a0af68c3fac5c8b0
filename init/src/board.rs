//! What the machine knows about itself: one value that tasks write and that readiness conditions, the status block and the
//! `skerry: ready` line are derived from. One writer at a time, any number of watchers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Role;
use crate::console::say;
use crate::figures::Figures;

/// The shared state; clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<watch::Sender<Facts>>);

/// Everything that can be told about the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    /// The configured role, if it is usable.
    pub(crate) role: Option<Role>,
    /// The host's name.
    pub(crate) hostname: String,
    /// Where STATE is, once it is somewhere.
    pub(crate) state: Option<String>,
    /// `interface address/prefix`, once there is one.
    pub(crate) address: Option<String>,
    /// Whether the devices that are there have had their drivers loaded.
    pub(crate) drivers_loaded: bool,
    /// Whether the wanted kernel modules have been dealt with, too.
    pub(crate) modules_loaded: bool,
    /// Every service of the role.
    pub(crate) services: BTreeMap<&'static str, Service>,
    /// What needs a person, by topic.
    pub(crate) problems: BTreeMap<String, String>,
    /// Why no service is started, if none is.
    pub(crate) maintenance: Vec<String>,
    /// Seconds since the kernel started at which things had happened, in order.
    pub(crate) marks: Vec<(&'static str, Duration)>,
    /// What PID 1 costs, once it has been measured.
    pub(crate) figures: Option<Figures>,
    /// Whether the node has been Ready with all services ready at least once.
    pub(crate) announced: bool,
}

/// One service's life.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Service {
    /// Where it is in its life.
    pub(crate) phase: Phase,
    /// What it says about itself (`STATUS=`).
    pub(crate) status: Option<String>,
    /// How often it has ended without being asked to.
    pub(crate) failures: u32,
}

/// Where a service is in its life.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Phase {
    /// What it needs is not there yet.
    #[default]
    Waiting,
    /// Running, not ready.
    Starting,
    /// Ready, after this time.
    Ready(Duration),
    /// Ready, and reading its configuration again.
    Reloading,
    /// Ended by itself; it will be started again.
    Failed {
        /// How it ended.
        reason: String,
        /// When it will be started again, as time since the kernel started.
        retry_at: Duration,
    },
    /// Asked to end.
    Stopping,
    /// Ended as asked.
    Stopped,
}

/// What a service may need before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// STATE is mounted.
    State,
    /// The interface has an address.
    Network,
    /// The wanted kernel modules are loaded.
    Modules,
    /// Another service has been started, ready or not.
    Started(&'static str),
    /// Another service is ready.
    Service(&'static str),
}

impl Facts {
    /// Whether `condition` holds.
    pub(crate) fn holds(&self, condition: Condition) -> bool {
        match condition {
            Condition::State => self.state.is_some(),
            Condition::Network => self.address.is_some(),
            Condition::Modules => self.modules_loaded,
            Condition::Started(name) => self.services.get(name).is_some_and(|service| {
                matches!(service.phase, Phase::Starting | Phase::Ready(_) | Phase::Reloading)
            }),
            Condition::Service(name) => self.is_ready(name),
        }
    }

    /// Whether every service is ready and the node, by k3sd's account, is Ready.
    pub(crate) fn all_ready(&self) -> bool {
        !self.services.is_empty() && self.services.keys().all(|name| self.is_ready(name)) && self.node_ready()
    }

    /// Whether a service said that the node is Ready: `node NAME Ready, ...`.
    pub(crate) fn node_ready(&self) -> bool {
        self.services.values().filter_map(|service| service.status.as_deref()).any(says_node_ready)
    }

    fn is_ready(&self, name: &str) -> bool {
        self.services.get(name).is_some_and(|service| matches!(service.phase, Phase::Ready(_)))
    }
}

/// Reads a `STATUS=` text such as `node skerry Ready, 1 pod running`.
fn says_node_ready(status: &str) -> bool {
    let mut words = status.split([' ', ',']).filter(|word| !word.is_empty());
    words.next() == Some("node") && words.next().is_some() && words.next() == Some("Ready")
}

impl Board {
    /// A board with these facts on it.
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(watch::Sender::new(facts)))
    }

    /// Changes the facts; watchers wake only if something did change.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Facts)) {
        self.0.send_if_modified(|facts| {
            let before = facts.clone();
            change(facts);
            announce(&before, facts);
            before != *facts
        });
    }

    /// Changes one service's entry.
    pub(crate) fn update_service(&self, name: &'static str, change: impl FnOnce(&mut Service)) {
        self.update(|facts| change(facts.services.entry(name).or_default()));
    }

    /// Raises (with a text) or clears (without) the problem of a topic, and says so when it is new.
    pub(crate) fn problem(&self, topic: &str, text: Option<String>) {
        self.update(|facts| match text {
            Some(text) => {
                facts.problems.insert(topic.to_owned(), text);
            }
            None => {
                facts.problems.remove(topic);
            }
        });
    }

    /// Records that something has happened now; the first time counts.
    pub(crate) fn mark(&self, what: &'static str) {
        let now = since_kernel_start();
        self.update(|facts| {
            if !facts.marks.iter().any(|(name, _)| *name == what) {
                facts.marks.push((what, now));
            }
        });
    }

    /// A receiver of every later change.
    pub(crate) fn watch(&self) -> watch::Receiver<Facts> {
        self.0.subscribe()
    }

    /// A look at the facts now.
    #[cfg(test)]
    fn facts(&self) -> watch::Ref<'_, Facts> {
        self.0.borrow()
    }
}

/// Turns a failure into a problem of the topic `what`.
pub(crate) fn note<T>(board: &Board, what: &str, result: anyhow::Result<T>) -> Option<T> {
    result.map_err(|error| board.problem(what, Some(format!("{what}: {error:#}")))).ok()
}

/// Time since the kernel started, including time asleep.
pub(crate) fn since_kernel_start() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Writes the `skerry:` lines that follow from a change. This is the one place they are derived, so the format is stable:
/// `service NAME starting|ready 1.9s|reloading|failed: why; starting it again in 1.0s|stopping|stopped`, `status NAME text`, `problem: text`, `node Ready`,
/// `node NotReady`, and once `ready`. (`init uses ...` comes from [`crate::figures`].)
fn announce(before: &Facts, now: &mut Facts) {
    for (topic, text) in &now.problems {
        if before.problems.get(topic) != Some(text) {
            say!("problem: {text}");
        }
    }
    for (name, service) in &now.services {
        let old = before.services.get(name);
        if old.map(|old| &old.phase) != Some(&service.phase) {
            announce_phase(name, &service.phase);
        }
        if let Some(status) = &service.status
            && old.and_then(|old| old.status.as_ref()) != Some(status)
        {
            say!("status {name} {status}");
        }
    }
    if before.node_ready() != now.node_ready() {
        say!("node {}", if now.node_ready() { "Ready" } else { "NotReady" });
        mark_first(now, "node Ready");
    }
    if !now.announced && now.all_ready() {
        now.announced = true;
        say!("ready");
    }
}

fn mark_first(facts: &mut Facts, what: &'static str) {
    if !facts.marks.iter().any(|(name, _)| *name == what) {
        facts.marks.push((what, since_kernel_start()));
    }
}

fn announce_phase(name: &str, phase: &Phase) {
    match phase {
        Phase::Waiting => {}
        Phase::Starting => say!("service {name} starting"),
        Phase::Ready(took) => say!("service {name} ready {:.1}s", took.as_secs_f64()),
        Phase::Reloading => say!("service {name} reloading"),
        Phase::Failed { reason, retry_at } => {
            let retry_in = retry_at.saturating_sub(since_kernel_start()).as_secs_f64();
            say!("service {name} failed: {reason}; starting it again in {retry_in:.1}s");
        }
        Phase::Stopping => say!("service {name} stopping"),
        Phase::Stopped => say!("service {name} stopped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(containerd: Phase, status: &str) -> Facts {
        let k3sd =
            Service { phase: Phase::Ready(Duration::ZERO), status: Some(status.to_owned()), failures: 0 };
        let containerd = Service { phase: containerd, ..Service::default() };
        Facts { services: BTreeMap::from([("containerd", containerd), ("k3sd", k3sd)]), ..Facts::default() }
    }

    #[test]
    fn the_node_is_ready_only_when_the_status_says_exactly_that() {
        assert!(says_node_ready("node skerry Ready, 1 pod running"));
        assert!(says_node_ready("node skerry Ready"));
        assert!(!says_node_ready("node skerry NotReady"));
        assert!(!says_node_ready("node Ready"));
        assert!(!says_node_ready("waiting for node skerry Ready"));
    }

    #[test]
    fn ready_takes_every_service_and_the_node_and_is_announced_once() {
        let ready = Phase::Ready(Duration::from_secs(1));
        assert!(!facts(Phase::Starting, "node a Ready").all_ready());
        assert!(!facts(ready.clone(), "node a NotReady").all_ready());
        let board = Board::new(facts(Phase::Starting, "node a Ready"));
        board.update_service("containerd", |service| service.phase = ready.clone());
        assert!(board.facts().announced);
        board.update_service("containerd", |service| service.phase = Phase::Starting);
        assert!(board.facts().announced && !board.facts().all_ready());
    }
}
