//! Claims and volumes begin with a finalizer, so that deleting them waits until nobody uses them (upstream's
//! `plugin/pkg/admission/storage/storageobjectinuseprotection`). The controllers take it away.

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

pub(super) struct StorageProtection;

#[async_trait]
impl Plugin for StorageProtection {
    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create {
            return Ok(());
        }
        let finalizer = if review.is("", "persistentvolumeclaims", "") {
            "kubernetes.io/pvc-protection"
        } else if review.is("", "persistentvolumes", "") {
            "kubernetes.io/pv-protection"
        } else {
            return Ok(());
        };
        let mut finalizers: Vec<String> = meta::finalizers(object).map(str::to_owned).collect();
        if !finalizers.iter().any(|known| known == finalizer) {
            finalizers.push(finalizer.to_owned());
            meta::set_finalizers(object, finalizers);
        }
        Ok(())
    }
}
