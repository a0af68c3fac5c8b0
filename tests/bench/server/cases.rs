//! The cases, and the table they print.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::json;
use tempfile::TempDir;
use tests::client::{Client, Protocol};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::server::Server;

/// How long a rate is measured.
const CASE: Duration = Duration::from_secs(5);
/// How long the server is left alone before its idle memory is read, and how long its idle processor time is counted.
const REST: Duration = Duration::from_secs(10);
const STARTS: usize = 5;
const LISTS: usize = 20;
const EVENTS: usize = 20;
const WATCHERS: usize = 1_000;
const LOADERS: usize = 64;
const PODS: usize = 5_000;
const MORE_PODS: usize = 10_000;
const POD_BYTES: usize = 4_096;
const KEYS: usize = 100_000;
const LEAK_STEP: usize = 100_000;
const LEAK_STEPS: usize = 10;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const BOUNDED_MAPS: &str = "/api/v1/namespaces/bounded/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Runs what is wanted. The cases that fill the server come last; each server is stopped before the next starts.
pub(crate) async fn run(
    program: &Path,
    directory: &Path,
    wanted: &dyn Fn(&str) -> bool,
) -> anyhow::Result<()> {
    println!("{:<34} {:>12}", "case", "measured");
    if wanted("start") {
        start(program, directory).await?;
    }
    let place = tempfile::tempdir_in(directory)?;
    let server = Server::start(program, &place).await?;
    if wanted("idle") {
        idle(&server).await?;
    }
    if wanted("get") {
        get(&server).await?;
    }
    if wanted("create") {
        create(&server, directory).await?;
    }
    if wanted("quota") {
        quota(&server).await?;
    }
    if wanted("apply") {
        apply(&server).await?;
    }
    if wanted("watch") {
        fan_out(&server).await?;
    }
    server.stop();
    if wanted("list") || wanted("memory") {
        pods(program, directory, wanted).await?;
    }
    if wanted("restart") {
        restart(program, directory).await?;
    }
    if wanted("leak") {
        leak(program, directory).await?;
    }
    Ok(())
}

fn row(case: &str, value: f64, unit: &str) {
    println!("{case:<34} {value:>12.1} {unit}");
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn median(values: &mut [Duration]) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

async fn start(program: &Path, directory: &Path) -> anyhow::Result<()> {
    let (mut cold, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let place = tempfile::tempdir_in(directory)?;
        for times in [&mut cold, &mut again] {
            let server = Server::start(program, &place).await?;
            times.push(server.took);
            server.stop();
        }
    }
    row("start, empty directory", millis(median(&mut cold)), "ms");
    row("start, second time", millis(median(&mut again)), "ms");
    Ok(())
}

async fn idle(server: &Server) -> anyhow::Result<()> {
    tokio::time::sleep(REST).await;
    let before = server.processor_time()?;
    tokio::time::sleep(REST).await;
    let used = server.processor_time()? - before;
    row("idle, resident", mebibytes(server.memory()?), "MiB");
    row("idle, processor", used.as_secs_f64() / REST.as_secs_f64() * 100.0, "% of a core");
    Ok(())
}

async fn get(server: &Server) -> anyhow::Result<()> {
    let mut client = server.client(Protocol::Http2).await?;
    client.count(Method::POST, MAPS, map("one")).await?;
    let target = format!("{MAPS}/one");
    for (name, protocol, connections, streams) in [
        ("get, HTTP/2, 8 x 8", Protocol::Http2, 8, 8),
        ("get, HTTP/1.1, 64 connections", Protocol::Http1, 64, 1),
    ] {
        let before = server.processor_time()?;
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            let connection = server.client(protocol).await?;
            let shared = (1..streams).filter_map(|_| connection.share()).collect::<Vec<_>>();
            for mut client in shared.into_iter().chain([connection]) {
                let target = target.clone();
                clients.spawn(async move {
                    let mut done = 0usize;
                    while started.elapsed() < CASE {
                        client.count(Method::GET, &target, Bytes::new()).await?;
                        done += 1;
                    }
                    anyhow::Ok(done)
                });
            }
        }
        let done = sum(clients).await? as f64;
        let elapsed = started.elapsed().as_secs_f64();
        let used = (server.processor_time()? - before).as_secs_f64();
        row(name, done / elapsed, "/s");
        row("  per core of the server", done / used, "/s");
    }
    Ok(())
}

