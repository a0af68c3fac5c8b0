//! Objects that every cluster has. Written at each start where they are missing, so that deleting one heals.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{select_all, try_join_all};
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::cache::Cache;
use crate::options::{Ownership, WriteOptions};
use crate::server::{Shared, StartError};
use crate::user::{MASTERS, UserInfo};
use crate::verbs::create;
use crate::verbs::update::{self, Target};

mod roles;
mod service_cidr;

pub(crate) use roles::node_rules;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The service of the API server, as `namespace/name`.
const KUBERNETES: &str = "default/kubernetes";
const RETRY: Duration = Duration::from_secs(10);
const RBAC: &str = "rbac.authorization.k8s.io";

/// Make sure that everything is there.
pub(crate) async fn ensure(shared: &Arc<Shared>) -> Result<(), StartError> {
    // Together, so that they share the datastore's commits.
    let (roles, bindings) = (roles::cluster_roles(), roles::cluster_role_bindings());
    futures::try_join!(
        all_present(shared, RBAC, "clusterroles", "", roles),
        all_present(shared, RBAC, "clusterrolebindings", "", bindings),
        all_present(shared, "scheduling.k8s.io", "priorityclasses", "", priority_classes()),
        namespaces_and_service(shared),
        service_cidr::ensure(shared),
    )?;
    Ok(())
}

async fn namespaces_and_service(shared: &Arc<Shared>) -> Result<(), StartError> {
    let namespace = |name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    all_present(shared, "", "namespaces", "", NAMESPACES.map(namespace).to_vec()).await?;
    kubernetes_service(shared).await
}

/// Bring back what somebody deletes while the server runs: the `kubernetes` service with its endpoints, and the system namespaces
/// (upstream's `kubernetesservice` and `systemnamespaces` controllers). Wakes when one of these kinds changes, and looks only
/// whether they are there.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let kept = kept_keys(&shared);
    let mut pulses: Vec<_> = kept.iter().map(|(cache, _)| cache.subscribe()).collect();
    loop {
        let changed = select_all(pulses.iter_mut().map(|pulse| Box::pin(pulse.changed())));
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            _ = changed => {}
        }
        if kept.iter().all(|(cache, keys)| keys.iter().all(|key| cache.get(key).is_some())) {
            continue;
        }
        let brought_back = async {
            service_cidr::ensure(&shared).await?;
            namespaces_and_service(&shared).await
        };
        if let Err(error) = brought_back.await {
            let error = crate::errors::chain(&error);
            warn!(error, "failed to bring back the cluster's own objects");
            // What failed now (a full disk) will not be better at once.
            tokio::select! {
                () = shared.cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// What is kept, by cache. Endpoints that could not be published at start are not missed later.
fn kept_keys(shared: &Shared) -> Vec<(Arc<Cache>, Vec<&'static str>)> {
    let tables = shared.registry.tables();
    let wanted: [(&str, &str, &[&'static str]); 5] = [
        ("", "namespaces", &NAMESPACES),
        ("", "services", &[KUBERNETES]),
        ("", "endpoints", &[KUBERNETES]),
        ("discovery.k8s.io", "endpointslices", &[KUBERNETES]),
        ("networking.k8s.io", "servicecidrs", &[service_cidr::NAME]),
    ];
    let cache_of = |group, plural| tables.find_any(group, plural).and_then(|entry| entry.cache.clone());
    wanted
        .into_iter()
        .filter_map(|(group, plural, keys)| {
            let published = keys.iter().all(|key| {
                let (namespace, name) = key.split_once('/').unwrap_or(("", key));
                shared.registry.contains(group, plural, namespace, name)
            });
            cache_of(group, plural).filter(|_| published).map(|cache| (cache, keys.to_vec()))
        })
        .collect()
}

/// Objects that every cluster has are owned by the server itself.
pub(crate) fn own_writes() -> WriteOptions {
    WriteOptions { ownership: Ownership::Manager("kube-apiserver".to_owned()), ..WriteOptions::default() }
}

/// The identity behind the server's own writes.
pub(crate) fn own_user() -> UserInfo {
    UserInfo::new("system:apiserver", &[MASTERS])
}

fn priority_classes() -> Vec<Value> {
    [
        ("system-cluster-critical", 2_000_000_000, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ]
    .map(|(name, value, description)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": { "name": name },
            "value": value,
            "description": description,
        })
    })
    .to_vec()
}

/// The service under which pods find the API server, and where it leads.
async fn kubernetes_service(shared: &Arc<Shared>) -> Result<(), StartError> {
    let config = &shared.config;
    let Some(address) = config.service_address() else { return Ok(()) };
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    let port = config.advertise_port;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "kubernetes", "labels": labels },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "sessionAffinity": "None",
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": port }],
        },
    });
    present(shared, "", "services", "default", service).await?;
    let family = if config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": family,
        "endpoints": [{ "addresses": [config.advertise_address], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "protocol": "TCP", "port": port }],
    });
    publish(
        kept(shared, "discovery.k8s.io", "endpointslices", "default", slice, &["endpoints", "ports"]).await,
    );
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": "kubernetes", "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
        "subsets": [{
            "addresses": [{ "ip": config.advertise_address }],
            "ports": [{ "name": "https", "protocol": "TCP", "port": port }],
        }],
    });
    publish(kept(shared, "", "endpoints", "default", endpoints, &["subsets"]).await);
    Ok(())
}

