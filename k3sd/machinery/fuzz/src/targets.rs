//! The bodies of the fuzz targets.

use machinery::apply::managed::Managed;
use machinery::apply::set::Set;
use machinery::apply::{ApplyError, Applying, FieldManager, OneVersion, Reset};
use machinery::quantity::Quantity;
use machinery::selector::{FieldSelector, LabelSelector};
use machinery::{patch, schema};
use serde_json::Value;

const API_VERSION: &str = "apps/v1";
const TYPE: &str = "api.apps.v1.Deployment";

/// Label and field selectors: what is read writes itself as something that reads as the same.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let written = selector.to_string();
        let again = LabelSelector::parse(&written).expect("what was written is a selector");
        assert_eq!(again.to_string(), written);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _matches = selector.matches(&Value::Null);
    }
}

/// Quantities: the canonical text stands for the same amount.
pub fn quantity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(quantity) = text.parse::<Quantity>() else { return };
    let written = quantity.to_string();
    let again: Quantity = written.parse().expect("what was written is a quantity");
    assert_eq!(again.to_string(), written);
    assert_eq!(again.to_milli(), quantity.to_milli());
}

/// Patches: none makes an object deeper than objects may be, and a JSON patch applies whole or not at all.
pub fn patches(data: &[u8]) {
    let Some([document, change, _]) = documents(data) else { return };
    let mut patched = document.clone();
    match patch::json(&mut patched, &change) {
        Ok(()) => assert!(!patch::deeper_than(&patched, 2 * patch::MAX_DEPTH)),
        Err(_) => assert_eq!(patched, document),
    }
    let mut patched = document.clone();
    patch::merge(&mut patched, &change);
    let mut patched = document;
    // What cannot be applied is refused.
    let _refused = patch::strategic(schema::builtin(), TYPE, &mut patched, &change);
    let _unknown = schema::prune(schema::builtin(), TYPE, &mut patched);
}

/// Protobuf: what is decoded encodes as something that decodes as the same; and an object that conforms to its schema survives both.
pub fn protobuf(data: &[u8]) {
    if let Ok(object) = machinery::protobuf::decode(data, (API_VERSION, "Deployment"))
        && let Ok(bytes) = machinery::protobuf::encode(&object)
    {
        let again = machinery::protobuf::decode(&bytes, (API_VERSION, "Deployment")).expect("our own bytes");
        let bytes_again = machinery::protobuf::encode(&again).expect("our own object");
        assert_eq!(bytes, bytes_again);
    }
    if let Some(object) = documents(data).and_then(|[document, ..]| conforming(document)) {
        let bytes = machinery::protobuf::encode(&object).expect("it conforms to its schema");
        machinery::protobuf::decode(&bytes, (API_VERSION, "Deployment")).expect("our own bytes");
    }
}

/// Server-side apply: whatever was there, applying twice is applying once, and `FieldsV1` reads back as what was written.
pub fn apply(data: &[u8]) {
    let Some([live, config, fields]) = documents(data) else { return };
    if let Ok(set) = Set::from_fields(&fields) {
        assert_eq!(Set::from_fields(&set.to_fields()).expect("our own"), set);
        let text: Value = serde_json::from_str(&set.to_text()).expect("our own text is JSON");
        assert_eq!(text, set.to_fields());
    }
    let (Some(live), Some(config)) = (conforming(live), conforming(config)) else { return };
    let ty = schema::builtin().get(TYPE).expect("a type");
    let versions = OneVersion { api_version: API_VERSION, ty };
    let manager = FieldManager {
        versions: &versions,
        api_version: API_VERSION,
        subresource: "",
        reset: Reset::Nothing,
    };
    let how = Applying { manager: "a", force: true, now: "2026-01-01T00:00:00Z" };
    let mut once = match manager.apply(Some(&live), &config, how) {
        Ok(applied) => applied,
        Err(ApplyError::Conflicts(_)) => panic!("a forced apply has no conflicts"),
        // Repeated elements, or managedFields.
        Err(_) => return,
    };
    let entries = once.managed.encode();
    once.managed = Managed::decode(entries.clone()).expect("our own entries");
    let mut object = once.object.clone();
    if let (Some(entries), Some(metadata)) =
        (entries, object.get_mut("metadata").and_then(Value::as_object_mut))
    {
        metadata.insert("managedFields".to_owned(), entries);
        let twice = manager.apply(Some(&object), &config, how).expect("it could be applied before");
        assert_eq!(twice.object, once.object);
        let later = manager.update(Some(&object), &live, once.managed, "u", "2026-01-01T00:00:01Z");
        assert!(later.entries.iter().all(|entry| !entry.set().is_empty()));
    }
}

/// Three lines of JSON, as deep as the server lets in; missing ones are null.
fn documents(data: &[u8]) -> Option<[Value; 3]> {
    let mut documents = [Value::Null, Value::Null, Value::Null];
    for (document, line) in documents.iter_mut().zip(data.split(|byte| *byte == b'\n')) {
        *document = schema::decode_json(line).ok()?.0;
        if patch::deeper_than(document, patch::MAX_DEPTH) {
            return None;
        }
    }
    Some(documents)
}

/// The document as a deployment, if it is one, by the steps of a request body.
fn conforming(mut document: Value) -> Option<Value> {
    let object = document.as_object_mut()?;
    object.insert("apiVersion".to_owned(), API_VERSION.into());
    object.insert("kind".to_owned(), "Deployment".into());
    schema::check_types(schema::builtin(), TYPE, &document).ok()?;
    schema::prune(schema::builtin(), TYPE, &mut document);
    Some(document)
}
