//! Nodes begin tainted as not ready, so that no pod comes before they are (upstream's `TaintNodesByCondition`). The node
//! lifecycle controller takes the taint away.

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(super) struct TaintNewNodes;

#[async_trait]
impl Plugin for TaintNewNodes {
    async fn mutate(&self, review: &Review<'_>, node: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.is("", "nodes", "") {
            return Ok(());
        }
        let spec = meta::child_mut(meta::object_mut(node), "spec");
        let taints = spec.entry("taints").or_insert_with(|| json!([]));
        if let Some(taints) = taints.as_array_mut()
            && !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == EFFECT)
        {
            taints.push(json!({ "key": NOT_READY, "effect": EFFECT }));
        }
        Ok(())
    }
}
