//! Opening the file: the lock, the checks before anything is written, kine's table.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::log;
use crate::Error;

/// The newest `user_version` this driver understands. Kine leaves 0; the table is the same.
const SCHEMA_VERSION: i64 = 1;

/// Kine's table and indexes, name for name, so that either program opens the other's file.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS kine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT,
    created INTEGER,
    deleted INTEGER,
    create_revision INTEGER,
    prev_revision INTEGER,
    lease INTEGER,
    value BLOB,
    old_value BLOB
);
CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name);
CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name, id);
CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id, deleted);
CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision);
CREATE INDEX IF NOT EXISTS kine_id_compact_rev_key_with_prev_revision_index ON kine (id, name, prev_revision)
    WHERE name != 'compact_rev_key' AND prev_revision != 0;
";

/// Memory for the writer's pages, in KiB. Appends touch the right edge of each index; a few hundred pages hold those.
const WRITER_CACHE_KIB: i64 = 4096;

/// Beyond this the write-ahead log is cut back after a checkpoint, so that a burst does not keep the disk for ever.
const WAL_LIMIT_BYTES: i64 = 32 << 20;

/// Takes the lock that keeps a second process out, in its own file: closing another descriptor of the database itself
/// would drop SQLite's own locks on it.
pub(super) fn lock(path: &Path) -> Result<File, Error> {
    let fail = |source| Error::Io { action: "lock", path: path.to_owned(), source: Arc::new(source) };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(fail)?;
    }
    let file = private().open(beside(path, "-lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Opens the writer's connection. A file with any fault is reported before a byte of it changes.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    check_files(path)?;
    let fail = |e| error(path, "open", e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    // Until the checks have passed, closing must not fold the write-ahead log into the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
    check_pages(path, &connection)?;
    check_version(path, &connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(fail)?;
    prepare(&connection).map_err(fail)?;
    sync_directory(path)?;
    Ok(connection)
}

/// The file must exist (readable by us alone: it holds secrets), and an empty one must not have a log with content: its
/// data was lost, and SQLite would delete the log.
fn check_files(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::Io { action: "open", path: path.to_owned(), source: Arc::new(source) };
    let size = private().open(path).and_then(|file| file.metadata()).map_err(fail)?.len();
    let wal = fs::metadata(beside(path, "-wal")).map(|m| m.len()).unwrap_or(0);
    if size == 0 && wal > 0 {
        let detail = "the file is empty, but its write-ahead log is not".to_owned();
        return Err(Error::Corrupt { path: path.to_owned(), detail });
    }
    Ok(())
}

/// `quick_check` reads every page once: structure, order and types, without comparing indexes to the table.
fn check_pages(path: &Path, connection: &Connection) -> Result<(), Error> {
    let started = std::time::Instant::now();
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| error(path, "check", e))?;
    if verdict != "ok" {
        return Err(Error::Corrupt { path: path.to_owned(), detail: verdict.replace('\n', " ") });
    }
    tracing::debug!(path = %path.display(), elapsed = ?started.elapsed(), "datastore checked");
    Ok(())
}

fn check_version(path: &Path, connection: &Connection) -> Result<(), Error> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|e| error(path, "check", e))?;
    if found > SCHEMA_VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found, supported: SCHEMA_VERSION });
    }
    Ok(())
}

/// Sets how the connection works, creates what is missing of the table, and the two rows kine keeps in every store.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(32);
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(TABLE)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    log::create_fixed_rows(&transaction)?;
    transaction.commit()
}

/// A new file survives a power cut only once its directory entry does.
fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(|source| Error::Io {
        action: "sync",
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

/// Turns SQLite's codes into what a caller can act on.
pub(super) fn error(path: &Path, action: &'static str, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Corrupt { path, detail: source.to_string() }
        }
        Some(ErrorCode::DiskFull) => Error::Full { path },
        _ => Error::Io { action, path, source: Arc::new(source) },
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
