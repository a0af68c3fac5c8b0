//! Patches of the three kinds that carry no field ownership: JSON patch, JSON merge patch, strategic merge patch.

mod strategic;

use serde_json::Value;

use crate::schema::Schema;
use crate::status::Status;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The document is not a patch of its kind.
    #[error("{0}")]
    Malformed(String),
    /// More operations than are allowed.
    #[error("The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}")]
    TooLarge(usize),
    /// Copies and moves carry more than is allowed.
    #[error(
        "unable to copy, the accumulated size increase of copy is {0}, exceeding the limit {MAX_COPIED_BYTES}"
    )]
    Copied(usize),
    /// The outcome would be nested too deeply.
    #[error("exceeded max depth {MAX_DEPTH}")]
    TooDeep,
    /// A `test` of a JSON patch failed, or a path of it does not exist.
    #[error("the server rejected our request due to an error in our request")]
    NotApplicable(#[source] json_patch::PatchError),
}

/// Most operations a JSON patch may have; upstream's limit.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// Most bytes that the copies and moves of one JSON patch may carry; upstream's limit on copies.
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// Deepest nesting of an object. Decoders here stop at 128, and lists and watch events wrap objects in some more levels.
pub const MAX_DEPTH: usize = 100;

/// Applies an RFC 6902 JSON patch: all of it, or nothing.
///
/// # Errors
/// The patch is malformed, a path does not exist, a test failed, or the outcome would be too large or too deep.
pub fn json(doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations: json_patch::Patch =
        serde::Deserialize::deserialize(patch).map_err(|err| PatchError::Malformed(err.to_string()))?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooLarge(operations.len()));
    }
    let mut patched = doc.clone();
    let mut carried = 0;
    for operation in operations.iter() {
        bound(&patched, operation, &mut carried)?;
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(PatchError::NotApplicable)?;
    }
    *doc = patched;
    Ok(())
}

/// A few copies of copies make any document huge, and one into itself deeper than a stack can follow: measured before it happens.
/// Moves are charged too, as measuring them costs the same.
fn bound(doc: &Value, operation: &json_patch::PatchOperation, carried: &mut usize) -> Result<(), PatchError> {
    use json_patch::PatchOperation as Op;
    let (value, from) = match operation {
        Op::Add(add) => (Some(&add.value), None),
        Op::Replace(replace) => (Some(&replace.value), None),
        Op::Copy(copy) => (copy.from.resolve(doc).ok(), Some(&copy.from)),
        Op::Move(from) => (from.from.resolve(doc).ok(), Some(&from.from)),
        Op::Remove(_) | Op::Test(_) => (None, None),
    };
    // What is not there is refused when it is applied.
    let Some(value) = value else { return Ok(()) };
    let room = MAX_DEPTH.checked_sub(operation.path().count()).ok_or(PatchError::TooDeep)?;
    if deeper_than(value, room) {
        return Err(PatchError::TooDeep);
    }
    if from.is_some() {
        *carried += size(value);
        if *carried > MAX_COPIED_BYTES {
            return Err(PatchError::Copied(*carried));
        }
    }
    Ok(())
}

/// True if objects and lists are nested in more than `limit` levels.
pub fn deeper_than(value: &Value, limit: usize) -> bool {
    let Some(below) = limit.checked_sub(1) else { return value.is_object() || value.is_array() };
    match value {
        Value::Object(map) => map.values().any(|value| deeper_than(value, below)),
        Value::Array(list) => list.iter().any(|value| deeper_than(value, below)),
        _ => false,
    }
}

/// About the bytes of the compact encoding.
fn size(value: &Value) -> usize {
    const PUNCTUATION: usize = 4;
    match value {
        Value::Object(map) => {
            2 + map.iter().map(|(key, value)| key.len() + PUNCTUATION + size(value)).sum::<usize>()
        }
        Value::Array(list) => 2 + list.iter().map(|value| 1 + size(value)).sum::<usize>(),
        Value::String(text) => 2 + text.len(),
        _ => PUNCTUATION,
    }
}

/// Applies an RFC 7386 JSON merge patch.
pub fn merge(doc: &mut Value, patch: &Value) {
    json_patch::merge(doc, patch);
}

/// Applies a strategic merge patch: lists merge by the keys of the schema, `$patch`, `$setElementOrder/…`,
/// `$deleteFromPrimitiveList/…` and `$retainKeys` steer.
///
/// # Errors
/// A directive is malformed, or a list element lacks its merge key.
pub fn strategic(schema: &Schema, type_name: &str, doc: &mut Value, patch: &Value) -> Result<(), PatchError> {
    strategic::apply(schema.get(type_name), doc, patch)
}

