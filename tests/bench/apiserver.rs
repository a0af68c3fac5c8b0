//! How fast the API server answers, over a real datastore file, in process (no TLS): what its own pipeline costs.
//!
//! Run: `cargo run --release -p tests --example bench-apiserver -- [DIRECTORY]`. The directory decides which disk is measured.
//!
//! | case | what it does | budget |
//! | --- | --- | --- |
//! | start | `ApiServer::start` on an empty datastore, every bootstrap object durable | part of 300 ms |
//! | create, 64 clients | ConfigMaps of about 1.5 KB, each client waiting for its answer | 80 % of SQLite alone |
//! | get | one object, again and again, on one core | 20,000 a second |
//! | list | all pods, bytes counted | 5,000 pods in 25 ms |
//! | fan-out | one change to a thousand watchers, until the last has it | 10 ms |

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::config::{Config, Identity};
use apiserver::{ApiServer, Body, UserInfo};
use bytes::Bytes;
use datastore::sqlite::Sqlite;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

type Error = Box<dyn std::error::Error + Send + Sync>;

const CASE: Duration = Duration::from_secs(3);
const CLIENTS: usize = 64;
const PODS: usize = 5_000;
const WATCHERS: usize = 1_000;
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const MAPS_PATH: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let base = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = tempfile::tempdir_in(base)?;
    let cancel = CancellationToken::new();
    let started = Instant::now();
    let store = Sqlite::open(&directory.path().join("state.db")).await?;
    let api = ApiServer::start(config()?, Arc::new(store), cancel.clone()).await?;
    println!("start                 {:>10.1} ms", millis(started.elapsed()));
    create(&api).await?;
    get(&api).await?;
    list(&api).await?;
    fan_out(&api).await?;
    cancel.cancel();
    Ok(())
}

fn config() -> Result<Config, Error> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let der = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = Identity { chain: vec![certificate.der().clone()], key: Arc::new(der()) };
    Ok(Config {
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        node_port_range: 30000..=32767,
        cluster_domain: "cluster.local".to_owned(),
        advertise_address: "192.0.2.1".parse()?,
        advertise_port: 6443,
        version: "v1.36.2".to_owned(),
        service_account_issuer: "https://kubernetes.default.svc".to_owned(),
        api_audiences: vec!["https://kubernetes.default.svc".to_owned()],
        service_account_keys: vec![Arc::new(der())],
        client_ca: vec![certificate.der().clone()],
        serving: identity.clone(),
        kubelet_client: identity,
        kubelet_ca: vec![certificate.der().clone()],
        audit: None,
        admission: None,
    })
}

async fn call(api: &ApiServer, method: Method, target: &str, body: String) -> Result<Response<Body>, Error> {
    let user = UserInfo::new("system:kube-controller-manager", &[]);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = api.service_as(user).oneshot(request).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let text = response.into_body().collect().await?.to_bytes();
    Err(String::from_utf8_lossy(&text).into_owned().into())
}

async fn create(api: &ApiServer) -> Result<(), Error> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let api = api.clone();
        clients.spawn(async move {
            let mut made = 0usize;
            while started.elapsed() < CASE {
                let name = format!("c-{client}-{made}");
                let object = json!({ "metadata": { "name": name }, "data": { "a": "x".repeat(1300) } });
                call(&api, Method::POST, MAPS_PATH, object.to_string()).await?;
                made += 1;
            }
            Ok::<usize, Error>(made)
        });
    }
    let mut made = 0;
    while let Some(count) = clients.join_next().await {
        made += count??;
    }
    println!("create, {CLIENTS} clients    {:>10.0} /s", made as f64 / started.elapsed().as_secs_f64());
    Ok(())
}

async fn get(api: &ApiServer) -> Result<(), Error> {
    let target = format!("{MAPS_PATH}/c-0-0");
    let started = Instant::now();
    let mut got = 0usize;
    while started.elapsed() < CASE {
        let response = call(api, Method::GET, &target, String::new()).await?;
        response.into_body().collect().await?;
        got += 1;
    }
    println!("get                   {:>10.0} /s", got as f64 / started.elapsed().as_secs_f64());
    Ok(())
}

async fn list(api: &ApiServer) -> Result<(), Error> {
    let account = json!({ "metadata": { "name": "default" } }).to_string();
    call(api, Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await?;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let api = api.clone();
        clients.spawn(async move {
            for number in (client..PODS).step_by(CLIENTS) {
                let pod = json!({
                    "metadata": { "name": format!("p-{number}"), "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "c", "image": "localhost/x:1", "env": [{ "name": "A", "value": "x".repeat(1000) }] }] },
                });
                call(&api, Method::POST, PODS_PATH, pod.to_string()).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    let (mut best, mut bytes) = (Duration::MAX, 0);
    for _ in 0..20 {
        let started = Instant::now();
        let mut body = call(api, Method::GET, PODS_PATH, String::new()).await?.into_body();
        bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        best = best.min(started.elapsed());
    }
    println!("list {PODS} pods        {:>10.1} ms ({:.1} MB)", millis(best), bytes as f64 / 1e6);
    Ok(())
}

async fn fan_out(api: &ApiServer) -> Result<(), Error> {
    let target = "/api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=60";
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut body = call(api, Method::GET, target, String::new()).await?.into_body();
        watchers.spawn(async move {
            let first = body.frame().await;
            (first.is_some_and(|frame| frame.is_ok()), Instant::now())
        });
    }
    let object = json!({ "metadata": { "name": "s" } }).to_string();
    call(api, Method::POST, "/api/v1/namespaces/default/secrets", object).await?;
    let started = Instant::now();
    let mut last = started;
    while let Some(seen) = watchers.join_next().await {
        let (seen, at) = seen?;
        if !seen {
            return Err("a watch ended early".into());
        }
        last = last.max(at);
    }
    println!(
        "fan-out to {WATCHERS}       {:>10.1} ms after the write was acknowledged",
        millis(last - started)
    );
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
