//! Lists the pods of every service in the older `Endpoints` objects, which some clients still read.
//!
//! Reads: services, pods. Owns: the `Endpoints` of services that have a selector.
//! Follows `pkg/controller/endpoint/endpoints_controller.go` of v1.36.

use std::{collections::BTreeMap, sync::Arc};

use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use crate::{
    context::{Context, feed, own_key, path},
    service::{self, ResolvedPort, resolve_ports, selected_pods, services_of_change},
    service_account::is_terminating,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const WORKERS: usize = 5;

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        services: context.informers.shared(),
        pods: context.informers.shared(),
        endpoints: context.informers.shared(),
        context: context.clone(),
    });
    controller.services.synced().await;
    controller.pods.synced().await;
    controller.endpoints.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await.map(|()| None) }
    };
    tokio::join!(
        feed(&controller.services, &queue, own_key),
        feed(&controller.pods, &queue, |change| services_of_change(&controller.services, &change)),
        feed(&controller.endpoints, &queue, own_key),
        run_workers("endpoints", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<()> {
        let present = self.endpoints.get(&key).map(|stored| stored.decode()).transpose()?;
        let Some(stored) = self.services.get(&key) else {
            return self.delete_leftover(&key, present).await;
        };
        let service = stored.decode()?;
        let spec = service.spec.clone().unwrap_or_default();
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            return Ok(());
        };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let pods = selected_pods(&self.pods, key.namespace(), selector)?;
        let subsets = subsets(&key.name, &spec, &pods);
        let labels = labels(&service);
        match present {
            None => self.create(&key, labels, subsets).await,
            Some(present) => {
                let same = present.subsets.clone().unwrap_or_default() == subsets
                    && present.metadata.labels.as_ref() == Some(&labels);
                if same {
                    return Ok(());
                }
                let mut changed = Endpoints { subsets: Some(subsets), ..present };
                changed.metadata.labels = Some(labels);
                let path = path::<Endpoints>(&key);
                request::replace::<Endpoints>(&self.context.client, &path, &changed).await?;
                Ok(())
            }
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        labels: BTreeMap<String, String>,
        subsets: Vec<EndpointSubset>,
    ) -> anyhow::Result<()> {
        let metadata =
            ObjectMeta { name: Some(key.name.clone()), labels: Some(labels), ..ObjectMeta::default() };
        let endpoints = Endpoints { metadata, subsets: Some(subsets) };
        match self.context.api(key.namespace()).create(&PostParams::default(), &endpoints).await {
            Ok(_) => Ok(()),
            Err(error) if is_terminating(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The endpoints of a service that is gone go too, if they were made here.
    async fn delete_leftover(&self, key: &ObjectKey, present: Option<Endpoints>) -> anyhow::Result<()> {
        let labels = present.and_then(|present| present.metadata.labels).unwrap_or_default();
        if labels.get(MANAGED_BY).map(String::as_str) != Some(MANAGER) {
            return Ok(());
        }
        let api = self.context.api::<Endpoints>(key.namespace());
        match api.delete(&key.name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// One subset for each list of ports that some of the pods serve.
fn subsets(name: &str, spec: &ServiceSpec, pods: &[service::Pod]) -> Vec<EndpointSubset> {
    let publish = spec.publish_not_ready_addresses == Some(true);
    let family = spec.ip_families.as_ref().and_then(|families| families.first());
    let family = family.map_or("IPv4", String::as_str);
    let headless_without_ports =
        spec.cluster_ip.as_deref() == Some("None") && spec.ports.iter().flatten().count() == 0;
    let mut groups = BTreeMap::<Vec<ResolvedPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>)>::new();
    for pod in pods.iter().filter(|pod| publish || !pod.is_terminating()) {
        let Some(ip) = pod.address(family) else { continue };
        let ports = resolve_ports(spec, pod);
        if ports.is_empty() && !headless_without_ports {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: pod.hostname_in(name),
            node_name: pod.node_name().map(str::to_owned),
            target_ref: Some(pod.reference()),
        };
        let (ready, not_ready) = groups.entry(ports).or_default();
        if publish || pod.is_ready() { ready.push(address) } else { not_ready.push(address) }
    }
    let sorted = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    let subset = |(ports, (ready, not_ready)): (Vec<ResolvedPort>, _)| EndpointSubset {
        addresses: sorted(ready),
        not_ready_addresses: sorted(not_ready),
        ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|ports| !ports.is_empty()),
    };
    groups.into_iter().map(subset).collect()
}

fn port(port: ResolvedPort) -> EndpointPort {
    EndpointPort {
        app_protocol: port.app_protocol,
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_listed_by_readiness_and_terminating_ones_are_left_out() {
        let pod = |name: &str, ip: &str, ready: bool, leaving: bool| -> service::Pod {
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name,
                    "deletionTimestamp": leaving.then_some("2026-01-01T00:00:00Z")},
                "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]},
            }))
            .unwrap()
        };
        let spec: ServiceSpec = serde_json::from_value(json!({"ports": [{"port": 80}]})).unwrap();
        let pods = [
            pod("b", "10.0.0.2", true, false),
            pod("a", "10.0.0.1", true, false),
            pod("c", "10.0.0.3", false, false),
            pod("d", "10.0.0.4", true, true),
        ];
        let target = |name: &str| json!({"kind": "Pod", "namespace": "n", "name": name, "uid": name});
        assert_eq!(
            serde_json::to_value(subsets("s", &spec, &pods)).unwrap(),
            json!([{
                "addresses": [{"ip": "10.0.0.1", "targetRef": target("a")}, {"ip": "10.0.0.2", "targetRef": target("b")}],
                "notReadyAddresses": [{"ip": "10.0.0.3", "targetRef": target("c")}],
                "ports": [{"port": 80, "protocol": "TCP"}],
            }])
        );
        assert!(subsets("s", &spec, &[]).is_empty());
    }
}
