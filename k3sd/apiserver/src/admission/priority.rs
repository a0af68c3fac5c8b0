//! Pods name a priority class; the scheduler reads its number. And there is at most one default class
//! (upstream's `plugin/pkg/admission/priority`).

use async_trait::async_trait;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

const GROUP: &str = "scheduling.k8s.io";

pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    async fn mutate(&self, review: &Review<'_>, pod: &mut Value) -> Result<(), Status> {
        if review.operation != Operation::Create || !review.is("", "pods", "") {
            return Ok(());
        }
        let given = pod.pointer("/spec/priority").and_then(Value::as_i64);
        let (name, class) = class_of(review, pod)?;
        let number = class.as_ref().and_then(|class| class.get("value")?.as_i64()).unwrap_or(0);
        let policy = class.as_ref().and_then(|class| class.get("preemptionPolicy")?.as_str());
        let policy = policy.unwrap_or("PreemptLowerPriority");
        if let Some(given) = given
            && given != number
        {
            return Err(review.forbid(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {number} from the given PriorityClass name"
            )));
        }
        let spec = meta::child_mut(meta::object_mut(pod), "spec");
        if !name.is_empty() {
            spec.insert("priorityClassName".to_owned(), name.into());
        }
        spec.insert("priority".to_owned(), number.into());
        if spec.get("preemptionPolicy").and_then(Value::as_str).is_some_and(|own| own != policy) {
            return Err(review.forbid(&format!(
                "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name",
                spec["preemptionPolicy"].as_str().unwrap_or_default()
            )));
        }
        spec.insert("preemptionPolicy".to_owned(), policy.into());
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>, class: &Value) -> Result<(), Status> {
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        if !writes || !review.is(GROUP, "priorityclasses", "") || class["globalDefault"] != true {
            return Ok(());
        }
        match default_class(review) {
            Some(other) if meta::name(&other) != meta::name(class) => Err(review.forbid(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                meta::name(&other)
            ))),
            _ => Ok(()),
        }
    }
}

fn class_of(review: &Review<'_>, pod: &Value) -> Result<(String, Option<Value>), Status> {
    let name = pod.pointer("/spec/priorityClassName").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        let class = default_class(review);
        let name = class.as_ref().map(|class| meta::name(class).to_owned()).unwrap_or_default();
        return Ok((name, class));
    }
    match review.cx.objects.object(GROUP, "priorityclasses", "", name) {
        Some(class) => Ok((name.to_owned(), Some(class))),
        None => Err(review.forbid(&format!("no PriorityClass with name {name} was found"))),
    }
}

fn default_class(review: &Review<'_>) -> Option<Value> {
    let mut found: Option<Value> = None;
    review.cx.objects.for_each(GROUP, "priorityclasses", "", |class| {
        // Should there be two after all, the lower one counts.
        let lower = found.as_ref().is_none_or(|known| known["value"].as_i64() > class["value"].as_i64());
        if class["globalDefault"] == true && lower {
            found = Some(class);
        }
    });
    found
}
