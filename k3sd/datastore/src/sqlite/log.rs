//! Every SQL statement on the log, as plain functions over a connection.
//!
//! Row semantics are kine's (`pkg/drivers/generic`): the row id is the revision; a create has `created` 1 and no
//! `create_revision` (NULL, in older files 0: readers put in the row's own id), a deletion is a row with `deleted` 1 and no
//! value, and `prev_revision` names the row replaced (0: none), which the unique index on `(name, prev_revision)` guards.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::{Event, EventKind, KeyValue, Revision};

/// The row whose `prev_revision` is the compacted revision. Not a key of the store.
const COMPACT_KEY: &str = "compact_rev_key";
/// The key kine creates in every store; etcd clients read it as a health check.
const HEALTH_KEY: &str = "/registry/health";

/// A new row, in the table's columns.
pub(super) struct Append<'a> {
    pub(super) key: &'a str,
    pub(super) created: bool,
    pub(super) deleted: bool,
    /// None for a create.
    pub(super) create_revision: Option<Revision>,
    pub(super) prev_revision: Revision,
    pub(super) lease: i64,
    pub(super) value: Option<&'a [u8]>,
    pub(super) old_value: Option<&'a [u8]>,
}

/// The newest row of a key.
pub(super) struct Newest {
    pub(super) id: Revision,
    pub(super) deleted: bool,
    pub(super) create_revision: Revision,
    pub(super) value: Bytes,
}

/// Names from `start` up to but not including `end`.
pub(super) struct Range {
    start: String,
    end: End,
}

enum End {
    Before(String),
    Open,
}

impl Range {
    /// The names that start with `prefix` and sort after `after`.
    pub(super) fn new(prefix: &str, after: Option<&str>) -> Self {
        // The smallest name after X is X with a NUL behind it.
        let start = after.map(|a| format!("{a}\0")).filter(|a| a.as_str() > prefix);
        Self { start: start.unwrap_or_else(|| prefix.to_owned()), end: End::after_prefix(prefix) }
    }
}

impl End {
    fn after_prefix(prefix: &str) -> Self {
        let mut end = prefix.to_owned();
        while let Some(last) = end.pop() {
            // Surrogates are not characters; no key sorts between them and their neighbours.
            if let Some(next) = (u32::from(last) + 1..=0x10_FFFF).find_map(char::from_u32) {
                end.push(next);
                return Self::Before(end);
            }
        }
        Self::Open
    }
}

impl ToSql for End {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Before(name) => name.as_str().into(),
            // SQLite sorts every blob after every text.
            Self::Open => ToSqlOutput::Borrowed(ValueRef::Blob(&[])),
        })
    }
}

impl ToSql for Revision {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

// === writing ===

/// Adds a row and returns its revision.
pub(super) fn append(connection: &Connection, row: &Append<'_>) -> rusqlite::Result<Revision> {
    connection
        .prepare_cached(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)
             VALUES (:name, :created, :deleted, :create_revision, :prev_revision, :lease, :value, :old_value)",
        )?
        .execute(named_params! {
            ":name": row.key,
            ":created": i64::from(row.created),
            ":deleted": i64::from(row.deleted),
            ":create_revision": row.create_revision,
            ":prev_revision": row.prev_revision,
            ":lease": row.lease,
            ":value": row.value,
            ":old_value": row.old_value,
        })?;
    Ok(Revision(connection.last_insert_rowid()))
}

/// The newest row of a key, deleted or not.
pub(super) fn newest(connection: &Connection, key: &str) -> rusqlite::Result<Option<Newest>> {
    connection
        .prepare_cached(
            "SELECT id, deleted, create_revision, value FROM kine WHERE name = ?1 ORDER BY id DESC LIMIT 1",
        )?
        .query_row([key], |row| {
            let id = row.get(0)?;
            Ok(Newest {
                id: Revision(id),
                deleted: row.get(1)?,
                create_revision: own_id_if_none(row.get(2)?, id),
                value: bytes(row, 3)?.unwrap_or_default(),
            })
        })
        .optional()
}

/// The rows kine expects: the compaction mark (first of all, so that it does not count as a key) and the health key.
pub(super) fn create_fixed_rows(connection: &Connection) -> rusqlite::Result<()> {
    for (key, value) in [(COMPACT_KEY, &b""[..]), (HEALTH_KEY, br#"{"health":"true"}"#)] {
        if newest(connection, key)?.is_none() {
            let row = Append {
                key,
                created: true,
                deleted: false,
                create_revision: None,
                prev_revision: Revision(0),
                lease: 0,
                value: Some(value),
                old_value: None,
            };
            append(connection, &row)?;
        }
    }
    Ok(())
}

/// Deletes the rows that the revisions after `from` up to `to` made superfluous: what they replaced, and deletions.
/// The newest row stays even then, because its id is the current revision.
pub(super) fn compact(connection: &Connection, from: Revision, to: Revision) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM kine WHERE id IN (
                 SELECT prev_revision FROM kine
                 WHERE id > ?1 AND id <= ?2 AND prev_revision != 0 AND name != 'compact_rev_key'
                 UNION
                 SELECT id FROM kine WHERE id > ?1 AND id <= ?2 AND deleted != 0
             ) AND id < (SELECT MAX(id) FROM kine)",
        )?
        .execute([from, to])?;
    connection
        .prepare_cached("UPDATE kine SET prev_revision = ?1 WHERE name = 'compact_rev_key'")?
        .execute([to])?;
    Ok(())
}

