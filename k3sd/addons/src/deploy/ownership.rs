//! How an object tells which file it came from: the labels and annotations of K3s's apply (rancher/wrangler,
//! `pkg/apply/desiredset_apply.go` and `desiredset_compare.go`), so that a K3s server can take over from us and we from it.

use std::io::{Read, Write};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

/// What K3s's owner objects are.
pub(super) const ADDON_API_VERSION: &str = "k3s.cattle.io/v1";
pub(super) const ADDON_KIND: &str = "Addon";
pub(super) const ADDON_NAMESPACE: &str = "kube-system";

/// Label: which set an object belongs to.
pub(super) const HASH: &str = "objectset.rio.cattle.io/hash";
/// Annotation: the object as it was last applied.
const APPLIED: &str = "objectset.rio.cattle.io/applied";
const ID: &str = "objectset.rio.cattle.io/id";
const OWNER_GVK: &str = "objectset.rio.cattle.io/owner-gvk";
const OWNER_NAME: &str = "objectset.rio.cattle.io/owner-name";
const OWNER_NAMESPACE: &str = "objectset.rio.cattle.io/owner-namespace";
/// Annotation or label: `"false"` keeps an object that is no longer in its file.
const PRUNE: &str = "objectset.rio.cattle.io/prune";

/// Longer strings are cut in the last-applied state, which serves to see which fields were set, not what they held.
const KEPT_CHARACTERS: usize = 64;
/// Scalars that tell list elements apart and so must not be cut.
const LIST_KEYS: [&str; 10] = [
    "apiVersion",
    "containerPort",
    "devicePath",
    "ip",
    "kind",
    "mountPath",
    "name",
    "port",
    "topologyKey",
    "type",
];
/// Far more than an annotation can be; a guard against compressed bombs.
const MAX_APPLIED_BYTES: u64 = 8 << 20;

/// An add-on as the owner of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    name: String,
    hash: String,
}

impl Owner {
    /// The add-on of a file: its base name up to the first dot.
    pub(super) fn of_file(path: &Path) -> Self {
        Self::named(addon_name(path))
    }

    fn named(name: String) -> Self {
        let hash = set_hash(["", &owner_gvk(), &name, ADDON_NAMESPACE]);
        Self { name, hash }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The value of label [`HASH`].
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// Marks an object as this owner's, with its own state as last applied.
    pub(super) fn mark(&self, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        let metadata = &mut object["metadata"];
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("creationTimestamp");
        }
        child(metadata, "labels").insert(HASH.to_owned(), json!(self.hash));
        let annotations = child(metadata, "annotations");
        annotations.remove(APPLIED);
        for (name, value) in [
            (ID, ""),
            (OWNER_GVK, &owner_gvk()),
            (OWNER_NAME, &self.name),
            (OWNER_NAMESPACE, ADDON_NAMESPACE),
        ] {
            annotations.insert(name.to_owned(), json!(value));
        }
        let applied = encode(&cut(object, false));
        child(&mut object["metadata"], "annotations").insert(APPLIED.to_owned(), json!(applied));
    }
}