async fn sum(mut clients: JoinSet<anyhow::Result<usize>>) -> anyhow::Result<usize> {
    let mut all = 0;
    while let Some(done) = clients.join_next().await {
        all += done??;
    }
    Ok(all)
}

fn map(name: &str) -> Bytes {
    json!({ "metadata": { "name": name }, "data": { "a": "x".repeat(1200) } }).to_string().into()
}

async fn create(server: &Server, directory: &Path) -> anyhow::Result<()> {
    for clients in [1, 16, 64] {
        row("disk, append 4 KiB + fsync", fsyncs(directory)?, "/s");
        create_by(server, clients, MAPS, "create").await?;
    }
    Ok(())
}

async fn create_by(server: &Server, clients: usize, path: &'static str, what: &str) -> anyhow::Result<()> {
    let before = server.processor_time()?;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let mut client = server.client(Protocol::Http2).await?;
        tasks.spawn(async move {
            let mut made = 0usize;
            while started.elapsed() < CASE {
                client.count(Method::POST, path, map(&format!("c-{clients}-{number}-{made}"))).await?;
                made += 1;
            }
            anyhow::Ok(made)
        });
    }
    let made = sum(tasks).await? as f64;
    let elapsed = started.elapsed().as_secs_f64();
    let used = (server.processor_time()? - before).as_secs_f64();
    row(&format!("{what}, {clients} clients"), made / elapsed, "/s");
    row("  per core of the server", made / used, "/s");
    Ok(())
}

