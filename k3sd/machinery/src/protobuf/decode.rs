//! From protobuf to JSON values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{Field as Raw, Reader};
use super::{Field, JSON_SCHEMA, Kind, Label, MAGIC, ProtobufError, Special, message_of, messages};
use crate::meta;

/// Deeper nesting than any kind has; CRD schemas are the deepest.
const MAX_DEPTH: usize = 128;

pub(super) fn body(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader(envelope);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Raw::Bytes(type_meta)) => {
                let mut reader = Reader(type_meta);
                while let Some((number, field)) = reader.next()? {
                    match (number, field) {
                        (1, Raw::Bytes(bytes)) => api_version = text(bytes, "apiVersion")?,
                        (2, Raw::Bytes(bytes)) => kind = text(bytes, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(type_name) = message_of(&api_version, &kind) else {
        return Err(ProtobufError::Kind { api_version, kind });
    };
    let mut object = Map::new();
    message_into(type_name, raw, &mut object, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

fn message(type_name: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if let Some(special) = Special::of(type_name) {
        return self::special(special, type_name, bytes, depth);
    }
    let mut object = Map::new();
    message_into(type_name, bytes, &mut object, depth)?;
    Ok(Value::Object(object))
}

fn message_into(
    type_name: &str,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Truncated);
    }
    let Some(known) = messages().get(type_name) else { return Ok(()) };
    let mut reader = Reader(bytes);
    while let Some((number, raw)) = reader.next()? {
        let Ok(at) = known.fields.binary_search_by_key(&number, |field| field.number) else { continue };
        let field = &known.fields[at];
        match (field.label, field.kind, raw) {
            (Label::Embedded, Kind::Message(name), Raw::Bytes(bytes)) => {
                message_into(name, bytes, object, depth + 1)?
            }
            (Label::Map, _, Raw::Bytes(bytes)) => {
                let (key, value) = entry(field, bytes, depth)?;
                meta::child_mut(object, field.name).insert(key, value);
            }
            (Label::Many, _, raw) => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    elements(field, raw, list, depth)?;
                }
            }
            _ => {
                let value = self::value(field.kind, field.name, raw, depth)?;
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// One element of a list, or several numbers in one packed field.
fn elements(field: &Field, raw: Raw<'_>, list: &mut Vec<Value>, depth: usize) -> Result<(), ProtobufError> {
    match (field.kind, raw) {
        (Kind::Int | Kind::Bool, Raw::Bytes(packed)) => {
            let mut reader = Reader(packed);
            while !reader.0.is_empty() {
                let number = Raw::Varint(reader.varint()?);
                list.push(value(field.kind, field.name, number, depth)?);
            }
        }
        (kind, raw) => list.push(value(kind, field.name, raw, depth)?),
    }
    Ok(())
}

/// Key and value of a map entry; either may be left out when empty.
fn entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut found = match field.kind {
        Kind::Message(name) => message(name, &[], depth + 1)?,
        _ => Value::String(String::new()),
    };
    let mut reader = Reader(bytes);
    while let Some((number, raw)) = reader.next()? {
        match (number, raw) {
            (1, Raw::Bytes(bytes)) => key = text(bytes, field.name)?,
            (2, raw) => found = value(field.kind, field.name, raw, depth)?,
            _ => {}
        }
    }
    Ok((key, found))
}

fn value(kind: Kind, name: &str, raw: Raw<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (kind, raw) {
        (Kind::String, Raw::Bytes(bytes)) => text(bytes, name)?.into(),
        (Kind::Bytes, Raw::Bytes(bytes)) => BASE64.encode(bytes).into(),
        (Kind::Bool, Raw::Varint(bits)) => (bits != 0).into(),
        (Kind::Int, Raw::Varint(bits)) => bits.cast_signed().into(),
        (Kind::Double, Raw::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Kind::Message(type_name), Raw::Bytes(bytes)) => message(type_name, bytes, depth + 1)?,
        (_, Raw::Varint(_)) => return Err(ProtobufError::WireType(0)),
        (_, Raw::Fixed64(_)) => return Err(ProtobufError::WireType(1)),
        (_, Raw::Bytes(_)) => return Err(ProtobufError::WireType(2)),
    })
}

fn special(special: Special, type_name: &str, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let mut fields: [Option<Raw<'_>>; 3] = [None; 3];
    let mut items = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, raw)) = reader.next()? {
        let index = (number as usize).wrapping_sub(1);
        if let Some(slot) = fields.get_mut(index) {
            *slot = Some(raw);
        }
        if let Raw::Bytes(bytes) = raw {
            items.push((number, bytes));
        }
    }
    let number = |at: usize| match fields[at] {
        Some(Raw::Varint(bits)) => bits.cast_signed(),
        _ => 0,
    };
    let bytes = |at: usize| match fields[at] {
        Some(Raw::Bytes(bytes)) => bytes,
        _ => &[],
    };
    Ok(match special {
        Special::Quantity => text(bytes(0), type_name)?.into(),
        Special::Time | Special::MicroTime => time(special, fields[0].is_some(), number(0), number(1)),
        Special::IntOrString if number(0) == 0 => number(1).into(),
        Special::IntOrString => text(bytes(2), type_name)?.into(),
        Special::Raw if bytes(0).is_empty() => Value::Null,
        Special::Raw => {
            serde_json::from_slice(bytes(0)).map_err(|_| ProtobufError::Text(type_name.to_owned()))?
        }
        Special::Items => strings(&items, 1)?,
        Special::SchemaOrBool if fields[1].is_some() => message(JSON_SCHEMA, bytes(1), depth + 1)?,
        Special::SchemaOrBool => (number(0) != 0).into(),
        Special::SchemaOrList if fields[0].is_some() => message(JSON_SCHEMA, bytes(0), depth + 1)?,
        Special::SchemaOrList if type_name.ends_with("StringArray") => strings(&items, 2)?,
        Special::SchemaOrList => {
            let schemas = items.iter().filter(|(number, _)| *number == 2);
            schemas.map(|(_, bytes)| message(JSON_SCHEMA, bytes, depth + 1)).collect::<Result<_, _>>()?
        }
    })
}

fn strings(items: &[(u32, &[u8])], number: u32) -> Result<Value, ProtobufError> {
    items
        .iter()
        .filter(|(n, _)| *n == number)
        .map(|(_, bytes)| text(bytes, "items").map(Value::from))
        .collect()
}

/// An empty message is Go's zero time, which JSON writes as `null`.
fn time(special: Special, present: bool, seconds: i64, nanos: i64) -> Value {
    let nanos = i32::try_from(nanos).unwrap_or(0);
    match Timestamp::new(seconds, nanos) {
        Ok(time) if present => match special {
            Special::MicroTime => meta::micro_time_text(time).into(),
            _ => meta::time_text(time).into(),
        },
        _ => Value::Null,
    }
}

fn text(bytes: &[u8], name: &str) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Text(name.to_owned()))
}
