//! Whether an applied configuration fits its type. Unlike bodies of other requests, which are pruned, it must: an unknown field
//! could be owned, but never be stored.

use std::collections::BTreeSet;

use serde_json::Value;

use super::types::{Shape, Typed, element, member};
use crate::schema::{TypeRef, ValueKind};

/// Everything that does not fit, as upstream says it: `.spec.replicass: field not declared in schema`.
pub(super) fn faults(ty: TypeRef<'_>, config: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(Typed::object(ty), config, "", &mut faults);
    faults
}

fn check(ty: Typed<'_>, value: &Value, path: &str, faults: &mut Vec<String>) {
    let Some(kind) = ty.kind() else { return };
    match (kind, value) {
        (_, Value::Null)
        | (ValueKind::Untyped | ValueKind::Object | ValueKind::Union(_), _)
        | (ValueKind::String | ValueKind::Bytes, Value::String(_))
        | (ValueKind::Int32 | ValueKind::Int64 | ValueKind::Double, Value::Number(_))
        | (ValueKind::Boolean, Value::Bool(_)) => {}
        (
            ValueKind::Quantity | ValueKind::Time | ValueKind::MicroTime | ValueKind::IntOrString,
            Value::String(_) | Value::Number(_) | Value::Bool(_),
        ) => {}
        (ValueKind::Struct(ty), Value::Object(object)) => {
            for (name, value) in object {
                let path = format!("{path}.{name}");
                match member(ty, name) {
                    (of, true) => check(of, value, &path, faults),
                    _ => faults.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        (ValueKind::Map(_), Value::Object(object)) => {
            if let Shape::Map(entry) = ty.shape(None) {
                object
                    .iter()
                    .for_each(|(name, value)| check(entry, value, &format!("{path}.{name}"), faults));
            }
        }
        (ValueKind::List(of), Value::Array(items)) => check_list(ty, of, items, path, faults),
        (kind, value) => faults.push(format!("{path}: expected {}, got {}", word(kind), got(kind, value))),
    }
}

fn check_list(
    ty: Typed<'_>,
    of: crate::schema::ValueRef<'_>,
    items: &[Value],
    path: &str,
    faults: &mut Vec<String>,
) {
    let Shape::List(item, keys) = ty.shape(None) else {
        for (at, value) in items.iter().enumerate() {
            check(Typed::plain(of), value, &format!("{path}[{at}]"), faults);
        }
        return;
    };
    let mut seen = BTreeSet::new();
    for (at, value) in items.iter().enumerate() {
        match element(item, keys, value) {
            Err(error) => faults.push(format!("{path}: element {at}: {error}")),
            Ok(step) => {
                check(item, value, &format!("{path}{step}"), faults);
                if seen.contains(&step) {
                    faults.push(format!("{path}: duplicate entries for key {step}"));
                }
                seen.insert(step);
            }
        }
    }
}

fn word(kind: ValueKind<'_>) -> &'static str {
    match kind {
        ValueKind::String | ValueKind::Bytes => "string",
        ValueKind::Int32 | ValueKind::Int64 | ValueKind::Double => "numeric (int or float)",
        ValueKind::Boolean => "boolean",
        ValueKind::Struct(_) | ValueKind::Map(_) | ValueKind::Object => "map",
        ValueKind::List(_) => "list",
        _ => "any scalar",
    }
}

/// The value; for numbers upstream names the type that was found instead.
fn got(kind: ValueKind<'_>, value: &Value) -> String {
    match (kind, value) {
        (ValueKind::Int32 | ValueKind::Int64 | ValueKind::Double, Value::String(_)) => "string".to_owned(),
        (ValueKind::Int32 | ValueKind::Int64 | ValueKind::Double, Value::Bool(_)) => "bool".to_owned(),
        (_, value) => value.to_string(),
    }
}
