//! When keys with a time to live fall due. Deadlines are not stored: as in kine, they start anew when the store opens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Revision;

/// Deadlines, the nearest first. One whose key was written again since is found out when it falls due, because its
/// revision no longer fits.
#[derive(Default)]
pub(super) struct Expiry(BinaryHeap<Reverse<(Instant, Revision, Arc<str>)>>);

impl Expiry {
    /// Notes that a key written at `revision` expires after `lease` seconds.
    pub(super) fn schedule(&mut self, key: Arc<str>, revision: Revision, lease: i64) {
        let seconds = Duration::from_secs(u64::try_from(lease).unwrap_or(0));
        // Beyond what the clock can count is never.
        if let Some(deadline) = Instant::now().checked_add(seconds) {
            self.0.push(Reverse((deadline, revision, key)));
        }
    }

    /// How long until the next key expires; zero if one is due. None: no key expires.
    pub(super) fn next_in(&self) -> Option<Duration> {
        let Reverse((deadline, ..)) = self.0.peek()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Takes at most `limit` keys that are due, with the revision they must still have.
    pub(super) fn due(&mut self, limit: usize) -> Vec<(Arc<str>, Revision)> {
        let now = Instant::now();
        let mut due = Vec::new();
        while due.len() < limit && self.0.peek().is_some_and(|Reverse((deadline, ..))| *deadline <= now) {
            due.extend(self.0.pop().map(|Reverse((_, revision, key))| (key, revision)));
        }
        due
    }
}