/// A namespace with a quota that bounds what is made there, far from its bound.
async fn quota(server: &Server) -> anyhow::Result<()> {
    let mut client = server.client(Protocol::Http2).await?;
    let namespace = json!({ "metadata": { "name": "bounded" } }).to_string();
    client.count(Method::POST, "/api/v1/namespaces", namespace.into()).await?;
    let quota = json!({ "metadata": { "name": "bound" }, "spec": { "hard": { "configmaps": "1000000" } } });
    client.count(Method::POST, "/api/v1/namespaces/bounded/resourcequotas", quota.to_string().into()).await?;
    let counted = async {
        // Refused until the quota has been counted for the first time.
        while client.count(Method::POST, BOUNDED_MAPS, map("first")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(REST, counted).await.context("the quota was not counted")?;
    for clients in [1, 16, 64] {
        create_by(server, clients, BOUNDED_MAPS, "create under a quota").await?;
    }
    Ok(())
}

/// What the disk does one after the other, as a database's log would.
fn fsyncs(directory: &Path) -> anyhow::Result<f64> {
    let path = directory.join("fsyncs");
    let mut file = File::create(&path)?;
    let started = Instant::now();
    let mut done = 0usize;
    while started.elapsed() < CASE / 2 {
        file.write_all(&[b'x'; 4096])?;
        file.sync_data()?;
        done += 1;
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

async fn apply(server: &Server) -> anyhow::Result<()> {
    let before = server.processor_time()?;
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..16 {
        let mut client = server.client(Protocol::Http2).await?;
        clients.spawn(async move {
            let target = format!("{DEPLOYMENTS}/d-{number}?fieldManager=bench&force=true");
            let mut done = 0usize;
            while started.elapsed() < CASE {
                client.count(Method::PATCH, &target, deployment(number, done)).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let done = sum(clients).await? as f64;
    let used = (server.processor_time()? - before).as_secs_f64();
    row("apply, 16 clients", done / started.elapsed().as_secs_f64(), "/s");
    row("  per core of the server", done / used, "/s");
    Ok(())
}

/// No replicas, so that no controller adds work of its own beyond the status.
fn deployment(number: usize, round: usize) -> Bytes {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": format!("d-{number}"), "annotations": { "round": round.to_string() } },
        "spec": {
            "replicas": 0,
            "paused": true,
            "selector": { "matchLabels": { "app": "d" } },
            "template": {
                "metadata": { "labels": { "app": "d" } },
                "spec": { "containers": [{ "name": "c", "image": "localhost/x:1", "ports": [{ "containerPort": 80 }] }] },
            },
        },
    })
    .to_string()
    .into()
}

async fn fan_out(server: &Server) -> anyhow::Result<()> {
    let target = format!("{SECRETS}?watch=1&timeoutSeconds=300&resourceVersion=0");
    let (seen, mut arrivals) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut client = server.client(Protocol::Http2).await?;
        let mut body = client.open(Method::GET, &target, Bytes::new()).await?.into_body();
        let seen = seen.clone();
        watchers.spawn(async move {
            let _connection = client;
            let mut event = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                event.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
                // One line per event.
                if event.ends_with(b"\n") {
                    event.clear();
                    let _measured = seen.send(Instant::now());
                }
            }
        });
    }
    row("watch, memory with 1,000 open", mebibytes(server.memory()?), "MiB");
    let mut client = server.client(Protocol::Http2).await?;
    let (mut first, mut middle, mut last) = (Vec::new(), Vec::new(), Vec::new());
    let before = server.processor_time()?;
    for number in 0..EVENTS {
        let object = json!({ "metadata": { "name": format!("s-{number}") } }).to_string();
        client.count(Method::POST, SECRETS, object.into()).await?;
        let acknowledged = Instant::now();
        let mut times = Vec::with_capacity(WATCHERS);
        for _ in 0..WATCHERS {
            let arrived = tokio::time::timeout(Duration::from_secs(30), arrivals.recv()).await;
            times.push(arrived.context("an event did not arrive")?.context("every watch ended")?);
        }
        let mut times: Vec<Duration> =
            times.into_iter().map(|at| at.saturating_duration_since(acknowledged)).collect();
        times.sort_unstable();
        first.push(times[0]);
        middle.push(times[WATCHERS / 2]);
        last.push(times[WATCHERS - 1]);
    }
    let used = server.processor_time()? - before;
    row("watch, first of 1,000", millis(median(&mut first)), "ms");
    row("watch, middle of 1,000", millis(median(&mut middle)), "ms");
    row("watch, last of 1,000", millis(median(&mut last)), "ms");
    row("  server's processor per event", millis(used) / EVENTS as f64, "ms");
    watchers.shutdown().await;
    Ok(())
}

/// Every object of a range, by many clients.
async fn fill(
    server: &Server,
    path: &'static str,
    range: std::ops::Range<usize>,
    object: fn(usize) -> Bytes,
) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    for loader in 0..LOADERS {
        let mut client = server.client(Protocol::Http2).await?;
        let mine = range.clone().skip(loader).step_by(LOADERS);
        clients.spawn(async move {
            for number in mine {
                client.count(Method::POST, path, object(number)).await?;
            }
            anyhow::Ok(0)
        });
    }
    sum(clients).await?;
    Ok(())
}

/// A pod that no scheduler takes, padded so that what is served has the size wanted.
fn pod(number: usize) -> Bytes {
    // What defaults, managedFields and status add, measured.
    const ADDED: usize = 1_560;
    json!({
        "metadata": {
            "name": format!("p-{number:05}"),
            "labels": { "app": "web" },
            "annotations": { "padding": "x".repeat(POD_BYTES - ADDED) },
        },
        "spec": { "schedulerName": "none", "containers": [{ "name": "c", "image": "localhost/x:1" }] },
    })
    .to_string()
    .into()
}

async fn pods(program: &Path, directory: &Path, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    let place = tempfile::tempdir_in(directory)?;
    let server = Server::start(program, &place).await?;
    tokio::time::sleep(REST).await;
    let idle = server.memory()?;
    wait_for_account(&server).await?;
    fill(&server, PODS_PATH, 0..PODS, pod).await?;
    if wanted("list") {
        for (name, protocol) in [("HTTP/2", Protocol::Http2), ("HTTP/1.1", Protocol::Http1)] {
            list(&server, name, protocol).await?;
        }
    }
    if wanted("memory") {
        fill(&server, PODS_PATH, PODS..MORE_PODS, pod).await?;
        tokio::time::sleep(REST).await;
        memory(&server, "written", idle).await?;
        server.stop();
        let server = Server::start(program, &place).await?;
        tokio::time::sleep(REST).await;
        return memory(&server, "restarted", idle).await.map(|()| server.stop());
    }
    server.stop();
    Ok(())
}

/// Pods are refused until their namespace has its service account.
async fn wait_for_account(server: &Server) -> anyhow::Result<()> {
    let mut client = server.client(Protocol::Http2).await?;
    let target = "/api/v1/namespaces/default/serviceaccounts/default";
    let made = async {
        while client.count(Method::GET, target, Bytes::new()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(REST, made).await.context("no service account")
}

async fn list(server: &Server, name: &str, protocol: Protocol) -> anyhow::Result<()> {
    let mut client = server.client(protocol).await?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    let before = server.processor_time()?;
    for _ in 0..LISTS {
        let started = Instant::now();
        bytes = client.count(Method::GET, PODS_PATH, Bytes::new()).await?;
        times.push(started.elapsed());
    }
    let used = server.processor_time()? - before;
    row(&format!("list, {PODS} pods, {name}"), millis(median(&mut times)), "ms");
    row("  fastest", millis(times[0]), "ms");
    row("  server's processor", millis(used) / LISTS as f64, "ms");
    row("  bytes of a pod", bytes as f64 / PODS as f64, "");
    Ok(())
}

async fn memory(server: &Server, when: &str, idle: u64) -> anyhow::Result<()> {
    let resident = server.memory()?;
    let mut client: Client = server.client(Protocol::Http2).await?;
    let stored = client.count(Method::GET, PODS_PATH, Bytes::new()).await? as u64;
    row(&format!("memory, {MORE_PODS} pods, {when}"), mebibytes(resident), "MiB");
    row("  stored bytes", mebibytes(stored), "MiB");
    let over = resident.saturating_sub(idle) as f64 / stored as f64;
    row("  more than idle, of stored bytes", over * 100.0, "%");
    Ok(())
}

fn small_map(number: usize) -> Bytes {
    json!({ "metadata": { "name": format!("k-{number}") }, "data": { "a": "x".repeat(500) } })
        .to_string()
        .into()
}

async fn restart(program: &Path, directory: &Path) -> anyhow::Result<()> {
    let place: TempDir = tempfile::tempdir_in(directory)?;
    let server = Server::start(program, &place).await?;
    let started = Instant::now();
    fill(&server, MAPS, 0..KEYS, small_map).await?;
    row(
        &format!("create, {LOADERS} clients, {KEYS} in all"),
        KEYS as f64 / started.elapsed().as_secs_f64(),
        "/s",
    );
    server.stop();
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let server = Server::start(program, &place).await?;
        times.push(server.took);
        server.stop();
    }
    row(&format!("start with {KEYS} objects"), millis(median(&mut times)), "ms");
    Ok(())
}

async fn leak(program: &Path, directory: &Path) -> anyhow::Result<()> {
    let place = tempfile::tempdir_in(directory)?;
    let server = Server::start(program, &place).await?;
    for step in 1..=LEAK_STEPS {
        let mut clients = JoinSet::new();
        for number in 0..LOADERS {
            let mut client = server.client(Protocol::Http2).await?;
            clients.spawn(async move {
                let name = format!("leak-{number}");
                let target = format!("{MAPS}/{name}");
                // The first of a step creates, unless an earlier step has.
                let _exists = client.count(Method::POST, MAPS, map(&name)).await;
                for _ in 0..LEAK_STEP / LOADERS {
                    client.count(Method::PUT, &target, map(&name)).await?;
                }
                anyhow::Ok(0)
            });
        }
        sum(clients).await?;
        row(&format!("leak, {} writes", step * LEAK_STEP), mebibytes(server.memory()?), "MiB");
    }
    server.stop();
    Ok(())
}
