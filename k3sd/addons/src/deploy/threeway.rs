//! Three-way patches: from what was last applied, what is wanted and what there is, the change to make.
//!
//! As `kubectl apply` does it on the client: what is wanted and differs is set, what was applied once and is no longer
//! wanted is removed, everything else is left alone. Built-in kinds get strategic merge patches, whose lists merge by key;
//! other kinds JSON merge patches, whose lists are replaced.

use machinery::schema::{FieldRef, PatchStrategy, TypeRef, ValueKind, ValueRef};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// The patch that leads from `current` to `wanted`; empty if nothing is to be done. `ty`: the kind's type; `None` makes a
/// JSON merge patch.
pub(super) fn patch(ty: Option<TypeRef<'_>>, original: &Value, wanted: &Value, current: &Value) -> Value {
    let empty = Object::new();
    let object = |value: &'_ Value| value.as_object().cloned().unwrap_or_default();
    let original = original.as_object().unwrap_or(&empty);
    let fields = ty.map_or(Fields::Unknown, Fields::Struct);
    Value::Object(merge_objects(fields, original, &object(wanted), &object(current)))
}

/// What is known of the members of an object.
#[derive(Clone, Copy)]
enum Fields<'a> {
    Unknown,
    Struct(TypeRef<'a>),
    Map(ValueRef<'a>),
}

impl<'a> Fields<'a> {
    fn of(value: Option<ValueRef<'a>>) -> Self {
        match value.map(ValueRef::kind) {
            Some(ValueKind::Struct(ty) | ValueKind::Union(ty)) => Self::Struct(ty),
            Some(ValueKind::Map(element)) => Self::Map(element),
            _ => Self::Unknown,
        }
    }

    fn value(self, name: &str) -> Option<ValueRef<'a>> {
        match self {
            Self::Unknown => None,
            Self::Struct(ty) => ty.field(name).map(FieldRef::value),
            Self::Map(element) => Some(element),
        }
    }

    fn strategy(self, name: &str) -> Option<&'a PatchStrategy> {
        match self {
            Self::Struct(ty) => ty.field(name)?.patch(),
            _ => None,
        }
    }
}

