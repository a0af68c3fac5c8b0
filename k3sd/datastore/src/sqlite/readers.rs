//! The connections that only read: a few, opened when needed, kept for reuse, each used by one caller at a time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::{log, schema};
use crate::{Error, Event, Revision};

/// Reads at the same time; further ones wait in order. Reads come from the watch cache, so these are rare.
const CONNECTIONS: usize = 4;
/// Memory for each connection's pages, in KiB: reads are mostly one pass over a range.
const CACHE_KIB: i64 = 512;
/// Events in one batch of a replay.
const REPLAY_BATCH: i64 = 512;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), idle: Mutex::default(), permits: Semaphore::new(CONNECTIONS) }
    }

    /// Runs `read` on a snapshot, with the revision it shall read: `at`, else the snapshot's own.
    pub(super) async fn snapshot<T: Send + 'static>(
        self: &Arc<Self>,
        at: Option<Revision>,
        read: impl FnOnce(&Connection, Revision) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(move |readers, connection| {
            let fail = |e| schema::error(&readers.path, "read", e);
            let current = log::current_revision(connection).map_err(fail)?;
            if let Some(requested) = at {
                let compacted = log::compact_revision(connection).map_err(fail)?;
                check(requested, compacted, current)?;
            }
            read(connection, at.unwrap_or(current)).map_err(fail)
        })
        .await
    }

    /// The changes after `from` up to `to`, in batches.
    pub(super) async fn replay(
        self: &Arc<Self>,
        from: Revision,
        to: Revision,
    ) -> Result<VecDeque<Arc<[Event]>>, Error> {
        self.run(move |readers, connection| {
            let fail = |e| schema::error(&readers.path, "read", e);
            let compacted = log::compact_revision(connection).map_err(fail)?;
            if from < compacted {
                return Err(Error::Compacted { requested: from, compacted });
            }
            let mut batches = VecDeque::new();
            let mut next = from;
            while next < to {
                let end = Revision((next.0 + REPLAY_BATCH).min(to.0));
                let events = log::events(connection, next, end).map_err(fail)?;
                if !events.is_empty() {
                    batches.push_back(events.into());
                }
                next = end;
            }
            Ok(batches)
        })
        .await
    }

    /// Refuses further reads and closes what is idle.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self, &Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let _permit = self.permits.acquire().await.map_err(|_closed| Error::Closed)?;
        let readers = self.clone();
        let task = tokio::task::spawn_blocking(move || readers.run_blocking(read));
        task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn run_blocking<T>(&self, read: impl FnOnce(&Self, &Connection) -> Result<T, Error>) -> Result<T, Error> {
        let fail = |e| schema::error(&self.path, "read", e);
        let idle = self.idle().pop();
        let connection = idle.map_or_else(|| self.connect(), Ok).map_err(fail)?;
        // A transaction that only reads is a snapshot; dropping it ends it.
        let transaction = connection.unchecked_transaction().map_err(fail)?;
        let result = read(self, &transaction);
        drop(transaction);
        if !self.permits.is_closed() {
            self.idle().push(connection);
        }
        result
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(requested: Revision, compacted: Revision, current: Revision) -> Result<(), Error> {
    if requested < compacted {
        return Err(Error::Compacted { requested, compacted });
    }
    if requested > current {
        return Err(Error::Future { requested, current });
    }
    Ok(())
}
