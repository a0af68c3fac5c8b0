//! The components of a server and what each is told: the one place that knows all of them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use apiserver::{ApiServer, MASTERS};
use client::Informers;
use supervisor::join::server::Endpoints;
use supervisor::pki::{ServerPki, Signer};

use super::issuer::Issuer;
use super::{client_as, joining, role};
use crate::config::server::Server;
use crate::node::{self, Access, Accesses, Certificates, Cluster, Readiness};
use crate::notify::Notifier;
use crate::tasks::Tasks;

/// Manifests the appliance brings along, beside what people put into the data directory.
const BUNDLED_MANIFESTS: &str = "/usr/share/skerry/manifests";
/// Prefix lengths of one node's share of the pod network.
const NODE_CIDR_MASK_IPV4: u8 = 24;
const NODE_CIDR_MASK_IPV6: u8 = 64;

/// What every component is given.
struct Start<'a> {
    config: &'a Server,
    pki: &'a Files,
    api: &'a ApiServer,
    informers: Informers,
    tasks: &'a mut Tasks,
}

/// The files that components read, and what signs.
pub(super) struct Files {
    server_ca: PathBuf,
    certificates: Certificates,
    signer: Arc<Signer>,
}

impl Files {
    pub(super) fn of(pki: &ServerPki) -> Self {
        let certificates =
            Certificates { serving: pki.kubelet_serving.clone(), client_ca: pki.client_ca.clone() };
        Self { server_ca: pki.server_ca.clone(), certificates, signer: pki.signer.clone() }
    }
}

/// Starts everything that talks to the API.
pub(super) fn start(
    config: &Server,
    pki: &Files,
    api: &ApiServer,
    endpoints: Arc<Endpoints>,
    notifier: &Arc<Notifier>,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    // The caches are shared by all components, so they are read as the one that may read everything.
    let reader = client_as(api, "system:kube-controller-manager", &[]);
    let informers = Informers::in_process(reader, tasks.cancel().clone());
    let mut start = Start { config, pki, api, informers, tasks };
    start.control_plane()?;
    start.joining(endpoints);
    start.node(notifier);
    Ok(())
}

impl Start<'_> {
    fn control_plane(&mut self) -> anyhow::Result<()> {
        let config = self.config;
        let cancel = self.tasks.cancel().clone();
        let root_ca = std::fs::read_to_string(&self.pki.server_ca)
            .with_context(|| format!("failed to read {}", self.pki.server_ca.display()))?;
        let controllers = controllers::Config {
            cluster_cidrs: vec![config.cluster_cidr],
            node_cidr_mask_ipv4: NODE_CIDR_MASK_IPV4,
            node_cidr_mask_ipv6: NODE_CIDR_MASK_IPV6,
            root_ca,
        };
        let client = client_as(self.api, "system:kube-controller-manager", &[]);
        let issuer = Arc::new(Issuer { signer: self.pki.signer.clone(), api: self.api.clone() });
        let run = controllers::run(controllers, issuer, client, self.informers.clone(), cancel.clone());
        self.tasks.spawn("controllers", run);

        if !config.disable_scheduler {
            let client = client_as(self.api, "system:kube-scheduler", &[]);
            let settings = scheduler::Config::default();
            let run = scheduler::run(settings, client, self.informers.clone(), cancel.clone());
            self.tasks.spawn("scheduler", run);
        }

        let deploy = addons::deploy::Config {
            // The first directory wins: what people put there replaces what the image brought.
            dirs: vec![config.data_dir.join("server/manifests"), PathBuf::from(BUNDLED_MANIFESTS)],
            disable: config.disabled_manifests.clone(),
        };
        let client = client_as(self.api, "system:k3s-supervisor", &[MASTERS]);
        let run = addons::deploy::run(deploy, client, self.informers.clone(), cancel.clone());
        self.tasks.spawn("deploy", run);
        Ok(())
    }

    fn joining(&mut self, endpoints: Arc<Endpoints>) {
        let client = client_as(self.api, "system:k3s-supervisor", &[MASTERS]);
        let node = self.config.node.as_ref().map(|_| self.config.identity.name.clone());
        let (informers, cancel) = (self.informers.clone(), self.tasks.cancel().clone());
        let run = joining::keep_node_passwords(endpoints, node, client, informers, cancel);
        self.tasks.spawn("node-passwords", run);
    }

    fn node(&mut self, notifier: &Arc<Notifier>) {
        let config = self.config;
        let Some(node) = &config.node else { return };
        let client = client_as(self.api, "system:k3s-supervisor", &[MASTERS]);
        let (informers, cancel) = (self.informers.clone(), self.tasks.cancel().clone());
        let run = role::keep(config.identity.name.clone(), client, informers, cancel);
        self.tasks.spawn("role", run);
        let access = |name: &str, groups: &[&str]| Access {
            client: client_as(self.api, name, groups),
            informers: self.informers.clone(),
        };
        let start = node::Start {
            identity: &config.identity,
            node,
            data_dir: &config.data_dir,
            cluster: Cluster {
                pod_cidrs: vec![config.cluster_cidr],
                dns: config.cluster_dns.clone(),
                domain: config.cluster_domain.clone(),
                backend: config.backend,
                proxy: !config.disable_kube_proxy,
            },
            accesses: Accesses {
                kubelet: access(&format!("system:node:{}", config.identity.name), &["system:nodes"]),
                proxy: access("system:kube-proxy", &[]),
                network: access("system:k3s-controller", &[]),
            },
            certificates: self.pki.certificates.clone(),
            notifier,
            readiness: Readiness::Announced,
        };
        start.spawn(self.tasks);
    }
}
