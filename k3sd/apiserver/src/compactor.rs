//! Forgets old history, as upstream's API server does: every five minutes, everything that was already old at the time before.

use std::sync::Arc;
use std::time::Duration;

use datastore::{Datastore, Error};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Upstream's `--etcd-compaction-interval`.
const INTERVAL: Duration = Duration::from_secs(300);

/// Compact until cancelled.
pub(crate) async fn run(datastore: Arc<dyn Datastore>, cancel: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = match datastore.revision().await {
            Ok(now) => now,
            Err(Error::Closed) => return,
            Err(error) => {
                warn!(%error, "failed to read the datastore's revision");
                continue;
            }
        };
        if let Some(to) = before.replace(now) {
            match datastore.compact(to).await {
                // Nothing has happened since, or another server was faster.
                Ok(()) | Err(Error::Compacted { .. }) => debug!(rv = to.0, "history compacted"),
                Err(error) => warn!(%error, "failed to compact the datastore's history"),
            }
        }
    }
}
