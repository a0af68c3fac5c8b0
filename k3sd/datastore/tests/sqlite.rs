//! The SQLite driver's own promises: what is in the file, what survives, what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use datastore::{Datastore, Error, Revision, sqlite::Sqlite};
use rusqlite::Connection;

struct Place {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    Place { path: directory.path().join("server/db/state.db"), _directory: directory }
}

async fn filled(path: &Path) {
    let store = Sqlite::open(path).await.unwrap();
    for n in 0..200 {
        store.create(&format!("/registry/pods/default/{n:03}"), vec![b'x'; 500].into(), None).await.unwrap();
    }
    store.close().await;
}

async fn refused(path: &Path) -> Error {
    let before = fs::read(path).unwrap();
    let error = Sqlite::open(path).await.err().expect("a faulty file is refused");
    assert_eq!(fs::read(path).unwrap(), before, "and left as it was");
    assert!(error.to_string().contains(path.to_str().unwrap()), "the message names the file: {error}");
    error
}

#[tokio::test]
async fn rows_are_what_kine_writes() {
    let place = place();
    let store = Sqlite::open(&place.path).await.unwrap();
    let ttl = Some(Duration::from_secs(3600));
    let created = store.create("/k", "one".into(), ttl).await.unwrap();
    store.update("/k", "two".into(), created, ttl).await.unwrap();
    store.delete("/k", None).await.unwrap();
    store.create("/k", "three".into(), None).await.unwrap();
    store.close().await;

    let raw = Connection::open(&place.path).unwrap();
    let mut statement = raw
        .prepare(
            "SELECT id, name, created, deleted, IFNULL(create_revision, -1), prev_revision, lease, \
             CAST(value AS TEXT), CAST(old_value AS TEXT) FROM kine ORDER BY id",
        )
        .unwrap();
    let rows: Vec<String> = statement
        .query_map([], |row| {
            let numbers: Vec<i64> = (2..7).map(|i| row.get(i)).collect::<Result<_, _>>()?;
            let texts: Vec<Option<String>> = (7..9).map(|i| row.get(i)).collect::<Result<_, _>>()?;
            let text = |t: &Option<String>| t.clone().unwrap_or_else(|| "NULL".to_owned());
            let name: String = row.get(1)?;
            Ok(format!(
                "{} {name} {numbers:?} {} {}",
                row.get::<_, i64>(0)?,
                text(&texts[0]),
                text(&texts[1])
            ))
        })
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(
        rows,
        [
            // No create_revision (-1 here) in the row of a create.
            "1 compact_rev_key [1, 0, -1, 0, 0]  NULL",
            "2 /registry/health [1, 0, -1, 0, 0] {\"health\":\"true\"} NULL",
            "3 /k [1, 0, -1, 0, 3600] one NULL",
            "4 /k [0, 0, 3, 3, 3600] two one",
            "5 /k [0, 1, 3, 4, 0] NULL two",
            "6 /k [1, 0, -1, 5, 0] three NULL",
        ]
    );
}

/// What kine v0.17.5 itself left behind after creating, updating, deleting and creating again.
const KINE: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, created INTEGER, deleted INTEGER,
        create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
    CREATE INDEX kine_name_index ON kine (name);
    CREATE INDEX kine_name_id_index ON kine (name,id);
    CREATE INDEX kine_id_deleted_index ON kine (id,deleted);
    CREATE INDEX kine_prev_revision_index ON kine (prev_revision);
    CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);
    INSERT INTO kine VALUES
        (1, 'compact_rev_key',  1, 0, NULL, 0, 0,    X'',   NULL),
        (2, '/registry/health', 1, 0, NULL, 0, 0,    X'31', NULL),
        (3, '/registry/a',      1, 0, NULL, 0, 0,    X'31', NULL),
        (4, '/registry/leased', 1, 0, NULL, 0, 3600, X'78', NULL),
        (5, '/registry/a',      0, 0, 3,    3, 0,    X'32', X'31'),
        (6, '/registry/b',      1, 0, NULL, 0, 0,    X'33', NULL),
        (7, '/registry/b',      0, 1, 6,    6, 0,    NULL,  X'33'),
        (8, '/registry/b',      1, 0, NULL, 7, 0,    X'34', NULL);
";

#[tokio::test]
async fn database_that_kine_wrote_opens_and_goes_on() {
    let place = place();
    fs::create_dir_all(place.path.parent().unwrap()).unwrap();
    Connection::open(&place.path).unwrap().execute_batch(KINE).unwrap();
    let store = Sqlite::open(&place.path).await.unwrap();
    let page = store.list("/registry/", None, 0, None).await.unwrap();
    let seen: Vec<_> = page
        .items
        .iter()
        .map(|kv| (&*kv.key, &kv.value[..], kv.create_revision.0, kv.mod_revision.0))
        .collect();
    assert_eq!(
        seen,
        [
            ("/registry/a", &b"2"[..], 3, 5),
            ("/registry/b", b"4", 8, 8),
            ("/registry/health", b"1", 2, 2),
            ("/registry/leased", b"x", 4, 4),
        ]
    );
    let mut watch = store.watch(Revision(5)).await.unwrap();
    let events = watch.recv().await.unwrap();
    let created: Vec<i64> = events.iter().map(|event| event.kv.create_revision.0).collect();
    assert_eq!(created, [6, 6, 8]);
    store.update("/registry/a", "3".into(), Revision(5), None).await.unwrap();
    let (_, deleted) = store.delete("/registry/b", Some(Revision(8))).await.unwrap();
    assert_eq!(deleted.create_revision, Revision(8));
}

