//! The service proxy: ClusterIP, NodePort, external and load-balancer addresses in table `skerry-services`.
//!
//! Informers feed a small [`model`]; [`rules`] computes from it what the table should hold, and [`script`] the transaction that
//! leads there from what it holds. Nothing is applied when nothing changed, and nothing is ever polled. At the start the
//! whole table is replaced, which removes stale state; at an orderly stop the rules stay, so that services go on working while the
//! daemon is exchanged.
//!
//! Current limitations: no topology-aware routing (hints, `trafficDistribution`), no `healthCheckNodePort` server.

mod model;
mod rules;
mod script;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::BTreeMap;
use std::time::Duration;

use client::{Backoff, Informer, Informers, ObjectKey, Stored};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::model::{Family, Model, Service, Slice};
use self::rules::{Rules, Site};
use self::udp::Fronts;
use crate::{conntrack, nft, sysctl};

/// Changes that come together (a service and its slice) go out together.
const GATHER: Duration = Duration::from_millis(10);
/// A rollout of many pods costs a few transactions per second, not hundreds.
const INTERVAL: Duration = Duration::from_millis(250);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the proxy needs to know of its node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the own node: which endpoints are local.
    pub node_name: String,
    /// Pod networks of the cluster, one per address family: their sources are never masqueraded on the way to a cluster IP.
    pub cluster_cidrs: Vec<IpNet>,
}

/// Runs the proxy until `cancel`. It never ends on its own: what fails is logged and tried again.
pub async fn run(
    config: Config,
    _client: kube::Client,
    informers: Informers,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let services: Informer<core::Service> = informers.shared();
    let slices: Informer<discovery::EndpointSlice> = informers.shared();
    let mut proxy = Proxy::new(config);
    allow_localhost();
    let work = async {
        // Subscribed before the lists are read, so no change in between is lost.
        let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
        services.synced().await;
        slices.synced().await;
        // All at once: rules made of half the services would cut off the other half.
        for service in services.list() {
            proxy.service(service.key().clone(), Some(service));
        }
        for slice in slices.list() {
            proxy.slice(slice.key().clone(), Some(slice));
        }
        proxy.due = Some(Instant::now());
        loop {
            let due = proxy.due;
            tokio::select! {
                Some(key) = service_changes.next() => { let service = services.get(&key); proxy.service(key, service) }
                Some(key) = slice_changes.next() => { let slice = slices.get(&key); proxy.slice(key, slice) }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => proxy.apply().await,
                else => return,
            }
        }
    };
    cancel.run_until_cancelled(work).await;
    info!("service proxy stopped, its rules stay");
    Ok(())
}

struct Proxy {
    site: Site,
    model: Model,
    /// What the kernel has, per family; nothing for a family whose table is not ours yet.
    applied: BTreeMap<Family, Rules>,
    pace: nft::Pace,
    /// When to apply next; `None`: there is nothing to do.
    due: Option<Instant>,
    backoff: Backoff,
    /// The UDP services for which connection tracking was last cleaned.
    udp: BTreeMap<Family, Fronts>,
}

impl Proxy {
    fn new(config: Config) -> Self {
        Self {
            site: Site { node: config.node_name, cluster_cidrs: config.cluster_cidrs },
            model: Model::default(),
            applied: BTreeMap::new(),
            pace: nft::Pace::new(GATHER, INTERVAL),
            due: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            udp: BTreeMap::new(),
        }
    }

    fn service(&mut self, key: ObjectKey, stored: Option<Stored<core::Service>>) {
        let service = decode(stored).as_ref().and_then(Service::project);
        if self.model.set_service(key, service) {
            self.changed();
        }
    }

    fn slice(&mut self, key: ObjectKey, stored: Option<Stored<discovery::EndpointSlice>>) {
        let slice = decode(stored).as_ref().and_then(Slice::project);
        if self.model.set_slice(key, slice) {
            self.changed();
        }
    }

    fn changed(&mut self) {
        let at = self.pace.due();
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    async fn apply(&mut self) {
        self.due = None;
        self.pace.start();
        for family in [Family::V4, Family::V6] {
            if let Err(error) = self.apply_family(family).await {
                let delay = self.backoff.next_delay();
                warn!(error = %error, ?family, retry_in = ?delay, "failed to apply the services' rules");
                self.due = Some(Instant::now() + delay);
                return;
            }
        }
        self.backoff.reset();
        for family in [Family::V4, Family::V6] {
            self.release_udp_clients(family).await;
        }
    }

    /// Frees UDP clients from endpoints that are gone. Best effort: a client that is not freed comes free with its next
    /// pause.
    async fn release_udp_clients(&mut self, family: Family) {
        let fronts = udp::fronts(&self.model, family);
        if self.udp.get(&family).unwrap_or(&Fronts::new()) == &fronts {
            return;
        }
        self.udp.insert(family, fronts.clone());
        let work = move || conntrack::delete_udp(family == Family::V6, |entry| udp::is_stale(&fronts, entry));
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(count)) => debug!(?family, count, "stale UDP connections removed"),
            Ok(Err(error)) => warn!(error = %error, ?family, "cannot remove stale UDP connections"),
            Err(error) => warn!(error = %error, "removing stale UDP connections ended early"),
        }
    }

    async fn apply_family(&mut self, family: Family) -> Result<(), nft::Error> {
        let wanted = rules::rules(&self.model, family, &self.site);
        if let Some(present) = self.applied.get(&family) {
            let Some(change) = script::change(present, &wanted, family) else { return Ok(()) };
            match nft::apply(script::TABLE, &change).await {
                Ok(()) => {
                    debug!(?family, lines = change.lines().count(), "services' rules changed");
                    self.applied.insert(family, wanted);
                    return Ok(());
                }
                // Somebody else has changed the table; the whole of it cannot collide with what is there.
                Err(error) => warn!(error = %error, ?family, "replacing the services' rules as a whole"),
            }
            self.applied.remove(&family);
        }
        // A node without IPv6 services need not even have IPv6: there is no table, unless one is left of before.
        if family == Family::V6 && wanted == Rules::default() {
            if nft::list_table(script::family_name(family), script::TABLE).await?.is_some() {
                nft::apply(script::TABLE, &script::removal(family)).await?;
            }
            return Ok(());
        }
        nft::apply(script::TABLE, &script::whole(&wanted, family)).await?;
        info!(?family, services = self.model.services.len(), "services' rules applied");
        self.applied.insert(family, wanted);
        Ok(())
    }
}

/// An object that cannot be read is treated as gone: there is nothing to make rules of.
fn decode<K: DeserializeOwned>(stored: Option<Stored<K>>) -> Option<K> {
    let stored = stored?;
    stored.decode().inspect_err(|error| warn!(error = %error, "cannot read an object")).ok()
}

/// Node ports answer on 127.0.0.1 too, as with K3s; packets with such a source leave the node only masqueraded.
fn allow_localhost() {
    if let Err(error) = sysctl::set("net/ipv4/conf/all/route_localnet", "1") {
        warn!(error = %error, "node ports will not answer on 127.0.0.1");
    }
}
