//! From a request body to an object that has the right type and no unknown fields.

use bytes::Bytes;
use machinery::kinds::Resource;
use machinery::patch;
use machinery::protobuf;
use machinery::schema::{self, FieldValidation};
use machinery::status::Status;
use serde_json::Value;

use crate::{errors, managed_fields};

/// A decoded object and the warnings that decoding gave.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// What kind of object is expected.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub api_version: String,
    pub kind: String,
    /// Key into the schema table.
    pub type_name: String,
}

impl Expected {
    pub(crate) fn of(resource: &Resource) -> Self {
        Self {
            api_version: resource.api_version(),
            kind: resource.kind.clone(),
            type_name: resource.type_name.clone(),
        }
    }

    pub(crate) fn named(api_version: &str, kind: &str, type_name: &str) -> Self {
        Self { api_version: api_version.to_owned(), kind: kind.to_owned(), type_name: type_name.to_owned() }
    }

    fn cannot(&self, object: &Value, why: &str) -> Status {
        let text = |key: &str, fallback: &str| {
            object
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .unwrap_or(fallback)
                .to_owned()
        };
        Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {why}",
            text("kind", &self.kind),
            text("apiVersion", &self.api_version).rsplit('/').next().unwrap_or_default(),
            self.kind
        ))
    }
}

/// Media types that bodies may have.
const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Read the body, whatever it describes. Also returns the messages about repeated fields. `expected` is the
/// (`apiVersion`, `kind`) of protobuf that does not say its own: its bytes mean nothing without.
pub(crate) fn parse(
    bytes: &Bytes,
    media_type: &str,
    expected: (&str, &str),
) -> Result<(Value, Vec<String>), Status> {
    match media_type {
        "application/json" => schema::decode_json(bytes).map_err(|error| {
            Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
        }),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(bytes)
            .map_err(|error| Status::bad_request(format!("error converting YAML to JSON: {error}"))),
        protobuf::MEDIA_TYPE => protobuf::decode(bytes, expected)
            .map(|value| (value, Vec::new()))
            .map_err(|error| Status::bad_request(errors::chain(&error))),
        _ => Err(Status::unsupported_media_type(&MEDIA_TYPES)),
    }
}

/// Read YAML, of which JSON is a part. Also returns the messages about repeated fields.
pub(crate) fn yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_yaml_ng::Error> {
    schema::decode_from(serde_yaml_ng::Deserializer::from_slice(bytes))
}

/// Decode a body as the expected kind.
pub(crate) fn decode(
    bytes: &Bytes,
    media_type: &str,
    expected: &Expected,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (mut object, repeated) = parse(bytes, media_type, (&expected.api_version, &expected.kind))?;
    let Value::Object(map) = &mut object else {
        return Err(Status::bad_request("couldn't get version/kind; json parse error: not an object"));
    };
    let missing = |map: &serde_json::Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).is_none_or(str::is_empty)
    };
    if missing(map, "kind") {
        map.insert("kind".to_owned(), expected.kind.clone().into());
    }
    if missing(map, "apiVersion") {
        map.insert("apiVersion".to_owned(), expected.api_version.clone().into());
    }
    if map["apiVersion"] != expected.api_version.as_str() {
        let given = map["apiVersion"].as_str().unwrap_or_default();
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({})",
            expected.api_version
        )));
    }
    if map["kind"] != expected.kind.as_str() {
        let why = format!(
            "converting ({}) to ({}): unknown conversion",
            map["kind"].as_str().unwrap_or_default(),
            expected.kind
        );
        return Err(expected.cannot(&object, &why));
    }
    let warnings = conform(&mut object, repeated, expected, validation)?;
    Ok(Decoded { object, warnings })
}

/// Check types, drop unknown fields, and say so as `validation` wants.
pub(crate) fn conform(
    object: &mut Value,
    repeated: Vec<String>,
    expected: &Expected,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    if patch::deeper_than(object, patch::MAX_DEPTH) {
        return Err(Status::bad_request(format!("exceeded max depth {}", patch::MAX_DEPTH)));
    }
    managed_fields::keep_reset(object);
    let table = schema::builtin();
    schema::check_types(table, &expected.type_name, object)
        // Upstream's decoder stops at the first.
        .map_err(|errors| expected.cannot(object, errors.first().map_or("", String::as_str)))?;
    let mut messages = repeated;
    messages.extend(schema::prune(table, &expected.type_name, object));
    match validation {
        FieldValidation::Strict if !messages.is_empty() => {
            Err(expected.cannot(object, &format!("strict decoding error: {}", messages.join(", "))))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(messages),
    }
}
