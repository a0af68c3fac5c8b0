//! The status block: what the machine is and how it is doing, on the console whenever that has changed and settled.
//!
//! Plain lines without cursor movement, so that it reads the same on a screen, on a serial line and in a log.

use std::fmt::Write;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::board::{Board, Facts, Phase, since_kernel_start};
use crate::console;

/// Changes come in bursts; the block is shown when there was none for this long.
const SETTLE: Duration = Duration::from_millis(400);
/// What does not settle for this long is shown as it is: a service that starts for ever, waiting for something, is worth a look.
const STILL: Duration = Duration::from_secs(15);
/// Blocks are at least this far apart, whatever happens.
const APART: Duration = Duration::from_secs(5);
/// Whose status tells about the cluster rather than about itself.
const KUBERNETES: &str = "k3sd";
const RULE: &str = "------------------------------------------------------------------------";

/// Shows the block after every change that matters, for ever. Owned by the main task.
pub(crate) async fn run(board: Board) {
    follow(board, console::write).await;
}

async fn follow(board: Board, mut show: impl FnMut(&str)) {
    let mut facts = board.watch();
    let mut shown = None;
    let mut moving_since = None;
    loop {
        let calm = async { while let Ok(Ok(())) = timeout(SETTLE, facts.changed()).await {} };
        let _ = timeout(STILL, calm).await;
        let now = facts.borrow_and_update().clone();
        if is_settled(&now) {
            moving_since = None;
        } else {
            moving_since.get_or_insert_with(Instant::now);
        }
        let moved_for = moving_since.map(|since: Instant| since.elapsed());
        if moved_for.is_none_or(|time| time >= STILL) {
            let news = essence(&now);
            if shown.as_ref() != Some(&news) {
                show(&render(&now, since_kernel_start()));
                shown = Some(news);
                sleep(APART).await;
            }
        }
        let left = moved_for.and_then(|time| STILL.checked_sub(time)).filter(|left| !left.is_zero());
        let changed = match left {
            Some(left) => timeout(left, facts.changed()).await.unwrap_or(Ok(())),
            None => facts.changed().await,
        };
        if changed.is_err() {
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
/// for the outcome, or for something that needs a person, though not longer than [`STILL`].
fn is_settled(facts: &Facts) -> bool {
    let moving = |phase: &Phase| matches!(phase, Phase::Starting | Phase::Stopping | Phase::Stopped);
    let named = !facts.hostname.is_empty() || !facts.problems.is_empty();
    named && !facts.services.values().any(|service| moving(&service.phase))
}

/// The block as text.
pub(crate) fn render(facts: &Facts, now: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<12} {}", console::tame(value));
    };
    let role = facts.role.map_or("none".to_owned(), |role| role.to_string());
    let hostname = if facts.hostname.is_empty() { "none yet" } else { &facts.hostname };
    line("host", &format!("{hostname} (role {role})"));
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

    #[tokio::test(start_paused = true)]
    async fn a_service_that_starts_for_ever_gets_its_block_once() {
        let agent = |phase| {
            let service = Service { phase, ..Service::default() };
            Facts {
                hostname: "box".to_owned(),
                services: BTreeMap::from([("k3sd", service)]),
                ..Facts::default()
            }
        };
        let board = Board::new(agent(Phase::Starting));
        let blocks = std::cell::RefCell::new(Vec::new());
        let told = async {
            // It goes on telling what it does, faster than anything settles.
            for number in 0..600 {
                sleep(Duration::from_millis(100)).await;
                board.update_service("k3sd", |service| service.status = Some(format!("try {number}")));
                assert!(number > 100 || blocks.borrow().is_empty(), "too early");
            }
            assert_eq!(blocks.borrow().len(), 1, "{blocks:?}");
            board.update_service("k3sd", |service| service.phase = Phase::Ready(Duration::ZERO));
            sleep(Duration::from_secs(10)).await;
        };
        tokio::select! {
            () = follow(board.clone(), |block| blocks.borrow_mut().push(block.to_owned())) => {}
            () = told => {}
        }
        let blocks = blocks.into_inner();
        assert!(
            blocks[0].contains("k3sd         starting") && blocks[1].contains("ready after"),
            "{blocks:?}"
        );
        assert_eq!(blocks.len(), 2);
    }

    #[test]
    fn what_a_service_says_stays_in_its_line() {
        let service = Service { status: Some("a\nskerry: ready".to_owned()), ..Service::default() };
        let facts = Facts { services: BTreeMap::from([("k3sd", service)]), ..Facts::default() };
        assert!(!render(&facts, Duration::ZERO).contains("\nskerry: ready"));
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
