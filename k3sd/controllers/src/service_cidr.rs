//! Says of service ranges that they are ready, and lets them go when nobody has an address in them.
//!
//! Reads: ServiceCIDRs, IPAddresses. Owns: the finalizer `networking.k8s.io/service-cidr-finalizer`, and the condition `Ready` of
//! ServiceCIDRs, by which the API server knows the ranges it may give addresses from. Follows
//! `pkg/controller/servicecidrs` of v1.36: an address that another range holds as well keeps no range.

use std::{net::IpAddr, sync::Arc, time::Duration};

use client::{
    Informer, ObjectKey, WorkQueue,
    request::{self, Patch},
    run_workers,
};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::context::{Context, feed, own_key, path};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How long a range stays after it was marked: whoever began to allocate from it before has stored its address by then
/// (upstream's `deletionGracePeriod`).
const GRACE: Duration = Duration::from_secs(10);

struct Controller {
    context: Context,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

/// What is looked at of a range.
#[derive(Deserialize)]
struct View {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    resource_version: String,
    deletion_timestamp: Option<Timestamp>,
    #[serde(default)]
    finalizers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    cidrs: Vec<IpNet>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
}

pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        ranges: context.informers.shared(),
        addresses: context.informers.shared(),
        context: context.clone(),
    });
    controller.ranges.synced().await;
    controller.addresses.synced().await;
    let queue = WorkQueue::new();
    let worker = controller.clone();
    let reconcile = move |key| {
        let controller = worker.clone();
        async move { controller.reconcile(key).await }
    };
    tokio::join!(
        feed(&controller.ranges, &queue, |change| {
            // What waits to go may be kept or let go by any other range.
            controller.leaving().into_iter().chain(own_key(change)).collect::<Vec<_>>()
        }),
        feed(&controller.addresses, &queue, |change| {
            if change.new.is_none() { controller.leaving() } else { Vec::new() }
        }),
        run_workers("service_cidr", queue.clone(), 1, context.cancel.clone(), reconcile),
    );
}

impl Controller {
    /// The ranges that are marked for deletion.
    fn leaving(&self) -> Vec<ObjectKey> {
        let marked = |view: View| view.metadata.deletion_timestamp.is_some();
        let ranges = self.ranges.list();
        ranges.iter().filter(|range| range.project().is_ok_and(marked)).map(|r| r.key().clone()).collect()
    }

    async fn reconcile(&self, key: ObjectKey) -> anyhow::Result<Option<Duration>> {
        let Some(range) = self.ranges.get(&key) else { return Ok(None) };
        let view: View = range.project()?;
        let held = view.metadata.finalizers.iter().any(|name| name == FINALIZER);
        let Some(since) = view.metadata.deletion_timestamp else {
            if !held {
                self.set_finalizers(&key, &view, |names| names.push(FINALIZER.to_owned())).await?;
            }
            self.tell(&key, &view, "True", "", "Kubernetes Service CIDR is ready").await?;
            return Ok(None);
        };
        if !held {
            return Ok(None);
        }
        if self.is_in_use(&key, &view.spec.cidrs)? {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            self.tell(&key, &view, "False", "Terminating", why).await?;
            return Ok(None);
        }
        let waited = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
        if let Some(left) = GRACE.checked_sub(waited).filter(|left| !left.is_zero()) {
            return Ok(Some(left));
        }
        self.set_finalizers(&key, &view, |names| names.retain(|name| name != FINALIZER)).await?;
        Ok(None)
    }

    /// Whether services have addresses in these ranges that are in no other.
    fn is_in_use(&self, key: &ObjectKey, cidrs: &[IpNet]) -> anyhow::Result<bool> {
        let mut others: Vec<IpNet> = Vec::new();
        for range in self.ranges.list().iter().filter(|range| range.key() != key) {
            let view: View = range.project()?;
            if view.metadata.deletion_timestamp.is_none() {
                others.extend(view.spec.cidrs);
            }
        }
        for address in self.addresses.list() {
            let Ok(ip) = address.key().name.parse::<IpAddr>() else { continue };
            let only_here =
                cidrs.iter().any(|net| net.contains(&ip)) && !others.iter().any(|net| net.contains(&ip));
            let managed = || {
                let labels = address.metadata()?.labels.unwrap_or_default();
                anyhow::Ok(labels.get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR))
            };
            if only_here && managed()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn set_finalizers(
        &self,
        key: &ObjectKey,
        view: &View,
        change: impl FnOnce(&mut Vec<String>),
    ) -> anyhow::Result<()> {
        let mut names = view.metadata.finalizers.clone();
        change(&mut names);
        // The list is sent whole, so only to the object it was read from.
        let body =
            json!({"metadata": {"resourceVersion": view.metadata.resource_version, "finalizers": names}});
        self.patch(&path::<ServiceCIDR>(key), &body).await
    }

    /// Writes the condition unless it says so already.
    async fn tell(
        &self,
        key: &ObjectKey,
        view: &View,
        status: &str,
        reason: &str,
        message: &str,
    ) -> anyhow::Result<()> {
        let said = |condition: &Condition| {
            condition.kind == "Ready" && condition.status == status && condition.reason == reason
        };
        if view.status.conditions.iter().any(said) {
            return Ok(());
        }
        let body = json!({"status": {"conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}});
        self.patch(&format!("{}/status", path::<ServiceCIDR>(key)), &body).await
    }

    async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        match request::patch::<Value>(&self.context.client, path, Patch::Merge, body).await {
            Ok(_) => Ok(()),
            Err(error) if request::is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
