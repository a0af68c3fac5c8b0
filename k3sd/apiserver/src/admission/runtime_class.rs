//! Pods with a runtime class get its overhead and the nodes it is for (upstream's `plugin/pkg/admission/runtimeclass`).

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Review};

pub(super) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    async fn mutate(&self, review: &Review<'_>, pod: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.is("", "pods", "") {
            return Ok(());
        }
        let name = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str).unwrap_or_default();
        let overhead = pod.pointer("/spec/overhead").filter(|overhead| !overhead.is_null()).cloned();
        if name.is_empty() {
            return match overhead {
                None => Ok(()),
                Some(_) => Err(review.forbid(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                )),
            };
        }
        let class = review.cx.objects.object("node.k8s.io", "runtimeclasses", "", name);
        let class = class
            .ok_or_else(|| review.forbid(&format!("pod rejected: RuntimeClass \"{name}\" not found")))?;
        set_overhead(review, pod, &class, overhead)?;
        match class.get("scheduling").filter(|scheduling| !scheduling.is_null()) {
            Some(scheduling) => set_scheduling(review, pod, scheduling),
            None => Ok(()),
        }
    }
}

fn set_overhead(
    review: &Review<'_>,
    pod: &mut Value,
    class: &Value,
    given: Option<Value>,
) -> Result<(), Status> {
    let fixed = class.pointer("/overhead/podFixed").filter(|fixed| !fixed.is_null());
    match (given, fixed) {
        (Some(_), None) => Err(review
            .forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        (Some(given), Some(fixed)) if given != *fixed => {
            Err(review.forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
        }
        (_, Some(fixed)) => {
            meta::child_mut(meta::object_mut(pod), "spec").insert("overhead".to_owned(), fixed.clone());
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

fn set_scheduling(review: &Review<'_>, pod: &mut Value, scheduling: &Value) -> Result<(), Status> {
    let spec = meta::child_mut(meta::object_mut(pod), "spec");
    if let Some(wanted) = scheduling.get("nodeSelector").and_then(Value::as_object) {
        let selector = meta::child_mut(spec, "nodeSelector");
        for (key, value) in wanted {
            if selector.get(key).is_some_and(|own| own != value) {
                let own = selector[key].as_str().unwrap_or_default();
                return Err(review.forbid(&format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {own}",
                    value.as_str().unwrap_or_default()
                )));
            }
            selector.insert(key.clone(), value.clone());
        }
    }
    if let Some(wanted) = scheduling.get("tolerations").and_then(Value::as_array) {
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(tolerations) = tolerations.as_array_mut() {
            for toleration in wanted {
                if !tolerations.contains(toleration) {
                    tolerations.push(toleration.clone());
                }
            }
        }
    }
    Ok(())
}
