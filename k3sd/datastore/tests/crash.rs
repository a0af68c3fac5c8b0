//! `kill -9` in the middle of writing: every acknowledged write is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use datastore::{Datastore, Revision, sqlite::Sqlite};

/// Set in the child: the file it writes to.
const CHILD_FILE: &str = "DATASTORE_CRASH_FILE";
const WRITERS: usize = 4;
const ROUNDS: usize = 3;
const ACKNOWLEDGED_PER_ROUND: usize = 400;

#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    if std::env::var_os(CHILD_FILE).is_some() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let mut acknowledged = BTreeMap::new();
    for _ in 0..ROUNDS {
        write_until_killed(&path, &mut acknowledged);
        let store = Sqlite::open(&path).await.unwrap();
        for (key, (revision, value)) in &acknowledged {
            let (_, found) = store.get(key, Some(*revision)).await.unwrap();
            let found = found.unwrap_or_else(|| panic!("{key} was acknowledged at {revision} and is lost"));
            assert_eq!((found.mod_revision, &found.value[..]), (*revision, value.as_bytes()));
        }
        store.close().await;
    }
    assert!(acknowledged.len() >= WRITERS);
}

/// Runs the child until it has acknowledged enough, kills it, and takes in everything it said.
fn write_until_killed(path: &Path, acknowledged: &mut BTreeMap<String, (Revision, String)>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["write_for_ever", "--exact", "--nocapture", "--ignored"])
        .env(CHILD_FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        // Lines of the test harness, and one cut off by the kill, do not have this form.
        let (Some("ack"), Some(key), Some(revision), Some(value), Some("end")) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        acknowledged.insert(key.to_owned(), (Revision(revision.parse().unwrap()), value.to_owned()));
        seen += 1;
        if seen == ACKNOWLEDGED_PER_ROUND {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= ACKNOWLEDGED_PER_ROUND, "the child died by itself after {seen} writes");
}

/// The child: several tasks, each creating, updating and deleting, saying what was acknowledged.
#[test]
#[ignore = "runs as the child of every_acknowledged_write_survives_kill_9"]
fn write_for_ever() {
    let path = std::env::var_os(CHILD_FILE).expect("started by its parent");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WRITERS).build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Sqlite::open(Path::new(&path)).await.unwrap());
        let round = store.revision().await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(store.clone(), format!("/{round}/{writer}")));
        }
        writers.join_all().await;
    });
}

async fn write(store: Arc<Sqlite>, prefix: String) {
    for n in 0.. {
        let (key, passing) = (format!("{prefix}/{n}"), format!("{prefix}/passing"));
        let created = store.create(&key, "created".into(), None).await.unwrap();
        say(&key, created, "created");
        let updated = store.update(&key, "updated".into(), created, None).await.unwrap();
        say(&key, updated, "updated");
        store.create(&passing, "x".into(), None).await.unwrap();
        store.delete(&passing, None).await.unwrap();
    }
}

fn say(key: &str, revision: Revision, value: &str) {
    let line = format!("ack {key} {revision} {value} end\n");
    // One write per line, past the harness's capture, so that a kill cannot mix lines.
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}