impl From<PatchError> for Status {
    fn from(err: PatchError) -> Self {
        match err {
            PatchError::Malformed(message) => Self::bad_request(message),
            PatchError::TooLarge(_) | PatchError::Copied(_) => Self::too_large(&err.to_string()),
            PatchError::TooDeep | PatchError::NotApplicable(_) => Self::unprocessable(err.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn json_patches_apply_whole_or_not_at_all() {
        let mut doc = json!({"spec": {"replicas": 1, "list": ["a"]}});
        let patch = json!([{"op": "test", "path": "/spec/replicas", "value": 1},
            {"op": "replace", "path": "/spec/replicas", "value": 2}, {"op": "add", "path": "/spec/list/-", "value": "b"}]);
        json(&mut doc, &patch).expect("applies");
        assert_eq!(doc, json!({"spec": {"replicas": 2, "list": ["a", "b"]}}));
        let before = doc.clone();
        let patch = json!([{"op": "remove", "path": "/spec/replicas"}, {"op": "test", "path": "/spec/list/0", "value": "x"}]);
        assert!(matches!(json(&mut doc, &patch), Err(PatchError::NotApplicable(_))));
        assert_eq!(doc, before);
        assert!(matches!(json(&mut doc, &json!({"op": "add"})), Err(PatchError::Malformed(_))));
    }

    #[test]
    fn copies_of_copies_are_bounded_in_size_and_depth() {
        let fill = json!({"op": "add", "path": "/data/seed", "value": "x".repeat(1000)});
        let double = |n| json!({"op": "copy", "from": "/data", "path": format!("/data/c{n}")});
        let operations = |count| std::iter::once(fill.clone()).chain((0..count).map(double)).collect();
        let before = json!({"data": {}});
        let mut doc = before.clone();
        assert!(matches!(json(&mut doc, &Value::Array(operations(40))), Err(PatchError::Copied(_))));
        assert_eq!(doc, before);
        json(&mut doc, &Value::Array(operations(4))).expect("a few copies");
        let into_itself = |n| json!({"op": "copy", "from": "/a", "path": format!("/a{}", "/a".repeat(n))});
        let deepen: Vec<Value> = (0..10).map(|n| into_itself(1 << n)).collect();
        let mut doc = json!({"a": {}});
        assert!(matches!(json(&mut doc, &Value::Array(deepen)), Err(PatchError::TooDeep)));
        let mut deep = json!({});
        for _ in 0..90 {
            deep = json!({ "a": deep });
        }
        let graft = json!([{"op": "add", "path": "/b", "value": deep},
            {"op": "move", "from": "/b", "path": "/a/a"}]);
        json(&mut json!({"a": {}}), &graft).expect("within the limit");
        assert!(!deeper_than(&deep, 91) && deeper_than(&deep, 90));
        assert_eq!(Status::from(PatchError::Copied(1)).code, 413);
        assert_eq!(Status::from(PatchError::TooDeep).code, 422);
    }

    proptest! {
        /// A strategic merge patch without lists is a JSON merge patch.
        #[test]
        fn maps_merge_alike_under_both_merge_patches(
            before in prop::collection::btree_map("[a-d]", "[a-z]{0,2}", 0..4),
            change in prop::collection::btree_map("[a-d]", prop::option::of("[a-z]{0,2}"), 0..4),
        ) {
            let doc = json!({"metadata": {"labels": before}, "spec": {"nodeSelector": before}});
            let patch = json!({"metadata": {"labels": change}, "spec": {"nodeSelector": change}});
            let (mut merged, mut strategically) = (doc.clone(), doc);
            merge(&mut merged, &patch);
            strategic(crate::schema::builtin(), "api.core.v1.Pod", &mut strategically, &patch).expect("applies");
            prop_assert_eq!(merged, strategically);
        }

        /// Whatever the order of a list, merging it in leaves each element once, with the patch's own order kept.
        #[test]
        fn merged_lists_keep_the_order_of_the_patch(
            before in prop::collection::btree_set("[a-f]", 0..6), patch in prop::collection::btree_set("[a-f]", 0..6),
            reversed in any::<bool>(),
        ) {
            let list = |names: &[String]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
            let before: Vec<String> = before.into_iter().collect();
            let mut patch: Vec<String> = patch.into_iter().collect();
            if reversed {
                patch.reverse();
            }
            let mut doc = json!({"spec": {"containers": list(&before)}});
            let change = json!({"spec": {"containers": list(&patch)}});
            strategic(crate::schema::builtin(), "api.core.v1.Pod", &mut doc, &change).expect("applies");
            let after: Vec<&str> =
                doc["spec"]["containers"].as_array().expect("list").iter().filter_map(|c| c["name"].as_str()).collect();
            let named: Vec<&str> = after.iter().copied().filter(|n| patch.iter().any(|p| p == n)).collect();
            prop_assert_eq!(named, patch.iter().map(String::as_str).collect::<Vec<_>>());
            let mut all: Vec<&str> = before.iter().chain(&patch).map(String::as_str).collect();
            all.sort_unstable();
            all.dedup();
            let mut sorted = after.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, all);
        }
    }

    #[test]
    fn merge_patches_remove_by_null() {
        let mut doc = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut doc, &json!({"a": {"b": null, "d": 3}, "l": [3]}));
        assert_eq!(doc, json!({"a": {"c": 2, "d": 3}, "l": [3]}));
    }
}
