//! What a controller has done and must see in its cache before it counts again.
//!
//! A cache is a moment behind. A controller that creates three pods and looks again at once would still see none, and
//! create three more. Upstream counts the events it expects (`controller_utils.go`); here the expectation is about the
//! facts themselves: the cache has reached the revision of each creation, and no longer holds each deleted uid. So lost or
//! coalesced events do no harm.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use client::{Informer, ObjectKey};
use tokio::time::Instant;

/// After this the controller acts on what it sees, as upstream does.
const LIMIT: Duration = Duration::from_secs(300);

/// The expectations of a controller's objects, by the object's key.
#[derive(Debug)]
pub(crate) struct Expectations<T> {
    by_owner: Mutex<HashMap<T, Expected>>,
}

#[derive(Debug)]
struct Expected {
    since: Instant,
    /// The cache must have everything up to this revision.
    revision: u64,
    /// These must be gone, or be on their way.
    deleted: Vec<(ObjectKey, String)>,
}

impl<T: Eq + Hash> Expectations<T> {
    pub(crate) fn new() -> Self {
        Self { by_owner: Mutex::default() }
    }

    /// An object was created or changed at `resource_version`.
    pub(crate) fn expect_revision(&self, owner: T, resource_version: Option<&str>) {
        let revision = resource_version.and_then(|version| version.parse().ok()).unwrap_or(0);
        self.change(owner, |expected| expected.revision = expected.revision.max(revision));
    }

    /// The deletion of an object was accepted.
    pub(crate) fn expect_deletion(&self, owner: T, key: ObjectKey, uid: String) {
        self.change(owner, |expected| expected.deleted.push((key, uid)));
    }

    /// Whether the cache shows everything done for this owner. Ask before reading the cache, not after: what is read
    /// must be at least as new as what was asked about.
    pub(crate) fn satisfied<K>(&self, owner: &T, cache: &Informer<K>) -> bool {
        let mut by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(expected) = by_owner.get_mut(owner) else { return true };
        expected.deleted.retain(|(key, uid)| still_there(cache, key, uid));
        let done = expected.deleted.is_empty() && cache.revision() >= expected.revision;
        if done || expected.since.elapsed() > LIMIT {
            by_owner.remove(owner);
            return true;
        }
        false
    }

    /// Forgets an owner that is gone.
    pub(crate) fn forget(&self, owner: &T) {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner).remove(owner);
    }

    fn change(&self, owner: T, change: impl FnOnce(&mut Expected)) {
        let mut by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = by_owner.entry(owner).or_insert_with(|| Expected {
            since: Instant::now(),
            revision: 0,
            deleted: Vec::new(),
        });
        expected.since = Instant::now();
        change(expected);
    }
}

/// Whether the cache still has that very object with no deletion under way.
fn still_there<K>(cache: &Informer<K>, key: &ObjectKey, uid: &str) -> bool {
    let Some(meta) = cache.get(key).and_then(|stored| stored.metadata().ok()) else { return false };
    meta.uid.as_deref() == Some(uid) && meta.deletion_timestamp.is_none()
}
