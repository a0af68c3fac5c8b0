//! The components that run: started by name, ended together, and the first to end by itself ends the daemon.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error_span, info, warn};

/// How long components may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Running components.
#[derive(Debug)]
pub(crate) struct Tasks {
    /// What they are together, for messages.
    what: &'static str,
    cancel: CancellationToken,
    set: JoinSet<anyhow::Result<()>>,
}

impl Tasks {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, cancel: CancellationToken::new(), set: JoinSet::new() }
    }

    /// What tells the components to end.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Starts a component. One that ends before it is told to is a failure.
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        run: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let cancel = self.cancel.clone();
        let task = async move {
            run.await.with_context(|| format!("{name} failed"))?;
            anyhow::ensure!(cancel.is_cancelled(), "{name} ended");
            Ok(())
        };
        self.set.spawn(task.instrument(error_span!("component", name)));
    }

    /// Why the first component ended by itself. Waits for ever while all run, and when there are none.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        match self.set.join_next().await {
            None => std::future::pending().await,
            Some(Ok(Ok(()))) => anyhow::anyhow!("a component ended"),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a component panicked"),
        }
    }

    /// Tells all to end and waits for it, for a while; what does not is cut off.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        let all = async {
            while let Some(ended) = self.set.join_next().await {
                if let Ok(Err(error)) = ended {
                    warn!(error = format!("{error:#}"), "failed while stopping");
                }
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            warn!(what = self.what, left = self.set.len(), "did not end in time and is cut off");
            self.set.shutdown().await;
        }
    }
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal = name, "stopping");
    Ok(())
}
