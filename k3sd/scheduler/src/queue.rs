//! Pods waiting for a node (`pkg/scheduler/backend/queue`).
//!
//! ```text
//!   new ──▶ active ──▶ being decided ──▶ bound
//!             ▲          │ no node fits │ an error
//!             │ time up  ▼              ▼
//!          backoff ◀── unschedulable   error backoff ──▶ active
//! ```
//!
//! An unschedulable pod waits for an event that its rejecting plugins named, or five minutes. While nothing is active, pods
//! are taken from the backoff too (KEP-5142): waiting is for the others' sake. After an error the wait is kept.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::{BitOr, BitOrAssign},
    time::Duration,
};

use tokio::time::Instant;

use crate::views::Pod;

/// The wait of a pod that was tried and failed: twice as long each time, between these two.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// After this a pod is tried again though nothing that it waits for was seen.
const UNSCHEDULABLE_LIMIT: Duration = Duration::from_secs(300);

/// A set of things that happen in a cluster and may make a pod schedulable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events(u8);

impl Events {
    /// A node joined.
    pub(crate) const NODE_ADD: Self = Self(1);
    /// A node's labels changed.
    pub(crate) const NODE_LABELS: Self = Self(1 << 1);
    /// A node's taints changed, or it was cordoned or uncordoned.
    pub(crate) const NODE_SPEC: Self = Self(1 << 2);
    /// What a node has to give changed.
    pub(crate) const NODE_ALLOCATABLE: Self = Self(1 << 3);
    /// A pod that was on a node is gone, or uses nothing any more.
    pub(crate) const POD_GONE: Self = Self(1 << 4);
    fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A pod and its history here.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) pod: Pod,
    attempts: u32,
    added: Instant,
    tried: Option<Instant>,
    /// The last attempt ended with an error, not for want of a node.
    erred: bool,
    /// What it waits for while unschedulable.
    events: Events,
}

/// Highest priority first, then the longest waiting.
type ActiveKey = (Reverse<i32>, Instant, String);

#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Every waiting pod, by uid, except the one being decided.
    pods: HashMap<String, Waiting>,
    active: BTreeSet<ActiveKey>,
    backoff: BTreeSet<(Instant, String)>,
    error_backoff: BTreeSet<(Instant, String)>,
    unschedulable: BTreeMap<String, Instant>,
    /// What has happened since the pod that is being decided was taken.
    since_taken: Events,
}

impl Queue {
    /// Adds a new pod or notes that a waiting one changed. A change of what no plugin looks at (such as the condition that
    /// says it has no node) does not wake it.
    pub(crate) fn upsert(&mut self, pod: Pod) {
        let uid = pod.uid.clone();
        let now = Instant::now();
        if let Some(waiting) = self.pods.get_mut(&uid)
            && waiting.pod.asks_the_same(&pod)
        {
            waiting.pod = pod;
            return;
        }
        let waiting = match self.take_out(&uid) {
            Some(waiting) => Waiting { pod, ..waiting },
            None => {
                Waiting { pod, attempts: 0, added: now, tried: None, erred: false, events: Events::default() }
            }
        };
        self.requeue(waiting, now);
    }

