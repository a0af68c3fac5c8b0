//! Protobuf as a second notation of the same objects: `application/vnd.kubernetes.protobuf`.
//!
//! There are no generated messages: field numbers stand beside the field names of the schema, and the codec walks both. A body is the
//! four bytes `k8s\0` and a `runtime.Unknown`, which names the kind and holds the object. Messages that Go embeds in others are
//! members of those in JSON; a handful of types have a JSON form of their own (quantities, times, numbers-or-strings, raw JSON).
//!
//! Decoded objects hold the zero values that Go always sends; [`crate::schema::prune`] drops those that say nothing.

mod decode;
mod encode;
mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use crate::kinds;
use crate::schema::load::{PROTOBUF, rows};
use crate::schema::{self, Schema};

/// Media type of bodies in this notation.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8; 4] = b"k8s\0";

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not begin with the magic bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    /// It ends inside a value, or nests without end.
    #[error("unexpected EOF")]
    Truncated,
    /// A tag or a value that is not in the notation.
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    /// Text that is not UTF-8, or raw JSON that is not JSON.
    #[error("proto: {0}: invalid text")]
    Text(String),
    /// A kind without a message.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    Kind {
        /// `apiVersion` of the envelope.
        api_version: String,
        /// `kind` of the envelope.
        kind: String,
    },
}

/// Reads a body. The object carries the envelope's `apiVersion` and `kind`.
///
/// # Errors
/// The body is not in the notation, or of a kind that has none.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    decode::body(bytes)
}

/// Writes a body. `None` if the kind has no message (custom resources).
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    encode::body(object)
}

/// The fields of one message, sorted by number.
struct Message {
    fields: Vec<Field>,
}

struct Field {
    number: u32,
    name: &'static str,
    label: Label,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    One,
    /// Its fields are members of the message that holds it.
    Embedded,
    Many,
    Map,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Bytes,
    Bool,
    Int,
    Double,
    Message(&'static str),
}

/// All messages by type name.
fn messages() -> &'static HashMap<&'static str, Message> {
    static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| load(schema::builtin()));
    &MESSAGES
}

fn load(schema: &Schema) -> HashMap<&'static str, Message> {
    let mut messages: HashMap<_, Message> = HashMap::new();
    for [type_name, name, number, label, kind] in rows::<5>(PROTOBUF) {
        let number = number.parse().expect("field numbers of the embedded table are numbers");
        let (label, kind) = match label {
            "repeated" => (Label::Many, kind),
            "map" => (Label::Map, kind.split_once(',').map_or(kind, |(_, value)| value)),
            _ if is_embedded(schema, type_name, name, kind) => (Label::Embedded, kind),
            _ => (Label::One, kind),
        };
        let field = Field { number, name, label, kind: Kind::of(kind) };
        messages.entry(type_name).or_insert_with(|| Message { fields: Vec::new() }).fields.push(field);
    }
    for message in messages.values_mut() {
        message.fields.sort_unstable_by_key(|field| field.number);
    }
    messages
}

/// A message that the type's JSON form does not have as a member.
fn is_embedded(schema: &Schema, type_name: &str, name: &str, kind: &str) -> bool {
    kind.contains('.') && schema.get(type_name).is_some_and(|ty| ty.field(name).is_none())
}

impl Kind {
    fn of(text: &'static str) -> Self {
        match text {
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "bool" => Self::Bool,
            "double" => Self::Double,
            "int32" | "int64" => Self::Int,
            name => Self::Message(name),
        }
    }
}

/// Messages whose JSON form is not an object of their fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    /// The JSON that field 1 holds.
    Raw,
    /// The list that field 1 holds.
    Items,
    /// A JSON schema in field 1, or something else in field 2.
    SchemaOrList,
    /// Something else in field 1, or a JSON schema in field 2.
    SchemaOrBool,
}

impl Special {
    fn of(type_name: &str) -> Option<Self> {
        Some(match type_name {
            "apimachinery.pkg.api.resource.Quantity" => Self::Quantity,
            "apimachinery.pkg.apis.meta.v1.Time" => Self::Time,
            "apimachinery.pkg.apis.meta.v1.MicroTime" => Self::MicroTime,
            "apimachinery.pkg.util.intstr.IntOrString" => Self::IntOrString,
            "apimachinery.pkg.apis.meta.v1.FieldsV1" | "apimachinery.pkg.runtime.RawExtension" => Self::Raw,
            name => match name.rsplit('.').next()? {
                "ExtraValue" => Self::Items,
                "JSON" => Self::Raw,
                "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => Self::SchemaOrList,
                "JSONSchemaPropsOrBool" => Self::SchemaOrBool,
                _ => return None,
            },
        })
    }
}

