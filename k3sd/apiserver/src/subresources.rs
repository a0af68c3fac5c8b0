//! Everything below an object's name, and the kinds that are only answers.

use http::StatusCode;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use crate::decode::{self, Expected};
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::get;
use crate::verbs::patch::{self, Patch};
use crate::verbs::update::{self, Target};
use crate::{negotiate, present};

mod binding;
pub(crate) mod component_status;
mod eviction;
mod proxy;
mod reviews;
mod scale;
mod streams;
mod token;

/// Lead a request for a subresource that exists and has the verb.
pub(crate) async fn dispatch(call: Call) -> Result<Response, Status> {
    let resource = &call.entry.resource;
    match (resource.plural.as_str(), call.info.subresource.as_str(), call.info.verb) {
        (_, "scale", _) => scale::run(call).await,
        ("pods", "binding", "create") => binding::run(call).await,
        ("pods", "eviction", "create") => eviction::run(call).await,
        ("pods", "log" | "exec" | "attach" | "portforward", _) => streams::run(call).await,
        ("pods" | "services" | "nodes", "proxy", _) => proxy::run(call).await,
        ("serviceaccounts", "token", "create") => token::run(call).await,
        (_, "status", "get") => get::run(call).await,
        (_, "status", "update") => update::run(call).await,
        (_, "status", "patch") => patch::run(call).await,
        (_, subresource, verb) => match carried(subresource) {
            Some(_) if verb == "get" => get::run(call).await,
            Some(pointer) if matches!(verb, "update" | "patch") => partial(call, pointer).await,
            _ => Err(Status::method_not_allowed()),
        },
    }
}

/// POST to a kind that is not stored.
pub(crate) async fn create_virtual(call: Call) -> Result<Response, Status> {
    match call.entry.resource.plural.as_str() {
        "bindings" => binding::run(call).await,
        "tokenreviews"
        | "selfsubjectreviews"
        | "selfsubjectrulesreviews"
        | "selfsubjectaccessreviews"
        | "subjectaccessreviews"
        | "localsubjectaccessreviews" => reviews::run(call).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// The one field that such a subresource may change.
fn carried(subresource: &str) -> Option<&'static str> {
    match subresource {
        "finalize" => Some("/spec/finalizers"),
        "approval" => Some("/status/conditions"),
        "ephemeralcontainers" => Some("/spec/ephemeralContainers"),
        "resize" => Some("/spec/containers"),
        _ => None,
    }
}

/// Change the one field of the object that the subresource stands for.
async fn partial(mut call: Call, pointer: &'static str) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::parse(&call.query)?;
    let body = call.read_body().await?;
    let media_type = negotiate::content_type(&call.headers);
    let expected = Expected::of(&call.entry.resource);
    let mut warnings = Vec::new();
    let source = if call.info.verb == "patch" {
        Source::Patch(Patch::parse(&body, &media_type)?)
    } else {
        let decoded = decode::decode(&body, &media_type, &expected, options.validation)?;
        warnings = decoded.warnings;
        Source::Object(decoded.object)
    };
    let mut written = update::change(&call.shared, Target::of(&call), &options, |current| {
        let mut sent = match &source {
            Source::Object(object) => object.clone(),
            Source::Patch(patch) => {
                let mut object = current.clone();
                patch.apply(&expected.type_name, &mut object)?;
                warnings = decode::conform(&mut object, Vec::new(), &expected, options.validation)?;
                patch::unchanged_version(&mut object, current);
                object
            }
        };
        let mut object = current.clone();
        let value = sent.pointer_mut(pointer).map(Value::take);
        put(&mut object, pointer, value);
        meta::set_resource_version(&mut object, meta::resource_version(&sent));
        Ok(object)
    })
    .await?;
    written.warnings.splice(0..0, warnings);
    let mut response = present::object(&call.entry, accepted, &call.query, StatusCode::OK, &written.bytes)?;
    respond::warn(&mut response, &written.warnings);
    Ok(response)
}

enum Source {
    Object(Value),
    Patch(Patch),
}

/// Set or remove a field two levels down.
fn put(object: &mut Value, pointer: &str, value: Option<Value>) {
    let mut parts = pointer.split('/').skip(1);
    let (Some(parent), Some(field)) = (parts.next(), parts.next()) else { return };
    let parent = meta::child_mut(meta::object_mut(object), parent);
    match value {
        Some(value) => parent.insert(field.to_owned(), value),
        None => parent.remove(field),
    };
}
