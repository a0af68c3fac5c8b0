//! The one thread that writes: it takes whatever requests are waiting, applies them in one transaction, commits (one
//! fsync for all), then tells the watchers and the callers. While it waits for the disk, the next group gathers.
//!
//! It also deletes keys whose time to live has run out: it sleeps until the next deadline or request, and never polls.

mod expiry;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::{Connection, ffi};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::expiry::Expiry;
use super::log::{self, Append};
use super::schema;
use crate::watch::Hub;
use crate::{Error, Event, EventKind, KeyValue, Revision};

/// Requests waiting for the writer; further callers wait for their turn before they queue.
const QUEUE: usize = 1024;
/// Requests in one transaction: beyond this the gain from sharing the fsync is gone and latency grows.
const GROUP: usize = 256;
/// Bytes of values in one transaction, so that a group of large objects does not swell the write-ahead log.
const GROUP_BYTES: usize = 4 << 20;
/// While callers are many, the writer waits for them to ask again for at most this part of the time the last commit took.
const PATIENCE: u32 = 4;

/// What callers ask for.
pub(super) enum Command {
    Create { key: String, value: Bytes, lease: i64 },
    Update { key: String, value: Bytes, expected: Revision, lease: i64 },
    Delete { key: String, expected: Option<Revision> },
    Compact { to: Revision },
}

/// The answer to a command that was carried out.
pub(super) struct Done {
    pub(super) revision: Revision,
    /// What a delete removed.
    pub(super) deleted: Option<KeyValue>,
}

/// The handle: submits commands and ends the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Sender<Message>,
    permits: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Request(Request),
    Close,
}

struct Request {
    command: Command,
    /// None for what the writer asks of itself (expiry).
    caller: Option<Caller>,
}

struct Caller {
    answer: oneshot::Sender<Result<Done, Error>>,
    _permit: OwnedSemaphorePermit,
}

/// What lives on the thread.
struct Worker {
    path: PathBuf,
    connection: Connection,
    queue: Receiver<Message>,
    hub: Arc<Hub>,
    expiry: Expiry,
    /// How many requests the last group had, and how long it took.
    last: (usize, Duration),
    closing: bool,
    /// Held until the file is closed; the kernel lets go of it if the process dies.
    _lock: File,
}

/// What a transaction did, to be told once it is durable.
#[derive(Default)]
struct Outcome {
    answers: Vec<Result<Done, Error>>,
    events: Vec<Event>,
    leases: Vec<(Arc<str>, Revision, i64)>,
}

impl Writer {
    pub(super) fn start(
        path: &Path,
        connection: Connection,
        lock: File,
        hub: Arc<Hub>,
    ) -> Result<Self, Error> {
        let mut expiry = Expiry::default();
        for (key, revision, lease) in log::leased(&connection).map_err(|e| schema::error(path, "read", e))? {
            expiry.schedule(key, revision, lease);
        }
        // The start has looked at every page; writes need the few that they change.
        connection
            .execute_batch("PRAGMA shrink_memory")
            .map_err(|e| schema::error(path, "give back the memory of", e))?;
        let (sender, queue) = channel();
        let worker = Worker {
            path: path.to_owned(),
            connection,
            queue,
            hub,
            expiry,
            last: (0, Duration::ZERO),
            closing: false,
            _lock: lock,
        };
        let thread =
            std::thread::Builder::new().name("datastore".to_owned()).spawn(move || worker.run()).map_err(
                |e| Error::Io { action: "start the writer of", path: path.to_owned(), source: Arc::new(e) },
            )?;
        Ok(Self { queue: sender, permits: Arc::new(Semaphore::new(QUEUE)), thread: Mutex::new(Some(thread)) })
    }

    /// Queues a command and waits until it is durable.
    pub(super) async fn submit(&self, command: Command) -> Result<Done, Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_closed| Error::Closed)?;
        let (answer, done) = oneshot::channel();
        let request = Request { command, caller: Some(Caller { answer, _permit: permit }) };
        self.queue.send(Message::Request(request)).map_err(|_ended| Error::Closed)?;
        done.await.map_err(|_ended| Error::Closed)?
    }

    pub(super) fn is_closed(&self) -> bool {
        self.permits.is_closed()
    }

    /// Refuses further commands, and returns when those already queued are done and the file is closed.
    pub(super) async fn close(&self) {
        if let Some(thread) = self.begin_close() {
            // The thread cannot be joined twice, and a panic in it was reported where it happened.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn begin_close(&self) -> Option<JoinHandle<()>> {
        self.permits.close();
        // Fails only if the thread has ended already.
        let _ = self.queue.send(Message::Close);
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(thread) = self.begin_close() {
            let _ = thread.join();
        }
    }
}

// === impl Worker ===

