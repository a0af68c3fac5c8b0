//! From JSON values to protobuf. Values of a wrong type are left out; the caller has checked types.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{put_bytes, put_int, put_tag};
use super::{Field, JSON_SCHEMA, Kind, Label, MAGIC, Special, message_of, messages};
use crate::meta;

pub(super) fn body(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (meta::api_version(object), meta::kind(object));
    let type_name = message_of(api_version, kind)?;
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, &message(type_name, object));
    Some(out)
}

fn message(type_name: &str, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(special) = Special::of(type_name) {
        put_special(special, type_name, value, &mut out);
    } else if let Value::Object(object) = value {
        put_object(type_name, object, &mut out);
    }
    out
}

fn put_object(type_name: &str, object: &Map<String, Value>, out: &mut Vec<u8>) {
    let Some(known) = messages().get(type_name) else { return };
    for field in &known.fields {
        if let (Label::Embedded, Kind::Message(name)) = (field.label, field.kind) {
            let mut embedded = Vec::new();
            put_object(name, object, &mut embedded);
            put_bytes(out, field.number, &embedded);
        } else if let Some(value) = object.get(field.name) {
            put_field(field, value, out);
        }
    }
}

fn put_field(field: &Field, value: &Value, out: &mut Vec<u8>) {
    match (field.label, value) {
        (Label::Many, Value::Array(items)) => {
            items.iter().for_each(|item| put_value(field.number, field.kind, item, out));
        }
        (Label::Map, Value::Object(entries)) => {
            for (key, value) in entries {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put_value(2, field.kind, value, &mut entry);
                put_bytes(out, field.number, &entry);
            }
        }
        (Label::One | Label::Embedded, value) => put_value(field.number, field.kind, value, out),
        _ => {}
    }
}

fn put_value(number: u32, kind: Kind, value: &Value, out: &mut Vec<u8>) {
    match (kind, value) {
        (Kind::String, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Kind::Bytes, Value::String(text)) => {
            put_bytes(out, number, &BASE64.decode(text).unwrap_or_default())
        }
        (Kind::Bool, Value::Bool(value)) => put_int(out, number, i64::from(*value)),
        (Kind::Int, Value::Number(value)) => put_int(out, number, value.as_i64().unwrap_or_default()),
        (Kind::Double, Value::Number(value)) => {
            put_tag(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        // Any JSON value is one, `null` among them.
        (Kind::Message(name), value) if !value.is_null() || Special::of(name) == Some(Special::Raw) => {
            put_bytes(out, number, &message(name, value));
        }
        _ => {}
    }
}

fn put_special(special: Special, type_name: &str, value: &Value, out: &mut Vec<u8>) {
    match (special, value) {
        (Special::Quantity, Value::String(text)) => put_bytes(out, 1, text.as_bytes()),
        (Special::Quantity, Value::Number(number)) => put_bytes(out, 1, number.to_string().as_bytes()),
        (Special::Time | Special::MicroTime, Value::String(text)) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                put_int(out, 1, time.as_second());
                put_int(out, 2, i64::from(time.subsec_nanosecond()));
            }
        }
        (Special::IntOrString, Value::Number(number)) => {
            put_int(out, 1, 0);
            put_int(out, 2, number.as_i64().unwrap_or_default());
        }
        (Special::IntOrString, Value::String(text)) => {
            put_int(out, 1, 1);
            put_bytes(out, 3, text.as_bytes());
        }
        (Special::Raw, value) => put_bytes(out, 1, value.to_string().as_bytes()),
        (Special::Items, Value::Array(items)) => put_strings(out, 1, items),
        (Special::SchemaOrBool, Value::Bool(allowed)) => put_int(out, 1, i64::from(*allowed)),
        (Special::SchemaOrBool, schema @ Value::Object(_)) => {
            put_int(out, 1, 1);
            put_bytes(out, 2, &message(JSON_SCHEMA, schema));
        }
        (Special::SchemaOrList, schema @ Value::Object(_)) => {
            put_bytes(out, 1, &message(JSON_SCHEMA, schema))
        }
        (Special::SchemaOrList, Value::Array(items)) if type_name.ends_with("StringArray") => {
            put_strings(out, 2, items);
        }
        (Special::SchemaOrList, Value::Array(items)) => {
            items.iter().for_each(|schema| put_bytes(out, 2, &message(JSON_SCHEMA, schema)));
        }
        _ => {}
    }
}

fn put_strings(out: &mut Vec<u8>, number: u32, items: &[Value]) {
    items.iter().filter_map(Value::as_str).for_each(|item| put_bytes(out, number, item.as_bytes()));
}
