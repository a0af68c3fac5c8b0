//! From request bytes to a clean object: JSON with repeated fields noticed, types checked, unknown fields dropped.
//!
//! Messages are those of upstream's decoder (sigs.k8s.io/json and apimachinery's serializer), because clients show them and
//! `kubectl` reads some.

use std::cell::RefCell;
use std::fmt;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::{DecodeError, Engine};
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Schema, TypeRef, ValueKind, ValueRef};
use crate::meta;
use crate::quantity::Quantity;

/// What to do with fields that are unknown or repeated: the `fieldValidation` query parameter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and send a warning.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Reads JSON, keeping the last of repeated fields as upstream does, and names those: `duplicate field "spec.replicas"`.
///
/// # Errors
/// The text is not JSON.
pub fn decode_json(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let found = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Tracked { path: Path::Root, found: &found }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, found.into_inner()))
}

/// Reads a document from any format that has JSON's shape, as [`decode_json`] does.
///
/// # Errors
/// The text is not of that format, or has something that JSON has not.
pub fn decode_from<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Value, Vec<String>), D::Error> {
    let found = RefCell::new(Vec::new());
    let value = Tracked { path: Path::Root, found: &found }.deserialize(deserializer)?;
    Ok((value, found.into_inner()))
}

/// Drops the fields that the type does not have and returns upstream's message for each: `unknown field "spec.foo"`.
///
/// What is left has upstream's normal form: fields that are `null`, empty lists and maps, and zero scalars that say no more than
/// their absence are dropped silently, quantities are
/// canonical text, times are UTC. Types must have been checked before; values of a wrong type are left alone.
pub fn prune(schema: &Schema, type_name: &str, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let (Some(ty), Some(object)) = (schema.get(type_name), value.as_object_mut()) {
        prune_struct(ty, object, &Path::Root, &mut unknown);
    }
    unknown
}

/// Brings an object of this type into its normal form, as [`prune`] does.
pub(crate) fn normalize(ty: TypeRef<'_>, value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        prune_struct(ty, object, &Path::Root, &mut Vec::new());
    }
}

/// Checks that every known field has the JSON type it should.
///
/// # Errors
/// A message for every field that has not, in the words of Go's decoder.
pub fn check_types(schema: &Schema, type_name: &str, value: &Value) -> Result<(), Vec<String>> {
    let Some(ty) = schema.get(type_name) else { return Ok(()) };
    let mut faults = Vec::new();
    match value {
        Value::Object(object) => check_struct(ty, object, &Path::Root, &mut faults),
        other => {
            faults.push(format!(
                "json: cannot unmarshal {} into Go value of type {}",
                json_kind(other),
                go_struct(ty)
            ));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Where the walk is: a chain on the stack, turned into text only when there is something to report.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    /// `{:#}` leaves list indices out, as Go's decoder does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => {
                parent.fmt(f)?;
                write!(f, ".{name}")
            }
            Path::Index(parent, at) => {
                parent.fmt(f)?;
                if f.alternate() { Ok(()) } else { write!(f, "[{at}]") }
            }
        }
    }
}

// === repeated fields ===

/// Builds a value and notes the path of each repeated key.
struct Tracked<'a> {
    path: Path<'a>,
    found: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Tracked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tracked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(&self.path, items.len());
            match seq.next_element_seed(Tracked { path, found: self.found })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Field(&self.path, &key);
            if object.contains_key(&key) {
                self.found.borrow_mut().push(format!("duplicate field \"{path}\""));
            }
            let value = map.next_value_seed(Tracked { path, found: self.found })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

// === unknown fields ===

