//! How many lines of a source the console shows: a token bucket.

use std::time::{Duration, Instant};

/// Lines a source may show at once, and per second after that.
const BURST: u32 = 300;
const PER_SECOND: u32 = 50;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Rate {
    tokens: u32,
    filled: Instant,
}

impl Rate {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now }
    }

    /// Takes a token if there is one.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        if passed >= Duration::from_secs(1) {
            let gained = u32::try_from(passed.as_secs()).unwrap_or(u32::MAX).saturating_mul(PER_SECOND);
            self.tokens = self.tokens.saturating_add(gained).min(BURST);
            self.filled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_and_time_gives_room_again() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!((0..BURST * 2).filter(|_| rate.allow(start)).count(), BURST as usize);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..BURST).filter(|_| rate.allow(later)).count(), 2 * PER_SECOND as usize);
    }
}
