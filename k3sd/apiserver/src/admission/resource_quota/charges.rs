//! Charges that wait for the same quota, written together: a write waits for the disk, and the quota of a busy namespace is
//! charged by each of its creates (upstream's controller of the plugin works in such batches, too).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machinery::quota::Quota;
use machinery::resources::Amounts;
use machinery::status::Status;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::change;
use crate::server::Shared;

/// What is to be taken from a quota.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub amounts: Amounts,
    /// False for what is allocated already and cannot be refused any more.
    pub bounded: bool,
}

/// Why it was not taken.
#[derive(Debug, Clone)]
pub(super) enum Refused {
    /// There is not enough left, in the quota's words.
    Exceeded(String),
    /// The quota could not be written.
    Failed(Status),
}

/// The quotas that are being charged, by namespace and name.
#[derive(Default)]
pub(super) struct Charges(Mutex<HashMap<(String, String), Arc<Waiting>>>);

/// Who waits for one quota.
#[derive(Default)]
struct Waiting {
    /// Whoever has it writes for all that wait.
    turn: tokio::sync::Mutex<()>,
    /// In the order they came. Never locked while waiting for anything.
    wanted: Mutex<Vec<(Wanted, Answer)>>,
}

type Answer = oneshot::Sender<Result<(), Refused>>;

// === impl Charges ===

impl Charges {
    /// Takes from a quota, with all others that want to at the time.
    pub(super) async fn take(
        &self,
        shared: &Shared,
        namespace: &str,
        quota: &str,
        wanted: Wanted,
    ) -> Result<(), Refused> {
        let waiting = self.waiting(namespace, quota);
        loop {
            let (answer, mut answered) = oneshot::channel();
            waiting.wanted().push((wanted.clone(), answer));
            let _turn = waiting.turn.lock().await;
            match answered.try_recv() {
                Ok(result) => return result,
                // The request that had the turn was given up in the middle.
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => {}
            }
            let batch = std::mem::take(&mut *waiting.wanted());
            take_all(shared, namespace, quota, batch).await;
            if let Ok(result) = answered.try_recv() {
                return result;
            }
        }
    }

    /// The queue of a quota; those in which nobody waits are forgotten.
    fn waiting(&self, namespace: &str, quota: &str) -> Arc<Waiting> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, waiting| Arc::strong_count(waiting) > 1);
        all.entry((namespace.to_owned(), quota.to_owned())).or_default().clone()
    }
}

impl Waiting {
    fn wanted(&self) -> MutexGuard<'_, Vec<(Wanted, Answer)>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One write for a batch; each gets its own answer. Requests that were given up take nothing.
async fn take_all(shared: &Shared, namespace: &str, quota: &str, mut batch: Vec<(Wanted, Answer)>) {
    batch.retain(|(_, answer)| !answer.is_closed());
    let mut results = Vec::new();
    let written = change(shared, namespace, quota, |quota| {
        // Once more from the start, should the quota have changed before it was written.
        results = batch.iter().map(|(wanted, _)| take(quota, wanted)).collect();
        Ok(())
    });
    let written = written.await;
    if let Err(status) = written {
        results = vec![Err(Refused::Failed(status)); batch.len()];
    }
    for ((_, answer), result) in batch.into_iter().zip(results) {
        let _given_up = answer.send(result);
    }
}

fn take(quota: &mut Quota, wanted: &Wanted) -> Result<(), Refused> {
    if !wanted.bounded {
        quota.used.add(&wanted.amounts);
        return Ok(());
    }
    quota.charge(&wanted.amounts).map_err(Refused::Exceeded)
}
