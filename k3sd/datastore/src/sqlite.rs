//! The SQLite driver: kine's table in one file, one writer thread, any number of readers.
//!
//! ```text
//!   create/update/delete/compact ──► queue ──► writer thread: BEGIN … many requests … COMMIT (one fsync)
//!                                                   │ then, in this order
//!                                                   ├──► hub ──► every watch
//!                                                   └──► the callers' answers
//!   get/list/count/replay ──► reader connections (snapshots of the write-ahead log, never blocked by the writer)
//! ```
//!
//! The table is an append-only log whose row id is the revision; [`schema`] creates and checks it, [`log`] holds every
//! SQL statement, [`writer`] the commit loop and the expiry of keys, [`readers`] the connections that only read.
//!
//! Not done: watching changes made by other processes. The file is locked for one process (`<file>-lock`).

mod log;
mod readers;
mod schema;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use self::readers::Readers;
use self::writer::{Command, Writer};
use crate::watch::Hub;
use crate::{Datastore, Error, KeyValue, ListPage, Revision, Watch};

/// Revisions one compaction transaction covers, as kine's: short enough not to hold up other writers.
const COMPACT_STEP: i64 = 1000;

/// A store in one SQLite file.
pub struct Sqlite {
    writer: Writer,
    readers: Arc<Readers>,
    hub: Arc<Hub>,
}

impl Sqlite {
    /// Opens the file, creating it (and its directory) if it is not there.
    ///
    /// The whole file is checked first ([`Error::Corrupt`], [`Error::NewerSchema`]); one that fails the check is not
    /// written to.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Self::open_blocking(&path))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn open_blocking(path: &Path) -> Result<Self, Error> {
        let lock = schema::lock(path)?;
        let connection = schema::open(path)?;
        let current = log::current_revision(&connection).map_err(|e| schema::error(path, "read", e))?;
        let hub = Arc::new(Hub::new(current));
        Ok(Self {
            writer: Writer::start(path, connection, lock, hub.clone())?,
            readers: Arc::new(Readers::new(path)),
            hub,
        })
    }
}

#[async_trait]
impl Datastore for Sqlite {
    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision, Error> {
        let command = Command::Create { key: key.into(), value, lease: lease(ttl) };
        Ok(self.writer.submit(command).await?.revision)
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
    ) -> Result<Revision, Error> {
        let command = Command::Update { key: key.into(), value, expected, lease: lease(ttl) };
        Ok(self.writer.submit(command).await?.revision)
    }

    async fn delete(&self, key: &str, expected: Option<Revision>) -> Result<(Revision, KeyValue), Error> {
        let done = self.writer.submit(Command::Delete { key: key.into(), expected }).await?;
        let deleted = done.deleted.ok_or_else(|| Error::NotFound { key: key.to_owned() })?;
        Ok((done.revision, deleted))
    }

    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), Error> {
        let key = key.to_owned();
        self.readers
            .snapshot(at, move |connection, revision| Ok((revision, log::get(connection, &key, revision)?)))
            .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<ListPage, Error> {
        let range = log::Range::new(prefix, after);
        self.readers
            .snapshot(at, move |connection, revision| {
                let (items, more) = log::list(connection, &range, limit, revision)?;
                Ok(ListPage { revision, items, more })
            })
            .await
    }

    async fn count(&self, prefix: &str) -> Result<u64, Error> {
        let range = log::Range::new(prefix, None);
        self.readers.snapshot(None, move |connection, _| log::count(connection, &range)).await
    }

    async fn watch(&self, from: Revision) -> Result<Watch, Error> {
        // Subscribed before the replay is read, so that nothing falls between; the watch drops what comes twice.
        let (published, live) = self.hub.subscribe().ok_or(Error::Closed)?;
        let backlog = self.readers.replay(from, published).await?;
        Ok(Watch::new(from, backlog, live))
    }

    async fn revision(&self) -> Result<Revision, Error> {
        if self.writer.is_closed() { Err(Error::Closed) } else { Ok(self.hub.published()) }
    }

    async fn compact(&self, to: Revision) -> Result<(), Error> {
        let (compacted, current) =
            self.readers.snapshot(None, |c, current| Ok((log::compact_revision(c)?, current))).await?;
        if to <= compacted {
            return Err(Error::Compacted { requested: to, compacted });
        }
        if to > current {
            return Err(Error::Future { requested: to, current });
        }
        let mut step = compacted;
        while step < to {
            step = Revision((step.0 + COMPACT_STEP).min(to.0));
            self.writer.submit(Command::Compact { to: step }).await?;
        }
        Ok(())
    }

    async fn close(&self) {
        self.readers.close();
        self.writer.close().await;
    }
}

/// The lease column: the time to live in seconds (kine's lease id), zero for none.
fn lease(ttl: Option<Duration>) -> i64 {
    let Some(ttl) = ttl else { return 0 };
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(seconds.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
