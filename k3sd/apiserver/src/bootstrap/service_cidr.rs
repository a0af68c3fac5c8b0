//! The ServiceCIDR object of the configured ranges, `kubernetes` (upstream's `defaultservicecidr` controller).

use std::sync::Arc;

use machinery::meta;
use serde_json::{Value, json};
use tracing::warn;

use super::{failed, own_user, own_writes, present};
use crate::server::{Shared, StartError};
use crate::verbs::update::{self, Target};

const GROUP: &str = "networking.k8s.io";
const PLURAL: &str = "servicecidrs";
pub(super) const NAME: &str = "kubernetes";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// Make it, or add the range of a second family to it. Ranges that are other than those stored are only told of: services have
/// addresses in the old ones.
pub(super) async fn ensure(shared: &Arc<Shared>) -> Result<(), StartError> {
    let cidrs: Vec<String> = shared.allocators.service_cidrs.iter().map(ToString::to_string).collect();
    if cidrs.is_empty() {
        return Ok(());
    }
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": NAME, "finalizers": [FINALIZER] },
        "spec": { "cidrs": cidrs },
    });
    present(shared, GROUP, PLURAL, "", object).await?;
    change(shared, "", |stored| {
        let old = cidrs_of(stored);
        let mut next = stored.clone();
        if old.len() < cidrs.len() && cidrs.starts_with(&old) {
            next["spec"]["cidrs"] = json!(cidrs);
        } else if old != cidrs {
            warn!(stored = ?old, configured = ?cidrs, "the service ranges are not those of ServiceCIDR 'kubernetes'");
        }
        next
    })
    .await?;
    change(shared, "status", |stored| {
        let mut next = stored.clone();
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let conditions = stored.pointer("/status/conditions").and_then(Value::as_array);
        if meta::deletion_timestamp(stored).is_none() && !conditions.is_some_and(|all| all.iter().any(ready))
        {
            next["status"] = json!({ "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "",
                "message": "Kubernetes default Service CIDR is ready",
                "lastTransitionTime": meta::now(),
            }] });
        }
        next
    })
    .await
}

fn cidrs_of(object: &Value) -> Vec<String> {
    let cidrs = object.pointer("/spec/cidrs").and_then(Value::as_array);
    cidrs.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn change(
    shared: &Arc<Shared>,
    subresource: &str,
    change: impl Fn(&Value) -> Value + Send + Sync,
) -> Result<(), StartError> {
    let tables = shared.registry.tables();
    let Some(entry) = tables.find_any(GROUP, PLURAL) else { return Ok(()) };
    let user = own_user();
    let target = Target { entry, user: &user, namespace: "", name: NAME, subresource };
    let options = own_writes();
    let changed = update::change(shared, target, &options, |current| Ok(change(current)));
    changed.await.map(drop).map_err(|status| failed(PLURAL, NAME, status))
}