/// The label's value for a set: of its id, and its owner's kind, name and namespace.
fn set_hash(parts: [&str; 4]) -> String {
    // SHA-1 is what the label's format asks for; nothing is protected by it.
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    parts.iter().for_each(|part| digest.update(part.as_bytes()));
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base name of a file up to the first dot.
pub(super) fn addon_name(path: &Path) -> String {
    let base = path.file_name().unwrap_or_default().to_string_lossy();
    base.split('.').next().unwrap_or_default().to_owned()
}

fn owner_gvk() -> String {
    format!("{ADDON_API_VERSION}, Kind={ADDON_KIND}")
}

/// The set an object belongs to. The label alone does not tell: controllers copy labels to what they make (those of a Service to its
/// Endpoints and EndpointSlices), some even annotations, but then with a reference to themselves. So an object is of a set
/// only if its annotations name the owner that the label is the hash of, and no controller manages it.
pub(super) fn hash_of(object: &Value) -> Option<&str> {
    let metadata = &object["metadata"];
    let hash = metadata["labels"][HASH].as_str()?;
    let annotation = |name: &str| metadata["annotations"][name].as_str().unwrap_or_default();
    let parts = [annotation(ID), annotation(OWNER_GVK), annotation(OWNER_NAME), annotation(OWNER_NAMESPACE)];
    let mut references = metadata["ownerReferences"].as_array().into_iter().flatten();
    let managed = references.any(|reference| reference["controller"] == true);
    (!managed && set_hash(parts) == hash).then_some(hash)
}

/// Whether an object may be deleted when it is no longer in its file.
pub(super) fn may_be_pruned(object: &Value) -> bool {
    let metadata = &object["metadata"];
    ![&metadata["labels"], &metadata["annotations"]].iter().any(|place| place[PRUNE] == "false")
}

/// The object as it was last applied, if it says so.
pub(super) fn last_applied(object: &Value) -> Option<Value> {
    let annotation = object["metadata"]["annotations"][APPLIED].as_str()?;
    if annotation.starts_with('{') {
        return serde_json::from_str(annotation).ok();
    }
    let compressed = STANDARD_NO_PAD.decode(annotation).ok()?;
    let mut text = Vec::new();
    GzDecoder::new(&compressed[..]).take(MAX_APPLIED_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn encode(state: &Value) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let text = state.to_string();
    let compressed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    STANDARD_NO_PAD.encode(compressed.expect("writing to memory"))
}

/// Cuts long strings, except keys of list elements.
fn cut(value: &Value, in_list: bool) -> Value {
    match value {
        Value::Object(object) => {
            let member = |(name, value): (&String, &Value)| {
                let kept = in_list && LIST_KEYS.contains(&name.as_str());
                let value = match value {
                    Value::String(text) if !kept => {
                        json!(text.chars().take(KEPT_CHARACTERS).collect::<String>())
                    }
                    other => cut(other, false),
                };
                (name.clone(), value)
            };
            Value::Object(object.iter().map(member).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| cut(item, true)).collect()),
        scalar => scalar.clone(),
    }
}

fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !value[name].is_object() {
        value[name] = json!({});
    }
    value[name].as_object_mut().expect("made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_addon_is_named_by_the_base_name_up_to_the_first_dot() {
        assert_eq!(Owner::of_file(Path::new("/a/b/metrics.server.yaml")).name(), "metrics");
    }

    #[test]
    fn the_hash_is_that_of_k3s() {
        // `printf '%s' 'k3s.cattle.io/v1, Kind=Addoncorednskube-system' | sha1sum`; found on every K3s server.
        assert_eq!(Owner::named("coredns".to_owned()).hash(), "bce283298811743a0386ab510f2f67ef74240c57");
    }

    #[test]
    fn objects_that_controllers_made_are_of_no_set() {
        let owner = Owner::named("a".to_owned());
        let mut object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "a"}});
        owner.mark(&mut object);
        assert_eq!(hash_of(&object), Some(owner.hash()));
        // As the endpoints controller copies labels, and the mirroring controller annotations too.
        let mut copied = object.clone();
        copied["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(hash_of(&copied), None);
        object["metadata"]["ownerReferences"] =
            json!([{"kind": "Endpoints", "name": "a", "controller": true}]);
        assert_eq!(hash_of(&object), None);
    }

    #[test]
    fn the_last_applied_state_survives_and_long_texts_are_cut() {
        let long = "x".repeat(100);
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
            "data": {"k": long, "list": [{"name": long, "value": long}]}, "status": {}});
        Owner::named("a".to_owned()).mark(&mut object);
        assert_eq!(object.get("status"), None);
        assert_eq!(object["metadata"]["annotations"][OWNER_NAME], "a");
        let applied = last_applied(&object).unwrap();
        assert_eq!(applied["data"]["k"].as_str().unwrap().len(), KEPT_CHARACTERS);
        assert_eq!(applied["data"]["list"][0]["name"].as_str().unwrap().len(), 100);
        assert_eq!(applied["metadata"]["annotations"].get(APPLIED), None);
        assert_eq!(applied["metadata"]["annotations"][OWNER_NAMESPACE], "kube-system");
    }
}
