//! Between objects and bytes. **The stored bytes are the served bytes**, but for one thing: an object's `resourceVersion` is the revision
//! of the write that stored it, which nobody knows before the write is done. So stored bytes have no `resourceVersion`
//! (as upstream's have none), and [`with_revision`] splices it in where bytes leave the datastore: once per write, when an
//! event enters the watch cache. Everything after that, lists, gets and watches, sends the same allocation.
//!
//! Objects are encoded with `kind`, `apiVersion` and `metadata` first, so that the splice finds its place at once.

use bytes::Bytes;
use serde_json::{Map, Value};

const HEAD: [&str; 3] = ["kind", "apiVersion", "metadata"];

/// Whether `metadata.resourceVersion` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Keep,
    Leave,
}

/// Encode for the datastore: no `resourceVersion`, exactly sized.
pub(crate) fn encode_stored(object: &Value) -> Bytes {
    encode_with(object, Version::Leave)
}

/// Encode an object as it is, head fields first, exactly sized.
pub(crate) fn encode(object: &Value) -> Bytes {
    encode_with(object, Version::Keep)
}

fn encode_with(object: &Value, version: Version) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    match object {
        Value::Object(map) => write_object(&mut out, map, version),
        other => write_json(&mut out, other),
    }
    Bytes::from(out.into_boxed_slice())
}

fn write_object(out: &mut Vec<u8>, map: &Map<String, Value>, version: Version) {
    let head = HEAD.iter().filter_map(|key| map.get_key_value(*key));
    let rest = map.iter().filter(|(key, _)| !HEAD.contains(&key.as_str()));
    write_fields(out, head.chain(rest), |out, key, value| match value {
        Value::Object(metadata) if key == "metadata" && version == Version::Leave => {
            let kept = metadata.iter().filter(|(key, _)| *key != "resourceVersion");
            write_fields(out, kept, |out, _, value| write_json(out, value));
        }
        value => write_json(out, value),
    });
}

fn write_fields<'a>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a String, &'a Value)>,
    write: impl Fn(&mut Vec<u8>, &str, &Value),
) {
    out.push(b'{');
    for (index, (key, value)) in fields.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_json(out, key);
        out.push(b':');
        write(out, key, value);
    }
    out.push(b'}');
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("writing JSON to memory cannot fail");
}

/// The bytes with `metadata.resourceVersion` set to `revision`. Bytes that are no object with metadata come back unchanged.
pub(crate) fn with_revision(stored: &[u8], revision: i64) -> Bytes {
    let Some(position) = metadata_start(stored) else {
        return Bytes::copy_from_slice(stored);
    };
    let field = format!("\"resourceVersion\":\"{revision}\"");
    let empty = next_token(stored, position) == Some(b'}');
    let mut out = Vec::with_capacity(stored.len() + field.len() + usize::from(!empty));
    out.extend_from_slice(&stored[..position]);
    out.extend_from_slice(field.as_bytes());
    if !empty {
        out.push(b',');
    }
    out.extend_from_slice(&stored[position..]);
    Bytes::from(out.into_boxed_slice())
}

/// Served bytes with another `resourceVersion`: for the last state of an object that left a watcher's view.
pub(crate) fn replace_revision(served: &Bytes, revision: i64) -> Bytes {
    match serde_json::from_slice::<Value>(served) {
        Ok(mut object) => {
            machinery::meta::set_resource_version(&mut object, &revision.to_string());
            encode(&object)
        }
        // Not an object: nothing to replace.
        Err(_) => served.clone(),
    }
}

/// Position just after the `{` of the top-level `metadata` object.
fn metadata_start(json: &[u8]) -> Option<usize> {
    let mut at = skip_space(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    loop {
        at = skip_space(json, at);
        let end = skip_string(json, at)?;
        let key = &json[at..end];
        at = skip_space(json, end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        at = skip_space(json, at + 1);
        if key == b"\"metadata\"" {
            return (json.get(at) == Some(&b'{')).then_some(at + 1);
        }
        at = skip_space(json, skip_value(json, at)?);
        if json.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
}

fn next_token(json: &[u8], at: usize) -> Option<u8> {
    json.get(skip_space(json, at)).copied()
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn skip_string(json: &[u8], mut at: usize) -> Option<usize> {
    if json.get(at) != Some(&b'"') {
        return None;
    }
    at += 1;
    loop {
        match json.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn skip_value(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match json.get(at)? {
            b'"' => at = skip_string(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' if depth == 0 => return Some(at),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn round(object: &Value, revision: i64) -> Value {
        serde_json::from_slice(&with_revision(&encode_stored(object), revision)).unwrap()
    }

    #[test]
    fn the_revision_is_spliced_into_the_objects_own_metadata() {
        let object = json!({"apiVersion": "v1", "kind": "X", "a": {"metadata": {"name": "not me"}},
            "metadata": {"name": "x", "resourceVersion": "3"}, "text": "\"metadata\":{"});
        let served = round(&object, 42);
        assert_eq!(served["metadata"], json!({"name": "x", "resourceVersion": "42"}));
        assert_eq!(served["a"], object["a"]);
        assert_eq!(round(&json!({"metadata": {}}), 7)["metadata"], json!({"resourceVersion": "7"}));
    }

    #[test]
    fn the_splice_copes_with_bytes_written_by_others() {
        let foreign = br#" { "data" : {"a":"x\"},{"}, "list":[1,{"b":[]}], "n":-1.5e3 , "metadata" : { "name" : "m" } }"#;
        let served: Value = serde_json::from_slice(&with_revision(foreign, 9)).unwrap();
        assert_eq!(served["metadata"], json!({"name": "m", "resourceVersion": "9"}));
        assert_eq!(&with_revision(b"[]", 9)[..], b"[]");
    }
}
