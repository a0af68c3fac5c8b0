//! `pods/eviction`: a delete that asks the disruption budgets first.

use http::StatusCode;
use machinery::meta;
use machinery::selector::LabelSelector;
use machinery::status::{Cause, Status};
use serde_json::{Value, json};

use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{DeleteOptions, Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::delete;
use crate::verbs::update::{self, Current, Target};

const DISRUPTION_RETRY_SECONDS: u32 = 10;

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::parse(&call.query, Write::Create)?;
    let body = call.read_body().await?;
    let expected = Expected::named("policy/v1", "Eviction", "api.policy.v1.Eviction");
    let media_type = negotiate::content_type(&call.headers);
    let decoded = decode::decode(&body, &media_type, &expected, options.validation)?;
    let mut deletion = DeleteOptions::parse(&call.query, decoded.object.get("deleteOptions"))?;
    deletion.dry_run |= options.dry_run;
    let target = Target { subresource: "", ..Target::of(&call) };
    let pod = Current::read(&call.shared, &target).await?.object;
    if needs_budget(&pod) {
        spend(&call, &pod, deletion.dry_run).await?;
    }
    delete::delete(&call.shared, target, &deletion).await?;
    let done =
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok(respond::value(StatusCode::CREATED, accepted.encoding, &done))
}

/// Pods that are over or have not begun, and those that go anyway, disrupt nothing.
fn needs_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !matches!(phase, "Succeeded" | "Failed" | "Pending") && meta::deletion_timestamp(pod).is_none()
}

/// Take one disruption from the budget that covers the pod.
async fn spend(call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let mut budgets = Vec::new();
    call.shared.registry.for_each("policy", "poddisruptionbudgets", &call.info.namespace, |budget| {
        let selector = LabelSelector::from_value(budget.pointer("/spec/selector"));
        if selector.is_ok_and(|selector| selector.matches(meta::labels(pod))) {
            budgets.push(meta::name(&budget).to_owned());
        }
    });
    let name = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let tables = call.shared.registry.tables();
    let entry = tables.find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::unknown_path)?;
    let target =
        Target { entry, user: &call.user, namespace: &call.info.namespace, name, subresource: "status" };
    let options = WriteOptions { dry_run, ..WriteOptions::default() };
    update::change(&call.shared, target, &options, |budget| spent(budget, meta::name(pod))).await.map(drop)
}

fn spent(budget: &Value, pod: &str) -> Result<Value, Status> {
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let name = meta::name(budget);
    if number("/status/observedGeneration") < meta::generation(budget) {
        return Err(refused(&format!(
            "The disruption budget {name} is still being processed by the server."
        )));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed <= 0 {
        return Err(refused(&format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("/status/desiredHealthy"),
            number("/status/currentHealthy")
        )));
    }
    let mut budget = budget.clone();
    let status = meta::child_mut(meta::object_mut(&mut budget), "status");
    status.insert("disruptionsAllowed".to_owned(), (allowed - 1).into());
    status.entry("disruptedPods").or_insert_with(|| json!({}))[pod] = meta::now().into();
    Ok(budget)
}

fn refused(detail: &str) -> Status {
    let mut status = Status::too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        DISRUPTION_RETRY_SECONDS,
    );
    status.details.get_or_insert_default().causes.push(Cause {
        reason: "DisruptionBudget".to_owned(),
        message: detail.to_owned(),
        ..Cause::default()
    });
    status
}
