//! `k3sd server`: starts the components in the order they need each other, and stops them in the reverse.
//!
//! 1. Take the port, before anything is written, so that a second server on the machine changes nothing.
//! 2. Certificates, tokens, kubeconfig.
//! 3. Datastore, API server; from here on the API answers, and the service manager is told.
//! 4. Controllers, scheduler, deploy controller; then the node: containerd, kubelet, network, service proxy.
//!
//! A component that ends by itself ends the daemon; the service manager starts it again, and containers are not touched.

mod components;
mod status;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use apiserver::{ApiServer, UserInfo};
use datastore::Datastore as _;
use datastore::sqlite::Sqlite;
use supervisor::kubeconfig::Kubeconfig;
use supervisor::pki::{Params, ServerPki};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::notify::Notifier;

/// The Kubernetes version served, with our own build behind the plus sign.
pub(crate) const VERSION: &str = concat!("v1.36.2+skerry", env!("CARGO_PKG_VERSION"));
/// How long open requests and components may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let started = Instant::now();
    info!(version = VERSION, node = %config.node_name, "k3sd starts");
    for setting in &config.unknown_settings {
        warn!(%setting, "unknown key in the configuration file is ignored");
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("failed to listen on {}; is another server running?", config.listen))?;
    let notifier = Arc::new(Notifier::from_environment());
    let pki = prepare_files(&config).await?;
    let store = Arc::new(open_datastore(&config.data_dir).await?);

    // Components stop first, then the API they talk to, then the datastore below it.
    let (components, api_cancel) = (CancellationToken::new(), CancellationToken::new());
    let api = ApiServer::start(api_config(&config, &pki)?, store.clone(), api_cancel.clone()).await?;
    let mut serving = JoinSet::new();
    serving.spawn({
        let (api, cancel) = (api.clone(), api_cancel.clone());
        async move { api.serve(listener, cancel).await.context("the API server ended") }
    });
    notifier.ready();
    info!(address = %config.listen, elapsed = ?started.elapsed(), "API server answers");

    let mut tasks = components::start(&config, &pki, &api, &notifier, &components)?;
    let outcome = tokio::select! {
        signal = stop_signal() => signal.map(|name| info!(signal = name, "stopping")),
        Some(ended) = tasks.join_next() => Err(failure(ended)),
        Some(ended) = serving.join_next() => Err(failure(ended)),
    };

    notifier.stopping();
    components.cancel();
    drain("components", &mut tasks).await;
    api_cancel.cancel();
    drain("API server", &mut serving).await;
    store.close().await;
    info!("stopped");
    outcome
}

/// Certificates, tokens and kubeconfig; blocking file work, done once.
async fn prepare_files(config: &Config) -> anyhow::Result<ServerPki> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        let params = Params {
            node_name: config.node_name.clone(),
            node_ips: config.node_ips.clone(),
            tls_sans: config.tls_sans.clone(),
            service_ip: config.service_address(),
            cluster_domain: config.cluster_domain.clone(),
        };
        let pki = ServerPki::load_or_create(&config.data_dir, &params)?;
        let (token, agent_token) = (config.token.as_deref(), config.agent_token.as_deref());
        supervisor::token::write_server_files(&config.data_dir, &pki.server_ca, token, agent_token)?;
        let kubeconfig = Kubeconfig {
            server: &config.local_url(),
            name: &config.kubeconfig_name,
            ca: &pki.server_ca,
            client: &pki.admin,
            mode: config.kubeconfig_mode,
        };
        kubeconfig.write(&config.kubeconfig)?;
        Ok(pki)
    })
    .await?
}

async fn open_datastore(data_dir: &Path) -> anyhow::Result<Sqlite> {
    let directory = data_dir.join("server/db");
    tokio::fs::create_dir_all(&directory)
        .await
        .with_context(|| format!("failed to create {}", directory.display()))?;
    Ok(Sqlite::open(&directory.join("state.db")).await?)
}

fn api_config(config: &Config, pki: &ServerPki) -> anyhow::Result<apiserver::Config> {
    use apiserver::config::{Identity, certificates_from_file};
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    Ok(apiserver::Config {
        service_cidrs: vec![config.service_cidr],
        node_port_range: config.node_ports.clone(),
        cluster_domain: config.cluster_domain.clone(),
        advertise_address: config.advertise_address,
        advertise_port: config.listen.port(),
        version: VERSION.to_owned(),
        api_audiences: vec![issuer.clone(), "k3s".to_owned()],
        service_account_issuer: issuer,
        service_account_keys: vec![Arc::new(pki.service_account_key.clone_key().into())],
        client_ca: certificates_from_file(&pki.client_ca)?,
        serving: Identity::from_files(&pki.serving.cert, &pki.serving.key)?,
        kubelet_client: Identity::from_files(&pki.kubelet_client.cert, &pki.kubelet_client.key)?,
        kubelet_ca: certificates_from_file(&pki.server_ca)?,
    })
}

/// A client that calls straight into the API server's pipeline as somebody.
fn client_as(api: &ApiServer, name: &str, groups: &[&str]) -> kube::Client {
    kube::Client::new(api.service_as(UserInfo::new(name, groups)), "default")
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn failure(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("a component ended"),
        Ok(Err(error)) => error,
        Err(error) => anyhow::Error::new(error).context("a component panicked"),
    }
}

/// Waits for tasks to end, for a while; what does not is cut off.
async fn drain(what: &str, tasks: &mut JoinSet<anyhow::Result<()>>) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                warn!(error = format!("{error:#}"), "failed while stopping");
            }
        }
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        warn!(what, left = tasks.len(), "did not end in time and is cut off");
        tasks.shutdown().await;
    }
}
