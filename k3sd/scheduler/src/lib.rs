//! Decides which node each pod runs on.
//!
//! Reads: pods, nodes. Owns: the binding of pods to nodes, and the pods' `PodScheduled` condition while there is none.
//!
//! One task holds all state ([`Cache`](cache::Cache), [`Queue`](queue::Queue)), so decisions need no locks; only the
//! requests that carry them out run beside it. The shape is upstream's scheduling framework: a queue with backoff, and
//! [plugins](plugins) at fixed [points](framework).
//!
//! Not here yet: preemption, inter-pod affinity, topology spread, volumes and device claims.

mod bind;
mod cache;
mod framework;
mod plugins;
mod queue;
mod resources;
mod scheduler;
mod views;

use client::{Informers, Recorder};
use tokio_util::sync::CancellationToken;

/// The scheduler's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `spec.schedulerName` of the pods it serves.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Schedules pods until `cancel`.
///
/// # Errors
/// None at present; the signature is every component's.
pub async fn run(
    config: Config,
    client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let recorder = Recorder::new(client.clone(), &config.scheduler_name, "", cancel.clone());
    scheduler::Scheduler::new(config, client, &informers, recorder.clone(), cancel).run().await;
    recorder.stopped().await;
    Ok(())
}