impl Worker {
    fn run(mut self) {
        let mut trusted = true;
        while trusted && let Some(group) = self.next_group() {
            trusted = self.commit(group);
        }
        self.hub.close();
        // Dropping the queue answers whoever still waits in it with `Closed`.
        let Self { connection, path, .. } = self;
        if !trusted {
            tracing::error!(path = %path.display(), "the disk failed to take a write; the datastore is closed");
            return;
        }
        let folded = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err(error) = folded.and_then(|()| connection.close().map_err(|(_, error)| error)) {
            // Nothing is lost: the write-ahead log stays and is read at the next start.
            tracing::warn!(%error, path = %path.display(), "failed to fold the write-ahead log at close");
        }
    }

    /// Waits for work and takes all there is, within the limits. None: the store is closing and nothing is left.
    fn next_group(&mut self) -> Option<Vec<Request>> {
        let mut group = Vec::new();
        let mut bytes = 0;
        self.wait(&mut group);
        let patience = Instant::now() + self.last.1 / PATIENCE;
        loop {
            self.drain(&mut group, &mut bytes);
            // The callers of the last group are just being told, and many will ask again at once: a commit for the first of
            // them alone would make all others wait for it.
            if group.len() >= self.last.0
                || bytes >= GROUP_BYTES
                || self.closing
                || Instant::now() >= patience
            {
                break;
            }
            std::thread::yield_now();
        }
        if self.closing && group.is_empty() { None } else { Some(group) }
    }

    /// Takes what is waiting, within the limits.
    fn drain(&mut self, group: &mut Vec<Request>, bytes: &mut usize) {
        while group.len() < GROUP && *bytes < GROUP_BYTES {
            match self.queue.try_recv() {
                Ok(Message::Request(request)) => {
                    *bytes += request.command.size();
                    group.push(request);
                }
                Ok(Message::Close) => self.closing = true,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }

    /// Sleeps until a request comes or a key expires.
    fn wait(&mut self, group: &mut Vec<Request>) {
        if self.closing {
            return;
        }
        let message = match self.expiry.next_in() {
            Some(timeout) => self.queue.recv_timeout(timeout),
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(Message::Request(request)) => group.push(request),
            Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => self.closing = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        for (key, revision) in self.expiry.due(GROUP) {
            let command = Command::Delete { key: key.as_ref().to_owned(), expected: Some(revision) };
            group.push(Request { command, caller: None });
        }
    }

    /// Carries out a group in one transaction. False: the disk failed in a way after which no later commit could be
    /// trusted (after a failed fsync the kernel may have dropped the pages and call the next fsync a success).
    fn commit(&mut self, group: Vec<Request>) -> bool {
        if group.is_empty() {
            return true;
        }
        let (started, size) = (Instant::now(), group.len());
        match self.transact(&group) {
            Ok(outcome) => {
                let revision = outcome.events.last().map(|event| event.kv.mod_revision);
                self.hub.publish(revision.unwrap_or_else(|| self.hub.published()), outcome.events);
                for (key, revision, lease) in outcome.leases {
                    self.expiry.schedule(key, revision, lease);
                }
                answer(group, outcome.answers);
                self.last = (size, started.elapsed());
                true
            }
            Err(cause) => {
                let trusted = !is_failed_sync(&cause);
                let error = schema::error(&self.path, "write", cause);
                tracing::error!(%error, requests = group.len(), "datastore write failed");
                self.retry_expiry(&group);
                let answers = group.iter().map(|_| Err(error.clone())).collect();
                answer(group, answers);
                trusted
            }
        }
    }

    fn transact(&self, group: &[Request]) -> rusqlite::Result<Outcome> {
        // Rolls back when dropped without commit.
        let transaction = self.connection.unchecked_transaction()?;
        let mut outcome = Outcome::default();
        for request in group {
            let result = request.command.apply(&transaction, &mut outcome)?;
            outcome.answers.push(result);
        }
        transaction.commit()?;
        Ok(outcome)
    }

    /// Keys whose deletion did not go through are tried again after a second.
    fn retry_expiry(&mut self, group: &[Request]) {
        for request in group {
            if let Request { command: Command::Delete { key, expected: Some(revision) }, caller: None } =
                request
            {
                self.expiry.schedule(key.as_str().into(), *revision, 1);
            }
        }
    }
}

fn answer(group: Vec<Request>, answers: Vec<Result<Done, Error>>) {
    for (request, result) in group.into_iter().zip(answers) {
        if let Some(caller) = request.caller {
            // A caller that went away does not want to know.
            let _ = caller.answer.send(result);
        }
    }
}

fn is_failed_sync(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error().map(|e| e.extended_code),
        Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC)
    )
}

// === impl Command ===

impl Command {
    fn size(&self) -> usize {
        match self {
            Self::Create { value, .. } | Self::Update { value, .. } => value.len(),
            Self::Delete { .. } | Self::Compact { .. } => 0,
        }
    }

