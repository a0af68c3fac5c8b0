//! The types: everything that the kinds of a document reach, under the names upstream gives them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Dialect, types_of};
use crate::kinds::Resource;
use crate::schema::{FieldRef, Merge, Schema, TypeRef, ValueKind, ValueRef};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The definitions of all types that `resources` reach, by name.
pub(super) fn of(resources: &[&Resource], schema: &Schema, dialect: Dialect) -> Map<String, Value> {
    let mut builder = Builder { dialect, definitions: BTreeMap::new() };
    builder.add_special();
    for name in ["DeleteOptions", "ObjectMeta"] {
        builder.add_named(schema, &format!("apimachinery.pkg.apis.meta.v1.{name}"));
    }
    for resource in resources {
        for name in types_of(resource) {
            builder.add_named(schema, &name);
        }
        builder.mark(&resource.type_name, &resource.group, &resource.version, &resource.kind);
        for sub in &resource.subresources {
            if let Some(name) = super::kind_type(&sub.group, &sub.version, &sub.kind) {
                builder.mark(&name, &sub.group, &sub.version, &sub.kind);
            }
        }
        builder.add_list(resource);
    }
    builder.definitions.into_iter().collect()
}

/// Upstream's name of a type: `api.core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
pub(super) fn name(type_name: &str) -> String {
    format!("io.k8s.{}", type_name.replace('_', "-"))
}

/// The name of the list of a resource's kind.
pub(super) fn list_name(resource: &Resource) -> String {
    match resource.type_name.rsplit_once('.') {
        Some((package, _)) => name(&format!("{package}.{}", resource.list_kind)),
        None => name(&resource.list_kind),
    }
}

/// `{"$ref": ...}` to a definition.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    let place = match dialect {
        Dialect::V2 => "#/definitions/",
        Dialect::V3 => "#/components/schemas/",
    };
    json!({ "$ref": format!("{place}{name}") })
}

/// `x-kubernetes-group-version-kind` of one kind.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

struct Builder {
    dialect: Dialect,
    definitions: BTreeMap<String, Value>,
}

impl Builder {
    fn add_named(&mut self, schema: &Schema, type_name: &str) {
        if let Some(ty) = schema.get(type_name) {
            self.add(ty);
        }
    }

    /// A struct type and everything it reaches.
    fn add(&mut self, ty: TypeRef<'_>) {
        let key = name(ty.name());
        if self.definitions.contains_key(&key) {
            return;
        }
        // Entered before its fields: types may reach themselves.
        self.definitions.insert(key.clone(), Value::Null);
        let properties: Map<String, Value> =
            ty.fields().map(|field| (field.name().to_owned(), self.field(field))).collect();
        let mut definition = json!({ "type": "object" });
        let required: Vec<&str> =
            ty.fields().filter(|field| field.is_required()).map(FieldRef::name).collect();
        if !required.is_empty() {
            definition["required"] = required.into();
        }
        if !properties.is_empty() {
            definition["properties"] = properties.into();
        }
        if ty.is_atomic() {
            definition["x-kubernetes-map-type"] = "atomic".into();
        }
        self.definitions.insert(key, definition);
    }