// === reading ===

/// The highest revision written.
pub(super) fn current_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    connection
        .prepare_cached("SELECT COALESCE(MAX(id), 0) FROM kine")?
        .query_row([], |row| row.get(0).map(Revision))
}

/// The revision compacted to, zero if never.
pub(super) fn compact_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    connection
        .prepare_cached("SELECT COALESCE(MAX(prev_revision), 0) FROM kine WHERE name = 'compact_rev_key'")?
        .query_row([], |row| row.get(0).map(Revision))
}

/// A key as it was at a revision.
pub(super) fn get(connection: &Connection, key: &str, at: Revision) -> rusqlite::Result<Option<KeyValue>> {
    let found = connection
        .prepare_cached(
            "SELECT name, id, create_revision, value, deleted FROM kine
             WHERE name = ?1 AND id <= ?2 ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![key, at], |row| if row.get(4)? { Ok(None) } else { key_value(row).map(Some) })
        .optional()?;
    Ok(found.flatten())
}

/// The keys of a range as they were at a revision, and whether the limit (0: none) cut some off.
pub(super) fn list(
    connection: &Connection,
    range: &Range,
    limit: usize,
    at: Revision,
) -> rusqlite::Result<(Vec<KeyValue>, bool)> {
    // Two statements rather than a join, which SQLite would sort with the values in it. The index yields the names in
    // order, so that a page costs what it holds.
    let mut newest = connection.prepare_cached(
        "SELECT MAX(id) FROM kine WHERE name >= ?1 AND name < ?2 AND id <= ?3 AND name != 'compact_rev_key'
         GROUP BY name ORDER BY name",
    )?;
    let mut live = connection
        .prepare_cached("SELECT name, id, create_revision, value FROM kine WHERE id = ?1 AND deleted = 0")?;
    let mut items = Vec::new();
    let mut ids = newest.query(params![range.start, range.end, at])?;
    while let Some(row) = ids.next()? {
        let Some(item) = live.query_row([row.get::<_, i64>(0)?], key_value).optional()? else { continue };
        if limit != 0 && items.len() == limit {
            return Ok((items, true));
        }
        items.push(item);
    }
    Ok((items, false))
}

/// How many keys of a range exist now.
pub(super) fn count(connection: &Connection, range: &Range) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT COUNT(*)
             FROM (SELECT MAX(id) AS id FROM kine
                   WHERE name >= ?1 AND name < ?2 AND name != 'compact_rev_key' GROUP BY name) newest
             CROSS JOIN kine k ON k.id = newest.id
             WHERE k.deleted = 0",
        )?
        .query_row(params![range.start, range.end], |row| row.get::<_, i64>(0))
        .map(|count| u64::try_from(count).unwrap_or(0))
}

/// The changes after `from` up to and including `to`. Rows that only fill a gap in the ids are no changes.
pub(super) fn events(connection: &Connection, from: Revision, to: Revision) -> rusqlite::Result<Vec<Event>> {
    connection
        .prepare_cached(
            "SELECT k.name, k.id, k.create_revision, k.value, k.deleted, k.old_value, p.id, p.create_revision
             FROM kine k LEFT JOIN kine p ON p.id = k.prev_revision
             WHERE k.id > ?1 AND k.id <= ?2
               AND k.name != 'compact_rev_key' AND NOT (k.deleted != 0 AND k.prev_revision = 0)
             ORDER BY k.id",
        )?
        .query_map([from, to], event)?
        .collect()
}

/// The keys that expire, with the revision of their last write and their time to live in seconds.
pub(super) fn leased(connection: &Connection) -> rusqlite::Result<Vec<(Arc<str>, Revision, i64)>> {
    connection
        .prepare(
            // One pass in the order of the file; few rows have a lease, so the lookups behind it are few.
            "SELECT k.name, k.id, k.lease FROM kine k
             WHERE k.lease > 0 AND k.deleted = 0
               AND NOT EXISTS (SELECT 1 FROM kine newer WHERE newer.name = k.name AND newer.id > k.id)",
        )?
        .query_map([], |row| Ok((row.get(0)?, Revision(row.get(1)?), row.get(2)?)))?
        .collect()
}

fn key_value(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    let id = row.get(1)?;
    Ok(KeyValue {
        key: row.get(0)?,
        value: bytes(row, 3)?.unwrap_or_default(),
        create_revision: own_id_if_none(row.get(2)?, id),
        mod_revision: Revision(id),
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let mut kv = key_value(row)?;
    let previous = bytes(row, 5)?;
    if !row.get::<_, bool>(4)? {
        return Ok(Event { kind: EventKind::Put, kv, previous });
    }
    kv.value = previous.clone().unwrap_or_default();
    // The row of a deletion says when the key was created, in older files only the row it replaced does.
    kv.create_revision = match (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(6)?) {
        (Some(created), _) if created != 0 => Revision(created),
        (_, Some(replaced)) => own_id_if_none(row.get(7)?, replaced),
        _ => Revision(0),
    };
    Ok(Event { kind: EventKind::Delete, kv, previous })
}

fn own_id_if_none(create_revision: Option<i64>, id: i64) -> Revision {
    Revision(create_revision.filter(|revision| *revision != 0).unwrap_or(id))
}

/// A blob as bytes of exactly its size: the watch cache keeps them.
fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Bytes>> {
    Ok(row.get_ref(column)?.as_bytes_or_null()?.map(Bytes::copy_from_slice))
}
