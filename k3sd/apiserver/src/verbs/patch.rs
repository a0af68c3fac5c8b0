//! PATCH an object: JSON patch, merge patch, strategic merge patch. Configurations to apply go to `apply.rs`.

use bytes::Bytes;
use http::StatusCode;
use machinery::patch;
use machinery::schema;
use machinery::status::Status;
use serde_json::Value;

use crate::decode::{self, Expected};
use crate::options::{Write, WriteOptions};
use crate::pipeline::Call;
use crate::respond::{self, Response};
use crate::verbs::apply;
use crate::verbs::update::{self, Target};
use crate::{negotiate, present};

/// Media types of patches.
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A patch, ready to be applied again and again.
#[derive(Debug)]
pub(crate) struct Patch {
    kind: Kind,
    document: Value,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Json,
    Merge,
    Strategic,
}

impl Patch {
    /// Read a patch of the kind that the media type says.
    pub(crate) fn parse(body: &Bytes, media_type: &str) -> Result<Self, Status> {
        let kind = match media_type {
            JSON => Kind::Json,
            MERGE => Kind::Merge,
            STRATEGIC => Kind::Strategic,
            _ => return Err(Status::unsupported_media_type(&[JSON, MERGE, STRATEGIC, apply::MEDIA_TYPE])),
        };
        let document = serde_json::from_slice(body)
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { kind, document })
    }

    /// Apply to a document of this type.
    pub(crate) fn apply(&self, type_name: &str, document: &mut Value) -> Result<(), Status> {
        let applied = match self.kind {
            Kind::Json => patch::json(document, &self.document),
            Kind::Merge if !self.document.is_object() => {
                return Err(Status::bad_request("invalid merge patch: not a JSON object"));
            }
            Kind::Merge => {
                patch::merge(document, &self.document);
                Ok(())
            }
            Kind::Strategic => patch::strategic(schema::builtin(), type_name, document, &self.document),
        };
        applied.map_err(Status::from)
    }
}

pub(crate) async fn run(mut call: Call) -> Result<Response, Status> {
    let media_type = negotiate::content_type(&call.headers);
    if media_type == apply::MEDIA_TYPE {
        return apply::run(call).await;
    }
    let accepted = negotiate::accept(&call.headers)?;
    let options = WriteOptions::of(&call, Write::Patch)?;
    let body = call.read_body().await?;
    let patch = Patch::parse(&body, &media_type)?;
    let expected = Expected::of(&call.entry.resource);
    let mut warnings = Vec::new();
    let mut written = update::change(&call.shared, Target::of(&call), &options, |current| {
        let mut object = current.clone();
        patch.apply(&expected.type_name, &mut object)?;
        warnings = decode::conform(&mut object, Vec::new(), &expected, options.validation)?;
        unchanged_version(&mut object, current);
        Ok(object)
    })
    .await?;
    written.warnings.splice(0..0, warnings);
    let mut response = present::object(&call.entry, accepted, &call.query, StatusCode::OK, &written.bytes)?;
    respond::warn(&mut response, &written.warnings);
    Ok(response)
}

/// A patch that says nothing of the version insists on none, so it may be applied again to a newer object.
pub(crate) fn unchanged_version(object: &mut Value, current: &Value) {
    if object.pointer("/metadata/resourceVersion") == current.pointer("/metadata/resourceVersion")
        && let Some(Value::Object(metadata)) = object.get_mut("metadata")
    {
        metadata.remove("resourceVersion");
    }
}
