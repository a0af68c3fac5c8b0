//! What kubectl looks for in the documents.

use super::*;
use crate::{kinds, schema};

fn of_group(group: &str, version: &str) -> Vec<&'static Resource> {
    kinds::builtin()
        .iter()
        .map(AsRef::as_ref)
        .filter(|r: &&Resource| r.group == group && r.version == version)
        .collect()
}

fn all() -> Vec<&'static Resource> {
    kinds::builtin().iter().map(AsRef::as_ref).collect()
}

/// Every `$ref` in a document.
fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

#[test]
fn index_names_every_group_version_with_a_hash() {
    let index = v3_index(all().into_iter(), "v1");
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(address.starts_with("/openapi/v3/apis/apps/v1?hash="), "{address}");
    assert!(index["paths"]["api/v1"].is_object());
    assert_ne!(address, v3_index(all().into_iter(), "v2")["paths"]["apis/apps/v1"]["serverRelativeURL"]);
}

#[test]
fn every_reference_has_its_definition() {
    let groups: BTreeSet<(&str, &str)> = all().iter().map(|r| (&*r.group, &*r.version)).collect();
    let mut documents: Vec<Value> =
        groups.into_iter().map(|(g, v)| v3(&of_group(g, v), schema::builtin(), "v1")).collect();
    documents.push(v2(&all(), schema::builtin(), "v1"));
    for document in documents {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some_and(Value::is_object), "{reference}");
        }
    }
}

#[test]
fn patch_says_that_it_validates_fields_and_merges_strategically() {
    let document = v3(&of_group("apps", "v1"), schema::builtin(), "v1");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({ "group": "apps", "version": "v1", "kind": "Deployment" })
    );
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
}

#[test]
fn definitions_carry_kinds_and_merge_keys() {
    let document = v3(&of_group("", "v1"), schema::builtin(), "v1");
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{ "group": "", "version": "v1", "kind": "Pod" }])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["items"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert_eq!(schemas["io.k8s.api.core.v1.HTTPGetAction"]["required"], json!(["port"]));
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    assert_eq!(schemas["io.k8s.api.core.v1.Pod"].get("required"), None);
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
}

#[test]
fn protobuf_has_a_definition_per_type() {
    let document = v2(&all(), schema::builtin(), "v1");
    let bytes = encode_for_test(&document);
    let definitions = document["definitions"].as_object().unwrap();
    assert_eq!(bytes, definitions.len());
}

/// How many entries the `definitions` message holds.
fn encode_for_test(document: &Value) -> usize {
    let bytes = v2_protobuf(document);
    let fields = fields(&bytes);
    let (_, definitions) = fields.iter().find(|(number, _)| *number == 9).unwrap();
    self::fields(definitions).len()
}

/// The length-delimited fields of a message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        assert_eq!(tag & 7, 2);
        let length = varint(&mut bytes) as usize;
        let (value, rest) = bytes.split_at(length);
        found.push((tag >> 3, value));
        bytes = rest;
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}
