//! Delays between attempts, growing and jittered.

use std::time::Duration;

use rand::Rng;

/// Exponential delays with jitter: `first`, then twice as long each time up to `max`, each lengthened by up to its own
/// half so that many clients of one failed server do not return in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Delays from `first` to `max` (before jitter).
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempts: 0 }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let base = exponential(self.first, self.max, self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        base.mul_f64(1.0 + rand::rng().random_range(0.0..0.5))
    }

    /// Starts again from `first`; called after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// `first * 2^attempts`, at most `max`.
pub(crate) fn exponential(first: Duration, max: Duration, attempts: u32) -> Duration {
    first.saturating_mul(1u32.checked_shl(attempts.min(31)).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for base in [1.0, 2.0, 4.0, 5.0, 5.0] {
            let delay = backoff.next_delay().as_secs_f64();
            assert!((base..=base * 1.5).contains(&delay), "{delay} for base {base}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(1500));
        assert_eq!(
            exponential(Duration::from_millis(5), Duration::from_secs(1000), 200),
            Duration::from_secs(1000)
        );
    }
}
