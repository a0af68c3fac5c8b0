//! Strategic merge patch, after upstream's `apimachinery/pkg/util/strategicpatch`.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::PatchError;
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
    merge_object(&Fields::of(ty), object, patch, false)
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

/// Merges `patch` into `object`. With `fresh`, the object did not exist before: nulls and directives leave nothing behind.
fn merge_object(
    fields: &Fields<'_>,
    object: &mut Object,
    patch: &Object,
    fresh: bool,
) -> Result<(), PatchError> {
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
            merge_member(fields, object, name, change, patch, fresh)?;
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
    fresh: bool,
) -> Result<(), PatchError> {
    let strategy = fields.strategy(name);
    match change {
        Value::Null => {
            object.remove(name);
        }
        Value::Object(change) if !strategy.is_some_and(|s| s.replace) || change.contains_key(PATCH) => {
            let inner = Fields::of_value(fields.value(name));
            let existing = object.get_mut(name).and_then(Value::as_object_mut);
            if change.get(PATCH).and_then(Value::as_str) == Some("delete") {
                object.remove(name);
            } else if let Some(existing) = existing {
                merge_object(&inner, existing, change, fresh)?;
            } else {
                let mut created = Object::new();
                merge_object(&inner, &mut created, change, true)?;
                object.insert(name.to_owned(), Value::Object(created));
            }
        }
        Value::Array(changes) if strategy.is_some_and(|s| s.merge) => {
            let element = fields.value(name).and_then(ValueRef::element);
            let mut list = match object.remove(name) {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            let key = strategy.and_then(|s| s.merge_key.as_deref());
            match key {
                Some(key) => merge_list(element, &mut list, changes, key)?,
                None => merge_scalars(&mut list, changes),
            }
            if let Some(order) = patch.get(&format!("{SET_ORDER}{name}")) {
                reorder(&mut list, order, key, name)?;
            }
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
            merge_object(&fields, existing, change, false)?;
        } else {
            let mut created = Object::new();
            merge_object(&fields, &mut created, change, true)?;
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
    match object.get_mut(name) {
        Some(Value::Array(items)) => reorder(items, order, key, name),
        _ => Ok(()),
    }
}

/// Puts the elements that `order` names into its order. The others, which only the server knows, stay behind the element
/// that they followed before.
fn reorder(items: &mut Vec<Value>, order: &Value, key: Option<&str>, name: &str) -> Result<(), PatchError> {
    let order = order.as_array().ok_or_else(|| malformed(format!("{SET_ORDER}{name} must be a list")))?;
    let id = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or(Value::Null),
        None => item.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(id).collect();
    let mut named: Vec<Value> = Vec::with_capacity(items.len());
    // Server-only elements with the number of named elements that stood before them.
    let mut others: Vec<(usize, Value)> = Vec::new();
    for item in std::mem::take(items) {
        if wanted.contains(&id(&item)) { named.push(item) } else { others.push((named.len(), item)) }
    }
    named.sort_by_key(|item| wanted.iter().position(|w| *w == id(item)));
    let mut others = others.into_iter().peekable();
    for (at, item) in named.into_iter().enumerate() {
        while let Some((_, other)) = others.next_if(|(before, _)| *before <= at) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others.map(|(_, other)| other));
    Ok(())
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
