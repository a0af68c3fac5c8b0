//! Runs the reconciliations of a queue's keys.

use std::{fmt, hash::Hash, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, warn};

use crate::WorkQueue;

/// Failures of one key that are ordinary (a conflict, a cache a moment behind) before they are worth a warning.
const QUIET_FAILURES: u32 = 2;

/// Takes keys from `queue` until `cancel`, and runs `reconcile` for up to `workers` of them at a time.
///
/// An `Ok(Some(delay))` brings the key back after the delay, `Ok(None)` when it is next added, and an error after the
/// key's backoff. Returns when every run under way has ended; those are not interrupted.
pub async fn run_workers<T, F, Fut, E>(
    name: &'static str,
    queue: WorkQueue<T>,
    workers: usize,
    cancel: CancellationToken,
    reconcile: F,
) where
    T: Clone + Eq + Hash + Ord + fmt::Display + Send + Sync + 'static,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<Option<Duration>, E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        let key = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(_) = running.join_next(), if !running.is_empty() => continue,
            key = queue.get(), if running.len() < workers => key,
        };
        let span = debug_span!("reconcile", controller = name, key = %key);
        let work = reconcile(key.clone());
        let queue = queue.clone();
        running.spawn(
            async move {
                finish(&queue, &key, work.await);
                queue.done(&key);
            }
            .instrument(span),
        );
    }
    while running.join_next().await.is_some() {}
}

fn finish<T, E>(queue: &WorkQueue<T>, key: &T, outcome: Result<Option<Duration>, E>)
where
    T: Clone + Eq + Hash + Ord,
    E: fmt::Display,
{
    match outcome {
        Ok(None) => queue.forget(key),
        Ok(Some(delay)) => {
            queue.forget(key);
            queue.add_after(key.clone(), delay);
        }
        Err(error) => {
            let failures = queue.failures(key);
            if failures < QUIET_FAILURES {
                debug!(error = %format_args!("{error:#}"), "reconcile failed, will retry");
            } else {
                warn!(error = %format_args!("{error:#}"), failures, "reconcile keeps failing");
            }
            queue.add_rate_limited(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_one_key_never_runs_twice_at_once() {
        let queue = WorkQueue::new();
        let cancel = CancellationToken::new();
        let runs = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        queue.add("a");
        let workers = run_workers("test", queue.clone(), 4, cancel.clone(), {
            let (runs, cancel, queue) = (runs.clone(), cancel.clone(), queue.clone());
            move |key| {
                let (runs, cancel, queue) = (runs.clone(), cancel.clone(), queue.clone());
                async move {
                    queue.add(key); // must wait for this run to end
                    let begin = start.elapsed().as_millis();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    runs.lock().unwrap().push((begin, start.elapsed().as_millis()));
                    if runs.lock().unwrap().len() == 3 {
                        cancel.cancel();
                    }
                    Err::<Option<Duration>, _>("no")
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(10), workers).await.unwrap();
        assert_eq!(*runs.lock().unwrap(), [(0, 100), (100, 200), (200, 300)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_requeue_comes_back_after_its_delay() {
        let queue = WorkQueue::new();
        let cancel = CancellationToken::new();
        let start = Instant::now();
        queue.add(1);
        let stop = cancel.clone();
        run_workers("test", queue, 1, cancel, move |_| {
            if start.elapsed() >= Duration::from_secs(7) {
                stop.cancel();
            }
            async { Ok::<_, String>(Some(Duration::from_secs(7))) }
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