const JSON_SCHEMA: &str = "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The message of a kind. Options and answers have one type for all groups.
fn message_of(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let own = kinds::type_prefix(group, version).map(|prefix| format!("{prefix}.{kind}"));
    let shared = format!("apimachinery.pkg.apis.meta.v1.{kind}");
    own.into_iter()
        .chain([shared])
        .find_map(|name| messages().get_key_value(name.as_str()).map(|(name, _)| *name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::{TypeRef, ValueKind, ValueRef, builtin, prune};

    fn round_trip(object: &Value) -> Value {
        decode(&encode(object).expect("a built-in kind")).expect("its own encoding")
    }

    /// As Go's encoder writes it: `Namespace{ObjectMeta{Name: "a"}}`, with the empty fields that are no pointers.
    #[test]
    fn a_body_of_gos_encoder_is_read() {
        let metadata = b"\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00";
        let mut namespace = vec![0x0a, metadata.len() as u8];
        namespace.extend(metadata);
        namespace.extend(b"\x12\x00\x1a\x02\x0a\x00");
        let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12".to_vec();
        body.push(namespace.len() as u8);
        body.extend(namespace);
        body.extend(b"\x1a\x00\x22\x00");
        let mut object = decode(&body).expect("decodes");
        assert!(prune(builtin(), "api.core.v1.Namespace", &mut object).is_empty());
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {}, "status": {}})
        );
    }

    #[test]
    fn objects_of_every_shape_survive() {
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 3},
            "spec": {"replicas": 0, "paused": true, "selector": {"matchLabels": {"a": "b"}},
                "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
                "template": {"spec": {
                    "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}},
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 5},
                        "envFrom": [{"configMapRef": {"name": "settings", "optional": true}}]}],
                    "ephemeralContainers": [{"name": "debug", "image": "x", "targetContainerName": "c"}],
                    "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]}}}});
        assert_eq!(round_trip(&deployment), deployment);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "AAEC/w=="}, "stringData": {"b": "x"}});
        assert_eq!(round_trip(&secret), secret);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "spec": {"renewTime": "2026-01-02T03:04:05.000006Z", "leaseTransitions": -1}});
        assert_eq!(round_trip(&lease), lease);
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"versions": [
            {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "maximum": 1.5,
                "x-kubernetes-preserve-unknown-fields": true, "enum": [1, "a"],
                "properties": {"a": {"items": {"type": "string"}, "default": {"x": [1]}},
                    "b": {"additionalProperties": false}, "c": {"additionalProperties": {"type": "integer"}}}}}}]}});
        assert_eq!(round_trip(&crd), crd);
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": "u", "extra": {"scopes": ["a", "b"]}}});
        assert_eq!(round_trip(&review), review);
        let options = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        assert_eq!(round_trip(&options), options);
    }

    #[test]
    fn every_field_of_every_kind_has_a_number() {
        for resource in kinds::builtin().iter().filter(|r| !r.group.starts_with("apiregistration")) {
            let ty = builtin().get(&resource.type_name).expect("type");
            let mut object = sample(ty, 0);
            object["apiVersion"] = resource.api_version().into();
            object["kind"] = resource.kind.clone().into();
            assert_eq!(round_trip(&object), object, "{}", resource.type_name);
        }
    }

    /// An object with a value in every field, a few levels deep.
    fn sample(ty: TypeRef<'_>, depth: usize) -> Value {
        let fields = ty.fields().filter(|field| !matches!(field.name(), "apiVersion" | "kind") || depth > 0);
        // Nested objects carry no apiVersion and kind on the wire, except where those are fields of their own.
        let is_object = ty.field("metadata").is_some() && ty.field("apiVersion").is_some();
        let fields = fields.filter(|field| !(is_object && matches!(field.name(), "apiVersion" | "kind")));
        fields
            .filter_map(|field| Some((field.name().to_owned(), sample_value(field.value(), depth)?)))
            .collect()
    }

    fn sample_value(ty: ValueRef<'_>, depth: usize) -> Option<Value> {
        Some(match ty.kind() {
            ValueKind::String => "text".into(),
            ValueKind::Bytes => "AAEC".into(),
            ValueKind::Int32 | ValueKind::Int64 => (-7).into(),
            ValueKind::Double => 2.5.into(),
            ValueKind::Boolean => true.into(),
            ValueKind::Quantity => "1500m".into(),
            ValueKind::Time => "2026-01-02T03:04:05Z".into(),
            ValueKind::MicroTime => "2026-01-02T03:04:05.000006Z".into(),
            ValueKind::IntOrString => "10%".into(),
            ValueKind::Untyped | ValueKind::Object => json!({"any": ["thing"]}),
            ValueKind::Struct(ty) | ValueKind::Union(ty) if depth < 8 => sample(ty, depth + 1),
            ValueKind::Struct(_) | ValueKind::Union(_) => return None,
            ValueKind::List(element) => vec![sample_value(element, depth + 1)?].into(),
            ValueKind::Map(element) => json!({"key": sample_value(element, depth + 1)?}),
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tail in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut body = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
            body.push(tail.len() as u8);
            body.extend(&tail);
            let _ = decode(&body);
            let _ = decode(&tail);
        }
    }

    #[test]
    fn what_is_not_a_body_is_refused() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
        assert_eq!(decode(b"k8s\0\x0a\x7f"), Err(ProtobufError::Truncated));
        let unknown = decode(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Cat");
        assert!(matches!(unknown, Err(ProtobufError::Kind { .. })), "{unknown:?}");
    }
}
