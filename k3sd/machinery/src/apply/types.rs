//! What merging needs to know of a value: whether it is one piece, and if not, what tells its parts apart.

use std::borrow::Cow;

use serde_json::Value;

use super::path::PathElement;
use crate::schema::{FieldRef, Merge, TypeRef, ValueKind, ValueRef};

/// The type of a value with how its place in the schema says it merges.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typed<'a> {
    /// `None`: the schema does not say, so the value does.
    value: Option<ValueRef<'a>>,
    merge: Merge,
    keys: &'a [Cow<'static, str>],
}

/// How a value merges.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'a> {
    /// As one piece: scalars and everything atomic.
    Leaf,
    /// Field by field.
    Struct(TypeRef<'a>),
    /// Key by key.
    Map(Typed<'a>),
    /// A list whose elements are told apart: by key fields, or (no keys) by their values.
    List(Typed<'a>, &'a [Cow<'static, str>]),
}

impl<'a> Typed<'a> {
    /// A value of a type that no field leads to: the object itself.
    pub(super) fn object(ty: TypeRef<'a>) -> Self {
        Self { value: Some(ty.value()), merge: Merge::Default, keys: &[] }
    }

    /// A value the schema knows nothing of.
    pub(super) fn deduced() -> Self {
        Self { value: None, merge: Merge::Default, keys: &[] }
    }

    pub(super) fn plain(value: ValueRef<'a>) -> Self {
        Self { value: Some(value), merge: Merge::Default, keys: &[] }
    }

    /// What the schema says of the value's type, if anything.
    pub(super) fn kind(self) -> Option<ValueKind<'a>> {
        self.value.map(ValueRef::kind)
    }

    /// How a value of this type merges. `value` decides only where the schema does not.
    pub(super) fn shape(self, value: Option<&Value>) -> Shape<'a> {
        let Some(kind) = self.kind() else {
            return if value.is_some_and(Value::is_object) { Shape::Map(self) } else { Shape::Leaf };
        };
        if self.merge == Merge::Atomic {
            return Shape::Leaf;
        }
        match kind {
            ValueKind::Struct(ty) if ty.is_atomic() && self.merge != Merge::Separable => Shape::Leaf,
            ValueKind::Struct(ty) => Shape::Struct(ty),
            ValueKind::Map(element) => Shape::Map(Self::plain(element)),
            ValueKind::Object => Shape::Map(Self::deduced()),
            ValueKind::List(element) if self.merge == Merge::Map => {
                Shape::List(Self::plain(element), self.keys)
            }
            ValueKind::List(element) if self.merge == Merge::Set => Shape::List(Self::plain(element), &[]),
            _ => Shape::Leaf,
        }
    }
}

impl<'a> From<FieldRef<'a>> for Typed<'a> {
    fn from(field: FieldRef<'a>) -> Self {
        Self { value: Some(field.value()), merge: field.merge(), keys: field.keys() }
    }
}

/// The type of a member of an object, and whether the schema names it.
pub(super) fn member<'a>(ty: TypeRef<'a>, name: &str) -> (Typed<'a>, bool) {
    ty.field(name).map_or_else(|| (Typed::deduced(), false), |field| (field.into(), true))
}

/// Why a list element cannot be told from others.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElementError {
    #[error("associative list with keys may not have a null element")]
    NullElement,
    #[error("associative list with keys may not have non-map elements")]
    NoMap,
    #[error(
        "associative list with keys has an element that omits all key fields {0} (and doesn't have default values for any key fields)"
    )]
    NoKeys(String),
    #[error("associative list without keys has an element that's a map type")]
    MapInSet,
    #[error("not supported: associative list with lists as elements")]
    ListInSet,
    #[error("associative list without keys has an element that's an explicit null")]
    NullInSet,
}

/// The step that leads to a list element.
pub(super) fn element(
    of: Typed<'_>,
    keys: &[Cow<'static, str>],
    item: &Value,
) -> Result<PathElement, ElementError> {
    if keys.is_empty() {
        return match item {
            Value::Object(_) => Err(ElementError::MapInSet),
            Value::Array(_) => Err(ElementError::ListInSet),
            Value::Null => Err(ElementError::NullInSet),
            scalar => Ok(PathElement::Value(scalar.clone())),
        };
    }
    let object = match item {
        Value::Object(object) => object,
        Value::Null => return Err(ElementError::NullElement),
        _ => return Err(ElementError::NoMap),
    };
    let ty = match of.kind() {
        Some(ValueKind::Struct(ty)) => Some(ty),
        _ => None,
    };
    let default = |key: &str| ty.and_then(|ty| ty.field(key)).and_then(FieldRef::default);
    let found = keys.iter().filter_map(|key| {
        let value = object.get(key.as_ref()).or_else(|| default(key))?;
        Some((key.clone().into_owned(), value.clone()))
    });
    let mut found: Vec<(String, Value)> = found.collect();
    if found.is_empty() {
        let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        return Err(ElementError::NoKeys(format!("[{}]", names.join(" "))));
    }
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(PathElement::Key(found))
}