    /// Forgets a pod.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.take_out(uid);
    }

    /// Takes the next pod that is ready.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.move_due(Instant::now());
        let first = self.active.pop_first().map(|(.., uid)| uid);
        let uid = first.or_else(|| self.backoff.pop_first().map(|(_, uid)| uid))?;
        let mut waiting = self.pods.remove(&uid)?;
        waiting.attempts += 1;
        waiting.erred = false;
        waiting.tried = Some(Instant::now());
        self.since_taken = Events::default();
        Some(waiting)
    }

    /// Puts a pod back that no node fits; it waits for `events`, unless one happened while it was being decided.
    pub(crate) fn rejected(&mut self, mut waiting: Waiting, events: Events) {
        waiting.events = events;
        if events.intersects(self.since_taken) {
            return self.requeue(waiting, Instant::now());
        }
        let uid = waiting.pod.uid.clone();
        self.unschedulable.insert(uid.clone(), Instant::now() + UNSCHEDULABLE_LIMIT);
        self.pods.insert(uid, waiting);
    }

    /// Puts a pod back whose attempt failed for another reason, such as a refused binding.
    pub(crate) fn failed(&mut self, mut waiting: Waiting) {
        waiting.erred = true;
        self.requeue(waiting, Instant::now());
    }

    /// Wakes the pods that wait for what happened.
    pub(crate) fn happened(&mut self, events: Events) {
        self.since_taken |= events;
        let woken: Vec<_> = self
            .unschedulable
            .keys()
            .filter(|uid| self.pods.get(*uid).is_some_and(|waiting| waiting.events.intersects(events)))
            .cloned()
            .collect();
        for uid in woken {
            if let Some(waiting) = self.take_out(&uid) {
                self.requeue(waiting, Instant::now());
            }
        }
    }

    /// When [`pop`](Self::pop) may next have a pod, if it has none now.
    fn next_due(&self) -> Option<Instant> {
        let backoff = self.error_backoff.first().map(|(at, _)| *at);
        let limit = self.unschedulable.values().min().copied();
        backoff.into_iter().chain(limit).min()
    }

    /// Waits until a pod is ready.
    pub(crate) async fn ready(&self) {
        if !self.active.is_empty() || !self.backoff.is_empty() {
            return;
        }
        match self.next_due() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Into the backoff queue if it was tried a moment ago, else into the active one.
    fn requeue(&mut self, waiting: Waiting, now: Instant) {
        let uid = waiting.pod.uid.clone();
        match waiting.ready_at().filter(|at| *at > now) {
            Some(at) if waiting.erred => self.error_backoff.insert((at, uid.clone())),
            Some(at) => self.backoff.insert((at, uid.clone())),
            None => self.active.insert(waiting.active_key()),
        };
        self.pods.insert(uid, waiting);
    }

    fn move_due(&mut self, now: Instant) {
        let mut due = Vec::new();
        for backoff in [&mut self.backoff, &mut self.error_backoff] {
            while backoff.first().is_some_and(|(at, _)| *at <= now) {
                due.extend(backoff.pop_first().map(|(_, uid)| uid));
            }
        }
        due.iter().for_each(|uid| self.activate(uid));
        let expired: Vec<_> =
            self.unschedulable.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in expired {
            self.unschedulable.remove(&uid);
            self.activate(&uid);
        }
    }

    fn activate(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.get(uid) {
            self.active.insert(waiting.active_key());
        }
    }

    fn take_out(&mut self, uid: &str) -> Option<Waiting> {
        let waiting = self.pods.remove(uid)?;
        self.active.remove(&waiting.active_key());
        self.unschedulable.remove(uid);
        if let Some(at) = waiting.ready_at() {
            let key = (at, uid.to_owned());
            self.backoff.remove(&key);
            self.error_backoff.remove(&key);
        }
        Some(waiting)
    }
}

impl Waiting {
    fn active_key(&self) -> ActiveKey {
        (Reverse(self.pod.priority), self.added, self.pod.uid.clone())
    }

    /// When the wait after the last attempt ends.
    fn ready_at(&self) -> Option<Instant> {
        let doublings = self.attempts.saturating_sub(1).min(16);
        Some(self.tried? + FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32) -> Pod {
        Pod { uid: uid.to_owned(), priority, ..Pod::default() }
    }

    fn uid(waiting: Option<Waiting>) -> Option<String> {
        waiting.map(|waiting| waiting.pod.uid)
    }

    #[tokio::test(start_paused = true)]
    async fn higher_priority_goes_first_then_the_longest_waiting() {
        let mut queue = Queue::default();
        for (name, priority) in [("old", 0), ("high", 5), ("young", 0)] {
            queue.upsert(pod(name, priority));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let order: Vec<_> = std::iter::from_fn(|| uid(queue.pop())).collect();
        assert_eq!(order, ["high", "old", "young"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_pod_waits_for_its_events_and_backs_off_behind_others() {
        let mut queue = Queue::default();
        queue.upsert(pod("a", 0));
        let waiting = queue.pop().unwrap();
        queue.rejected(waiting, Events::NODE_ADD);
        queue.happened(Events::POD_GONE);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(queue.pop().is_none(), "not what it waits for");
        queue.happened(Events::NODE_ADD);
        let waiting = queue.pop().expect("its backoff is long over");
        queue.rejected(waiting, Events::NODE_ADD);
        queue.happened(Events::NODE_ADD);
        queue.upsert(pod("new", 0));
        assert_eq!(uid(queue.pop()).as_deref(), Some("new"), "one that is backing off comes after");
        assert_eq!(uid(queue.pop()).as_deref(), Some("a"), "but does not wait for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_error_the_wait_doubles_and_is_kept() {
        let mut queue = Queue::default();
        queue.upsert(pod("a", 0));
        for seconds in [1, 2, 4, 8, 10, 10] {
            let waiting = queue.pop().unwrap();
            let before = Instant::now();
            queue.failed(waiting);
            assert!(queue.pop().is_none());
            queue.ready().await;
            assert_eq!(before.elapsed(), Duration::from_secs(seconds));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_decision_is_not_lost() {
        let mut queue = Queue::default();
        queue.upsert(pod("a", 0));
        let waiting = queue.pop().unwrap();
        queue.happened(Events::NODE_ADD);
        queue.rejected(waiting, Events::NODE_ADD);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(queue.pop().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_is_tried_again_after_five_minutes_and_a_removed_one_never() {
        let mut queue = Queue::default();
        for name in ["a", "b"] {
            queue.upsert(pod(name, 0));
            let waiting = queue.pop().unwrap();
            queue.rejected(waiting, Events::NODE_ADD);
        }
        queue.remove("b");
        tokio::time::timeout(Duration::from_secs(301), queue.ready()).await.unwrap();
        assert_eq!(uid(queue.pop()).as_deref(), Some("a"));
        assert!(queue.next_due().is_none());
    }
}