    fn field(&mut self, field: FieldRef<'_>) -> Value {
        let mut property = self.value(field.value(), true);
        if let Some(default) = field.default() {
            property["default"] = default.clone();
        }
        let list = matches!(field.value().kind(), ValueKind::List(_));
        let (extension, value) = match field.merge() {
            Merge::Default => ("", ""),
            Merge::Atomic if list => ("x-kubernetes-list-type", "atomic"),
            Merge::Atomic => ("x-kubernetes-map-type", "atomic"),
            Merge::Set => ("x-kubernetes-list-type", "set"),
            Merge::Map => ("x-kubernetes-list-type", "map"),
            Merge::Separable => ("x-kubernetes-map-type", "granular"),
        };
        if !extension.is_empty() {
            property[extension] = value.into();
        }
        if !field.keys().is_empty() {
            property["x-kubernetes-list-map-keys"] = field.keys().iter().map(AsRef::<str>::as_ref).collect();
        }
        if let Some(patch) = field.patch() {
            let strategies =
                [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
            let names: Vec<&str> =
                strategies.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
            property["x-kubernetes-patch-strategy"] = names.join(",").into();
            if let Some(key) = &patch.merge_key {
                property["x-kubernetes-patch-merge-key"] = key.as_ref().into();
            }
        }
        property
    }

    /// The schema of a value. In version 3 nothing may stand beside `$ref`, hence `allOf`.
    fn value(&mut self, value: ValueRef<'_>, beside: bool) -> Value {
        let refer = |name: &str| match self.dialect {
            Dialect::V3 if beside => json!({ "allOf": [reference(name, Dialect::V3)] }),
            dialect => reference(name, dialect),
        };
        match value.kind() {
            ValueKind::String => json!({ "type": "string" }),
            ValueKind::Bytes => json!({ "type": "string", "format": "byte" }),
            ValueKind::Int32 => json!({ "type": "integer", "format": "int32" }),
            ValueKind::Int64 => json!({ "type": "integer", "format": "int64" }),
            ValueKind::Double => json!({ "type": "number", "format": "double" }),
            ValueKind::Boolean => json!({ "type": "boolean" }),
            ValueKind::Quantity => refer(QUANTITY),
            ValueKind::Time => refer(&format!("{META}.Time")),
            ValueKind::MicroTime => refer(&format!("{META}.MicroTime")),
            ValueKind::IntOrString => refer(INT_OR_STRING),
            ValueKind::Untyped => json!({}),
            ValueKind::Object => json!({ "type": "object" }),
            ValueKind::Struct(ty) => {
                let refer = refer(&name(ty.name()));
                self.add(ty);
                refer
            }
            // Upstream leaves "schema or boolean" open as well.
            ValueKind::Union(ty) => {
                self.add(ty);
                json!({})
            }
            ValueKind::List(element) => json!({ "type": "array", "items": self.value(element, true) }),
            ValueKind::Map(element) => {
                json!({ "type": "object", "additionalProperties": self.value(element, true) })
            }
        }
    }

    /// Says which kind a definition is.
    fn mark(&mut self, type_name: &str, group: &str, version: &str, kind: &str) {
        if let Some(definition) = self.definitions.get_mut(&name(type_name)).filter(|d| d.is_object()) {
            definition["x-kubernetes-group-version-kind"] = json!([gvk(group, version, kind)]);
        }
    }

    fn add_list(&mut self, resource: &Resource) {
        let item = reference(&name(&resource.type_name), self.dialect);
        let metadata = reference(&format!("{META}.ListMeta"), self.dialect);
        let definition = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string" },
                "kind": { "type": "string" },
                "metadata": metadata,
                "items": { "type": "array", "items": item },
            },
            "x-kubernetes-group-version-kind": [gvk(&resource.group, &resource.version, &resource.list_kind)],
        });
        self.definitions.insert(list_name(resource), definition);
    }

    /// Types that are no structs in the schema table.
    fn add_special(&mut self) {
        let (int_or_string, quantity) = match self.dialect {
            Dialect::V2 => {
                (json!({ "type": "string", "format": "int-or-string" }), json!({ "type": "string" }))
            }
            Dialect::V3 => (
                json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }], "format": "int-or-string" }),
                json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
            ),
        };
        let text = json!({ "type": "string" });
        let status = json!({
            "type": "object",
            "properties": {
                "apiVersion": text, "kind": text, "message": text, "reason": text, "status": text,
                "code": { "type": "integer", "format": "int32" },
                "details": { "type": "object" },
                "metadata": reference(&format!("{META}.ListMeta"), self.dialect),
            },
            "x-kubernetes-group-version-kind": [gvk("", "v1", "Status")],
        });
        let list_meta = json!({
            "type": "object",
            "properties": {
                "continue": text, "resourceVersion": text, "selfLink": text,
                "remainingItemCount": { "type": "integer", "format": "int64" },
            },
        });
        self.definitions.extend([
            (INT_OR_STRING.to_owned(), int_or_string),
            (QUANTITY.to_owned(), quantity),
            (format!("{META}.Time"), json!({ "type": "string", "format": "date-time" })),
            (format!("{META}.MicroTime"), json!({ "type": "string", "format": "date-time" })),
            (format!("{META}.Patch"), json!({ "type": "object" })),
            (format!("{META}.Status"), status),
            (format!("{META}.ListMeta"), list_meta),
        ]);
    }
}
