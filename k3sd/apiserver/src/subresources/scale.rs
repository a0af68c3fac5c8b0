//! `scale`: replicas of any workload as an `autoscaling/v1 Scale`.

use http::StatusCode;
use machinery::selector::LabelSelector;
use machinery::status::{FieldError, Status};
use machinery::{meta, schema};
use serde_json::{Value, json};

use crate::decode::{self, Expected};
use crate::negotiate;
use crate::options::{Ownership, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::patch;
use crate::verbs::update::{self, Current, Target};

use super::{Sent, Source};

mod owners;

pub(super) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let expected = Expected::named("autoscaling/v1", "Scale", "api.autoscaling.v1.Scale");
    if call.info.verb == "get" {
        let current = Current::read(&call.shared, &Target::of(&call)).await?;
        return Ok(respond::value(StatusCode::OK, accepted.encoding, &scale_of(&current.object)));
    }
    let sent = Sent::read_as(&mut call, &expected).await?;
    let mut warnings = sent.warnings;
    // The entries are made here, from those of the scale.
    let options = WriteOptions { ownership: Ownership::Given, ..sent.options.clone() };
    let written = update::change(&call.shared, Target::of(&call), &options, |current| {
        let (scale, owners) = match &sent.source {
            Source::Object(scale) => (scale.clone(), None),
            Source::Patch(patch) => {
                let before = scale_of(current);
                let mut scale = before.clone();
                patch.apply(&expected.type_name, &mut scale)?;
                warnings = decode::conform(&mut scale, Vec::new(), &expected, options.validation)?;
                patch::unchanged_version(&mut scale, &before);
                (scale, None)
            }
            Source::Application(application) => {
                let before = scale_of(current);
                let (mut scale, owners) = owners::apply(current, &before, application)?;
                decode::conform(&mut scale, Vec::new(), &expected, options.validation)?;
                patch::unchanged_version(&mut scale, &before);
                (scale, Some(owners))
            }
        };
        let mut object = rescaled(current, scale, call.info.name.as_str())?;
        match (owners, &sent.options.ownership) {
            (Some(owners), _) => owners::adopt(&call.entry.resource, &mut object, owners),
            (None, Ownership::Manager(manager)) => {
                let owners = owners::update(current, &scale_of(current), &scale_of(&object), manager);
                owners::adopt(&call.entry.resource, &mut object, owners);
            }
            _ => {}
        }
        Ok(object)
    })
    .await?;
    let object: Value = serde_json::from_slice(&written.bytes).map_err(Status::internal)?;
    let mut response = respond::value(StatusCode::OK, accepted.encoding, &scale_of(&object));
    respond::warn(&mut response, &warnings);
    Ok(response)
}

/// The object with the replicas of the scale.
fn rescaled(current: &Value, mut scale: Value, name: &str) -> Result<Value, Status> {
    schema::apply_static_defaults(schema::builtin(), "api.autoscaling.v1.Scale", &mut scale);
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let fault = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", name, vec![fault]));
    }
    let mut object = current.clone();
    meta::child_mut(meta::object_mut(&mut object), "spec").insert("replicas".to_owned(), replicas.into());
    meta::set_resource_version(&mut object, meta::resource_version(&scale));
    if !meta::uid(&scale).is_empty() {
        meta::set_uid(&mut object, meta::uid(&scale));
    }
    Ok(object)
}

fn scale_of(object: &Value) -> Value {
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": { "replicas": number("/spec/replicas") },
        "status": { "replicas": number("/status/replicas"), "selector": selector_text(object) },
    })
}

/// The selector as text; replication controllers have a plain map.
fn selector_text(object: &Value) -> String {
    let selector = object.pointer("/spec/selector");
    let is_map = selector.and_then(Value::as_object).is_some_and(|map| map.values().all(Value::is_string));
    match selector.and_then(Value::as_object) {
        Some(map) if is_map => LabelSelector::from_map(map).to_string(),
        _ => LabelSelector::from_value(selector).map(|selector| selector.to_string()).unwrap_or_default(),
    }
}
