//! `pods/binding`: the scheduler's decision, written once.

use http::StatusCode;
use machinery::meta;
use machinery::status::{FieldError, Status};
use serde_json::{Value, json};

use crate::admission::{Notes, Operation, Review};
use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::update::{self, Target};

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::parse(&call.query, Write::Create)?;
    let body = call.read_body().await?;
    let expected = Expected::named("v1", "Binding", "api.core.v1.Binding");
    let media_type = negotiate::content_type(&call.headers);
    let decoded = decode::decode(&body, &media_type, &expected, options.validation)?;
    let mut binding = decoded.object;
    let tables = call.shared.registry.tables();
    let pods = tables.find("", "v1", "pods").ok_or_else(Status::unknown_path)?;
    let name =
        if call.info.name.is_empty() { meta::name(&binding).to_owned() } else { call.info.name.clone() };
    if name != meta::name(&binding) && !meta::name(&binding).is_empty() {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let notes = Notes::default();
    let cx = call.context(options.dry_run);
    let review = Review {
        cx: &cx,
        operation: Operation::Create,
        name: &name,
        old: None,
        shared: &call.shared,
        notes: &notes,
        trail: call.trail.as_ref(),
    };
    call.shared.admission.mutate(&review, &mut binding).await?;
    call.shared.admission.validate(&review, &binding).await?;
    let node = node_of(&binding)?;
    let target = Target {
        entry: pods,
        user: &call.user,
        namespace: &call.info.namespace,
        name: &name,
        subresource: "binding",
    };
    update::change(&call.shared, target, &options, |pod| bound(pod, &binding, node, &target)).await?;
    let created =
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    let mut response = respond::value(StatusCode::CREATED, accepted.encoding, &created);
    let warnings: Vec<String> = decoded.warnings.into_iter().chain(notes.take_warnings()).collect();
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn node_of(binding: &Value) -> Result<&str, Status> {
    let text = |pointer: &str| binding.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut faults = Vec::new();
    if !matches!(text("/target/kind"), "" | "Node") {
        faults.push(FieldError::not_supported("target.kind", text("/target/kind"), &["Node", "<empty>"]));
    }
    if text("/target/name").is_empty() {
        faults.push(FieldError::required("target.name", ""));
    }
    if faults.is_empty() {
        Ok(text("/target/name"))
    } else {
        Err(Status::invalid("", "Binding", meta::name(binding), faults))
    }
}

/// The pod on its node (upstream's `BindingREST.setPodNodeAndMetadata`).
fn bound(pod: &Value, binding: &Value, node: &str, target: &Target<'_>) -> Result<Value, Status> {
    let mut pod = pod.clone();
    if meta::deletion_timestamp(&pod).is_some() {
        return Err(
            target.conflict(&format!("pod {} is being deleted, cannot be assigned to a host", target.name))
        );
    }
    let present = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if !present.is_empty() {
        return Err(
            target.conflict(&format!("pod {} is already assigned to node \"{present}\"", target.name))
        );
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return Err(target.conflict(&format!("pod {} has non-empty .spec.schedulingGates", target.name)));
    }
    meta::child_mut(meta::object_mut(&mut pod), "spec").insert("nodeName".to_owned(), node.into());
    for (key, value) in meta::annotations(binding).into_iter().flatten() {
        meta::set_annotation(&mut pod, key, value.as_str().unwrap_or_default());
    }
    for (key, value) in meta::labels(binding).into_iter().flatten() {
        meta::set_label(&mut pod, key, value.as_str().unwrap_or_default());
    }
    set_scheduled(&mut pod);
    // Where it might have gone is of no more interest.
    meta::child_mut(meta::object_mut(&mut pod), "status").remove("nominatedNodeName");
    meta::set_uid(&mut pod, meta::uid(binding));
    meta::set_resource_version(&mut pod, meta::resource_version(binding));
    Ok(pod)
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": meta::now() });
    let status = meta::child_mut(meta::object_mut(pod), "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    conditions.retain(|known| known["type"] != "PodScheduled");
    conditions.push(condition);
}
