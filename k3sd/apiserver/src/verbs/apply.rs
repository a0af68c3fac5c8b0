//! PATCH an object by what its manager wants of it: server-side apply. The object is made when it is not there.

use bytes::Bytes;
use http::StatusCode;
use machinery::meta;
use machinery::schema::FieldValidation;
use machinery::status::{Reason, Status};
use serde_json::Value;

use crate::authz;
use crate::decode::{self, Expected};
use crate::managed_fields::{self, Application};
use crate::options::{Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::create::{self, Written};
use crate::verbs::patch;
use crate::verbs::update::{self, Target};
use crate::{negotiate, present};

/// Media type of configurations to apply.
pub(crate) const MEDIA_TYPE: &str = "application/apply-patch+yaml";
/// Tries at an object that others make and delete meanwhile.
const ATTEMPTS: usize = 5;

/// Read the configuration of an apply. Also returns the warnings about repeated fields.
pub(crate) fn parse(
    call: &Call,
    body: &Bytes,
    expected: &Expected,
    validation: FieldValidation,
) -> Result<(Application, Vec<String>), Status> {
    let (config, repeated) =
        decode::yaml(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
    if !config.is_object() {
        return Err(Status::bad_request("error decoding patch: not an object"));
    }
    let (given, kind) = (meta::api_version(&config), meta::kind(&config));
    if given != expected.api_version || kind != expected.kind {
        let slash = if given.contains('/') { "" } else { "/" };
        return Err(Status::bad_request(format!("invalid object type: {slash}{given}, Kind={kind}")));
    }
    if machinery::patch::deeper_than(&config, machinery::patch::MAX_DEPTH) {
        return Err(Status::bad_request(format!("exceeded max depth {}", machinery::patch::MAX_DEPTH)));
    }
    let manager = call.query.get("fieldManager").unwrap_or_default().to_owned();
    let application = Application { config, manager, force: call.query.flag("force") };
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Strict if !repeated.is_empty() => {
            let repeated = repeated.join(", ");
            return Err(Status::bad_request(format!("error strict decoding patch: {repeated}")));
        }
        _ => repeated,
    };
    Ok((application, warnings))
}

pub(crate) async fn run(mut call: Call) -> Result<Response, Status> {
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::of(&call, Write::Apply)?;
    let body = call.read_body().await?;
    let expected = Expected::of(&call.entry.resource);
    let (application, mut warnings) = parse(&call, &body, &expected, options.validation)?;
    let mut written = write(&call, &application, &expected, &options).await?;
    warnings.append(&mut written.warnings);
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = present::object(&call.entry, accepted, &call.query, code, &written.bytes)?;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

async fn write(
    call: &Call,
    application: &Application,
    expected: &Expected,
    options: &WriteOptions,
) -> Result<Written, Status> {
    let applied = |live: Option<&Value>| applied(call, application, expected, live);
    for attempt in 1.. {
        let changed = update::change(&call.shared, Target::of(call), options, |current| {
            let mut object = applied(Some(current))?;
            patch::unchanged_version(&mut object, current);
            Ok(object)
        });
        match changed.await {
            Err(status) if is(&status, Reason::NotFound) && call.info.subresource.is_empty() => {}
            other => return other,
        }
        authz::authorize_creation(call)?;
        let object = applied(None)?;
        refuse_identity(call, &object)?;
        let namespace = &call.info.namespace;
        match create::create(&call.shared, &call.entry, &call.user, namespace, object, options).await {
            Err(status) if is(&status, Reason::AlreadyExists) && attempt < ATTEMPTS => {}
            other => return other,
        }
    }
    Err(Status::internal("the object was made and deleted too often"))
}

fn is(status: &Status, reason: Reason) -> bool {
    status.reason == Some(reason)
}

/// The object with the configuration applied, checked like every object that a request sends.
fn applied(
    call: &Call,
    application: &Application,
    expected: &Expected,
    live: Option<&Value>,
) -> Result<Value, Status> {
    let info = &call.info;
    let mut object = managed_fields::apply(&call.entry.resource, &info.subresource, live, application)?;
    decode::conform(&mut object, Vec::new(), expected, FieldValidation::Ignore)?;
    match meta::name(&object) {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            info.name
        ))),
        name if name != info.name => Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            info.name
        ))),
        _ => Ok(object),
    }
}

/// Who speaks of an object by its uid or version does not want another one made.
fn refuse_identity(call: &Call, object: &Value) -> Result<(), Status> {
    let target = Target::of(call);
    let uid = meta::uid(object);
    if !uid.is_empty() {
        let detail = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(target.conflict(&detail));
    }
    if !matches!(meta::resource_version(object), "" | "0") {
        let resource = &call.entry.resource;
        return Err(Status::modified(&resource.group, &resource.plural, target.name));
    }
    Ok(())
}
