//! Pods stay five minutes on nodes that are not ready or not reachable, unless they say otherwise
//! (upstream's `DefaultTolerationSeconds`).

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) struct DefaultTolerations;

#[async_trait]
impl Plugin for DefaultTolerations {
    async fn mutate(&self, review: &Review<'_>, pod: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.is("", "pods", "") {
            return Ok(());
        }
        let spec = meta::child_mut(meta::object_mut(pod), "spec");
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        let Some(tolerations) = tolerations.as_array_mut() else { return Ok(()) };
        for taint in TAINTS {
            let text = |toleration: &Value, field: &str| {
                toleration.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let covered = tolerations.iter().any(|toleration| {
                let (key, effect) = (text(toleration, "key"), text(toleration, "effect"));
                (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
            });
            if !covered {
                tolerations.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}
