//! The controllers: each makes one part of the cluster be as some object says.
//!
//! One file per controller; each begins by stating what it reads and what it owns. They share one shape: informers feed
//! keys into a work queue, and `reconcile` brings one key's object in order, from the caches and with as few writes as
//! it takes. A controller has no state that it could not find again.

mod bootstrap_signer;
mod certificate_approving;
mod certificate_cleaner;
mod certificate_signing;
mod context;
mod daemon_set;
mod deployment;
mod discovery;
mod endpoint_slice;
mod endpoints;
mod expectations;
mod garbage_collector;
mod history;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod ownership;
mod pod;
mod pod_control;
mod pod_gc;
mod replica_set;
mod resource_quota;
mod root_ca;
mod service;
mod service_account;
mod service_account_token;
mod service_cidr;
mod signing_request;
mod stateful_set;
mod storage_protection;
mod taint_eviction;
mod template_hash;
mod token_cleaner;

use std::sync::Arc;

use anyhow::Context as _;
use client::{Informers, Recorder};
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

pub use crate::certificate_signing::{Authority, IssueError, Issuer};
use crate::context::Context;
pub use crate::service_account_token::SecretToken;

/// The controllers' settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the nodes' pod networks are cut from, one per address family.
    pub cluster_cidrs: Vec<IpNet>,
    /// The prefix length of a node's IPv4 pod network.
    pub node_cidr_mask_ipv4: u8,
    /// The prefix length of a node's IPv6 pod network.
    pub node_cidr_mask_ipv6: u8,
    /// The certificates (PEM) by which pods know the API server.
    pub root_ca: String,
}

/// Runs every controller until `cancel`, which must end the informers too. `issuer` makes the certificates of approved requests.
///
/// # Errors
/// If a controller ends before that.
pub async fn run(
    config: Config,
    issuer: Arc<dyn Issuer>,
    client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let context = Context::new(config, issuer, client, informers, cancel);
    let mut tasks = JoinSet::new();
    // Macros rather than a table: each controller's future has its own type.
    macro_rules! start {
        ($($module:ident),* $(,)?) => { $({
            let context = context.clone();
            let span = info_span!("controller", name = stringify!($module));
            tasks.spawn(async move { $module::run(context).await; stringify!($module) }.instrument(span));
        })* };
    }
    start!(
        bootstrap_signer,
        certificate_approving,
        certificate_cleaner,
        certificate_signing,
        daemon_set,
        deployment,
        endpoint_slice,
        endpoints,
        garbage_collector,
        job,
        namespace,
        node_ipam,
        node_lifecycle,
        pod_gc,
        replica_set,
        resource_quota,
        root_ca,
        service_account,
        service_account_token,
        service_cidr,
        stateful_set,
        storage_protection,
        taint_eviction,
        token_cleaner,
    );
    info!(controllers = tasks.len(), "controllers started");
    while let Some(ended) = tasks.join_next().await {
        let name = ended.context("a controller panicked")?;
        anyhow::ensure!(context.cancel.is_cancelled(), "controller {name} ended");
    }
    Ok(())
}

/// The name under which the controllers' events appear is the controller's own, as upstream has it.
fn recorder(context: &Context, component: &str) -> Recorder {
    Recorder::new(context.client.clone(), component, "", context.cancel.clone())
}