/// An address that cannot be published (loopback) keeps pods from the API, but not the server from serving.
fn publish(result: Result<(), StartError>) {
    if let Err(error) = result {
        let error = crate::errors::chain(&error);
        warn!(error, "failed to publish the address of the api server");
    }
}

/// Create an object, or bring these fields of the one that exists up to date.
async fn kept(
    shared: &Arc<Shared>,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
    fields: &[&str],
) -> Result<(), StartError> {
    let name = meta::name(&object).to_owned();
    if !shared.registry.contains(group, plural, namespace, &name) {
        return present(shared, group, plural, namespace, object).await;
    }
    let tables = shared.registry.tables();
    let Some(entry) = tables.find_any(group, plural) else { return Ok(()) };
    let user = own_user();
    let target = Target { entry, user: &user, namespace, name: &name, subresource: "" };
    let options = own_writes();
    let changed = update::change(shared, target, &options, |current| {
        let mut next = current.clone();
        for field in fields {
            next[*field] = object[*field].clone();
        }
        Ok(next)
    });
    changed.await.map(drop).map_err(|status| failed(plural, &name, status))
}

async fn all_present(
    shared: &Arc<Shared>,
    group: &str,
    plural: &str,
    namespace: &str,
    objects: Vec<Value>,
) -> Result<(), StartError> {
    try_join_all(objects.into_iter().map(|object| present(shared, group, plural, namespace, object)))
        .await
        .map(drop)
}

/// Create an object unless it exists.
async fn present(
    shared: &Arc<Shared>,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
) -> Result<(), StartError> {
    let name = meta::name(&object).to_owned();
    if shared.registry.contains(group, plural, namespace, &name) {
        return Ok(());
    }
    match write(shared, group, plural, namespace, object).await {
        Ok(()) => debug!(plural, name, "bootstrap object created"),
        // Another server was faster.
        Err(status) if status.code == 409 => {}
        Err(status) => return Err(failed(plural, &name, status)),
    }
    Ok(())
}

fn failed(plural: &str, name: &str, status: Status) -> StartError {
    StartError::Bootstrap { what: format!("{plural} '{name}'"), source: Box::new(status) }
}

async fn write(
    shared: &Arc<Shared>,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
) -> Result<(), Status> {
    let tables = shared.registry.tables();
    let entry = tables.find_any(group, plural).ok_or_else(Status::unknown_path)?;
    let user = own_user();
    create::create(shared, entry, &user, namespace, object, &own_writes()).await.map(drop)
}