fn prune_struct(
    ty: TypeRef<'_>,
    object: &mut Map<String, Value>,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) {
    object.retain(|name, value| {
        let here = Path::Field(path, name);
        let Some(field) = ty.field(name) else {
            unknown.push(format!("unknown field \"{here}\""));
            return false;
        };
        prune_value(field.value(), value, &here, unknown);
        match (field.value().kind(), value) {
            (ValueKind::Untyped, _) => true,
            (_, Value::Null) => false,
            (ValueKind::List(_), Value::Array(items)) => !items.is_empty(),
            (ValueKind::Map(_), Value::Object(entries)) => !entries.is_empty(),
            (_, value) => {
                field.is_optional()
                    || field.default().is_some_and(|default| *default == *value)
                    || !is_zero(value)
            }
        }
    });
}

/// What Go leaves out of JSON when a field is no pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn prune_value(ty: ValueRef<'_>, value: &mut Value, path: &Path<'_>, unknown: &mut Vec<String>) {
    match (ty.kind(), value) {
        (ValueKind::Struct(ty) | ValueKind::Union(ty), Value::Object(object)) => {
            prune_struct(ty, object, path, unknown);
        }
        (ValueKind::List(element), Value::Array(items)) => {
            for (at, item) in items.iter_mut().enumerate() {
                prune_value(element, item, &Path::Index(path, at), unknown);
            }
        }
        (ValueKind::Map(element), Value::Object(entries)) => {
            for (key, entry) in entries.iter_mut() {
                prune_value(element, entry, &Path::Field(path, key), unknown);
                if let (ValueKind::String | ValueKind::Bytes, Value::Null) = (element.kind(), &*entry) {
                    *entry = Value::String(String::new());
                }
            }
        }
        (ValueKind::Quantity, value) => {
            if let Ok(quantity) = Quantity::from_value(value) {
                *value = Value::String(quantity.to_string());
            }
        }
        (ValueKind::Time, Value::String(text)) => normalize_time(text, meta::time_text),
        (ValueKind::MicroTime, Value::String(text)) => normalize_time(text, meta::micro_time_text),
        _ => {}
    }
}

fn normalize_time(text: &mut String, write: fn(Timestamp) -> String) {
    if let Ok(time) = text.parse() {
        *text = write(time);
    }
}

// === types ===

fn check_struct(ty: TypeRef<'_>, object: &Map<String, Value>, path: &Path<'_>, faults: &mut Vec<String>) {
    for (name, value) in object {
        if let Some(field) = ty.field(name) {
            check_value(field.value(), value, &Place { owner: ty, path: &Path::Field(path, name) }, faults);
        }
    }
}

/// Where a value is: the struct that holds it, and the path from the root.
struct Place<'a> {
    owner: TypeRef<'a>,
    path: &'a Path<'a>,
}

fn check_value(ty: ValueRef<'_>, value: &Value, at: &Place<'_>, faults: &mut Vec<String>) {
    match (ty.kind(), value) {
        (_, Value::Null)
        | (ValueKind::Untyped, _)
        | (ValueKind::String | ValueKind::IntOrString, Value::String(_))
        | (ValueKind::Boolean, Value::Bool(_))
        | (ValueKind::Double, Value::Number(_))
        | (ValueKind::Object, Value::Object(_)) => {}
        (ValueKind::Int32 | ValueKind::IntOrString, Value::Number(n))
            if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
        (ValueKind::Int64, Value::Number(n)) if n.as_i64().is_some() => {}
        (ValueKind::Bytes, Value::String(text)) => check_base64(text, faults),
        (ValueKind::Quantity, Value::String(text)) => check_quantity(text, faults),
        (ValueKind::Quantity, Value::Number(n)) => check_quantity(&n.to_string(), faults),
        (ValueKind::Time | ValueKind::MicroTime, Value::String(text)) => check_time(text, faults),
        (ValueKind::Struct(ty) | ValueKind::Union(ty), Value::Object(object)) => {
            check_struct(ty, object, at.path, faults);
        }
        (ValueKind::Union(_), _) => {}
        (ValueKind::List(element), Value::Array(items)) => {
            items.iter().for_each(|item| check_value(element, item, at, faults));
        }
        (ValueKind::Map(element), Value::Object(entries)) => {
            entries.values().for_each(|entry| check_value(element, entry, at, faults));
        }
        (_, value) => faults.push(format!(
            "json: cannot unmarshal {} into Go struct field {}.{:#} of type {}",
            json_kind(value),
            at.owner.short_name(),
            at.path,
            go_type(ty)
        )),
    }
}

