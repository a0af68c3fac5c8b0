//! `k3sd server`: starts the components in the order they need each other, and stops them in the reverse.
//!
//! 1. Take the port, before anything is written, so that a second server on the machine changes nothing.
//! 2. Certificates, tokens, kubeconfig.
//! 3. Datastore, API server; from here on the API answers, and the service manager is told.
//! 4. Controllers, scheduler, deploy controller; then the node: containerd, kubelet, network, service proxy.
//!
//! A component that ends by itself ends the daemon; the service manager starts it again, and containers are not touched.

mod components;
mod issuer;
mod joining;
mod role;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use apiserver::{ApiServer, UserInfo};
use datastore::Datastore as _;
use datastore::sqlite::Sqlite;
use supervisor::kubeconfig::Kubeconfig;
use supervisor::pki::{Params, ServerPki};
use supervisor::token::{self, Passwords};
use tokio::net::TcpListener;
use tracing::{debug, info};

use crate::VERSION;
use crate::config::server::Server as Config;
use crate::notify::Notifier;
use crate::tasks::{Tasks, stop_signal};

/// After this the components have their first lists, but for clusters so large that a few megabytes do not matter.
const SETTLED: Duration = Duration::from_secs(5);

/// Runs the server until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, notifier: Arc<Notifier>) -> anyhow::Result<()> {
    let started = Instant::now();
    info!(version = VERSION, node = %config.identity.name, "k3sd server starts");
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("failed to listen on {}; is another server running?", config.listen))?;
    let (pki, passwords) = prepare_files(&config).await?;
    let store = Arc::new(open_datastore(&config.database).await?);

    // Components stop first, then the API they talk to, then the datastore below it.
    let mut serving = Tasks::new("API server");
    let api = api_config(&config, &pki)?;
    let api = ApiServer::start(api, store.clone(), serving.cancel().clone()).await?;
    let files = components::Files::of(&pki);
    let endpoints = joining::endpoints(&config, &pki, passwords, &api);
    let api = api.with_extra_routes(Arc::new(joining::Routes::new(endpoints.clone())));
    serving.spawn("API server", {
        let (api, cancel) = (api.clone(), serving.cancel().clone());
        async move { Ok(api.serve(listener, cancel).await?) }
    });
    notifier.ready();
    info!(address = %config.listen, elapsed = ?started.elapsed(), "API server answers");

    let mut tasks = Tasks::new("components");
    components::start(&config, &files, &api, endpoints, &notifier, &mut tasks)?;
    let outcome = tokio::select! {
        signal = stop_signal() => signal,
        error = tasks.failure() => Err(error),
        error = serving.failure() => Err(error),
        never = settle() => match never {},
    };

    notifier.stopping();
    tasks.stop().await;
    serving.stop().await;
    store.close().await;
    info!("stopped");
    outcome
}

/// The start reads everything that is stored, in pieces, and components list it; the allocator would keep the memory of that.
async fn settle() -> Infallible {
    tokio::time::sleep(SETTLED).await;
    let released = tokio::task::spawn_blocking(sys::memory::release_freed).await;
    debug!(released = released.unwrap_or_default(), "start is over");
    std::future::pending().await
}

/// Certificates, tokens and kubeconfig; blocking file work, done once.
async fn prepare_files(config: &Config) -> anyhow::Result<(ServerPki, Passwords)> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        let params = Params {
            node_name: config.identity.name.clone(),
            node_ips: config.identity.ips.clone(),
            tls_sans: config.tls_sans.clone(),
            service_ip: config.service_address(),
            cluster_domain: config.cluster_domain.clone(),
        };
        let pki = ServerPki::load_or_create(&config.data_dir, &params)?;
        let (token, agent_token) = (config.token.as_deref(), config.agent_token.as_deref());
        let passwords = token::write_server_files(&config.data_dir, &pki.server_ca, token, agent_token)?;
        let kubeconfig = Kubeconfig {
            server: &config.local_url(),
            name: &config.kubeconfig_name,
            ca: &pki.server_ca,
            client: &pki.admin,
            mode: config.kubeconfig_mode,
        };
        kubeconfig.write(&config.kubeconfig)?;
        Ok((pki, passwords))
    })
    .await?
}

async fn open_datastore(path: &Path) -> anyhow::Result<Sqlite> {
    if let Some(directory) = path.parent() {
        tokio::fs::create_dir_all(directory)
            .await
            .with_context(|| format!("failed to create {}", directory.display()))?;
    }
    Ok(Sqlite::open(path).await?)
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
        service_account_keys: pki.service_account_keys.clone(),
        client_ca: certificates_from_file(&pki.client_ca)?,
        serving: Identity::from_files(&pki.serving.cert, &pki.serving.key)?,
        kubelet_client: Identity::from_files(&pki.kubelet_client.cert, &pki.kubelet_client.key)?,
        kubelet_ca: certificates_from_file(&pki.server_ca)?,
        audit: config.audit.clone(),
        admission: config.admission.clone(),
    })
}

/// A client that calls straight into the API server's pipeline as somebody.
fn client_as(api: &ApiServer, name: &str, groups: &[&str]) -> kube::Client {
    kube::Client::new(api.service_as(UserInfo::new(name, groups)), "default")
}
