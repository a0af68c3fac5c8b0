//! Strategic merge patch, after upstream's `apimachinery/pkg/util/strategicpatch`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::PatchError;
use crate::meta;
use crate::schema::{FieldRef, PatchStrategy, TypeRef, ValueKind, ValueRef};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// `None` as type: nothing is known, lists are replaced and objects merged.
pub(super) fn apply(ty: Option<TypeRef<'_>>, doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    if !doc.is_object() {
        *doc = Value::Object(Object::new());
    }
    let object = doc.as_object_mut().expect("made an object above");
    merge_object(&Fields::of(ty), object, patch)
}

/// What is known about the members of an object.
enum Fields<'a> {
    Unknown,
    Struct(TypeRef<'a>),
    /// A map: every value has this type.
    Map(ValueRef<'a>),
}

impl<'a> Fields<'a> {
    fn of(ty: Option<TypeRef<'a>>) -> Self {
        ty.map_or(Self::Unknown, Self::Struct)
    }

    fn of_value(value: Option<ValueRef<'a>>) -> Self {
        match value.map(ValueRef::kind) {
            Some(ValueKind::Struct(ty) | ValueKind::Union(ty)) => Self::Struct(ty),
            Some(ValueKind::Map(element)) => Self::Map(element),
            _ => Self::Unknown,
        }
    }

    fn value(&self, name: &str) -> Option<ValueRef<'a>> {
        match self {
            Self::Unknown => None,
            Self::Struct(ty) => ty.field(name).map(FieldRef::value),
            Self::Map(element) => Some(*element),
        }
    }

    fn strategy(&self, name: &str) -> Option<&'a PatchStrategy> {
        match self {
            Self::Struct(ty) => ty.field(name)?.patch(),
            _ => None,
        }
    }
}