fn merge_objects(fields: Fields<'_>, original: &Object, wanted: &Object, current: &Object) -> Object {
    let mut patch = Object::new();
    for (name, value) in wanted {
        let present = current.get(name);
        // A null in a file sets nothing.
        if value.is_null() || present == Some(value) {
            continue;
        }
        let member = Member { fields, name, original: original.get(name) };
        member.change(value, present, &mut patch);
    }
    for name in original.keys() {
        if wanted.get(name).is_none_or(Value::is_null) && current.contains_key(name) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

/// One member of an object that differs.
struct Member<'a> {
    fields: Fields<'a>,
    name: &'a str,
    original: Option<&'a Value>,
}

impl Member<'_> {
    fn change(&self, wanted: &Value, current: Option<&Value>, patch: &mut Object) {
        let strategy = self.fields.strategy(self.name);
        let whole = strategy.is_some_and(|strategy| strategy.replace);
        match (wanted, current) {
            (Value::Object(wanted), Some(Value::Object(current))) if !whole => {
                let empty = Object::new();
                let original = self.original.and_then(Value::as_object).unwrap_or(&empty);
                let inner = Fields::of(self.fields.value(self.name));
                let mut change = merge_objects(inner, original, wanted, current);
                if !change.is_empty() {
                    if strategy.is_some_and(|strategy| strategy.retain_keys) {
                        retain_keys(&mut change, wanted);
                    }
                    patch.insert(self.name.to_owned(), Value::Object(change));
                }
            }
            (Value::Array(wanted), Some(Value::Array(current))) if strategy.is_some_and(|s| s.merge) => {
                let strategy = strategy.expect("checked in the guard");
                self.change_list(strategy, wanted, current, patch);
            }
            _ => {
                patch.insert(self.name.to_owned(), wanted.clone());
            }
        }
    }

    fn change_list(&self, strategy: &PatchStrategy, wanted: &[Value], current: &[Value], patch: &mut Object) {
        let empty = Vec::new();
        let original = self.original.and_then(Value::as_array).unwrap_or(&empty);
        match strategy.merge_key.as_deref() {
            Some(key) => self.change_keyed(strategy, key, [original, wanted, current], patch),
            None => self.change_set(original, wanted, current, patch),
        }
    }

    /// Lists of scalars.
    fn change_set(&self, original: &[Value], wanted: &[Value], current: &[Value], patch: &mut Object) {
        let missing: Vec<&Value> = wanted.iter().filter(|item| !current.contains(item)).collect();
        if !missing.is_empty() {
            patch.insert(self.name.to_owned(), json!(missing));
        }
        let stale = original.iter().filter(|item| !wanted.contains(item) && current.contains(item));
        let stale: Vec<&Value> = stale.collect();
        if !stale.is_empty() {
            patch.insert(format!("$deleteFromPrimitiveList/{}", self.name), json!(stale));
        }
    }

    /// Lists of objects that `key` tells apart.
    fn change_keyed(
        &self,
        strategy: &PatchStrategy,
        key: &str,
        [original, wanted, current]: [&[Value]; 3],
        patch: &mut Object,
    ) {
        // One container port for TCP and UDP has one key twice: such lists can only be replaced.
        if !distinct(wanted, key) || !distinct(current, key) {
            let mut whole = vec![json!({"$patch": "replace"})];
            whole.extend(wanted.iter().cloned());
            patch.insert(self.name.to_owned(), Value::Array(whole));
            return;
        }
        let element = Fields::of(self.fields.value(self.name).and_then(ValueRef::element));
        let mut changes = Vec::new();
        for item in wanted {
            let Some(present) = find(current, key, &item[key]) else {
                changes.push(item.clone());
                continue;
            };
            let empty = Object::new();
            let before = find(original, key, &item[key]).and_then(Value::as_object).unwrap_or(&empty);
            let (Some(item), Some(present)) = (item.as_object(), present.as_object()) else { continue };
            let mut change = merge_objects(element, before, item, present);
            if !change.is_empty() {
                if strategy.retain_keys {
                    retain_keys(&mut change, item);
                }
                change.insert(key.to_owned(), item[key].clone());
                changes.push(Value::Object(change));
            }
        }
        for item in original {
            if find(wanted, key, &item[key]).is_none() && find(current, key, &item[key]).is_some() {
                changes.push(json!({key: item[key], "$patch": "delete"}));
            }
        }
        if !changes.is_empty() {
            patch.insert(self.name.to_owned(), Value::Array(changes));
        }
        if reordered(wanted, current, key) || patch.contains_key(self.name) {
            let order: Vec<Value> = wanted.iter().map(|item| json!({key: item[key]})).collect();
            patch.insert(format!("$setElementOrder/{}", self.name), Value::Array(order));
        }
    }
}

/// Members that the server or somebody else added must go when one of several alternatives is exchanged.
fn retain_keys(change: &mut Object, wanted: &Object) {
    change.insert("$retainKeys".to_owned(), json!(wanted.keys().collect::<Vec<_>>()));
}

fn find<'a>(list: &'a [Value], key: &str, id: &Value) -> Option<&'a Value> {
    list.iter().find(|item| item[key] == *id)
}

fn distinct(list: &[Value], key: &str) -> bool {
    let repeated = |(place, item): (usize, &Value)| find(&list[..place], key, &item[key]).is_some();
    !list.iter().enumerate().any(repeated) && list.iter().all(|item| item.get(key).is_some())
}

