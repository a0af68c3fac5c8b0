//! Pods get the zone and region of their node as labels, so that the downward API can tell them (upstream's `PodTopologyLabels`).

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) struct PodTopologyLabels;

#[async_trait]
impl Plugin for PodTopologyLabels {
    async fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create {
            return Ok(());
        }
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let node = if review.is("", "pods", "") {
            text("/spec/nodeName")
        } else if review.is("", "pods", "binding") && text("/target/kind") == "Node" {
            text("/target/name")
        } else {
            ""
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = review.cx.objects.object("", "nodes", "", node) else { return Ok(()) };
        for key in LABELS {
            if let Some(value) = meta::label(&node, key) {
                meta::set_label(object, key, value);
            }
        }
        Ok(())
    }
}