#[tokio::test]
async fn database_with_gap_rows_and_no_version_opens() {
    let place = place();
    filled(&place.path).await;
    let raw = Connection::open(&place.path).unwrap();
    raw.execute_batch(
        "PRAGMA user_version = 0;
         INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease)
         VALUES (400, 'gap-400', 0, 1, 0, 0, 0);",
    )
    .unwrap();
    drop(raw);
    let store = Sqlite::open(&place.path).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(400));
    let mut watch = store.watch(Revision(201)).await.unwrap();
    let next = store.create("/registry/pods/default/new", Bytes::new(), None).await.unwrap();
    let mut revisions = Vec::new();
    while revisions.last() != Some(&next) {
        revisions.extend(watch.recv().await.unwrap().iter().map(|e| e.kv.mod_revision));
    }
    assert_eq!(revisions, [Revision(202), Revision(401)], "a filled gap is no event");
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let place = place();
    filled(&place.path).await;
    let store = Sqlite::open(&place.path).await.unwrap();
    let page = store.list("/registry/pods/", None, 0, None).await.unwrap();
    assert_eq!((page.items.len(), page.revision), (200, Revision(202)));
    let next = store.create("/registry/pods/default/next", Bytes::new(), None).await.unwrap();
    assert_eq!(next, Revision(203));
}

#[tokio::test]
async fn time_to_live_starts_anew_after_reopening() {
    let place = place();
    let store = Sqlite::open(&place.path).await.unwrap();
    store.create("/ttl", "x".into(), Some(Duration::from_secs(1))).await.unwrap();
    store.close().await;
    drop(store);
    let store = Sqlite::open(&place.path).await.unwrap();
    let mut watch = store.watch(store.revision().await.unwrap()).await.unwrap();
    let events = tokio::time::timeout(Duration::from_secs(30), watch.recv()).await.unwrap().unwrap();
    assert_eq!(&*events[0].kv.key, "/ttl");
    assert_eq!(store.count("/ttl").await.unwrap(), 0);
}

#[tokio::test]
async fn compaction_removes_superseded_rows_in_steps() {
    let place = place();
    let store = Sqlite::open(&place.path).await.unwrap();
    let mut revision = store.create("/k", "0".into(), None).await.unwrap();
    for n in 0..2500 {
        revision = store.update("/k", format!("{n}").into(), revision, None).await.unwrap();
    }
    store.compact(revision).await.unwrap();
    store.close().await;
    let raw = Connection::open(&place.path).unwrap();
    let rows: i64 = raw.query_row("SELECT COUNT(*) FROM kine WHERE name = '/k'", [], |r| r.get(0)).unwrap();
    let mark: i64 = raw
        .query_row("SELECT prev_revision FROM kine WHERE name = 'compact_rev_key'", [], |r| r.get(0))
        .unwrap();
    assert_eq!((rows, mark), (1, revision.0));
}

#[tokio::test]
async fn second_opener_is_refused() {
    let place = place();
    let first = Sqlite::open(&place.path).await.unwrap();
    let second = Sqlite::open(&place.path).await;
    assert!(matches!(second, Err(Error::InUse { path }) if path == place.path));
    first.close().await;
    Sqlite::open(&place.path).await.expect("a closed store lets go of its file");
}

#[tokio::test]
async fn file_that_is_no_database_is_refused() {
    let place = place();
    filled(&place.path).await;
    let mut bytes = fs::read(&place.path).unwrap();
    bytes[..100].fill(0x55);
    fs::write(&place.path, bytes).unwrap();
    assert!(matches!(refused(&place.path).await, Error::Corrupt { .. }));
}

#[tokio::test]
async fn damaged_page_is_refused() {
    let place = place();
    filled(&place.path).await;
    let mut bytes = fs::read(&place.path).unwrap();
    let middle = bytes.len() / 8192 * 4096;
    bytes[middle..middle + 4096].fill(0xA5);
    fs::write(&place.path, bytes).unwrap();
    assert!(matches!(refused(&place.path).await, Error::Corrupt { .. }));
}

#[tokio::test]
async fn truncated_file_is_refused() {
    let place = place();
    filled(&place.path).await;
    let bytes = fs::read(&place.path).unwrap();
    fs::write(&place.path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(refused(&place.path).await, Error::Corrupt { .. }));
}

#[tokio::test]
async fn emptied_file_with_a_log_is_refused_and_the_log_stays() {
    let place = place();
    filled(&place.path).await;
    let log = place.path.with_extension("db-wal");
    fs::write(&place.path, b"").unwrap();
    fs::write(&log, b"frames").unwrap();
    assert!(matches!(refused(&place.path).await, Error::Corrupt { .. }));
    assert_eq!(fs::read(&log).unwrap(), b"frames");
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let place = place();
    filled(&place.path).await;
    Connection::open(&place.path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    assert!(matches!(refused(&place.path).await, Error::NewerSchema { found: 7, supported: 1, .. }));
}
