//! Exponential backoff by key, as upstream's `client-go/util/flowcontrol` counts it.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// First pause, upstream's `backOffPeriod`.
const INITIAL: Duration = Duration::from_secs(10);
/// Longest pause, upstream's `MaxContainerBackOff`.
const MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
struct Entry {
    pause: Duration,
    updated: Timestamp,
}

/// Pauses between attempts, per key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// When the next attempt is due and how long the pause is, if it is not due yet. `since` is the last failure.
    pub(crate) fn pending(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(Timestamp, Duration)> {
        let entry = self.entries.get(key)?;
        if elapsed(since, now) > 2 * MAX {
            return None;
        }
        let due = since.checked_add(entry.pause).ok()?;
        (now < due).then_some((due, entry.pause))
    }

    /// Counts an attempt whose predecessor failed at `since`: the next one pauses twice as long.
    /// A failure long after the last attempt starts over.
    pub(crate) fn next(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let pause = match self.entries.get(key) {
            Some(entry) if elapsed(entry.updated, since) <= 2 * MAX => (entry.pause * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { pause, updated: now });
    }

    /// Forgets a key: it succeeded.
    pub(crate) fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_pauses_double_to_five_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pending("c", at(0), at(0)), None);
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.next("c", at(now), at(now));
            let (due, pause) = backoff.pending("c", at(now), at(now)).unwrap();
            assert_eq!((due, pause), (at(now + expected), Duration::from_secs(expected as u64)));
            now += expected;
            assert_eq!(backoff.pending("c", at(now - expected), at(now)), None);
        }
    }

    #[test]
    fn a_container_that_ran_for_long_starts_over() {
        let mut backoff = Backoff::default();
        backoff.next("c", at(0), at(0));
        backoff.next("c", at(10), at(10));
        backoff.next("c", at(1000), at(1000));
        assert_eq!(backoff.pending("c", at(1000), at(1000)).unwrap().1, INITIAL);
    }
}