fn check_quantity(text: &str, faults: &mut Vec<String>) {
    if let Err(err) = text.parse::<Quantity>() {
        faults.push(err.to_string());
    }
}

fn check_base64(text: &str, faults: &mut Vec<String>) {
    // Go's decoder skips line breaks.
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    if let Err(err) = BASE64.decode(&text) {
        let at = match err {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len(),
        };
        faults.push(format!("illegal base64 data at input byte {at}"));
    }
}

fn check_time(text: &str, faults: &mut Vec<String>) {
    if text.parse::<Timestamp>().is_err() {
        let layout = "2006-01-02T15:04:05Z07:00";
        faults.push(format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\""));
    }
}

/// Go's word for a JSON value in the error of its decoder.
fn json_kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) if n.is_f64() || n.as_i64().is_none_or(|n| i32::try_from(n).is_err()) => {
            format!("number {n}")
        }
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

fn go_type(ty: ValueRef<'_>) -> String {
    match ty.kind() {
        ValueKind::String => "string".to_owned(),
        ValueKind::Bytes => "[]uint8".to_owned(),
        ValueKind::Int32 | ValueKind::IntOrString => "int32".to_owned(),
        ValueKind::Int64 => "int64".to_owned(),
        ValueKind::Double => "float64".to_owned(),
        ValueKind::Boolean => "bool".to_owned(),
        ValueKind::Quantity => "resource.Quantity".to_owned(),
        ValueKind::Time => "v1.Time".to_owned(),
        ValueKind::MicroTime => "v1.MicroTime".to_owned(),
        ValueKind::Untyped | ValueKind::Object => "runtime.RawExtension".to_owned(),
        ValueKind::Struct(ty) | ValueKind::Union(ty) => go_struct(ty),
        ValueKind::List(element) => format!("[]{}", go_type(element)),
        ValueKind::Map(element) => format!("map[string]{}", go_type(element)),
    }
}

