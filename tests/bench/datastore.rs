//! How fast creates become durable, beside what the disk and SQLite do by themselves.
//!
//! Run: `cargo run --release -p tests --example bench-datastore -- [DIRECTORY [CASE]]`. The directory decides which disk is
//! measured (default: the current one); everything written there is removed again. With CASE, only the cases whose name begins so.
//!
//! | case | what it does |
//! | --- | --- |
//! | append + fsync | 4 KiB at the end of a file, then fsync: the disk's own limit for one at a time |
//! | sqlite, N per commit | rows straight into the same table with the same settings, N in each transaction |
//! | create, N clients | `Datastore::create`, each client waiting for its answer |
//! | update, N clients | `Datastore::update`, each client on its own key |
//!
//! The budget is: creates of 64 clients at 80 % of SQLite's rate with 64 per commit.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use datastore::{Datastore, Revision, sqlite::Sqlite};
use rusqlite::{Connection, params};

/// How long each case runs.
const CASE: Duration = Duration::from_secs(3);
/// About the size of a small pod.
const VALUE_BYTES: usize = 1500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let only = std::env::args().nth(2).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    println!("{VALUE_BYTES} bytes per value, {} s per case, in {}", CASE.as_secs(), base.display());
    println!("{:<28} {:>10} {:>10} {:>10}", "case", "per second", "p50 ms", "p99 ms");
    let case = |name: String, run: &dyn Fn(&Path) -> Outcome| {
        if name.starts_with(&only) {
            report(&name, run(tempfile::tempdir_in(&base)?.path())?);
        }
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    case("append + fsync".to_owned(), &|directory| Ok(append(directory)?))?;
    for rows in [1, 8, 64] {
        case(format!("sqlite, {rows} per commit"), &|directory| {
            Ok(plain_sqlite(&runtime, directory, rows)?.times(rows))
        })?;
    }
    for clients in [1, 8, 64, 256] {
        case(format!("create, {clients} clients"), &|directory| {
            Ok(runtime.block_on(clients_of(directory, clients, create_for_ever))?)
        })?;
    }
    for clients in [1, 64] {
        case(format!("update, {clients} clients"), &|directory| {
            Ok(runtime.block_on(clients_of(directory, clients, update_for_ever))?)
        })?;
    }
    Ok(())
}

type Outcome = Result<Measured, Box<dyn std::error::Error>>;

/// What a case came to.
struct Measured {
    latencies: Vec<Duration>,
    elapsed: Duration,
    /// Operations behind each latency.
    each: usize,
}

impl Measured {
    fn times(self, each: usize) -> Self {
        Self { each, ..self }
    }
}

fn report(case: &str, mut measured: Measured) {
    measured.latencies.sort_unstable();
    let count = measured.latencies.len();
    let at = |percent: usize| {
        let index = (count * percent / 100).min(count.saturating_sub(1));
        measured.latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    };
    let rate = (count * measured.each) as f64 / measured.elapsed.as_secs_f64();
    println!("{case:<28} {rate:>10.0} {:>10.2} {:>10.2}", at(50), at(99));
}

/// Repeats one operation for the length of a case.
fn repeat<E>(mut operation: impl FnMut(usize) -> Result<(), E>) -> Result<Measured, E> {
    let started = Instant::now();
    let mut latencies = Vec::new();
    while started.elapsed() < CASE {
        let before = Instant::now();
        operation(latencies.len())?;
        latencies.push(before.elapsed());
    }
    Ok(Measured { latencies, elapsed: started.elapsed(), each: 1 })
}

fn append(directory: &Path) -> std::io::Result<Measured> {
    let mut file = File::create(directory.join("append"))?;
    repeat(|_| {
        file.write_all(&[0x55; 4096])?;
        file.sync_data()
    })
}

fn plain_sqlite(runtime: &tokio::runtime::Runtime, directory: &Path, rows: usize) -> Outcome {
    let path = directory.join("state.db");
    // The driver makes the file, so that table and indexes are the same.
    runtime.block_on(async {
        Sqlite::open(&path).await?.close().await;
        Ok::<(), datastore::Error>(())
    })?;
    let connection = Connection::open(&path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let value = vec![b'x'; VALUE_BYTES];
    let measured = repeat(|round| -> rusqlite::Result<()> {
        let transaction = connection.unchecked_transaction()?;
        for row in 0..rows {
            // As the clients below name theirs: each row of a group in another place of the indexes.
            let key = format!("/registry/pods/bench/{row}-{round}");
            transaction
                .prepare_cached(
                    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)
                     VALUES (?1, 1, 0, 0, 0, 0, ?2)",
                )?
                .execute(params![key, value])?;
        }
        transaction.commit()
    })?;
    Ok(measured)
}

/// Runs `clients` tasks of `work` against one store.
async fn clients_of<W, F>(directory: &Path, clients: usize, work: W) -> Result<Measured, datastore::Error>
where
    W: Fn(Arc<Sqlite>, usize, Instant) -> F,
    F: Future<Output = Result<Vec<Duration>, datastore::Error>> + Send + 'static,
{
    let store = Arc::new(Sqlite::open(&directory.join("state.db")).await?);
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        tasks.spawn(work(store.clone(), client, started));
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done.expect("a client panicked")?);
    }
    let elapsed = started.elapsed();
    store.close().await;
    Ok(Measured { latencies, elapsed, each: 1 })
}

async fn create_for_ever(
    store: Arc<Sqlite>,
    client: usize,
    started: Instant,
) -> Result<Vec<Duration>, datastore::Error> {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let mut latencies = Vec::new();
    while started.elapsed() < CASE {
        let before = Instant::now();
        let key = format!("/registry/pods/bench/{client}-{}", latencies.len());
        store.create(&key, value.clone(), None).await?;
        latencies.push(before.elapsed());
    }
    Ok(latencies)
}

async fn update_for_ever(
    store: Arc<Sqlite>,
    client: usize,
    started: Instant,
) -> Result<Vec<Duration>, datastore::Error> {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let key = format!("/registry/pods/bench/{client}");
    let mut revision: Revision = store.create(&key, value.clone(), None).await?;
    let mut latencies = Vec::new();
    while started.elapsed() < CASE {
        let before = Instant::now();
        revision = store.update(&key, value.clone(), revision, None).await?;
        latencies.push(before.elapsed());
    }
    Ok(latencies)
}
