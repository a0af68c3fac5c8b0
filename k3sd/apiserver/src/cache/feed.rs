//! Fills the caches at start and keeps them complete: the one reader of the datastore's watch.

use std::sync::Arc;
use std::time::Duration;

use datastore::{Datastore, Event, EventKind, Revision};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Cache;
use crate::allocator::Allocators;
use crate::registry::Registry;

/// How long a read waits for a revision that the caches have not reached.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);
const ROOT: &str = "/registry/";
/// Objects read at a time when the caches are filled: what is read and what is kept of it are in memory together, and the allocator
/// keeps what it once had for each of the threads that read.
const PAGE: usize = 128;

/// A cache to add while the feed runs, and where to say that it is filled.
type Addition = (Arc<Cache>, oneshot::Sender<Result<(), datastore::Error>>);

/// Handle on the feed.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    progress: watch::Receiver<i64>,
    additions: mpsc::Sender<Addition>,
}

/// The caches did not reach a revision in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NotFresh {
    pub wanted: i64,
    pub current: i64,
}

impl Feed {
    /// The revision up to which every cache is complete.
    pub(crate) fn revision(&self) -> i64 {
        *self.progress.borrow()
    }

    /// Wait until the caches show `revision`.
    pub(crate) async fn wait(&self, revision: i64) -> Result<(), NotFresh> {
        if self.revision() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|current| *current >= revision);
        match tokio::time::timeout(FRESH_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotFresh { wanted: revision, current: self.revision() }),
        }
    }

    /// Fill a cache that the registry has just got, in step with the stream of events.
    pub(crate) async fn fill(&self, cache: Arc<Cache>) -> Result<(), datastore::Error> {
        let (done, filled) = oneshot::channel();
        self.additions.send((cache, done)).await.map_err(|_| datastore::Error::Closed)?;
        filled.await.map_err(|_| datastore::Error::Closed)?
    }
}

/// The task behind a [`Feed`].
pub(crate) struct Feeder {
    datastore: Arc<dyn Datastore>,
    registry: Arc<Registry>,
    allocators: Arc<Allocators>,
    watch: datastore::Watch,
    progress: watch::Sender<i64>,
    additions: mpsc::Receiver<Addition>,
}

/// Fill every cache of the registry, and the allocators, from one consistent list and open the watch behind it.
pub(crate) async fn start(
    datastore: Arc<dyn Datastore>,
    registry: Arc<Registry>,
    allocators: Arc<Allocators>,
) -> Result<(Feed, Feeder), datastore::Error> {
    let mut page = datastore.list(ROOT, None, PAGE, None).await?;
    let revision = page.revision;
    let watch = datastore.watch(revision).await?;
    registry.rewind(revision.0);
    loop {
        // The next page is read while this one is taken in.
        let after = page.items.last().filter(|_| page.more).map(|item| item.key.clone());
        let next = after.map(|after| {
            let datastore = datastore.clone();
            tokio::spawn(async move { datastore.list(ROOT, Some(&after), PAGE, Some(revision)).await })
        });
        for item in page.items {
            if let Some((cache, _, key)) = registry.cache_of(&item.key) {
                cache.fill(key, &item.value, item.mod_revision.0);
            }
        }
        match next {
            Some(next) => page = next.await.map_err(|_cancelled| datastore::Error::Closed)??,
            None => break,
        }
    }
    allocators.adopt(&registry);
    let (progress, seen) = watch::channel(revision.0);
    // Sixteen registrations may wait; the next waits to be queued.
    let (sender, additions) = mpsc::channel(16);
    let feed = Feed { progress: seen, additions: sender };
    Ok((feed, Feeder { datastore, registry, allocators, watch, progress, additions }))
}

impl Feeder {
    /// Apply events until cancelled. An error means that events were lost: the caches are stale from then on.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> Result<(), datastore::Error> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                batch = self.watch.recv() => match batch {
                    Some(batch) => self.apply(&batch),
                    None => self.reopen().await?,
                },
                Some((cache, done)) = self.additions.recv() => {
                    let filled = self.fill(&cache).await;
                    // A caller that went away does not need the answer.
                    let _gone = done.send(filled);
                }
            }
        }
    }

    fn apply(&self, batch: &[Event]) {
        for event in batch {
            let Some((cache, strategy, key)) = self.registry.cache_of(&event.kv.key) else { continue };
            let deleted = event.kind == EventKind::Delete;
            // Whoever sees that an object is gone can have what it used.
            if deleted {
                strategy.after_delete(&self.allocators, &event.kv.value);
            }
            cache.apply(key, &event.kv.value, event.kv.mod_revision.0, deleted);
            strategy.after_write(&self.allocators, key);
        }
        if let Some(last) = batch.last() {
            self.progress.send_replace(last.kv.mod_revision.0);
        }
    }

    /// The watch lagged and was closed: go on from where it was.
    async fn reopen(&mut self) -> Result<(), datastore::Error> {
        let from = Revision(*self.progress.borrow());
        self.watch = self.datastore.watch(from).await?;
        warn!(rv = from.0, "datastore watch reopened");
        Ok(())
    }

    async fn fill(&self, cache: &Cache) -> Result<(), datastore::Error> {
        let at = Revision(*self.progress.borrow());
        let page = self.datastore.list(cache.prefix(), None, 0, Some(at)).await?;
        for item in &page.items {
            if let Some(key) = item.key.strip_prefix(cache.prefix()) {
                cache.fill(key, &item.value, item.mod_revision.0);
            }
        }
        Ok(())
    }
}
