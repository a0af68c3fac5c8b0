//! Everything below an object's name, and the kinds that are only answers.

use http::StatusCode;
use machinery::meta;
use machinery::status::Status;
use serde_json::Value;

use crate::decode::{self, Expected};
use crate::managed_fields::{self, Application};
use crate::options::{Ownership, Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::patch::{self, Patch};
use crate::verbs::update::{self, Target};
use crate::verbs::{apply, get};
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
    let sent = Sent::read(&mut call).await?;
    let expected = Expected::of(&call.entry.resource);
    let mut warnings = sent.warnings;
    let mut written = update::change(&call.shared, Target::of(&call), &sent.options, |current| {
        let mut wanted = match &sent.source {
            Source::Object(object) => object.clone(),
            Source::Patch(patch) => {
                let mut object = current.clone();
                patch.apply(&expected.type_name, &mut object)?;
                warnings = decode::conform(&mut object, Vec::new(), &expected, sent.options.validation)?;
                patch::unchanged_version(&mut object, current);
                object
            }
            Source::Application(application) => {
                let resource = &call.entry.resource;
                let mut object =
                    managed_fields::apply(resource, &call.info.subresource, Some(current), application)?;
                decode::conform(&mut object, Vec::new(), &expected, sent.options.validation)?;
                patch::unchanged_version(&mut object, current);
                object
            }
        };
        let mut object = current.clone();
        let value = wanted.pointer_mut(pointer).map(Value::take);
        put(&mut object, pointer, value);
        meta::set_resource_version(&mut object, meta::resource_version(&wanted));
        if sent.options.ownership == Ownership::Given {
            managed_fields::put(&mut object, managed_fields::entries(&wanted).cloned());
        }
        Ok(object)
    })
    .await?;
    written.warnings.splice(0..0, warnings);
    let mut response = present::object(&call.entry, accepted, &call.query, StatusCode::OK, &written.bytes)?;
    respond::warn(&mut response, &written.warnings);
    Ok(response)
}

/// What an update or patch of a subresource sends.
struct Sent {
    options: WriteOptions,
    source: Source,
    warnings: Vec<String>,
}

enum Source {
    Object(Value),
    Patch(Patch),
    Application(Application),
}

impl Sent {
    async fn read(call: &mut Call) -> Result<Self, Status> {
        let expected = Expected::of(&call.entry.resource);
        Self::read_as(call, &expected).await
    }

    /// Read a body that describes another kind than the resource's.
    async fn read_as(call: &mut Call, expected: &Expected) -> Result<Self, Status> {
        let media_type = negotiate::content_type(&call.headers);
        let write = match (call.info.verb, media_type.as_str()) {
            ("patch", apply::MEDIA_TYPE) => Write::Apply,
            ("patch", _) => Write::Patch,
            _ => Write::Update,
        };
        let options = WriteOptions::of(call, write)?;
        let body = call.read_body().await?;
        let (source, warnings) = match write {
            Write::Apply => {
                let (application, warnings) = apply::parse(call, &body, expected, options.validation)?;
                (Source::Application(application), warnings)
            }
            Write::Patch => (Source::Patch(Patch::parse(&body, &media_type)?), Vec::new()),
            Write::Create | Write::Update => {
                let decoded = decode::decode(&body, &media_type, expected, options.validation)?;
                (Source::Object(decoded.object), decoded.warnings)
            }
        };
        Ok(Self { options, source, warnings })
    }
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
