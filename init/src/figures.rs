//! What PID 1 costs: its memory and how often it wakes, measured once the machine has come to rest after it became ready.
//!
//! Most of PID 1's code runs once, at boot. It is let go of before the measurement, and so for good.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::board::Board;
use crate::console::say;

/// After Ready there is still much going on: images are imported, pods start.
const REST: Duration = Duration::from_secs(60);
/// How long wake-ups are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The cost of PID 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    /// Resident memory in KiB, all of it.
    pub(crate) resident: u64,
    /// The part that is no file's, in KiB.
    pub(crate) anonymous: u64,
    /// Wake-ups a second. Whatever wakes it counts: timers, the network, lines of the log.
    pub(crate) wakeups: f64,
}

/// Measures once and tells. Owned by the main task; afterwards it rests for ever.
pub(crate) async fn run(board: Board) -> io::Result<()> {
    board.watch().wait_for(|facts| facts.announced).await.map_err(io::Error::other)?;
    sleep(REST).await;
    sys::memory::release_code()?;
    let figures = measure(WINDOW).await?;
    say!("init {figures}");
    board.update(|facts| facts.figures = Some(figures));
    std::future::pending().await
}

/// Measures over `window`.
pub(crate) async fn measure(window: Duration) -> io::Result<Figures> {
    let (before, begun) = (wakeups()?, Instant::now());
    sleep(window).await;
    // Less the one by which we noticed that the time was over.
    let woken = wakeups()?.saturating_sub(before).saturating_sub(1);
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(Figures {
        resident: number(&status, "VmRSS:"),
        anonymous: number(&status, "RssAnon:"),
        wakeups: f64::from(u32::try_from(woken).unwrap_or(u32::MAX)) / begun.elapsed().as_secs_f64(),
    })
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resident, anonymous, wakeups } = self;
        write!(
            f,
            "uses {resident} KiB of memory ({anonymous} KiB of it its own) and wakes {wakeups:.2} times a second"
        )
    }
}

/// How often threads of ours have gone to sleep of their own will, each of which ends in a wake-up.
fn wakeups() -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir("/proc/self/task")? {
        // A thread may end meanwhile.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        sum += number(&status, "voluntary_ctxt_switches:");
    }
    Ok(sum)
}

/// The number after `key` at the beginning of a line; 0 without one.
fn number(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        let status = "VmRSS:\t    2900 kB\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t7\n";
        assert_eq!(number(status, "VmRSS:"), 2900);
        assert_eq!(number(status, "voluntary_ctxt_switches:"), 7);
        assert_eq!(number(status, "RssAnon:"), 0);
    }

    #[tokio::test]
    async fn a_process_is_measured() {
        let figures = measure(Duration::from_millis(50)).await.unwrap();
        assert!(figures.resident > 500 && figures.anonymous < figures.resident, "{figures:?}");
    }
}