/// Whether the elements that both lists have come in another order.
fn reordered(wanted: &[Value], current: &[Value], key: &str) -> bool {
    let places: Vec<usize> =
        wanted.iter().filter_map(|item| current.iter().position(|other| other[key] == item[key])).collect();
    !places.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::schema::builtin;

    /// Applies the patch with the server's own code and returns the patch and its outcome.
    fn outcome(type_name: &str, original: &Value, wanted: &Value, mut current: Value) -> (Value, Value) {
        let schema = builtin();
        let change = patch(Some(schema.get(type_name).unwrap()), original, wanted, &current);
        machinery::patch::strategic(schema, type_name, &mut current, &change).unwrap();
        (change, current)
    }

    fn pod(containers: Value) -> Value {
        json!({ "spec": { "containers": containers } })
    }

    #[test]
    fn nothing_is_done_when_everything_wanted_is_there() {
        let wanted = pod(json!([{"name": "a", "image": "1"}]));
        let current =
            pod(json!([{"name": "a", "image": "1", "imagePullPolicy": "Always"}, {"name": "sidecar"}]));
        let (change, _) = outcome("api.core.v1.Pod", &wanted, &wanted, current);
        assert_eq!(change, json!({}));
    }

    #[test]
    fn what_others_set_stays_and_what_we_no_longer_want_goes() {
        let original = pod(json!([
            {"name": "a", "image": "1", "command": ["x"], "env": [{"name": "OLD", "value": "1"}]}, {"name": "gone"},
        ]));
        let wanted =
            pod(json!([{"name": "a", "image": "2", "env": [{"name": "NEW", "value": "1"}]}, {"name": "b"}]));
        let current = pod(json!([
            {"name": "a", "image": "1", "command": ["x"], "tty": true,
                "env": [{"name": "OLD", "value": "1"}, {"name": "THEIRS", "value": "1"}]},
            {"name": "gone"}, {"name": "sidecar"},
        ]));
        let (_, result) = outcome("api.core.v1.Pod", &original, &wanted, current);
        let containers = result["spec"]["containers"].as_array().unwrap();
        let container = |name: &str| containers.iter().find(|container| container["name"] == name);
        let a = container("a").unwrap();
        assert_eq!((&a["image"], &a["tty"], a.get("command")), (&json!("2"), &json!(true), None));
        let names: Vec<_> =
            a["env"].as_array().unwrap().iter().map(|env| env["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"NEW") && names.contains(&"THEIRS") && !names.contains(&"OLD"), "{names:?}");
        assert!(container("gone").is_none() && container("sidecar").is_some() && container("b").is_some());
    }

    #[test]
    fn alternatives_are_exchanged_whole() {
        let original = json!({"spec": {"strategy": {"type": "RollingUpdate"}}});
        let wanted = json!({"spec": {"strategy": {"type": "Recreate"}}});
        let current =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let (_, result) = outcome("api.apps.v1.Deployment", &original, &wanted, current);
        assert_eq!(result, wanted);
    }

    #[test]
    fn sets_of_scalars_lose_only_what_was_ours() {
        let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
        let current = finalizers(json!(["ours", "theirs"]));
        let (_, result) =
            outcome("api.core.v1.Pod", &finalizers(json!(["ours"])), &finalizers(json!(["new"])), current);
        let list = result["metadata"]["finalizers"].as_array().unwrap();
        assert!(
            list.contains(&json!("new")) && list.contains(&json!("theirs")) && !list.contains(&json!("ours"))
        );
    }

    #[test]
    fn one_port_for_two_protocols_replaces_the_list() {
        let ports = |list: Value| json!({"spec": {"containers": [{"name": "a", "ports": list}]}});
        let wanted = ports(json!([
            {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"},
        ]));
        let (_, result) =
            outcome("api.core.v1.Pod", &json!({}), &wanted, ports(json!([{"containerPort": 1}])));
        assert_eq!(result, wanted);
    }

    #[test]
    fn unknown_kinds_get_merge_patches() {
        let original = json!({"spec": {"a": 1, "old": true}});
        let wanted = json!({"spec": {"a": 2, "list": [1]}});
        let current = json!({"spec": {"a": 1, "old": true, "list": [2, 3], "theirs": 1}});
        let change = patch(None, &original, &wanted, &current);
        assert_eq!(change, json!({"spec": {"a": 2, "list": [1], "old": null}}));
    }
}
