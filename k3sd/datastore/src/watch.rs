//! The receiving end of a watch, and the hub that feeds all of them.
//!
//! The hub is the one place where durable events meet watchers. Its lock is held only to hand out `Arc`s.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::{Event, Revision};

/// Batches a watcher may lag behind before it is closed. One batch is one commit (up to some hundred events), so a
/// watcher at this limit is seconds behind and does better to list again.
const BATCHES_IN_FLIGHT: usize = 1024;

/// An open watch: see [`Datastore::watch`](crate::Datastore::watch). Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    /// The last revision delivered: what comes twice, from the backlog and live, is dropped.
    delivered: Revision,
    backlog: VecDeque<Arc<[Event]>>,
    live: mpsc::Receiver<Arc<[Event]>>,
}

impl Watch {
    /// A watch that yields `backlog` first and then what arrives on `live`, of both only what is newer than `from`.
    pub fn new(from: Revision, backlog: VecDeque<Arc<[Event]>>, live: mpsc::Receiver<Arc<[Event]>>) -> Self {
        Self { delivered: from, backlog, live }
    }

    /// The next events, never an empty batch. None: the watch was closed, because it lagged or the store closed; list
    /// again and watch from there. Cancel safe.
    pub async fn recv(&mut self) -> Option<Arc<[Event]>> {
        loop {
            let batch = match self.backlog.pop_front() {
                Some(batch) => batch,
                None => self.live.recv().await?,
            };
            if let Some(fresh) = self.fresh(batch) {
                return Some(fresh);
            }
        }
    }

    /// The part of a batch that was not delivered yet: nearly always all of it, as it is.
    fn fresh(&mut self, batch: Arc<[Event]>) -> Option<Arc<[Event]>> {
        let start = batch.partition_point(|event| event.kv.mod_revision <= self.delivered);
        self.delivered = self.delivered.max(batch.last()?.kv.mod_revision);
        match batch.get(start..) {
            None | Some([]) => None,
            Some(_) if start == 0 => Some(batch),
            Some(rest) => Some(rest.into()),
        }
    }
}

/// Hands every committed batch to every watcher.
#[derive(Debug)]
pub(crate) struct Hub(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The newest revision handed out (or present when the store was opened).
    published: Revision,
    watchers: Vec<mpsc::Sender<Arc<[Event]>>>,
    closed: bool,
}

impl Hub {
    pub(crate) fn new(published: Revision) -> Self {
        Self(Mutex::new(State { published, watchers: Vec::new(), closed: false }))
    }

    /// A channel that carries every event after the returned revision. None after [`Hub::close`].
    pub(crate) fn subscribe(&self) -> Option<(Revision, mpsc::Receiver<Arc<[Event]>>)> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let (sender, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
        state.watchers.push(sender);
        Some((state.published, receiver))
    }

    /// Hands out one commit's events. A watcher whose channel is full is dropped, which closes its watch.
    pub(crate) fn publish(&self, revision: Revision, events: Vec<Event>) {
        let mut state = self.lock();
        state.published = revision;
        if events.is_empty() {
            return;
        }
        let batch: Arc<[Event]> = events.into();
        state.watchers.retain(|watcher| watcher.try_send(batch.clone()).is_ok());
    }

    /// The newest revision that is durable and handed out.
    pub(crate) fn published(&self) -> Revision {
        self.lock().published
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.watchers.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
