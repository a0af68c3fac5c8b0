//! A bound claim may only grow if its class says so; validation refuses that it grows before (upstream's `plugin/pkg/admission/storage/persistentvolume/resize`).

use async_trait::async_trait;
use machinery::quantity::Quantity;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

pub(super) struct ClaimResize;

#[async_trait]
impl Plugin for ClaimResize {
    async fn validate(&self, review: &Review<'_>, claim: &Value) -> Result<(), Status> {
        let Some(old) = review.old else { return Ok(()) };
        if review.operation != Operation::Update
            || !review.is("", "persistentvolumeclaims", "")
            || size(claim) <= size(old)
        {
            return Ok(());
        }
        let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str).unwrap_or_default();
        let class = review.cx.objects.object("storage.k8s.io", "storageclasses", "", class);
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        Err(review.forbid(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

fn size(claim: &Value) -> Option<Quantity> {
    Quantity::from_value(claim.pointer("/spec/resources/requests/storage")?).ok()
}
