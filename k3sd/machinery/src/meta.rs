//! Reading and writing object metadata on JSON values, and the times and identifiers that go into it.
//!
//! Readers treat a missing or mistyped field as absent; writers create `metadata` when it is missing.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// `apiVersion`, or empty.
pub fn api_version(object: &Value) -> &str {
    text(object.get("apiVersion"))
}

/// `kind`, or empty.
pub fn kind(object: &Value) -> &str {
    text(object.get("kind"))
}

/// `metadata.name`, or empty.
pub fn name(object: &Value) -> &str {
    field(object, "name")
}

/// `metadata.generateName`, or empty.
pub fn generate_name(object: &Value) -> &str {
    field(object, "generateName")
}

/// `metadata.namespace`, if not empty.
pub fn namespace(object: &Value) -> Option<&str> {
    Some(field(object, "namespace")).filter(|namespace| !namespace.is_empty())
}

/// `metadata.uid`, or empty.
pub fn uid(object: &Value) -> &str {
    field(object, "uid")
}

/// `metadata.resourceVersion`, or empty.
pub fn resource_version(object: &Value) -> &str {
    field(object, "resourceVersion")
}

/// `metadata.generation`, or 0.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|meta| meta.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    field(object, "creationTimestamp").parse().ok()
}

/// `metadata.deletionTimestamp`: set while the object waits for its finalizers or its grace period.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(field(object, "deletionTimestamp")).filter(|time| !time.is_empty())
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    metadata(object)?.get("deletionGracePeriodSeconds")?.as_i64()
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("labels")?.as_object()
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("annotations")?.as_object()
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// `metadata.ownerReferences`; empty when there are none.
pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}

/// The owner reference with `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object)
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}

/// `metadata`, if it is an object.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// `metadata` for writing; made when missing. A value that is not an object becomes one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object_mut(object), "metadata")
}

/// The value as a JSON object; any other value is replaced by an empty one.
pub fn object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

/// A member that is a JSON object; made when it is missing or something else.
pub fn child_mut<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    object_mut(object.entry(name).or_insert(Value::Null))
}

/// Sets `metadata.name`.
pub fn set_name(object: &mut Value, name: &str) {
    set(object, "name", name);
}

/// Sets `metadata.namespace`; `None` removes it.
pub fn set_namespace(object: &mut Value, namespace: Option<&str>) {
    set(object, "namespace", namespace.unwrap_or_default());
}

/// Sets `metadata.uid`.
pub fn set_uid(object: &mut Value, uid: &str) {
    set(object, "uid", uid);
}

/// Sets `metadata.resourceVersion`; empty removes it.
pub fn set_resource_version(object: &mut Value, version: &str) {
    set(object, "resourceVersion", version);
}

/// Sets `metadata.generation`.
pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".to_owned(), generation.into());
}

/// Sets `metadata.creationTimestamp`.
pub fn set_creation_timestamp(object: &mut Value, time: &str) {
    set(object, "creationTimestamp", time);
}

/// Sets `metadata.deletionTimestamp` and the grace period it was computed with.
pub fn set_deletion(object: &mut Value, time: &str, grace_period_seconds: i64) {
    set(object, "deletionTimestamp", time);
    metadata_mut(object).insert("deletionGracePeriodSeconds".to_owned(), grace_period_seconds.into());
}

/// Sets `metadata.finalizers`; an empty list removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        metadata_mut(object).remove("finalizers");
    } else {
        metadata_mut(object).insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Sets one label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    child_mut(metadata_mut(object), "labels").insert(key.to_owned(), value.into());
}

/// Sets one annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    child_mut(metadata_mut(object), "annotations").insert(key.to_owned(), value.into());
}

/// The time now, as `metav1.Time` writes it: RFC 3339, UTC, whole seconds.
pub fn now() -> String {
    time_text(Timestamp::now())
}

/// The time now, as `metav1.MicroTime` writes it.
pub fn now_micro() -> String {
    micro_time_text(Timestamp::now())
}

/// As `metav1.Time` writes a time.
pub fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// As `metav1.MicroTime` writes a time.
pub fn micro_time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A fresh uid.
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A name from a `generateName` base: the base, cut so that the result has at most 63 characters, and five random ones.
pub fn generated_name(base: &str) -> String {
    const SUFFIX: usize = 5;
    const MAX: usize = 63;
    let end = base.char_indices().nth(MAX - SUFFIX).map_or(base.len(), |(at, _)| at);
    format!("{}{}", &base[..end], random_suffix(SUFFIX))
}

/// Random characters from upstream's alphabet for names: no vowels, so no words; nothing that looks like something else.
pub fn random_suffix(length: usize) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let bytes = uuid::Uuid::new_v4().into_bytes();
        // Bytes 6 and 8 hold the uuid's version and variant.
        let random = bytes.iter().enumerate().filter(|(at, _)| *at != 6 && *at != 8).map(|(_, byte)| *byte);
        // 243 is the largest multiple of 27 in a byte: above it the choice would not be even.
        let letters = random
            .filter(|byte| *byte < 243)
            .map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        text.extend(letters.take(length - text.len()));
    }
    text
}

fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    text(metadata(object).and_then(|meta| meta.get(name)))
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    metadata(object).and_then(|meta| meta.get(name)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn set(object: &mut Value, name: &str, value: &str) {
    if value.is_empty() {
        metadata_mut(object).remove(name);
    } else {
        metadata_mut(object).insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_metadata_reads_as_absent_and_is_made_on_write() {
        let mut object = json!({});
        assert_eq!((name(&object), namespace(&object), generation(&object)), ("", None, 0));
        assert!(owner_references(&object).is_empty() && labels(&object).is_none());
        set_name(&mut object, "a");
        set_generation(&mut object, 2);
        assert_eq!(object, json!({"metadata": {"name": "a", "generation": 2}}));
        set_resource_version(&mut object, "");
        assert_eq!(object, json!({"metadata": {"name": "a", "generation": 2}}));
    }

    #[test]
    fn times_are_written_as_upstream_writes_them() {
        let time: Timestamp = "2026-01-02T03:04:05.678+01:00".parse().expect("time");
        assert_eq!(time_text(time), "2026-01-02T02:04:05Z");
        assert_eq!(micro_time_text(time), "2026-01-02T02:04:05.678000Z");
    }

    #[test]
    fn generated_names_fit_a_label_and_differ() {
        let long = generated_name(&"a".repeat(100));
        assert_eq!(long.len(), 63);
        assert_ne!(generated_name("web-"), generated_name("web-"));
    }
}
