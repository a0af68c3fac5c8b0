//! `kill -9` in the middle of many writers, again and again on one file: what was acknowledged is there, and whole.
//!
//! Each writer knows what the server has acknowledged of its objects, and the one change that was under way when the server died.
//! After each start every object must be in the state last acknowledged, or in the one under way.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::client::{Client, Credentials, Protocol};
use tests::{Process, free_port};
use tokio::task::JoinSet;

use crate::{START, command};

const WRITERS: usize = 64;
/// Rounds, unless `SKERRY_KILL_ROUNDS` says otherwise. Fifty take minutes.
const ROUNDS: usize = 4;
/// Writes that a round must see acknowledged before the server is killed: so that it is in full swing.
const ACKNOWLEDGED: usize = 1_000;
/// How often each object is changed before the writer deletes every third and goes on to its next.
const CHANGES: usize = 3;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What an object is at: the number of its last change, or gone.
type State = Option<usize>;

/// What a writer knows when the server has died.
#[derive(Default)]
struct Known {
    acknowledged: BTreeMap<String, State>,
    under_way: Option<(String, State)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_torn_by_kill_9_among_64_writers() {
    let rounds = env::var("SKERRY_KILL_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let mut known: Vec<Known> = Vec::new();
    for round in 0..rounds {
        let (mut process, credentials) = start(dir.path()).await;
        check(&credentials, &known).await;
        let seen = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let client = Client::connect(&credentials, Protocol::Http2).await.unwrap();
            writers.spawn(write(client, format!("r{round}-w{writer}"), seen.clone()));
        }
        // The writers end with the server only, so what follows meets all of them at work.
        while seen.load(Ordering::Relaxed) < ACKNOWLEDGED {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.signal(Signal::SIGKILL);
        known.extend(writers.join_all().await);
        process.wait(START);
    }
    let (mut process, credentials) = start(dir.path()).await;
    check(&credentials, &known).await;
    assert!(process.stop().success());
    check_file(&dir.path().join("data/server/db/state.db"), &known);
}

async fn start(dir: &Path) -> (Process, Credentials) {
    let credentials = Credentials { tls: dir.join("data/server/tls"), port: free_port() };
    let process = Process::start(command(dir, credentials.port));
    let ready = async {
        loop {
            if let Ok(mut client) = Client::connect(&credentials, Protocol::Http2).await
                && client.count(Method::GET, "/readyz", Bytes::new()).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ready = tokio::time::timeout(START, ready).await;
    assert!(ready.is_ok(), "no readiness: {}", process.output());
    (process, credentials)
}

/// Creates, changes and deletes objects until the server is gone.
async fn write(mut client: Client, prefix: String, seen: Arc<AtomicUsize>) -> Known {
    let mut known = Known::default();
    for number in 0.. {
        let name = format!("{prefix}-{number}");
        let last = (number % 3 == 0).then_some(None);
        for state in (0..CHANGES).map(Some).chain(last) {
            known.under_way = Some((name.clone(), state));
            let target = format!("{MAPS}/{name}");
            let answer = match state {
                Some(0) => client.call(Method::POST, MAPS, object(&name, 0)).await,
                Some(change) => client.call(Method::PUT, &target, object(&name, change)).await,
                None => client.call(Method::DELETE, &target, Bytes::new()).await,
            };
            let Ok((status, body)) = answer else { return known };
            assert!(status.is_success(), "{target}: {}", String::from_utf8_lossy(&body));
            known.acknowledged.insert(name.clone(), state);
            known.under_way = None;
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
    known
}

/// Each part says the same, so that half of one and half of another would show.
fn object(name: &str, change: usize) -> Bytes {
    let data = json!({ "first": change.to_string(), "padding": format!("{change} ").repeat(400), "last": change.to_string() });
    json!({ "metadata": { "name": name }, "data": data }).to_string().into()
}

/// What the object is at. Fails if its parts do not agree.
fn state_of(object: &Value) -> usize {
    let change: usize =
        object["data"]["first"].as_str().and_then(|text| text.parse().ok()).expect("a number");
    assert_eq!(object["data"]["last"], change.to_string(), "{object}");
    assert_eq!(object["data"]["padding"], format!("{change} ").repeat(400), "{object}");
    change
}

async fn check(credentials: &Credentials, known: &[Known]) {
    let mut client = Client::connect(credentials, Protocol::Http2).await.unwrap();
    let (status, body) = client.call(Method::GET, MAPS, Bytes::new()).await.unwrap();
    assert!(status.is_success());
    let list: Value = serde_json::from_slice(&body).unwrap();
    let found: BTreeMap<String, usize> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|item| item["data"]["padding"].is_string())
        .map(|item| (item["metadata"]["name"].as_str().expect("a name").to_owned(), state_of(item)))
        .collect();
    compare(&found, known);
}

fn compare(found: &BTreeMap<String, usize>, known: &[Known]) {
    let mut expected = 0;
    for known in known {
        let under_way = known.under_way.as_ref();
        for (name, state) in &known.acknowledged {
            let now = found.get(name).copied();
            let may_be = under_way.is_some_and(|(other, state)| other == name && *state == now);
            assert!(now == *state || may_be, "{name}: acknowledged as {state:?}, found as {now:?}");
            expected += usize::from(now.is_some());
        }
        // The object whose creation was under way is there or not, but not yet acknowledged.
        let new = under_way.filter(|(name, _)| !known.acknowledged.contains_key(name));
        expected += usize::from(new.is_some_and(|(name, _)| found.contains_key(name)));
    }
    assert_eq!(found.len(), expected, "and nothing that nobody wrote");
}

/// The same, out of the file itself, as kine and `sqlite3` see it.
fn check_file(path: &Path, known: &[Known]) {
    let file = rusqlite::Connection::open(path).unwrap();
    let sound: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let mut rows = file
        .prepare(
            "SELECT name, value FROM kine WHERE name LIKE '/registry/configmaps/default/r%' AND deleted = 0 \
             AND id IN (SELECT MAX(id) FROM kine GROUP BY name)",
        )
        .unwrap();
    let found = rows
        .query_map([], |row| {
            let (key, value): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let name = key.rsplit('/').next().unwrap_or_default().to_owned();
            Ok((name, state_of(&serde_json::from_slice(&value).expect("JSON"))))
        })
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    compare(&found, known);
}
