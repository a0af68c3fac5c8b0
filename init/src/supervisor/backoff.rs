//! How long to wait before a service that failed is started again.

use std::time::Duration;

/// The first wait: short, since most failures are single, and short enough that a second one soon after is over within a second, too.
const FIRST: Duration = Duration::from_millis(250);
/// The longest: a service that cannot work costs little, and recovers soon after its cause is gone.
const LONGEST: Duration = Duration::from_secs(60);
/// Ready for this long, and earlier failures are forgotten.
const HEALTHY: Duration = Duration::from_secs(60);

/// Doubling waits, forgotten by health.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The wait after a run that was ready for `healthy`.
    pub(super) fn after(&mut self, healthy: Duration) -> Duration {
        if healthy >= HEALTHY {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_health_resets_them() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.after(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(backoff.after(HEALTHY), FIRST);
    }
}
