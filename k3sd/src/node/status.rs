//! The node's state in one line, for the service manager and through it for the machine's console.

use kubelet::NodeReport;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::notify::Notifier;

/// When the service manager is told that the service is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It has been told: the API answers.
    Announced,
    /// Once the node is registered: it has joined.
    WhenRegistered,
}

/// Tells the service manager whenever the kubelet reports something new.
pub(super) async fn follow(
    node: &str,
    mut reports: watch::Receiver<NodeReport>,
    notifier: &Notifier,
    mut readiness: Readiness,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut was_ready = false;
    loop {
        let report = reports.borrow_and_update().clone();
        notifier.status(&describe(node, &report));
        if report.registered && readiness == Readiness::WhenRegistered {
            notifier.ready();
            readiness = Readiness::Announced;
        }
        if report.ready != was_ready {
            info!(node, ready = report.ready, reason = report.reason, "node state changed");
            was_ready = report.ready;
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = reports.changed() => if changed.is_err() {
                // The kubelet is gone; whoever awaits it says why.
                cancel.cancelled().await;
                return Ok(());
            },
        }
    }
}

/// Such as `node edge-1 Ready, 2 of 3 pods running` or `node edge-1 NotReady (container runtime is down), no pods`.
fn describe(node: &str, report: &NodeReport) -> String {
    let state = match report {
        NodeReport { registered: false, .. } => "is not registered yet".to_owned(),
        NodeReport { ready: true, .. } => "Ready".to_owned(),
        NodeReport { reason, .. } if reason.is_empty() => "NotReady".to_owned(),
        NodeReport { reason, .. } => format!("NotReady ({reason})"),
    };
    let pods = match (report.running_pods, report.pods) {
        (_, 0) => "no pods".to_owned(),
        (1, 1) => "1 pod running".to_owned(),
        (running, pods) if running == pods => format!("{pods} pods running"),
        (running, pods) => format!("{running} of {pods} pods running"),
    };
    format!("node {node} {state}, {pods}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_state_reason_and_pods() {
        let ready =
            NodeReport { registered: true, ready: true, pods: 3, running_pods: 2, ..NodeReport::default() };
        let waiting = NodeReport { registered: true, reason: "no network".into(), ..NodeReport::default() };
        for (report, line) in [
            (&NodeReport::default(), "node a is not registered yet, no pods"),
            (&waiting, "node a NotReady (no network), no pods"),
            (&ready, "node a Ready, 2 of 3 pods running"),
            (&NodeReport { running_pods: 3, ..ready.clone() }, "node a Ready, 3 pods running"),
        ] {
            assert_eq!(describe("a", report), line);
        }
    }
}
