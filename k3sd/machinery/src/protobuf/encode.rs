//! From objects to bytes, in the order of field numbers as Go writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{self, Field, Label, MessageId, Table, Wire};
use super::wire::{put_bytes, put_double, put_nested, put_number};
use super::{Error, MAGIC};
use crate::meta;

pub(super) fn document(object: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    let (api_version, kind) = (meta::api_version(object), meta::kind(object));
    let table = table::builtin();
    let (Some(id), Value::Object(map)) = (table.of_kind(api_version, kind), object) else {
        return Err(Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    out.extend_from_slice(MAGIC);
    put_nested(out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
        Ok::<_, Error>(())
    })?;
    put_nested(out, 2, |out| message(table, id, map, out))?;
    // Content encoding and type: those of a document.
    put_bytes(out, 3, b"");
    put_bytes(out, 4, b"");
    Ok(())
}

/// `WatchEvent`, whose object is a `RawExtension` around a document.
pub(super) fn watch_event(event: &str, object: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    put_bytes(out, 1, event.as_bytes());
    put_nested(out, 2, |out| put_nested(out, 1, |out| document(object, out)))
}

fn message(
    table: &Table,
    id: MessageId,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let message = table.message(id);
    for field in &message.fields {
        let mismatch = Error::Mismatch { message: message.name, field: field.name };
        if let (Label::Inline, Wire::Message(id)) = (field.label, field.wire) {
            put_nested(out, field.number, |out| self::message(table, id, object, out))?;
            continue;
        }
        match (field.label, object.get(field.name)) {
            (_, None) => {}
            (Label::One | Label::Inline, Some(Value::Null)) if is_time(field.wire) => {
                put_bytes(out, field.number, b"");
            }
            (_, Some(Value::Null)) => {}
            (Label::One | Label::Inline, Some(value)) => {
                put(table, field.wire, field.number, value, out)?.ok_or(mismatch)?;
            }
            (Label::Repeated, Some(Value::Array(items))) => {
                for item in items {
                    put(table, field.wire, field.number, item, out)?
                        .ok_or(Error::Mismatch { message: message.name, field: field.name })?;
                }
            }
            (Label::Map, Some(Value::Object(entries))) => {
                map(table, field, entries, out)?.ok_or(mismatch)?;
            }
            (Label::Repeated | Label::Map, Some(_)) => return Err(mismatch),
        }
    }
    Ok(())
}

fn is_time(wire: Wire) -> bool {
    matches!(wire, Wire::Time | Wire::MicroTime)
}

fn map(
    table: &Table,
    field: &Field,
    entries: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<Option<()>, Error> {
    let mut fits = Some(());
    for (key, value) in entries {
        put_nested(out, field.number, |out| {
            put_bytes(out, 1, key.as_bytes());
            if put(table, field.wire, 2, value, out)?.is_none() {
                fits = None;
            }
            Ok::<_, Error>(())
        })?;
    }
    Ok(fits)
}

/// One value as a field. `None` when it does not fit the type.
fn put(
    table: &Table,
    wire: Wire,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<Option<()>, Error> {
    match (wire, value) {
        (Wire::Message(id), Value::Object(object)) => {
            put_nested(out, number, |out| message(table, id, object, out))?;
        }
        // Go's nil among elements: a message with nothing in it.
        (Wire::Message(_) | Wire::Json | Wire::Time | Wire::MicroTime, Value::Null) => {
            put_bytes(out, number, b"");
        }
        (Wire::SchemaOrBool(id) | Wire::SchemaOrList(id) | Wire::SchemaOrTexts(id), _) => {
            let mut fits = None;
            put_nested(out, number, |out| {
                fits = schema_or(table, wire, id, value, out)?;
                Ok::<_, Error>(())
            })?;
            return Ok(fits);
        }
        _ => return Ok(leaf(wire, number, value, out)),
    }
    Ok(Some(()))
}

fn schema_or(
    table: &Table,
    wire: Wire,
    id: MessageId,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<Option<()>, Error> {
    match (wire, value) {
        (Wire::SchemaOrBool(_), Value::Bool(allows)) => put_number(out, 1, u64::from(*allows)),
        (Wire::SchemaOrBool(_), Value::Object(schema)) => {
            put_number(out, 1, 1);
            put_nested(out, 2, |out| message(table, id, schema, out))?;
        }
        (_, Value::Object(schema)) => put_nested(out, 1, |out| message(table, id, schema, out))?,
        (Wire::SchemaOrList(_), Value::Array(items)) => {
            for item in items {
                let Value::Object(schema) = item else { return Ok(None) };
                put_nested(out, 2, |out| message(table, id, schema, out))?;
            }
        }
        (Wire::SchemaOrTexts(_), Value::Array(items)) => return Ok(put_texts(out, 2, items)),
        _ => return Ok(None),
    }
    Ok(Some(()))
}

fn leaf(wire: Wire, number: u32, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match wire {
        Wire::String => put_bytes(out, number, value.as_str()?.as_bytes()),
        Wire::Bytes => put_bytes(out, number, &base64(value.as_str()?)?),
        Wire::Bool => put_number(out, number, u64::from(value.as_bool()?)),
        Wire::Int32 => put_number(out, number, i64::from(i32_of(value)?).cast_unsigned()),
        Wire::Int64 => put_number(out, number, value.as_i64()?.cast_unsigned()),
        Wire::Double => put_double(out, number, value.as_f64()?),
        Wire::Time => put_time(out, number, value.as_str()?, false)?,
        Wire::MicroTime => put_time(out, number, value.as_str()?, true)?,
        Wire::Quantity => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(amount) => amount.to_string(),
                _ => return None,
            };
            nested(out, number, |out| put_bytes(out, 1, text.as_bytes()));
        }
        Wire::IntOrString => {
            let (kind, amount, text) = match value {
                Value::String(text) => (1, 0, text.as_str()),
                _ => (0, i32_of(value)?, ""),
            };
            nested(out, number, |out| {
                put_number(out, 1, kind);
                put_number(out, 2, i64::from(amount).cast_unsigned());
                put_bytes(out, 3, text.as_bytes());
            });
        }
        Wire::Json => {
            let text = value.to_string();
            nested(out, number, |out| put_bytes(out, 1, text.as_bytes()));
        }
        Wire::Texts => {
            let items = value.as_array()?;
            let mut fits = None;
            nested(out, number, |out| fits = put_texts(out, 1, items));
            fits?;
        }
        Wire::Message(_) | Wire::SchemaOrBool(_) | Wire::SchemaOrList(_) | Wire::SchemaOrTexts(_) => {
            return None;
        }
    }
    Some(())
}

fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let Ok(()) = put_nested(out, number, |out| {
        write(out);
        Ok::<_, std::convert::Infallible>(())
    });
}

fn put_texts(out: &mut Vec<u8>, number: u32, items: &[Value]) -> Option<()> {
    for item in items {
        put_bytes(out, number, item.as_str()?.as_bytes());
    }
    Some(())
}

fn put_time(out: &mut Vec<u8>, number: u32, text: &str, micro: bool) -> Option<()> {
    let time: Timestamp = text.parse().ok()?;
    // Of times before 1970, the part of a second counts back; on the wire it counts forward.
    let nanos = i64::from(time.subsec_nanosecond());
    let (seconds, nanos) =
        if nanos < 0 { (time.as_second() - 1, nanos + 1_000_000_000) } else { (time.as_second(), nanos) };
    let nanos = if micro { nanos / 1000 * 1000 } else { 0 };
    nested(out, number, |out| {
        put_number(out, 1, seconds.cast_unsigned());
        put_number(out, 2, nanos.cast_unsigned());
    });
    Some(())
}

fn i32_of(value: &Value) -> Option<i32> {
    i32::try_from(value.as_i64()?).ok()
}

/// As Go's decoder, which skips line breaks.
fn base64(text: &str) -> Option<Vec<u8>> {
    if text.contains(['\r', '\n']) {
        return BASE64.decode(text.replace(['\r', '\n'], "")).ok();
    }
    BASE64.decode(text).ok()
}
