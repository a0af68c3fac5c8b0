//! Lists the pods of every service in endpoint slices, for the service proxy and DNS.
//!
//! Reads: services, pods, nodes (for zones). Owns: the endpoint slices labelled as managed by it.
//! Follows `staging/src/k8s.io/endpointslice` of v1.36.

mod plan;

use std::{sync::Arc, time::Duration};

use client::{Informer, ObjectKey, WorkQueue, request, run_workers};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::{DeleteParams, PostParams};

use self::plan::{Actions, Template};
use crate::{
    context::{Context, feed, own_key, path},
    expectations::Expectations,
    service::{selected_pods, services_of_change},
    service_account::is_terminating,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The name of the index of slices by service.
const BY_SERVICE: &str = "service";
const BEHIND: Duration = Duration::from_millis(500);
const WORKERS: usize = 5;

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    expectations: Expectations<ObjectKey>,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        services: context.informers.shared(),
        pods: context.informers.shared(),
        nodes: context.informers.shared(),
        slices: context.informers.shared(),
        expectations: Expectations::new(),
        context: context.clone(),
    });
    controller.slices.index(BY_SERVICE, |raw| service_of(raw).into_iter().collect());
    controller.services.synced().await;
    controller.pods.synced().await;
    controller.nodes.synced().await;
    controller.slices.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let worker = worker.clone();
        async move { worker.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.services, &queue, own_key),
        feed(&controller.pods, &queue, |change| services_of_change(&controller.services, &change)),
        feed(&controller.slices, &queue, |change| {
            let service = |stored: client::Stored<EndpointSlice>| service_of(stored.raw());
            let name = change.new.and_then(service).or_else(|| change.old.and_then(service))?;
            let (namespace, name) = name.split_once('/')?;
            Some(ObjectKey::namespaced(namespace, name))
        }),
        run_workers("endpoint_slice", queue.clone(), WORKERS, context.cancel.clone(), reconcile),
    );
}

/// `namespace/name` of the service that a slice of ours belongs to.
fn service_of(raw: &[u8]) -> Option<String> {
    let object: client::PartialObject = serde_json::from_slice(raw).ok()?;
    let labels = object.metadata.labels?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let service = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(format!("{}/{service}", object.metadata.namespace.unwrap_or_default()))
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(stored) = self.services.get(&key) else {
            // Its slices are collected as its dependents.
            self.expectations.forget(&key);
            return Ok(None);
        };
        if !self.expectations.satisfied(&key, &self.slices) {
            return Ok(Some(BEHIND));
        }
        let service = stored.decode()?;
        let spec = service.spec.clone().unwrap_or_default();
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
            return Ok(None);
        };
        if service.metadata.deletion_timestamp.is_some() || spec.type_.as_deref() == Some("ExternalName") {
            return Ok(None);
        }
        let pods = selected_pods(&self.pods, key.namespace(), selector)?;
        let present = self.slices.by_index(BY_SERVICE, &key.to_string());
        let present = present.iter().map(|slice| slice.decode()).collect::<Result<Vec<_>, _>>()?;
        let template = Template::of(&service);
        let actions = plan::plan(&template, &spec, &pods, present, |node| self.zone(node));
        self.apply(&key, actions).await?;
        Ok(None)
    }

    fn zone(&self, node: &str) -> Option<String> {
        let node = self.nodes.get(&ObjectKey::cluster(node))?;
        node.metadata().ok()?.labels?.remove("topology.kubernetes.io/zone")
    }

    async fn apply(&self, key: &ObjectKey, actions: Actions) -> anyhow::Result<()> {
        let api = self.context.api::<EndpointSlice>(key.namespace());
        for slice in actions.update {
            let path = path::<EndpointSlice>(&ObjectKey::of(&slice));
            let updated: EndpointSlice = request::replace(&self.context.client, &path, &slice).await?;
            self.expectations.expect_revision(key.clone(), updated.metadata.resource_version.as_deref());
        }
        for slice in actions.create {
            match api.create(&PostParams::default(), &slice).await {
                Ok(created) => {
                    let version = created.metadata.resource_version.as_deref();
                    self.expectations.expect_revision(key.clone(), version);
                }
                Err(error) if is_terminating(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for slice in actions.delete {
            let slice_key = ObjectKey::of(&slice);
            match api.delete(&slice_key.name, &DeleteParams::default()).await {
                Ok(_) => {
                    let uid = slice.metadata.uid.unwrap_or_default();
                    self.expectations.expect_deletion(key.clone(), slice_key, uid);
                }
                Err(error) if request::is_not_found(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
