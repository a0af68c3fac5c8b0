//! Putting an applied configuration into an object, and taking paths out of one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::path::PathElement;
use super::set::Set;
use super::types::{Shape, Typed, element, member};
use crate::schema::TypeRef;

/// The object with everything that `config` says.
pub(super) fn merge(ty: TypeRef<'_>, live: &Value, config: &Value) -> Value {
    merged(Typed::object(ty), Some(live), Some(config)).unwrap_or_else(|| Value::Object(Map::new()))
}

/// The object without these paths. What becomes empty by it goes, too.
pub(super) fn remove(ty: TypeRef<'_>, object: &Value, paths: &Set) -> Value {
    match removed(Typed::object(ty), object, paths) {
        Value::Null => Value::Object(Map::new()),
        rest => rest,
    }
}

fn merged(ty: Typed<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let whole = || config.or(live).cloned();
    let (Some(was), Some(wanted)) = (live, config) else { return whole() };
    match (ty.shape(config), was, wanted) {
        (shape @ (Shape::Struct(_) | Shape::Map(_)), Value::Object(was), Value::Object(wanted)) => {
            if was.is_empty() && wanted.is_empty() {
                return whole();
            }
            Some(Value::Object(merged_objects(shape, was, wanted)))
        }
        (Shape::List(item, keys), Value::Array(was), Value::Array(wanted)) => {
            if was.is_empty() || wanted.is_empty() {
                return if wanted.is_empty() && !was.is_empty() { live.cloned() } else { whole() };
            }
            Some(Value::Array(merged_lists(item, keys, was, wanted)))
        }
        // `labels: null` says nothing about the labels that are there.
        (Shape::Struct(_) | Shape::Map(_) | Shape::List(..), _, Value::Null) if !is_empty(was) => {
            live.cloned()
        }
        _ => whole(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

fn merged_objects(
    shape: Shape<'_>,
    was: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Map<String, Value> {
    let mut out = was.clone();
    for (name, wanted) in wanted {
        let ty = match shape {
            Shape::Struct(ty) => member(ty, name).0,
            Shape::Map(entry) => entry,
            Shape::Leaf | Shape::List(..) => Typed::deduced(),
        };
        match merged(ty, was.get(name), Some(wanted)) {
            Some(value) => out.insert(name.clone(), value),
            None => out.remove(name),
        };
    }
    out
}

/// The elements of both lists: those of `wanted` in its order, and between them those that only `was` has. The latter keep their
/// place before the next element that both have, and come first where that leaves a choice.
fn merged_lists(item: Typed<'_>, keys: &[Cow<'static, str>], was: &[Value], wanted: &[Value]) -> Vec<Value> {
    let steps = |list: &[Value]| -> Vec<Option<PathElement>> {
        list.iter().map(|value| element(item, keys, value).ok()).collect()
    };
    let (was_steps, wanted_steps) = (steps(was), steps(wanted));
    let is_wanted: BTreeSet<&PathElement> = wanted_steps.iter().flatten().collect();
    let only_was = |at: usize| was_steps[at].as_ref().is_none_or(|step| !is_wanted.contains(step));
    // Where each element was; repeated ones are not merged with what is wanted, but replaced by it.
    let mut places: BTreeMap<&PathElement, Option<usize>> = BTreeMap::new();
    for (at, step) in was_steps.iter().enumerate() {
        if let Some(step) = step {
            places.entry(step).and_modify(|place| *place = None).or_insert(Some(at));
        }
    }
    let before: Vec<Option<usize>> = wanted_steps
        .iter()
        .map(|step| step.as_ref().and_then(|step| places.get(step).copied().flatten()))
        .collect();
    let mut out = Vec::with_capacity(was.len().max(wanted.len()));
    let mut next = 0;
    for (index, wanted) in wanted.iter().enumerate() {
        let shared = before[index..].iter().copied().find_map(|place| place);
        let upto = shared.filter(|place| *place >= next).unwrap_or(was.len());
        out.extend((next..upto).filter(|at| only_was(*at)).map(|at| was[at].clone()));
        next = upto;
        out.extend(merged(item, before[index].map(|at| &was[at]), Some(wanted)));
        next += usize::from(before[index] == Some(upto));
    }
    out.extend((next..was.len()).filter(|at| only_was(*at)).map(|at| was[at].clone()));
    out
}

fn removed(ty: Typed<'_>, value: &Value, paths: &Set) -> Value {
    match (ty.shape(Some(value)), value) {
        (shape @ (Shape::Struct(_) | Shape::Map(_)), Value::Object(object)) => {
            let mut out = Map::new();
            for (name, value) in object {
                let ty = match shape {
                    Shape::Struct(ty) => member(ty, name).0,
                    Shape::Map(entry) => entry,
                    Shape::Leaf | Shape::List(..) => Typed::deduced(),
                };
                out.extend(
                    kept(ty, &PathElement::field(name), value, paths).map(|value| (name.clone(), value)),
                );
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        (Shape::List(item, keys), Value::Array(items)) => {
            let kept = items.iter().filter_map(|value| match element(item, keys, value) {
                Ok(step) => kept(item, &step, value, paths),
                Err(_) => Some(value.clone()),
            });
            let out: Vec<Value> = kept.collect();
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        _ => value.clone(),
    }
}

/// A part without what is to go; none if it goes itself, or nothing is left of it.
fn kept(ty: Typed<'_>, step: &PathElement, value: &Value, paths: &Set) -> Option<Value> {
    if paths.has(step) {
        return None;
    }
    match paths.below(step) {
        None => Some(value.clone()),
        Some(below) => Some(removed(ty, value, below)).filter(|rest| !rest.is_null()),
    }
}
