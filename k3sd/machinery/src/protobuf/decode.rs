//! From bytes to objects. Bytes come from anybody: every fault is an error, and nesting is limited.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{self, Field, Label, Message, MessageId, Table, Wire};
use super::wire::{Fault, Raw, Reader};
use super::{Error, MAGIC};
use crate::meta;

/// Go's zero time, in seconds.
const ZERO_TIME: i64 = -62_135_596_800;
/// As many levels as the JSON parser allows.
const MAX_DEPTH: usize = 128;

/// `runtime.Unknown`: what a document is, and its bytes.
#[derive(Default)]
struct Unknown<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    encoding: &'a str,
}

pub(super) fn document(bytes: &[u8], expected: (&str, &str), depth: usize) -> Result<Value, Error> {
    let body = bytes.strip_prefix(MAGIC).ok_or(Error::NotProtobuf)?;
    let malformed = |fault| Error::Malformed { message: "apimachinery.pkg.runtime.Unknown", fault };
    let unknown = Unknown::read(body).map_err(malformed)?;
    if !unknown.encoding.is_empty() {
        return Err(malformed(Fault::Nested));
    }
    let or = |given: &'_ str, other: &str| if given.is_empty() { other.to_owned() } else { given.to_owned() };
    let (api_version, kind) = (or(unknown.api_version, expected.0), or(unknown.kind, expected.1));
    let table = table::builtin();
    let Some(id) = table.of_kind(&api_version, &kind) else {
        return Err(Error::UnknownKind { api_version, kind });
    };
    let mut object = Map::new();
    Decoder { table, depth }.message(id, unknown.raw, &mut object)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

impl<'a> Unknown<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut unknown = Self::default();
        let mut reader = Reader(bytes);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => unknown.type_meta(raw.bytes()?)?,
                2 => unknown.raw = raw.bytes()?,
                3 => unknown.encoding = raw.text()?,
                _ => {}
            }
        }
        Ok(unknown)
    }

    fn type_meta(&mut self, bytes: &'a [u8]) -> Result<(), Fault> {
        let mut reader = Reader(bytes);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => self.api_version = raw.text()?,
                2 => self.kind = raw.text()?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Decoder {
    table: &'static Table,
    depth: usize,
}

impl Decoder {
    fn deeper(self) -> Result<Self, Fault> {
        let depth = self.depth + 1;
        if depth > MAX_DEPTH { Err(Fault::Depth) } else { Ok(Self { depth, ..self }) }
    }

    /// The fields of a message, into the object that stands for it.
    fn message(self, id: MessageId, bytes: &[u8], object: &mut Map<String, Value>) -> Result<(), Error> {
        let message = self.table.message(id);
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        let deeper = self.deeper().map_err(malformed)?;
        let mut reader = Reader(bytes);
        while let Some((number, raw)) = reader.field().map_err(malformed)? {
            // Unknown fields are skipped: they are those of other versions.
            if let Some(field) = message.field(number) {
                deeper.field(message, field, raw, object)?;
            }
        }
        Ok(())
    }

    fn field(
        self,
        message: &Message,
        field: &Field,
        raw: Raw<'_>,
        object: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        match (field.label, field.wire) {
            (Label::Inline, Wire::Message(id)) => {
                self.message(id, raw.bytes().map_err(malformed)?, object)?;
            }
            (Label::One, Wire::Message(id)) => {
                // A message that comes twice is merged.
                let nested = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(nested) = nested {
                    self.message(id, raw.bytes().map_err(malformed)?, nested)?;
                }
            }
            (Label::One | Label::Inline, wire) => {
                let value = self.value(message, wire, raw)?;
                object.insert(field.name.to_owned(), value);
            }
            (Label::Repeated, wire) => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    self.repeated(message, wire, raw, list)?;
                }
            }
            (Label::Map, wire) => {
                let (key, value) = self.entry(message, wire, raw.bytes().map_err(malformed)?)?;
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// One element, or many numbers packed together.
    fn repeated(
        self,
        message: &Message,
        wire: Wire,
        raw: Raw<'_>,
        list: &mut Vec<Value>,
    ) -> Result<(), Error> {
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        match (wire, raw) {
            (Wire::Bool | Wire::Int32 | Wire::Int64, Raw::Bytes(packed)) => {
                let mut reader = Reader(packed);
                while !reader.0.is_empty() {
                    let raw = Raw::Varint(reader.varint().map_err(malformed)?);
                    list.push(self.value(message, wire, raw)?);
                }
            }
            _ => list.push(self.value(message, wire, raw)?),
        }
        Ok(())
    }

    fn entry(self, message: &Message, wire: Wire, bytes: &[u8]) -> Result<(String, Value), Error> {
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        let (mut key, mut value) = ("", Raw::Bytes(&[]));
        let mut reader = Reader(bytes);
        while let Some((number, raw)) = reader.field().map_err(malformed)? {
            match number {
                1 => key = raw.text().map_err(malformed)?,
                2 => value = raw,
                _ => {}
            }
        }
        Ok((key.to_owned(), self.value(message, wire, value)?))
    }

    fn value(self, message: &Message, wire: Wire, raw: Raw<'_>) -> Result<Value, Error> {
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        match wire {
            Wire::Message(id) => self.object(id, raw.bytes().map_err(malformed)?),
            Wire::Json => self.json(message, raw.bytes().map_err(malformed)?),
            Wire::SchemaOrBool(id) | Wire::SchemaOrList(id) | Wire::SchemaOrTexts(id) => {
                let deeper = self.deeper().map_err(malformed)?;
                deeper.schema_or(message, wire, id, raw.bytes().map_err(malformed)?)
            }
            _ => leaf(wire, raw).map_err(malformed),
        }
    }

    fn object(self, id: MessageId, bytes: &[u8]) -> Result<Value, Error> {
        let mut object = Map::new();
        self.message(id, bytes, &mut object)?;
        Ok(Value::Object(object))
    }

    /// JSON text in its message; objects in lists of anything may also be documents.
    fn json(self, message: &Message, bytes: &[u8]) -> Result<Value, Error> {
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        let text = only(bytes, 1).map_err(malformed)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        if text.starts_with(MAGIC) {
            let deeper = self.deeper().map_err(malformed)?;
            return document(text, ("", ""), deeper.depth);
        }
        serde_json::from_slice(text).map_err(|_| malformed(Fault::Json))
    }

    /// The three types of JSON schemas that are a schema or something else.
    fn schema_or(self, message: &Message, wire: Wire, id: MessageId, bytes: &[u8]) -> Result<Value, Error> {
        let malformed = |fault| Error::Malformed { message: message.name, fault };
        let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
        let schema_number = if matches!(wire, Wire::SchemaOrBool(_)) { 2 } else { 1 };
        let mut reader = Reader(bytes);
        while let Some((number, raw)) = reader.field().map_err(malformed)? {
            match (wire, number) {
                (_, number) if number == schema_number => {
                    schema = Some(self.object(id, raw.bytes().map_err(malformed)?)?);
                }
                (Wire::SchemaOrBool(_), 1) => allows = raw.varint().map_err(malformed)? != 0,
                (Wire::SchemaOrList(_), 2) => list.push(self.object(id, raw.bytes().map_err(malformed)?)?),
                (Wire::SchemaOrTexts(_), 2) => list.push(raw.text().map_err(malformed)?.into()),
                _ => {}
            }
        }
        Ok(match (schema, wire) {
            (_, Wire::SchemaOrList(_) | Wire::SchemaOrTexts(_)) if !list.is_empty() => Value::Array(list),
            (Some(schema), _) => schema,
            (None, Wire::SchemaOrBool(_)) => allows.into(),
            (None, _) => Value::Null,
        })
    }
}

/// A value without values of its own.
fn leaf(wire: Wire, raw: Raw<'_>) -> Result<Value, Fault> {
    Ok(match wire {
        Wire::String => raw.text()?.into(),
        Wire::Bytes => BASE64.encode(raw.bytes()?).into(),
        Wire::Bool => (raw.varint()? != 0).into(),
        Wire::Int32 => (raw.varint()? as i32).into(),
        Wire::Int64 => raw.varint()?.cast_signed().into(),
        Wire::Double => match raw {
            Raw::Fixed64(bits) => f64::from_bits(bits).into(),
            _ => return Err(Fault::WireType),
        },
        Wire::Time => time(raw.bytes()?, false)?,
        Wire::MicroTime => time(raw.bytes()?, true)?,
        Wire::Quantity => quantity(raw.bytes()?)?,
        Wire::IntOrString => int_or_string(raw.bytes()?)?,
        Wire::Texts => texts(raw.bytes()?)?,
        Wire::Message(_)
        | Wire::Json
        | Wire::SchemaOrBool(_)
        | Wire::SchemaOrList(_)
        | Wire::SchemaOrTexts(_) => {
            return Err(Fault::WireType);
        }
    })
}

/// The last bytes of that number in a message.
fn only(bytes: &[u8], wanted: u32) -> Result<&[u8], Fault> {
    let mut found: &[u8] = &[];
    let mut reader = Reader(bytes);
    while let Some((number, raw)) = reader.field()? {
        if number == wanted {
            found = raw.bytes()?;
        }
    }
    Ok(found)
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, Fault> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader(bytes);
    while let Some((number, raw)) = reader.field()? {
        match number {
            1 => seconds = raw.varint()?.cast_signed(),
            2 => nanos = raw.varint()? as i32,
            _ => {}
        }
    }
    if bytes.is_empty() || seconds == ZERO_TIME {
        return Ok(Value::Null);
    }
    let nanos = if micro { nanos } else { 0 };
    let time = Timestamp::new(seconds, nanos).map_err(|_| Fault::Time)?;
    Ok(if micro { meta::micro_time_text(time) } else { meta::time_text(time) }.into())
}

fn quantity(bytes: &[u8]) -> Result<Value, Fault> {
    let text = Raw::Bytes(only(bytes, 1)?).text()?;
    Ok(if text.is_empty() { "0" } else { text }.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Fault> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader(bytes);
    while let Some((field, raw)) = reader.field()? {
        match field {
            1 => is_text = raw.varint()? == 1,
            2 => number = raw.varint()? as i32,
            3 => text = raw.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn texts(bytes: &[u8]) -> Result<Value, Fault> {
    let mut list = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, raw)) = reader.field()? {
        if number == 1 {
            list.push(raw.text()?.into());
        }
    }
    Ok(Value::Array(list))
}
