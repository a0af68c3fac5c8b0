//! The patch from one object to another, written down from the definition of each kind of patch: RFC 7386, and the text on strategic
//! merge patches (sig-api-machinery, `strategic-merge-patch.md`) with its directives.

use machinery::schema::{FieldRef, PatchStrategy, TypeRef, ValueKind, ValueRef};
use serde_json::{Map, Value, json};

/// RFC 7386: what is gone is null, objects differ by their members, anything else is told whole.
pub(super) fn merge_patch(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return after.clone() };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match old.get(name) {
            Some(known) if known == value => {}
            Some(known) => {
                patch.insert(name.clone(), merge_patch(known, value));
            }
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

/// By the strategies of the schema.
pub(super) fn strategic_patch(ty: TypeRef<'_>, before: &Value, after: &Value) -> Value {
    Value::Object(object(Members::Struct(ty), fields(before), fields(after)))
}

fn fields(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

/// What is known of the members of an object.
#[derive(Clone, Copy)]
enum Members<'a> {
    Struct(TypeRef<'a>),
    Map(ValueRef<'a>),
    Unknown,
}

impl<'a> Members<'a> {
    fn of(value: Option<ValueRef<'a>>) -> Self {
        match value.map(ValueRef::kind) {
            Some(ValueKind::Struct(ty) | ValueKind::Union(ty)) => Self::Struct(ty),
            Some(ValueKind::Map(element)) => Self::Map(element),
            _ => Self::Unknown,
        }
    }

    fn value(self, name: &str) -> Option<ValueRef<'a>> {
        match self {
            Self::Struct(ty) => ty.field(name).map(FieldRef::value),
            Self::Map(element) => Some(element),
            Self::Unknown => None,
        }
    }

    fn strategy(self, name: &str) -> PatchStrategy {
        match self {
            Self::Struct(ty) => ty.field(name).and_then(FieldRef::patch).cloned().unwrap_or_default(),
            _ => PatchStrategy::default(),
        }
    }
}

fn object(members: Members<'_>, old: &Map<String, Value>, new: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match old.get(name) {
            Some(known) if known == value => {}
            Some(known) => member(members, name, known, value, &mut patch),
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    patch
}

/// A member that is there before and after, with other values.
fn member(members: Members<'_>, name: &str, old: &Value, new: &Value, patch: &mut Map<String, Value>) {
    let strategy = members.strategy(name);
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if !strategy.replace => {
            let mut inner = object(Members::of(members.value(name)), old, new);
            if strategy.retain_keys {
                inner.insert("$retainKeys".to_owned(), new.keys().cloned().collect());
            }
            patch.insert(name.to_owned(), Value::Object(inner));
        }
        (Value::Array(old), Value::Array(new)) if strategy.merge => match &strategy.merge_key {
            Some(key) => {
                let element = members.value(name).and_then(ValueRef::element);
                elements(name, element, key, strategy.retain_keys, old, new, patch);
            }
            None => scalars(name, old, new, patch),
        },
        _ => {
            patch.insert(name.to_owned(), new.clone());
        }
    }
}

fn elements(
    name: &str,
    element: Option<ValueRef<'_>>,
    key: &str,
    retain_keys: bool,
    old: &[Value],
    new: &[Value],
    patch: &mut Map<String, Value>,
) {
    let find = |list: &[Value], item: &Value| list.iter().position(|other| other[key] == item[key]);
    let mut changes = Vec::new();
    for item in new {
        let Some(at) = find(old, item) else {
            changes.push(item.clone());
            continue;
        };
        if old[at] != *item {
            let mut change = object(Members::of(element), fields(&old[at]), fields(item));
            if retain_keys {
                change.insert("$retainKeys".to_owned(), fields(item).keys().cloned().collect());
            }
            change.insert(key.to_owned(), item[key].clone());
            changes.push(Value::Object(change));
        }
    }
    let gone = old.iter().filter(|item| find(new, item).is_none());
    changes.extend(gone.map(|item| json!({ "$patch": "delete", key: item[key] })));
    if !changes.is_empty() {
        patch.insert(name.to_owned(), Value::Array(changes));
    }
    let order = new.iter().map(|item| json!({ key: item[key] })).collect();
    patch.insert(format!("$setElementOrder/{name}"), order);
}

fn scalars(name: &str, old: &[Value], new: &[Value], patch: &mut Map<String, Value>) {
    let without = |list: &[Value], other: &[Value]| -> Vec<Value> {
        list.iter().filter(|item| !other.contains(item)).cloned().collect()
    };
    let (added, gone) = (without(new, old), without(old, new));
    if !added.is_empty() {
        patch.insert(name.to_owned(), Value::Array(added));
    }
    if !gone.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{name}"), Value::Array(gone));
    }
    patch.insert(format!("$setElementOrder/{name}"), Value::Array(new.to_vec()));
}
