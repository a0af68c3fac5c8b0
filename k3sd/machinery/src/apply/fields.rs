//! The set of paths that an object speaks of, and sets brought in line with the schema.

use serde_json::{Map, Value};

use super::path::PathElement;
use super::set::Set;
use super::types::{Shape, Typed, element, member};
use crate::schema::TypeRef;

/// The paths that an object sets: its leaves, the elements of its lists, the keys of its maps. Structs are not in it unless empty,
/// since nobody owns `.spec` as such.
pub fn of(ty: TypeRef<'_>, object: &Value) -> Set {
    value(Typed::object(ty), object).1
}

/// Whether the value's own path is a member, and what is below it.
fn value(ty: Typed<'_>, of: &Value) -> (bool, Set) {
    let shape = ty.shape(Some(of));
    let mut set = Set::default();
    match (shape, of) {
        (Shape::Leaf, _) => return (true, set),
        (Shape::Struct(ty), Value::Object(object)) => {
            for (name, of) in object {
                let (of_member, declared) = member(ty, name);
                let (own, below) = value(of_member, of);
                set.attach(|| PathElement::field(name), own || !declared || is_hollow(of), below);
            }
        }
        (Shape::Map(entry), Value::Object(object)) => {
            for (name, of) in object {
                set.attach(|| PathElement::field(name), true, value(entry, of).1);
            }
        }
        (Shape::List(item, keys), Value::Array(items)) => {
            let mut seen: Vec<PathElement> = Vec::with_capacity(items.len());
            for of in items {
                let Ok(step) = element(item, keys, of) else { continue };
                seen.push(step);
            }
            for of in items {
                let Ok(step) = element(item, keys, of) else { continue };
                let repeated = seen.iter().filter(|other| **other == step).count() > 1;
                let below = if repeated { Set::default() } else { value(item, of).1 };
                set.attach(|| step.clone(), true, below);
            }
        }
        _ => {}
    }
    (false, set)
}

fn is_hollow(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// The set with every declared field that has members below it a member, too. So a struct is removed with the last of its fields,
/// when those who owned the fields do not want it any more.
pub(super) fn with_named_fields(ty: TypeRef<'_>, set: &Set) -> Set {
    named(Some(Typed::object(ty)), set)
}

fn named(ty: Option<Typed<'_>>, set: &Set) -> Set {
    let shape = ty.map(|ty| ty.shape(None));
    let mut out = Set::default();
    for node in set.nodes() {
        let (below, declared) = match (shape, &node.element) {
            (Some(Shape::Struct(ty)), PathElement::Field(name)) => {
                let (of_member, declared) = member(ty, name);
                (Some(of_member), declared)
            }
            (Some(Shape::Map(entry)), PathElement::Field(_)) => (Some(entry), false),
            (Some(Shape::List(item, _)), PathElement::Key(_)) => (Some(item), false),
            _ => (None, false),
        };
        let own = node.member || (declared && !node.children.is_empty());
        out.attach(|| node.element.clone(), own, named(below, &node.children));
    }
    out
}

/// The set as it must be under this schema: who owned parts of what is one piece now, owns the piece. `None`: it is so already.
///
/// The other way round, parts of what was one piece, is left as it is, as upstream leaves it.
pub(super) fn reconcile(ty: TypeRef<'_>, set: &Set) -> Option<Set> {
    let reconciled = reconciled(Typed::object(ty), set);
    (reconciled != *set).then_some(reconciled)
}

fn reconciled(ty: Typed<'_>, set: &Set) -> Set {
    let shape = ty.shape(None);
    let mut out = Set::default();
    for node in set.nodes() {
        let below = match (shape, &node.element) {
            (Shape::Struct(ty), PathElement::Field(name)) => {
                Some(member(ty, name)).filter(|m| m.1).map(|m| m.0)
            }
            (Shape::Map(entry), PathElement::Field(_)) => Some(entry),
            (Shape::List(item, _), PathElement::Key(_)) => Some(item),
            _ => None,
        };
        let Some(ty) = below.filter(|ty| ty.kind().is_some()) else {
            out.attach(|| node.element.clone(), node.member, node.children.clone());
            continue;
        };
        if !node.children.is_empty() && matches!(ty.shape(None), Shape::Leaf) {
            out.attach(|| node.element.clone(), true, Set::default());
        } else {
            out.attach(|| node.element.clone(), node.member, reconciled(ty, &node.children));
        }
    }
    out
}
