//! The status block: what the machine is and how it is doing, on the console whenever that has changed and settled.
//!
//! Plain lines without cursor movement, so that it reads the same on a screen, on a serial line and in a log.

use std::fmt::Write;
use std::time::Duration;

use crate::board::{Board, Facts, Phase, since_kernel_start};
use crate::console;

/// Changes come in bursts; the block is shown when there was none for this long.
const SETTLE: Duration = Duration::from_millis(400);
/// Blocks are at least this far apart, whatever happens.
const APART: Duration = Duration::from_secs(5);
/// Whose status tells about the cluster rather than about itself.
const KUBERNETES: &str = "k3sd";
const RULE: &str = "------------------------------------------------------------------------";

/// Shows the block after every change that matters, for ever. Owned by the main task.
pub(crate) async fn run(board: Board) {
    let mut facts = board.watch();
    let mut shown = None;
    loop {
        while let Ok(Ok(())) = tokio::time::timeout(SETTLE, facts.changed()).await {}
        let now = facts.borrow_and_update().clone();
        if is_settled(&now) {
            let news = essence(&now);
            if shown.as_ref() != Some(&news) {
                console::write(&render(&now, since_kernel_start()));
                shown = Some(news);
                tokio::time::sleep(APART).await;
            }
        }
        if facts.changed().await.is_err() {
            return;
        }
    }
}

/// What a new block is worth showing for. Counts and status texts change all the time and have lines of their own; that the node has
/// become Ready, or no longer is, is told apart from the rest of its status.
fn essence(facts: &Facts) -> (bool, Facts) {
    let node_ready = facts.node_ready();
    let mut facts = facts.clone();
    for service in facts.services.values_mut() {
        // A service that goes on failing is shown every time, with its count; what has failed once and runs is not.
        match &mut service.phase {
            Phase::Failed { retry_at, .. } => *retry_at = Duration::ZERO,
            _ => service.failures = service.failures.min(1),
        }
        service.status = None;
    }
    (node_ready, facts)
}

/// Before the machine has a name, and while services start, there is news every second; the lines tell it. The block waits
/// for the outcome, or for something that needs a person.
fn is_settled(facts: &Facts) -> bool {
    let moving = |phase: &Phase| matches!(phase, Phase::Starting | Phase::Stopping | Phase::Stopped);
    let named = !facts.hostname.is_empty() || !facts.problems.is_empty();
    named && !facts.services.values().any(|service| moving(&service.phase))
}

/// The block as text.
pub(crate) fn render(facts: &Facts, now: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {value}");
    };
    let role = facts.role.map_or("none".to_owned(), |role| role.to_string());
    line("host", &format!("{} (role {role})", facts.hostname));
    line("address", facts.address.as_deref().unwrap_or("none yet"));
    line("state", facts.state.as_deref().unwrap_or("none yet"));
    for (name, service) in &facts.services {
        let own = service.status.as_deref().filter(|_| *name != KUBERNETES);
        let status = own.map(|status| format!(": {status}")).unwrap_or_default();
        let failures = match service.failures {
            0 => String::new(),
            1 => ", failed once".to_owned(),
            count => format!(", failed {count} times"),
        };
        line(name, &format!("{}{failures}{status}", phase(&service.phase, now)));
    }
    if let Some(k3sd) = facts.services.get(KUBERNETES) {
        line("kubernetes", k3sd.status.as_deref().unwrap_or("not there yet"));
    }
    if let Some(figures) = facts.figures {
        line("init", &figures.to_string());
    }
    for reason in &facts.maintenance {
        line("maintenance", reason);
    }
    for problem in facts.problems.values() {
        line("problem", problem);
    }
    if facts.announced {
        let marks: Vec<_> =
            facts.marks.iter().map(|(what, when)| format!("{what} {:.1}s", when.as_secs_f64())).collect();
        line("since start", &marks.join(", "));
    }
    format!("{RULE}\n  Skerry {}, Linux {}\n{text}{RULE}\n", env!("CARGO_PKG_VERSION"), kernel())
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn phase(phase: &Phase, now: Duration) -> String {
    match phase {
        Phase::Waiting => "waiting for what it needs".to_owned(),
        Phase::Starting => "starting".to_owned(),
        Phase::Ready(took) => format!("ready after {:.1}s", took.as_secs_f64()),
        Phase::Reloading => "reloading".to_owned(),
        Phase::Failed { reason, retry_at } => {
            format!("failed ({reason}), next try in {:.0}s", retry_at.saturating_sub(now).as_secs_f64())
        }
        Phase::Stopping => "stopping".to_owned(),
        Phase::Stopped => "stopped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::board::Service;
    use crate::config::Role;

    #[test]
    fn a_new_status_text_is_no_news_but_readiness_is() {
        let with = |status: &str| {
            let service = Service { status: Some(status.to_owned()), ..Service::default() };
            essence(&Facts { services: BTreeMap::from([("k3sd", service)]), ..Facts::default() })
        };
        assert!(with("node a Ready, no pods") == with("node a Ready, 1 pod running"));
        assert!(with("node a Ready, no pods") != with("node a NotReady, no pods"));
    }

    #[test]
    fn every_further_failure_is_news_but_the_passing_of_time_is_not() {
        let with = |failures, retry_at| {
            let phase = Phase::Failed { reason: "x".to_owned(), retry_at: Duration::from_secs(retry_at) };
            let service = Service { phase, failures, ..Service::default() };
            essence(&Facts { services: BTreeMap::from([("k3sd", service)]), ..Facts::default() })
        };
        assert!(with(2, 10) != with(3, 10));
        assert!(with(2, 10) == with(2, 20));
    }

    #[test]
    fn the_block_tells_role_address_services_and_problems() {
        let containerd = Service { phase: Phase::Ready(Duration::from_millis(1900)), ..Service::default() };
        let k3sd = Service {
            phase: Phase::Failed {
                reason: "was killed by SIGKILL".to_owned(),
                retry_at: Duration::from_secs(11),
            },
            failures: 2,
            status: Some("node box NotReady, no pods".to_owned()),
        };
        let facts = Facts {
            role: Some(Role::Server),
            hostname: "box".to_owned(),
            address: Some("eth0 10.0.2.15/24".to_owned()),
            services: BTreeMap::from([("containerd", containerd), ("k3sd", k3sd)]),
            problems: BTreeMap::from([("x".to_owned(), "attach a disk".to_owned())]),
            ..Facts::default()
        };
        let text = render(&facts, Duration::from_secs(10));
        for expected in [
            "host         box (role server)\n",
            "address      eth0 10.0.2.15/24\n",
            "containerd   ready after 1.9s\n",
            "k3sd         failed (was killed by SIGKILL), next try in 1s, failed 2 times\n",
            "kubernetes   node box NotReady, no pods\n",
            "problem      attach a disk\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
