//! Defaults that depend on nothing but the field being absent.

use serde_json::{Map, Value};

use super::{Schema, TypeRef, ValueKind, ValueRef};

/// Fills in the table's defaults, at every depth. They are upstream's `+default` markers and the zero values that upstream
/// always writes (`metadata: {}`, `restartCount: 0`), so the result has the fields a client of upstream would see.
///
/// An unknown type name leaves the value as it is.
pub fn apply_static_defaults(schema: &Schema, type_name: &str, value: &mut Value) {
    if let (Some(ty), Some(object)) = (schema.get(type_name), value.as_object_mut()) {
        fill(ty, object);
    }
}

fn fill(ty: TypeRef<'_>, object: &mut Map<String, Value>) {
    for field in ty.fields() {
        if let Some(value) = object.get_mut(field.name()) {
            descend(field.value(), value);
        } else if let Some(default) = field.default() {
            let mut value = default.clone();
            descend(field.value(), &mut value);
            object.insert(field.name().to_owned(), value);
        }
    }
}

fn descend(ty: ValueRef<'_>, value: &mut Value) {
    match (ty.kind(), value) {
        (ValueKind::Struct(ty) | ValueKind::Union(ty), Value::Object(object)) => fill(ty, object),
        (ValueKind::List(element), Value::Array(items)) => {
            items.iter_mut().for_each(|item| descend(element, item))
        }
        (ValueKind::Map(element), Value::Object(entries)) => {
            entries.values_mut().for_each(|entry| descend(element, entry));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use serde_json::json;

    #[test]
    fn absent_fields_get_their_defaults_at_every_depth() {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}]}});
        apply_static_defaults(builtin(), "api.core.v1.Pod", &mut pod);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["ports"][1]["protocol"], "UDP");
        assert_eq!(container["resources"], json!({}));
        assert_eq!(pod["status"], json!({}));
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        for ty in builtin().types() {
            let mut once = json!({});
            apply_static_defaults(builtin(), ty.name(), &mut once);
            let mut twice = once.clone();
            apply_static_defaults(builtin(), ty.name(), &mut twice);
            assert_eq!(once, twice, "{}", ty.name());
        }
    }
}