/// Merges `patch` into `object`. Into an empty object, this is the patch without its nulls and directives.
fn merge_object(fields: &Fields<'_>, object: &mut Object, patch: &Object) -> Result<(), PatchError> {
    match patch.get(PATCH).map(directive).transpose()? {
        Some("replace") => {
            *object = patch
                .iter()
                .filter(|(name, _)| *name != PATCH)
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(malformed(format!("unknown patch type found: {other}"))),
    }
    retain_keys(object, patch)?;
    for (name, change) in patch {
        if name == PATCH || name == RETAIN_KEYS {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_from(object, list, change)?;
        } else if let Some(list) = name.strip_prefix(SET_ORDER) {
            // With a change of the list itself the order is set after that change, below.
            if !patch.contains_key(list) {
                set_order(fields, object, list, change)?;
            }
        } else {
            merge_member(fields, object, name, change, patch)?;
        }
    }
    Ok(())
}

fn merge_member(
    fields: &Fields<'_>,
    object: &mut Object,
    name: &str,
    change: &Value,
    patch: &Object,
) -> Result<(), PatchError> {
    let strategy = fields.strategy(name);
    match change {
        Value::Null => {
            object.remove(name);
        }
        Value::Object(change) if !strategy.is_some_and(|s| s.replace) || change.contains_key(PATCH) => {
            let inner = Fields::of_value(fields.value(name));
            merge_object(&inner, meta::child_mut(object, name), change)?;
        }
        Value::Array(changes) if strategy.is_some_and(|s| s.merge) => {
            let element = fields.value(name).and_then(ValueRef::element);
            let mut list = match object.remove(name) {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            let key = strategy.and_then(|s| s.merge_key.as_deref());
            let server = ids(&list, key);
            match key {
                Some(key) => merge_list(element, &mut list, changes, key)?,
                None => merge_scalars(&mut list, changes),
            }
            let order = match patch.get(&format!("{SET_ORDER}{name}")) {
                Some(order) => order_list(order, name)?,
                None => changes,
            };
            reorder(&mut list, &ids(order, key), &server, key);
            object.insert(name.to_owned(), Value::Array(list));
        }
        Value::Array(changes) => {
            // A list that is replaced may still carry the directive that says so.
            let plain = changes.iter().filter(|item| item.get(PATCH).is_none()).cloned().collect();
            object.insert(name.to_owned(), Value::Array(plain));
        }
        scalar => {
            object.insert(name.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

/// Merges a list of objects that `key` tells apart.
fn merge_list(
    element: Option<ValueRef<'_>>,
    list: &mut Vec<Value>,
    changes: &[Value],
    key: &str,
) -> Result<(), PatchError> {
    let is_replace = |item: &Value| item.get(PATCH).and_then(Value::as_str) == Some("replace");
    // `$patch: replace` as an element of its own replaces the whole list by the other elements.
    if changes.iter().any(|item| is_replace(item) && item.as_object().is_some_and(|o| o.len() == 1)) {
        *list = changes.iter().filter(|item| !is_replace(item)).cloned().collect();
        return Ok(());
    }
    for change in changes {
        let Value::Object(change) = change else {
            return Err(malformed("expected a list of objects in the patch"));
        };
        let id = change.get(key).ok_or_else(|| {
            malformed(format!("map: {} does not contain declared merge key: {key}", text(change)))
        })?;
        let same = |item: &Value| item.get(key) == Some(id);
        if change.get(PATCH).map(directive).transpose()? == Some("delete") {
            list.retain(|item| !same(item));
            continue;
        }
        let fields = Fields::of_value(element);
        if let Some(Value::Object(existing)) = list.iter_mut().find(|item| same(item)) {
            merge_object(&fields, existing, change)?;
        } else {
            let mut created = Object::new();
            merge_object(&fields, &mut created, change)?;
            list.push(Value::Object(created));
        }
    }
    Ok(())
}

/// Adds the scalars that are not there yet.
fn merge_scalars(list: &mut Vec<Value>, changes: &[Value]) {
    for change in changes {
        if !list.contains(change) {
            list.push(change.clone());
        }
    }
}

fn retain_keys(object: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(directive) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys =
        directive.as_array().ok_or_else(|| malformed("invalid $retainKeys directive: expected a list"))?;
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    for name in patch.keys().filter(|name| !name.starts_with('$')) {
        if !patch[name].is_null() && !keys.contains(name.as_str()) {
            return Err(malformed("$retainKeys directive must contain all the fields in the patch"));
        }
    }
    object.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

fn delete_from(object: &mut Object, list: &str, values: &Value) -> Result<(), PatchError> {
    let values = values.as_array().ok_or_else(|| malformed("$deleteFromPrimitiveList must be a list"))?;
    if let Some(Value::Array(items)) = object.get_mut(list) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

fn set_order(fields: &Fields<'_>, object: &mut Object, name: &str, order: &Value) -> Result<(), PatchError> {
    let key = fields.strategy(name).and_then(|s| s.merge_key.as_deref());
    let wanted = ids(order_list(order, name)?, key);
    if let Some(Value::Array(items)) = object.get_mut(name) {
        let server = ids(items, key);
        reorder(items, &wanted, &server, key);
    }
    Ok(())
}

fn order_list<'v>(order: &'v Value, name: &str) -> Result<&'v [Value], PatchError> {
    order.as_array().map(Vec::as_slice).ok_or_else(|| malformed(format!("{SET_ORDER}{name} must be a list")))
}

/// What tells the elements apart: their merge keys, or the scalars themselves.
fn ids(items: &[Value], key: Option<&str>) -> Vec<Value> {
    items.iter().map(|item| id(item, key)).collect()
}

fn id(item: &Value, key: Option<&str>) -> Value {
    key.map_or_else(|| item.clone(), |key| item.get(key).cloned().unwrap_or(Value::Null))
}

/// Puts the elements that the patch names into the order it `wanted`, and lets the others, which only the server knows, keep
/// the order they had. Where the two meet, the order on the server decides; an element that is new comes first.
fn reorder(items: &mut Vec<Value>, wanted: &[Value], server: &[Value], key: Option<&str>) {
    let position = |order: &[Value], item: &Value| order.iter().position(|other| *other == id(item, key));
    let (mut named, others): (Vec<_>, Vec<_>) =
        std::mem::take(items).into_iter().partition(|item| position(wanted, item).is_some());
    named.sort_by_key(|item| position(wanted, item));
    let mut others = others.into_iter().peekable();
    for item in named {
        let limit = position(server, &item);
        while let Some(other) = others.next_if(|other| limit.is_some() && position(server, other) < limit) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others);
}

fn directive(value: &Value) -> Result<&str, PatchError> {
    value.as_str().ok_or_else(|| malformed("$patch directive must be a string"))
}

fn text(object: &Object) -> String {
    Value::Object(object.clone()).to_string()
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::strategic;
    use crate::schema::builtin;
    use serde_json::json;

    fn patched(type_name: &str, mut doc: Value, patch: Value) -> Value {
        strategic(builtin(), type_name, &mut doc, &patch).unwrap_or_else(|err| panic!("{patch}: {err}"));
        doc
    }

    fn pod(spec: Value, patch: Value) -> Value {
        patched("api.core.v1.Pod", json!({"spec": spec}), json!({"spec": patch}))["spec"].take()
    }

    fn two() -> Value {
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}]})
    }

    #[test]
    fn lists_with_a_merge_key_merge_by_it() {
        let result = pod(two(), json!({"containers": [{"name": "b", "image": "3", "args": null}]}));
        assert_eq!(
            result,
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "3"}]})
        );
    }

    #[test]
    fn new_elements_come_before_those_the_patch_does_not_name() {
        let result = pod(two(), json!({"containers": [{"name": "c", "image": "9"}]}));
        let names: Vec<&str> = result["containers"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["c", "a", "b"]);
    }

    #[test]
    fn lists_without_a_strategy_are_replaced() {
        let result = pod(two(), json!({"containers": [{"name": "a", "args": ["y", "z"]}]}));
        assert_eq!(result["containers"][0]["args"], json!(["y", "z"]));
    }

    #[test]
    fn elements_are_deleted_by_directive() {
        let result = pod(two(), json!({"containers": [{"name": "a", "$patch": "delete"}]}));
        assert_eq!(result, json!({"containers": [{"name": "b", "image": "2"}]}));
    }

    #[test]
    fn lists_and_maps_are_replaced_by_directive() {
        let result = pod(two(), json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}));
        assert_eq!(result, json!({"containers": [{"name": "z"}]}));
        let result = pod(
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
        );
        assert_eq!(result, json!({"nodeSelector": {"c": "3"}}));
    }

    #[test]
    fn set_element_order_orders_what_it_names() {
        let order = json!([{"name": "b"}, {"name": "n"}, {"name": "a"}]);
        let result = pod(
            json!({"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": order, "containers": [{"name": "n"}]}),
        );
        let names: Vec<&str> = result["containers"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["s", "b", "n", "a"]);
        let result = pod(two(), json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}));
        assert_eq!(result["containers"][0]["name"], "b");
    }

    #[test]
    fn lists_of_scalars_merge_as_sets() {
        let doc = json!({"metadata": {"finalizers": ["a", "b"]}});
        let result = patched("api.core.v1.Pod", doc.clone(), json!({"metadata": {"finalizers": ["c", "a"]}}));
        assert_eq!(result["metadata"]["finalizers"], json!(["c", "a", "b"]));
        let delete = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["b"]}});
        assert_eq!(patched("api.core.v1.Pod", doc, delete)["metadata"]["finalizers"], json!(["b"]));
    }

    #[test]
    fn retain_keys_drops_what_the_patch_does_not_keep() {
        let doc = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        let result = patched("api.apps.v1.Deployment", doc.clone(), patch);
        assert_eq!(result, json!({"spec": {"strategy": {"type": "Recreate"}}}));
        let mut doc = doc;
        let patch = json!({"spec": {"strategy": {"$retainKeys": [], "type": "Recreate"}}});
        assert!(strategic(builtin(), "api.apps.v1.Deployment", &mut doc, &patch).is_err());
        let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]});
        assert_eq!(pod(volumes, patch), json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
    }

    #[test]
    fn what_is_new_carries_no_nulls_or_directives() {
        let patch = json!({"affinity": {"$patch": "merge", "nodeAffinity": null, "podAffinity": {"x": null}},
            "containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "$setElementOrder/ports": [], "tty": null}]});
        assert_eq!(
            pod(json!({}), patch),
            json!({"affinity": {"podAffinity": {}}, "containers": [{"name": "b"}]})
        );
    }

    #[test]
    fn a_field_with_the_replace_strategy_is_replaced() {
        let doc = json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}});
        let patch = json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}});
        let result = patched("api.policy.v1.PodDisruptionBudget", doc, patch.clone());
        assert_eq!(result, patch);
    }

    #[test]
    fn an_element_without_its_merge_key_is_refused() {
        let mut doc = json!({"spec": two()});
        let patch = json!({"spec": {"containers": [{"image": "x"}]}});
        assert!(strategic(builtin(), "api.core.v1.Pod", &mut doc, &patch).is_err());
    }

    #[test]
    fn patching_with_itself_changes_nothing() {
        let doc = json!({"metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["b", "a"]},
            "spec": two(), "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(patched("api.core.v1.Pod", doc.clone(), doc.clone()), doc);
    }
}
