//! A subscriber's view of a store: which keys changed since it last looked.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{ObjectKey, Stored, store::Store, stored::Entry};

/// Room for this many keys is kept when there are none. A first list needs room for every object, and never again.
const KEPT: usize = 64;

/// The changes of one informer's objects, in the order in which each key first changed.
///
/// Every key that is present at subscription comes first. Changes coalesce: however often an object changes before the
/// subscriber looks, its key comes once, so what is pending is bounded by the number of objects. A key is delivered for
/// its removal too; then [`crate::Informer::get`] gives `None`.
#[derive(Debug)]
pub struct Changes<K> {
    store: Arc<Store>,
    pending: Arc<Pending>,
    cancel: CancellationToken,
    kind: std::marker::PhantomData<fn() -> K>,
}

/// One object's change: what the subscriber last saw, and what there is now.
#[derive(Debug, Clone)]
pub struct Change<K> {
    /// Which object.
    pub key: ObjectKey,
    /// The state before the first change not yet seen; `None` if it was not there. If the uid differs from that of
    /// `new`, the object was deleted and made again in between.
    pub old: Option<Stored<K>>,
    /// The state now; `None` if it is gone.
    pub new: Option<Stored<K>>,
}

/// Keys a subscriber has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    state: Mutex<PendingState>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct PendingState {
    order: VecDeque<Arc<ObjectKey>>,
    old: HashMap<Arc<ObjectKey>, Option<Arc<Entry>>>,
}

// === impl Pending ===

impl Pending {
    /// Notes a change; of several, the oldest `old` counts.
    pub(crate) fn push(&self, key: &Arc<ObjectKey>, old: Option<Arc<Entry>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.old.contains_key(key) {
            state.old.insert(key.clone(), old);
            state.order.push_back(key.clone());
            self.notify.notify_one();
        }
    }

    fn pop(&self) -> Option<(Arc<ObjectKey>, Option<Arc<Entry>>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = state.order.pop_front()?;
        let old = state.old.remove(&key).flatten();
        if state.order.is_empty() && state.old.capacity() > KEPT {
            *state = PendingState::default();
        }
        Some((key, old))
    }
}

// === impl Changes ===

impl<K> Changes<K> {
    pub(crate) fn new(store: Arc<Store>, cancel: CancellationToken) -> Self {
        let pending = Arc::new(Pending::default());
        store.subscribe(&pending);
        Self { store, pending, cancel, kind: std::marker::PhantomData }
    }

    /// The next changed key; `None` once the informers are shut down. Safe to cancel: a key is taken only as it is
    /// returned.
    pub async fn next(&mut self) -> Option<ObjectKey> {
        self.pop().await.map(|(key, _)| (*key).clone())
    }

    /// The next change with the states before and after.
    pub async fn next_change(&mut self) -> Option<Change<K>> {
        let (key, old) = self.pop().await?;
        let new = self.store.get(&key).map(Stored::new);
        Some(Change { key: (*key).clone(), old: old.map(Stored::new), new })
    }

    async fn pop(&mut self) -> Option<(Arc<ObjectKey>, Option<Arc<Entry>>)> {
        loop {
            if self.cancel.is_cancelled() {
                return None;
            }
            if let Some(next) = self.pending.pop() {
                return Some(next);
            }
            tokio::select! {
                () = self.pending.notify.notified() => {}
                () = self.cancel.cancelled() => return None,
            }
        }
    }
}
