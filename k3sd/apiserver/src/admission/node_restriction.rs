//! A kubelet writes its own node, its own lease and the pods bound to it, and nothing else
//! (the part of upstream's `NodeRestriction` that needs no graph).

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    async fn validate(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        let user = review.cx.user;
        let Some(node) = user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"))
        else {
            return Ok(());
        };
        match (review.cx.resource.group.as_str(), review.cx.resource.plural.as_str()) {
            ("", "nodes") if review.name != node => {
                Err(review
                    .forbid(&format!("node \"{node}\" is not allowed to modify node \"{}\"", review.name)))
            }
            ("", "nodes") if review.operation == Operation::Update => taints(review, node, object),
            ("", "pods") => pod(review, node, object),
            ("coordination.k8s.io", "leases")
                if review.cx.namespace != "kube-node-lease" || review.name != node =>
            {
                Err(review.forbid("can only access node lease with the same name as the requesting node"))
            }
            ("", "serviceaccounts") if review.cx.subresource == "token" => token(review, node, object),
            _ => Ok(()),
        }
    }
}

fn taints(review: &Review<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let before = review.old.and_then(|old| old.pointer("/spec/taints"));
    if object.pointer("/spec/taints") != before {
        return Err(review.forbid(&format!("node \"{node}\" is not allowed to modify taints")));
    }
    Ok(())
}

fn pod(review: &Review<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let on_node = |pod: &Value| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node);
    match review.operation {
        Operation::Create if review.cx.subresource.is_empty() => {
            if meta::annotation(object, MIRROR).is_none() {
                return Err(review.forbid(&format!(
                    "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
                )));
            }
            if !on_node(object) {
                return Err(review.forbid(&format!(
                    "node \"{node}\" can only create pods with spec.nodeName set to itself"
                )));
            }
            Ok(())
        }
        Operation::Update | Operation::Delete if !review.old.is_some_and(on_node) => {
            Err(review
                .forbid(&format!("node \"{node}\" can only change pods with spec.nodeName set to itself")))
        }
        _ => Ok(()),
    }
}

/// Tokens only for pods that run on the node.
fn token(review: &Review<'_>, node: &str, request: &Value) -> Result<(), Status> {
    let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/spec/boundObjectRef/kind") != "Pod" {
        return Err(review.forbid("node requested token not bound to a pod"));
    }
    let pod = review.cx.objects.object("", "pods", review.cx.namespace, text("/spec/boundObjectRef/name"));
    let pod = pod.ok_or_else(|| review.forbid("node requested token bound to a pod that does not exist"))?;
    if meta::uid(&pod) != text("/spec/boundObjectRef/uid") {
        return Err(review.forbid("node requested token bound to a pod with another uid"));
    }
    let scheduled = pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node);
    let account = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str) == Some(review.name);
    if !scheduled || !account {
        return Err(review.forbid("node requested token bound to a pod scheduled on a different node"));
    }
    Ok(())
}
