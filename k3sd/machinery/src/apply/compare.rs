//! What differs between two objects of one type: the paths that were added, modified and removed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::path::PathElement;
use super::set::Set;
use super::types::{Shape, Typed, element, member};
use crate::schema::TypeRef;

/// The difference between two objects. No path is in more than one of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only in the second.
    pub added: Set,
    /// In both, with different values.
    pub modified: Set,
    /// Only in the first.
    pub removed: Set,
}

/// What became of a value itself, beside what became of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Same,
    Added,
    Modified,
    Removed,
}

/// Compares two objects.
pub fn compare(ty: TypeRef<'_>, before: &Value, after: &Value) -> Comparison {
    value(Typed::object(ty), Some(before), Some(after)).1
}

impl Comparison {
    /// True if nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What the second object says differently.
    pub fn changed(&self) -> Set {
        self.added.union(&self.modified)
    }

    /// The same change of all three sets.
    pub(super) fn map(&self, change: impl Fn(&Set) -> Set) -> Self {
        Self { added: change(&self.added), modified: change(&self.modified), removed: change(&self.removed) }
    }

    fn attach(&mut self, element: impl Fn() -> PathElement, (own, below): (Own, Self)) {
        self.added.attach(&element, own == Own::Added, below.added);
        self.modified.attach(&element, own == Own::Modified, below.modified);
        self.removed.attach(&element, own == Own::Removed, below.removed);
    }
}

fn value(ty: Typed<'_>, before: Option<&Value>, after: Option<&Value>) -> (Own, Comparison) {
    let (left, right) = (ty.shape(before), ty.shape(after));
    // Only values whose type the schema leaves open can be of different shapes.
    if let (Some(before), Some(after)) = (before, after)
        && std::mem::discriminant(&left) != std::mem::discriminant(&right)
    {
        let mut parts = shaped(left, Some(before), None).1;
        parts.added = shaped(right, None, Some(after)).1.added;
        return (Own::Modified, parts);
    }
    shaped(if after.is_some() { right } else { left }, before, after)
}

fn shaped(shape: Shape<'_>, before: Option<&Value>, after: Option<&Value>) -> (Own, Comparison) {
    let parts = match shape {
        Shape::Leaf => return (leaf(before, after), Comparison::default()),
        Shape::Struct(_) | Shape::Map(_) => {
            let (before, after) = (full_object(before), full_object(after));
            (before.is_some() || after.is_some()).then(|| objects(shape, before, after))
        }
        Shape::List(item, keys) => {
            let (before, after) = (items(before), items(after));
            (!before.is_empty() || !after.is_empty()).then(|| lists(item, keys, before, after))
        }
    };
    // Two that are empty are told apart as a whole: null, absent and empty are not the same.
    let Some(parts) = parts else { return (leaf(before, after), Comparison::default()) };
    match (before, after) {
        (None, _) => (Own::Added, parts),
        (_, None) => (Own::Removed, parts),
        _ => (Own::Same, parts),
    }
}

fn full_object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|object| !object.is_empty())
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn leaf(before: Option<&Value>, after: Option<&Value>) -> Own {
    match (before, after) {
        (None, None) => Own::Same,
        (None, Some(_)) => Own::Added,
        (Some(_), None) => Own::Removed,
        (Some(before), Some(after)) if before == after => Own::Same,
        _ => Own::Modified,
    }
}

fn objects(
    shape: Shape<'_>,
    before: Option<&Map<String, Value>>,
    after: Option<&Map<String, Value>>,
) -> Comparison {
    let type_of = |name: &str| match shape {
        Shape::Struct(ty) => member(ty, name).0,
        Shape::Map(element) => element,
        Shape::Leaf | Shape::List(..) => Typed::deduced(),
    };
    let mut all = Comparison::default();
    let mut left = before.into_iter().flatten().peekable();
    let mut right = after.into_iter().flatten().peekable();
    // Both are sorted by name.
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return all,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.0.cmp(b.0),
        };
        let before = if order.is_le() { left.next() } else { None };
        let after = if order.is_ge() { right.next() } else { None };
        let Some((name, _)) = before.or(after) else { return all };
        let part = value(type_of(name), before.map(|(_, value)| value), after.map(|(_, value)| value));
        all.attach(|| PathElement::field(name), part);
    }
}

/// The elements of both lists under their steps. Elements that cannot be told apart are left out: such objects are not accepted.
fn lists(
    item: Typed<'_>,
    keys: &[std::borrow::Cow<'static, str>],
    before: &[Value],
    after: &[Value],
) -> Comparison {
    if before == after {
        return Comparison::default();
    }
    let mut elements: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for value in before {
        if let Ok(step) = element(item, keys, value) {
            elements.entry(step).or_default().0.push(value);
        }
    }
    for value in after {
        if let Ok(step) = element(item, keys, value) {
            elements.entry(step).or_default().1.push(value);
        }
    }
    let mut all = Comparison::default();
    for (step, (before, after)) in elements {
        all.attach(|| step.clone(), repeated(item, &before, &after));
    }
    all
}

/// One step of a list. Repeated elements are compared together, as one piece.
fn repeated(item: Typed<'_>, before: &[&Value], after: &[&Value]) -> (Own, Comparison) {
    match (before, after) {
        ([] | [_], [] | [_]) => value(item, before.first().copied(), after.first().copied()),
        ([_, _, ..], [_, _, ..]) if before == after => (Own::Same, Comparison::default()),
        ([_, _, ..], [_, _, ..]) => (Own::Modified, Comparison::default()),
        // No longer repeated: what remains is new, part by part.
        (_, [] | [_]) => {
            let remains =
                after.first().map_or_else(Comparison::default, |one| value(item, None, Some(one)).1);
            (Own::Removed, remains)
        }
        // Newly repeated: what was there is gone, part by part.
        _ => {
            let gone = before.first().map_or_else(Comparison::default, |one| value(item, Some(one), None).1);
            (Own::Added, gone)
        }
    }
}
