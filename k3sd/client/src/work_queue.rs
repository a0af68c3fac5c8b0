//! Keys waiting to be reconciled, with client-go's promises (`util/workqueue`).
//!
//! - A key that is added again before it is taken is handed out once.
//! - A key that is added while it is being worked on is handed out again after [`WorkQueue::done`], never at the same
//!   time.
//! - Delayed and rate-limited adds join the queue when due; of several delays for one key the earliest counts.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::backoff::exponential;

/// The delays of [`WorkQueue::add_rate_limited`], client-go's default for controllers.
const FIRST_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);
/// Room for this many keys is kept when none is ready. The start of a controller needs room for every object, and never again.
const KEPT: usize = 64;

/// A queue of keys. A clone is the same queue.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    notify: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// To be worked on: in `ready`, or in `processing` and added again.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    waiting: BTreeSet<(Instant, T)>,
    due: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key to be worked on as soon as possible.
    pub fn add(&self, key: T) {
        self.lock().add(key);
        self.shared.notify.notify_one();
    }

    /// Adds a key once `delay` has passed.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().add_at(key, Instant::now() + delay);
        self.shared.notify.notify_one();
    }

    /// Adds a key after a delay that doubles with each call until [`forget`](Self::forget).
    pub fn add_rate_limited(&self, key: T) {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        let delay = exponential(FIRST_DELAY, MAX_DELAY, *failures);
        *failures = failures.saturating_add(1);
        state.add_at(key, Instant::now() + delay);
        drop(state);
        self.shared.notify.notify_one();
    }

    /// Starts the delays of a key from the beginning again; called when it succeeded.
    pub fn forget(&self, key: &T) {
        self.lock().failures.remove(key);
    }

    /// How often a key was added rate-limited since it was last forgotten.
    pub fn failures(&self, key: &T) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Takes the next key; it stays marked as being worked on until [`done`](Self::done). Safe to cancel: a key is taken
    /// only as it is returned.
    pub async fn get(&self) -> T {
        loop {
            let (key, due) = {
                let mut state = self.lock();
                state.move_due(Instant::now());
                (state.take(), state.waiting.first().map(|(at, _)| *at))
            };
            if let Some(key) = key {
                // One notification may stand for several keys: pass it on.
                self.shared.notify.notify_one();
                return key;
            }
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.shared.notify.notified()).await;
                }
                None => self.shared.notify.notified().await,
            }
        }
    }

    /// Ends the work on a key; if it was added meanwhile it is ready again.
    pub fn done(&self, key: &T) {
        self.lock().done(key);
        self.shared.notify.notify_one();
    }

    /// How many keys are ready to be taken.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no key is ready to be taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Eq + Hash + Ord> State<T> {
    fn add(&mut self, key: T) {
        if let Some(at) = self.due.remove(&key) {
            self.waiting.remove(&(at, key.clone()));
        }
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: T, at: Instant) {
        if let Some(earlier) = self.due.get(&key).copied() {
            if earlier <= at {
                return;
            }
            self.waiting.remove(&(earlier, key.clone()));
        }
        self.due.insert(key.clone(), at);
        self.waiting.insert((at, key));
    }

    fn move_due(&mut self, now: Instant) {
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.waiting.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &T) {
        self.processing.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
        if self.ready.is_empty() {
            self.shrink();
        }
    }

    /// The burst is over: gives back the room that it needed.
    fn shrink(&mut self) {
        self.ready.shrink_to(KEPT);
        self.dirty.shrink_to(KEPT);
        self.processing.shrink_to(KEPT);
        self.due.shrink_to(KEPT);
        self.failures.shrink_to(KEPT);
    }
}

impl<T> Default for WorkQueue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            waiting: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), notify: Notify::new() }) }
    }
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("WorkQueue")
            .field("ready", &state.ready.len())
            .field("processing", &state.processing.len())
            .field("waiting", &state.waiting.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_added_while_worked_on_is_handed_out_after_done_and_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, "a");
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.len(), 0, "still being worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, "a");
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_when_due_and_the_earliest_delay_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("b", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(7));
        assert_eq!(queue.get().await, "a");
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert_eq!(queue.get().await, "b");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"b");
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.get()).await.is_err(), "a came once");
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limited_delays_double_until_forgotten() {
        let queue = WorkQueue::new();
        for expected in [5, 10, 20] {
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.get().await;
            queue.done(&"a");
            assert_eq!(start.elapsed().as_millis(), expected);
        }
        assert_eq!(queue.failures(&"a"), 3);
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[tokio::test]
    async fn every_waiting_getter_is_woken() {
        let queue = WorkQueue::new();
        let getters: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        for key in 0..3 {
            queue.add(key);
        }
        let mut taken = Vec::new();
        for getter in getters {
            taken.push(getter.await.unwrap());
        }
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2]);
    }
}