/// `v1.PodSpec`: the last two parts of the type name.
fn go_struct(ty: TypeRef<'_>) -> String {
    let mut parts = ty.name().rsplitn(3, '.');
    let name = parts.next().unwrap_or_default();
    format!("{}.{name}", parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::builtin;

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let mut deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "nonsense": 1, "spec": {
            "replicas": 1, "foo": 1, "template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "imagee": "x"}]}}}});
        let unknown = prune(builtin(), "api.apps.v1.Deployment", &mut deployment);
        assert_eq!(
            unknown,
            [
                "unknown field \"nonsense\"",
                "unknown field \"spec.foo\"",
                "unknown field \"spec.template.spec.containers[1].imagee\""
            ]
        );
        assert_eq!(
            deployment["spec"]["template"]["spec"]["containers"],
            json!([{"name": "a"}, {"name": "b"}])
        );
    }

    #[test]
    fn what_upstream_never_stores_is_dropped_silently() {
        let mut pod = json!({"metadata": {"name": "a", "labels": {}, "creationTimestamp": null},
            "spec": {"hostNetwork": false, "automountServiceAccountToken": false, "containers": [
                {"name": "", "args": [], "workingDir": "", "securityContext": {"runAsUser": 0},
                    "ports": [{"containerPort": 80, "protocol": ""}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert!(prune(builtin(), "api.core.v1.Pod", &mut pod).is_empty());
        assert_eq!(
            pod,
            json!({"metadata": {"name": "a"}, "spec": {"automountServiceAccountToken": false,
                "containers": [{"name": "", "securityContext": {"runAsUser": 0}, "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]}})
        );
    }

    #[test]
    fn quantities_and_times_get_their_normal_form() {
        let mut node = json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:05.9+01:00"},
            "status": {"capacity": {"cpu": 2, "memory": "1024Mi", "odd": "0.5"}}});
        assert!(check_types(builtin(), "api.core.v1.Node", &node).is_ok());
        prune(builtin(), "api.core.v1.Node", &mut node);
        assert_eq!(node["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
        assert_eq!(node["status"]["capacity"], json!({"cpu": "2", "memory": "1Gi", "odd": "500m"}));
    }

    #[test]
    fn values_that_do_not_decode_are_refused() {
        let check = |name, value| check_types(builtin(), name, &value).expect_err("does not decode");
        assert_eq!(
            check("api.core.v1.Secret", json!({"data": {"a": "&&&&"}})),
            ["illegal base64 data at input byte 0"]
        );
        let limits = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "much"}}}]}});
        assert_eq!(check("api.core.v1.Pod", limits)[0].split(' ').next(), Some("quantities"));
    }

    #[test]
    fn free_form_values_are_left_alone() {
        let mut crd = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"a": {"default": {"any": [null, {}]}, "additionalProperties": true, "wrong": 1}}}}}]}});
        let name = "apiextensions_apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
        let unknown = prune(builtin(), name, &mut crd);
        assert_eq!(unknown, ["unknown field \"spec.versions[0].schema.openAPIV3Schema.properties.a.wrong\""]);
        let a = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"];
        assert_eq!(*a, json!({"default": {"any": [null, {}]}, "additionalProperties": true}));
        assert!(check_types(builtin(), name, &crd).is_ok());
    }

    #[test]
    fn wrong_types_read_as_upstream_says_them() {
        let check =
            |value: Value| check_types(builtin(), "api.apps.v1.Deployment", &value).expect_err("wrong type");
        assert_eq!(
            check(json!({"spec": {"replicas": "two"}})),
            ["json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"]
        );
        assert_eq!(
            check(json!({"spec": {"template": {"spec": {"containers": [{"command": "sh"}]}}}})),
            ["json: cannot unmarshal string into Go struct field \
              Container.spec.template.spec.containers.command of type []string"]
        );
        assert_eq!(
            check(json!({"spec": {"replicas": 1.5}})),
            [
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"
            ]
        );
        assert_eq!(
            check(json!({"metadata": {"labels": {"a": 1}}})),
            ["json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"]
        );
        assert_eq!(check(json!([])), ["json: cannot unmarshal array into Go value of type v1.Deployment"]);
    }

    /// Any JSON document.
    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "[a-z\\\\\"\u{e9}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_document_without_repetition_decodes_to_itself(document in documents()) {
            let (decoded, found) = decode_json(document.to_string().as_bytes()).expect("JSON");
            prop_assert_eq!(decoded, document);
            prop_assert!(found.is_empty());
        }

        #[test]
        fn pruning_twice_changes_nothing_more(document in documents()) {
            let mut once = serde_json::json!({"metadata": document, "spec": document, "status": document});
            prune(builtin(), "api.core.v1.Pod", &mut once);
            let mut twice = once.clone();
            prop_assert!(prune(builtin(), "api.core.v1.Pod", &mut twice).is_empty());
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn repeated_fields_are_named_and_the_last_wins() {
        let (value, found) =
            decode_json(br#"{"spec":{"replicas":1,"replicas":2,"list":[{"a":1},{"a":1,"a":3}]}}"#)
                .expect("JSON");
        assert_eq!(found, ["duplicate field \"spec.replicas\"", "duplicate field \"spec.list[1].a\""]);
        assert_eq!(value, json!({"spec": {"replicas": 2, "list": [{"a": 1}, {"a": 3}]}}));
        assert!(decode_json(b"{} x").is_err());
    }
}
