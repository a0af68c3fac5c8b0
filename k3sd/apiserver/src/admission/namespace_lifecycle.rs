//! Nothing is created in namespaces that do not exist or are going, and the cluster's own namespaces stay.

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    async fn mutate(&self, review: &Review<'_>, _object: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.cx.subresource.is_empty() {
            return Ok(());
        }
        let resource = review.cx.resource;
        // Reviews are answered in terminating namespaces, too.
        if !resource.namespaced || !resource.is_stored() {
            return Ok(());
        }
        let namespace = review.cx.namespace;
        let Some(found) = review.cx.objects.object("", "namespaces", "", namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if meta::deletion_timestamp(&found).is_none() {
            return Ok(());
        }
        let mut status = review.forbid(&format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        ));
        if let Some(details) = &mut status.details {
            details.causes.push(machinery::status::Cause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".to_owned(),
            });
        }
        Err(status)
    }

    async fn validate(&self, review: &Review<'_>, _object: &Value) -> Result<(), Status> {
        let deletes = review.operation == Operation::Delete && review.is("", "namespaces", "");
        if deletes && IMMORTAL.contains(&review.name) {
            return Err(review.forbid("this namespace may not be deleted"));
        }
        Ok(())
    }
}
