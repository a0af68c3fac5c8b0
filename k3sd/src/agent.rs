//! `k3sd agent`: joins a cluster, then runs the components of a node against its servers.
//!
//! Joining is tried until it succeeds, whatever is in the way: a server that is not there yet comes, a token or a name can be put
//! right on the other side. Meanwhile the service manager is told what is waited for. Once joined, the servers may come and
//! go: every component goes on by itself when one is back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::remote::Servers;
use client::{Backoff, Informers};
use supervisor::join::agent::{Join, Joined};
use supervisor::join::{Cidr, Settings};
use supervisor::node_password;
use supervisor::pki::NodeCertificate;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::VERSION;
use crate::config::agent::Agent as Config;
use crate::node::{Access, Accesses, Certificates, Cluster, Readiness, Start};
use crate::notify::Notifier;
use crate::tasks::{Tasks, stop_signal};

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config, notifier: Arc<Notifier>) -> anyhow::Result<()> {
    info!(version = VERSION, node = %config.identity.name, server = %config.server, "k3sd agent starts");
    let servers = Servers::new(config.server.clone());
    let joining = join(&config, &servers, &notifier);
    let joined = tokio::select! {
        signal = stop_signal() => return signal,
        joined = joining => joined,
    };
    let mut tasks = Tasks::new("components");
    let cluster = cluster(&joined.settings)?;
    let accesses = accesses(&joined, &servers, tasks.cancel())?;
    joined.write_kubeconfigs(&format!("https://{}", config.server))?;
    let start = Start {
        identity: &config.identity,
        node: &config.node,
        data_dir: &config.data_dir,
        cluster,
        accesses: accesses.clone(),
        certificates: Certificates {
            serving: joined.files(NodeCertificate::ServingKubelet),
            client_ca: joined.client_ca.clone(),
        },
        notifier: &notifier,
        readiness: Readiness::WhenRegistered,
    };
    start.spawn(&mut tasks);
    let outcome = tokio::select! {
        signal = stop_signal() => signal,
        error = tasks.failure() => Err(error),
    };
    notifier.stopping();
    tasks.stop().await;
    info!("stopped");
    outcome
}

/// Joins, however long it takes.
async fn join(config: &Config, servers: &Servers, notifier: &Notifier) -> Joined {
    let join = Join {
        servers: servers.clone(),
        token: config.token.clone(),
        node_name: config.identity.name.clone(),
        node_ips: config.identity.ips.clone(),
        data_dir: config.data_dir.clone(),
        password_file: PathBuf::from(node_password::FILE),
    };
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut before = String::new();
    notifier.status(&format!("joining https://{}", config.server));
    loop {
        let failure = match join.attempt().await {
            Ok(joined) => {
                info!(server = %config.server, "joined");
                notifier.status(&format!("joined https://{}", config.server));
                return joined;
            }
            Err(failure) => failure,
        };
        let transient = failure.is_transient();
        let reason = format!("{:#}", anyhow::Error::new(failure));
        let delay = backoff.next_delay();
        // Once per reason: a server that is away for hours is one line.
        if reason != before {
            match transient {
                true => warn!(server = %config.server, reason, "not joined yet"),
                false => error!(server = %config.server, reason, "cannot join"),
            }
            let verb = if transient { "waiting to join" } else { "cannot join" };
            notifier.status(&format!("{verb} https://{}: {reason}", config.server));
            before = reason;
        }
        tokio::time::sleep(delay).await;
    }
}

/// What the server said of the cluster, as far as this version can follow it.
fn cluster(settings: &Settings) -> anyhow::Result<Cluster> {
    let backend =
        settings.flannel_backend.parse().context("the cluster's flannel backend cannot be followed")?;
    let pod_cidrs: Vec<_> = settings.cluster_ip_ranges.iter().map(|Cidr(net)| *net).collect();
    anyhow::ensure!(!pod_cidrs.is_empty(), "the server names no network of pods");
    Ok(Cluster {
        pod_cidrs,
        dns: settings.cluster_dnss.clone(),
        domain: settings.cluster_domain.clone(),
        backend,
        proxy: !settings.disable_kube_proxy,
    })
}

fn accesses(joined: &Joined, servers: &Servers, cancel: &CancellationToken) -> anyhow::Result<Accesses> {
    let access = |certificate| -> anyhow::Result<Access> {
        let client = joined.client(servers.clone(), certificate)?;
        Ok(Access { informers: Informers::new(client.clone(), cancel.clone()), client })
    };
    Ok(Accesses {
        kubelet: access(NodeCertificate::ClientKubelet)?,
        proxy: access(NodeCertificate::ClientKubeProxy)?,
        network: access(NodeCertificate::ClientK3sController)?,
    })
}
