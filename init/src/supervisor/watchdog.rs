//! Deadlines of a running service: for its start, its stop, and between its signs of life.

use std::time::Duration;

use tokio::time::Instant;

/// The signs of life of a service. It begins to count with the first one, so that a version that does not know of it is not harmed.
#[derive(Debug)]
pub(super) struct Watchdog {
    every: Option<Duration>,
    due: Option<Instant>,
}

impl Watchdog {
    /// One that expects a sign `every` so often; none means that the service is not watched.
    pub(super) fn new(every: Option<Duration>) -> Self {
        Self { every, due: None }
    }

    /// A sign of life.
    pub(super) fn alive(&mut self, now: Instant) {
        self.due = self.every.map(|every| now + every);
    }

    /// The service chooses another time; zero switches it off.
    pub(super) fn set(&mut self, every: Duration, now: Instant) {
        self.every = Some(every).filter(|every| !every.is_zero());
        self.alive(now);
    }

    /// The service says how long it will be silent at most.
    pub(super) fn extend(&mut self, until: Instant) {
        self.due = self.due.map(|due| due.max(until));
    }

    /// When the next sign is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_counts_from_the_first_sign_and_every_sign_puts_it_off() {
        let now = Instant::now();
        let mut watchdog = Watchdog::new(Some(SECOND));
        watchdog.extend(now + SECOND * 9);
        assert_eq!(watchdog.due(), None);
        watchdog.alive(now);
        assert_eq!(watchdog.due(), Some(now + SECOND));
        watchdog.extend(now + SECOND * 9);
        assert_eq!(watchdog.due(), Some(now + SECOND * 9));
        watchdog.set(SECOND * 3, now + SECOND);
        assert_eq!(watchdog.due(), Some(now + SECOND * 4));
        watchdog.set(Duration::ZERO, now);
        assert_eq!(watchdog.due(), None);
    }

    #[test]
    fn a_service_that_is_not_watched_may_still_send_signs() {
        let mut watchdog = Watchdog::new(None);
        watchdog.alive(Instant::now());
        assert_eq!(watchdog.due(), None);
    }
}
