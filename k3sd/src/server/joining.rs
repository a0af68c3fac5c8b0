//! The join protocol on the API's port: [`supervisor::join::server`] behind the API server's TLS.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use apiserver::{ApiServer, ExtraFuture, ExtraRoutes, MASTERS, UserInfo};
use bytes::Bytes;
use client::Informers;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use supervisor::join::server::{Caller, Endpoints, TokenFiles};
use supervisor::join::{Cidr, PortRange, Settings};
use supervisor::node_password;
use supervisor::pki::ServerPki;
use supervisor::token::Passwords;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client_as;
use crate::config::server::Server;

/// What answers machines that join.
pub(super) fn endpoints(
    config: &Server,
    pki: &ServerPki,
    passwords: Passwords,
    api: &ApiServer,
) -> Arc<Endpoints> {
    let client = client_as(api, "system:k3s-supervisor", &[MASTERS]);
    let files = TokenFiles { data_dir: config.data_dir.clone(), server_ca: pki.server_ca.clone() };
    Arc::new(Endpoints::new(settings(config), passwords, files, pki.signer.clone(), &client))
}

/// What agents are told of the cluster.
fn settings(config: &Server) -> Settings {
    let (cluster, service) = (Cidr(config.cluster_cidr), Cidr(config.service_cidr));
    let (first, last) = (*config.node_ports.start(), *config.node_ports.end());
    let port = config.listen.port();
    Settings {
        cluster_ip_ranges: vec![cluster],
        cluster_ip_range: Some(cluster),
        service_ip_ranges: vec![service],
        service_ip_range: Some(service),
        cluster_dnss: config.cluster_dns.clone(),
        cluster_dns: config.cluster_dns.first().copied(),
        cluster_domain: config.cluster_domain.clone(),
        service_node_port_range: Some(PortRange { base: first, size: last - first + 1 }),
        flannel_backend: config.backend.name().to_owned(),
        egress_selector_mode: "disabled".to_owned(),
        https_port: port,
        supervisor_port: port,
        advertise_ip: config.advertise_address.to_string(),
        advertise_port: port,
        server_node_name: config.identity.name.clone(),
        disable_kube_proxy: config.disable_kube_proxy,
        // What this server has none of; an agent must not wait for it.
        disable_ccm: true,
        disable_npc: true,
        disable_service_lb: true,
        disable_helm_controller: true,
        ..Settings::default()
    }
}

/// The endpoints as the API server asks for them.
pub(super) struct Routes(Arc<Endpoints>);

impl Routes {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        Self(endpoints)
    }
}

impl ExtraRoutes for Routes {
    fn owns(&self, path: &str) -> bool {
        Endpoints::owns(path)
    }

    fn answer(
        &self,
        request: Request<UnsyncBoxBody<Bytes, apiserver::BoxError>>,
        client: Option<UserInfo>,
    ) -> ExtraFuture {
        let endpoints = self.0.clone();
        Box::pin(async move {
            let caller = client.map(|user| Caller { name: user.name, groups: user.groups });
            Some(endpoints.answer(request, caller).await.map(Into::into))
        })
    }
}

/// Keeps node passwords in order until `cancel`; `node` is the server's own, if it is one.
pub(super) async fn keep_node_passwords(
    endpoints: Arc<Endpoints>,
    node: Option<String>,
    client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    if let Some(node) = node {
        let password =
            tokio::task::spawn_blocking(|| node_password::ensure_file(Path::new(node_password::FILE)))
                .await
                .context("interrupted")??;
        // Before the Node exists nobody else can have its name; afterwards nobody else shall.
        if let Err(error) = endpoints.node_passwords().claim(&node, &password).await {
            warn!(node, error = %error, "the password of this server's own node is not recorded");
        }
    }
    node_password::keep(client, informers, cancel).await;
    Ok(())
}

#[cfg(test)]
mod tests;
