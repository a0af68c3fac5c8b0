//! A revisioned key-value store: the one thing Skerry keeps its cluster state in.
//!
//! Background: Kubernetes wants from its store what etcd gives: one growing revision for the whole key space,
//! compare-and-swap on single keys, consistent reads at a revision, and a watch that replays and then follows every
//! change in order. [`Datastore`] is that contract in eleven methods; [`sqlite::Sqlite`] keeps it in one file with
//! kine's table, so that a K3s database opens here and ours opens there.
//!
//! What it does not do: it knows nothing of Kubernetes objects (keys are text, values are bytes), it keeps no cache
//! (the API server's watch cache does), and it filters nothing but key prefixes.
//!
//! ```no_run
//! # async fn example() -> Result<(), datastore::Error> {
//! use datastore::{Datastore, sqlite::Sqlite};
//! let store = Sqlite::open(std::path::Path::new("/var/lib/rancher/k3s/server/db/state.db")).await?;
//! let created = store.create("/registry/pods/default/a", "{}".into(), None).await?;
//! store.update("/registry/pods/default/a", "{\"n\":1}".into(), created, None).await?;
//! # Ok(()) }
//! ```

mod error;
pub mod sqlite;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::Error;
pub use watch::Watch;

/// A point in the history of the whole store. Every write makes the next one; zero is before the first.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// A key with its value, as it was written at `mod_revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, for example `/registry/pods/default/web-0`.
    pub key: Arc<str>,
    /// The bytes given to the write, untouched.
    pub value: Bytes,
    /// The write that brought the key into being (since its last deletion).
    pub create_revision: Revision,
    /// The write that gave it this value.
    pub mod_revision: Revision,
}

/// What a change did to its key.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key was created or updated.
    Put,
    /// The key was deleted, by a caller or because its time to live ran out.
    Delete,
}

/// One change, as [`Datastore::watch`] delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after the change. For a deletion: its last value, and as `mod_revision` the revision of the deletion.
    pub kv: KeyValue,
    /// The value before the change; none for a creation.
    pub previous: Option<Bytes>,
}

impl Event {
    /// Whether the key did not exist before this change.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// One page of [`Datastore::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The revision that was read: the one asked for, else the current one.
    pub revision: Revision,
    /// The keys in byte order.
    pub items: Vec<KeyValue>,
    /// Whether keys follow that the limit cut off. Continue with the last key as `after` and this page's revision.
    pub more: bool,
}

/// The store's contract. Every driver passes the same test suite.
///
/// * An `Ok` from a write means it is durable: it survives `kill -9` and a power cut.
/// * Revisions have no duplicates and never go back, also across restarts. They may have holes.
/// * Every method may be cancelled (its future dropped); a write that was already handed over still happens.
#[async_trait]
pub trait Datastore: Send + Sync + 'static {
    /// Writes a key that must not exist. With a `ttl` (whole seconds, rounded up) the key is deleted that long after
    /// its last write. Fails with [`Error::Exists`].
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, Error>;

    /// Replaces the value of a key whose `mod_revision` must be `expected`; the time to live starts anew (none: the key
    /// no longer expires). Fails with [`Error::NotFound`] or [`Error::Conflict`].
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision, Error>;

    /// Deletes a key, if `expected` is given only at that `mod_revision`. Returns the revision of the deletion and what
    /// was deleted. Fails with [`Error::NotFound`] or [`Error::Conflict`].
    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<(Revision, KeyValue), Error>;

    /// Reads a key now, or as it was at a revision, with the revision that was read. Fails with [`Error::Compacted`] or
    /// [`Error::Future`].
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), Error>;

    /// Reads the keys that start with `prefix` (empty: all) and sort after `after`, at most `limit` (0: all), now or as
    /// they were at a revision. Fails with [`Error::Compacted`] or [`Error::Future`].
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<ListPage, Error>;

    /// How many keys start with `prefix` now.
    async fn count(&self, prefix: &str) -> Result<u64, Error>;

    /// Every change after `from`, of all keys, in revision order, without a gap: first those already written, then
    /// those to come, each only once it is durable. A watcher that reads too slowly is closed. Fails with
    /// [`Error::Compacted`] if changes after `from` are no longer known.
    async fn watch(&self, from: Revision) -> Result<Watch, Error>;

    /// The current revision: that of the last durable write.
    async fn revision(&self) -> Result<Revision, Error>;

    /// Forgets history up to and including `to`: superseded values and deletions. Reads below `to` fail from then on.
    /// Fails with [`Error::Compacted`] if that was done already, [`Error::Future`] beyond the current revision.
    async fn compact(&self, to: Revision) -> Result<(), Error>;

    /// Finishes the writes already accepted and closes the store; later calls fail with [`Error::Closed`] and watches
    /// end. Closing twice is fine.
    async fn close(&self);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<i64> for Revision {
    fn from(id: i64) -> Self {
        Self(id)
    }
}
