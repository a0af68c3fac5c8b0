//! The version 2 document as client-go wants it: protobuf of gnostic's `openapi.v2.Document`
//! (`github.com/google/gnostic-models`, `openapiv2/OpenAPIv2.proto`).
//!
//! The JSON document is walked and written out. Of operations, what clients read is kept: identity, parameters, the kind.

use serde_json::{Map, Value};

/// The document in protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    out.message(2, info(&document["info"]));
    out.message(8, named(2, object(&document["paths"]), path_item));
    out.message(9, named(1, object(&document["definitions"]), schema));
    out.0
}

/// A message while it is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten() {
            self.text(field, Some(text));
        }
    }

    fn flag(&mut self, field: u64, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u64, message: Self) {
        self.bytes(field, &message.0);
    }

    /// `Any`, whose value is YAML text; JSON is YAML.
    fn any(&mut self, field: u64, value: Option<&Value>) {
        if let Some(value) = value {
            let mut any = Self::default();
            any.bytes(2, value.to_string().as_bytes());
            self.message(field, any);
        }
    }

    /// Every `x-` member of an object.
    fn extensions(&mut self, field: u64, from: &Value) {
        for (name, value) in object(from).iter().filter(|(name, _)| name.starts_with("x-")) {
            let mut named = Self::default();
            named.bytes(1, name.as_bytes());
            named.any(2, Some(value));
            self.message(field, named);
        }
    }
}

/// A message that holds a map: `field` repeats `{1: name, 2: value}`.
fn named(field: u64, entries: &Map<String, Value>, encode: fn(&Value) -> Message) -> Message {
    let mut out = Message::default();
    for (name, value) in entries {
        let mut entry = Message::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, encode(value));
        out.message(field, entry);
    }
    out
}

fn info(info: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, info.get("title"));
    out.text(2, info.get("version"));
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            out.message(field, operation(value));
        }
    }
    parameters(&mut out, 9, item);
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, operation.get("tags"));
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    parameters(&mut out, 8, operation);
    out.message(9, named(1, object(&operation["responses"]), response));
    out.extensions(13, operation);
    out
}

fn response(value: &Value) -> Message {
    let mut response = Message::default();
    response.text(1, value.get("description"));
    if let Some(value) = value.get("schema") {
        let mut item = Message::default();
        item.message(1, schema(value));
        response.message(2, item);
    }
    let mut out = Message::default();
    out.message(1, response);
    out
}

fn parameters(out: &mut Message, field: u64, of: &Value) {
    for value in of.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        let mut item = Message::default();
        item.message(1, parameter(value));
        out.message(field, item);
    }
}

fn parameter(value: &Value) -> Message {
    let mut out = Message::default();
    if value["in"] == "body" {
        let mut body = Message::default();
        body.text(2, value.get("name"));
        body.text(3, value.get("in"));
        body.flag(4, value.get("required"));
        body.message(5, schema(&value["schema"]));
        out.message(1, body);
        return out;
    }
    // Path and query parameters agree up to the name; query parameters have one field more before the type.
    let query = value["in"] == "query";
    let mut plain = Message::default();
    plain.flag(1, value.get("required"));
    plain.text(2, value.get("in"));
    plain.text(4, value.get("name"));
    plain.text(if query { 6 } else { 5 }, value.get("type"));
    plain.flag(if query { 20 } else { 19 }, value.get("uniqueItems"));
    let mut non_body = Message::default();
    non_body.message(if query { 3 } else { 4 }, plain);
    out.message(2, non_body);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, value.get("$ref"));
    out.text(2, value.get("format"));
    out.text(4, value.get("description"));
    out.any(5, value.get("default"));
    out.texts(19, value.get("required"));
    if let Some(additional) = value.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, schema(additional));
        out.message(21, item);
    }
    if value.get("type").is_some() {
        let mut kind = Message::default();
        kind.text(1, value.get("type"));
        out.message(22, kind);
    }
    if let Some(items) = value.get("items") {
        let mut item = Message::default();
        item.message(1, schema(items));
        out.message(23, item);
    }
    if let Some(properties) = value.get("properties") {
        out.message(25, named(1, object(properties), schema));
    }
    out.extensions(31, value);
    out
}

fn object(value: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&EMPTY)
}
