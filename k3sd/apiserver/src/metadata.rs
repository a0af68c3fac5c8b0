//! Rules that hold for `metadata` of every kind (upstream's `registry/rest` and `api/validation/objectmeta.go`).

use machinery::kinds::Resource;
use machinery::meta;
use machinery::status::{FieldError, Status};
use serde_json::{Map, Value};

use crate::managed_fields;
use crate::names;
use crate::registry::Entry;

/// Upstream's limit on all annotations of an object together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Fields of metadata that the server alone sets.
const SYSTEM_FIELDS: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// Make the object's namespace that of the request.
pub(crate) fn match_namespace(
    resource: &Resource,
    object: &mut Value,
    namespace: &str,
) -> Result<(), Status> {
    let own = meta::namespace(object).unwrap_or_default();
    if !resource.namespaced {
        if own.is_empty() {
            meta::set_namespace(object, None);
        }
        return Ok(());
    }
    if own.is_empty() {
        meta::set_namespace(object, Some(namespace));
    } else if own != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// The metadata of a new object: system fields set, what only the server may set dropped.
pub(crate) fn prepare_create(entry: &Entry, object: &mut Value) -> Result<(), Status> {
    if !matches!(meta::resource_version(object), "" | "0") {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let fields = meta::metadata_mut(object);
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"]
    {
        fields.remove(field);
    }
    meta::set_uid(object, &meta::new_uid());
    meta::set_creation_timestamp(object, &meta::now());
    if entry.strategy.has_generation() {
        meta::set_generation(object, 1);
    }
    generate_name(object);
    Ok(())
}

/// A name from `generateName`, if there is no name.
pub(crate) fn generate_name(object: &mut Value) -> bool {
    let base = meta::generate_name(object).to_owned();
    if base.is_empty() || !meta::name(object).is_empty() {
        return false;
    }
    meta::set_name(object, &meta::generated_name(&base));
    true
}

/// The metadata of an updated object: system fields are the old ones.
pub(crate) fn prepare_update(object: &mut Value, old: &Value) {
    let old_fields = meta::metadata(old).cloned().unwrap_or_default();
    let fields = meta::metadata_mut(object);
    for field in SYSTEM_FIELDS {
        match old_fields.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
    fields.remove("selfLink");
}

/// Count a change outside metadata and status.
pub(crate) fn bump_generation(object: &mut Value, old: &Value) {
    if !same_desire(object, old) {
        meta::set_generation(object, meta::generation(old) + 1);
    }
}

fn same_desire(a: &Value, b: &Value) -> bool {
    let desire = |object: &Value| -> Map<String, Value> {
        let Value::Object(map) = object else { return Map::new() };
        map.iter()
            .filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    desire(a) == desire(b)
}

/// Everything wrong with an object's metadata.
pub(crate) fn validate(entry: &Entry, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_names(entry, object, &mut errors);
    if !entry.resource.namespaced && meta::namespace(object).is_some_and(|namespace| !namespace.is_empty()) {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    validate_labels(object, &mut errors);
    validate_annotations(object, &mut errors);
    for finalizer in meta::finalizers(object) {
        for message in names::qualified_name(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", finalizer, message));
        }
    }
    validate_owners(object, &mut errors);
    errors.extend(managed_fields::validate(object));
    errors
}

fn validate_names(entry: &Entry, object: &Value, errors: &mut Vec<FieldError>) {
    let name = meta::name(object);
    let base = meta::generate_name(object);
    if !base.is_empty() {
        for message in entry.strategy.validate_name(base, true) {
            errors.push(FieldError::invalid("metadata.generateName", base, message));
        }
    }
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        for message in entry.strategy.validate_name(name, false) {
            errors.push(FieldError::invalid("metadata.name", name, message));
        }
    }
}

fn validate_labels(object: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in meta::labels(object).into_iter().flatten() {
        for message in names::qualified_name(key) {
            errors.push(FieldError::invalid("metadata.labels", key.as_str(), message));
        }
        let value = value.as_str().unwrap_or_default();
        for message in names::label_value(value) {
            errors.push(FieldError::invalid("metadata.labels", value, message));
        }
    }
}

fn validate_annotations(object: &Value, errors: &mut Vec<FieldError>) {
    let mut total = 0;
    for (key, value) in meta::annotations(object).into_iter().flatten() {
        for message in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", key.as_str(), message));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_MAX_BYTES {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_MAX_BYTES));
    }
}

fn validate_owners(object: &Value, errors: &mut Vec<FieldError>) {
    let mut controllers = 0;
    for (index, owner) in meta::owner_references(object).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                errors.push(FieldError::required(path, format!("{field} must not be empty")));
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        errors.push(FieldError::invalid(
            "metadata.ownerReferences",
            Value::Array(meta::owner_references(object).to_vec()),
            "Only one reference can have Controller set to true.",
        ));
    }
}

/// What an update may not do to metadata.
pub(crate) fn validate_update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if meta::deletion_timestamp(old).is_some() {
        let added: Vec<&str> = meta::finalizers(object)
            .filter(|finalizer| !meta::finalizers(old).any(|before| before == *finalizer))
            .collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
                ),
            ));
        }
    }
    errors
}