    /// Carries the command out inside a transaction. The outer error is the database's and fails the whole group; the
    /// inner one is this caller's alone, and then nothing was changed.
    fn apply(&self, connection: &Connection, outcome: &mut Outcome) -> rusqlite::Result<Result<Done, Error>> {
        match self {
            Self::Create { key, value, lease } => create(connection, outcome, key, value, *lease),
            Self::Update { key, value, expected, lease } => {
                update(connection, outcome, key, value, *expected, *lease)
            }
            Self::Delete { key, expected } => delete(connection, outcome, key, *expected),
            Self::Compact { to } => compact(connection, *to),
        }
    }
}

fn create(
    connection: &Connection,
    outcome: &mut Outcome,
    key: &str,
    value: &Bytes,
    lease: i64,
) -> rusqlite::Result<Result<Done, Error>> {
    let newest = log::newest(connection, key)?;
    if newest.as_ref().is_some_and(|row| !row.deleted) {
        return Ok(Err(Error::Exists { key: key.to_owned() }));
    }
    let row = Append {
        key,
        created: true,
        deleted: false,
        create_revision: None,
        prev_revision: newest.map_or(Revision(0), |row| row.id),
        lease,
        value: Some(value),
        old_value: None,
    };
    let revision = log::append(connection, &row)?;
    outcome.put(key, value, revision, revision, None, lease);
    Ok(Ok(Done { revision, deleted: None }))
}

fn update(
    connection: &Connection,
    outcome: &mut Outcome,
    key: &str,
    value: &Bytes,
    expected: Revision,
    lease: i64,
) -> rusqlite::Result<Result<Done, Error>> {
    let current = match live(connection, key, Some(expected))? {
        Ok(current) => current,
        Err(error) => return Ok(Err(error)),
    };
    let row = Append {
        key,
        created: false,
        deleted: false,
        create_revision: Some(current.create_revision),
        prev_revision: current.id,
        lease,
        value: Some(value),
        old_value: Some(&current.value),
    };
    let revision = log::append(connection, &row)?;
    outcome.put(key, value, current.create_revision, revision, Some(current.value), lease);
    Ok(Ok(Done { revision, deleted: None }))
}

fn delete(
    connection: &Connection,
    outcome: &mut Outcome,
    key: &str,
    expected: Option<Revision>,
) -> rusqlite::Result<Result<Done, Error>> {
    let current = match live(connection, key, expected)? {
        Ok(current) => current,
        Err(error) => return Ok(Err(error)),
    };
    let row = Append {
        key,
        created: false,
        deleted: true,
        create_revision: Some(current.create_revision),
        prev_revision: current.id,
        lease: 0,
        value: None,
        old_value: Some(&current.value),
    };
    let revision = log::append(connection, &row)?;
    let deleted = current.into_key_value(key);
    let previous = Some(deleted.value.clone());
    let kv = KeyValue { mod_revision: revision, ..deleted.clone() };
    outcome.events.push(Event { kind: EventKind::Delete, kv, previous });
    Ok(Ok(Done { revision, deleted: Some(deleted) }))
}

fn compact(connection: &Connection, to: Revision) -> rusqlite::Result<Result<Done, Error>> {
    let compacted = log::compact_revision(connection)?;
    // Another caller may have come further; then this step is done.
    if to > compacted {
        log::compact(connection, compacted, to)?;
    }
    Ok(Ok(Done { revision: to, deleted: None }))
}

/// The live row of a key, if it is at the expected revision.
fn live(
    connection: &Connection,
    key: &str,
    expected: Option<Revision>,
) -> rusqlite::Result<Result<log::Newest, Error>> {
    Ok(match log::newest(connection, key)? {
        None => Err(Error::NotFound { key: key.to_owned() }),
        Some(row) if row.deleted => Err(Error::NotFound { key: key.to_owned() }),
        Some(row) if expected.is_some_and(|expected| expected != row.id) => {
            Err(Error::Conflict { key: key.to_owned(), current: Some(row.into_key_value(key)) })
        }
        Some(row) => Ok(row),
    })
}

impl log::Newest {
    fn into_key_value(self, key: &str) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: self.id,
        }
    }
}

impl Outcome {
    fn put(
        &mut self,
        key: &str,
        value: &Bytes,
        create_revision: Revision,
        mod_revision: Revision,
        previous: Option<Bytes>,
        lease: i64,
    ) {
        let key: Arc<str> = key.into();
        if lease > 0 {
            self.leases.push((key.clone(), mod_revision, lease));
        }
        let kv = KeyValue { key, value: value.clone(), create_revision, mod_revision };
        self.events.push(Event { kind: EventKind::Put, kv, previous });
    }
}
